"""``adapt import``: an adapter of peft or AdapterHub as one file."""

from pathlib import Path
from typing import Any

import click

from adaptdock.cli.common.flags import LOADING, Flag, SectionedCommand, load_options
from adaptdock.cli.common.output import count, note, show_json, show_pairs
from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.docking_trial import try_out
from adaptdock.errors import UsageError
from adaptdock.hub.artefact.card import Card
from adaptdock.hub.artefact.file import write_file
from adaptdock.hub.interchange.conversion import import_adapter


@click.command("import", cls=SectionedCommand)
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--output", "-o", cls=Flag, type=click.Path(path_type=Path), required=True, help="The adapter file.")
@click.option("--name", cls=Flag, help="Name of the adapter.", shown="default: name of the output file")
@click.option("--labels", cls=Flag, metavar="A,B,...", default="", help="Class names, in the order of the head.")
@click.option("--method", cls=Flag, help="Method that reads the adapter.", shown="default: the first that can")
@click.option("--overwrite", cls=Flag, is_flag=True, help="Replace an existing file.")
@click.option("--json", "as_json", cls=Flag, is_flag=True, help="Print JSON.")
def command(
    source: Path,
    output: Path,
    name: str | None,
    labels: str,
    method: str | None,
    overwrite: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Import the adapter in the folder SOURCE, saved by peft or AdapterHub, as one adapter file.

    --backbone has to be the model that the adapter was trained on. The folder does not have its weights, so only
    shapes can be compared. The imported adapter computes the logits of the other library; an adapter that cannot is
    refused with the reason.
    """
    called = name or output.stem
    _check_output(output, overwrite, called)
    backbone = load_backbone(values["backbone"], load_options(values))
    names = tuple(part.strip() for part in labels.split(",") if part.strip())
    imported = import_adapter(source, backbone, called, names, method)
    try_out(Dock(backbone), imported.file)
    size = write_file(output, imported.file, overwrite)
    for line in imported.notes:
        note(line)
    _show(output, size, imported.file.card, imported.notes, as_json)


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


def _show(output: Path, size: int, card: Card, notes: list[str], as_json: bool) -> None:
    origin = card.training["imported"]
    if as_json:
        show_json({"output": str(output), "bytes": size, "notes": notes, "card": card.model_dump(mode="json")})
        return
    show_pairs(
        {
            "adapter": f"{output} ({count(size)} bytes)",
            "imported": " ".join(str(origin[key]) for key in ("library", "version", "type") if origin.get(key)),
            "method": " and ".join(method.name for method in card.methods),
            "task": card.task.name,
        }
    )
