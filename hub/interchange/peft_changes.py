"""Import of any adapter of peft whose effect is a fixed change of weights, through the peft library itself.

The library puts the adapter on its base model; the changed weights are read from what the layers compute, and each
change is stored by the method that stores it with the fewest numbers: as factors where its rank is low, in full
otherwise. What has no place in an adapter file is refused by name.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptdock.hub.interchange import effective_weights, head_layouts
from adaptdock.hub.interchange.incoming import Headed, Part
from adaptdock.hub.interchange.method_walk import readers
from adaptdock.hub.interchange.peft_heads import check_unused, guessed_kind, is_head, read_head
from adaptdock.hub.interchange.peft_library import attach, base_model, check_fixed, check_known, silent
from adaptdock.hub.interchange.reference import Reference, reference
from adaptdock.plugins.contracts import Backbone, Port, WeightInterchange
from adaptdock.plugins.toolkit.interchange.peft import IMPLIED, PeftOptions, PeftSource
from adaptdock.plugins.toolkit.interchange.tensors import ForeignTensors, Named, refuse

if TYPE_CHECKING:
    from torch import nn

    from adaptdock.plugins.toolkit.interchange.changes import WeightChange


@dataclass(frozen=True)
class Converted:
    """An adapter read through the library: its methods and head, and the library's own result for comparison."""

    parts: list[Part]
    head: Headed
    reference: Reference
    notes: list[str]


def convert(
    values: Mapping[str, Any], path: Path, tensors: Named, backbone: Backbone, labels: tuple[str, ...]
) -> Converted:
    """Convert an adapter of peft; ``tensors`` have the names in its file.

    Raises :class:`UsageError` with the reason for an adapter whose effect is not a fixed change of weights, or has no
    place in an adapter file.
    """
    notes: list[str] = []
    check_known(values)
    check_fixed(values)
    kind, classes, tuned = put_on(values, path, tensors, backbone, notes)
    expected = result_of(tuned, kind)
    changes, rest = _read(base_model(backbone, kind, classes), tuned.get_base_model(), backbone)
    plain = PeftOptions(peft_type=values["peft_type"], task_type=kind)
    remaining = ForeignTensors(path, rest)
    source = PeftSource(plain, remaining, backbone, lambda module: is_head(module, backbone), notes)
    head = read_head(source, labels, 0)
    check_unused(remaining, backbone)
    if not changes:
        raise refuse(
            "this adapter", "it changes no weight of the backbone: it was saved untrained. Save it after training"
        )
    return Converted(_parts(changes, backbone), head, expected, notes)


def put_on(
    values: Mapping[str, Any], path: Path, tensors: Named, backbone: Backbone, notes: list[str]
) -> "tuple[str, int, Any]":
    """Return the task type, the number of classes of a saved head, and the library's model with the adapter."""
    check_known(values)
    options = PeftOptions.parse(values, path.with_name("adapter_config.json"))
    stored = ForeignTensors(path, tensors)
    kind = options.task_type or guessed_kind(options, backbone, stored, _prefixes(tensors), notes)
    kind = kind or "FEATURE_EXTRACTION"
    if kind not in head_layouts.CLASSES:
        raise refuse(f"the task type {kind}", "adaptdock has no task for it")
    classes = _classes(stored, backbone)
    return kind, classes, attach(base_model(backbone, kind, classes), values, tensors, path)


def result_of(model: Any, kind: str, padded: bool = True) -> Reference:
    """Return the library's result on a small batch; raise :class:`UsageError` if it cannot compute one."""
    try:
        with silent():
            return reference(model, kind, padded)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise refuse("this adapter", f"the installed peft cannot compute with it: {reason}") from None


def _prefixes(names: Iterable[str]) -> set[str]:
    """Return the paths of all modules above the tensors with these names."""
    parts = [name.split(".") for name in names]
    return {".".join(path[:number]) for path in parts for number in range(1, len(path))}


def _classes(tensors: ForeignTensors, backbone: Backbone) -> int:
    """Return the number of classes of a saved head; 0 if none is saved."""
    layout = head_layouts.SEQUENCE.get(backbone.architecture, head_layouts.LAST)
    lasts = {layout.last, *(name for names in IMPLIED.values() for name in names)}
    names = filter(None, (tensors.ending(f"{last}.weight") for last in sorted(lasts, key=len, reverse=True)))
    name = next(names, None)
    return 0 if name is None else len(tensors.unused[name])


# ------------------------------------------------------------------------------------------ reading


def _read(base: "nn.Module", tuned: "nn.Module", backbone: Backbone) -> "tuple[list[WeightChange], Named]":
    """Return the changes at ports, and the effective tensors of changed or headed modules without a port."""
    changes: dict[Port, WeightChange] = {}
    rest: Named = {}
    ports = _by_module(backbone)
    front = f"{getattr(base, 'base_model_prefix', '')}."
    for path, module, changed in effective_weights.pairs(base, tuned):
        unchanged = effective_weights.same(module, changed)
        port = ports.get(path) or ports.get(path.removeprefix(front))
        if port is not None and not unchanged:
            if port not in changes:  # tied modules share their port
                changes[port] = _change(port, module, changed, path)
        elif port is None and (not unchanged or is_head(path, backbone)):
            rest |= _effective(path, module, changed, backbone, unchanged)
    return [change for change in changes.values() if change.weight is not None or change.bias is not None], rest


def _by_module(backbone: Backbone) -> dict[str, Port]:
    return {port.module: port for port in backbone.ports if port.kind in ("linear", "norm", "embedding", "logits")}


def _change(port: Port, base: "nn.Module", tuned: "nn.Module", path: str) -> "WeightChange":
    from adaptdock.plugins.toolkit.interchange.changes import WeightChange

    if port.kind in ("linear", "logits"):
        weights = zip(*(effective_weights.affine(module, port.inputs, path) for module in (tuned, base)), strict=True)
        weight, bias = (changed - frozen for changed, frozen in weights)
    elif port.kind == "norm":
        weight, bias = effective_weights.gain_and_shift(base, tuned, port.outputs, path)
    else:
        tables = [effective_weights.table(module, port.inputs, path) for module in (tuned, base)]
        weight, bias = tables[0] - tables[1], None
    return WeightChange(port, weight if weight.any() else None, bias if bias is not None and bias.any() else None)


def _effective(path: str, module: "nn.Module", changed: "nn.Module", backbone: Backbone, unchanged: bool) -> Named:
    """Return the effective tensors of a module without a port; raise :class:`UsageError` for an unsupported change."""
    if type(module) is type(changed):
        parameters = {f"{path}.{name}": tensor.detach() for name, tensor in changed.named_parameters(recurse=False)}
        if unchanged and any(tensor.isnan().any() for tensor in parameters.values()):
            return {}  # neither the adapter nor the checkpoint has it
        return parameters
    inputs = getattr(module, "in_features", None)
    if inputs is None or not is_head(path, backbone):
        raise refuse(f"the change at {path}", f"{backbone.architecture!r} has no port there that an adapter can act at")
    weight, bias = effective_weights.affine(changed, inputs, path)
    effective = {f"{path}.weight": weight.float()}
    return effective | ({f"{path}.bias": bias.float()} if bias.any() or module.bias is not None else {})


# ------------------------------------------------------------------------------------------ storing


def _parts(changes: "list[WeightChange]", backbone: Backbone) -> list[Part]:
    """Return the methods that store the changes, each with the changes that it stores with the fewest numbers."""
    methods = [(plugin.name, reader) for plugin, reader in readers(WeightInterchange, None)]
    assigned: dict[str, list[WeightChange]] = defaultdict(list)
    for change in changes:
        counts = {name: reader.numbers(change) for name, reader in methods}
        possible = {name: count for name, count in counts.items() if count is not None}
        if not possible:
            raise refuse(f"the change at {change.port.name}", "no method stores a change of this kind")
        assigned[min(possible, key=lambda name: possible[name])].append(change)
    return [Part(name, dict(methods)[name].from_changes(entries, backbone)) for name, entries in assigned.items()]
