"""How an adapter is trained: the options, the recipe that fills them, the precision that fits the device."""

import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator

from adaptdock.engine.core.assembly import validated
from adaptdock.engine.core.distributed import ranks
from adaptdock.engine.data.augmentation import BACK_TRANSLATE, parse
from adaptdock.engine.training.reporting import Tracker, check_installed
from adaptdock.errors import UsageError
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import LoadOptions, Recipe, Task

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
OPTIMIZERS = {
    "adamw": "adamw_torch_fused",
    "adamw_8bit": "adamw_8bit",
    "adafactor": "adafactor",
    "sgd": "sgd",
    "lion": "lion_32bit",
}
"""The names that transformers' Trainer has for them."""
OF_BITSANDBYTES = ("adamw_8bit", "lion")
PLACES = ("on", "synonyms", "back_translation", "unlabelled")
"""The options that name files, whose contents count and not where they lie."""
REPORTING = ("report_to",)
"""The options that change nothing of what is trained; a run can be resumed with others."""
STORES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


STEPS = 50
"""Fewest optimiser steps of a run whose epochs are not chosen: few-sample training with the usual three epochs stops
before it has converged (Zhang et al. 2021, arXiv:2006.05987; Mosbach et al. 2021, arXiv:2006.04884). With MiniLM and
lora 24 sentences of ner reach an F1 of 0.0 on validation in 30 steps, and 17.1 in 50."""


class TrainingOptions(Recipe):
    """How an adapter is trained; what is not given comes from the task's recipe for the method."""

    seed: int = 0
    """Seed of the start weights, the order of the data and dropout."""
    min_steps: int = Field(STEPS, ge=0)
    """Fewest steps of a run: small data gets more epochs than the recipe says; 0 where epochs is given."""
    optimizer: Literal["adamw", "adamw_8bit", "adafactor", "sgd", "lion"] = "adamw"
    """What takes the steps; adamw_8bit and lion are of bitsandbytes."""
    weight_decay: float = Field(0.01, ge=0)
    """Weight decay."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    scheduler: Literal["linear", "cosine", "constant", "slanted_triangular"] = "linear"
    """How the learning rate falls after that; constant does not rise either."""
    scheduler_ratio: float = Field(32.0, gt=1)
    """Highest learning rate of slanted_triangular, as a multiple of its lowest."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Learning rate of each layer as a share of that of the one above; the head, on top, has the whole."""
    unfreeze_epochs: float = Field(0.0, ge=0)
    """Epochs after which one more layer learns, from the top down, the head first; 0 lets all learn at once."""
    gradient_accumulation: int = Field(1, gt=0)
    """Batches that are added up to one step."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Longest gradient; longer ones are shortened."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the frozen backbone; adapter and head are always trained in float32."""
    group_by_length: bool = True
    """Put sentences of like length into the same batch."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weigh classes in the loss by how rare they are."""
    patience: int = Field(3, ge=0)
    """Epochs without a better validation metric, or a lower loss at the same metric, after which training stops; 0
    never stops early."""
    max_length: int = Field(256, gt=0)
    """Longest window in tokens; longer texts are read in overlapping windows, or cut where they are to be answered."""
    packing: bool = False
    """Let short examples share a window, each seeing itself alone; for tasks that learn each next token."""
    cache: bool = False
    """Keep on disk what the backbone computes beneath the lowest adapter, so that it is computed once."""
    on: str | None = None
    """Trained adapter, as a file, that stays as it is beneath the new one and becomes part of its file."""
    augment: tuple[str, ...] = ()
    """Altered copies of the training records, NAME or NAME:RATE: swap, delete, typos, case, synonyms, wordnet,
    lemmatize, stem, back_translate."""
    augment_copies: int = Field(1, gt=0)
    """Copies of a record that each augmentation makes."""
    augment_language: str = "en"
    """Code of the language of lemmatize and stem."""
    synonyms: str | None = None
    """File of synonyms: words of one line, divided by commas or tabs, mean the same."""
    back_translation: tuple[str, ...] = ()
    """What back_translate writes with: two adapter files, or two backbones that translate, there and back."""
    unlabelled: str | None = None
    """File of texts without labels: those that the adapter labels surely are trained on in further rounds."""
    confidence: float = Field(0.9, ge=0, le=1)
    """How sure a label has to be; those above this are trained on."""
    self_training_rounds: int = Field(1, gt=0)
    """Rounds of training with unlabelled texts, after the one without."""
    checkpoint_steps: int = Field(100, gt=0)
    """Steps between two checkpoints to resume from."""
    store: Literal["float16", "bfloat16", "float32"] = "float16"
    """Precision of the weights in the file; validation measures what is stored."""
    report_to: tuple[Tracker, ...] = ()
    """Experiment trackers that get the losses and metrics: tensorboard, wandb, mlflow, trackio."""

    @model_validator(mode="after")
    def _installed(self) -> Self:
        if self.optimizer in OF_BITSANDBYTES and find_spec("bitsandbytes") is None:
            raise ValueError(f"optimizer {self.optimizer} needs bitsandbytes: pip install bitsandbytes")
        return self

    @model_validator(mode="after")
    def _augmentations_have_what_they_need(self) -> Self:
        names = [one.name for one in parse(self.augment)]
        if ("synonyms" in names) != (self.synonyms is not None):
            raise ValueError("augment synonyms and synonyms FILE go together: give both")
        if (BACK_TRANSLATE in names) != bool(self.back_translation) or len(self.back_translation) not in (0, 2):
            raise ValueError(f"augment {BACK_TRANSLATE} and back_translation THERE,BACK go together: give both")
        return self

    def steps_of(self, units: int) -> int:
        """Return the optimiser steps in which so many units are gone through once, by all processes together."""
        return math.ceil(units / (self.batch_size * self.gradient_accumulation * ranks().count))

    def described(self) -> dict[str, Any]:
        """Return the options as a card shows them: of files the names alone."""
        shown = self.model_dump(mode="json", exclude={"method_options", "on", *REPORTING})
        for name in ("synonyms", "unlabelled"):
            shown[name] = shown[name] and Path(shown[name]).name
        return {**shown, "back_translation": [Path(name).name for name in self.back_translation]}

    @model_validator(mode="after")
    def _kept_states_do_not_change(self) -> Self:
        if self.cache and self.backbone_dropout:
            raise ValueError("cache keeps states that backbone_dropout would change in each step: give one of them")
        if self.cache and self.packing:
            raise ValueError("cache keeps states of windows that packing would join: give one of them")
        return self


def fast_precision(device: str) -> str:
    """Return ``bf16`` where the device computes it fast, else ``fp32``; GPUs before Ampere only emulate it."""
    kind = device.partition(":")[0]
    if kind == "cuda":
        with torch.cuda.device(device):
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if kind == "cpu":
        return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"
    return "fp32"


def with_precision(load: LoadOptions, precision: str = "auto") -> LoadOptions:
    """Return load options whose dtype is that of a training precision.

    ``auto`` keeps a dtype that was named, and leaves quantised weights to their library. Raises
    :class:`UsageError` where dtype and precision contradict each other, or a CPU is to compute fp16.
    """
    device = load.device
    if device == "auto" or load.device_map:
        found = torch.accelerator.current_accelerator(check_available=True)
        device = found.type if found is not None else "cpu"
    if precision == "fp16" and device == "cpu":
        raise UsageError("--precision fp16 needs a GPU: a CPU computes it slowly and badly. Use bf16, fp32 or auto.")
    if precision == "auto":
        if load.dtype != "auto" or load.quantize:
            return load
        precision = fast_precision(device)
    elif load.dtype not in ("auto", DTYPES[precision]):
        raise UsageError(f"--precision {precision} and --dtype {load.dtype} contradict each other: give one of them")
    return load.model_copy(update={"dtype": DTYPES[precision]})


def lengthened(options: TrainingOptions, units: int) -> tuple[TrainingOptions, list[str]]:
    """Return options with as many epochs as the fewest steps need, and a note on few steps.

    ``units`` are gone through in an epoch.
    """
    per_epoch = options.steps_of(units)
    steps = per_epoch * options.epochs
    if not options.min_steps and steps < STEPS:
        return options, [
            f"{steps} training steps in {options.epochs} epochs are few. Without --epochs "
            f"there are {math.ceil(STEPS / per_epoch)} epochs"
        ]
    if steps >= options.min_steps:
        return options, []
    epochs = math.ceil(options.min_steps / per_epoch)
    note = (
        f"little training data: {epochs} epochs in place of {options.epochs}, so that there are {options.min_steps} "
        f"training steps (--min-steps, --epochs)"
    )
    return options.model_copy(update={"epochs": epochs}), [note]


def merge_options(task: str, method: str, given: Mapping[str, Any]) -> TrainingOptions:
    """Return training options: those given, over the task's recipe for the method.

    Raises :class:`UsageError` for options that are not valid, and for a tracker that is not installed.
    """
    kind: type[Task] = registry.load("task", task)
    defaults = kind.recipes.get(method, kind.default_recipe).model_dump(exclude_unset=True)
    if given.get("cache"):
        defaults.pop("backbone_dropout", None)  # kept states cannot change from step to step
    if "epochs" in given:
        defaults["min_steps"] = 0  # the number of epochs that a person chooses stays
    options = validated(TrainingOptions, {**defaults, **given}, "training")
    check_installed(options.report_to)
    return options
