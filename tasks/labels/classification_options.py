"""The options of classification, given or learnt."""

from typing import Self

from pydantic import Field, model_validator

from adaptdock.plugins.contracts import Labels
from adaptdock.plugins.toolkit.heads import PooledOptions, VectorLength


class ClassificationOptions(PooledOptions):
    """Options of ``classification``."""

    labels: Labels = ()
    """Classes; learnt from the training data unless given."""
    vector_length: VectorLength | None = None
    """Length of the vector that the head reads: plain, as the backbone gives it; unit, all the same. In training unit
    unless given, where pooling is the mean."""
    multi_label: bool = False
    """A text may have several labels, or none."""
    label_separator: str = Field("|", min_length=1)
    """Separator of several labels in one text; printed lists are read as lists."""
    threshold: float = Field(0.5, gt=0, lt=1)
    """Lowest score of a predicted label, with several labels."""
    reject_below: float = Field(0.0, ge=0, lt=1)
    """Score below which a text is out of scope and gets no label; learnt if validation data has such texts."""
    nearest_class: dict[str, float] = Field(default_factory=dict)
    """Learnt: ``reject_below``, the cosine to the nearest class mean below which a text is out of scope."""
    out_of_scope: str = ""
    """Label of texts that belong to no class, for validation and test data; texts without a label count too."""
    calibrate: bool = False
    """Learn a temperature from the validation data, so that scores are the probabilities of right answers."""
    temperature: float = Field(1.0, gt=0)
    """Divides the logits; learnt by calibrate."""

    @model_validator(mode="after")
    def _one_answer(self) -> Self:
        if self.out_of_scope and self.multi_label:
            raise ValueError("out_of_scope is for texts with one label: with multi_label they have none of the labels")
        if self.out_of_scope and self.out_of_scope in self.labels:
            raise ValueError(f"out_of_scope names {self.out_of_scope!r}, which labels lists as a class")
        return self
