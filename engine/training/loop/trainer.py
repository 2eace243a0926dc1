"""The training loop: transformers' Trainer for all members, with validation through the dock and early stopping."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Sampler, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.training_args import OptimizerNames

from adaptdock.engine.core.distributed import mean, ranks, share_of, shared
from adaptdock.engine.training.loop.progress import Progress, Validated
from adaptdock.engine.training.loop.reporting import tracker_callbacks
from adaptdock.engine.training.loop.schedules import Unfreezing, decayed, rate
from adaptdock.engine.training.members.member_steps import JointOptimizer
from adaptdock.engine.training.members.members import Members
from adaptdock.engine.training.members.trainable import Trainable
from adaptdock.engine.training.planning.hyperparameters import OPTIMIZERS, TrainingOptions
from adaptdock.errors import FileError

CHECKPOINTS = "checkpoints"
REPORTS_PER_EPOCH = 20
NOT_COUNTED = -100
"""The label of a position without a label (:class:`adaptdock.plugins.contracts.Feature`)."""


class LossIsNotFinite(ArithmeticError):
    """The loss of a step is not a finite number; ``last_good`` are the last validated weights, or the initial ones."""

    def __init__(self, loss: float, step: int, last_good: Sequence[Mapping[str, Tensor]]) -> None:
        super().__init__(f"loss {loss} in step {step}")
        self.loss, self.step, self.last_good = loss, step, last_good


class AdapterTrainer(Trainer):
    """A Trainer for all members of a run: it evaluates through the dock and requires a finite loss in each step.

    Members have different epochs, so the Trainer sees all passes as one epoch; each pass is an element of the dataset.
    """

    control: Any
    lr_scheduler: Any

    def __init__(self, members: Members, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._members = members
        self._last_good: Sequence[Mapping[str, Tensor]] = self.model.tensors()
        self.model_accepts_loss_kwargs = False
        self._distances = [
            member.distances(self.model, number)
            if member.options.layer_decay != 1 or member.options.unfreeze_epochs
            else {}
            for number, member in enumerate(members.members)
        ]
        self._unfreezing = [
            (Unfreezing(distances, member.options.unfreeze_epochs), member.steps.per_epoch)
            for member, distances in zip(members.members, self._distances, strict=True)
            if member.options.unfreeze_epochs
        ]

    def create_optimizer(self, model: Any = None) -> Any:
        """Make the optimiser of each member, with lower rates for lower layers under ``layer_decay``."""
        decaying = set(self.get_decay_parameter_names(self.model))
        optimizers = []
        for number, (member, distances) in enumerate(zip(self._members.members, self._distances, strict=True)):
            options, member_weights = member.options, set(self.model.weights_of(number))
            trained = [(name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad]
            trained = [(name, weight) for name, weight in trained if weight in member_weights]
            groups = [
                {"params": [weight for name, weight in trained if (name in decaying) == decays], "weight_decay": decay}
                for decays, decay in ((True, options.weight_decay), (False, 0.0))
            ]
            settings = copy(self.args)
            settings.optim = OptimizerNames(OPTIMIZERS[options.optimizer])
            settings.learning_rate = options.learning_rate
            kind, arguments = self.get_optimizer_cls_and_kwargs(settings, self.model)
            optimizers.append(kind(groups, **arguments))
            if options.layer_decay != 1:
                optimizers[-1].param_groups[:] = decayed(optimizers[-1].param_groups, distances, options.layer_decay)
        self.optimizer = optimizers[0] if len(optimizers) == 1 else JointOptimizer(optimizers)
        self._groups = [len(optimizer.param_groups) for optimizer in optimizers]
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Make the schedule of each member's learning rate (:func:`rate`)."""
        if self.lr_scheduler is None:
            rates: list[Callable[[int], float]] = []
            for member, groups in zip(self._members.members, self._groups, strict=True):
                rates += [partial(_rate, member.options, member.steps.count)] * groups
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, rates)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return SequentialSampler(self.train_dataset)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Do one step; raise :class:`LossIsNotFinite` instead of training with broken weights."""
        for unfreezing, steps_per_epoch in self._unfreezing:
            unfreezing.begin(self.state.global_step, steps_per_epoch)
        if not inputs["tasks"]:  # no member has a batch in this pass
            return torch.zeros((), device=self.args.device)
        if ranks().count > 1:  # in one process (check_alone) there may be several members
            self._weigh(inputs)
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        overall = mean(loss)
        if torch.isfinite(overall):
            return loss
        losses = {number: loss.item() for number, loss in self.model.newest.items()}
        finite = [loss for loss in losses.values() if math.isfinite(loss)]
        if not self._members.spared or len(finite) == len(losses):
            raise LossIsNotFinite(overall.item(), self.state.global_step + 1, self._last_good)
        self._end_failed(losses, self.state.global_step + 1)
        return torch.tensor(sum(finite), device=loss.device)

    def _end_failed(self, losses: Mapping[int, float], step: int) -> None:
        """End the members whose loss is not a number.

        Their gradients are dropped at once: the Trainer scales all gradients by a norm over all of them.
        """
        for number, loss in losses.items():
            if not math.isfinite(loss):
                self.model.drop_gradients(number)
        marks = self._members.failed(losses, step)
        if marks:
            self.log(marks)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Tensor:
        """Return the norm of all gradients, without the scaling by which transformers measures it.

        Where the norm overflows, that scaling would turn the gradients of all members into NaN.
        """
        return get_total_norm([weight.grad for weight in self.model.parameters() if weight.grad is not None])

    def _weigh(self, inputs: Any) -> None:
        """Multiply the factor of the only task by this process's share of the labels, which the mean loss is over."""
        (labels,), (factor,), (head,) = inputs["labels"], inputs["factors"], self.model.answering
        inputs["factors"] = [factor * share_of(label_weight(labels, head.class_weights) if factor else 0.0)]

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Validate the weights in the precision of the file, and call the callbacks."""
        tensors = self.model.tensors()
        finite = [all(tensor.isfinite().all() for tensor in weights.values()) for weights in tensors]
        if not all(finite) and not self._members.spared:
            raise LossIsNotFinite(math.nan, self.state.global_step, self._last_good)
        broken = {owner: math.nan for owner, good in zip(self.model.owners, finite, strict=True) if not good}
        self._end_failed(broken, self.state.global_step)
        self._last_good = tensors
        validated = shared(self._members.check(tensors))
        self.log(dict(validated.numbers))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, validated)
        return dict(validated.numbers)

    def log(self, logs: dict[str, float], *arguments: Any, **keywords: Any) -> None:
        """Add the loss of each task to a training loss."""
        losses = self._members.losses(self.model) if "loss" in logs else {}
        super().log({**logs, **losses}, *arguments, **keywords)

    def _save_checkpoint(self, *arguments: Any, **keywords: Any) -> None:
        try:
            super()._save_checkpoint(*arguments, **keywords)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch raises RuntimeError for a full disk
            reason = str(error).strip().splitlines()[0]
            raise FileError(self.args.output_dir, f"a checkpoint could not be saved: {reason}") from error

    def last_checkpoint(self) -> str | None:
        """Return the newest complete checkpoint, or None."""
        checkpoints = sorted(Path(self.args.output_dir).glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
        complete = [path for path in checkpoints if _is_complete(path)]
        return str(complete[-1]) if complete else None

    def had_stopped(self, checkpoint: str | None) -> bool:
        """Return whether a run had stopped early at its checkpoint; if so, load its state into this trainer."""
        if checkpoint is None:
            return False
        state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
        if not self._members.stalled(state.log_history):
            return False
        self.state = state
        return True


class Watch(TrainerCallback):
    """Stores the best weights, stops a run without improvement, and reports progress."""

    def __init__(
        self, members: Members, trainable: Trainable, progress: Callable[[Progress], None] | None = None
    ) -> None:
        self.members, self.trainable, self.progress = members, trainable, progress

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        """Compare with earlier evaluations, which a resumed run has in its state."""
        self.members.keep_best(state.log_history, self.trainable.tensors(), metrics)
        control.should_training_stop = self.members.stalled(state.log_history)
        control.should_save = True  # a run resumed at the end of an epoch needs the metrics of its validation
        self._report(state, validated=metrics)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Report the training loss."""
        if logs and "loss" in logs:
            self._report(state, loss=float(logs["loss"]))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Validate at the end of an epoch of any member."""
        control.should_evaluate = self.members.due(state.global_step)
        control.should_training_stop |= self.members.left(state.global_step) and not control.should_evaluate

    def _report(self, state: Any, loss: float | None = None, validated: Validated | None = None) -> None:
        if self.progress is None:
            return
        metrics, shown = (None, None) if validated is None else (validated.metrics, validated.shown)
        epoch = self.members.epoch(state.global_step)
        self.progress(Progress(state.global_step, state.max_steps, epoch, loss, metrics, shown))


class MemberCallback(TrainerCallback):
    """The work around an optimiser step, separately for each member."""

    def __init__(self, members: Members, trainable: Trainable) -> None:
        self.members, self.trainable = members, trainable
        self.trainer: Trainer | None = None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Clip the gradients of each member by their own norm, so that members do not affect each other.

        A member that has ended, or that has just failed, takes no step.
        """
        assert self.trainer is not None
        self.trainer.accelerator.unscale_gradients()
        for number, member in enumerate(self.members.members):
            if state.global_step >= member.steps.last:
                self.trainable.drop_gradients(number)
                continue
            clip_grad_norm_(self.trainable.weights_of(number), member.options.max_grad_norm)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Call the methods of each member that took this step; the gradients still exist."""
        step = state.global_step + 1
        for number, member in enumerate(self.members.members):
            if step <= member.steps.last:
                self.trainable.after_step(number, step, member.steps.count)


def make_trainer(
    members: Members, folder: Path, trainable: Trainable, progress: Callable[[Progress], None] | None = None
) -> AdapterTrainer:
    """Return a Trainer for the members of a run; checkpoints go to ``folder / checkpoints``."""
    options = members.options
    shortest = min(member.steps.per_epoch for member in members.members)
    arguments = TrainingArguments(
        output_dir=str(folder / CHECKPOINTS),
        num_train_epochs=1,
        per_device_train_batch_size=1,  # one pass
        gradient_accumulation_steps=members.batches.accumulation,
        learning_rate=options.learning_rate,
        max_grad_norm=0.0,  # MemberCallback clips the gradients, by member
        seed=options.seed,
        fp16=options.precision == "fp16",
        eval_strategy="no",  # Watch asks for evaluations at the ends of the members' epochs
        save_strategy="steps",
        save_steps=options.checkpoint_steps,
        save_total_limit=2,
        logging_steps=max(1, shortest // REPORTS_PER_EPOCH),
        use_cpu=members.dock.backbone.device.type == "cpu",
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        label_names=["labels"],
        disable_tqdm=True,
        report_to="none",
        run_name=folder.name,
    )
    # With more than one GPU the Trainer would wrap the model in DataParallel, which copies the backbone.
    arguments._n_gpu = min(1, arguments.n_gpu)

    callback = MemberCallback(members, trainable)
    trainer = AdapterTrainer(
        members,
        model=trainable,
        args=arguments,
        data_collator=members.collator(),
        train_dataset=members.batches,
        callbacks=[Watch(members, trainable, progress), callback, *tracker_callbacks(options.report_to, folder)],
    )
    trainer.remove_callback(PrinterCallback)
    callback.trainer = trainer
    return trainer


def label_weight(labels: Tensor, class_weights: Tensor | None) -> float:
    """Return the divisor of a mean loss: the number of counted labels, or the sum of the weights of their classes."""
    labels = labels[labels != NOT_COUNTED]
    if class_weights is None or labels.is_floating_point():
        return float(labels.numel())
    return class_weights[labels].sum().item()


def _rate(options: TrainingOptions, steps: int, step: int) -> float:
    return rate(options, min(step, steps), steps)


def _is_complete(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    return all((checkpoint / name).exists() for name in ("model.safetensors", "optimizer.pt", "scheduler.pt"))
