"""Multiple choice: the right one of several answers to a question, each read beside the question.

The score of a choice is a linear map of the pooled states of question and choice in one window, and the choices of a
question share a softmax (Devlin et al. 2019, section 4.4). A context is read behind them, in several windows where it
is long; a choice then has the score of its best window.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Cleaned, Feature, Outcome, Passage, Reading, Record, Task
from adaptdock.plugins.toolkit.bm25 import BM25
from adaptdock.plugins.toolkit.heads import PooledOptions, SequenceHead
from adaptdock.plugins.toolkit.stored import stored
from adaptdock.tasks.common.candidates import (
    CandidateBatch,
    candidate_scores,
    candidate_windows,
    check_count,
    fields_of,
    label_windows,
)
from adaptdock.tasks.common.examples import Examples
from adaptdock.tasks.common.sequences import RECIPES
from adaptdock.tasks.reading.choice_formats import (
    COLUMNS,
    QUESTIONS_READ,
    AnswerForm,
    Question,
    choices_of,
    question_of,
    right_choices,
)

QUESTIONS = 4
"""Questions in a batch of a recipe; each has several windows."""


class ChoiceOptions(PooledOptions):
    """Options of ``choice``."""

    answer_form: AnswerForm = "auto"
    """Form of the answers: the text of a choice, a letter, or a number from 0 or 1; auto finds the form of all."""


class Choice(Task):
    """Chooses the right one of several answers to a question."""

    Options = ChoiceOptions
    options: ChoiceOptions
    columns = {
        "question": ("question", "query", "goal", "sent1", "startphrase", "ctx", "question_stem", "sentence", "stem"),
        "choices": ("choices", "options", "endings", "candidates"),
        "answer": (
            "answer",
            "answerKey",
            "answer_key",
            "label",
            "correct",
            "gold",
            "answer_idx",
            "cop",
            "correct_answer",
        ),
        "context": ("context", "article", "passage", "paragraph", "premise", "fact1"),
        "beginning": ("beginning", "sent2"),
        **COLUMNS,
    }
    optional = frozenset({"choices", "context", "beginning", *COLUMNS})
    asks = ("question", "choices")
    texts = ("question",)
    layout = "jsonl"
    metric = "accuracy"
    baseline_answer = "the choice at the place that is right most often"
    together = True
    sample = Path(__file__).parent / "samples" / "choice"
    recipes = {name: recipe.model_copy(update={"batch_size": QUESTIONS}) for name, recipe in RECIPES.items()}

    # ------------------------------------------------------------------------------------- data

    def clean(self, records: Iterable[Record], split: str) -> Cleaned:
        """Check questions and choices, and find the right choices; note the form of the answers."""
        unknown = Examples()
        known = stored(_answered(records, split, unknown), QUESTIONS_READ)
        if not known:
            where = unknown.first[0] if unknown else split
            raise DataError(f"{where}: the answer is missing, as in all records of {split}")
        notes = [f"{split}: {unknown.count} questions have no answer and are left out: {unknown}"] * bool(unknown)
        numbers, note = right_choices(known, self.options.answer_form)
        cleaned = stored(
            {**_content(row), "answer": number, "unit": unit}
            for unit, (row, number) in enumerate(zip(known, numbers, strict=True))
        )
        return Cleaned(cleaned, [*notes, *([f"{split}: {note}"] if note else [])])

    def fit(self, records: Sequence[Record]) -> Self:
        """Return this task; its options are not learnt from data."""
        return self

    def check(self, records: Sequence[Record], split: str) -> None:
        """Accept all records: each question has its choices."""

    def describe(self, records: Sequence[Record]) -> dict[str, Any]:
        """Count questions, by their number of choices, and those with a context."""
        sizes = Counter(len(record["choices"]) for record in records)
        described: dict[str, Any] = {
            "questions": len(records),
            "by number of choices": {str(size): count for size, count in sorted(sizes.items())},
        }
        contexts = sum("context" in record for record in records)
        return described | ({"with a context": contexts} if contexts else {})

    def shown(self, record: Record) -> str:
        """Return a question with its right choice."""
        return f"{record['question']} -> {record['choices'][record['answer']]}"

    # ------------------------------------------------------------------------------------ model

    def head(self) -> SequenceHead:
        """Return a linear layer from the pooled hidden states to one score."""
        return self.options.score_head()

    def read(self, item: Any) -> Record:
        """Read an object with ``question`` and ``choices``, and perhaps ``context``."""
        if not isinstance(item, Mapping):
            raise DataError(
                f"choice reads a question with its choices, as an object such as "
                f'{{"question": "What is red?", "choices": ["a tomato", "grass"]}}; found {type(item).__name__}'
            )
        fields = fields_of(item, self.columns)
        choices = choices_of(fields, "an input")
        check_count(len(choices.texts), "choices")
        return _content(Question(fields, "an input", choices))

    def encode(self, record: Record, reading: Reading, labelled: bool) -> list[Feature]:
        """Tokenise the question with each choice; a context comes behind both."""
        question, context = record["question"], record.get("context")
        if context is None:
            pairs = [(question, text) for text in record["choices"]]
        else:
            pairs = [(f"{question} {text}", context) for text in record["choices"]]
        features = candidate_windows(pairs, reading)
        if labelled:  # an augmented copy is a question of its own
            unit = -record["copy"] if "copy" in record else record["unit"]
            right = [int(number == record["answer"]) for number in range(len(record["choices"]))]
            label_windows(features, unit, right)
        return features

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Return the cross entropy over the choices of each question, from scores (R, 1) and labels (R, 3)."""
        return CandidateBatch(logits, labels).softmax_loss()

    def decode(self, record: Record, features: Sequence[Feature], digests: Sequence[Tensor]) -> dict[str, Any]:
        """Return the choice with its index, and the probability of each choice."""
        shares = candidate_scores(len(record["choices"]), features, digests).softmax(-1)
        best = int(shares.argmax())
        asked: dict[str, Any] = {name: record[name] for name in ("question", "context", "choices") if name in record}
        return {
            **asked,
            "answer": record["choices"][best],
            "index": best,
            "score": round(shares[best].item(), 4),
            "scores": [round(share, 4) for share in shares.tolist()],
        }

    def score(self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the accuracy in percent, and that of a random choice."""
        count = max(1, len(records))
        right = sum(map(_is_right, records, predictions))
        chance = sum(1 / len(record["choices"]) for record in records)
        return {"accuracy": round(100 * right / count, 2), "chance": round(100 * chance / count, 2)}

    def sums(self, record: Record, prediction: Mapping[str, Any]) -> tuple[float, ...]:
        """Return whether the choice is right, and 1."""
        return float(_is_right(record, prediction)), 1.0

    def of_sums(self, sums: Sequence[float]) -> float:
        """Return the accuracy in percent."""
        return 100 * sums[0] / sums[1]

    def outcome(self, record: Record, prediction: Mapping[str, Any]) -> Outcome:
        """Compare choices; the surer a wrong one, the greater its error."""
        right, score = _is_right(record, prediction), prediction["score"]
        expected = record["answer"]
        listed = [f"{share:.2f} {text}" for share, text in zip(prediction["scores"], record["choices"], strict=True)]
        passages = [Passage(name, record[name]) for name in ("context", "question") if name in record]
        passages += [
            Passage("choices", "\n".join(listed)),
            Passage("expected", record["choices"][expected]),
            Passage("predicted", prediction["answer"]),
        ]
        return Outcome(0.0 if right else 1.0 + score, tuple(passages), scores=((score, right),))

    def baseline(self, records: Sequence[Record]) -> dict[str, Any]:
        """Return the metrics of the place that is right most often."""
        places = Counter(record["answer"] for record in records)
        return self.score(records, [{"index": places.most_common(1)[0][0]}] * len(records))

    def classic_answers(self, train: Sequence[Record], records: Sequence[Record]) -> dict[str, list[dict[str, Any]]]:
        """Return the choice that shares most words with question and context."""
        collection = BM25(text for record in records for text in record["choices"])
        answers = []
        for record in records:
            asked = f"{record['question']} {record.get('context', '')}"
            scores = collection.scores(asked, record["choices"])
            answers.append({"index": scores.index(max(scores))})
        return {"the choice most like the question by BM25": answers}

    def render(self, prediction: Mapping[str, Any]) -> str:
        """Write the choice behind the question: ``What is red? [a tomato|0.93]``."""
        question = " ".join(prediction["question"].split())
        return f"{question} [{prediction['answer']}|{prediction['score']:.2f}]"


# ------------------------------------------------------------------------------------------ helpers


def _content(row: Question) -> Record:
    """Return a record with its texts alone, and its place and number."""
    record, where, choices = row
    content: Record = {name: record[name] for name in ("where", "id", "copy", "document") if name in record}
    content |= {"question": question_of(record, where), "choices": choices.texts}
    context = record.get("context")
    if isinstance(context, str) and context.strip():
        content["context"] = context
    elif context is not None and not isinstance(context, str):
        raise DataError(f"{where}: the context is a text; found {context!r:.60}")
    return content


def _answered(records: Iterable[Record], split: str, unknown: Examples) -> Iterator[Question]:
    """Yield the questions with an answer; add the places of the others to ``unknown``."""
    for record in records:
        where = str(record.get("where", split))
        choices = choices_of(record, where)
        if choices.is_unknown(record.get("answer")):
            unknown.add(where)
        else:
            yield Question(record, where, choices)


def _is_right(record: Record, prediction: Mapping[str, Any]) -> bool:
    return bool(record["answer"] == prediction["index"])
