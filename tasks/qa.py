"""Question answering: the span of a context that answers a question, or no answer (SQuAD 1.1 and 2.0).

Each position of a window has a score as the start of the answer and a score as its end. One position, the first of an
encoder and the last of a causal model, means "no answer here" (Devlin et al. 2019). The worth of a span from i to j is
s_i + e_j - (s_0 + e_0), its log odds against no answer in the same window. A context longer than a window is read in
several windows. The span of most worth in any window is the answer if it reaches the threshold, which maximises F1 on
the validation data.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import (
    AnnotatedText,
    Cleaned,
    Feature,
    Mark,
    Options,
    Outcome,
    Passage,
    Reading,
    Recipe,
    Record,
    Task,
)
from adaptdock.plugins.toolkit.classic_answers import most_similar_sentence
from adaptdock.plugins.toolkit.hashes import hash_of, hashes_of, number_of_different, repeated
from adaptdock.plugins.toolkit.heads import SpanHead
from adaptdock.plugins.toolkit.stored import in_sequence, stored
from adaptdock.plugins.toolkit.windowing import Span, located_windows
from adaptdock.tasks.reading.answer_formats import Places, context_of, given_answers
from adaptdock.tasks.reading.answer_formats import required as _text
from adaptdock.tasks.reading.squad import exact_match, f1
from adaptdock.tasks.writing.prompts import closing

NOT_COUNTED = -100
OTHER, START, END = 0, 1, 2
"""Labels of positions; the position of an answer of one token is START + END."""
AROUND = 120
"""Characters of context shown on each side of an answer."""


@dataclass(frozen=True)
class Window:
    """The context span of each position, None outside the context, and the position that means no answer."""

    spans: Sequence[Span | None]
    null: int


class QAOptions(Options):
    """Options of ``qa``."""

    repair: bool = False
    """Move an answer with a wrong offset to the nearest occurrence of its text, instead of skipping it."""
    overlap: int = Field(64, ge=0)
    """Tokens shared by two successive windows of a context."""
    empty_windows: int = Field(2, ge=0)
    """Most windows without the answer that a question learns from; at least one if no window has an answer."""
    max_answer: int = Field(30, gt=0)
    """Longest predicted answer, in tokens."""
    no_answer: Literal["auto", "on", "off"] = "auto"
    """Whether a question may have no answer; auto is on if a question of the training data has none."""
    threshold: float | None = None
    """Lowest log odds of a predicted answer; learnt from the validation data unless given."""


RECIPES = {
    "lora": Recipe(
        learning_rate=1e-3, epochs=3, batch_size=16, method_options={"roles": ["all"], "learning_rate_factor_b": 4}
    ),
    "bottleneck": Recipe(
        learning_rate=2e-3, epochs=3, batch_size=16, method_options={"parallel": True, "activation": "gelu"}
    ),
    "prefix": Recipe(
        learning_rate=2e-3, epochs=3, batch_size=16, method_options={"length": 32, "learning_rate_factor": 40}
    ),
}


class QA(Task):
    """Answers a question with a span of a context, or with no answer."""

    Options = QAOptions
    options: QAOptions
    columns = {
        "question": ("question", "query"),
        "context": ("context", "passage", "paragraph"),
        "answers": ("answers", "answer", "answer_text"),
        "start": ("answer_start", "start"),
        "impossible": ("is_impossible", "impossible"),
        "title": ("title",),
    }
    optional = frozenset({"start", "impossible", "title"})
    asks = ("question", "context")
    texts = ("question",)
    layout = "json"
    metric = "f1"
    baseline_answer = "no answer, or the sentence most like the question,"
    sample = Path(__file__).parent / "samples" / "qa"
    recipes = RECIPES

    @classmethod
    def group(cls, record: Record) -> str:
        """Return the article, or without a title the context; all its questions go into the same split."""
        return str(record.get("title") or record["context"])

    # ------------------------------------------------------------------------------------- data

    @classmethod
    def annotated(cls, text: AnnotatedText) -> Record | None:
        """Return the question beside a text whose marked spans answer it; None without a question, or without spans."""
        question = next((text.fields[name] for name in cls.columns["question"] if name in text.fields), None)
        if text.spans is None or not isinstance(question, str):
            return None
        answers = [{"text": text.text[span.start : span.end], "answer_start": span.start} for span in text.spans]
        return {"question": question, "context": text.text, "answers": answers}

    def shown(self, record: Record) -> str:
        """Return a question with its answers."""
        answers = " | ".join(answer["text"] for answer in record["answers"]) or "no answer"
        return f"{record['question']} -> {answers}"

    def clean(self, records: Iterable[Record], split: str) -> Cleaned:
        """Check questions and the offsets of their answers; note located, moved and skipped answers."""
        raw, places = in_sequence(records), Places()
        _check_ids(raw, split)
        usable = stored(self._usable(raw, split, places))
        if not usable:
            raise DataError(places.nothing_left(split, self.options.repair))
        return Cleaned(usable, places.notes(split, self.options.repair))

    def _usable(self, records: Iterable[Record], split: str, places: Places) -> Iterator[Record]:
        """Yield the questions with a located answer, or without any answer."""
        for record in records:
            where = str(record.get("where", split))
            question = _text(record.get("question"), "question", where)
            texts = {"question": question, "context": context_of(record, where, places)}
            annotated = given_answers(record, where, places)
            located = [self._located(answer, texts["context"], where, places) for answer in annotated]
            answers = [answer for answer in located if answer is not None]
            if None in located:
                places.skipped.add(where)
            if answers or not annotated:
                fields = {name: value for name, value in record.items() if name not in ("start", "impossible")}
                yield {**fields, **texts, "answers": answers}

    def _located(self, answer: Record, context: str, where: str, places: Places) -> Record | None:
        """Return an answer at its offset or one character beside it, or moved if ``repair`` is on; else None.

        An answer without an offset is located at the first occurrence of its text.
        """
        text, start = answer["text"], answer["start"]
        if start is None:
            first = context.find(text)
            if first < 0:
                return None
            places.located.add(where)
            if context.find(text, first + 1) >= 0:
                places.several.add(where)
            return {"text": text, "start": first}
        if start >= 0 and context[start : start + len(text)] == text:
            return answer
        near = next((place for place in (start - 1, start + 1) if place >= 0 and context.startswith(text, place)), None)
        if near is not None:
            places.near.add(where)
            return {"text": text, "start": near}
        starts = [place for place in range(len(context)) if context.startswith(text, place)]
        if not self.options.repair or not starts:
            return None
        places.moved.add(where)
        return {"text": text, "start": min(starts, key=lambda place: abs(place - start))}

    def labels(self, record: Record) -> list[str]:
        """Return ``answer`` or ``no answer``."""
        answers = given_answers(record, str(record.get("where", "a record")), Places())
        return ["answer" if answers else "no answer"]

    def fit(self, records: Sequence[Record]) -> Self:
        """Learn if questions may have no answer."""
        if self.options.no_answer != "auto":
            return self
        mode = "on" if any(not record["answers"] for record in records) else "off"
        return type(self)(self.options.model_copy(update={"no_answer": mode}))

    def check(self, records: Sequence[Record], split: str) -> None:
        """Accept all records: there are no classes to compare."""

    def describe(self, records: Sequence[Record]) -> dict[str, Any]:
        """Count questions, contexts, and questions without an answer."""
        return {
            "questions": len(records),
            "contexts": number_of_different(record["context"] for record in records),
            "without an answer": sum(not record["answers"] for record in records),
        }

    # ------------------------------------------------------------------------------------ model

    def head(self) -> SpanHead:
        """Return a start and an end score at each position."""
        return SpanHead()

    def read(self, item: Any) -> Record:
        """Read an object with ``question`` and ``context``, or a list of both."""
        if isinstance(item, list | tuple) and len(item) == 2:
            item = {"question": item[0], "context": item[1]}
        if not isinstance(item, Mapping):
            raise DataError(
                f"qa reads a question with its context, as an object such as "
                f'{{"question": "Who ran?", "context": "Ada ran."}}, or a list of both; found {type(item).__name__}'
            )
        values = {
            name: next((item[column] for column in self.columns[name] if column in item), None)
            for name in ("question", "context")
        }
        return {name: _text(value, name, "an input") for name, value in values.items()}

    def encode(self, record: Record, reading: Reading, labelled: bool) -> list[Feature]:
        """Tokenise in windows, each with the question; an answer that no window contains is learnt in part."""
        features = _windows(record["question"], record["context"], reading, self.options.overlap)
        if labelled:
            answer = _stripped(record["context"], record["answers"][0]) if record["answers"] else None
            _label(features, answer)
        return features

    def sampled_windows(self, windows: Sequence[Feature]) -> list[Feature]:
        """Return the windows with an answer, and of the others at most ``empty_windows``, at even distances."""
        empty = [number for number, window in enumerate(windows) if window.labels[window.alignment.null] != OTHER]
        most = self.options.empty_windows or int(len(empty) == len(windows))
        left = range(min(most, len(empty)))
        sampled = {empty[(2 * place + 1) * len(empty) // (2 * len(left))] for place in left}
        return [window for number, window in enumerate(windows) if number not in empty or number in sampled]

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Return the mean cross entropy of start and end, from logits (R, T, 2) and labels (R, T).

        The softmax is over the positions of the context and the position of no answer only.
        """
        labelled = (labels != NOT_COUNTED).any(1)
        logits, labels = logits[labelled], labels[labelled]
        outside = (labels == NOT_COUNTED).unsqueeze(-1)
        scores = logits.masked_fill(outside, torch.finfo(logits.dtype).min).transpose(1, 2)  # (R, 2, T)
        targets = torch.stack([_is(labels, START), _is(labels, END)], dim=1).int().argmax(-1)  # (R, 2)
        return functional.cross_entropy(scores.flatten(0, 1), targets.flatten())

    def digest(self, feature: Feature, logits: Tensor) -> Tensor:
        """Return (5) in place of logits (T, 2): worth, start, end and probability of the best span; float64.

        Start and end count characters. The fifth number is the probability of no answer. In a window without context
        the worth is minus infinity.
        """
        window: Window = feature.alignment
        context = [(position, span) for position, span in enumerate(window.spans) if span is not None]
        if not context:
            return torch.tensor([-torch.inf, 0, 0, 0, 1]).double()
        places = torch.tensor([window.null, *(position for position, _ in context)])
        # float64 keeps the character offsets beside the scores exact.
        starts, ends = logits[places].double().log_softmax(0).T  # (1 + context) each
        length = places[1:].unsqueeze(0) - places[1:].unsqueeze(1) + 1  # (start, end)
        sums = starts[1:].unsqueeze(1) + ends[1:].unsqueeze(0)  # (start, end)
        sums = sums.masked_fill((length < 1) | (length > self.options.max_answer), -torch.inf)
        first, last = divmod(int(sums.argmax()), len(context))
        none = starts[0] + ends[0]
        best = sums[first, last]
        return torch.stack(
            [best - none, torch.tensor(context[first][1][0]), torch.tensor(context[last][1][1]), best.exp(), none.exp()]
        )

    def settle(self, records: Sequence[Record], digests: Sequence[Sequence[Tensor]]) -> Self:
        """Learn the threshold with the best F1, unless it is given or all questions are of one kind."""
        kinds = {bool(record["answers"]) for record in records}
        if self.options.no_answer != "on" or self.options.threshold is not None or len(kinds) < 2:
            return self
        gains = []
        for record, windows in zip(records, digests, strict=True):
            worth, answer, _ = self._best(record, windows)
            references = _references(record)
            gains.append((worth, f1("" if answer is None else answer["text"], references) - f1("", references)))
        threshold = _best_threshold(gains)
        return type(self)(self.options.model_copy(update={"threshold": round(threshold, 4)}))

    def decode(self, record: Record, features: Sequence[Feature], digests: Sequence[Tensor]) -> dict[str, Any]:
        """Return the answer with its span in the context and its probability; None for no answer."""
        worth, answer, none = self._best(record, digests)
        texts = {"question": record["question"], "context": record["context"]}
        rejected = self.options.no_answer == "on" and worth < (self.options.threshold or 0.0)
        if answer is None or rejected:
            return {**texts, "answer": None, "start": None, "end": None, "score": round(none, 4)}
        return {
            **texts,
            "answer": answer["text"],
            "start": answer["start"],
            "end": answer["start"] + len(answer["text"]),
            "score": round(answer["score"], 4),
        }

    def _best(self, record: Record, digests: Sequence[Tensor]) -> tuple[float, Record | None, float]:
        """Return worth and text of the best span of all windows, and the least probability of no answer."""
        spans = torch.stack(list(digests))  # (windows, 5)
        worth, start, end, score, _ = spans[int(spans[:, 0].argmax())].tolist()
        none = float(spans[:, 4].min())
        text = record["context"][int(start) : int(end)]
        start += len(text) - len(text.lstrip())
        answer = {"text": text.strip(), "start": int(start), "score": score} if text.strip() else None
        return worth, answer, none

    def score(self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return SQuAD's F1 and exact match in percent; also for each kind of question if both occur."""
        pairs = [
            (prediction["answer"] or "", _references(record))
            for record, prediction in zip(records, predictions, strict=True)
        ]
        answered = [(text, references) for text, references in pairs if references]
        metrics = _measured(pairs)
        if len(answered) < len(pairs):
            none = [(text, references) for text, references in pairs if not references]
            metrics |= {f"has_answer_{name}": value for name, value in _measured(answered).items()}
            metrics["no_answer_accuracy"] = _measured(none)["exact_match"]
        return metrics

    def sums(self, record: Record, prediction: Mapping[str, Any]) -> tuple[float, ...]:
        """Return F1 of the answer, and 1."""
        return f1(prediction["answer"] or "", _references(record)), 1.0

    def of_sums(self, sums: Sequence[float]) -> float:
        """Return the mean F1 in percent."""
        return 100 * sums[0] / sums[1]

    def outcome(self, record: Record, prediction: Mapping[str, Any]) -> Outcome:
        """Compare answers; the error is the missing F1, and more for a surer answer."""
        references, answer = _references(record), prediction["answer"] or ""
        missing = 1.0 - f1(answer, references)
        right = bool(exact_match(answer, references))
        expected = [_stripped(record["context"], reference) for reference in record["answers"][:1]]
        predicted = [] if prediction["start"] is None else [(prediction["start"], prediction["end"])]
        sides = (("expected", expected, "answer"), ("predicted", predicted, f"answer {prediction['score']:.2f}"))
        passages = [Passage("question", record["question"])]
        for title, spans, label in sides:
            marks = tuple(Mark(start, end, label, wrong=not right) for start, end in spans)
            passages.append(Passage(title, record["context"] if marks else "no answer", marks))
        kinds = tuple("answer" if spans else "no answer" for _, spans, _ in sides)
        error = missing * (1.0 + prediction["score"])
        return Outcome(error, tuple(passages), ((kinds[0], kinds[1]),), ((prediction["score"], right),))

    def baseline(self, records: Sequence[Record]) -> dict[str, Any]:
        """Return the better metrics of two answers: none to any question, and the sentence most like the question."""
        sentences = [most_similar_sentence(record["question"], record["context"]) for record in records]
        answers = ([{"answer": None}] * len(records), [{"answer": sentence or None} for sentence in sentences])
        return max((self.score(records, rows) for rows in answers), key=lambda metrics: metrics[self.metric])

    def render(self, prediction: Mapping[str, Any]) -> str:
        """Mark the answer in its context: ``Who wrote it? In 1843 [Ada Lovelace|0.93] wrote``."""
        question, context = " ".join(prediction["question"].split()), prediction["context"]
        start, end = prediction["start"], prediction["end"]
        if start is None:
            return f"{question} [no answer|{prediction['score']:.2f}]"
        before = ("..." if start > AROUND else "") + context[max(0, start - AROUND) : start]
        after = context[end : end + AROUND] + ("..." if len(context) > end + AROUND else "")
        return " ".join(f"{question} {before}[{prediction['answer']}|{prediction['score']:.2f}]{after}".split())


# ------------------------------------------------------------------------------------------ helpers


def _check_ids(records: Sequence[Record], split: str) -> None:
    """Raise :class:`DataError` for a repeated id, with both places."""
    twice = set(repeated(hashes_of(hash_of(_id(record)) for record in records)).tolist())
    first: dict[str, str] = {}
    for record in records if twice else ():
        if hash_of(_id(record)) in twice:
            where, name = str(record.get("where", split)), str(record["id"])
            if name in first:
                raise DataError(
                    f"{where}: the id {name!r} is that of {first[name]} already; each question needs its own"
                )
            first[name] = where


def _id(record: Record) -> Sequence[str]:
    return () if record.get("id") is None else ("id", str(record["id"]))


def _references(record: Record) -> list[str]:
    return [answer["text"] for answer in record["answers"]]


def _stripped(context: str, answer: Record) -> Span:
    """Return the span of an answer without white space around it."""
    text = answer["text"]
    start = answer["start"] + len(text) - len(text.lstrip())
    return start, start + len(text.strip())


def _windows(question: str, context: str, reading: Reading, overlap: int) -> list[Feature]:
    """Return windows aligned with the context; for a causal model, a last token that sees the whole window is added."""
    room = replace(reading, max_length=reading.max_length - 1) if reading.causal else reading
    features = located_windows(question, context, room, overlap)
    for feature in features:
        spans = feature.alignment
        if reading.causal:
            last = {"input_ids": closing(reading.tokenizer), "attention_mask": 1}
            feature.inputs = {name: [*values, last.get(name, 0)] for name, values in feature.inputs.items()}
            spans = [*spans, None]
        feature.alignment = Window(spans, len(spans) - 1 if reading.causal else 0)
    return features


def _label(features: Sequence[Feature], answer: Span | None) -> None:
    """Label the windows that contain the whole answer with it, and all others with no answer.

    If no window contains the whole answer, the window with most of it learns that part, and the missing tokens count as
    cut. An answer without tokens is labelled in no window.
    """
    held = [_positions(feature.alignment, answer) for feature in features]
    spans = {feature.alignment.spans[at] for feature, positions in zip(features, held, strict=True) for at in positions}
    if answer is not None and not spans:
        for feature in features:
            feature.labels = [NOT_COUNTED] * len(feature.alignment.spans)
        return
    most = max(map(len, held))
    if most < len(spans):
        features[list(map(len, held)).index(most)].cut += len(spans) - most
    for feature, positions in zip(features, held, strict=True):
        window: Window = feature.alignment
        places = positions if positions and len(positions) == most else [window.null]
        feature.labels = [NOT_COUNTED if span is None else OTHER for span in window.spans]
        feature.labels[window.null] = OTHER
        feature.labels[places[0]] += START
        feature.labels[places[-1]] += END


def _positions(window: Window, answer: Span | None) -> list[int]:
    """Return the positions of a window whose characters overlap with the answer."""
    if answer is None:
        return []
    return [
        position
        for position, span in enumerate(window.spans)
        if span is not None and span[0] < answer[1] and answer[0] < span[1]
    ]


def _is(labels: Tensor, part: int) -> Tensor:
    """Return a mask (R, T) of the labels START, or END, which may be set together."""
    return labels.clamp(min=0).bitwise_and(part) > 0


def _best_threshold(gains: Sequence[tuple[float, float]]) -> float:
    """Return the threshold of most total gain in F1, from worth and gain of each answer."""
    ordered = sorted((gain for gain in gains if gain[0] > -torch.inf), reverse=True)
    if not ordered:
        return 0.0
    best, total, threshold = 0.0, 0.0, ordered[0][0] + 1  # above every worth: reject all
    for (worth, gain), (following, _) in zip(ordered, [*ordered[1:], (ordered[-1][0] - 2, 0.0)], strict=True):
        total += gain
        if total > best and following < worth:
            best, threshold = total, (worth + following) / 2
    return threshold


def _measured(pairs: Sequence[tuple[str, list[str]]]) -> dict[str, float]:
    """Return F1 and exact match of answers with their references, in percent."""
    count = max(1, len(pairs))
    return {
        "f1": round(100 * sum(f1(text, references) for text, references in pairs) / count, 2),
        "exact_match": round(100 * sum(exact_match(text, references) for text, references in pairs) / count, 2),
    }
