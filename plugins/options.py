"""Validated options of plugins, of training, and of loading a backbone."""

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

API_VERSION = 2
"""The version of the contracts; a plugin for another version is refused."""
CHANGES = {
    2: "every act of a method takes the forward pass in place of dropout, and a backbone takes a Batch in place of "
    "inputs, reads, virtual, encoded and shift; docs/plugins.md says how a plugin is brought up to it",
}
"""The changes of each version of the contracts, for authors of plugins."""


class Options(BaseModel):
    """Validated options of a plugin; each field is a flag of the command line.

    A field with several values also accepts a comma-separated string.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        split = dict(values)
        for name, info in cls.model_fields.items():
            if isinstance(split.get(name), str) and get_origin(info.annotation) in (tuple, list):
                split[name] = [part.strip() for part in split[name].split(",") if part.strip()]
        return split


LONGEST_LABEL = 1000
"""Characters of a label: a longer one is a text in the wrong column."""


def _distinct_labels(labels: tuple[str, ...]) -> tuple[str, ...]:
    for number, label in enumerate(labels):
        if not label.strip():
            raise ValueError(f"the label at place {number + 1} is empty: each label is a visible name")
        if len(label) > LONGEST_LABEL:
            raise ValueError(
                f"the label {label[:40]!r}... has {len(label):,} characters; at most {LONGEST_LABEL:,} are allowed: is "
                f"another column the label?"
            )
    double = next((label for label, count in Counter(labels).items() if count > 1), None)
    if double is not None:
        raise ValueError(f"the label {double!r} is there twice: its second score would replace the first")
    return labels


Labels = Annotated[tuple[str, ...], AfterValidator(_distinct_labels)]
"""The labels of a task, in the order of the head's outputs: distinct, not blank, :data:`LONGEST_LABEL` characters."""

FEWEST_STEPS = 50
"""Fewest optimiser steps of a run without explicit epochs, unless a recipe has another number: few-sample training with
the usual three epochs stops before it has converged (Zhang et al. 2021, arXiv:2006.05987; Mosbach et al. 2021,
arXiv:2006.04884)."""


class Recipe(Options):
    """Training defaults of a task for one method; each is an option of ``adapt train``."""

    learning_rate: float = Field(1e-3, gt=0, allow_inf_nan=False)
    """Highest learning rate."""
    epochs: int = Field(3, gt=0)
    """Most passes over the training data."""
    batch_size: int = Field(16, gt=0)
    """Windows in a batch."""
    target_steps: int = Field(0, ge=0)
    """Steps that small data gets where the epochs give fewer, as far as ten epochs go; 0 where epochs is given."""
    min_steps: int = Field(FEWEST_STEPS, ge=0)
    """Fewest steps of a run: small data gets more epochs than in the recipe; 0 with an explicit epochs."""
    few_labels_rate: float = Field(0.5, gt=0, le=1)
    """Learning rate of a run on few labels without validation data, as a share of the rate of the recipe; a chosen
    learning_rate does not change."""
    backbone_dropout: bool = False
    """Use the dropout of the backbone: slower steps, later overfitting."""
    method_options: dict[str, Any] = {}


class LoadOptions(Options):
    """Options of loading a backbone."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps; with a device map this is ignored."""
    device_map: str | None = None
    """Spread the backbone with accelerate: auto, balanced, sequential."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the frozen weights; auto is float32 on a CPU and the checkpoint's own elsewhere."""
    drop_layers: int = Field(0, ge=0)
    """Number of layers to remove from the top of the backbone: it is faster, but a different backbone."""
    quantize: Literal["nf4", "int8"] | None = None
    """Precision of quantised frozen weights, 4 or 8 bit."""
    quantizer: Literal["auto", "bitsandbytes", "torchao"] = "auto"
    """Library for quantisation; auto selects the fast one for the device."""
    revision: str | None = None
    """Revision of a hub id."""
    trust_remote_code: bool = False
    """Run code from the model repository."""
