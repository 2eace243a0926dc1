"""Reranking: passages in the order in which they answer a query, by a score that reads both (a cross-encoder).

The score of a passage is a linear map of the pooled states of query and passage in one window (Nogueira and Cho 2019,
arXiv:1901.04085); that of a long passage is the score of its best window. The loss is the softmax over the candidates
of a query (ListNet; RankT5, arXiv:2210.10634), or the binary cross entropy of each passage.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field
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
from adaptdock.tasks.ranking.candidate_formats import grouped, labelled_candidates, passage, query_of, read_candidates
from adaptdock.tasks.ranking.ranking_metrics import CUT, average_precision, ndcg, ranked, reciprocal_rank

SHOWN = 5
"""Most candidates that a printed prediction and a report show."""
DIGITS = 6
QUERIES = 4
"""Queries in a batch of a recipe; each has several windows."""


class RerankOptions(PooledOptions):
    """Options of ``rerank``."""

    objective: Literal["listwise", "pointwise"] = "listwise"
    """listwise: softmax over the candidates of a query; pointwise: relevant or not, each candidate by itself."""
    negatives: int = Field(7, gt=0)
    """Most irrelevant candidates that a query learns from, at even distances in the order of the data."""


class Rerank(Task):
    """Puts the candidates of a query in the order of their relevance."""

    Options = RerankOptions
    options: RerankOptions
    columns = {
        "query": ("query", "question", "anchor", "search_query", "q"),
        "candidates": ("candidates", "passages", "documents", "docs", "passage", "document", "doc", "text"),
        "relevance": ("relevance", "relevances", "labels", "label", "scores", "score"),
        "positive": ("positive", "positives", "pos", "positive_passages", "positive_passage"),
        "negative": ("negative", "negatives", "neg", "negative_passages", "hard_negatives", "negative_passage"),
    }
    optional = frozenset({"candidates", "relevance", "positive", "negative"})
    asks = ("query", "candidates")
    texts = ("query",)
    layout = "jsonl"
    metric = f"ndcg@{CUT}"
    baseline_answer = "the order by BM25"
    together = True
    sample = Path(__file__).parent / "samples" / "rerank"
    recipes = {name: recipe.model_copy(update={"batch_size": QUERIES}) for name, recipe in RECIPES.items()}

    @classmethod
    def group(cls, record: Record) -> str:
        """Return the query; all its candidates go into the same split."""
        return str(record.get("query"))

    # ------------------------------------------------------------------------------------- data

    def clean(self, records: Iterable[Record], split: str) -> Cleaned:
        """Check queries and candidates, and join the rows of a query; note queries that teach nothing."""
        queries, notes = grouped(records, split)
        if split == "train":
            useless = Examples(_where(record) for record in queries if not self._teaches(record))
            if useless.count == len(queries):
                raise DataError(
                    f"train: no query has both relevant and irrelevant candidates, so nothing can be learnt: {useless}"
                )
            if useless:
                queries = stored(filter(self._teaches, queries))
                notes.append(
                    f"train: {useless.count} queries are left out, as all their candidates are relevant or none is: "
                    f"{useless}"
                )
        else:
            without = Examples(_where(record) for record in queries if not any(self._gains(record)))
            if without:
                notes.append(f"{split}: {without.count} queries have no relevant candidate, and count as 0: {without}")
        return Cleaned(stored({**record, "unit": number} for number, record in enumerate(queries)), notes)

    def fit(self, records: Sequence[Record]) -> Self:
        """Return this task; its options are not learnt from data."""
        return self

    def check(self, records: Sequence[Record], split: str) -> None:
        """Accept all records: no labels have to be known."""

    def describe(self, records: Sequence[Record]) -> dict[str, Any]:
        """Count queries, candidates, and relevant candidates."""
        gains = Counter(gain > 0 for record in records for gain in self._gains(record))
        return {"queries": len(records), "candidates": gains.total(), "relevant": gains[True]}

    def shown(self, record: Record) -> str:
        """Return a query with its most relevant candidate."""
        best = max(record["candidates"], key=lambda candidate: candidate["relevance"])
        return f"{record['query']} -> {best['text']}"

    @staticmethod
    def _gains(record: Record) -> list[int]:
        return [candidate["relevance"] for candidate in record["candidates"]]

    def _teaches(self, record: Record) -> bool:
        """Return whether a query has both relevant and irrelevant candidates."""
        return len({gain > 0 for gain in self._gains(record)}) == 2

    # ------------------------------------------------------------------------------------ model

    def head(self) -> SequenceHead:
        """Return a linear layer from the pooled hidden states to one score."""
        return self.options.score_head()

    def read(self, item: Any) -> Record:
        """Read an object with ``query`` and ``candidates``: texts, or objects with ``text``."""
        if not isinstance(item, Mapping):
            raise DataError(
                f"rerank reads a query with its candidates, as an object such as "
                f'{{"query": "Who ran?", "candidates": ["Ada ran.", "It rained."]}}; found {type(item).__name__}'
            )
        fields = fields_of(item, self.columns)
        query = query_of(fields, "an input")
        if "candidates" not in fields and "positive" in fields:  # a labelled record
            candidates = labelled_candidates(fields, "an input")
        else:
            candidates = read_candidates(fields.get("candidates"), "an input")
        check_count(len(candidates), "candidates")
        return {"query": query, "candidates": candidates}

    def encode(self, record: Record, reading: Reading, labelled: bool) -> list[Feature]:
        """Tokenise the query with each candidate, in several windows where a candidate is long."""
        pairs = [(record["query"], passage(candidate)) for candidate in record["candidates"]]
        features = candidate_windows(pairs, reading)
        if labelled:  # an augmented copy is a query of its own
            unit = -record["copy"] if "copy" in record else record["unit"]
            label_windows(features, unit, self._gains(record))
        return features

    def sampled_windows(self, windows: Sequence[Feature]) -> list[Feature]:
        """Return the windows of the relevant candidates, and of at most ``negatives`` others."""
        others = list(dict.fromkeys(feature.alignment for feature in windows if feature.labels[2] == 0))
        most = min(self.options.negatives, len(others))
        sampled = {others[(2 * place + 1) * len(others) // (2 * most)] for place in range(most)}
        return [feature for feature in windows if feature.labels[2] > 0 or feature.alignment in sampled]

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Return the loss of scores (R, 1) with labels (R, 3): record, candidate, relevance."""
        batch = CandidateBatch(logits, labels)
        return batch.softmax_loss() if self.options.objective == "listwise" else batch.binary_loss()

    def decode(self, record: Record, features: Sequence[Feature], digests: Sequence[Tensor]) -> dict[str, Any]:
        """Return the candidates, the best first, each with its score and its index in the input.

        The score is a logit: its sigmoid is a probability if training was pointwise.
        """
        scores = candidate_scores(len(record["candidates"]), features, digests).tolist()
        return {"query": record["query"], "candidates": _in_order(record["candidates"], scores)}

    def score(self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return nDCG@10, MRR@10, MAP and the share of queries with a relevant first candidate, in percent."""
        rankings = [_ranking(record, prediction) for record, prediction in zip(records, predictions, strict=True)]
        measures = {
            self.metric: ndcg,
            f"mrr@{CUT}": reciprocal_rank,
            "map": average_precision,
            "first_relevant": lambda gains: float(gains[0] > 0),
        }
        return {
            name: round(100 * sum(map(measure, rankings)) / max(1, len(rankings)), 2)
            for name, measure in measures.items()
        }

    def sums(self, record: Record, prediction: Mapping[str, Any]) -> tuple[float, ...]:
        """Return nDCG of the query, and 1."""
        return ndcg(_ranking(record, prediction)), 1.0

    def of_sums(self, sums: Sequence[float]) -> float:
        """Return the mean nDCG in percent."""
        return 100 * sums[0] / sums[1]

    def outcome(self, record: Record, prediction: Mapping[str, Any]) -> Outcome:
        """Compare orders; the error is the missing nDCG."""
        best = sorted(record["candidates"], key=lambda candidate: -candidate["relevance"])
        relevant = [candidate for candidate in best if candidate["relevance"] > 0]
        expected = "\n".join(f"[{candidate['relevance']}] {candidate['text']}" for candidate in relevant[:SHOWN])
        lines = [
            f"[{record['candidates'][candidate['index']]['relevance']}] {candidate['score']:.2f} {candidate['text']}"
            for candidate in prediction["candidates"][:SHOWN]
        ]
        passages = (
            Passage("query", record["query"]),
            Passage("expected", expected or "no relevant candidate"),
            Passage("predicted", "\n".join(lines)),
        )
        return Outcome(1.0 - ndcg(_ranking(record, prediction)), passages)

    def baseline(self, records: Sequence[Record]) -> dict[str, Any]:
        """Return the metrics of BM25, with word counts of all candidates of the records."""
        collection = BM25(passage(candidate) for record in records for candidate in record["candidates"])
        answers = [
            {"candidates": _in_order(record["candidates"], collection.scores(record["query"], _passages(record)))}
            for record in records
        ]
        return self.score(records, answers)

    def render(self, prediction: Mapping[str, Any]) -> str:
        """Write the query with the first candidates: ``Who ran? 1. [2.31] Ada ran. 2. [-0.40] It rained.``."""
        listed = [
            f"{rank}. [{candidate['score']:.2f}] {candidate['text']}"
            for rank, candidate in enumerate(prediction["candidates"][:SHOWN], 1)
        ]
        more = len(prediction["candidates"]) - SHOWN
        return " ".join(" ".join([prediction["query"], *listed, *([f"... {more} more"] * (more > 0))]).split())


# ------------------------------------------------------------------------------------------ helpers


def _passages(record: Record) -> list[str]:
    return [passage(candidate) for candidate in record["candidates"]]


def _in_order(candidates: Sequence[Mapping[str, Any]], scores: Sequence[float]) -> list[dict[str, Any]]:
    """Return candidates without labels, the highest score first; equal ones stay in their order."""
    scored = [
        {name: value for name, value in candidate.items() if name != "relevance"}
        | {"index": index, "score": round(score, DIGITS)}
        for index, (candidate, score) in enumerate(zip(candidates, scores, strict=True))
    ]
    return sorted(scored, key=lambda candidate: -candidate["score"])


def _ranking(record: Record, prediction: Mapping[str, Any]) -> list[int]:
    """Return the relevance of the candidates in predicted order."""
    relevance = [record["candidates"][candidate["index"]]["relevance"] for candidate in prediction["candidates"]]
    return ranked([candidate["score"] for candidate in prediction["candidates"]], relevance)


def _where(record: Record) -> str:
    return str(record.get("where", "a record"))
