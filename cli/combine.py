"""``adapt combine``: a weighted sum of adapters as a new adapter."""

from pathlib import Path
from typing import Any

import click

from adaptdock.cli.common.backbone import open_backbone
from adaptdock.cli.common.flags import LOADING, Flag, SectionedCommand, field_flags, load_options
from adaptdock.cli.common.output import count, show_json, show_pairs
from adaptdock.cli.common.parameters import ADAPTER
from adaptdock.engine.core.assembly import validated
from adaptdock.engine.merging.arithmetic import AVERAGE, check, combine
from adaptdock.engine.merging.combination import CombineOptions
from adaptdock.errors import UsageError
from adaptdock.hub.artefact.card import Card
from adaptdock.hub.artefact.file import write_file
from adaptdock.hub.registry.admission import read_adapter

OPTIONS = field_flags(CombineOptions, "combine", "Arithmetic")


@click.command("combine", cls=SectionedCommand)
@click.argument("files", nargs=-1, required=True, type=ADAPTER)
@click.option(
    "--weights", cls=Flag, metavar="A,B,...", required=True, help="A number for each file; a negative number subtracts."
)
@click.option(
    "--head",
    cls=Flag,
    metavar=f"FILE|{AVERAGE}",
    default=AVERAGE,
    show_default=True,
    help="Adapter with the head, task and labels of the result, or the weighted mean of the heads.",
)
@click.option("--output", "-o", cls=Flag, type=click.Path(path_type=Path), required=True, help="The adapter file.")
@click.option("--name", cls=Flag, help="Name of the new adapter.", shown="default: name of the output file")
@click.option("--overwrite", cls=Flag, is_flag=True, help="Replace an existing file.")
@click.option("--json", "as_json", cls=Flag, is_flag=True, help="Print JSON.")
def command(
    files: tuple[Path, ...],
    weights: str,
    head: str,
    output: Path,
    name: str | None,
    overwrite: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Add, subtract or average the adapters in FILES, and save the result as one new adapter.

    FILES are low-rank adapters (lora) of one backbone. --weights 0.7,0.3 averages two adapters, 1,-1 subtracts the
    second from the first, and -1 alone negates an adapter.

    ties, dare and magnitude_prune call the library peft.
    """
    options = validated(CombineOptions, OPTIONS.given(values), "combine")
    called = name or output.stem
    _check_output(output, overwrite, called)
    adapters, numbers = [read_adapter(file) for file in files], _numbers(weights)
    of_head = None if head == AVERAGE else read_adapter(head)
    check(adapters, numbers, options, of_head)
    backbone = open_backbone(adapters[0].card, values["backbone"], load_options(values))
    combined = combine(backbone, adapters, numbers, options, of_head, called)
    _show(output, write_file(output, combined, overwrite), combined.card, as_json)


command.params += [
    *OPTIONS.flags,
    Flag(["--backbone"], section=LOADING.flags[0].section, help="Another source of the same weights as the cards'."),
    *LOADING.flags,
]


def _check_output(output: Path, overwrite: bool, name: str) -> None:
    if output.is_dir():
        raise UsageError(f"{output} is a folder; --output names the adapter file")
    if output.exists() and not overwrite:
        raise UsageError(f"{output} exists already: give another --output, or --overwrite to replace it")
    if "+" in name or not 0 < len(name) <= 200:
        raise UsageError(f"the name {name!r} cannot be used: --name has 1 to 200 characters and no '+'")


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--weights {text!r}: write a number for each file, comma-separated: 0.7,0.3") from None


def _show(output: Path, size: int, card: Card, as_json: bool) -> None:
    (method,) = card.methods
    if as_json:
        show_json({"output": str(output), "bytes": size, "card": card.model_dump(mode="json")})
        return
    training = card.training
    terms = zip(training["weights"], training["combined"], strict=True)
    show_pairs(
        {
            "adapter": f"{output} ({count(size)} bytes)",
            "combined": f"{', '.join(f'{weight:g} {name}' for weight, name in terms)} ({training['how']})",
            "method": ", rank ".join(map(str, (method.name, *filter(None, [method.options.get("rank")])))),
            "task": f"{card.task.name}; head: {training['head']}",
        }
    )
