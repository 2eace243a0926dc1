"""The forms in which data has questions with choices, and the number of the right one.

Choices are a list, an object of lists with keys (ARC, CommonsenseQA), objects with a text and a key, or a column each
(SWAG, PIQA, Social IQa). The answer is a key, the text of a choice, a letter, or a number from 0 or from 1. All
records of a split have it in one form.
"""

from array import array
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, Literal, NamedTuple

from adaptdock.errors import DataError
from adaptdock.plugins.toolkit.stored import Form
from adaptdock.tasks.labels.printed_lists import printed

AnswerForm = Literal["auto", "text", "letter", "from-0", "from-1"]
TITLES: dict[AnswerForm, str] = {
    "text": "texts of choices",
    "letter": "letters",
    "from-0": "numbers from 0",
    "from-1": "numbers from 1",
}
COLUMNS = {
    "choice1": ("choice1", "choice_1", "ending0", "sol1", "answerA", "option1", "opa", "choice_a", "A"),
    "choice2": ("choice2", "choice_2", "ending1", "sol2", "answerB", "option2", "opb", "choice_b", "B"),
    "choice3": ("choice3", "choice_3", "ending2", "answerC", "option3", "opc", "choice_c", "C"),
    "choice4": ("choice4", "choice_4", "ending3", "answerD", "option4", "opd", "choice_d", "D"),
    "choice5": ("choice5", "choice_5", "ending4", "answerE", "option5", "ope", "choice_e", "E"),
}
"""The fields of choices in columns of their own, with their names in data sets."""
TEXTS, KEYS = ("text", "choice", "content", "answer", "option"), ("label", "key", "id")
UNKNOWN = ("", "-1", "-100", "?")
"""Answers of test data that is published without answers."""
SHOWN = 5
MISFIT = -1
"""In place of the number of a choice, for an answer that has no meaning in a form."""


class Choices(NamedTuple):
    """The texts of the choices, and their keys, if the data has any."""

    texts: list[str]
    keys: list[str]

    def numbered(self, answer: Any, form: AnswerForm) -> int | None:
        """Return the number of the choice that an answer means in a form; None where it has no meaning."""
        text = str(answer).strip()
        if form == "text":
            return self.texts.index(text) if isinstance(answer, str) and text in self.texts else None
        if form == "letter":
            number = ascii_uppercase.find(text.upper()) if len(text) == 1 and text.isalpha() else -1
        else:
            whole = "" if isinstance(answer, bool) else text.removesuffix(".0")
            number = int(whole) - int(form == "from-1") if whole.isdecimal() else -1
        return number if 0 <= number < len(self.texts) else None

    def keyed(self, answer: Any) -> int | None:
        """Return the number of the choice with this key, or None."""
        key = str(answer).strip()
        return self.keys.index(key) if key in self.keys else None

    def is_unknown(self, answer: Any) -> bool:
        """Return whether a record has no answer, like test data that is published without answers."""
        text = str(answer).strip()
        return _is_empty(answer) or (text in UNKNOWN and text not in (*self.texts, *self.keys))


class Question(NamedTuple):
    """A raw record of a question, its place in the data, and its choices."""

    record: Mapping[str, Any]
    where: str
    choices: Choices


QUESTIONS_READ: Form[Question] = Form(
    lambda question: (question.record, question.where, *question.choices),
    lambda row: Question(row[0], row[1], Choices(*row[2:])),
)
"""Questions in a file."""


def choices_of(record: Mapping[str, Any], where: str) -> Choices:
    """Return the choices of a record, of a text its lines.

    Raises :class:`DataError` for fewer than two, and for one without a text.
    """
    value, question = record.get("choices"), record.get("question")
    if isinstance(value, str):
        value = printed(value) or [line.strip() for line in value.splitlines() if line.strip()]
    if value is None and isinstance(question, Mapping):
        value = question.get("choices")
    if value is None:
        value = [record[name] for name in COLUMNS if not _is_empty(record.get(name))]
    choices = _listed(value, where)
    if len(choices.texts) < 2:
        raise DataError(
            f"{where}: a question has two choices or more, in a list (choices) or in columns (choice1, choice2, ...); "
            f"found {value!r:.60}"
        )
    twice = next((text for text in choices.texts if choices.texts.count(text) > 1), None)
    if twice is not None:
        raise DataError(f"{where}: two choices are the same text: {twice!r:.60}. Remove one of them.")
    return choices


def question_of(record: Mapping[str, Any], where: str) -> str:
    """Return the question, with the beginning of the answers behind it (SWAG)."""
    question, beginning = record.get("question"), record.get("beginning")
    if isinstance(question, Mapping):
        question = question.get("stem", question.get("text"))
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{where}: the question is a text; found {question!r:.60}")
    return question.strip() if _is_empty(beginning) else f"{question.strip()} {str(beginning).strip()}"


def right_choices(questions: Sequence[Question], form: AnswerForm) -> tuple[Sequence[int], str]:
    """Return the number of the right choice of each question, from 0, and a note on the form of the answers.

    Raises :class:`DataError` where no form fits all answers, or several forms do and contradict each other.
    """
    forms = tuple(TITLES) if form == "auto" else (form,)
    keyed = array("q")
    by_form = {name: array("q") for name in forms}
    for question in questions:
        answer, choices = question.record["answer"], question.choices
        keyed.append(_or_misfit(choices.keyed(answer)))
        for name, numbers in by_form.items():
            numbers.append(_or_misfit(choices.numbered(answer, name)))
    if form == "auto" and MISFIT not in keyed:
        return keyed, ""
    fitting = {name: numbers for name, numbers in by_form.items() if MISFIT not in numbers}
    if not fitting:
        raise DataError(_misfit(questions, by_form))
    (first, numbers), *others = fitting.items()
    rival = next((name for name, rivals in others if rivals != numbers), None)
    if rival is not None:
        raise DataError(
            f"{questions[0].where}: the answers can be read as {TITLES[first]} and as {TITLES[rival]}, which are "
            f"different choices: say which with --answer-form {first} or --answer-form {rival}"
        )
    return numbers, "" if first == "text" else f"answers read as {TITLES[first]} (--answer-form {first})"


def _listed(value: Any, where: str) -> Choices:
    """Return choices from any of the forms; raise :class:`DataError` for another form, and for empty texts."""
    parts: Any = value
    keys: Sequence[Any] = []
    if isinstance(value, Mapping):
        parts = next((value[name] for name in TEXTS if isinstance(value.get(name), list | tuple)), None)
        keys = next((value[name] for name in KEYS if isinstance(value.get(name), list | tuple)), [])
        if parts is None and all(isinstance(part, str) for part in value.values()):  # {"A": "red", "B": "blue"}
            parts, keys = list(value.values()), list(value)
    if not isinstance(parts, list | tuple):
        raise DataError(f"{where}: choices are a list of texts; found {value!r:.60}")
    if parts and all(isinstance(part, Mapping) for part in parts):
        keys = [next((part[name] for name in KEYS if part.get(name) is not None), "") for part in parts]
        parts = [next((part[name] for name in TEXTS if part.get(name) is not None), None) for part in parts]
    if any(_is_empty(part) or not isinstance(part, str | int | float) for part in parts):
        raise DataError(f"{where}: a choice is a text; found {parts!r:.80}")
    names = [str(key).strip() for key in keys]
    usable = len(names) == len(parts) and "" not in names and len(set(names)) == len(names)
    return Choices([str(part).strip() for part in parts], names if usable else [])


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value) or not str(value).strip()


def _or_misfit(number: int | None) -> int:
    return MISFIT if number is None else number


def _misfit(questions: Sequence[Question], by_form: Mapping[AnswerForm, "array[int]"]) -> str:
    """Return a message on the first answer that the form of most answers does not fit."""
    best = min(by_form, key=lambda form: by_form[form].count(MISFIT))
    record, where, choices = questions[by_form[best].index(MISFIT)]
    answer = record["answer"]
    listing = ", ".join(repr(text) for text in choices.texts[:SHOWN])
    if by_form[best].count(MISFIT) == len(questions):
        return (
            f"{where}: the answer {answer!r:.60} is none of the choices, neither as a text, a letter nor a "
            f"number: {listing:.200}. --columns answer=COLUMN names another column."
        )
    return f"{where}: the answer {answer!r:.60} is none of the choices, read as {TITLES[best]}: {listing:.200}"
