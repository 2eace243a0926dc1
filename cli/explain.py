"""``adapt explain``: which words of a text decided the answer of an adapter."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from adaptdock.cli.common.backbone import open_dock
from adaptdock.cli.common.flags import LOADING, Flag, SectionedCommand, batch_size_option, load_options
from adaptdock.cli.common.output import note, say, show_json
from adaptdock.cli.common.parameters import ADAPTER
from adaptdock.engine.inference.occlusion import Explanation, WordEffect, explain, filler
from adaptdock.errors import DataError
from adaptdock.hub.registry.admission import read_adapter

SHOWN = 10
BAR = 30
"""Characters of the bar of the strongest word."""
WEAKEST = 0.0005
"""Effects below this are shown as 0."""


@click.command("explain", cls=SectionedCommand)
@click.argument("file", type=ADAPTER)
@click.argument("text")
@click.option(
    "--words",
    "shown",
    cls=Flag,
    type=click.IntRange(min=1),
    default=SHOWN,
    show_default=True,
    help="Words to show for each answer, those with the greatest effects; --json has all.",
)
@batch_size_option("Texts")
@click.option("--json", "as_json", cls=Flag, is_flag=True, help="Print JSON.")
def command(file: Path, text: str, shown: int, batch_size: int, as_json: bool, **values: Any) -> None:
    """Show which words of TEXT decided the answer of the adapter in FILE, a path or an installed one's name.

    TEXT is a text, or a JSON object with the fields of the task. The method is occlusion: each word
    in turn is replaced by the mask token of the backbone (removed, or replaced by three dots, if it has none), and
    the effect of the word is the log-probability of the answer with the word minus that without it. A
    bar of + speaks for the answer, a bar of - against it; 0.69 doubles the probability. Words that
    say the same cover for each other, so effects do not add up.

    For classification the answer is the label, or each of several; for ner, pos and chunking it is
    each entity, word or phrase. A text of n words takes n + 1 passes, in batches.
    """
    adapter = read_adapter(file)
    dock = open_dock(adapter.card, values["backbone"], load_options(values))
    name = dock.dock(adapter)
    explanations = explain(dock, name, _input(text), batch_size)
    if as_json:
        task: Any = dock.assembly(name).task
        show_json({"method": "occlusion", "filler": filler(dock, task), "answers": list(map(_document, explanations))})
        return
    if not explanations:
        note("The adapter finds nothing in this text, so nothing can be explained.")
    for number, explanation in enumerate(explanations):
        if number:
            say()
        _show(explanation, shown)


command.params += [
    Flag(["--backbone"], section=LOADING.flags[0].section, help="Another source of the same weights as the card's."),
    *LOADING.flags,
]


def _input(text: str) -> Any:
    """Return the text, or the object that it is in JSON."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    if not isinstance(value, dict):
        raise DataError(f"the input is a text or a JSON object; found {text:.60}")
    return value


def _show(explanation: Explanation, shown: int) -> None:
    decision = explanation.decision
    span = explanation.text[decision.start : decision.end]
    title = f"{decision.label}: {span!r}" if decision.last else decision.label
    say(f"{title} (log-probability {explanation.log_probability:.3f})")
    words = explanation.strongest(shown)
    width = max((len(word.text) for word in words), default=0)
    greatest = max((abs(word.effect) for word in words), default=0.0)
    for word in words:
        say(f"  {word.text.ljust(width)}  {_number(word.effect)}  {_bar(word.effect, greatest)}".rstrip())
    hidden = len(explanation.words) - len(words)
    if hidden:
        say(f"  and {hidden} words with smaller effects")


def _number(effect: float) -> str:
    return f"{effect if abs(effect) >= WEAKEST else 0.0:+7.3f}"


def _bar(effect: float, greatest: float) -> str:
    if greatest < WEAKEST:
        return ""
    return ("+" if effect > 0 else "-") * round(BAR * abs(effect) / greatest)


def _document(explanation: Explanation) -> dict[str, Any]:
    decision = explanation.decision
    return {
        "label": decision.label,
        "text": explanation.text[decision.start : decision.end],
        "start": decision.start,
        "end": decision.end,
        "log_probability": round(explanation.log_probability, 5),
        "words": _words(explanation.words),
    }


def _words(words: Sequence[WordEffect]) -> list[dict[str, Any]]:
    return [
        {"text": word.text, "start": word.start, "end": word.end, "effect": round(word.effect, 5)} for word in words
    ]
