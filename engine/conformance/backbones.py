"""The checks of a backbone family: it loads, its ports are open, its forward pass is sound, adapters work on it."""

from collections.abc import Mapping
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
    """Return the checks of a family with ``model``, or with a tiny model of transformers if the family accepts it."""
    loaded = Loaded(name, model)
    acts = {
        "the model is accepted, and loads": lambda: loaded.backbone,
        "what it declares of itself is complete": loaded.declared,
        "a name that is not there is refused with the reason": loaded.refuses,
        "its weights are frozen, its model is in evaluation": loaded.frozen,
        "it gives a hidden state for every position, finite": loaded.forward,
        "a row in a batch is what it is alone": loaded.rows,
        "its ports have names of their own, and lead to modules": loaded.ports,
        "weight and bias of a linear port give its output": loaded.linear,
        "its fingerprint is the same when it is loaded again": loaded.fingerprint,
    }
    checks = [Check(title, act) for title, act in acts.items()]
    method = registry.DEFAULT_METHOD
    trial = Trial(method, f"with {method}", lambda: loaded.backbone, EVERYWHERE)
    return [*checks, Check(f"the method {method} acts on it", partial(acts_somewhere, [trial])), *trial.checks()]


@dataclass
class Loaded:
    """A family and its backbone, which is loaded at the first check."""

    family: str
    model: str | None

    @cached_property
    def backbone(self) -> Backbone:
        """The backbone; raises :class:`BackboneError` if the family does not accept the model."""
        return self._load()

    def _load(self) -> Backbone:
        family: BackboneFamily = registry.load("backbone", self.family)()
        name = self.model or str(tiny_model("encoder"))
        if not family.accepts(name):
            hint = "" if self.model else "; name a model that it accepts (adapt plugin check --model)"
            raise BackboneError(f"the family does not accept {name}{hint}")
        return family.load(name, ON_CPU)

    def declared(self) -> None:
        """Check the required attributes of a backbone."""
        backbone = self.backbone
        for name in ("id", "architecture", "fingerprint"):
            value = getattr(backbone, name, None)
            expect(isinstance(value, str) and value, f"{name} has to be a text, found {value!r}")
        for name in ("width", "max_length"):
            value = getattr(backbone, name, None)
            expect(isinstance(value, int) and value > 0, f"{name} has to be a positive number, found {value!r}")
        for name in ("revision", "model", "tokenizer", "ports", "causal"):
            expect(hasattr(backbone, name), f"the attribute {name} is missing")
        expect(backbone.dtype == torch.float32, f"it should be loaded in float32, but its dtype is {backbone.dtype}")
        expect(backbone.device.type == "cpu", f"it should be loaded on the CPU, but its device is {backbone.device}")

    def refuses(self) -> None:
        """Check that a missing model ends in a :class:`BackboneError`."""
        family: BackboneFamily = registry.load("backbone", self.family)()
        if not family.accepts(NO_MODEL):
            return
        try:
            family.load(NO_MODEL, ON_CPU)
        except BackboneError:
            return
        expect(False, f"it accepts and loads {NO_MODEL!r}")

    def frozen(self) -> None:
        """Check that no weight has gradients and no module is in training mode."""
        model = self.backbone.model
        expect(not any(weight.requires_grad for weight in model.parameters()), "some weights have gradients")
        expect(not any(module.training for module in model.modules()), "some modules are in training")

    def forward(self) -> None:
        """Check that the hidden states have the shape (R, T, W) and are finite."""
        inputs = self._inputs()
        states = self._states(inputs)
        expected = (*inputs["attention_mask"].shape, self.backbone.width)
        expect(
            tuple(states.shape) == expected,
            f"forward gives {tuple(states.shape)}; rows, positions, width are {expected}",
        )
        expect(states.isfinite().all(), "some hidden states are not finite")

    def rows(self) -> None:
        """Compare each row of a padded batch with the same row alone."""
        inputs = self._inputs()
        mask = inputs["attention_mask"].bool()
        for row, (states, visible) in enumerate(zip(self._states(inputs), mask, strict=True)):
            alone = self._states(self._inputs(row))[0]
            largest = float((states[visible] - alone[visible[: len(alone)]]).abs().max())
            expect(largest <= TOLERANCE, f"row {row} differs by {largest:.2g}; is padding masked?")

    def ports(self) -> None:
        """Check that port names are unique, and that each port has a device and leads to a module."""
        backbone = self.backbone
        expect(len(backbone.ports), "it has no port, so no method can act")
        names = [port.name for port in backbone.ports]
        expect(len(set(names)) == len(names), "two ports have one name")
        for port in backbone.ports:
            backbone.placement(port)
            if port.kind in ("linear", "hidden", "logits"):
                backbone.module(port)

    def linear(self) -> None:
        """Compare the output of each linear map with the product of its input, weight and bias."""
        backbone, compared = self.backbone, 0
        for port in (port for port in backbone.ports if port.kind == "linear"):
            calls: list[tuple[Tensor, Tensor]] = []
            handle = backbone.model.get_submodule(port.module).register_forward_hook(
                lambda module, args, out, record=calls: record.append((args[0], out))
            )
            try:
                self._states(self._inputs())
                weight, bias = backbone.weight(port), backbone.bias(port)
            finally:
                handle.remove()
            sizes = (port.outputs, port.inputs)
            expect(tuple(weight.shape) == sizes, f"{port.name}: the weight is {tuple(weight.shape)}, the port {sizes}")
            for x, out in calls:
                largest = float((x @ weight.T + bias - out).abs().max())
                expect(largest <= 10 * TOLERANCE, f"{port.name}: weight and bias give another output, by {largest:.2g}")
                compared += 1
        if not compared:
            raise NotAsked("no linear port was passed")

    def fingerprint(self) -> None:
        """Compare the fingerprint of a second load with the first."""
        second, first = self._load().fingerprint, self.backbone.fingerprint
        expect(second == first, f"it was {first}, and is {second} when loaded again")

    def _inputs(self, row: int | None = None) -> dict[str, Tensor]:
        """Return the inputs of a batch of several lengths, or of one of its rows alone, without padding.

        A backbone that reads no texts has the rows of its trial.
        """
        rows = slice(None) if row is None else slice(row, row + 1)
        if self.backbone.tokenizer is None:
            return {name: tensor[rows] for name, tensor in self.backbone.trial_inputs().items()}
        window_reading = reading(self.backbone, POSITIONS, 0)
        return collate(self.backbone, [windows(text, None, window_reading)[0] for text in TEXTS[rows]])

    @torch.inference_mode()
    def _states(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.backbone.forward(Batch(inputs))
