"""``adapt verify``: check that installed adapters are unchanged, and that adapters answer their golden probes."""

import math
import os
from pathlib import Path
from typing import Any

import click

from adaptdock.cli.common.flags import LOADING, Flag, SectionedCommand, load_options
from adaptdock.cli.common.output import brief, few, note, show_json, show_table
from adaptdock.errors import UsageError
from adaptdock.hub.registry.admission import read_adapter
from adaptdock.hub.registry.installed import locate
from adaptdock.hub.registry.store import find, installed, verify
from adaptdock.plugins.files import SUFFIX


@click.command("verify", cls=SectionedCommand)
@click.argument("names", nargs=-1, metavar="[NAME|FILE]...")
@click.option("--run", cls=Flag, is_flag=True, help="Run the adapters on their golden probes, and show the answers.")
@click.option("--json", "as_json", cls=Flag, is_flag=True, help="Print JSON.")
def command(names: tuple[str, ...], run: bool, as_json: bool, **values: Any) -> int:
    """Check hash, signature and revocations of installed adapters, all or the given NAMES.

    With --run, load the backbone, run each NAME or FILE on its golden probes, and compare its answers with the saved
    answers.

    The exit status is 1 if an adapter has changed, is no longer trusted, or gives other answers.
    """
    if run:
        return _run(names, as_json, values)
    flags = [f"--{name.replace('_', '-')}" for name in ("backbone", *LOADING.fields) if values[name] is not None]
    if flags:
        raise UsageError(f"{', '.join(flags)} needs --run: without --run no backbone is loaded")
    file = next((name for name in names if Path(name).suffix == SUFFIX or os.sep in name), None)
    if file is not None:
        raise UsageError(f"{file} is a file, and only installed adapters have a record to compare with: add --run")
    records = [find(name) for name in names] or installed()
    problems = {record.entry.label: verify(record) for record in records}
    if as_json:
        show_json([{"adapter": label, "problem": problem} for label, problem in problems.items()])
    else:
        show_table(("adapter", "state"), [[label, problem or "as installed"] for label, problem in problems.items()])
    return int(any(problems.values()))


command.params += [
    Flag(["--backbone"], section=LOADING.flags[0].section, help="Another source of the same weights as the card's."),
    *LOADING.flags,
]


def _run(names: tuple[str, ...], as_json: bool, values: dict[str, Any]) -> int:
    options = load_options(values)
    files = [locate(name) for name in names] or [record.path for record in installed()]
    documents = [_asked(file, values["backbone"], options) for file in files]
    if as_json:
        show_json(documents)
    else:
        for document in documents:
            _show(document)
    return int(any(document["state"] == "other answers" for document in documents))


def _asked(file: Path, backbone: str | None, options: Any) -> dict[str, Any]:
    from adaptdock.cli.common.backbone import open_dock  # imports torch, which the checks without --run do not need
    from adaptdock.engine.inference.golden_probes import ask, precision

    adapter = read_adapter(file)
    card = adapter.card
    if card.probes is None:
        return {"file": str(file), "adapter": card.name, "state": card.proof, "probes": []}
    dock = open_dock(card, backbone, options)
    (outcome,) = ask(dock, [dock.prepare(adapter)])
    assert outcome is not None  # the card has probes
    return {
        "file": str(file),
        "adapter": card.name,
        "state": "same answers" if outcome.good else "other answers",
        "difference": outcome.difference if math.isfinite(outcome.difference) else None,
        "tolerance": outcome.tolerance,
        "precision": precision(dock.backbone),
        "recorded in": card.probes.precision,
        "probes": [
            {
                "input": answered.probe.input,
                "saved": answered.probe.values,
                "now": [value if math.isfinite(value) else None for value in answered.values],
            }
            for answered in outcome.answered
        ],
    }


def _show(document: dict[str, Any]) -> None:
    if document["state"] == "no probes":
        note(f"{document['file']}: no probes, so no answers can be compared; training adds probes to an adapter")
        return
    rows = [[brief(probe["input"]), few(probe["saved"]), few(probe["now"])] for probe in document["probes"]]
    show_table(("golden probe", "when saved", "now"), rows)
    difference = document["difference"]
    amount = "their logits cannot be compared" if difference is None else f"they differ by {difference:.2%}"
    note(
        f"{document['file']}: {document['state']}: {amount}; {document['precision']} explains at most "
        f"{document['tolerance']:.2%} of their spread"
    )
