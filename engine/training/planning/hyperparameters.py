"""Training options, their defaults from the task's recipe, and the precision for a device."""

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
from adaptdock.engine.training.loop.reporting import Tracker, check_installed
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
"""Our names of optimisers, and those of transformers' Trainer."""
OF_BITSANDBYTES = ("adamw_8bit", "lion")
PLACES = ("on", "synonyms", "back_translation", "unlabelled")
"""Options that name files; a run's identity has the contents of the files, not their paths."""
REPORTING = ("report_to",)
"""Options without an effect on the trained weights; a resumed run may change them."""
STORES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}

MOST_EPOCHS = 10
"""Epochs up to which a run is lengthened for :attr:`Recipe.target_steps`."""


class TrainingOptions(Recipe):
    """How an adapter is trained; missing options come from the task's recipe for the method."""

    hold_out: Literal["auto", "always"] = "auto"
    """Whether a tenth of the training data becomes validation data where none is given; auto trains on all of it, and
    measures by folds, where a tenth is too few to choose an epoch by and the head can be fitted."""
    head_start: Literal["fitted", "random"] = "fitted"
    """What the head starts from: a regression on the vectors of the frozen backbone, where the task can fit one, or
    random weights. The fitted head is saved with an adapter that changes nothing where training is no better."""
    learn_from: Literal["auto", "labels", "pairs"] = "auto"
    """What the adapter is trained on: labels, through the head; or pairs of texts of the same and of different classes,
    after which the head is fitted. For pairs a record has one class."""
    seed: int = 0
    """Seed of the initial weights, the order of the data and dropout."""
    optimizer: Literal["adamw", "adamw_8bit", "adafactor", "sgd", "lion"] = "adamw"
    """Optimiser; adamw_8bit and lion come from bitsandbytes."""
    weight_decay: float = Field(0.01, ge=0)
    """Weight decay."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    scheduler: Literal["linear", "cosine", "constant", "slanted_triangular"] = "linear"
    """Fall of the learning rate after the warmup; constant has no warmup either."""
    scheduler_ratio: float = Field(32.0, gt=1)
    """Highest learning rate of slanted_triangular, as a multiple of its lowest."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Learning rate of each layer as a share of the rate of the layer above; the head, on top, has the full rate."""
    unfreeze_epochs: float = Field(0.0, ge=0)
    """Epochs after which one more layer is unfrozen, from the top down, the head first; 0 trains all from the start."""
    gradient_accumulation: int = Field(1, gt=0)
    """Batches whose gradients are summed for one step."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Largest norm of the gradient; a larger gradient is clipped."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the frozen backbone; adapter and head are always trained in float32."""
    group_by_length: bool = True
    """Put sentences of similar length into the same batch."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weight of classes in the loss; balanced gives rare classes more weight."""
    patience: int = Field(3, ge=0)
    """Epochs without a better validation metric, or a lower loss at the same metric, after which training stops; 0
    never stops early."""
    max_length: int = Field(256, gt=0)
    """Longest window in tokens; longer texts are read in overlapping windows, or cut by tasks that write."""
    packing: bool = False
    """Put short examples into one window, each attending only to itself; for tasks that learn the next token."""
    cache: bool = False
    """Cache the hidden states below the lowest adapted layer on disk, so that they are computed once."""
    on: str | None = None
    """File of a trained adapter that stays frozen below the new adapter and becomes part of its file."""
    augment: tuple[str, ...] = ()
    """Altered copies of the training records, NAME or NAME:RATE: swap, delete, typos, case, synonyms, wordnet,
    lemmatize, stem, back_translate."""
    augment_copies: int = Field(1, gt=0)
    """Copies of a record by each augmentation."""
    augment_language: str = "en"
    """Language code for lemmatize and stem."""
    synonyms: str | None = None
    """File of synonyms: the words of a line, separated by commas or tabs, have the same meaning."""
    back_translation: tuple[str, ...] = ()
    """Two translators for back_translate, there and back: adapter files, or backbones that translate."""
    unlabelled: str | None = None
    """File of texts without labels; texts with a confident label join the training data in further rounds."""
    confidence: float = Field(0.9, ge=0, le=1)
    """Confidence above which a label joins the training data."""
    self_training_rounds: int = Field(1, gt=0)
    """Rounds of training with unlabelled texts, after the round without."""
    checkpoint_steps: int = Field(100, gt=0)
    """Steps between two checkpoints."""
    store: Literal["float16", "bfloat16", "float32"] = "float16"
    """Precision of the weights in the file; validation measures what is stored."""
    probe_data: Literal["sample", "validation", "none"] = "sample"
    """Source of the texts of the golden probes in the file: the task's public sample, or validation data."""
    report_to: tuple[Tracker, ...] = ()
    """Experiment trackers for the losses and metrics: tensorboard, wandb, mlflow, trackio."""

    @model_validator(mode="after")
    def _installed(self) -> Self:
        if self.optimizer in OF_BITSANDBYTES and find_spec("bitsandbytes") is None:
            raise ValueError(f"optimizer {self.optimizer} needs bitsandbytes: pip install bitsandbytes")
        return self

    @model_validator(mode="after")
    def _augmentations_have_what_they_need(self) -> Self:
        names = [augmentation.name for augmentation in parse(self.augment)]
        if ("synonyms" in names) != (self.synonyms is not None):
            raise ValueError("augment synonyms and synonyms FILE go together: give both")
        if (BACK_TRANSLATE in names) != bool(self.back_translation) or len(self.back_translation) not in (0, 2):
            raise ValueError(f"augment {BACK_TRANSLATE} and back_translation THERE,BACK go together: give both")
        return self

    def steps_of(self, units: int) -> int:
        """Return the optimiser steps of one epoch of ``units``, over all processes."""
        return math.ceil(units / (self.batch_size * self.gradient_accumulation * ranks().count))

    def described(self) -> dict[str, Any]:
        """Return the options for a card: of files, the names without their folders."""
        shown = self.model_dump(mode="json", exclude={"method_options", "on", *REPORTING})
        for name in ("synonyms", "unlabelled"):
            shown[name] = shown[name] and Path(shown[name]).name
        return {**shown, "back_translation": [Path(name).name for name in self.back_translation]}

    @model_validator(mode="after")
    def _kept_states_do_not_change(self) -> Self:
        if self.cache and self.backbone_dropout:
            raise ValueError("cache stores states that backbone_dropout would change in each step: give one of them")
        if self.cache and self.packing:
            raise ValueError("cache stores states of windows that packing would join: give one of them")
        return self


def fast_precision(device: str) -> str:
    """Return ``bf16`` if the device computes bf16 fast, else ``fp32``; GPUs before Ampere only emulate bf16."""
    kind = device.partition(":")[0]
    if kind == "cuda":
        with torch.cuda.device(device):
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if kind == "cpu":
        return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"
    return "fp32"


def target_device(load: LoadOptions) -> str:
    """Return the device that load options mean, such as ``cpu`` or ``cuda:1``."""
    if load.device != "auto" and not load.device_map:
        return load.device
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator.type if accelerator is not None else "cpu"


def with_precision(load: LoadOptions, precision: str = "auto") -> LoadOptions:
    """Return load options whose dtype is that of a training precision.

    ``auto`` keeps an explicit dtype, and leaves the dtype of quantised weights to their library. Raises
    :class:`UsageError` if dtype and precision contradict each other, and for fp16 on a CPU.
    """
    device = target_device(load)
    if precision == "fp16" and device == "cpu":
        raise UsageError("--precision fp16 needs a GPU: on a CPU fp16 is slow and inexact. Use bf16, fp32 or auto.")
    if precision == "auto":
        if load.dtype != "auto" or load.quantize:
            return load
        precision = fast_precision(device)
    elif load.dtype not in ("auto", DTYPES[precision]):
        raise UsageError(f"--precision {precision} and --dtype {load.dtype} contradict each other: give one of them")
    return load.model_copy(update={"dtype": DTYPES[precision]})


def lengthened(options: TrainingOptions, units: int, recipe: Recipe) -> tuple[TrainingOptions, list[str]]:
    """Return options with enough epochs for the minimum of steps, and notes on few steps.

    ``units`` is the number of units in an epoch; ``recipe`` is that of the task for the method.
    """
    per_epoch = options.steps_of(units)
    steps = per_epoch * options.epochs
    if not options.min_steps and steps < recipe.min_steps:
        return options, [
            f"{steps} training steps in {options.epochs} epochs are few. Without --epochs "
            f"there would be {_epochs(recipe, per_epoch)} epochs"
        ]
    epochs = _epochs(options, per_epoch)
    if epochs == options.epochs:
        return options, []
    fewest = options.min_steps if per_epoch * (epochs - 1) < options.min_steps else per_epoch * epochs
    note = (
        f"little training data: {epochs} epochs in place of {options.epochs}, so that there are {fewest} "
        f"training steps (--min-steps, --target-steps, --epochs)"
    )
    return options.model_copy(update={"epochs": epochs}), [note]


def _epochs(recipe: Recipe, per_epoch: int) -> int:
    """Return the epochs of a recipe on data with so many steps in an epoch."""
    aimed = min(math.ceil(recipe.target_steps / per_epoch), MOST_EPOCHS)
    return max(recipe.epochs, math.ceil(recipe.min_steps / per_epoch), aimed)


def slowed(options: TrainingOptions, recipe: Recipe) -> tuple[TrainingOptions, list[str]]:
    """Return options for few labels, with a share of the recipe's rate, and a note; a rate that was chosen stays.

    At the full rate 16 texts moved the adapter past what they can tell (docs/few.md).
    """
    rate = recipe.learning_rate * options.few_labels_rate
    if options.head_start == "random" or options.learning_rate != recipe.learning_rate or rate == recipe.learning_rate:
        return options, []
    note = f"few labels: learning rate {rate:g} in place of {recipe.learning_rate:g} (--few-labels-rate)"
    return options.model_copy(update={"learning_rate": rate}), [note]


def merge_options(task: str, method: str, overrides: Mapping[str, Any]) -> TrainingOptions:
    """Return training options: ``overrides`` over the task's recipe for the method.

    Raises :class:`UsageError` for invalid options, and for a tracker that is not installed.
    """
    kind: type[Task] = registry.load("task", task)
    defaults = kind.recipes.get(method, kind.default_recipe).model_dump(exclude_unset=True)
    if overrides.get("cache"):
        defaults.pop("backbone_dropout", None)  # cached states cannot change from step to step
    if "epochs" in overrides:
        defaults |= {"min_steps": 0, "target_steps": 0}  # an explicit number of epochs is never raised
    options = validated(TrainingOptions, {**defaults, **overrides}, "training")
    check_installed(options.report_to)
    return options
