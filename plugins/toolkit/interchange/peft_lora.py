"""PEFT's configuration of LoRA: its options, and rank and scale of each module."""

from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from adaptdock.plugins.toolkit.interchange.options import Count, Ending, Index, Rate, Real, compiled, ends_with
from adaptdock.plugins.toolkit.interchange.peft import PeftOptions, TunerOptions, selects
from adaptdock.plugins.toolkit.interchange.tensors import refuse

CHANGING = {
    "use_qalora": "it pools what goes into A by groups",
    "layer_replication": "it repeats layers of the model",
    "target_parameters": "it acts on parameters that are not linear maps",
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


class LayerOptions(TunerOptions):
    """Options of types that can act in selected layers."""

    layers_to_transform: list[Index] | Index | None = None
    layers_pattern: list[Layers] | Layers | None = None

    def _targeted(self, targets: list[str] | str, module: str) -> bool:
        if not selects(targets, module):
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


class PatternOptions(LayerOptions):
    """Options of types with a rank and an alpha that can differ by module."""

    r: Count = 8
    rank_pattern: dict[Ending, Count] | None = None
    alpha_pattern: dict[Ending, Real] | None = None

    @property
    def common_alpha(self) -> float:
        """Alpha of the modules without one of their own."""
        raise NotImplementedError

    def rank(self, module: str) -> int:
        """Return the rank at a module."""
        return int(self._pattern(self.rank_pattern, module, self.r))

    def alpha_at(self, module: str) -> float:
        """Return alpha at a module."""
        return self._pattern(self.alpha_pattern, module, self.common_alpha)

    @staticmethod
    def _pattern(pattern: dict[str, Any] | None, module: str, default: float) -> float:
        for name, value in (pattern or {}).items():
            if ends_with(name).match(module):
                return float(value)
        return default


class LoraOptions(PatternOptions):
    """Options of LoRA and DoRA."""

    SILENT: ClassVar[frozenset[str]] = (
        PeftOptions.SILENT
        | CHANGING.keys()
        | {"corda_config", "ensure_weight_tying", "eva_config", "fan_in_fan_out", "loftq_config", "lora_ga_config"}
        | {"megatron_core", "qalora_group_size"}
    )

    lora_alpha: Real = 8
    lora_dropout: Rate = 0.0
    use_rslora: bool | None = False
    use_dora: bool | None = False
    lora_bias: bool | None = False
    bias: str = Field("none", pattern="^(none|all|lora_only)$")
    init_lora_weights: bool | str | None = True
    alora_invocation_tokens: list[Index] | None = None

    @property
    def common_alpha(self) -> float:
        """Alpha of the modules without one of their own."""
        return self.lora_alpha

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

    def scale(self, module: str) -> float:
        """Return alpha / rank of a module, or alpha / sqrt(rank)."""
        rank = self.rank(module)
        return float(self.alpha_at(module) / (rank**0.5 if self.use_rslora else rank))
