"""``adapt merge``: an adapter merged into a copy of its backbone."""

from pathlib import Path
from typing import Any

import click

from adaptdock.cli.common.backbone import open_backbone
from adaptdock.cli.common.flags import LOADING, Flag, SectionedCommand, load_options
from adaptdock.cli.common.output import count, note, show_json, show_pairs
from adaptdock.cli.common.parameters import ADAPTER
from adaptdock.engine.merging.merge import CARD_FILE, HEAD_FILE, check_folder, merge
from adaptdock.engine.merging.onnx_export import MODEL, check_onnx_folder, write_onnx
from adaptdock.errors import UsageError
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.hub.registry.admission import read_adapter
from adaptdock.plugins.contracts import Backbone

QUANTIZE = "quantize"
FORMS = ("transformers", "onnx")
LEFT_OUT = ("quantizer", "device_map", QUANTIZE)


@click.command("merge", cls=SectionedCommand)
@click.argument("file", type=ADAPTER)
@click.option(
    "--output",
    "-o",
    cls=Flag,
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    required=True,
    help="Folder of the merged model.",
)
@click.option(
    "--to",
    "form",
    cls=Flag,
    type=click.Choice(FORMS),
    default=FORMS[0],
    show_default=True,
    help="Library that reads the folder.",
)
@click.option("--overwrite", cls=Flag, is_flag=True, help="Replace a merged model.")
@click.option("--json", "as_json", cls=Flag, is_flag=True, help="Print JSON.")
def command(file: Path, output: Path, form: str, overwrite: bool, as_json: bool, **values: Any) -> None:
    """Merge the adapter in FILE into a copy of its backbone.

    transformers loads FOLDER without adaptdock, tokenizer included; the backbone is unchanged. The head of the
    adapter is not part of the model: the folder has it in head.safetensors, and the card in card.json. Only methods
    that change linear layers can be merged: bottlenecks, prefixes and prompts cannot.

    The copy is not quantised. On a CPU it is in float32, or in the type that --dtype names.

    With --to onnx the folder has model.onnx, in float32 and with the head inside: tokens and mask in, logits out
    (pip install 'adaptdock[onnx]'). The labels of the logits are in card.json.
    """
    if values[QUANTIZE]:
        raise UsageError(
            "--quantize: quantised weights cannot take up an adapter. Merge without it, then quantise the merged model."
        )
    adapter = read_adapter(file)
    if form == "onnx":
        check_onnx_folder(output, overwrite)
        _write_onnx(file, output, adapter, overwrite, as_json, values)
        return
    check_folder(output, overwrite, values["backbone"] or adapter.card.backbone.id)
    backbone = open_backbone(adapter.card, values["backbone"], load_options(values))
    ports = merge(backbone, adapter, output, overwrite)
    quantized = adapter.card.training.get("quantized")
    if quantized:
        note(
            f"{adapter.card.name} was trained on {quantized} weights; its predictions on these weights differ slightly"
        )
    _show(file, output, backbone, ports, as_json)


command.params += [
    Flag(["--backbone"], section=LOADING.flags[0].section, help="Another source of the same weights as the card's."),
    *(flag for flag in LOADING.flags if flag.name not in LEFT_OUT),
    Flag([f"--{QUANTIZE}"], hidden=True),  # accepted here to be refused with the reason
]


def _write_onnx(
    file: Path, output: Path, adapter: AdapterFile, overwrite: bool, as_json: bool, values: dict[str, Any]
) -> None:
    backbone = open_backbone(adapter.card, values["backbone"], load_options(values))
    notes = write_onnx(backbone, adapter, output, overwrite)
    size = sum(part.stat().st_size for part in output.iterdir())
    if as_json:
        show_json(
            {"file": str(file), "output": str(output), "bytes": size, "model": str(output / MODEL), "notes": notes}
        )
        return
    show_pairs({"model": f"{output / MODEL} ({count(size)} bytes, float32, head inside)"})
    for line in notes:
        note(line)


def _show(file: Path, output: Path, backbone: Backbone, ports: list[str], as_json: bool) -> None:
    size = sum(part.stat().st_size for part in output.iterdir())
    if as_json:
        show_json(
            {
                "file": str(file),
                "output": str(output),
                "bytes": size,
                "backbone": backbone.id,
                "dtype": str(backbone.dtype).removeprefix("torch."),
                "ports": ports,
                "head": str(output / HEAD_FILE),
                "card": str(output / CARD_FILE),
            }
        )
        return
    show_pairs(
        {
            "model": f"{output} ({count(size)} bytes, {str(backbone.dtype).removeprefix('torch.')})",
            "merged": f"{len(ports)} linear maps of {backbone.id}",
            "head": f"{output / HEAD_FILE}, card: {output / CARD_FILE}",
        }
    )
    note("the head is not part of the model: transformers loads the folder without it")
