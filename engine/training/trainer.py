"""The training loop: transformers' Trainer, fed by length, validated through the dock, stopped in time."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from adaptdock.engine.core.distributed import mean, shared
from adaptdock.engine.training.contract import Progress, TrainingRun, Validated
from adaptdock.engine.training.hyperparameters import OPTIMIZERS
from adaptdock.engine.training.schedules import Unfreezing, decayed, rate
from adaptdock.errors import FileError

CHECKPOINTS = "checkpoints"
REPORTS_PER_EPOCH = 20


class LossIsNotFinite(ArithmeticError):
    """The loss of a step is not a number; ``last_good`` are weights from before."""

    def __init__(self, loss: float, step: int, last_good: Mapping[str, Tensor]) -> None:
        super().__init__(f"loss {loss} in step {step}")
        self.loss, self.step, self.last_good = loss, step, last_good


class EpochSampler(Sampler[int]):
    """The order of a run's units, which depends on seed and epoch alone, so that a resumed run repeats it."""

    def __init__(self, run: TrainingRun) -> None:
        self.run, self.epoch = run, 0
        self.drawn = run.draw(0)

    def __len__(self) -> int:
        return len(self.drawn)

    def __iter__(self) -> Iterator[int]:
        return iter(self.drawn)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        if epoch != self.epoch:
            self.epoch, self.drawn = epoch, self.run.draw(epoch)


class AdapterTrainer(Trainer):
    """A Trainer whose evaluation goes through the dock and whose steps must have a finite loss."""

    control: Any
    lr_scheduler: Any

    def __init__(self, run: TrainingRun, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._run = run
        self._last_good: Mapping[str, Tensor] = self.model.tensors()
        self.model_accepts_loss_kwargs = False
        self._distances: Mapping[Any, int] = {}
        self._unfreezing: Unfreezing | None = None
        options = run.options
        if options.layer_decay != 1 or options.unfreeze_epochs:
            self._distances = run.distances(self.model)
        if options.unfreeze_epochs:
            self._unfreezing = Unfreezing(self._distances, options.unfreeze_epochs)

    def create_optimizer(self, model: Any = None) -> Any:
        """Make the optimiser; layers below learn slower, if the options say so."""
        made = super().create_optimizer(model)
        decay = self._run.options.layer_decay
        if decay != 1:
            made.param_groups[:] = decayed(made.param_groups, self._distances, decay)
        return made

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Make the schedule of the learning rate (:func:`rate`)."""
        options = self._run.options
        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(
                optimizer or self.optimizer, lambda step: rate(options, step, num_training_steps)
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return EpochSampler(self._run)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Do one step; raise :class:`LossIsNotFinite` instead of going on with broken weights."""
        if self._unfreezing is not None:
            self._unfreezing.begin(self.state.global_step, self.state.max_steps / self.args.num_train_epochs)
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        overall = mean(loss)
        if not torch.isfinite(overall):
            raise LossIsNotFinite(overall.item(), self.state.global_step + 1, self._last_good)
        return loss

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure the weights as they would be stored, and tell the callbacks."""
        tensors = self.model.tensors()
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise LossIsNotFinite(math.nan, self.state.global_step, self._last_good)
        self._last_good = tensors
        found = shared(self._run.check(tensors))
        self.log(dict(found.numbers))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return dict(found.numbers)

    def log(self, logs: dict[str, float], *arguments: Any, **named: Any) -> None:
        """Add what the run tells of itself to each training loss."""
        super().log({**logs, **(self._run.extra_losses() if "loss" in logs else {})}, *arguments, **named)

    def _save_checkpoint(self, *arguments: Any, **named: Any) -> None:
        try:
            super()._save_checkpoint(*arguments, **named)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch says RuntimeError where a disk is full
            reason = str(error).strip().splitlines()[0]
            raise FileError(self.args.output_dir, f"a checkpoint could not be saved: {reason}") from error

    def last_checkpoint(self) -> str | None:
        """Return the newest checkpoint that was written to its end, or None."""
        found = sorted(Path(self.args.output_dir).glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
        complete = [path for path in found if _is_complete(path, self._run.validates)]
        return str(complete[-1]) if complete else None

    def had_stopped(self, checkpoint: str | None) -> bool:
        """Tell whether a run had stopped early at its checkpoint; its state is this trainer's then."""
        if checkpoint is None:
            return False
        state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
        if not self._run.stalled(state.log_history):
            return False
        self.state = state
        return True


class Watch(TrainerCallback):
    """Keeps the best weights, stops when they get no better, reports progress."""

    def __init__(self, run: TrainingRun, trainable: Any, progress: Callable[[Progress], None] | None) -> None:
        self.run, self.trainable, self.progress = run, trainable, progress

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        """Compare with the evaluations before; a resumed run has them in its state."""
        self.run.keep_best(state.log_history, self.trainable.tensors(), metrics)
        control.should_training_stop = self.run.stalled(state.log_history)
        control.should_save = True  # a run resumed at the end of an epoch must know what its validation found
        self._report(state, found=metrics)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Report the training loss."""
        if logs and "loss" in logs:
            self._report(state, loss=float(logs["loss"]))

    def _report(self, state: Any, loss: float | None = None, found: Validated | None = None) -> None:
        if self.progress is None:
            return
        metrics, shown = (None, None) if found is None else (found.metrics, found.shown)
        self.progress(Progress(state.global_step, state.max_steps, state.epoch or 0.0, loss, metrics, shown))


class AfterStep(TrainerCallback):
    """Lets methods change their parameters between two steps."""

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Tell what is trained that a step is done; its gradients are still there."""
        model.after_step(state.global_step + 1, state.max_steps)


class ClipEach(TrainerCallback):
    """Shortens the gradients of each adapter by its own norm; the one of all would let them disturb each other."""

    def __init__(self, run: TrainingRun, longest: float) -> None:
        self.run, self.longest = run, longest
        self.trainer: Trainer | None = None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Shorten what is too long."""
        assert self.trainer is not None
        self.trainer.accelerator.unscale_gradients()
        for group in self.run.clipped(model):
            clip_grad_norm_(group, self.longest)


def make_trainer(run: TrainingRun, trainable: Any, progress: Callable[[Progress], None] | None) -> AdapterTrainer:
    """Return a Trainer for a run; checkpoints go to ``folder / checkpoints``."""
    options, units = run.options, run.units
    alone = len(run.clipped(trainable)) == 1

    arguments = TrainingArguments(
        output_dir=str(run.folder / CHECKPOINTS),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.gradient_accumulation,
        learning_rate=options.learning_rate,
        optim=OPTIMIZERS[options.optimizer],
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm if alone else 0.0,
        seed=options.seed,
        fp16=options.precision == "fp16",
        eval_strategy="epoch" if run.validates else "no",
        save_strategy="steps",
        save_steps=options.checkpoint_steps,
        save_total_limit=2,
        logging_steps=max(1, run.steps_per_epoch // REPORTS_PER_EPOCH),
        use_cpu=run.backbone.device.type == "cpu",
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        label_names=["labels"],
        disable_tqdm=True,
        report_to="none",
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # the backbone is placed already; it is never replicated

    trainer = AdapterTrainer(
        run,
        model=trainable,
        args=arguments,
        data_collator=run.collator(),
        train_dataset=units,
        eval_dataset=units[:1],
        callbacks=[Watch(run, trainable, progress), AfterStep()],
    )
    trainer.remove_callback(PrinterCallback)
    if not alone:
        clip = ClipEach(run, options.max_grad_norm)
        clip.trainer = trainer
        trainer.add_callback(clip)
    return trainer


def _is_complete(checkpoint: Path, validates: bool) -> bool:
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    validated = any("eval_loss" in entry and entry["step"] == state["global_step"] for entry in state["log_history"])
    if validates and float(state["epoch"]).is_integer() and not validated:
        return False  # killed between the last step of an epoch and its validation
    return all((checkpoint / name).exists() for name in ("model.safetensors", "optimizer.pt", "scheduler.pt"))
