"""Examination of a folder of peft or AdapterHub: faults with which a library loads it, and does nothing or less.

peft ignores tensors that match no module, starts a head anew that was not saved, and accepts another base model of the
same shape. Every finding here is read from the files and the modules of the backbone; nothing is computed.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adaptdock.hub.interchange import head_layouts
from adaptdock.hub.interchange.adapterhub import is_adapterhub
from adaptdock.hub.interchange.incoming import base_note, read_json
from adaptdock.hub.interchange.incoming_tensors import library_tensors, weights_file
from adaptdock.hub.interchange.peft import CONFIG, PROMPTS, ROOT, WEIGHTS, is_peft
from adaptdock.hub.interchange.peft_heads import VOCABULARY, class_task, is_head
from adaptdock.plugins.contracts import Backbone
from adaptdock.plugins.toolkit.interchange.options import compiled
from adaptdock.plugins.toolkit.interchange.peft import EVERY, IMPLIED
from adaptdock.plugins.toolkit.interchange.ports import ends
from adaptdock.plugins.toolkit.interchange.tensors import Named

if TYPE_CHECKING:
    from torch import nn

SHOWN = 3
"""Largest number of names in a finding."""
LAYER = re.compile(r"\.(\d+)(?:\.|$)")


@dataclass(frozen=True)
class Finding:
    """A result of the examination: ``fault`` makes the adapter act wrongly somewhere, ``note`` may."""

    kind: Literal["fault", "note"]
    text: str


def examine(folder: Path, backbone: Backbone) -> list[Finding]:
    """Return the findings about a folder, for a backbone; raise :class:`FileError` for unreadable files."""
    if is_adapterhub(folder):
        about = read_json(folder / CONFIG)
        return [Finding("note", text) for text in base_note(about.get("model_name"), backbone)]
    if not is_peft(folder):
        return []
    values, path = read_json(folder / CONFIG), weights_file(folder, WEIGHTS)
    if path is None:
        return [Finding("fault", f"it has none of the files {', '.join(WEIGHTS)}: the adapter was not saved")]
    tensors = library_tensors(path, "" if values.get("peft_type") in PROMPTS else ROOT)
    kind = _kind(values)
    model = head_layouts.skeleton(backbone, kind or "FEATURE_EXTRACTION") or backbone.model
    findings = [*_tensors(tensors, model), *_named_modules(values, model), *_head(values, kind, tensors, backbone)]
    findings += _vocabulary(folder, tensors, backbone)
    base = values.get("base_model_name_or_path")
    findings += [Finding("note", text) for text in base_note(base if isinstance(base, str) else None, backbone)]
    return findings


def _kind(values: Mapping[str, Any]) -> str | None:
    kind = values.get("task_type")
    if kind in head_layouts.CLASSES:
        return str(kind)
    mapping = values.get("auto_mapping")
    return class_task(str(mapping.get("base_model_class"))) if isinstance(mapping, dict) else None


# ------------------------------------------------------------------------------------------ tensors


def _tensors(tensors: Named, model: "nn.Module") -> Iterator[Finding]:
    """Yield the faults of tensors at modules that the model does not have."""
    modules = dict(model.named_modules())
    paths = {name: name.removeprefix(ROOT) for name in tensors if name.startswith(ROOT)}
    lost = [name for name, path in paths.items() if not _belongs(path, modules)]
    if not lost:
        return
    moved = [name for name in lost if _belongs_elsewhere(paths[name], modules)]
    if len(moved) == len(lost):
        yield Finding(
            "fault",
            f"{len(lost)} of {len(tensors)} tensors, such as {lost[0]!r}, are under another path than in "
            f"{type(model).__name__}: it was saved from another class, and peft ignores them there without a word",
        )
    else:
        strange = [name for name in lost if name not in moved]
        yield Finding("fault", f"{len(strange)} of {len(tensors)} tensors match no module: {_few(strange)}")


def _belongs(path: str, modules: Mapping[str, "nn.Module"]) -> bool:
    """Return whether a tensor's path leads to an innermost module of the model, or to a parameter."""
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = modules.get(".".join(parts[:length]))
        if module is not None:
            return next(module.children(), None) is None or hasattr(module, parts[length])
    return False


def _belongs_elsewhere(path: str, modules: Mapping[str, "nn.Module"]) -> bool:
    """Return whether the path leads to a module after parts at its start are dropped or added."""
    parts = path.split(".")
    shorter = (".".join(parts[start:]) for start in range(1, len(parts) - 1))
    if any(_belongs(candidate, modules) for candidate in shorter):
        return True
    fronts = {name.partition(".")[0] for name in modules if "." in name}
    return any(_belongs(f"{front}.{path}", modules) for front in fronts)


# ------------------------------------------------------------------------------------ configuration


def _named_modules(values: Mapping[str, Any], model: "nn.Module") -> Iterator[Finding]:
    """Yield the faults of options with modules or layers that the model does not have."""
    paths = [path for path, _ in model.named_modules() if path]
    names = sorted({path.rpartition(".")[2] for path in paths})
    for option in ("target_modules", "modules_to_save", "feedforward_modules"):
        listed = values.get(option)
        implied = {name for modules in IMPLIED.values() for name in modules} if option == "modules_to_save" else set()
        if isinstance(listed, str) and listed.lower() != EVERY and not _matches(listed, paths):
            yield Finding("fault", f"{option} is the expression {listed!r}, which matches no module")
        for name in listed if isinstance(listed, list) else ():
            if name not in implied and not any(ends(path, str(name)) for path in paths):
                close = get_close_matches(str(name), names)
                offer = f"; did you mean {' or '.join(close)}?" if close else ""
                yield Finding("fault", f"{option} names {name!r}, and no module has that name{offer}")
    layers = {int(match[1]) for match in map(LAYER.search, paths) if match}
    wanted = values.get("layers_to_transform")
    asked = [wanted] if isinstance(wanted, int) else wanted if isinstance(wanted, list) else []
    outside = [number for number in asked if isinstance(number, int) and number not in layers]
    if outside:
        yield Finding("fault", f"layers_to_transform names the layers {outside}, and the model has {max(layers) + 1}")


def _matches(expression: str, paths: Iterable[str]) -> bool:
    try:
        return any(map(compiled(expression).fullmatch, paths))
    except ValueError:
        return False


def _head(values: Mapping[str, Any], kind: str | None, tensors: Named, backbone: Backbone) -> Iterator[Finding]:
    """Yield the fault of a task with a head that is neither in the folder nor in the backbone's checkpoint."""
    if kind not in IMPLIED:
        return
    if any(_of_head(name, backbone) for name in tensors):
        return
    layout = head_layouts.SEQUENCE.get(backbone.architecture, head_layouts.LAST)
    lasts = IMPLIED[kind] if kind != "SEQ_CLS" else (layout.last,)
    if all(backbone.stored(f"{last}.weight") is None for last in lasts):
        yield Finding(
            "fault",
            f"the task type is {kind}, and its head is neither in the folder nor in the checkpoint of the backbone: "
            f"whoever loads it starts with a random head. Save it with modules_to_save=[{lasts[0].split('.')[0]!r}]",
        )
    else:
        yield Finding("note", "the head is not in the folder: that of the backbone's checkpoint is used")


def _of_head(name: str, backbone: Backbone) -> bool:
    parts = name.removeprefix(ROOT).split(".")
    return any(is_head(".".join(parts[:length]), backbone) for length in range(1, len(parts)))


# --------------------------------------------------------------------------------------- vocabulary


def _vocabulary(folder: Path, tensors: Named, backbone: Backbone) -> Iterator[Finding]:
    """Yield the faults of a vocabulary that was resized before training."""
    table = getattr(backbone.model.get_input_embeddings(), "weight", None)  # type: ignore[operator]
    if table is None:
        return
    words = len(table)
    advice = "Resize the backbone in the same way, save it, and use that as the backbone"
    for name, tensor in tensors.items():
        path, _, part = name.rpartition(".")
        is_table = part == "weight" and path.rpartition(".")[2] in VOCABULARY  # not a part of an adapter of the table
        if is_table and tensor.ndim == 2 and len(tensor) != words:
            yield Finding(
                "fault",
                f"the tensor {name!r} has {len(tensor)} tokens, the backbone {words}: the vocabulary was resized "
                f"before training. {advice}",
            )
            return
    largest = max(_token_numbers(folder), default=-1)
    if largest >= words:
        yield Finding(
            "fault",
            f"the tokenizer in the folder has the token number {largest}, and the backbone {words} tokens: tokens were "
            f"added before training. {advice}",
        )


def _token_numbers(folder: Path) -> Iterable[int]:
    """Return the numbers of the tokens that a tokenizer's files in a folder list."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return []
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        added = [entry["id"] for entry in values.get("added_tokens") or ()]
        vocabulary = values.get("model", {}).get("vocab") or {}
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    numbers = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    return [number for number in (*added, *numbers) if isinstance(number, int)]


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:SHOWN]))
    return shown if len(names) <= SHOWN else f"{shown}, ..."
