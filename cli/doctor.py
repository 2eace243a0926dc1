"""``adapt doctor``: an examination of an adapter of peft or AdapterHub for faults that its library does not tell."""

from pathlib import Path
from typing import Any

import click

from adaptdock.cli.common.flags import LOADING, Flag, SectionedCommand, load_options
from adaptdock.cli.common.output import say, show_json
from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.docking_trial import compare, effect
from adaptdock.errors import AdaptError
from adaptdock.hub.interchange.conversion import check_foreign, import_adapter, library_result
from adaptdock.hub.interchange.examination import Finding, examine
from adaptdock.plugins.contracts import Backbone


@click.command("doctor", cls=SectionedCommand)
@click.argument("source", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("--json", "as_json", cls=Flag, is_flag=True, help="Print JSON.")
def command(source: Path, as_json: bool, **values: Any) -> None:
    """Examine the adapter in FOLDER, saved by peft or AdapterHub, and name each fault with its remedy.

    Found are tensors that match no module, names of modules that the backbone lacks, an adapter that changes nothing, a
    head that was not saved, another base model, a resized vocabulary, and a difference from the installed peft. The
    exit status is 1 if there is a fault.
    """
    check_foreign(source)
    backbone = load_backbone(values["backbone"], load_options(values))
    findings = examine(source, backbone)
    findings += _tried(source, backbone)
    faults = [finding for finding in findings if finding.kind == "fault"]
    if as_json:
        show_json({"folder": str(source), "sound": not faults, "findings": [vars(finding) for finding in findings]})
    else:
        for finding in findings:
            say(f"{finding.kind}: {finding.text}")
        say(f"{source}: {len(faults)} fault{'s' * (len(faults) > 1)}" if faults else f"{source}: sound")
    if faults:
        raise click.exceptions.Exit(1)


command.params += [
    Flag(["--backbone"], section=LOADING.flags[0].section, required=True, help="The backbone of the adapter."),
    *LOADING.flags,
]


def _tried(source: Path, backbone: Backbone) -> list[Finding]:
    """Import the adapter and run it; return what that shows."""
    try:
        imported = import_adapter(source, backbone, "examined")
    except AdaptError as error:
        return [Finding("fault", f"it cannot be imported: {error}")]
    dock, findings = Dock(backbone), [Finding("note", text) for text in imported.notes]
    largest = effect(dock, imported.file)
    if not largest:
        methods = " and ".join(method.name for method in imported.file.card.methods) or "the adapter"
        findings.append(
            Finding(
                "fault",
                f"{methods} changes nothing on a small batch: the weights have not been trained, were saved as zeros, "
                f"or have a scale of zero. Save the trained model again",
            )
        )
    try:
        reference = imported.reference or library_result(source, backbone)
    except AdaptError as error:
        return [*findings, Finding("note", f"it was not compared with its library: {error}")]
    try:
        compare(dock, imported.file, reference)
    except AdaptError as error:
        findings.append(Finding("fault", str(error)))
    return findings
