"""Publishing: an adapter file with a complete card, its entry in an index, readable pages, and a wheel.

A registry is a folder with ``registry.json`` and the files in ``published/``, each with its card as Markdown and HTML.
The index is written last, so that it never names a missing file.
"""

import base64
import hashlib
import html
import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from adaptdock.errors import FileError, SourceError, UsageError
from adaptdock.hub.artefact.atomic import write_atomically
from adaptdock.hub.artefact.card import Card
from adaptdock.hub.artefact.file import AdapterFile, write_file
from adaptdock.hub.artefact.locks import changing
from adaptdock.hub.artefact.strict_json import read
from adaptdock.hub.registry.admission import Requirements, read_adapter
from adaptdock.hub.registry.index import Entry, Index, lookalike, make_entry
from adaptdock.hub.registry.provenance import path_beside
from adaptdock.hub.registry.sources import INDEX
from adaptdock.hub.registry.trust import sign
from adaptdock.plugins.registry import GROUPS, OWN

FILES = "published"
MEASURED = "test"
"""The split with the published metrics."""


@dataclass(frozen=True)
class Published:
    """The result of publishing: the entry, the adapter file, and the card as Markdown and as HTML."""

    entry: Entry
    file: Path
    card: Path
    page: Path


def completed(card: Card, **fields: Any) -> Card:
    """Return a card with further fields; raise :class:`UsageError` with all fields that are still missing."""
    card = Card.model_validate({**card.model_dump(), **{name: value for name, value in fields.items() if value}})
    missing = [f"--{name}" for name in ("description", "licence") if not getattr(card, name).strip()]
    missing += ["--language"] if not card.languages else []
    missing += ["metrics on test data (train with --test, or adapt eval)"] if MEASURED not in card.metrics else []
    if missing:
        raise UsageError(f"the card of {card.name!r} is not complete; missing: {', '.join(missing)}")
    return card


def publish(
    source: Path, folder: Path, publisher: str, test_set: str, key: str | None = None, **fields: Any
) -> Published:
    """Add an adapter to the registry in a folder; ``fields`` complete or replace fields of its card.

    ``test_set`` is the name of the data behind the metrics, ``key`` the name of the private key to sign with. Raises
    :class:`UsageError` for an incomplete card, a published version with other content, and a lookalike name.
    """
    with changing(folder / INDEX):
        return _publish(source, folder, publisher, test_set, key, fields)


def _publish(
    source: Path, folder: Path, publisher: str, test_set: str, key: str | None, fields: Mapping[str, Any]
) -> Published:
    adapter = read_adapter(source, Requirements(publishing=True))
    card = completed(adapter.card, **fields)
    index = read(folder / INDEX, Index) if (folder / INDEX).exists() else Index()
    similar = lookalike(card.name, {entry.name for entry in index.adapters})
    if similar is not None:
        raise UsageError(
            f"the name {card.name!r} looks like {similar!r}, which is in the registry; give another --name"
        )
    stem = f"{FILES}/{card.name}-{card.version}"
    path = folder / f"{stem}.safetensors"
    # The entry needs the size and hash of the written file before it may replace an old file.
    trial = folder / f"{stem}.safetensors.new"
    make_entry(
        source, card, b"-", f"{stem}.safetensors", publisher=publisher
    )  # raises for invalid fields before any write
    try:
        write_file(trial, AdapterFile(card, adapter.tensors))
        blob = trial.read_bytes()
        entry = make_entry(
            source,
            card,
            blob,
            f"{stem}.safetensors",
            publisher=publisher,
            metrics={test_set: plain(card.metrics[MEASURED])},
            published=_first_published(index, card, blob) or datetime.now(UTC).date(),
            needs=needs(card),
        )
        _refuse_changed(index, entry)
        trial.replace(path)
    finally:
        trial.unlink(missing_ok=True)
    entry = sign(entry, key) if key else entry
    pages = {".md": markdown(entry, card), ".html": page(entry, card)}
    try:
        for suffix, text in pages.items():
            write_atomically(folder / f"{stem}{suffix}", text.encode())
        write_atomically(folder / INDEX, index.added(entry).to_json().encode())
    except OSError as error:
        raise FileError(folder, f"the registry could not be written: {error.strerror or error}") from error
    return Published(entry, path, folder / f"{stem}.md", folder / f"{stem}.html")


def needs(card: Card) -> list[str]:
    """Return the other distributions whose plugins an adapter needs, sorted."""
    plugins = [card.task, *card.methods, *(method for base in card.on for method in base.methods)]
    return sorted({plugin.distribution for plugin in plugins} - {"", OWN})


def plain(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the numeric metrics."""
    return {
        name: value for name, value in metrics.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _first_published(index: Index, card: Card, blob: bytes) -> date | None:
    """Return the day on which the same content was published; None for another content or a new version."""
    before = index.find(card.name, card.version)
    return before.published if before is not None and before.sha256 == hashlib.sha256(blob).hexdigest() else None


def _refuse_changed(index: Index, entry: Entry) -> None:
    before = index.find(entry.name, entry.version)
    if before is not None and before.sha256 != entry.sha256:
        raise UsageError(
            f"{entry.label} is in the registry with other content, and a version never changes: give another --version"
        )


# --------------------------------------------------------------------------------------------- cards


def facts(entry: Entry, card: Card) -> dict[str, str]:
    """Return the facts on a card page, in their order; empty facts are left out."""
    values = {
        "Task": entry.task,
        "Method": ", ".join(entry.methods),
        "Backbone": f"{entry.backbone.id} ({entry.backbone.fingerprint})",
        "Languages": ", ".join(entry.languages),
        "Licence": entry.licence,
        "Publisher": entry.publisher,
        "File": f"{entry.size:,} bytes, sha256 {entry.sha256}",
        "Data": str(card.training.get("data", "")),
        "Labels": ", ".join(map(str, card.task.options.get("labels") or ())),
        "Needs": ", ".join(entry.needs),
        "Signed with": entry.key,
    }
    return {name: value for name, value in values.items() if value}


def markdown(entry: Entry, card: Card) -> str:
    """Return the card as Markdown, with front matter for model hubs."""
    head = {
        "library_name": OWN,
        "license": entry.licence.lower(),
        "language": entry.languages,
        "base_model": entry.backbone.id,
        "tags": [entry.task, *entry.methods],
    }
    lines = ["---", *(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in head.items()), "---", ""]
    lines += [f"# {entry.name} {entry.version}", "", entry.description, "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in facts(entry, card).items()]
    for test_set, metrics in entry.metrics.items():
        lines += ["", f"## Measured on {test_set}", "", "| metric | value |", "|---|---|"]
        lines += [f"| {name} | {value:g} |" for name, value in metrics.items()]
    lines += ["", "## Use", "", "```console", f"$ adapt install {entry.name}@{entry.version}"]
    lines += [f"$ adapt predict {entry.name} TEXT", "```", ""]
    return "\n".join(lines)


def page(entry: Entry, card: Card) -> str:
    """Return the card as a self-contained HTML page."""
    title = html.escape(f"{entry.name} {entry.version}")
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in facts(entry, card).items()
    )
    tables = "".join(
        f"<h2>Measured on {html.escape(test_set)}</h2><table>"
        + "".join(f"<tr><th>{html.escape(name)}</th><td>{value:g}</td></tr>" for name, value in metrics.items())
        + "</table>"
        for test_set, metrics in entry.metrics.items()
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width">'
        "<style>body{font:1rem/1.5 system-ui;max-width:50rem;margin:2rem auto;padding:0 1rem}"
        "th{text-align:left;vertical-align:top;padding-right:1rem}td{overflow-wrap:anywhere}</style></head>"
        f"<body><h1>{title}</h1><p>{html.escape(entry.description)}</p><table>{rows}</table>{tables}"
        f"<h2>Use</h2><pre>adapt install {title.replace(' ', '@')}\nadapt predict {html.escape(entry.name)} TEXT</pre>"
        "</body></html>\n"
    )


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")


# --------------------------------------------------------------------------------------------- wheel


def build_wheel(published: Published, distribution: str, folder: Path) -> Path:
    """Write a wheel (PEP 427) with the adapter and without code; return its path.

    Raises :class:`UsageError` for an invalid distribution name.
    """
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", distribution):
        raise UsageError(
            f"{distribution!r} is not a name of a distribution: letters, digits, '-', '_' and '.' are fine"
        )
    entry = published.entry
    package = re.sub(r"[-_.]+", "_", distribution).lower()
    info = f"{package}-{entry.version}.dist-info"
    members = {
        f"{package}/{entry.name}.safetensors": published.file.read_bytes(),
        f"{package}/{entry.name}.md": published.card.read_bytes(),
        f"{info}/METADATA": _metadata(entry, distribution, published.card.read_text(encoding="utf-8")).encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: {OWN}\nRoot-Is-Purelib: true\nTag: py3-none-any\n".encode(),
        f"{info}/entry_points.txt": f"[{GROUPS['files']}]\n{entry.name} = {package}\n".encode(),
    }
    record = "".join(f"{name},sha256={_digest(blob)},{len(blob)}\n" for name, blob in members.items())
    members[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, blob in members.items():
            # With a fixed time, equal content gives an equal wheel.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), blob, zipfile.ZIP_DEFLATED)
    path = folder / f"{package}-{entry.version}-py3-none-any.whl"
    try:
        write_atomically(path, packed.getvalue())
    except OSError as error:
        raise FileError(path, f"the wheel could not be written: {error.strerror or error}") from error
    return path


def _metadata(entry: Entry, distribution: str, description: str) -> str:
    needed = "".join(f"Requires-Dist: {name}\n" for name in (OWN, *entry.needs))
    return (
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {entry.version}\n"
        f"Summary: {' '.join(entry.description.split())[:200]}\nAuthor: {entry.publisher}\nLicense: {entry.licence}\n"
        f"{needed}Description-Content-Type: text/markdown\n\n{description}"
    )


def _digest(blob: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(blob).digest()).rstrip(b"=").decode()


def push(published: Published, repository: str) -> str:
    """Upload the adapter file, its card and its provenance, if any, to a repository of the Hugging Face hub.

    Returns the address.

    Raises :class:`SourceError` if the hub is unreachable or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi()
    try:
        address = api.create_repo(repository, exist_ok=True)
        names = {published.file: published.file.name, published.card: "README.md"}
        provenance = path_beside(published.file)
        if provenance.exists():
            names[provenance] = provenance.name
        for local, name in names.items():
            api.upload_file(path_or_fileobj=local, path_in_repo=name, repo_id=repository)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise SourceError(repository, f"it could not be uploaded: {str(error).splitlines()[0]}") from error
    return str(address)
