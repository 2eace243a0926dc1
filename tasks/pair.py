"""Classification of a pair of texts: entailment, paraphrase, an answer to a question."""

from pathlib import Path

from adaptdock.tasks.classification import Classification
from adaptdock.tasks.common.sequences import FIRST, SECOND


class Pair(Classification):
    """Gives a pair of texts a label of their relation."""

    columns = {
        "text": FIRST,
        "second": SECOND,
        "label": ("label", "labels", "gold_label", "is_duplicate", "target", "2"),
    }
    asks = texts = ("text", "second")
    pair = True
    sample = Path(__file__).parent / "samples" / "pair"
