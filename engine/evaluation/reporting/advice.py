"""Advice: what would help most next, by rules on measured numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adaptdock.engine.evaluation.reporting.calibration import Calibration
from adaptdock.engine.evaluation.reporting.confusion import Confusion
from adaptdock.engine.evaluation.reporting.slices import LENGTH, UNSEEN, Slice
from adaptdock.engine.evaluation.resampling import Interval

SHOWN = 5
WIDE = 0.1
"""Width of the interval, as a share of the metric, from which the data is too small to compare settings."""
LOW_RECALL, FEW_EXAMPLES = 50.0, 50
"""Recall in percent and training examples below which a label lacks examples."""
WEAK_LABEL, LEAST_SUPPORT = 20.0, 5
"""Points of recall below the metric, and expected answers, from which a label is weak."""
CONFUSED, FEWEST_ERRORS = 0.15, 10
"""Share of all errors from which a pair of labels counts as confused, and the fewest errors to judge by."""
UNCALIBRATED = 0.1
OVERFITTED = 1.1
"""Ratio of the last validation loss to the least one from which the training was too long."""
WRONG_DATA = 0.01
"""Problems as a share of the checked records, from which the data comes first."""


@dataclass(frozen=True)
class LabelFigures:
    """Recall in percent and support of a label, and its training examples, if they are known."""

    name: str
    recall: float
    support: int
    trained: int | None


@dataclass(frozen=True)
class Facts:
    """The measured numbers of a report that the rules read."""

    metric: str
    value: float
    records: int
    lower_is_better: bool = False
    interval: Interval | None = None
    shortfall: str = ""
    problems: int = 0
    checked: int = 0
    """The records in which problems were looked for."""
    labels: Sequence[LabelFigures] = ()
    confusion: Confusion | None = None
    calibration: Calibration | None = None
    slices: Sequence[Slice] = ()
    validation_losses: Sequence[float] = ()
    last_epoch_is_best: bool = False

    def worse(self, value: float) -> bool:
        """Return whether a value is worse than the metric on all records."""
        return value > self.value if self.lower_is_better else value < self.value


Rule = Callable[[Facts], str]
"""Returns advice in a sentence or two, or an empty text."""


def advice(facts: Facts, limit: int = SHOWN) -> list[str]:
    """Return the advice of the rules that apply, the most useful first."""
    sentences = [rule(facts) for rule in RULES]
    return [sentence for sentence in sentences if sentence][:limit]


def learns_nothing(facts: Facts) -> str:
    """Advise on an adapter that is not better than a constant answer."""
    return f"{facts.shortfall} More epochs or another learning rate come first." if facts.shortfall else ""


def mend_data(facts: Facts) -> str:
    """Advise to mend the data if more than one record in a hundred has a problem."""
    if facts.problems <= WRONG_DATA * facts.checked:
        return ""
    return f"Mend the data first: the data warnings below count {facts.problems} places that look wrong."


def label_examples(facts: Facts) -> str:
    """Advise to add examples of the labels that are rarely recognised and have few examples in training."""
    lacking = [
        label
        for label in facts.labels
        if label.support and label.recall < LOW_RECALL and label.trained is not None and label.trained < FEW_EXAMPLES
    ]
    if not lacking:
        return ""
    worst = sorted(lacking, key=lambda label: (label.recall, -label.support))[:3]
    listing = ", ".join(f"{label.name!r} ({label.trained} in training, recall {label.recall:g} %)" for label in worst)
    if len(lacking) == 1:
        return f"Label more examples of {listing}: it is missed more often than not."
    return f"Label more examples of the labels that are missed more often than not ({len(lacking)} labels): {listing}."


def separate_labels(facts: Facts) -> str:
    """Advise to look at the most frequent confusion."""
    if facts.confusion is None or facts.confusion.errors < FEWEST_ERRORS:
        return ""
    expected, predicted, count = facts.confusion.frequent(1)[0]
    share = count / facts.confusion.errors
    if share < CONFUSED:
        return ""
    if predicted.startswith("(other extent"):
        return (
            f"{count} of {facts.confusion.errors} errors are answers of another extent, most of {expected!r}: check "
            f"that the annotation always begins and ends at the same words (titles, articles, punctuation)."
        )
    if predicted.startswith("("):
        return f"{count} of {facts.confusion.errors} errors are missed {expected!r}: label more texts that contain it."
    if expected.startswith("("):
        return (
            f"{count} of {facts.confusion.errors} errors are {predicted!r} where none is expected: check the expected "
            f"answers for missing labels, and add texts without it."
        )
    return (
        f"{expected!r} is taken for {predicted!r} in {count} of {facts.confusion.errors} errors: check the border "
        f"between the two in the training data, and add examples near it."
    )


def unseen_words(facts: Facts) -> str:
    """Advise on texts with words that training has not seen."""
    weak = _weak(facts, UNSEEN)
    if weak is None or weak.name == "none":
        return ""
    return (
        f"Texts with unseen words ({weak.name}) reach {weak.value:.1f}, all texts {facts.value:.1f}: train on more "
        f"varied texts (--augment, --unlabelled), or on a backbone that knows the domain."
    )


def long_texts(facts: Facts) -> str:
    """Advise on texts of a length with a worse metric."""
    weak = _weak(facts, LENGTH)
    if weak is None:
        return ""
    return (
        f"Texts of {weak.name} reach {weak.value:.1f}, all texts {facts.value:.1f}: label more texts of this length, "
        f"and check that --max-length suits them."
    )


def _weak(facts: Facts, kind: str) -> Slice | None:
    """Return the worst slice of a kind, if its interval excludes the metric on all records."""
    weak = [
        part for part in facts.slices if part.kind == kind and facts.worse(part.value) and part.differs(facts.value)
    ]
    return (max if facts.lower_is_better else min)(weak, key=lambda part: part.value, default=None)


def train_longer(facts: Facts) -> str:
    """Advise more epochs if the last one was the best, unless the validation loss advises fewer."""
    if not facts.last_epoch_is_best or train_shorter(facts):
        return ""
    return "The last epoch was the best: more epochs may help (--epochs)."


def train_shorter(facts: Facts) -> str:
    """Advise against overfitting if the validation loss has risen since its least value."""
    losses = facts.validation_losses
    if len(losses) < 3 or losses[-1] <= OVERFITTED * min(losses):
        return ""
    return (
        f"The validation loss rose from {min(losses):.3f} to {losses[-1]:.3f}: the adapter overfits. More labelled "
        f"data helps most; fewer epochs, a lower rank or --augment help too."
    )


def calibrate(facts: Facts) -> str:
    """Advise on scores that are not probabilities."""
    if facts.calibration is None or facts.calibration.error < UNCALIBRATED:
        return ""
    kind = "surer than they are right" if facts.calibration.excess > 0 else "less sure than they are right"
    return (
        f"The scores are {kind}, by {100 * facts.calibration.error:.0f} points on average: do not read them as "
        f"probabilities. A task with --calibrate can learn a temperature."
    )


def measure_more(facts: Facts) -> str:
    """Advise more labelled data for measuring if the interval is wide."""
    if facts.interval is None or not facts.value:
        return ""
    low, high = facts.interval
    if high - low <= WIDE * abs(facts.value):
        return ""
    return (
        f"The {facts.records} measured records leave {facts.metric} between {low:.1f} and {high:.1f}: with more of "
        f"them, smaller differences between two adapters can be seen."
    )


def weakest_labels(facts: Facts) -> str:
    """Advise to read the errors of the labels that are missed much more often than others."""
    weak = [
        label
        for label in facts.labels
        if label.support >= LEAST_SUPPORT and label.recall <= facts.value - WEAK_LABEL and label.recall >= LOW_RECALL
    ]
    if not weak:
        return ""
    worst = sorted(weak, key=lambda label: (label.recall, label.name))[:3]
    listing = ", ".join(f"{label.name!r} (recall {label.recall:g} %)" for label in worst)
    return f"Read the errors of the weakest labels, and add training texts like them: {listing}."


RULES: tuple[Rule, ...] = (
    learns_nothing,
    mend_data,
    train_longer,
    label_examples,
    separate_labels,
    weakest_labels,
    unseen_words,
    long_texts,
    train_shorter,
    calibrate,
    measure_more,
)
"""The rules in the order of their usefulness: the data, the training, the labels, the measurement."""
