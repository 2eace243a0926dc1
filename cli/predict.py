"""``adapt predict``: an adapter at work on texts from arguments, a file or standard input."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import click

from adaptdock.cli.adapters import open_dock
from adaptdock.cli.flags import LOADING, Flag, SectionedCommand, load_options
from adaptdock.cli.names import ADAPTER
from adaptdock.cli.output import note, to_json
from adaptdock.cli.texts import Format, Item, from_arguments, from_lines
from adaptdock.engine.dock import Dock
from adaptdock.hub.file import read_file
from adaptdock.plugins.contracts import Task
from adaptdock.plugins.errors import AdaptError, DataError, UsageError

BATCHES_AT_ONCE = 16
"""Batches that are read before any is computed, so that inputs of like length meet."""
MARKED = r"\[[^\[\]|]+\|[^\[\]|]+\]"


@click.command("predict", cls=SectionedCommand)
@click.argument("file", type=ADAPTER)
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option("--input", "source", cls=Flag, metavar="FILE", help="Read inputs from a file; - is standard input.")
@click.option(
    "--format",
    "layout",
    cls=Flag,
    type=click.Choice(["auto", "text", "jsonl"]),
    default="auto",
    help="What a line of input is; auto takes one that begins with { as JSON.",
)
@click.option("--batch-size", cls=Flag, type=click.IntRange(min=1), default=32, show_default=True, help="Batch size.")
@click.option("--json", "as_json", cls=Flag, is_flag=True, help="Print one JSON object a line.")
def command(file: Path, texts: tuple[str, ...], source: str | None, layout: Format, **values: Any) -> None:
    """Run the adapter in FILE on texts, and print one answer for each, in order.

    FILE is a path, or the name of an installed adapter (adapt list).

    Without a TEXT and --input, standard input is read: a text or a JSON object a line.
    """
    if texts and source:
        raise UsageError(f"there are texts and --input {source}: give one of them")
    options = load_options(values)
    adapter = read_file(file)
    with _items(texts, source, layout) as items:
        first = next(items, None)
        if first is None:
            return
        dock = open_dock(adapter.card, values["backbone"], options)
        name = dock.dock(adapter)
        task = dock.assembly(name).task
        for chunk in _chunks(first, items, values["batch_size"] * BATCHES_AT_ONCE):
            _show(_predict(dock, name, chunk, values["batch_size"]), task, values["as_json"])


command.params += [
    Flag(["--backbone"], section=LOADING.flags[0].section, help="Another source of the same weights as the card's."),
    *LOADING.flags,
]


@contextmanager
def _items(texts: tuple[str, ...], source: str | None, layout: Format) -> Iterator[Iterator[Item]]:
    if texts and layout == "jsonl":
        yield from_lines((text.encode("utf-8", "surrogateescape") for text in texts), "text", layout)
    elif texts:
        yield from_arguments(texts)
    elif source in (None, "-"):
        if sys.stdin.isatty():
            note("Reading texts from the terminal, one a line; end with Ctrl-D.")
        yield from_lines(sys.stdin.buffer, "standard input", layout)
    else:
        with _opened(Path(str(source))) as stream:
            yield from_lines(stream, str(source), layout)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: it cannot be read: {error.strerror or error}") from None


def _chunks(first: Item, items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    chunk = [first, *islice(items, size - 1)]
    while chunk:
        yield chunk
        chunk = list(islice(items, size))


def _predict(dock: Dock, name: str, items: list[Item], batch_size: int) -> list[dict[str, Any]]:
    """Predict; an input that the task cannot read is named by its place."""
    try:
        return dock.predict(name, [item.value for item in items], batch_size)
    except AdaptError:
        task = dock.assembly(name).task
        for item in items:
            try:
                task.read(item.value)
            except AdaptError as error:
                raise DataError(f"{item.place}: {error}") from None
        raise


def _show(predictions: Iterable[dict[str, Any]], task: Task, as_json: bool) -> None:
    if as_json:
        lines = [to_json(prediction) for prediction in predictions]
    else:
        lines = [task.render(prediction) for prediction in predictions]
    if not as_json and sys.stdout.isatty():
        _highlight(lines)
    else:
        sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def _highlight(lines: Iterable[str]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for line in lines:
        text = Text(line)
        text.highlight_regex(MARKED, "bold cyan")
        console.print(text, soft_wrap=True)
