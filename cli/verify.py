"""``adapt verify``: check that installed adapters are unchanged, and that adapters answer their golden probes."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from adaptdock.cli.common.flags import LOADING, Flag, SectionedCommand, load_options
from adaptdock.cli.common.output import brief, few, note, say, show_json, show_pairs, show_table
from adaptdock.errors import AdaptError, UsageError
from adaptdock.hub.registry.admission import read_adapter
from adaptdock.hub.registry.included import included, included_entry, verify_included
from adaptdock.hub.registry.installed import find, locate
from adaptdock.hub.registry.provenance import Provenance, path_beside, verify_provenance
from adaptdock.hub.registry.store import installed, recorded, verify
from adaptdock.plugins.files import SUFFIX

RESPONSES_SHOWN = 8
"""Rows of the table of responses."""


@click.command("verify", cls=SectionedCommand)
@click.argument("names", nargs=-1, metavar="[NAME|FILE]...")
@click.option("--run", cls=Flag, is_flag=True, help="Run the adapters on their golden probes, and show the answers.")
@click.option("--json", "as_json", cls=Flag, is_flag=True, help="Print JSON.")
def command(names: tuple[str, ...], run: bool, as_json: bool, **values: Any) -> int:
    """Check hash, signature and revocations of installed and included adapters, all or the given NAMES.

    A FILE with a provenance beside it (adapt sign) is compared with it, and the signature of the provenance is checked,
    also that of a provenance that was installed with an adapter.

    With --run, load the backbone, run each NAME or FILE on its golden probes, and compare its answers with the saved
    answers.

    The exit status is 1 if an adapter has changed, is no longer trusted, or gives other answers.
    """
    if run:
        return _run(names, as_json, values)
    flags = [f"--{name.replace('_', '-')}" for name in ("backbone", *LOADING.fields) if values[name] is not None]
    if flags:
        raise UsageError(f"{', '.join(flags)} needs --run: without --run no backbone is loaded")
    documents = [_checked(name) for name in names or _names()]
    if as_json:
        show_json(documents)
        return _status(documents)
    show_table(("adapter", "state"), [[item["adapter"], item["problem"] or item["state"]] for item in documents])
    for item in documents:
        if "statement" in item:
            _show_provenance(item["adapter"], Provenance(item["statement"], item["signer"]))
    return _status(documents)


command.params += [
    Flag(["--backbone"], section=LOADING.flags[0].section, help="Another source of the same weights as the card's."),
    *LOADING.flags,
]


def _names() -> list[str]:
    """Return the names of the installed adapters, and of the included adapters that none of them replaces."""
    records = [record.entry.name for record in installed()]
    return [*records, *(entry.name for entry, _ in included() if entry.name not in records)]


def _status(documents: Sequence[Mapping[str, Any]]) -> int:
    return int(any(document["problem"] for document in documents))


def _checked(name: str) -> dict[str, Any]:
    """Return name, state and fault of an installed or included adapter, or of a file with a provenance beside it."""
    if Path(name).suffix == SUFFIX or os.sep in name:
        return _checked_file(Path(name))
    record = recorded(name)
    if record is not None:
        document = {"adapter": record.entry.label, "problem": verify(record), "state": "as installed"}
        return {**document, **_published_provenance(record.path)}
    entry = included_entry(name)
    if entry is not None:
        return {"adapter": entry.label, "problem": verify_included(name), "state": "as included in the package"}
    packaged = find(name)
    raise UsageError(
        f"{name!r} comes with the package {packaged.source}, whose files pip has installed, and not from a registry, "
        f"so it has no record to compare with"
    )


def _published_provenance(file: Path) -> dict[str, Any]:
    """Return signer and statement of the provenance that was installed with a file, if there is one."""
    if not path_beside(file).exists():
        return {}
    try:
        provenance = verify_provenance(file)
    except AdaptError as error:  # the file itself was verified by the hash and signature of its entry
        return {"state": f"as installed; its provenance does not count: {error}"}
    return {"state": f"as installed, with a provenance signed by {provenance.signer}", **_signed(provenance)}


def _checked_file(file: Path) -> dict[str, Any]:
    """Return signer and statement of the provenance beside a file, or the reason for its refusal."""
    if not path_beside(file).exists():
        raise UsageError(
            f"{file} is a file, and only installed adapters have a record to compare with: add --run. A file with a "
            f"provenance beside it (adapt sign) needs no record"
        )
    try:
        provenance = verify_provenance(file)
        read_adapter(file)
    except AdaptError as error:
        return {"adapter": str(file), "problem": str(error), "state": ""}
    state = f"provenance signed by {provenance.signer}"
    return {"adapter": str(file), "problem": None, "state": state, **_signed(provenance)}


def _signed(provenance: Provenance) -> dict[str, Any]:
    return {"signer": provenance.signer, "statement": provenance.statement}


def _show_provenance(file: str, provenance: Provenance) -> None:
    say()
    arguments = provenance.arguments
    show_pairs({"file": file, "task": arguments.get("task"), "method": arguments.get("method")})
    show_table(("trained with", "sha256 or version"), [list(pair) for pair in provenance.dependencies])


def _run(names: tuple[str, ...], as_json: bool, values: dict[str, Any]) -> int:
    options = load_options(values)
    files = [locate(name) for name in names or _names()]
    documents = [_asked(file, values["backbone"], options) for file in files]
    if as_json:
        show_json(documents)
    else:
        for document in documents:
            _show(document)
    return int(any(document["state"] == "other answers" for document in documents))


def _asked(file: Path, backbone: str | None, options: Any) -> dict[str, Any]:
    from adaptdock.cli.common.backbone import open_dock  # imports torch, which the checks without --run do not need
    from adaptdock.engine.inference.golden_probes import ask, is_changed, precision, response_changes

    adapter = read_adapter(file)
    card = adapter.card
    if card.probes is None:
        return {"file": str(file), "adapter": card.name, "state": card.proof, "probes": []}
    dock = open_dock(card, backbone, options)
    prepared = dock.prepare(adapter)
    (outcome,) = ask(dock, [prepared])
    assert outcome is not None  # the card has probes
    changes = response_changes(dock, adapter, prepared)
    same = outcome.good and not any(map(is_changed, changes))
    return {
        "file": str(file),
        "adapter": card.name,
        "state": "same answers" if same else "other answers",
        "difference": outcome.difference if math.isfinite(outcome.difference) else None,
        "tolerance": outcome.tolerance,
        "precision": precision(dock.backbone),
        "recorded in": card.probes.precision,
        "probes": [
            {
                "input": answered.probe.input,
                "saved": answered.probe.values,
                "now": _finite(answered.values),
            }
            for answered in outcome.answered
        ],
        "responses": [
            {
                "place": change.place,
                "saved": change.stored,
                "now": _finite(change.now),
                "difference": _finite([change.difference])[0],
                "changed": is_changed(change),
            }
            for change in changes
        ],
    }


def _finite(values: Sequence[float]) -> list[float | None]:
    """Return numbers as JSON has them, which has no NaN and no infinity."""
    return [value if math.isfinite(value) else None for value in values]


def _show(document: dict[str, Any]) -> None:
    if document["state"] == "no probes":
        note(f"{document['file']}: no probes, so no answers can be compared; training adds probes to an adapter")
        return
    rows = [[brief(probe["input"]), few(probe["saved"]), few(probe["now"])] for probe in document["probes"]]
    show_table(("golden probe", "when saved", "now"), rows)
    _show_responses(document)
    difference = document["difference"]
    amount = "their logits cannot be compared" if difference is None else f"they differ by {difference:.2%}"
    note(
        f"{document['file']}: {document['state']}: {amount}; {document['precision']} explains at most "
        f"{document['tolerance']:.2%} of their spread"
    )


def _show_responses(document: Mapping[str, Any]) -> None:
    """Show the responses that changed, or else the largest ones, and say how many there are."""
    responses = document["responses"]
    if not responses:
        note(f"{document['file']}: no responses of its ports, which older releases did not save")
        return
    changed = [response for response in responses if response["changed"]]
    rows = [
        [response["place"], few(response["saved"]), few(response["now"]), _share(response["difference"])]
        for response in (changed or responses)[:RESPONSES_SHOWN]
    ]
    say()
    show_table(("response to fixed numbers at", "size when saved", "now", "change"), rows)
    note(f"{document['file']}: {len(changed)} of {len(responses)} responses changed")


def _share(difference: float | None) -> str:
    return "not finite, or missing" if difference is None else f"{difference:.2%}"
