"""Imports of adapters from peft and AdapterHub: one folder, or all folders inside a folder."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from adaptdock.cli.common.output import count, note, show_json, show_table
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.docking_trial import compare, try_out
from adaptdock.errors import AdaptError, UsageError
from adaptdock.hub.artefact.file import write_file
from adaptdock.hub.interchange.conversion import import_adapter, library_result
from adaptdock.hub.interchange.incoming import Imported
from adaptdock.plugins.contracts import Backbone
from adaptdock.plugins.toolkit.interchange.adapterhub import AttentionMode


@dataclass(frozen=True)
class Choices:
    """The options of an import."""

    name: str
    labels: tuple[str, ...] = ()
    method: str | None = None
    check: bool = False
    largest: float = 256.0
    overwrite: bool = False
    attention: AttentionMode | None = None


def check_folder(output: Path, name: str | None) -> None:
    """Raise :class:`UsageError` for a path that cannot be the folder of several imported adapters."""
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file; for several adapters --output names a folder")
    if name is not None:
        raise UsageError("--name names one adapter; several keep the names of their folders")


def import_one(source: Path, output: Path, backbone: Backbone, choices: Choices) -> tuple[Imported, int, float | None]:
    """Import a folder; return the adapter, the bytes of its file, and the difference from its library if compared."""
    imported = import_adapter(source, backbone, choices.name, choices.labels, choices.method, choices.attention)
    _check_size(imported, choices.largest)
    dock, reference = Dock(backbone), imported.reference
    try_out(dock, imported.file)
    if reference is None and choices.check:
        reference = library_result(source, backbone)
    difference = None if reference is None else compare(dock, imported.file, reference)
    return imported, write_file(output, imported.file, choices.overwrite), difference


def _check_size(imported: Imported, largest: float) -> None:
    """Raise :class:`UsageError` for an adapter file of more megabytes than were asked for."""
    megabytes = sum(tensor.nbytes for tensor in imported.file.tensors.values()) / 1e6
    if megabytes > largest:
        raise UsageError(
            f"the adapter file would have {megabytes:.3g} MB, because changes of full rank are stored in full. "
            f"--largest {1.01 * megabytes:.3g} writes it"
        )


def import_all(folders: Sequence[Path], output: Path, backbone: Backbone, choices: Choices, as_json: bool) -> None:
    """Import each folder into a file of its name, and show a table.

    Raises :class:`click.exceptions.Exit` with the status 1 if an adapter was refused.
    """
    output.mkdir(parents=True, exist_ok=True)
    results = [_result(folder, output, backbone, choices) for folder in folders]
    if as_json:
        show_json({"output": str(output), "adapters": results})
    else:
        show_table(
            ["adapter", "method", "task", "bytes", "compared"],
            [
                [row["adapter"], row.get("method", "-"), row.get("task", "-"), row.get("bytes", "-"), row["result"]]
                for row in results
            ],
        )
        for row in results:
            for line in (row["error"],) if "error" in row else row["notes"]:
                note(f"{row['adapter']}: {line}")
    refused = sum("error" in row for row in results)
    if refused:
        note(f"{refused} of {count(len(results))} adapters are refused")
        raise click.exceptions.Exit(1)


def _result(folder: Path, output: Path, backbone: Backbone, choices: Choices) -> dict[str, Any]:
    file = output / f"{folder.name}.safetensors"
    row: dict[str, Any] = {"adapter": folder.name}
    try:
        if file.exists() and not choices.overwrite:
            raise UsageError(f"{file} exists already; --overwrite replaces it")
        imported, size, difference = import_one(folder, file, backbone, replace(choices, name=folder.name))
    except AdaptError as error:
        return row | {"result": "refused", "error": str(error)}
    card = imported.file.card
    methods = [method.name for methods in (*(base.methods for base in card.on), card.methods) for method in methods]
    return row | {
        "result": "no" if difference is None else f"{difference:.0e}",
        "file": str(file),
        "bytes": size,
        "method": " and ".join(methods) or "-",
        "task": card.task.name,
        "difference": difference,
        "notes": imported.notes,
    }
