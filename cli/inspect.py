"""``adapt inspect``: card and sizes of an adapter file, from its header."""

from collections import Counter
from pathlib import Path
from typing import Any

import click

from adaptdock.cli.common.output import brief, count, few, say, show_json, show_metrics, show_pairs, show_table
from adaptdock.cli.common.parameters import ADAPTER
from adaptdock.hub.artefact.file import Header, read_header


@click.command("inspect")
@click.argument("file", type=ADAPTER)
@click.option("--tensors", is_flag=True, help="List every tensor with its type and shape.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the whole card, and every tensor.")
def command(file: Path, tensors: bool, as_json: bool) -> None:
    """Show the card, tensors, parameters and sizes of an adapter FILE.

    FILE is a path, or the name of an installed adapter (adapt list).

    Only the header is read, without a backbone. (predict and eval also compare the contents with the checksum.)
    """
    header = read_header(file)
    if as_json:
        show_json(_document(file, header))
        return
    show_pairs(_summary(file, header))
    if header.card.metrics:
        say()
        show_metrics(header.card.metrics)
    if header.card.probes:
        say()
        probes = [[brief(probe.input), few(probe.values)] for probe in header.card.probes.probes]
        show_table(("golden probe", "logits"), probes)
    if tensors:
        say()
        show_pairs({name: f"{dtype} {list(shape)}" for name, (dtype, shape) in header.tensors.items()})


def _document(file: Path, header: Header) -> dict[str, Any]:
    return {
        "file": str(file),
        "bytes": file.stat().st_size,
        "tensor_bytes": header.size,
        "parameters": header.parameters,
        "dtypes": _dtypes(header),
        "tensors": {name: {"dtype": dtype, "shape": list(shape)} for name, (dtype, shape) in header.tensors.items()},
        "card": header.card.model_dump(mode="json"),
    }


def _summary(file: Path, header: Header) -> dict[str, Any]:
    card = header.card
    training = card.training
    pairs = {
        "file": f"{file} ({count(file.stat().st_size)} bytes)",
        "name": f"{card.name}, version {card.version}",
        "description": card.description,
        "task": _plugin(card.task.model_dump()),
        "method": "; then ".join(_plugin(method.model_dump()) for method in card.methods),
        "on top of": ", ".join(f"{base.name} ({', '.join(entry.name for entry in base.methods)})" for base in card.on),
        "backbone": f"{card.backbone.id} ({card.backbone.architecture})",
        "revision": card.backbone.revision,
        "fingerprint": card.backbone.fingerprint,
        "windows": f"at most {card.preprocessing.max_length} tokens",
        "tensors": f"{len(header.tensors)} ({', '.join(f'{n} {dtype}' for dtype, n in _dtypes(header).items())})",
        "parameters": count(header.parameters),
        "trained on": training.get("data"),
        "combined": _combined(training),
        "records": training.get("splits"),
        "best epoch": training.get("best_epoch"),
        "seconds": training.get("seconds"),
        "libraries": training.get("libraries"),
        "golden probes": card.proof,
        "licence": card.licence,
        "languages": card.languages,
    }
    return {name: value for name, value in pairs.items() if value not in (None, "", [], {})}


def _combined(training: dict[str, Any]) -> str:
    terms = zip(training.get("weights", []), training.get("combined", []), strict=False)
    parts = ", ".join(f"{weight} {name}" for weight, name in terms)
    return f"{parts} ({training.get('how')})" if parts else ""


def _plugin(entry: dict[str, Any]) -> str:
    options = ", ".join(
        f"{name}={'/'.join(map(str, value)) if isinstance(value, list) else brief(value)}"
        for name, value in entry["options"].items()
        if value is not None
    )
    source = f"{entry['distribution']} {entry['version']}".strip()
    return f"{entry['name']} ({options or 'no options'}){f', of {source}' if source else ''}"


def _dtypes(header: Header) -> dict[str, int]:
    return dict(Counter(dtype for dtype, _ in header.tensors.values()))
