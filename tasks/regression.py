"""Regression: a number for a text, or for a pair of texts (their similarity).

The target is standardised with mean and standard deviation of the training data; predictions are on the scale of the
data.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Cleaned, FitExamples, Outcome, Passage, Record
from adaptdock.plugins.toolkit.heads import PooledOptions, SequenceHead
from adaptdock.plugins.toolkit.linear_fit import fit_numbers
from adaptdock.plugins.toolkit.stored import in_sequence
from adaptdock.tasks.common.outcomes import texts
from adaptdock.tasks.common.sequences import FIRST, SECOND, TEXT, SequenceTask, mean
from adaptdock.tasks.labels.decimal_commas import number_of, with_points

SMALLEST = 1e-12
"""Variance of standardised numbers below which they are a constant."""


class RegressionOptions(PooledOptions):
    """Options of ``regression``."""

    mean: float = 0.0
    """Mean of the target; learnt from the training data."""
    deviation: float = Field(1.0, gt=0)
    """Standard deviation of the target; learnt from the training data."""
    loss: str = Field("squared", pattern="^(squared|absolute)$")
    """squared, or absolute, which is more robust to outliers."""


class Regression(SequenceTask):
    """Gives a text, or a pair of texts, a number."""

    Options = RegressionOptions
    options: RegressionOptions
    columns = {
        "text": tuple(dict.fromkeys((*FIRST[:-1], *TEXT))),
        "second": SECOND[:-1],
        "label": ("score", "label", "similarity_score", "rating", "stars", "value", "target", "-1"),
    }
    optional = frozenset({"second"})
    metric = "pearson"
    sample = Path(__file__).parent / "samples" / "regression"

    # ------------------------------------------------------------------------------------- data

    def clean(self, records: Iterable[Record], split: str) -> Cleaned:
        """Check texts and numbers; note numbers with a decimal comma, and what else the texts suggest."""
        numbers, notes = with_points(in_sequence(records), split)
        cleaned = super().clean(numbers, split)
        return Cleaned(cleaned.records, [*notes, *cleaned.notes])

    def label(self, value: Any, where: str) -> float:
        """Return a finite number."""
        number = number_of(value)
        if number is None:
            raise DataError(f"{where}: the target has to be a finite number, found {value!r:.60}")
        return number

    def fit(self, records: Sequence[Record]) -> Self:
        """Learn mean and standard deviation of the target."""
        values = [record["label"] for record in records]
        average = sum(values) / len(values)
        deviation = math.sqrt(sum((value - average) ** 2 for value in values) / len(values))
        if deviation == 0:
            raise DataError(f"the target is {values[0]:g} in every training record: there is nothing to learn")
        return type(self)(self.options.model_copy(update={"mean": average, "deviation": deviation}))

    def check(self, records: Sequence[Record], split: str) -> None:
        """Accept all records: any number is a target."""

    def describe(self, records: Sequence[Record]) -> dict[str, Any]:
        """Count texts, and return the range of the target."""
        values = [record["label"] for record in records]
        return {"texts": len(records), "target from": min(values), "target to": max(values)}

    # ------------------------------------------------------------------------------------ model

    def head(self) -> SequenceHead:
        """Return a linear layer from the pooled hidden states to one number."""
        return self.options.score_head()

    def target(self, record: Record) -> float:
        """Return the standardised target."""
        return float((record["label"] - self.options.mean) / self.options.deviation)

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Return the mean squared or absolute difference of (R, 1) and (R)."""
        compare = functional.mse_loss if self.options.loss == "squared" else functional.l1_loss
        return compare(logits.squeeze(-1), labels.to(logits.dtype))

    def fit_head(self, examples: FitExamples, strength: float | None) -> dict[str, Tensor] | None:
        """Return a ridge regression of the standardised target."""
        return fit_numbers(examples, strength)

    def decode(self, record: Record, features: Sequence[Any], digests: Sequence[Tensor]) -> dict[str, Any]:
        """Return the number, on the scale of the data."""
        value = mean(digests).item() * self.options.deviation + self.options.mean
        texts: dict[str, Any] = {name: record[name] for name in ("text", "second") if name in record}
        return {**texts, "value": round(value, 4)}

    def score(self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return Pearson and Spearman correlation in percent, and mean absolute and root mean squared error."""
        from scipy.stats import pearsonr, spearmanr

        gold = [record["label"] for record in records]
        predicted = [prediction["value"] for prediction in predictions]
        gaps = [want - got for want, got in zip(gold, predicted, strict=True)]
        # The correlation with a constant is undefined.
        varies = len(set(gold)) > 1 and len(set(predicted)) > 1
        return {
            "pearson": round(100 * float(pearsonr(gold, predicted).statistic), 2) if varies else 0.0,
            "spearman": round(100 * float(spearmanr(gold, predicted).statistic), 2) if varies else 0.0,
            "mae": round(sum(map(abs, gaps)) / len(gaps), 4),
            "rmse": round(math.sqrt(sum(gap * gap for gap in gaps) / len(gaps)), 4),
        }

    def sums(self, record: Record, prediction: Mapping[str, Any]) -> tuple[float, ...]:
        """Return 1, and target x and prediction y standardised: x, y, x², y², xy."""
        expected, predicted = (
            (value - self.options.mean) / self.options.deviation for value in (record["label"], prediction["value"])
        )
        return 1.0, expected, predicted, expected**2, predicted**2, expected * predicted

    def of_sums(self, sums: Sequence[float]) -> float:
        """Return Pearson's correlation in percent; 0 with a constant."""
        number, first, second, squares, other_squares, products = sums
        variances = number * squares - first**2, number * other_squares - second**2
        if min(variances) <= SMALLEST * number**2:
            return 0.0
        return 100 * (number * products - first * second) / math.sqrt(variances[0] * variances[1])

    def outcome(self, record: Record, prediction: Mapping[str, Any]) -> Outcome:
        """Compare the numbers; the error is their distance."""
        expected, predicted = record["label"], prediction["value"]
        passages = (*texts(record), Passage("expected", f"{expected:g}"), Passage("predicted", f"{predicted:g}"))
        return Outcome(abs(expected - predicted), passages, values=(expected, predicted))

    def baseline(self, records: Sequence[Record]) -> dict[str, Any]:
        """Return the metrics of predicting the mean of the training data."""
        return self.score(records, [{"value": self.options.mean}] * len(records))

    def render(self, prediction: Mapping[str, Any]) -> str:
        """Write the number before the text: ``[4.2] Worth every minute.``."""
        texts = " / ".join(prediction[name] for name in ("text", "second") if name in prediction)
        return f"[{prediction['value']:g}] {texts}"
