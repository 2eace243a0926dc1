"""A teacher: a language model behind an OpenAI-compatible endpoint, which drafts answers.

Answers are parsed strictly: an answer that is not exactly in the requested form, with known labels only, is none.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Self

import httpx2

from adaptdock.errors import SourceError, UsageError
from adaptdock.plugins.annotations import AnnotatedText
from adaptdock.plugins.contracts import AnswerKind

PATH = "/chat/completions"
TIMEOUT = 120.0
SHOWN = 200
REQUESTS: dict[AnswerKind, str] = {
    "label": "Give the text one label. Answer with the label alone, exactly as it is written in the list.",
    "labels": "Give the text all labels that hold. Answer with a JSON list of labels alone; an empty list if none.",
    "spans": (
        "Find the spans of the text that have one of the labels. Answer with a JSON list alone, with a list of two "
        "strings for each span, in the order of the text: the characters of the span exactly as in the text, and its "
        "label. Answer with an empty list if there is none."
    ),
    "tags": (
        "The text is a JSON list of words. Give each word one label. Answer with a JSON list of labels alone, one for "
        "each word, in the same order."
    ),
}


class Teacher:
    """Answers of a model; as a context manager it closes its connections at the end."""

    def __init__(self, url: str, model: str, key: str, kind: AnswerKind, labels: Sequence[str]) -> None:
        """Check the address; ``url`` is the base of the endpoint, such as http://127.0.0.1:8000/v1.

        Raises :class:`UsageError` for an invalid address or key.
        """
        try:
            parsed = httpx2.URL(url)
        except httpx2.InvalidURL as error:
            raise UsageError(f"{url!r} is not the address of a teacher: {error}") from None
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise UsageError(f"{url!r} is not the address of a teacher. Use one such as http://127.0.0.1:8000/v1")
        if not key.isascii() or not key.isprintable():
            raise UsageError("the key of the teacher has characters that keys cannot have: use printable ASCII")
        self.url = url.rstrip("/").removesuffix(PATH) + PATH
        self.model, self.kind, self.labels = model, kind, tuple(labels)
        self._http = httpx2.Client(headers={"authorization": f"Bearer {key}"} if key else {}, timeout=TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def answer(self, text: AnnotatedText) -> Any:
        """Return the answer for a text, None for an answer in another form.

        Raises :class:`SourceError` if the endpoint cannot be reached, refuses the request, or gives no text.
        """
        return parsed_answer(self.kind, self.labels, text, self._completed(_asked(text, self.kind)))

    def _completed(self, question: str) -> str:
        task = f"{REQUESTS[self.kind]}\n\nLabels, one per line:\n" + "\n".join(self.labels)
        messages = [{"role": "system", "content": task}, {"role": "user", "content": question}]
        try:
            response = self._http.post(self.url, json={"model": self.model, "messages": messages, "temperature": 0})
        except httpx2.TimeoutException:
            raise SourceError(self.url, f"the teacher did not answer within {TIMEOUT:.0f} s") from None
        except httpx2.TransportError as error:
            raise SourceError(self.url, f"the teacher cannot be reached: {error or type(error).__name__}") from None
        if not response.is_success:
            raise SourceError(
                self.url, f"the teacher refused the request: status {response.status_code}, {response.text[:SHOWN]!r}"
            )
        try:
            content = response.json()["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            raise SourceError(self.url, "the response is not a chat completion of OpenAI's interface") from None
        return content if isinstance(content, str) else ""


def parsed_answer(kind: AnswerKind, labels: Sequence[str], text: AnnotatedText, content: str) -> Any:
    """Return the answer in the content of a completion, None for anything but the requested form."""
    if kind == "label":
        return content.strip() if content.strip() in labels else None
    try:
        parts = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return PARSERS[kind](parts, frozenset(labels), text) if isinstance(parts, list) else None


def _labels(parts: list[Any], labels: frozenset[str], text: AnnotatedText) -> list[str] | None:
    known = all(isinstance(part, str) and part in labels for part in parts)
    return sorted(set(parts)) if known else None


def _tags(parts: list[Any], labels: frozenset[str], text: AnnotatedText) -> list[str] | None:
    known = all(isinstance(part, str) and part in labels for part in parts)
    return parts if known and len(parts) == len(text.words) else None


def _spans(parts: list[Any], labels: frozenset[str], text: AnnotatedText) -> list[list[Any]] | None:
    """Return [start, end, label] of each pair, searched in the text after the span before it."""
    spans: list[list[Any]] = []
    end = 0
    for part in parts:
        if not (isinstance(part, list) and len(part) == 2 and all(isinstance(value, str) for value in part)):
            return None
        words, label = part
        start = text.text.find(words, end)
        if not words or label not in labels or start < 0:
            return None
        end = start + len(words)
        spans.append([start, end, label])
    return spans


PARSERS: dict[AnswerKind, Callable[[list[Any], frozenset[str], AnnotatedText], Any]] = {
    "labels": _labels,
    "tags": _tags,
    "spans": _spans,
}


def _asked(text: AnnotatedText, kind: AnswerKind) -> str:
    """Return the text, its words for tags, or a text with further fields as JSON."""
    if kind == "tags":
        return json.dumps([word.stated for word in text.words], ensure_ascii=False)
    return json.dumps({"text": text.text, **text.fields}, ensure_ascii=False) if text.fields else text.text
