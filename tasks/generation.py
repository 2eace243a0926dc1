"""Generation: continue a prompt, follow an instruction, answer in a conversation.

Data is a prompt and an answer (with a separate input, as in Alpaca), or a list of messages, of which every turn of the
assistant is learnt. Prompts use the tokenizer's chat template if it has one; otherwise the answer directly follows the
prompt.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Cleaned, Reading, Record
from adaptdock.plugins.toolkit.stored import stored
from adaptdock.tasks.writing.prompts import ASSISTANT, Conversation, Message, fill
from adaptdock.tasks.writing.rouge import rouge
from adaptdock.tasks.writing.written_answers import Writing, WritingOptions, first_value

ROLES = {"human": "user", "gpt": ASSISTANT, "bot": ASSISTANT, "model": ASSISTANT}
"""Role names of data sets, and the names of the same roles in chat templates."""


class GenerationOptions(WritingOptions):
    """Options of ``generation``."""

    prompt_fields = ("prompt", "input")


class Generation(Writing):
    """Writes the continuation of a prompt."""

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
        """Divide conversations into the last answer and the messages before it."""
        cleaned = stored(self._cleaned(record, str(record.get("where", split))) for record in records)
        unused = sum(bool(record.get("input")) for record in cleaned) if not self._names_input else 0
        notes = [f"{split}: {unused} records have an input, which --prompt does not name"] if unused else []
        return Cleaned(cleaned, notes)

    def _cleaned(self, record: Record, where: str) -> Record:
        if record.get("messages") is not None:
            *before, last = _messages(record["messages"], where)
            if last["role"] != ASSISTANT or not before:
                raise DataError(f"{where}: a conversation to learn from ends with an answer of the assistant")
            turn: Record = {"messages": before, "answer": last["content"]}
        elif record.get("prompt") is None:
            raise DataError(f"{where}: there is neither a prompt nor a list of messages")
        else:
            turn = {**_asked(record, where), "answer": _text(record.get("answer"), "answer", where)}
        if not turn["answer"].strip():
            raise DataError(f"{where}: the answer is empty")
        return {**record, **turn}

    def read(self, item: Any) -> Record:
        """Read a text, or an object with ``prompt`` (and ``input``) or ``messages``, without answers at their end."""
        if not isinstance(item, Mapping):
            return _asked({"prompt": item}, "an input")
        messages = first_value(item, self.columns["messages"])
        if messages is None:
            return _asked({name: first_value(item, self.columns[name]) for name in ("prompt", "input")}, "an input")
        history = _messages(messages, "an input")
        while history and history[-1]["role"] == ASSISTANT:
            history.pop()
        if not history:
            raise DataError("an input: the conversation has no turn to answer")
        return {"messages": history}

    def ask(self, record: Record, reading: Reading) -> Conversation:
        """Fill the prompt template; a conversation is used as it is."""
        if record.get("messages") is not None:
            return Conversation(tuple(record["messages"]))
        values = {"prompt": record["prompt"], "input": record["input"]}
        default = "{prompt}\n\n{input}" if values["input"] else "{prompt}"
        return fill(self.options.prompt or default, values)

    def references(self, record: Record) -> list[str]:
        """Return the answer."""
        return [record["answer"]]

    def answer(self, record: Record, text: str) -> dict[str, Any]:
        """Return the generated text with its white space: it may continue a line."""
        return {"text": text}

    def compare(self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return exact match (ignoring white space) and ROUGE-L, in percent."""
        texts = [prediction["text"] for prediction in predictions]
        pairs = zip(records, texts, strict=True)
        same = sum(record["answer"].split() == text.split() for record, text in pairs)
        metrics = rouge(list(map(self.references, records)), texts)
        return {"exact_match": round(100 * same / len(texts), 2), "rougeL": metrics["rougeL"]}

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
        raise DataError(f"{where}: the {name} is {'missing' if value is None else f'not a text: {value!r:.60}'}")
    return value


def _messages(value: Any, where: str) -> list[Message]:
    """Return messages with role and content, from the format of chat templates or ShareGPT."""
    if not isinstance(value, list | tuple) or not value:
        raise DataError(f"{where}: messages are a list of objects with 'role' and 'content'; found {value!r:.60}")
    return [_message(part, f"{where}, message {number}") for number, part in enumerate(value, 1)]


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: not an object with 'role' and 'content': {value!r:.60}")
    role = _text(first_value(value, ("role", "from")), "role", where)
    return {"role": ROLES.get(role, role), "content": _text(first_value(value, ("content", "value")), "content", where)}
