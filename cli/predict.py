"""``adapt predict``: predictions for texts from arguments, a file or standard input."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adaptdock.cli.common.auto_install import located
from adaptdock.cli.common.flags import LOADING, Flag, SectionedCommand, batch_size_option, data_flags
from adaptdock.cli.common.inputs import LAYOUTS, LINES, from_arguments, from_file, from_lines
from adaptdock.cli.common.labelling import check_file_output, is_folder, label, labelling_flags
from adaptdock.cli.common.output import answer_line, console, note, to_json
from adaptdock.cli.common.precision import NAME, precision_flag, prediction_options
from adaptdock.cli.common.ray_labelling import label_on_ray
from adaptdock.cli.common.streaming import Arriving, arrives, lines, take
from adaptdock.engine.data.prediction_files import FORMS, PLAIN_FORMS, check_form, encoded, form_of
from adaptdock.engine.data.sources import Input, Reader, Source, parse_columns
from adaptdock.errors import SHOWN, AdaptError, DataError, FileError, UsageError
from adaptdock.hub.artefact.atomic import write_atomically
from adaptdock.plugins import registry

if TYPE_CHECKING:
    from adaptdock.engine.inference.dock import Dock
    from adaptdock.serving.client.client import Client

BATCHES_AT_ONCE = 16
"""Batches read ahead, so that inputs of similar length share a batch."""
SERVED = "Serving process"
MARKED = r"\[[^\[\]|]+\|[^\[\]|]+\]"


@dataclass(frozen=True)
class Answering:
    """A source of predictions: a line or a prediction for each input, and the name of the task."""

    answer: Callable[[list[Input]], list[str]]
    predict: Callable[[list[Input]], list[dict[str, Any]]]
    task: Callable[[], str]
    options: Callable[[], Mapping[str, Any]]
    """The options of the task; empty for a serving process."""


@click.command("predict", cls=SectionedCommand)
@click.argument("words", nargs=-1, metavar="FILE [TEXT]...")
@click.option(
    "--input",
    "source",
    cls=Flag,
    metavar="FILE",
    help="Read inputs from a file in the format of its suffix. Without a suffix a line is a text. - is standard "
    "input. With an output folder, also a folder or a pattern such as 'texts/*.parquet'.",
)
@click.option(
    "--format",
    "layout",
    cls=Flag,
    type=click.Choice(LAYOUTS),
    default="auto",
    help="Format of the input. auto follows the suffix, and reads a line that begins with { as JSON.",
)
@batch_size_option("Inputs")
@click.option(
    "--output",
    cls=Flag,
    metavar="FILE|FOLDER/",
    help="Write the predictions to a file instead of printing them; the suffix names the format. With a slash at the "
    "end, label many files into a folder of Parquet files; a run that was killed continues.",
)
@click.option(
    "--output-format",
    cls=Flag,
    type=click.Choice(FORMS),
    help="Format of the output. adapt train reads all of them as training data.",
)
@click.option(
    "--overwrite",
    cls=Flag,
    is_flag=True,
    help="Replace an existing output file; in an output folder, parts whose input, adapter or options have changed.",
)
@click.option("--yes", cls=Flag, is_flag=True, help="Install a published adapter that is not installed yet.")
@click.option(
    "--require-signed",
    cls=Flag,
    is_flag=True,
    help="Use only an installed adapter that a trusted publisher has signed, or a copy of it.",
)
@click.option(
    "--locked",
    cls=Flag,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Use only an adapter whose content is in this lock file.",
)
@click.option(
    "--no-probes", cls=Flag, is_flag=True, help="Use the adapter even if its answers to its golden probes have changed."
)
@click.option("--json", "as_json", cls=Flag, is_flag=True, help="Print one JSON object per line.")
def command(words: tuple[str, ...], source: str | None, layout: str, **values: Any) -> None:
    """Run the adapter in FILE on texts, and print one prediction for each text, in order.

    FILE is a path, or the name of an installed adapter (adapt list) or of a published adapter (--yes). With --url no
    FILE is given: a serving process answers. Its access token is read from the variable ADAPTDOCK_TOKEN.

    With neither TEXT nor --input, read standard input: one text or JSON object per line. A line of a pipe or
    terminal is answered when it arrives.
    """
    if is_folder(values["output"]):
        (label_on_ray if values["on_ray"] else label)(words, source, layout, values)
        return
    check_file_output(values)
    values["output"] = Path(values["output"]) if values["output"] else None
    url = values["url"]
    _check(words, url, values)
    texts = words if url else words[1:]
    if texts and source:
        raise UsageError(f"texts and --input {source} cannot be combined: give only one")
    _check_input(source, layout, values)
    _check_output(url, values)
    answering = _by_process(url, values) if url else _by_file(located(words[0], values["yes"]), values)
    at_once = values["batch_size"] * (1 if url else BATCHES_AT_ONCE)
    items = _items(texts, source, layout, lambda: _reader(answering, values), at_once)
    if values["output"]:
        _write(answering, items, at_once, values)
        return
    while chunk := take(items, at_once):
        _show(answering.answer(chunk), values["as_json"])


command.params += [
    Flag(["--url"], section=SERVED, help="Address of a serving process, such as http://127.0.0.1:8000."),
    Flag(
        ["--adapter"],
        section=SERVED,
        metavar="NAME",
        help="Adapter of the serving process. Needed if it serves several.",
    ),
    Flag(["--backbone"], section=LOADING.flags[0].section, help="Another source of the same weights as the card's."),
    *(flag for flag in data_flags({}) if flag.name in ("columns", "encoding")),
    *LOADING.flags,
    precision_flag(),
    *labelling_flags(),
]


def _check(words: tuple[str, ...], url: str | None, values: dict[str, Any]) -> None:
    if url is None:
        if values["adapter"] is not None:
            raise UsageError("--adapter names an adapter of a serving process: give its address with --url")
        if not words:
            raise UsageError("the FILE of an adapter is missing. See adapt predict --help.")
        return
    loading = [name for name in ("backbone", *LOADING.fields, NAME) if values[name] is not None]
    reading = [name for name in ("require_signed", "locked", "no_probes") if values[name]]
    if loading or reading:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in (*loading, *reading))
        noun = "backbone" if loading else "adapters"
        raise UsageError(f"{names} cannot be combined with --url: the process at {url} has loaded its own {noun}")


# ------------------------------------------------------------------------------------------- inputs


def _check_input(source: str | None, layout: str, values: dict[str, Any]) -> None:
    """Raise :class:`UsageError` for options that only a file has."""
    if source not in (None, "-"):
        return
    if layout not in LINES:
        raise UsageError(
            f"--format {layout} needs a file (--input FILE); texts and standard input are {', '.join(LINES)}"
        )
    flags = [f"--{name}" for name in ("columns", "encoding") if values[name]]
    if flags:
        raise UsageError(f"{' and '.join(flags)} can only be used with a file: --input FILE")


def _items(
    texts: tuple[str, ...], source: str | None, layout: str, reader: Callable[[], Reader], at_once: int
) -> Iterator[Input] | Arriving:
    if texts and layout == "jsonl":
        return from_lines((text.encode("utf-8", "surrogateescape") for text in texts), "text", layout)
    if texts:
        return from_arguments(texts, layout)
    if source not in (None, "-"):
        return from_file(Path(str(source)), layout, reader)
    if sys.stdin.isatty():
        note("Reading texts from the terminal, one per line; end with Ctrl-D.")
    stream = sys.stdin.buffer
    if not arrives(stream):
        return from_lines(stream, "standard input", layout)
    return Arriving(from_lines(lines(stream), "standard input", layout), at_once)


def _reader(answering: Answering, values: dict[str, Any]) -> Reader:
    """Return a file reader for the task of the adapter."""
    columns = parse_columns(values["columns"])
    return Reader(
        registry.load("task", answering.task()), Source(columns=columns, encoding=values["encoding"] or "utf-8")
    )


# ------------------------------------------------------------------------------------------- output


def _check_output(url: str | None, values: dict[str, Any]) -> None:
    """Raise :class:`UsageError` for an invalid output before anything is loaded."""
    output = values["output"]
    if output is None:
        flags = [f"--{name.replace('_', '-')}" for name in ("output_format", "overwrite") if values[name]]
        if flags:
            raise UsageError(f"{' and '.join(flags)} apply to an output file: name the file with --output FILE")
        return
    form = form_of(output, values["output_format"])
    if values["as_json"]:
        raise UsageError("--json is for printed answers; --output-format jsonl writes one JSON object per line")
    if url and form not in PLAIN_FORMS:
        raise UsageError(f"--output-format {form} needs the adapter's file; with --url give {', '.join(PLAIN_FORMS)}")
    if output.exists() and not values["overwrite"]:
        raise UsageError(f"{output} exists already: give another --output, or --overwrite to replace it")


def _write(answering: Answering, items: Iterator[Input] | Arriving, at_once: int, values: dict[str, Any]) -> None:
    """Write the predictions of all inputs into one file."""
    output, form = values["output"], form_of(values["output"], values["output_format"])
    task = None
    if form not in PLAIN_FORMS:
        check_form(form, registry.load("task", answering.task()), answering.task())
        from adaptdock.engine.core.assembly import make_task

        task = make_task(answering.task(), answering.options())
    predictions: list[dict[str, Any]] = []
    while chunk := take(items, at_once):
        predictions += answering.predict(chunk)
    blob, notes = encoded(predictions, form, task)
    try:
        write_atomically(output, blob, values["overwrite"])
    except OSError as error:
        raise FileError(output, f"it could not be written: {error.strerror or error}") from None
    for line in [*notes, f"{len(predictions)} answers written to {output} ({form})"]:
        note(line)


# ------------------------------------------------------------------------------------------ answers


def _by_file(file: Path, values: dict[str, Any]) -> Answering:
    """Return predictions of an adapter file; its backbone is loaded at the first input."""
    from adaptdock.hub.registry.admission import Requirements, read_adapter

    options = prediction_options(values)
    adapter = read_adapter(file, Requirements(values["require_signed"], values["locked"]))

    @cache
    def opened() -> "tuple[Dock, str]":
        from adaptdock.cli.common.backbone import open_dock

        dock = open_dock(adapter.card, values["backbone"], options)
        return dock, dock.dock(adapter if values["no_probes"] else dock.proved(adapter))

    def predict(items: list[Input]) -> list[dict[str, Any]]:
        dock, name = opened()
        return _predict(dock, name, items, values["batch_size"])

    def answer(items: list[Input]) -> list[str]:
        dock, name = opened()
        render = to_json if values["as_json"] else dock.assembly(name).task.render
        return [render(prediction) for prediction in predict(items)]

    return Answering(answer, predict, lambda: adapter.card.task.name, lambda: adapter.card.task.options)


def _predict(dock: "Dock", name: str, items: list[Input], batch_size: int) -> list[dict[str, Any]]:
    """Predict; raise :class:`DataError` with the place of an input that the task cannot read."""
    try:
        return dock.predict(name, [item.value for item in items], batch_size)
    except AdaptError:
        task = dock.assembly(name).task
        for item in items:
            try:
                task.read(item.value)
            except AdaptError as error:
                raise DataError(f"{item.place}: {error}{item.hint}") from None
        raise


def _by_process(url: str, values: dict[str, Any]) -> Answering:
    """Return predictions of a serving process."""
    from adaptdock.serving.client.client import Client, RequestError

    client = Client(url)
    name = values["adapter"] or _only(client)

    def asked(items: list[Input], ask: Callable[[list[Any]], list[Any]]) -> list[Any]:
        try:
            return ask([item.value for item in items])
        except RequestError as error:
            kind, _, number = (error.param or "").partition(".")
            if kind != "inputs" or not number.isdigit():
                raise
            item = items[int(number)]
            raise DataError(f"{item.place}: {error}{item.hint}") from None

    def predict(items: list[Input]) -> list[dict[str, Any]]:
        return [dict(answer.prediction) for answer in asked(items, lambda inputs: client.predict(name, inputs))]

    def answer(items: list[Input]) -> list[str]:
        if values["as_json"]:
            return list(map(to_json, predict(items)))
        return [str(answer.rendered) for answer in asked(items, lambda inputs: client.render(name, inputs))]

    def task() -> str:
        return client.adapter(name.partition("@")[0].partition("+")[0]).task

    return Answering(answer, predict, task, dict)


def _only(client: "Client") -> str:
    names = [adapter.name for adapter in client.adapters().adapters]
    if len(names) != 1:
        raise UsageError(f"--adapter NAME is needed: {client.url} serves {', '.join(names[:SHOWN]) or 'none'}")
    return names[0]


def _show(lines: Iterable[str], as_json: bool) -> None:
    shown = lines if as_json else map(answer_line, lines)
    if not as_json and sys.stdout.isatty():
        _highlight(shown)
    else:
        sys.stdout.write("".join(f"{line}\n" for line in shown))
    sys.stdout.flush()


def _highlight(lines: Iterable[str]) -> None:
    from rich.text import Text

    drawing = console(sys.stdout)
    for line in lines:
        text = Text(line)
        text.highlight_regex(MARKED, "bold cyan")
        drawing.print(text, soft_wrap=True)
