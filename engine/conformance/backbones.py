"""The checks of a backbone family: it loads, its ports are open, its forward pass is sound, adapters work on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from adaptdock.engine.conformance.bench import TOLERANCE
from adaptdock.engine.conformance.check import Check, NotAsked, expect
from adaptdock.engine.conformance.methods import EVERYWHERE, Trial, acts_somewhere
from adaptdock.engine.conformance.models import ON_CPU, POSITIONS, tiny_model
from adaptdock.engine.core.batches import collate, reading
from adaptdock.errors import BackboneError
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, BackboneFamily, Batch
from adaptdock.plugins.toolkit.windowing import windows

TEXTS = ("ada met bob in oslo", "rain", "a quick brown fox jumps over the fence")
NO_MODEL = "a model that nobody has"


def backbone_checks(name: str, model: str | None) -> list[Check]:
    """Return the checks of a family that loads ``model``, or a tiny model of transformers if it takes that."""
    loaded = Loaded(name, model)
    acts = {
        "the model is accepted, and loads": lambda: loaded.backbone,
        "what it declares of itself is complete": loaded.declared,
        "a name that is not there is refused with the reason": loaded.refuses,
        "its weights are frozen, its model is in evaluation": loaded.frozen,
        "it gives a hidden state for every position, finite": loaded.forward,
        "a row in a batch is what it is alone": loaded.rows,
        "its ports have names of their own, and lead to modules": loaded.ports,
        "weight and bias of a linear port are those that act": loaded.linear,
        "its fingerprint is the same when it is loaded again": loaded.fingerprint,
    }
    checks = [Check(title, act) for title, act in acts.items()]
    method = registry.DEFAULT_METHOD
    trial = Trial(method, f"with {method}", lambda: loaded.backbone, EVERYWHERE)
    return [*checks, Check(f"the method {method} acts on it", partial(acts_somewhere, [trial])), *trial.checks()]


@dataclass
class Loaded:
    """A family and what it loads, which happens when the first check asks for it."""

    family: str
    model: str | None

    @cached_property
    def backbone(self) -> Backbone:
        """The backbone; raises :class:`BackboneError` where the family does not take the model."""
        return self._load()

    def _load(self) -> Backbone:
        family: BackboneFamily = registry.load("backbone", self.family)()
        name = self.model or str(tiny_model("encoder"))
        if not family.accepts(name):
            hint = "" if self.model else "; name one that it takes (adapt plugin check --model)"
            raise BackboneError(f"the family does not accept {name}{hint}")
        return family.load(name, ON_CPU)

    def declared(self) -> None:
        """Check the attributes that a backbone has to have."""
        mine = self.backbone
        for name in ("id", "architecture", "fingerprint"):
            value = getattr(mine, name, None)
            expect(isinstance(value, str) and value, f"{name} has to be a text, found {value!r}")
        for name in ("width", "max_length"):
            value = getattr(mine, name, None)
            expect(isinstance(value, int) and value > 0, f"{name} has to be a positive number, found {value!r}")
        for name in ("revision", "model", "tokenizer", "ports", "causal"):
            expect(hasattr(mine, name), f"the attribute {name} is missing")
        expect(mine.dtype == torch.float32, f"it was to be loaded in float32, and says {mine.dtype}")
        expect(mine.device.type == "cpu", f"it was to be loaded on the CPU, and says {mine.device}")

    def refuses(self) -> None:
        """Check that a model that is not there is no crash."""
        family: BackboneFamily = registry.load("backbone", self.family)()
        if not family.accepts(NO_MODEL):
            return
        try:
            family.load(NO_MODEL, ON_CPU)
        except BackboneError:
            return
        expect(False, f"it accepts and loads {NO_MODEL!r}")

    def frozen(self) -> None:
        """Check that nothing of the model is trained or drops."""
        model = self.backbone.model
        expect(not any(weight.requires_grad for weight in model.parameters()), "some weights have gradients")
        expect(not any(module.training for module in model.modules()), "some modules are in training")

    def forward(self) -> None:
        """Check shape and content of the hidden states."""
        given = self._inputs(TEXTS)
        found = self._states(TEXTS)
        expected = (*given["input_ids"].shape, self.backbone.width)
        expect(
            tuple(found.shape) == expected, f"forward gives {tuple(found.shape)}; rows, positions, width are {expected}"
        )
        expect(found.isfinite().all(), "some hidden states are not finite")

    def rows(self) -> None:
        """Check that padding and neighbours change nothing."""
        mask = self._inputs(TEXTS)["attention_mask"].bool()
        for text, states, kept in zip(TEXTS, self._states(TEXTS), mask, strict=True):
            largest = float((states[kept] - self._states([text])[0]).abs().max())
            expect(largest <= TOLERANCE, f"the row {text!r} differs by {largest:.2g}; is padding masked?")

    def ports(self) -> None:
        """Check that each port is a place."""
        mine = self.backbone
        expect(len(mine.ports), "it has no port, so no method can act")
        names = [port.name for port in mine.ports]
        expect(len(set(names)) == len(names), "two ports have one name")
        for port in mine.ports:
            mine.placement(port)
            if port.kind in ("linear", "hidden"):
                mine.model.get_submodule(port.module)

    def linear(self) -> None:
        """Compare what a linear map makes of its input with what its weight and bias make of it."""
        mine, seen = self.backbone, 0
        for port in (port for port in mine.ports if port.kind == "linear"):
            found: list[tuple[Tensor, Tensor]] = []
            handle = mine.model.get_submodule(port.module).register_forward_hook(
                lambda module, given, out, kept=found: kept.append((given[0], out))
            )
            try:
                self._states(TEXTS)
                weight, bias = mine.weight(port), mine.bias(port)
            finally:
                handle.remove()
            sizes = (port.outputs, port.inputs)
            expect(tuple(weight.shape) == sizes, f"{port.name}: the weight is {tuple(weight.shape)}, the port {sizes}")
            for given, out in found:
                largest = float((given @ weight.T + bias - out).abs().max())
                expect(largest <= 10 * TOLERANCE, f"{port.name}: weight and bias give something else ({largest:.2g})")
                seen += 1
        if not seen:
            raise NotAsked("no linear port was passed")

    def fingerprint(self) -> None:
        """Load a second time."""
        found, first = self._load().fingerprint, self.backbone.fingerprint
        expect(found == first, f"it was {first}, and is {found}")

    def _inputs(self, texts: Sequence[str]) -> dict[str, Tensor]:
        how = reading(self.backbone, POSITIONS, 0)
        return collate(self.backbone, [windows(text, None, how)[0] for text in texts])

    @torch.inference_mode()
    def _states(self, texts: Sequence[str]) -> Tensor:
        return self.backbone.forward(Batch(self._inputs(texts)))
