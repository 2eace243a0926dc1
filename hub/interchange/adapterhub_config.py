"""Typed configurations of adapters 1.3 (AdapterHub): of a folder, of each method, and of a head."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from adaptdock.hub.interchange.incoming_config import Count, ForeignOptions, Index, Rate, Real
from adaptdock.hub.interchange.incoming_tensors import refuse

RENAMED = {"gelu": "gelu_new", "gelu_orig": "gelu"}
"""Activation functions of configurations without a version, under their former names."""
Reduction = Annotated[float, Field(gt=0, le=1e6)]
"""The hidden size divided by the width of the bottleneck; below 1 the bottleneck is wider."""
DEEPEST = 8
"""Largest depth of nested unions."""


class FolderOptions(ForeignOptions):
    """The fields of a configuration file besides the method or the head."""

    SILENT: ClassVar[frozenset[str]] = frozenset({"library_name", "type", "config_id"})

    config: dict[str, Any]
    hidden_size: Count | None = None
    model_class: str | None = None
    model_name: str | None = None
    model_type: str | None = None
    name: str | None = None
    version: str | None = None


class MethodOptions(ForeignOptions):
    """Options common to several methods."""

    SILENT: ClassVar[frozenset[str]] = frozenset({"architecture", "init_weights", "init_weights_seed", "dtype"})
    ACTIVE: ClassVar[Mapping[str, str]] = {}
    """Options that change the computation in an unsupported way, with the reason."""

    leave_out: list[Index] | None = None
    dropout: Rate = 0.0
    use_gating: bool | None = False

    @property
    def unknown(self) -> list[str]:
        """Names of options that are neither read, nor refused, nor known to change nothing."""
        return [name for name in super().unknown if name not in self.ACTIVE]

    def check_carried(self, what: str) -> None:
        """Raise :class:`UsageError` for an option that changes the computation in an unsupported way."""
        if self.use_gating:
            raise refuse("gating", "its gate is a mean over all positions of a batch, padding included")
        for option, why in self.ACTIVE.items():
            if self.value(option):
                raise refuse(f"{what} with {option}", why)


class BottleneckOptions(MethodOptions):
    """Options of a bottleneck."""

    SILENT: ClassVar[frozenset[str]] = (
        MethodOptions.SILENT
        | {"adapter_residual_before_ln", "factorized_phm_W", "factorized_phm_rule", "hypercomplex_nonlinearity"}
        | {"inv_adapter_reduction_factor", "learn_phm", "phm_bias", "phm_c_init", "phm_dim", "phm_init_range"}
        | {"phm_rank", "shared_W_phm", "shared_phm_rule", "stochastic_depth"}
        | {"attention_type", "new_attention_norm"}  # of the first release, for what ln_before and ln_after say
    )
    ACTIVE: ClassVar[Mapping[str, str]] = {
        "phm_layer": "a compacter's maps are sums of Kronecker products, and adaptdock has no such method",
        "inv_adapter": "invertible adapters act on the embeddings, and adaptdock has no such method",
        "invertible_adapter": "invertible adapters act on the embeddings, and adaptdock has no such method",
        "ln_before": "it has its own layer norm before the bottleneck",
        "ln_after": "it has its own layer norm after the bottleneck",
    }

    mh_adapter: bool
    output_adapter: bool
    cross_adapter: bool = False
    reduction_factor: Reduction | dict[str, Reduction]
    non_linearity: str | None
    scaling: Real | Literal["learned", "channel"] = 1.0
    is_parallel: bool = False
    original_ln_before: bool = False
    original_ln_after: bool = True
    residual_before_ln: bool | Literal["post_add"] = True

    def width(self, layer: int, hidden: int) -> int | None:
        """Return the width in a layer; None if the configuration has no value for the layer."""
        factor = self.reduction_factor
        if isinstance(factor, dict):
            factor = factor.get(str(layer), factor.get("default", 0.0))
        return max(int(hidden // factor), 1) if factor else None


class PrefixOptions(MethodOptions):
    """Options of prefix tuning."""

    SILENT: ClassVar[frozenset[str]] = MethodOptions.SILENT | {"shared_gating"}

    encoder_prefix: bool = True
    cross_prefix: bool = True
    flat: bool = False
    prefix_length: Count = 30
    bottleneck_size: Count = 512
    non_linearity: str | None = "tanh"


class LoraOptions(MethodOptions):
    """Options of LoRA, DoRA and IA3."""

    ACTIVE: ClassVar[Mapping[str, str]] = {}

    selfattn_lora: bool = True
    intermediate_lora: bool = False
    output_lora: bool = False
    attn_matrices: list[Literal["q", "k", "v", "o"]] = ["q", "v"]
    composition_mode: Literal["add", "scale"] = "add"
    r: Count
    alpha: Real
    use_dora: bool | None = False
    vera_d: Real | None = None
    vera_b: Real | None = None


METHODS: Mapping[str | None, type[MethodOptions]] = {
    None: BottleneckOptions,
    "prefix_tuning": PrefixOptions,
    "lora": LoraOptions,
}
REFUSED = {
    "prompt_tuning": "its embeddings enter behind the layer norm of the embeddings, ours before it",
    "reft": "adaptdock has no such method",
    "mtl_lora": "adaptdock has no such method",
}


def read_methods(folder: FolderOptions, path: Path) -> list[MethodOptions]:
    """Return the options of each method in a configuration; a union has several methods."""
    return [_method(config, folder, path, place) for config, place in _single(folder.config, path, ("config",))]


def _method(config: Mapping[str, Any], folder: FolderOptions, path: Path, place: tuple[str, ...]) -> MethodOptions:
    kind = config.get("architecture")
    if kind is not None and not isinstance(kind, str):
        raise refuse(f"the architecture {kind!r}", "it is not the name of a method")
    if kind not in METHODS:
        raise refuse(f"the architecture {kind}", REFUSED.get(str(kind), "it is not known here"))
    function = config.get("non_linearity")
    if folder.version is None and isinstance(function, str):
        config = {**config, "non_linearity": RENAMED.get(function, function)}
    return METHODS[kind].parse(config, path, *place)


def _single(
    config: Mapping[str, Any], path: Path, place: tuple[str, ...]
) -> Iterator[tuple[Mapping[str, Any], tuple[str, ...]]]:
    if config.get("architecture") != "union":
        yield config, place
        return
    union = UnionOptions.parse(config, path, *place)
    if len(place) > DEEPEST:
        raise refuse("this union", f"it has more than {DEEPEST} unions inside one another")
    for number, member in enumerate(union.configs):
        yield from _single(member, path, (*place, f"configs[{number}]"))


class UnionOptions(ForeignOptions):
    """Several methods in one adapter, with the options of each."""

    configs: list[dict[str, Any]] = Field(min_length=1)


class HeadOptions(ForeignOptions):
    """Options of a prediction head."""

    SILENT: ClassVar[frozenset[str]] = frozenset({"dropout_prob", "shift_labels"})

    head_type: str
    num_labels: Count | None = None
    layers: Count | None = None
    activation_function: str | None = None
    label2id: dict[str, Index] | None = None
    use_pooler: bool | None = False
    bias: bool | None = None
    vocab_size: Count | None = None
    embedding_size: Count | None = None
    layer_norm: bool | None = False
