"""PEFT's configuration of LoHa and LoKr, and the tensors of types that keep some at each adapted layer."""

import re
from collections.abc import Mapping
from typing import ClassVar

from adaptdock.plugins.ports import Port
from adaptdock.plugins.toolkit.interchange.options import Rate, Real
from adaptdock.plugins.toolkit.interchange.peft import (
    PeftAdapter,
    PeftOptions,
    PeftSource,
    PeftTarget,
    TunerOptions,
    place,
)
from adaptdock.plugins.toolkit.interchange.peft_lora import PatternOptions
from adaptdock.plugins.toolkit.interchange.ports import Finder
from adaptdock.plugins.toolkit.interchange.tensors import ModuleTensors, Named, refuse


class ProductOptions(PatternOptions):
    """Options of LoHa and LoKr; the dropouts act in training only."""

    SILENT: ClassVar[frozenset[str]] = PeftOptions.SILENT | {
        *("module_dropout", "rank_dropout_scale", "init_weights", "use_effective_conv2d"),
    }

    alpha: Real = 8
    rank_dropout: Rate = 0.0
    decompose_both: bool = False
    decompose_factor: int = -1

    def scale(self, module: str) -> float:
        """Return alpha / rank of a module."""
        return self.alpha_at(module) / self.rank(module)

    @property
    def common_alpha(self) -> float:
        """Alpha of the modules without one of their own."""
        return self.alpha


def read_places(source: PeftSource[TunerOptions], prefix: str, owner: str) -> dict[Port, ModuleTensors]:
    """Return the tensors at each port; raise :class:`UsageError` for tensors at a head or at another place."""
    finder = Finder(source.backbone.ports, owner)
    pattern = re.compile(rf"(?P<module>.+)\.(?P<part>{prefix}\w+)")
    modules = source.tensors.modules(pattern)
    placed: dict[Port, ModuleTensors] = {}
    for module, port in place(source, modules, finder).items():
        if port is None:
            raise refuse(f"{owner} at {module}", "it is in the head, where the method does not act")
        placed[port] = modules[module]
    return placed


def write_places(
    target: PeftTarget, kind: str, parts: Mapping[str, str], values: Mapping[str, object], convolutions: bool = False
) -> PeftAdapter:
    """Write the parameters at each port under PEFT's names; ``parts`` maps ours to theirs.

    ``convolutions``: whether PEFT has this type at layers that store (inputs, outputs), too.
    """
    stored: Named = {}
    paths: list[str] = []
    for name, parameters in target.tensors.items():
        path = target.path(target.port(name))
        if target.is_conv(path) and not convolutions:
            raise refuse(f"{kind} at {path}", "peft has it at linear layers that store (outputs, inputs) only")
        paths.append(path)
        stored |= {f"{path}.{parts[part]}": tensor for part, tensor in parameters.items()}
    return PeftAdapter({"peft_type": kind, "target_modules": target.target_modules(paths), **values}, stored)
