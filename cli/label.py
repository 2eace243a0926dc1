"""``adapt label``: the texts whose labels would teach an adapter most, with drafts of their answers."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from adaptdock.cli.common.backbone import open_dock
from adaptdock.cli.common.flags import LOADING, Flag, SectionedCommand, batch_size_option, data_flags
from adaptdock.cli.common.inputs import LAYOUTS, from_file
from adaptdock.cli.common.output import note, show_json, show_table
from adaptdock.cli.common.parameters import ADAPTER
from adaptdock.cli.common.precision import precision_flag, prediction_options
from adaptdock.engine.core.assembly import make_task
from adaptdock.engine.data.drafts import (
    BY_ADAPTER,
    BY_TEACHER,
    FORMS,
    Draft,
    agreement,
    answer_of,
    encoded_drafts,
    read_confirmed,
)
from adaptdock.engine.data.sources import Input, Reader, Source, parse_columns
from adaptdock.engine.inference.label_proposals import LabelProposal, check_labelling, propose
from adaptdock.engine.inference.teacher import Teacher
from adaptdock.errors import AdaptError, DataError, FileError, UsageError
from adaptdock.hub.artefact.atomic import write_atomically
from adaptdock.hub.registry.admission import read_adapter
from adaptdock.plugins.escapes import json_text

COUNT = 20
TEACHING = "Teacher"


@click.command("label", cls=SectionedCommand)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--adapter", cls=Flag, type=ADAPTER, metavar="FILE|NAME", help="Adapter that answers.")
@click.option(
    "--count", cls=Flag, type=click.IntRange(min=1), default=COUNT, show_default=True, help="Texts to propose."
)
@click.option(
    "--output",
    cls=Flag,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the texts to a file instead of printing them.",
)
@click.option(
    "--output-format",
    cls=Flag,
    type=click.Choice(FORMS),
    default="jsonl",
    show_default=True,
    help="JSON lines, or the form of an annotation tool.",
)
@click.option("--overwrite", cls=Flag, is_flag=True, help="Replace an existing output file.")
@click.option(
    "--confirmed",
    cls=Flag,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Propose nothing: compare the drafts in FILE with the answers that a person has confirmed there.",
)
@click.option("--format", "layout", cls=Flag, type=click.Choice(LAYOUTS), default="auto", help="Format of FILE.")
@batch_size_option("Texts")
@click.option("--seed", cls=Flag, type=int, default=0, show_default=True, help="Seed of the clusters.")
@click.option("--json", "as_json", cls=Flag, is_flag=True, help="Print JSON.")
def command(file: Path | None, confirmed: Path | None, **values: Any) -> None:
    """Propose the texts of FILE whose labels would teach the adapter most, with a draft of each answer.

    The adapter is least sure of these texts, and they are spread over different kinds of texts (Zhdanov 2019). The
    draft is the answer of the adapter, or of a teacher. Correct the file in an annotation tool, or in the page of
    adapt serve (--label-file), and give it to adapt train: rows of JSON lines that nobody has confirmed are left out.
    """
    if values["adapter"] is None:
        raise UsageError("--adapter is missing: the adapter whose answers are proposed, a path or an installed one")
    if confirmed is not None:
        _compare(confirmed, file, values)
        return
    if file is None:
        raise UsageError("the FILE of texts is missing. See adapt label --help.")
    _check_output(values)
    adapter = read_adapter(values["adapter"])
    task: Any = make_task(adapter.card.task.name, adapter.card.task.options)
    check_labelling(task, adapter.card.task.name)
    with _teacher(values, task) or nullcontext() as teacher:
        items = _distinct(from_file(file, values["layout"], lambda: _reader(task, values)))
        if not items:
            raise DataError(f"{file}: there are no texts in it")
        dock = open_dock(adapter.card, values["backbone"], prediction_options(values))
        try:
            proposals = propose(
                dock,
                dock.dock(dock.proved(adapter)),
                [item.value for item in items],
                values["count"],
                values["batch_size"],
                values["seed"],
            )
        except DataError as error:
            raise _placed(items, task) or error from None
        drafts = _drafts(proposals, items, task, teacher)
    _write(drafts, task, values, len(items))


command.params += [
    Flag(
        ["--teacher"],
        section=TEACHING,
        metavar="URL",
        help="Address of a language model that drafts the answers, an OpenAI-compatible endpoint such as "
        "http://127.0.0.1:8000/v1. The texts are sent there.",
    ),
    Flag(["--teacher-model"], section=TEACHING, metavar="NAME", help="Name of the model at the endpoint."),
    Flag(
        ["--teacher-key"],
        section=TEACHING,
        metavar="VARIABLE",
        help="Environment variable with the key of the endpoint. Without it no key is sent.",
    ),
    Flag(["--backbone"], section=LOADING.flags[0].section, help="Another source of the same weights as the card's."),
    *(flag for flag in data_flags({}) if flag.name in ("columns", "encoding")),
    *LOADING.flags,
    precision_flag(),
]


def _check_output(values: Mapping[str, Any]) -> None:
    output = values["output"]
    if output is None:
        if values["overwrite"]:
            raise UsageError("--overwrite replaces an output file: name the file with --output FILE")
    elif output.exists() and not values["overwrite"]:
        raise UsageError(f"{output} exists already: give another --output, or --overwrite to replace it")


def _reader(task: Any, values: Mapping[str, Any]) -> Reader:
    columns = parse_columns(values["columns"])
    return Reader(type(task), Source(columns=columns, encoding=values["encoding"] or "utf-8"))


def _distinct(items: Iterator[Input]) -> list[Input]:
    """Return the inputs without repetitions, which would be labelled twice."""
    distinct = {json_text(item.value): item for item in reversed([*items])}
    return list(distinct.values())[::-1]


def _placed(items: Sequence[Input], task: Any) -> DataError | None:
    """Return the error of the first input that the task cannot read, with its place; None if it reads all."""
    for item in items:
        try:
            task.read(item.value)
        except AdaptError as error:
            return DataError(f"{item.place}: {error}{item.hint}")
    return None


# ----------------------------------------------------------------------------------------- teacher


def _teacher(values: Mapping[str, Any], task: Any) -> Teacher | None:
    url, model, variable = values["teacher"], values["teacher_model"], values["teacher_key"]
    if url is None:
        flags = [name for name, value in (("--teacher-model", model), ("--teacher-key", variable)) if value is not None]
        if flags:
            raise UsageError(f"{' and '.join(flags)} belong to a teacher: give its address with --teacher URL")
        return None
    if model is None:
        raise UsageError("--teacher-model is missing: the name of the model that the endpoint has")
    key = os.environ.get(variable, "") if variable else ""
    if variable and not key:
        raise UsageError(f"--teacher-key names the environment variable {variable}, which is not set")
    return Teacher(url, model, key, task.answer_kind, task.label_names)


def _drafts(
    proposals: Sequence[LabelProposal], items: Sequence[Input], task: Any, teacher: Teacher | None
) -> list[Draft]:
    drafts = []
    for proposal in proposals:
        text = replace(task.annotation(proposal.prediction), place=items[proposal.number].place)
        answer = None if teacher is None else teacher.answer(text)
        drafts.append(Draft(text, proposal.margin, answer_of(text, task.answer_kind), answer, teacher is not None))
    return drafts


# ------------------------------------------------------------------------------------------ output


def _write(drafts: Sequence[Draft], task: Any, values: Mapping[str, Any], texts: int) -> None:
    blob = encoded_drafts(drafts, values["output_format"], task.answer_kind, task.label_names)
    output = values["output"]
    empty = sum(draft.taught and draft.teacher is None for draft in drafts)
    if empty:
        note(f"{empty} of {len(drafts)} answers of the teacher are not in the requested form; their drafts are empty")
    if output is None:
        sys.stdout.write(blob.decode())
        return
    try:
        write_atomically(output, blob, values["overwrite"])
    except OSError as error:
        raise FileError(output, f"it could not be written: {error.strerror or error}") from None
    note(f"{len(drafts)} of {texts} texts written to {output} ({values['output_format']})")


def _compare(path: Path, file: Path | None, values: Mapping[str, Any]) -> None:
    """Show how well the drafts of the adapter and the teacher fit the confirmed answers."""
    extra = [name for name in ("output", "teacher", "teacher_model", "teacher_key") if values[name] is not None]
    if file is not None or extra:
        names = " and ".join(["FILE"] * (file is not None) + [f"--{name.replace('_', '-')}" for name in extra])
        raise UsageError(f"--confirmed proposes nothing, so {names} cannot be combined with it")
    card = read_adapter(values["adapter"]).card
    task: Any = make_task(card.task.name, card.task.options)
    check_labelling(task, card.task.name)
    texts, others = read_confirmed(_reader(task, values), path, task.answer_kind)
    rows = []
    for author in (BY_ADAPTER, BY_TEACHER):
        pairs = [(text.answer, text.drafts[author]) for text in texts if author in text.drafts]
        if pairs:
            metric, value = agreement(task.answer_kind, pairs)
            empty = sum(draft is None for _, draft in pairs)
            rows.append(
                {"draft": author, "metric": metric, "value": round(value, 2), "texts": len(pairs), "empty": empty}
            )
    if values["as_json"]:
        show_json({"confirmed": len(texts), "not confirmed": others, "drafts": rows})
        return
    note(f"{path}: {len(texts)} confirmed texts, {others} others")
    show_table(list(rows[0]), [list(row.values()) for row in rows])
