"""Generation: a prompt continued, an instruction followed, a conversation gone on with.

Data is a prompt and an answer (with an input of its own, in the manner of Alpaca), or a list of messages, of
which every turn of the assistant is learnt. Prompts are asked in the tokenizer's chat template where it has one;
else the answer follows the prompt at once.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Cleaned, Reading, Record
from adaptdock.tasks.prompts import ASSISTANT, Asked, Message, fill
from adaptdock.tasks.rouge import rouge
from adaptdock.tasks.writing import Writing, WritingOptions, given

ROLES = {"human": "user", "gpt": ASSISTANT, "bot": ASSISTANT, "model": ASSISTANT}
"""Names that data sets give to roles which chat templates call otherwise."""


class GenerationOptions(WritingOptions):
    """Options of ``generation``."""

    named = ("prompt", "input")


class Generation(Writing):
    """Writes what follows a prompt."""

    Options = GenerationOptions
    columns = {
        "prompt": ("prompt", "instruction", "question"),
        "input": ("input", "context"),
        "answer": ("answer", "completion", "output", "response"),
        "messages": ("messages", "conversations", "conversation"),
    }
    optional = frozenset(columns)  # a record has a prompt and an answer, or messages
    sample = Path(__file__).parent / "samples" / "generation"

    def clean(self, records: Iterable[Record], split: str) -> Cleaned:
        """Divide conversations into what comes before the last answer, and that answer."""
        cleaned = [self._cleaned(record, str(record.get("where", split))) for record in records]
        unused = sum(bool(record.get("input")) for record in cleaned) if not self._names_input else 0
        notes = [f"{split}: {unused} records have an input, which --prompt does not name"] if unused else []
        return Cleaned(cleaned, notes)

    def _cleaned(self, record: Record, where: str) -> Record:
        if record.get("messages") is not None:
            *before, last = _messages(record["messages"], where)
            if last["role"] != ASSISTANT or not before:
                raise DataError(f"{where}: a conversation to learn from ends with an answer of the assistant")
            found: Record = {"messages": before, "answer": last["content"]}
        elif record.get("prompt") is None:
            raise DataError(f"{where}: there is neither a prompt nor a list of messages")
        else:
            found = {**_asked(record, where), "answer": _text(record.get("answer"), "answer", where)}
        if not found["answer"].strip():
            raise DataError(f"{where}: the answer is empty")
        return {**record, **found}

    def read(self, item: Any) -> Record:
        """Read a text, or an object with ``prompt`` (and ``input``) or ``messages``; a last answer is left out."""
        if not isinstance(item, Mapping):
            return _asked({"prompt": item}, "an input")
        messages = given(item, self.columns["messages"])
        if messages is None:
            return _asked({name: given(item, self.columns[name]) for name in ("prompt", "input")}, "an input")
        found = _messages(messages, "an input")
        while found and found[-1]["role"] == ASSISTANT:
            found.pop()
        if not found:
            raise DataError("an input: the conversation has no turn that could be answered")
        return {"messages": found}

    def ask(self, record: Record, reading: Reading) -> Asked:
        """Fill the prompt; a conversation is asked as it is."""
        if record.get("messages") is not None:
            return Asked(tuple(record["messages"]))
        values = {"prompt": record["prompt"], "input": record["input"]}
        own = "{prompt}\n\n{input}" if values["input"] else "{prompt}"
        return fill(self.options.prompt or own, values)

    def references(self, record: Record) -> list[str]:
        """Return the answer."""
        return [record["answer"]]

    def answer(self, record: Record, text: str) -> dict[str, Any]:
        """Return the written text, white space included: it may go on in the middle of a line."""
        return {"text": text}

    def compare(self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return how many answers are the given ones but for white space, and ROUGE-L; in percent."""
        texts = [prediction["text"] for prediction in predictions]
        pairs = zip(records, texts, strict=True)
        same = sum(record["answer"].split() == text.split() for record, text in pairs)
        found = rouge(list(map(self.references, records)), texts)
        return {"exact_match": round(100 * same / len(texts), 2), "rougeL": found["rougeL"]}

    @property
    def _names_input(self) -> bool:
        return self.options.prompt is None or "{input}" in self.options.prompt


# ------------------------------------------------------------------------------------------ helpers


def _asked(record: Record, where: str) -> Record:
    inner = record.get("input")
    return {
        "prompt": _text(record.get("prompt"), "prompt", where),
        "input": "" if inner is None else _text(inner, "input", where),
    }


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: the {name} is {'missing' if value is None else f'no text: {value!r:.60}'}")
    return value


def _messages(value: Any, where: str) -> list[Message]:
    """Return messages with role and content, of the form that chat templates or ShareGPT have."""
    if not isinstance(value, list | tuple) or not value:
        raise DataError(f"{where}: messages are a list of objects with 'role' and 'content'; found {value!r:.60}")
    return [_message(part, f"{where}, message {number}") for number, part in enumerate(value, 1)]


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: no object with 'role' and 'content': {value!r:.60}")
    role = _text(given(value, ("role", "from")), "role", where)
    return {"role": ROLES.get(role, role), "content": _text(given(value, ("content", "value")), "content", where)}
