"""Labels and tags that say "not annotated": -1 and -100, as data sets, PyTorch and scikit-learn write them."""

from collections.abc import Iterable, Sequence
from typing import Any

from adaptdock.plugins.contracts import Record
from adaptdock.plugins.toolkit.stored import stored
from adaptdock.tasks.labels.label_survey import LabelSurvey
from adaptdock.tasks.labels.printed_lists import printed_list

UNTAGGED = "-100"
"""The tag of a word that has no say in loss and metrics; it is never a class."""
NUMBERS = ("-1", "-100")
POLARITY = frozenset({"0", "1"})
"""Classes beside which -1 is a class too: negative, neutral, positive."""
SHOWN = 5


def tags_with_gaps(tags: Any) -> Any:
    """Return a list of tags in which None, -1 and -100 have become :data:`UNTAGGED`; anything else as it is.

    Other numbers in the list stay numbers, since nothing says what they stand for.
    """
    parts = printed_list(tags) if isinstance(tags, str) else tags
    if not isinstance(parts, list | tuple) or not any(map(is_gap, parts)):
        return tags
    return [UNTAGGED if is_gap(tag) else tag for tag in parts]


def is_gap(tag: Any) -> bool:
    """Return whether a tag means that the word is not annotated."""
    return tag is None or _number(tag) in NUMBERS


def counted(tags: Iterable[str]) -> list[str]:
    """Return the tags that count."""
    return [tag for tag in tags if tag != UNTAGGED]


def counted_pairs(gold: Sequence[str], predicted: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return both sequences without the words whose true tag does not count."""
    pairs = [(want, got) for want, got in zip(gold, predicted, strict=True) if want != UNTAGGED]
    return [want for want, _ in pairs], [got for _, got in pairs]


def counted_sentences(records: Sequence[Record], split: str) -> tuple[Sequence[Record], list[str]]:
    """Return the sentences with a tag that counts, and notes on the words and sentences without one."""
    gaps = stored(record for record in records if UNTAGGED in record["tags"])
    if not gaps:
        return records, []
    words = sum(record["tags"].count(UNTAGGED) for record in gaps)
    notes = [
        f"{split}: {words} words are not tagged (-1, -100 or null) and have no say in loss and metrics: {_some(gaps)}"
    ]
    empty = [record for record in gaps if not counted(record["tags"])]
    if empty:
        notes.append(f"{split}: {len(empty)} sentences have no tagged word and are left out: {_some(empty)}")
    return stored(record for record in records if not record["tags"] or counted(record["tags"])), notes


def labelled_records(
    records: Sequence[Record], survey: LabelSurvey, split: str, classes: Sequence[str]
) -> tuple[Sequence[Record], list[str]]:
    """Return the records whose label is not -1 or -100, and notes on the others; ``survey`` is that of the records.

    -1 is a class where ``classes`` has it, beside other negative numbers, and beside 0 and 1 alone (polarity).
    """
    labels = list(survey)
    uncounted = _uncounted(labels, classes)
    names = sorted({_number(label) for label in labels} & uncounted)
    if not names:
        negative = sum(count for (_, label), count in survey.counts.items() if _number(label) == "-1")
        if not negative or classes:
            return records, []
        names = sorted({_number(label) for label in labels} - {"-1"})
        return records, [
            f"{split}: -1 is taken as a class, of {negative} records (--labels {','.join(names)} leaves them out)"
        ]
    left_out = [str(record.get("where", "a record")) for record in records if _number(record.get("label")) in uncounted]
    way_out = "" if classes else "; --labels with all classes, -1 too, makes it a class"
    note = (
        f"{split}: {len(left_out)} records are not labelled ({' or '.join(names)}) and are left out{way_out}: "
        f"{_shortened(left_out)}"
    )
    return stored(record for record in records if _number(record.get("label")) not in uncounted), [note]


def _uncounted(labels: Sequence[Any], classes: Sequence[str]) -> set[str]:
    names = {_number(label) or str(label).strip() for label in labels}
    uncounted = {name for name in NUMBERS if name in names and name not in classes}
    if "-1" not in uncounted or classes:
        return uncounted
    others = [label for label in labels if _number(label) not in NUMBERS]
    is_data_set = any(isinstance(label, int) for label in labels) and all(isinstance(label, str) for label in others)
    rest = {_number(label) or str(label).strip() for label in others}
    is_class = bool(rest) and (rest <= POLARITY or any(name[:1] == "-" and name[1:].isdecimal() for name in rest))
    return uncounted - {"-1"} if is_class and not (is_data_set and others) else uncounted


def _number(value: Any) -> str:
    """Return a whole number as a text without a fraction; an empty text for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return ""
    text = str(value).strip().removesuffix(".0")
    return text if text.removeprefix("-").isdecimal() else ""


def _some(records: Sequence[Record]) -> str:
    return _shortened([str(record.get("where", "a record")) for record in records[: SHOWN + 1]])


def _shortened(places: Sequence[str]) -> str:
    return ", ".join(places[:SHOWN]) + (", ..." if len(places) > SHOWN else "")
