"""Import from peft: the folder, its configuration and its head; methods read their own tensors.

A folder has ``adapter_config.json`` and ``adapter_model.safetensors`` (or ``.bin``). The tensors show the places of an
adapter; the configuration has rank, scale and places, and must agree. The formulas are those of peft 0.21
(``tuners/*/layer.py``, ``peft_model.py``). An option that would compute something else here is refused by name, and so
is every unused tensor.
"""

from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from adaptdock.errors import FileError
from adaptdock.hub.interchange.incoming import Imported, Part, base_note, build, read_json, unknown_notes
from adaptdock.hub.interchange.incoming_tensors import library_tensors, read_tensors, weights_file
from adaptdock.hub.interchange.method_walk import readers, rival_note
from adaptdock.hub.interchange.peft_changes import convert, put_on, result_of
from adaptdock.hub.interchange.peft_heads import check_unused, is_head, read_head
from adaptdock.hub.interchange.reference import Reference
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, Method, PeftInterchange
from adaptdock.plugins.toolkit.interchange.peft import PeftOptions, PeftSource
from adaptdock.plugins.toolkit.interchange.tensors import UnsupportedError, refuse

CONFIG, WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
ROOT = "base_model.model."
PROMPTS = ("PREFIX_TUNING", "CARTRIDGE", "PROMPT_TUNING", "P_TUNING", "CPT", "MULTITASK_PROMPT_TUNING")
"""Types that change the input, and no weights."""


class UnreadTypeError(UnsupportedError):
    """A type of peft that no method reads."""


def is_peft(folder: Path) -> bool:
    """Return whether a folder has an adapter of peft."""
    return (folder / CONFIG).is_file() and "peft_type" in read_json(folder / CONFIG)


def read_peft(
    folder: Path, backbone: Backbone, name: str, labels: tuple[str, ...] = (), method: str | None = None
) -> Imported:
    """Read an adapter of peft for its backbone.

    ``labels`` name the classes of its head; by default the configuration does. ``method`` names the method that reads
    it. Raises :class:`FileError` for a damaged folder, and :class:`UsageError` with the reason for an unsupported
    adapter.
    """
    values = read_json(folder / CONFIG)
    try:
        return _read(folder, values, backbone, name, labels, method)
    except UnsupportedError as error:
        if method is not None or values.get("peft_type") in PROMPTS or not weights_file(folder, WEIGHTS):
            raise
        return _converted(folder, values, backbone, name, labels, error)


def _read(
    folder: Path, values: Mapping[str, Any], backbone: Backbone, name: str, labels: tuple[str, ...], method: str | None
) -> Imported:
    """Read an adapter by a method with a counterpart in peft."""
    part, source = _part(folder, values, backbone, method)
    options, notes = source.options, source.notes
    head = read_head(source, labels, _virtual_tokens(part, backbone))
    check_unused(source.tensors, backbone)
    notes += unknown_notes(options.unknown, "peft")
    return Imported(build(backbone, name, [part], head, _origin(options)), notes)


def _converted(
    folder: Path,
    values: Mapping[str, Any],
    backbone: Backbone,
    name: str,
    labels: tuple[str, ...],
    refusal: UnsupportedError,
) -> Imported:
    """Convert an adapter through the peft library; if that fails, raise the refusal with the reason."""
    path = weights_file(folder, WEIGHTS)
    assert path is not None
    try:
        result = convert(values, path, library_tensors(path, ROOT), backbone, labels)
    except UnsupportedError as error:
        raise type(refusal)(_both(refusal, error)) from None
    options = PeftOptions.parse(values, folder / CONFIG)
    notes = base_note(options.base_model_name_or_path, backbone) + result.notes
    methods = " and ".join(part.method for part in result.parts) or "no method"
    notes.append(f"the peft library made the changes of weights, which are stored as {methods}")
    file = build(backbone, name, result.parts, result.head, _origin(options))
    return Imported(file, notes, result.reference)


def library_reference(folder: Path, backbone: Backbone) -> Reference:
    """Return what the installed peft library computes with an adapter on a small batch, for a comparison.

    Raises :class:`UsageError` if the library cannot put it on the backbone.
    """
    values, path = read_json(folder / CONFIG), weights_file(folder, WEIGHTS)
    if path is None:
        raise FileError(folder, f"it has none of the files {', '.join(WEIGHTS)}")
    prompt = values.get("peft_type") in PROMPTS
    tensors = library_tensors(path, "" if prompt else ROOT)
    kind, _, model = put_on(values, path, tensors, backbone, [])
    return result_of(model, kind, padded=not prompt)


def _both(refusal: UnsupportedError, error: UnsupportedError) -> str:
    if str(refusal) == str(error) or isinstance(refusal, UnreadTypeError):
        return str(error)
    return f"{refusal}. The peft library cannot convert it either: {error}"


def _origin(options: PeftOptions) -> dict[str, Any]:
    origin = {
        "library": "peft",
        "version": options.peft_version,
        "type": options.peft_type,
        "base_model": options.base_model_name_or_path,
    }
    return {key: value for key, value in origin.items() if value}


def _part(
    folder: Path, values: Mapping[str, Any], backbone: Backbone, method: str | None
) -> tuple[Part, PeftSource[PeftOptions]]:
    """Return the adapter as its method has read it; raise :class:`UsageError` if no method reads it."""
    kind = values.get("peft_type")
    methods = readers(PeftInterchange, method)
    candidates = [(plugin, reader) for plugin, reader in methods if isinstance(kind, str) and kind in reader.peft_types]
    if not candidates:
        known = dict.fromkeys(known_kind for _, reader in methods for known_kind in reader.peft_types)
        raise UnreadTypeError(
            f"the PEFT type {kind!r} cannot be carried over: there is a method for none but {', '.join(known)}"
        )
    tensors = cache(partial(read_tensors, folder, WEIGHTS, ROOT))  # read once, after a valid configuration
    for plugin, reader in candidates:
        options = reader.peft_types[kind].parse(values, folder / CONFIG)
        notes = base_note(options.base_model_name_or_path, backbone)
        source = PeftSource(options, tensors(), backbone, partial(is_head, backbone=backbone), notes)
        weights = reader.from_peft(source)
        if weights is not None:
            notes += rival_note(plugin, [rival for rival, _ in candidates])
            return Part(plugin.name, weights), source
    names = ", ".join(plugin.name for plugin, _ in candidates)
    raise refuse(f"this adapter of the PEFT type {kind}", f"its options are read by none of {names}")


def _virtual_tokens(part: Part, backbone: Backbone) -> int:
    """Return the number of positions in front of a text whose states a head can read, as those of a prompt."""
    plugin = registry.load("method", part.method)
    method: Method = plugin(plugin.Options.model_validate(part.weights.options))
    return method.positions if any(site.side == "front" for site in method.sites(backbone.ports)) else 0
