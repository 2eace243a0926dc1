"""``adapt export``: an adapter file in the format of peft, AdapterHub or llama.cpp (GGUF)."""

from pathlib import Path
from typing import Any

import click

from adaptdock.cli.common.backbone import open_backbone
from adaptdock.cli.common.flags import LOADING, Flag, SectionedCommand, load_options
from adaptdock.cli.common.output import count, note, show_json, show_pairs
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.docking_trial import effect
from adaptdock.errors import UsageError
from adaptdock.hub.artefact.atomic import atomic_folder
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.hub.interchange.conversion import FORMATS, export_adapter
from adaptdock.hub.registry.admission import read_adapter

MARKS = ("adapter_config.json", "adapter.gguf")


@click.command("export", cls=SectionedCommand)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--to", "folder", cls=Flag, type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option(
    "--format",
    "form",
    cls=Flag,
    type=click.Choice(sorted(FORMATS)),
    default="peft",
    show_default=True,
    help="Library that reads the folder.",
)
@click.option("--without-head", cls=Flag, is_flag=True, help="Leave the head out.")
@click.option("--overwrite", cls=Flag, is_flag=True, help="Replace an exported adapter.")
@click.option("--json", "as_json", cls=Flag, is_flag=True, help="Print JSON.")
def command(
    file: Path, folder: Path, form: str, without_head: bool, overwrite: bool, as_json: bool, **values: Any
) -> None:
    """Export the adapter in FILE to a folder that peft, AdapterHub or llama.cpp (gguf) loads.

    Servers such as vLLM, SGLang and TGI load a LoRA in the format of peft; remarks say what they need for it. An
    adapter that the other library cannot compute is refused with the reason.
    """
    adapter = read_adapter(file)
    _check_folder(folder, overwrite)
    backbone = open_backbone(adapter.card, values["backbone"], load_options(values))
    remarks = _without_effect(Dock(backbone), adapter, without_head)
    with atomic_folder(folder, replace=overwrite) as place:
        notes = [*remarks, *export_adapter(adapter, backbone, place, form, without_head)]
    for line in notes:
        note(line)
    size = sum(part.stat().st_size for part in folder.iterdir())
    if as_json:
        show_json({"file": str(file), "output": str(folder), "format": form, "bytes": size, "notes": notes})
        return
    show_pairs({"adapter": f"{folder} ({count(size)} bytes)", "format": form})


command.params += [
    Flag(["--backbone"], section=LOADING.flags[0].section, help="Another source of the same weights as the card's."),
    *LOADING.flags,
]


def _without_effect(dock: Dock, adapter: AdapterFile, without_head: bool) -> list[str]:
    """Return a remark on an adapter that changes nothing but its head; refuse to export it without its head."""
    if effect(dock, adapter) or not dock.assembled(adapter.card).sites.sites:
        return []
    methods = " and ".join(method.name for method in adapter.card.methods) or "the adapter"
    if without_head:
        raise UsageError(
            f"{methods} changes nothing: training was no better than the head alone on the frozen backbone, so the "
            f"head is all that was saved. Without its head the export would do nothing; more data or epochs may help."
        )
    return [f"{methods} changes nothing: all that this adapter has learnt is in its head, on the frozen backbone"]


def _check_folder(folder: Path, overwrite: bool) -> None:
    if folder.is_file():
        raise UsageError(f"{folder} is a file; --to names a folder")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise UsageError(f"{folder} exists already: give another --to, or --overwrite to replace it")
    if not any((folder / mark).is_file() for mark in MARKS):
        raise UsageError(
            f"{folder} holds no exported adapter ({' or '.join(MARKS)}), so it is not replaced: give another --to"
        )
