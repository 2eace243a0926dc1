"""The checks of a method's optional abilities: merging into maps, a penalty in the loss, a hook after steps."""

import torch
from torch import Tensor
from torch.nn import functional

from adaptdock.engine.conformance.bench import SLACK, Bench
from adaptdock.engine.conformance.check import NotAsked, expect
from adaptdock.engine.core.assembly import Part
from adaptdock.engine.core.open_ports import OpenPorts
from adaptdock.engine.training.members.trainable import TaskStart, Trainable
from adaptdock.hub.artefact.card import PluginEntry
from adaptdock.plugins.contracts import ForwardPass, Mergeable, Penalised, Site, Stepped

POSITIONS, STEPS = 5, 4


def merged(bench: Bench, methods: list[PluginEntry]) -> None:
    """Compare each merged linear map with the map and the method at its port."""
    parts = [part for part in bench.assembly(methods).parts if isinstance(part.method, Mergeable)]
    if not parts:
        raise NotAsked("it has no function merge")
    tensors = bench.adapter(methods, "tried").tensors
    for part in parts:
        folded = part.folded(tensors, bench.backbone)
        for site in part.sites:
            if site.port.kind == "linear":
                _compare(bench, part, site, folded[site.port.name])


def _compare(bench: Bench, part: Part, site: Site, folded: dict[str, Tensor]) -> None:
    method, port = part.method, site.port
    assert isinstance(method, Mergeable)
    weight, bias = bench.backbone.weight(port), bench.backbone.bias(port)
    x = torch.randn(1, POSITIONS, port.inputs, generator=torch.Generator().manual_seed(0))
    rows = {name: tensor.unsqueeze(0) for name, tensor in folded.items()}
    forward_pass = ForwardPass.of(torch.ones(1, POSITIONS, dtype=torch.long))
    if site.side == "input":
        acting = functional.linear(method.enter(rows, x, forward_pass), weight, bias)
    else:
        acting = method.transform(rows, x, functional.linear(x, weight, bias), forward_pass)
    together = functional.linear(x, *method.merge(site, folded, weight, bias))
    largest = float((acting - together).abs().max())
    limit = SLACK * max(1.0, float(acting.abs().max()))
    expect(largest <= limit, f"at {port.name} the merged map differs by {largest:.2g} from map and adapter")


def penalised(bench: Bench, methods: list[PluginEntry]) -> None:
    """Check that the penalty is one finite number with gradients."""
    model = _trainable(bench, methods, Penalised, "penalty")
    penalty = model.acting[0].penalty()
    assert penalty is not None
    expect(penalty.ndim == 0 and bool(penalty.isfinite()), f"the penalty has to be one finite number, found {penalty}")
    expect(penalty.requires_grad, "no gradient flows through the penalty")


def stepped(bench: Bench, methods: list[PluginEntry]) -> None:
    """Check that a step leaves finite parameters of the same shapes, and no tensors outside the state dict."""
    model = _trainable(bench, methods, Stepped, "after_step")
    names = set(model.state_dict())
    for step in range(STEPS):
        for weight in model.parameters():
            weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(step))
        model.after_step(0, step + 1, STEPS)
    expect(set(model.state_dict()) == names, "after_step has made tensors that no checkpoint would hold")
    (tensors,) = model.tensors()
    bench.assembly(methods).check(tensors, "what after_step leaves")
    broken = next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)
    expect(broken is None, f"after_step leaves {broken} with numbers that are not finite")


def _trainable(bench: Bench, methods: list[PluginEntry], ability: type, function: str) -> Trainable:
    assembly = bench.assembly(methods)
    if not any(isinstance(part.method, ability) for part in assembly.parts):
        raise NotAsked(f"it has no function {function}")
    return Trainable(bench.backbone, OpenPorts(bench.backbone), [[TaskStart(assembly)]]).train()
