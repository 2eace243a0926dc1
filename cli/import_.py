"""``adapt import``: an adapter of peft or AdapterHub as one file."""

from pathlib import Path
from typing import Any, get_args

import click

from adaptdock.cli.common.conversions import Choices, check_folder, import_all, import_one
from adaptdock.cli.common.flags import LOADING, Flag, SectionedCommand, load_options
from adaptdock.cli.common.output import count, note, show_json, show_pairs
from adaptdock.engine.core.loading import load_backbone
from adaptdock.errors import UsageError
from adaptdock.hub.interchange.conversion import foreign_folders
from adaptdock.hub.interchange.incoming import Imported
from adaptdock.plugins.toolkit.interchange.adapterhub import AttentionMode


@click.command("import", cls=SectionedCommand)
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--output", "-o", cls=Flag, type=click.Path(path_type=Path), required=True, help="The adapter file, or a folder."
)
@click.option("--name", cls=Flag, help="Name of the adapter.", shown="default: name of the output file")
@click.option("--labels", cls=Flag, metavar="A,B,...", default="", help="Class names, in the order of the head.")
@click.option("--method", cls=Flag, help="Method that reads the adapter.", shown="default: the first that can")
@click.option(
    "--attention",
    cls=Flag,
    type=click.Choice(get_args(AttentionMode)),
    help="Attention of AdapterHub in which a prefix acts.",
    shown="default: sdpa",
)
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
    attention: AttentionMode | None,
    check: bool,
    largest: float,
    overwrite: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Import the adapter in the folder SOURCE, saved by peft or AdapterHub, as one adapter file.

    If SOURCE has no adapter itself but folders with adapters, all of them are imported into the folder --output, with
    a table; the exit status is 1 if one of them is refused.

    --backbone has to be the model that the adapter was trained on. The folder does not have its weights, so only
    shapes can be compared. The imported adapter computes the logits of the other library; an adapter that cannot is
    refused with the reason. A prefix of AdapterHub differs with the --attention of its library: sdpa, sdpa in padded
    batches, or eager. An adapter of peft that no method reads by itself is converted by the peft library, and then
    always compared: a change of full rank makes a file as large as the changed layers.
    """
    names = tuple(part.strip() for part in labels.split(",") if part.strip())
    choices = Choices(name or output.stem, names, method, check, largest, overwrite, attention)
    folders = foreign_folders(source)
    if folders:
        check_folder(output, name)
        loaded = load_backbone(values["backbone"], load_options(values))
        import_all(folders, output, loaded, choices, as_json)
        return
    _check_output(output, overwrite, choices.name)
    backbone = load_backbone(values["backbone"], load_options(values))
    imported, size, difference = import_one(source, output, backbone, choices)
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
