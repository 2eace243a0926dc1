"""``adapt rebuild``: train an adapter again, and compare."""

import platform
import tempfile
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import click

from adaptdock.cli.common.output import brief, note, show_json, show_table
from adaptdock.cli.common.parameters import ADAPTER
from adaptdock.errors import UsageError

if TYPE_CHECKING:
    from adaptdock.engine.training.rebuild import Rebuilt
    from adaptdock.hub.artefact.card import Card


@click.command("rebuild")
@click.argument("file", type=ADAPTER)
@click.option("--data", metavar="PATH|NAME", help="Folder, file or hub data set of the training.")
@click.option("--train", metavar="FILE", help="Training data.")
@click.option("--validation", metavar="FILE", help="Validation data.")
@click.option("--test", metavar="FILE", help="Test data.")
@click.option("--backbone", metavar="NAME|PATH", help="Another source of the same weights as the card's.")
@click.option(
    "--run-dir", type=click.Path(path_type=Path), metavar="FOLDER", help="Keep the new run in this new folder."
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Largest accepted difference of a metric.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    file: Path, backbone: str | None, run_dir: Path | None, tolerance: float, as_json: bool, **files: str | None
) -> int:
    """Train the adapter in FILE again from the arguments in its card, and compare weights and metrics.

    FILE is a path, or the name of an installed adapter. Without data options, files with the recorded names in this
    folder are read. Other data than those of the training are refused.

    Equal machines, libraries and numbers of threads give equal bits. The exit status is 1 if the weights differ, and a
    metric too by more than --tolerance.
    """
    from adaptdock.cli.common.backbone import open_backbone
    from adaptdock.cli.training.output_paths import LOG, run_folder
    from adaptdock.cli.training.progress import watching
    from adaptdock.engine.core.assembly import validated
    from adaptdock.engine.training.rebuild import plan_again, rebuild, source_of
    from adaptdock.hub.registry.admission import read_adapter
    from adaptdock.plugins.contracts import LoadOptions

    if run_dir is not None and run_dir.is_dir() and any(run_dir.iterdir()):
        raise UsageError(f"the folder {run_dir} is not empty: give another --run-dir")
    adapter = read_adapter(file)
    card = adapter.card
    source = source_of(card, files)
    loading = {"dtype": card.training.get("precision", "auto"), "quantize": card.training.get("quantized")}
    options = validated(LoadOptions, loading, "the precision in the card")
    run_plan = plan_again(card, open_backbone(card, backbone, options), source)
    for line in [*_other_versions(card), *run_plan.notes]:
        note(line)
    with ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory())) if run_dir is None else run_dir
        folder = stack.enter_context(run_folder(temporary))
        watch = stack.enter_context(watching(folder / LOG, silent=as_json))
        rebuilt = rebuild(adapter, run_plan, folder, watch)
    if rebuilt.result.ending == "interrupted":
        note("Interrupted: nothing was compared")
        return 130
    _show(card, rebuilt, as_json)
    return int(not (rebuilt.identical or rebuilt.close(tolerance)))


def _other_versions(card: "Card") -> list[str]:
    """Return a note where libraries have other versions than at the training."""
    libraries = card.training.get("libraries", {})
    now = {name: _version(name) for name in libraries} | {"python": platform.python_version()}
    before = {**libraries, "python": card.training.get("python")}
    changed = [f"{name} {now[name]} (was {before[name]})" for name in now if now[name] != before[name]]
    return [f"other versions than at the training, so the bits may differ: {', '.join(changed)}"] if changed else []


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _show(card: "Card", rebuilt: "Rebuilt", as_json: bool) -> None:
    if as_json:
        metrics = {name: {"recorded": pair[0], "now": pair[1]} for name, pair in rebuilt.metrics.items()}
        options = {name: {"recorded": pair[0], "now": pair[1]} for name, pair in rebuilt.options.items()}
        largest = rebuilt.largest if rebuilt.largest < float("inf") else None
        show_json({"identical": rebuilt.identical, "largest": largest, "metrics": metrics, "task_options": options})
        return
    show_table(("metric", "recorded", "now"), [[name, *map(str, pair)] for name, pair in rebuilt.metrics.items()])
    for name, (before, now) in rebuilt.options.items():
        note(f"the task's option {name} was {brief(before)} and is {brief(now)} now")
    if rebuilt.largest == 0.0:
        note(f"{card.name}: all {len(rebuilt.result.adapter.tensors)} tensors are the same bits")
    elif rebuilt.largest == float("inf"):
        note(f"{card.name}: the tensors have other names or shapes, or are not finite")
    else:
        note(f"{card.name}: the weights differ, by {rebuilt.largest:.2g} at most")
