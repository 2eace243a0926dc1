"""``adapt import``: an adapter of peft or AdapterHub as one file."""

from pathlib import Path
from typing import Any

import click

from adaptdock.cli.common.flags import LOADING, Flag, SectionedCommand, load_options
from adaptdock.cli.common.output import count, note, show_json, show_pairs
from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.docking_trial import compare, try_out
from adaptdock.errors import UsageError
from adaptdock.hub.artefact.file import write_file
from adaptdock.hub.interchange.conversion import import_adapter, library_result
from adaptdock.hub.interchange.incoming import Imported
from adaptdock.plugins.contracts import Backbone


@click.command("import", cls=SectionedCommand)
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--output", "-o", cls=Flag, type=click.Path(path_type=Path), required=True, help="The adapter file.")
@click.option("--name", cls=Flag, help="Name of the adapter.", shown="default: name of the output file")
@click.option("--labels", cls=Flag, metavar="A,B,...", default="", help="Class names, in the order of the head.")
@click.option("--method", cls=Flag, help="Method that reads the adapter.", shown="default: the first that can")
@click.option("--check", cls=Flag, is_flag=True, help="Compare logits with those of the installed peft library.")
@click.option(
    "--largest",
    cls=Flag,
    type=click.FloatRange(min=0),
    default=256.0,
    metavar="MB",
    help="Refuse a file of more megabytes.",
)
@click.option("--overwrite", cls=Flag, is_flag=True, help="Replace an existing file.")
@click.option("--json", "as_json", cls=Flag, is_flag=True, help="Print JSON.")
def command(
    source: Path,
    output: Path,
    name: str | None,
    labels: str,
    method: str | None,
    check: bool,
    largest: float,
    overwrite: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Import the adapter in the folder SOURCE, saved by peft or AdapterHub, as one adapter file.

    --backbone has to be the model that the adapter was trained on. The folder does not have its weights, so only
    shapes can be compared. The imported adapter computes the logits of the other library; an adapter that cannot is
    refused with the reason. An adapter of peft that no method reads by itself is converted by the peft library, and
    then always compared: a change of full rank makes a file as large as the changed layers.
    """
    called = name or output.stem
    _check_output(output, overwrite, called)
    backbone = load_backbone(values["backbone"], load_options(values))
    names = tuple(part.strip() for part in labels.split(",") if part.strip())
    imported = import_adapter(source, backbone, called, names, method)
    _check_size(imported, largest)
    difference = _compared(source, backbone, imported, check)
    size = write_file(output, imported.file, overwrite)
    for line in imported.notes:
        note(line)
    _show(output, size, imported, difference, as_json)


command.params += [
    Flag(["--backbone"], section=LOADING.flags[0].section, required=True, help="The backbone of the adapter."),
    *LOADING.flags,
]


def _check_output(output: Path, overwrite: bool, name: str) -> None:
    if output.is_dir():
        raise UsageError(f"{output} is a folder; --output names the adapter file")
    if output.exists() and not overwrite:
        raise UsageError(f"{output} exists already: give another --output, or --overwrite to replace it")
    if "+" in name or not 0 < len(name) <= 200:
        raise UsageError(f"the name {name!r} cannot be used: --name has 1 to 200 characters and no '+'")


def _check_size(imported: Imported, largest: float) -> None:
    """Raise :class:`UsageError` for an adapter file of more megabytes than were asked for."""
    megabytes = sum(tensor.nbytes for tensor in imported.file.tensors.values()) / 1e6
    if megabytes > largest:
        raise UsageError(
            f"the adapter file would have {megabytes:.3g} MB, because changes of full rank are stored in full. "
            f"--largest {1.01 * megabytes:.3g} writes it"
        )


def _compared(source: Path, backbone: Backbone, imported: Imported, check: bool) -> float | None:
    """Try the adapter on a small batch; return the largest difference from the other library, if compared."""
    dock = Dock(backbone)
    try_out(dock, imported.file)
    reference = imported.reference
    if reference is None and check:
        reference = library_result(source, backbone)
    return None if reference is None else compare(dock, imported.file, reference)


def _show(output: Path, size: int, imported: Imported, difference: float | None, as_json: bool) -> None:
    card = imported.file.card
    origin = card.training["imported"]
    if as_json:
        values = {"output": str(output), "bytes": size, "notes": imported.notes, "difference": difference}
        show_json({**values, "card": card.model_dump(mode="json")})
        return
    compared = {} if difference is None else {"compared": f"logits differ from peft's by at most {difference:.0e}"}
    show_pairs(
        {
            "adapter": f"{output} ({count(size)} bytes)",
            "imported": " ".join(str(origin[key]) for key in ("library", "version", "type") if origin.get(key)),
            "method": " and ".join(method.name for method in card.methods),
            "task": card.task.name,
            **compared,
        }
    )
