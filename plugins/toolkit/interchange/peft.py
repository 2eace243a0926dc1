"""Adapters in the format of PEFT 0.21: typed configurations, selected modules, and what a method reads and writes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from adaptdock.plugins.backbones import Backbone
from adaptdock.plugins.ports import Port
from adaptdock.plugins.toolkit.interchange.options import Count, Covering, Expression, ForeignOptions, compiled, under
from adaptdock.plugins.toolkit.interchange.ports import Finder, config_of, ends
from adaptdock.plugins.toolkit.interchange.tensors import ForeignTensors, Named, contradiction, refuse

if TYPE_CHECKING:
    from torch import Tensor, nn

EVERY = "all-linear"
LINEAR = ("Linear", "Conv1D", "Embedding", "Conv2d", "Conv1d")
"""Class names of the modules that a name in ``target_modules`` can select."""
LONGEST = 120
"""Largest number of characters of a value in a message."""
IMPLIED = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}
"""Task type -> the modules that PEFT saves by default."""


# ------------------------------------------------------------------------------------ configurations


class AutoMapping(ForeignOptions):
    """The class of the base model, for an adapter without a task type."""

    base_model_class: str | None = None
    parent_library: str | None = None


class PeftOptions(ForeignOptions):
    """Options of all adapter types."""

    SILENT: ClassVar[frozenset[str]] = frozenset({"inference_mode", "runtime_config"})

    peft_type: str
    task_type: str | None = None
    auto_mapping: AutoMapping | None = None
    base_model_name_or_path: str | None = None
    peft_version: str | None = None
    revision: str | None = None
    modules_to_save: list[Covering] | None = None


class TunerOptions(PeftOptions):
    """Options of adapter types that act inside modules."""

    target_modules: list[str] | Expression | None = None
    exclude_modules: list[str] | Expression | None = None

    @property
    def every(self) -> bool:
        """Whether ``all-linear`` selects every linear map."""
        return isinstance(self.target_modules, str) and self.target_modules.lower() == EVERY

    def targets(self, module: str) -> bool:
        """Return whether the tuner acts at the module with this path (``check_target_module_exists`` of PEFT)."""
        if self.exclude_modules and selects(self.exclude_modules, module):
            return False
        if any(under(name).match(module) for name in self.modules_to_save or ()):
            return False
        return self.every or (self.target_modules is not None and self._targeted(self.target_modules, module))

    def _targeted(self, targets: list[str] | str, module: str) -> bool:
        return selects(targets, module)


class VirtualOptions(PeftOptions):
    """Options of prefix and prompt tuning."""

    SILENT: ClassVar[frozenset[str]] = (
        PeftOptions.SILENT
        | {"encoder_dropout", "encoder_hidden_size", "encoder_num_layers", "encoder_reparameterization_type"}
        | {"init_weights", "prefix_projection", "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_kwargs"}
        | {"tokenizer_name_or_path", "num_frozen_tokens"}
        | {"cpt_token_ids", "cpt_mask", "cpt_tokens_type_mask", "opt_weighted_loss_type", "opt_loss_decay_factor"}
        | {"opt_projection_epsilon", "opt_projection_format_epsilon"}
        | {"prompt_tuning_init_state_dict_path", "prompt_tuning_init_task", "num_ranks"}
    )

    num_virtual_tokens: Count
    token_dim: Count | None = None
    num_transformer_submodules: Count | None = None
    num_attention_heads: Count | None = None
    num_layers: Count | None = None
    num_tasks: Count | None = None


def selects(names: list[str] | str, module: str) -> bool:
    """Return whether an expression matches a whole path, or one of several names the end of the path."""
    if isinstance(names, str):
        return compiled(names).fullmatch(module) is not None
    return module in names or any(module.endswith(f".{name}") for name in names)


# -------------------------------------------------------------------------------------------- import

Change = Callable[["Tensor", "Tensor"], "tuple[Tensor, Tensor]"]
"""A change of weight (outputs, inputs) and bias (outputs) of a linear map."""
Foreign = TypeVar("Foreign", bound=PeftOptions, covariant=True)


@dataclass(frozen=True)
class PeftSource(Generic[Foreign]):
    """An adapter of PEFT that a method reads.

    ``tensors`` are named by the paths in the base model. ``in_head`` tells whether a module belongs to the head.
    """

    options: Foreign
    tensors: ForeignTensors
    backbone: Backbone
    in_head: Callable[[str], bool]
    notes: list[str] = field(default_factory=list)
    """Notes for the user."""
    changes: dict[str, Change] = field(default_factory=dict)
    """Module of the head -> the tuner's change; a change that no head takes is refused."""


def place(source: PeftSource[TunerOptions], modules: Iterable[str], finder: Finder) -> dict[str, Port | None]:
    """Return the port of each tuned module, None for modules of a head.

    Raises :class:`UsageError` for any other module, and if configuration and tensors have different places.
    """
    options, backbone, path = source.options, source.backbone, source.tensors.path
    ports = {module: finder.port(module) for module in modules}
    for module, port in ports.items():
        if port is None and not source.in_head(module):
            raise refuse(
                f"{finder.owner} at {module}", f"{backbone.architecture!r} has no port there that an adapter can act at"
            )
    if not any(ports.values()):
        raise refuse(f"this {finder.owner}", "it has no tensors at any linear map of the backbone")
    if options.target_modules is None:
        source.notes.append("the configuration names no target_modules; the adapter acts where its tensors are")
        return ports
    surplus = next((module for module in ports if not options.targets(module)), None)
    if surplus is not None:
        raise contradiction(path, "target_modules", shortened(options.target_modules), surplus, "lies elsewhere")
    reached = set(ports.values())
    for port in backbone.ports:
        module = f"{finder.front}{port.module}"
        if port.kind == "linear" and port not in reached and options.targets(module):
            raise contradiction(path, "target_modules", shortened(options.target_modules), module, "is missing")
    return ports


def shortened(value: object) -> str:
    """Return a value for a message."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


# -------------------------------------------------------------------------------------------- export


@dataclass(frozen=True)
class HeadUpdate:
    """A change of a linear map in the head, for a base map without a bias: weight (classes, inputs), bias (classes)."""

    weight: "Tensor"
    bias: "Tensor"


@dataclass(frozen=True)
class PeftTarget:
    """The base model that PEFT wraps, for a method to export.

    ``skeleton`` is that model without weights, ``front`` the prefix of the backbone's paths in it. ``tensors`` are the
    method's parameters by port name.
    """

    backbone: Backbone
    tensors: Mapping[str, Named]
    task_type: str
    skeleton: "nn.Module"
    front: str = ""
    updates: dict[str, HeadUpdate] = field(default_factory=dict)
    """Module of the head -> its update. A method that can store updates removes them; the others are refused."""

    def port(self, name: str) -> Port:
        """Return the port with this name."""
        return next(port for port in self.backbone.ports if port.name == name)

    def path(self, port: Port) -> str:
        """Return the path of a port's module in the model that PEFT wraps."""
        return f"{self.front}{port.module}"

    def is_conv(self, path: str) -> bool:
        """Return whether a module stores its weight as (inputs, outputs)."""
        return type(self.skeleton.get_submodule(path)).__name__ == "Conv1D"

    def has_bias(self, path: str) -> bool:
        """Return whether a module has a bias."""
        return getattr(self.skeleton.get_submodule(path), "bias", None) is not None

    def target_modules(self, paths: Sequence[str]) -> list[str]:
        """Return the shortest names that select exactly these linear maps of the model, or else their full paths."""
        modules = self.skeleton.named_modules()
        linear_paths = [path for path, module in modules if type(module).__name__ in LINEAR]
        wanted = set(paths)
        for parts in (1, 2):
            names = {".".join(path.split(".")[-parts:]) for path in paths}
            if {path for path in linear_paths if any(ends(path, name) for name in names)} == wanted:
                return sorted(names)
        return sorted(wanted)

    def sizes(self) -> dict[str, Any]:
        """Return the numbers of layers and heads for the configuration of a prompt or prefix."""
        config = config_of(self.backbone)
        return {
            "num_layers": getattr(config, "num_hidden_layers", self.layers),
            "num_attention_heads": getattr(config, "num_attention_heads", 1),
        }

    @property
    def layers(self) -> int:
        """The number of attention layers."""
        return len({(port.stack, port.layer) for port in self.backbone.ports if port.kind == "attention"})


@dataclass(frozen=True)
class PeftAdapter:
    """A method in the format of PEFT: configuration, and tensors by the paths in the base model.

    ``prompt_learning`` is PEFT's term for adapters that change the input and wrap no modules. ``shared`` tensors
    belong to no module, and have their full names.
    """

    config: dict[str, Any]
    tensors: Named
    prompt_learning: bool = False
    shared: Named = field(default_factory=dict)


def whole_number(number: float) -> float:
    """Return a float without a fraction as an integer, as configurations have it."""
    return int(number) if float(number).is_integer() else number
