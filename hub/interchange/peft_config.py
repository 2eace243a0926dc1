"""Typed configurations of peft 0.21, and the modules that they select."""

from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from adaptdock.hub.interchange.incoming_config import (
    Count,
    Covering,
    Ending,
    Expression,
    ForeignOptions,
    Index,
    Rate,
    Real,
    compiled,
    ends_with,
    under,
)
from adaptdock.hub.interchange.incoming_tensors import refuse

CHANGING = {
    "use_qalora": "it pools what goes into A by groups",
    "alora_invocation_tokens": "it acts only behind certain tokens",
    "layer_replication": "it repeats layers of the model",
    "target_parameters": "it acts on parameters that are no linear maps",
    "trainable_token_indices": "it replaces embeddings of single tokens",
    "use_bdlora": "its factors are stored as blocks",
    "arrow_config": "it routes each token among several adapters",
    "kasa_config": "it rotates the frozen weights",
    "velora_config": "it compresses activations",
    "monteclora_config": "its factors are drawn at random",
    "megatron_config": "its maps are divided among machines",
}
"""Options of LoRA that change the computation, with the reason."""
STARTS = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initializations of LoRA that also change the frozen weights."""
EVERY = "all-linear"
ANY_LAYER = r".*?\.[^.]*\.(?P<number>\d+)\."
"""The first number in a path."""


def _layer_pattern(name: str) -> str:
    """Return the expression for the numbers after a name."""
    return rf"(?:^|.*?\.){name}\.(?P<number>\d+)\."


def _checked_layers(name: str) -> str:
    compiled(_layer_pattern(name))
    return name


Layers = Annotated[str, AfterValidator(_checked_layers)]
"""A name or expression before the number of a layer."""


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

    def saves(self, module: str) -> bool:
        """Tell whether the weights of a module are saved in full, by the configuration or by peft's task type."""
        names = [*(self.modules_to_save or ()), *IMPLIED.get(self.task_type or "", ())]
        return any(under(name).match(module) for name in names)


IMPLIED = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}
"""Task type -> the modules that peft saves by default."""


class TunerOptions(PeftOptions):
    """Options of adapter types that act inside modules."""

    target_modules: list[str] | Expression | None = None
    exclude_modules: list[str] | Expression | None = None

    @property
    def every(self) -> bool:
        """Whether ``all-linear`` selects every linear map."""
        return isinstance(self.target_modules, str) and self.target_modules.lower() == EVERY

    def targets(self, module: str) -> bool:
        """Tell whether the tuner acts at the module with this path (``check_target_module_exists`` of peft)."""
        if self.exclude_modules and _named(self.exclude_modules, module):
            return False
        if any(under(name).match(module) for name in self.modules_to_save or ()):
            return False
        return self.every or (self.target_modules is not None and self._targeted(self.target_modules, module))

    def _targeted(self, targets: list[str] | str, module: str) -> bool:
        return _named(targets, module)


class LoraOptions(TunerOptions):
    """Options of LoRA and DoRA."""

    SILENT: ClassVar[frozenset[str]] = (
        PeftOptions.SILENT
        | CHANGING.keys()
        | {"corda_config", "ensure_weight_tying", "eva_config", "fan_in_fan_out", "loftq_config", "lora_ga_config"}
        | {"megatron_core", "qalora_group_size"}
    )

    r: Count = 8
    lora_alpha: Real = 8
    lora_dropout: Rate = 0.0
    use_rslora: bool | None = False
    use_dora: bool | None = False
    lora_bias: bool | None = False
    bias: str = Field("none", pattern="^(none|all|lora_only)$")
    init_lora_weights: bool | str | None = True
    rank_pattern: dict[Ending, Count] | None = None
    alpha_pattern: dict[Ending, Real] | None = None
    layers_to_transform: list[Index] | Index | None = None
    layers_pattern: list[Layers] | Layers | None = None

    def check_carried(self) -> None:
        """Raise :class:`UsageError` for an option that changes the computation in an unsupported way."""
        for option, why in CHANGING.items():
            if self.value(option):
                raise refuse(f"LoRA with {option}", why)
        start = self.init_lora_weights
        if isinstance(start, str) and start.lower().startswith(STARTS):
            raise refuse(
                f"LoRA that started as {start}",
                "peft changes the frozen weights when it loads one. Save it with "
                "path_initial_model_for_weight_conversion",
            )

    def rank(self, module: str) -> int:
        """Return the rank at a module."""
        return int(self._pattern(self.rank_pattern, module, self.r))

    def scale(self, module: str) -> float:
        """Return alpha / rank of a module, or alpha / sqrt(rank)."""
        rank = self.rank(module)
        alpha = self._pattern(self.alpha_pattern, module, self.lora_alpha)
        return float(alpha / (rank**0.5 if self.use_rslora else rank))

    @staticmethod
    def _pattern(pattern: dict[str, Any] | None, module: str, default: float) -> float:
        for name, value in (pattern or {}).items():
            if ends_with(name).match(module):
                return float(value)
        return default

    def _targeted(self, targets: list[str] | str, module: str) -> bool:
        if not _named(targets, module):
            return False
        wanted = self.layers_to_transform
        if isinstance(targets, str) or module in targets or wanted is None or wanted == []:
            return True
        number = self._layer(module)
        return number is not None and number in map(str, wanted if isinstance(wanted, list) else [wanted])

    def _layer(self, module: str) -> str | None:
        """Return the layer number in a path, or None."""
        names = [self.layers_pattern] if isinstance(self.layers_pattern, str) else self.layers_pattern
        expressions = [_layer_pattern(name) for name in names or () if name] or [ANY_LAYER]
        match = next(filter(None, (compiled(expression).match(module) for expression in expressions)), None)
        return None if match is None else match["number"]


class Ia3Options(TunerOptions):
    """Options of IA3."""

    SILENT: ClassVar[frozenset[str]] = PeftOptions.SILENT | {"fan_in_fan_out", "init_ia3_weights"}

    feedforward_modules: list[str] | Expression | None = None

    def enters(self, module: str) -> bool | None:
        """Tell whether the factors act on the input of a module; None if the configuration leaves it open."""
        names = self.feedforward_modules
        if isinstance(names, str):
            return compiled(names).fullmatch(module) is not None
        return None if names is None else any(module.endswith(name) for name in names)


class VirtualOptions(PeftOptions):
    """Options of prefix and prompt tuning."""

    SILENT: ClassVar[frozenset[str]] = (
        PeftOptions.SILENT
        | {"encoder_dropout", "encoder_hidden_size", "encoder_num_layers", "encoder_reparameterization_type"}
        | {"init_weights", "prefix_projection", "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_kwargs"}
        | {"tokenizer_name_or_path"}
    )

    num_virtual_tokens: Count
    token_dim: Count | None = None
    num_transformer_submodules: Count | None = None
    num_attention_heads: Count | None = None
    num_layers: Count | None = None


def _named(names: list[str] | str, module: str) -> bool:
    """Tell whether an expression matches a whole path, or one of several names the end of the path."""
    if isinstance(names, str):
        return compiled(names).fullmatch(module) is not None
    return module in names or any(module.endswith(f".{name}") for name in names)
