"""``adapt predict --output FOLDER/``: the rows of many large files, labelled in parts."""

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adaptdock.cli.common.auto_install import located
from adaptdock.cli.common.flags import LOADING, Flag
from adaptdock.cli.common.output import count, note
from adaptdock.cli.common.precision import NAME, prediction_options
from adaptdock.engine.data.chunks import LAYOUTS, row_file
from adaptdock.engine.data.columns import is_number
from adaptdock.engine.data.file_lists import file_list
from adaptdock.engine.data.formats import FORMATS
from adaptdock.engine.data.sources import Source, parse_columns
from adaptdock.engine.data.tables import plain
from adaptdock.engine.data.text_files import Texts
from adaptdock.errors import DataError, FileError, UnknownNameError, UsageError
from adaptdock.hub.artefact.card import Card
from adaptdock.hub.artefact.file import read_card
from adaptdock.hub.artefact.locks import changing
from adaptdock.hub.registry.admission import Requirements
from adaptdock.hub.registry.installed import installed
from adaptdock.plugins import registry
from adaptdock.plugins.files import SUFFIX

if TYPE_CHECKING:
    from adaptdock.engine.inference.dock import Dock
    from adaptdock.engine.inference.labelling import Labelling, LabellingCounts, LabellingInput

SECTION = "Many files"
PAUSE = 10.0
"""Seconds between two lines of progress."""
WITHOUT = ("url", "adapter", "as_json")
"""Options that labelling does not have."""


def labelling_flags() -> list[Flag]:
    """Return the options that are for an output folder alone."""
    return [
        Flag(
            ["--adapter-column"],
            section=SECTION,
            metavar="COLUMN",
            help="Column that names the adapter of each row; no FILE is given then.",
        ),
        Flag(
            ["--adapters"],
            section=SECTION,
            type=click.Path(path_type=Path, exists=True, file_okay=False),
            metavar="FOLDER",
            help="Folder of the adapters that --adapter-column names. Without it, they are installed adapters.",
        ),
        Flag(["--text-column"], section=SECTION, metavar="COLUMN", help="Same as --columns text=COLUMN."),
        Flag(
            ["--shard"],
            section=SECTION,
            metavar="K/N",
            help="Label the K-th of N parts of the work, so that N processes divide it.",
        ),
        Flag(
            ["--part-rows"],
            section=SECTION,
            type=click.IntRange(min=1),
            default=10_000,
            show_default=True,
            help="Largest number of rows in an output file.",
        ),
        Flag(
            ["--answer-prefix"],
            section=SECTION,
            default="",
            metavar="TEXT",
            help="Put before the names of the answer columns (answer, label, score).",
        ),
        Flag(
            ["--adapter-bytes"],
            section=SECTION,
            type=click.IntRange(min=1),
            metavar="BYTES",
            help="Memory for adapters; those unused the longest make room.",
        ),
        Flag(["--ray", "on_ray"], section=SECTION, is_flag=True, help="Divide the work among workers on Ray."),
        Flag(
            ["--workers"],
            section=SECTION,
            type=click.IntRange(min=1),
            metavar="N",
            help="Workers with --ray, each with its own backbone; default: the processor cores of the cluster.",
        ),
        Flag(
            ["--ray-address"],
            section=SECTION,
            metavar="HOST:PORT",
            help="Running Ray cluster, or auto; default: a new one on this machine.",
        ),
    ]


SPELLED = {"on_ray": "--ray"}
"""Options whose parameter has another name."""
FLAGS = (
    *("adapter_column", "adapters", "text_column", "shard", "answer_prefix", "adapter_bytes"),
    *("on_ray", "workers", "ray_address"),
)
"""Options without a default that are for an output folder alone."""


def is_folder(output: str | None) -> bool:
    """Return whether an output is a folder of parts: it ends with a slash, or is an existing folder."""
    return output is not None and (output.endswith(("/", os.sep)) or Path(output).is_dir())


def check_file_output(values: Mapping[str, Any]) -> None:
    """Raise :class:`UsageError` for options of a folder of parts where the output is not one."""
    names = [SPELLED.get(name, f"--{name.replace('_', '-')}") for name in FLAGS if values[name]]
    if names:
        raise UsageError(
            f"{' and '.join(names)} can only be used with an output folder: end its name with a slash, such as "
            f"--output {values['output'] or 'out'}/"
        )


def label(words: Sequence[str], source: str | None, layout: str, values: Mapping[str, Any]) -> None:
    """Label the rows of files into a folder; raise :class:`DataError` if rows were rejected."""
    check_labelling(words, source, layout, values)
    if values["workers"] or values["ray_address"]:
        raise UsageError("--workers and --ray-address are for labelling on Ray: add --ray")
    output, progress = Path(values["output"]), Progress()
    shard, shards = _shard(values["shard"])
    labelling = prepared(words, source, layout, values, (shard, shards), progress)
    progress.notes = lambda: labelling.adapters.notes
    with changing(output / f"shard-{shard + 1}-of-{shards}", seconds=0.0):
        progress.total = labelling.check()
        if progress.total:
            labelling.adapters.open()
        progress.since = time.monotonic()
        counts = labelling.run()
    progress.show(counts)
    finish(counts, output)


def prepared(
    words: Sequence[str],
    source: str | None,
    layout: str,
    values: Mapping[str, Any],
    shard: tuple[int, int],
    progress: "Callable[[LabellingCounts], None]",
    say: Callable[[str], None] = note,
) -> "Labelling":
    """Return the labelling of a shard; ``shard`` is its number from 0 and the number of shards.

    ``say`` prints the guesses about the inputs. Raises the errors of options and inputs that cannot be used.
    """
    from adaptdock.engine.inference.labelling import Labelling, LabellingPlan
    from adaptdock.engine.inference.parts import Parts
    from adaptdock.engine.inference.row_adapters import RowAdapters

    output = Path(values["output"])
    adapters = _adapters(words, values, say)
    reading = Source(columns=_columns(values), encoding=values["encoding"] or "utf-8")
    inputs = _inputs(str(source), layout, reading, adapters.fields, output, say)
    row_adapters = RowAdapters(
        partial(_open_dock, adapters.card, values),
        adapters.files,
        reading,
        values["batch_size"],
        adapters.only,
        Requirements(values["require_signed"], values["locked"]),
        not values["no_probes"],
        values["adapter_bytes"],
    )
    column = values["adapter_column"]
    plan = LabellingPlan(
        _settings(values, layout),
        values["part_rows"],
        chunk_rows=values["batch_size"] * 16,
        adapter_column=column,
        columns=[*(name for name in reading.columns.values() if not is_number(name)), *([column] if column else [])],
        prefix=values["answer_prefix"],
        shard=shard[0],
        shards=shard[1],
        overwrite=values["overwrite"],
    )
    return Labelling(inputs, Parts(output), row_adapters, plan, progress)


# --------------------------------------------------------------------------------------------- options


def check_labelling(words: Sequence[str], source: str | None, layout: str, values: Mapping[str, Any]) -> None:
    """Raise :class:`UsageError` for options that do not go together, before anything is read."""
    names = [f"--{name.replace('as_', '')}" for name in WITHOUT if values[name]]
    if names:
        raise UsageError(f"{' and '.join(names)} cannot be combined with an output folder: give --output a file")
    if values["output_format"] not in (None, "parquet"):
        raise UsageError(f"an output folder has Parquet files: leave out --output-format {values['output_format']}")
    if source in (None, "-"):
        raise UsageError("an output folder needs files: --input FILE, FOLDER or a pattern such as 'texts/*.parquet'")
    if layout not in ("auto", *LAYOUTS):
        raise UsageError(f"--format {layout} cannot be used with an output folder: {', '.join(LAYOUTS)}")
    if values["adapter_column"] is None:
        if len(words) != 1:
            raise UsageError("an output folder needs one FILE of an adapter, or --adapter-column")
        if values["adapters"]:
            raise UsageError("--adapters is the folder of the adapters that --adapter-column names: give both")
    elif words:
        raise UsageError(
            f"--adapter-column names the adapter of each row, and {words[0]} would be for all rows: leave one out"
        )


def _shard(text: str | None) -> tuple[int, int]:
    """Return the number of a shard, from 0, and the number of shards."""
    if text is None:
        return 0, 1
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--shard {text}: give the number of the shard, from 1, and of all shards, such as 3/16")
    return int(match[1]) - 1, int(match[2])


def _columns(values: Mapping[str, Any]) -> dict[str, str]:
    columns = dict(parse_columns(values["columns"]))
    if values["text_column"]:
        if columns.get("text", values["text_column"]) != values["text_column"]:
            raise UsageError(f"--text-column and --columns text={columns['text']} name two columns: leave one out")
        columns["text"] = values["text_column"]
    return columns


def _settings(values: Mapping[str, Any], layout: str) -> dict[str, Any]:
    """Return the options that decide answers and ranges; the device is not among them."""
    loading = {name: values[name] for name in (*LOADING.fields, NAME) if name != "device"}
    settings = {
        "--columns": ",".join(f"{name}={column}" for name, column in sorted(_columns(values).items())) or None,
        "--adapter-column": values["adapter_column"],
        "--format": layout,
        "--encoding": values["encoding"],
        "--part-rows": values["part_rows"],
        "--answer-prefix": values["answer_prefix"] or None,
        "--backbone": values["backbone"],
    }
    settings |= {f"--{name.replace('_', '-')}": value for name, value in loading.items()}
    return {name: value for name, value in settings.items() if value is not None}


# -------------------------------------------------------------------------------------------- adapters


@dataclass(frozen=True)
class _Adapters:
    """The files of the adapters by their names, the only one's name, the card that decides the backbone."""

    files: Mapping[str, Path]
    only: str | None
    card: Card
    tasks: frozenset[str]

    @property
    def fields(self) -> dict[str, tuple[str, ...]]:
        """The fields that the tasks read, with the names that a column may have."""
        from adaptdock.engine.inference.row_adapters import asked_fields

        accepted: dict[str, tuple[str, ...]] = {}
        for name in sorted(self.tasks):
            task = registry.load("task", name)
            for field_name in asked_fields(task):
                names = task.columns.get(field_name, (field_name,))
                accepted[field_name] = (*accepted.get(field_name, ()), *names)
        return accepted


def _adapters(words: Sequence[str], values: Mapping[str, Any], report: Callable[[str], None]) -> _Adapters:
    if words:
        path = located(words[0], values["yes"])
        card = read_card(path)
        name = card.name.replace("+", "-")
        return _Adapters({name: path}, name, card, frozenset([card.task.name]))
    folder: Path | None = values["adapters"]
    if folder is None:
        files = {adapter.name: adapter.path for adapter in installed()}
        origin = "no adapter is installed, and --adapters names no folder of adapters"
    else:
        paths = sorted(path for path in folder.rglob(f"*{SUFFIX}") if path.is_file())
        files = {path.relative_to(folder).as_posix().removesuffix(SUFFIX): path for path in paths}
        origin = f"{folder} has no adapter file (*{SUFFIX})"
    cards = {}
    for name, path in files.items():
        try:
            cards[name] = read_card(path)
        except FileError as error:
            report(f"{error} Its rows are rejected.")
    if not cards:
        raise UsageError(origin)
    return _Adapters(files, None, _leading(cards, values["backbone"]), frozenset(c.task.name for c in cards.values()))


def _leading(cards: Mapping[str, Card], backbone: str | None) -> Card:
    """Return a card with the backbone of all; raise :class:`UsageError` if there are several to choose from."""
    names: dict[str, list[str]] = {}
    for name, card in cards.items():
        names.setdefault(card.backbone.fingerprint, []).append(name)
    first = [cards[members[0]] for members in names.values()]
    if backbone is None and len(names) > 1:
        listing = "; ".join(
            f"{card.backbone.id} ({', '.join(members[:3])}{', ...' if len(members) > 3 else ''})"
            for card, members in zip(first, names.values(), strict=True)
        )
        raise UsageError(
            f"the adapters are for {len(names)} backbones: {listing}. A run has one: name it with --backbone; rows of "
            f"adapters for another are rejected"
        )
    return next((card for card in first if card.backbone.id == backbone), first[0])


def _open_dock(card: Card, values: Mapping[str, Any]) -> "Dock":
    from adaptdock.cli.common.backbone import open_dock

    return open_dock(card, values["backbone"], prediction_options(values))


# ---------------------------------------------------------------------------------------------- inputs


def _inputs(
    source: str,
    layout: str,
    reading: Source,
    fields: Mapping[str, Sequence[str]],
    output: Path,
    report: Callable[[str], None],
) -> "list[LabellingInput]":
    """Return the files that a pattern, a folder, a comma-separated list or a path names, in a fixed order."""
    from adaptdock.engine.inference.labelling import LabellingInput

    unknown = next((name for name in reading.columns if name not in fields), None)
    if unknown is not None:
        raise UnknownNameError("field in --columns", unknown, fields)
    paths = _paths(source)
    inside = next((path for path in paths if path.resolve().is_relative_to(output.resolve())), None)
    if inside is not None:
        raise UsageError(f"the input {inside} is in the output folder {output}: name another --output")
    root = _root(source, paths)
    known = {plain(name) for names in fields.values() for name in names}
    known |= {plain(name) for name in reading.columns.values() if not is_number(name)}
    numbered = any(map(is_number, reading.columns.values()))
    said: set[str] = set()

    def say(line: str) -> None:
        if line not in said:
            report(line)
        said.add(line)

    texts = Texts(reading.encoding)
    opened = partial(row_file, layout=layout, texts=texts, known=known, numbered=numbered, say=say)
    return [LabellingInput(path, path.absolute().relative_to(root).as_posix(), opened) for path in paths]


def _paths(source: str) -> list[Path]:
    path = Path(source)
    if path.is_dir():
        suffixes = {suffix for suffix, name in FORMATS.items() if name in LAYOUTS} | {".txt"}
        names = (file.relative_to(path) for file in sorted(path.rglob("*")) if file.suffix.lower() in suffixes)
        paths = [path / name for name in names if not any(part.startswith(("_", ".")) for part in name.parts)]
    else:
        paths = file_list(source) or ([path] if path.is_file() else [])
    if not paths:
        raise DataError(f"{source}: no file has this name or fits this pattern (--input)")
    return paths


def _root(source: str, paths: Sequence[Path]) -> Path:
    """Return the folder below which the inputs are named: the folder given, or that before the first wildcard."""
    if Path(source).is_dir():
        return Path(source).absolute()
    parts = Path(source).parts
    wild = (number for number, part in enumerate(parts) if any(character in part for character in "*?["))
    number = None if Path(source).exists() else next(wild, None)
    if number is not None:
        return Path(*parts[:number]).absolute()
    return Path(os.path.commonpath([path.absolute().parent for path in paths]))


# -------------------------------------------------------------------------------------------- progress


@dataclass
class Progress:
    """Prints rows, rate and time left every few seconds, and the notes of the readers once."""

    notes: Callable[[], list[str]] = list
    total: int = 0
    since: float = field(default_factory=time.monotonic)
    _shown: float = field(default_factory=time.monotonic)
    _said: set[str] = field(default_factory=set)

    def __call__(self, counts: "LabellingCounts") -> None:
        """Print new notes, and after :data:`PAUSE` a line of progress."""
        for line in self.notes():
            if line not in self._said:
                note(line)
                self._said.add(line)
        if time.monotonic() - self._shown >= PAUSE:
            self.show(counts)

    def show(self, counts: "LabellingCounts") -> None:
        """Print a line of progress."""
        self._shown = time.monotonic()
        rate = counts.rows / max(1e-9, self._shown - self.since)
        left = max(0, self.total - counts.rows) / rate if rate else 0.0
        rejected = f", {count(counts.rejected)} rejected" if counts.rejected else ""
        note(
            f"{count(counts.rows)} of {count(max(self.total, counts.rows))} rows{rejected}, {rate:,.0f} rows/s, "
            f"{_duration(left)} left"
        )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def finish(counts: "LabellingCounts", output: Path) -> None:
    """Print the number of answers, and raise :class:`DataError` if a row has no answer."""
    earlier = f"; {count(counts.skipped)} parts were complete before" if counts.skipped else ""
    note(f"{count(counts.rows - counts.rejected)} rows answered in {count(counts.parts)} parts in {output}{earlier}")
    problems = list(counts.unreadable)
    rejected = counts.rejected + counts.earlier
    if rejected:
        first = f" The first of this run: {counts.first_reason}" if counts.first_reason else ""
        problems.append(
            f"{count(rejected)} rows were rejected; each is in {output / '_rejected'} with its reason.{first}"
        )
    if problems:
        raise DataError(" ".join(problem if problem.endswith(".") else f"{problem}." for problem in problems))
