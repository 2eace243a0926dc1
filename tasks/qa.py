"""Question answering: the stretch of a context that answers a question, or that there is none (SQuAD 1.1 and 2.0).

Each position of a window has a score as the start of the answer and one as its end; one position, which is the first
of an encoder and the last of a causal model, stands for "no answer here" (Devlin et al. 2019). The worth of a stretch
from i to j is s_i + e_j - (s_0 + e_0), its log odds against no answer in the same window. A context that is longer than
a window becomes several; the stretch of most worth in any of them is the answer, if that reaches the threshold,
which is the one that gives most F1 on the validation data.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import AnnotatedText, Cleaned, Feature, Options, Reading, Recipe, Record, Task
from adaptdock.plugins.toolkit.heads import SpanHead
from adaptdock.plugins.toolkit.windowing import Span, located_windows
from adaptdock.tasks.answers import Places, given_answers
from adaptdock.tasks.answers import required as _text
from adaptdock.tasks.prompts import closing
from adaptdock.tasks.squad import exact_match, f1

NOT_COUNTED = -100
OTHER, START, END = 0, 1, 2
"""What a position is to the answer; the only one of it is START + END."""
AROUND = 120
"""Characters of a context that are shown on each side of an answer."""


@dataclass(frozen=True)
class Window:
    """The characters of the context that each position stands for, None outside it, and the position of no answer."""

    spans: Sequence[Span | None]
    null: int


class QAOptions(Options):
    """Options of ``qa``."""

    repair: bool = False
    """Move an answer whose offset is wrong to where its text stands nearest; such answers are skipped else."""
    overlap: int = Field(64, ge=0)
    """Tokens that two windows of a context have in common."""
    max_answer: int = Field(30, gt=0)
    """Longest answer that is given, in tokens."""
    no_answer: Literal["auto", "on", "off"] = "auto"
    """Whether a question may have no answer; auto is on where one of the training data has none."""
    threshold: float | None = None
    """Log odds from which an answer is given; learnt from the validation data unless given."""


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
    """Answers a question with a stretch of a context, or says that there is no answer in it."""

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
    sample = Path(__file__).parent / "samples" / "qa"
    recipes = RECIPES

    @classmethod
    def group(cls, record: Record) -> str:
        """Return the article, or where it has no name the context, whose questions all stand in the same split."""
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
        """Check questions and where their answers stand; say what is located, repaired, skipped or left out."""
        kept: list[Record] = []
        places = Places()
        first: dict[str, str] = {}
        for record in records:
            where = str(record.get("where", split))
            _check_new(record, where, first)
            texts = {name: _text(record.get(name), name, where) for name in ("question", "context")}
            given = given_answers(record, where, places)
            found = [self._stood(answer, texts["context"], where, places) for answer in given]
            answers = [answer for answer in found if answer is not None]
            if None in found:
                places.skipped.append(where)
            if answers or not given:
                rest = {name: value for name, value in record.items() if name not in ("start", "impossible")}
                kept.append({**rest, **texts, "answers": answers})
        if not kept:
            raise DataError(places.nothing_left(split, self.options.repair))
        return Cleaned(kept, places.notes(split, self.options.repair))

    def _stood(self, answer: Record, context: str, where: str, places: Places) -> Record | None:
        """Return an answer that stands in a context, moved if that is allowed; None if it does not stand there.

        One without an offset stands where its text does first.
        """
        text, start = answer["text"], answer["start"]
        if start is None:
            first = context.find(text)
            if first < 0:
                return None
            (places.several if context.find(text, first + 1) >= 0 else places.located).append(where)
            return {"text": text, "start": first}
        if start >= 0 and context[start : start + len(text)] == text:
            return answer
        starts = [place for place in range(len(context)) if context.startswith(text, place)]
        if not self.options.repair or not starts:
            return None
        places.moved.append(where)
        return {"text": text, "start": min(starts, key=lambda place: abs(place - start))}

    def labels(self, record: Record) -> list[str]:
        """Return whether the question has an answer."""
        answers = given_answers(record, str(record.get("where", "a record")), Places())
        return ["answer" if answers else "no answer"]

    def fit(self, records: Sequence[Record]) -> Self:
        """Learn whether a question may have no answer."""
        if self.options.no_answer != "auto":
            return self
        found = "on" if any(not record["answers"] for record in records) else "off"
        return type(self)(self.options.model_copy(update={"no_answer": found}))

    def check(self, records: Sequence[Record], split: str) -> None:
        """Accept all: any question can be asked of any context."""

    def describe(self, records: Sequence[Record]) -> dict[str, Any]:
        """Count questions, contexts, and questions without an answer."""
        return {
            "questions": len(records),
            "contexts": len({record["context"] for record in records}),
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
                f"qa reads an object with 'question' and 'context', or a list of both; found {type(item).__name__}"
            )
        found = {
            name: next((item[column] for column in self.columns[name] if column in item), None)
            for name in ("question", "context")
        }
        return {name: _text(value, name, "an input") for name, value in found.items()}

    def encode(self, record: Record, reading: Reading, labelled: bool) -> list[Feature]:
        """Tokenise in windows, the question in each; an answer that is in none as a whole is learnt in part."""
        features = _windows(record["question"], record["context"], reading, self.options.overlap)
        if labelled:
            answer = _stripped(record["context"], record["answers"][0]) if record["answers"] else None
            _label(features, answer)
        return features

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Return the mean cross entropy of start and end, from logits (R, T, 2) and labels (R, T).

        Starts and ends compete with those of the context and the position of no answer alone.
        """
        labelled = (labels != NOT_COUNTED).any(1)
        logits, labels = logits[labelled], labels[labelled]
        outside = (labels == NOT_COUNTED).unsqueeze(-1)
        scores = logits.masked_fill(outside, torch.finfo(logits.dtype).min).transpose(1, 2)  # (R, 2, T)
        targets = torch.stack([_is(labels, START), _is(labels, END)], dim=1).int().argmax(-1)  # (R, 2)
        return functional.cross_entropy(scores.flatten(0, 1), targets.flatten())

    def digest(self, feature: Feature, logits: Tensor) -> Tensor:
        """Return (5) in place of logits (T, 2): of the best stretch worth, first and last character, and probability.

        The last number is the probability of no answer. Without a context no stretch is worth anything.
        """
        window: Window = feature.alignment
        own = [(position, span) for position, span in enumerate(window.spans) if span is not None]
        if not own:
            return torch.tensor([-torch.inf, 0, 0, 0, 1]).double()
        places = torch.tensor([window.null, *(position for position, _ in own)])
        starts, ends = logits[places].double().log_softmax(0).T  # (1 + context) each
        length = places[1:].unsqueeze(0) - places[1:].unsqueeze(1) + 1  # (start, end)
        sums = starts[1:].unsqueeze(1) + ends[1:].unsqueeze(0)
        sums = sums.masked_fill((length < 1) | (length > self.options.max_answer), -torch.inf)
        first, last = divmod(int(sums.argmax()), len(own))
        none = starts[0] + ends[0]
        best = sums[first, last]
        return torch.stack(
            [best - none, torch.tensor(own[first][1][0]), torch.tensor(own[last][1][1]), best.exp(), none.exp()]
        )

    def settle(self, records: Sequence[Record], digests: Sequence[Sequence[Tensor]]) -> Self:
        """Learn the threshold that gives most F1, where it is not given and both kinds of question are there."""
        kinds = {bool(record["answers"]) for record in records}
        if self.options.no_answer != "on" or self.options.threshold is not None or len(kinds) < 2:
            return self
        gains = []
        for record, own in zip(records, digests, strict=True):
            worth, answer, _ = self._best(record, own)
            references = _references(record)
            gains.append((worth, f1("" if answer is None else answer["text"], references) - f1("", references)))
        found = _best_threshold(gains)
        return type(self)(self.options.model_copy(update={"threshold": round(found, 4)}))

    def decode(self, record: Record, features: Sequence[Feature], digests: Sequence[Tensor]) -> dict[str, Any]:
        """Return the answer with its characters in the context and its probability; None where there is no answer."""
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
        """Return worth and text of the best stretch of all windows, and the probability of no answer in any."""
        found = torch.stack(list(digests))
        worth, start, end, score, _ = found[int(found[:, 0].argmax())].tolist()
        none = float(found[:, 4].min())
        text = record["context"][int(start) : int(end)]
        start += len(text) - len(text.lstrip())
        answer = {"text": text.strip(), "start": int(start), "score": score} if text.strip() else None
        return worth, answer, none

    def score(self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return F1 and exact match as SQuAD has them, in percent; with both kinds of question those of each too."""
        pairs = [
            (found["answer"] or "", _references(record)) for record, found in zip(records, predictions, strict=True)
        ]
        answered = [(text, references) for text, references in pairs if references]
        metrics = _measured(pairs)
        if len(answered) < len(pairs):
            none = [(text, references) for text, references in pairs if not references]
            metrics |= {f"has_answer_{name}": value for name, value in _measured(answered).items()}
            metrics["no_answer_accuracy"] = _measured(none)["exact_match"]
        return metrics

    def baseline(self, records: Sequence[Record]) -> dict[str, Any]:
        """Return the metrics of "no answer" to every question."""
        return self.score(records, [{"answer": None}] * len(records))

    def render(self, prediction: Mapping[str, Any]) -> str:
        """Mark the answer in what stands around it: ``Who wrote it? In 1843 [Ada Lovelace|0.93] wrote``."""
        question, context = " ".join(prediction["question"].split()), prediction["context"]
        start, end = prediction["start"], prediction["end"]
        if start is None:
            return f"{question} [no answer|{prediction['score']:.2f}]"
        before = ("..." if start > AROUND else "") + context[max(0, start - AROUND) : start]
        after = context[end : end + AROUND] + ("..." if len(context) > end + AROUND else "")
        return " ".join(f"{question} {before}[{prediction['answer']}|{prediction['score']:.2f}]{after}".split())


# ------------------------------------------------------------------------------------------ helpers


def _check_new(record: Record, where: str, first: dict[str, str]) -> None:
    """Raise :class:`DataError` for an id that a record before has; ``first`` are their places by id."""
    if record.get("id") is None:
        return
    name = str(record["id"])
    if name in first:
        raise DataError(f"{where}: the id {name!r} is that of {first[name]} already; each question has its own")
    first[name] = where


def _references(record: Record) -> list[str]:
    return [answer["text"] for answer in record["answers"]]


def _stripped(context: str, answer: Record) -> Span:
    """Return the characters of an answer without white space around it."""
    text = answer["text"]
    start = answer["start"] + len(text) - len(text.lstrip())
    return start, start + len(text.strip())


def _windows(question: str, context: str, reading: Reading, overlap: int) -> list[Feature]:
    """Return windows aligned with the context; a causal model's end with a token that has seen all before it."""
    room = replace(reading, max_length=reading.max_length - 1) if reading.causal else reading
    features = located_windows(question, context, room, overlap)
    for feature in features:
        spans = feature.alignment
        if reading.causal:
            last = {"input_ids": closing(reading.tokenizer), "attention_mask": 1}
            feature.inputs = {name: [*given, last.get(name, 0)] for name, given in feature.inputs.items()}
            spans = [*spans, None]
        feature.alignment = Window(spans, len(spans) - 1 if reading.causal else 0)
    return features


def _label(features: Sequence[Feature], answer: Span | None) -> None:
    """Label each window with the answer where it holds the whole of it, and else with none.

    Where no window does, the one that holds most of it learns that much, and the rest counts as cut. An answer that
    has no token is labelled in no window.
    """
    held = [_positions(feature.alignment, answer) for feature in features]
    spans = {feature.alignment.spans[place] for feature, own in zip(features, held, strict=True) for place in own}
    if answer is not None and not spans:
        for feature in features:
            feature.labels = [NOT_COUNTED] * len(feature.alignment.spans)
        return
    most = max(map(len, held))
    if most < len(spans):
        features[list(map(len, held)).index(most)].cut += len(spans) - most
    for feature, own in zip(features, held, strict=True):
        window: Window = feature.alignment
        places = own if own and len(own) == most else [window.null]
        feature.labels = [NOT_COUNTED if span is None else OTHER for span in window.spans]
        feature.labels[window.null] = OTHER
        feature.labels[places[0]] += START
        feature.labels[places[-1]] += END


def _positions(window: Window, answer: Span | None) -> list[int]:
    """Return the positions of a window that stand for a part of the answer."""
    if answer is None:
        return []
    return [
        position
        for position, span in enumerate(window.spans)
        if span is not None and span[0] < answer[1] and answer[0] < span[1]
    ]


def _is(labels: Tensor, part: int) -> Tensor:
    """Return where labels (R, T) say that the answer starts, or ends."""
    return labels.clamp(min=0).bitwise_and(part) > 0


def _best_threshold(gains: Sequence[tuple[float, float]]) -> float:
    """Return the worth from which answering gains most, from the worth of each answer and what it would gain."""
    ordered = sorted((gain for gain in gains if gain[0] > -torch.inf), reverse=True)
    if not ordered:
        return 0.0
    best, total, found = 0.0, 0.0, ordered[0][0] + 1
    for (worth, gain), (following, _) in zip(ordered, [*ordered[1:], (ordered[-1][0] - 2, 0.0)], strict=True):
        total += gain
        if total > best and following < worth:
            best, found = total, (worth + following) / 2
    return found


def _measured(pairs: Sequence[tuple[str, list[str]]]) -> dict[str, float]:
    """Return F1 and exact match of answers with their references, in percent."""
    count = max(1, len(pairs))
    return {
        "f1": round(100 * sum(f1(text, references) for text, references in pairs) / count, 2),
        "exact_match": round(100 * sum(exact_match(text, references) for text, references in pairs) / count, 2),
    }
