"""A training run in a folder: its members share passes; a run can be interrupted and resumed."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from adaptdock.engine.core.distributed import check_alone, ranks, shared
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.heads.head_fit import FoldChoice
from adaptdock.engine.training.loop.progress import Ending, Progress
from adaptdock.engine.training.loop.run_folders import IDENTITY, owned_by_first
from adaptdock.engine.training.loop.trainer import CHECKPOINTS, LossIsNotFinite, make_trainer
from adaptdock.engine.training.members.members import Member, Members
from adaptdock.engine.training.members.task_run import Result, TaskRun
from adaptdock.engine.training.members.trainable import Trainable
from adaptdock.engine.training.planning.plan import Plan
from adaptdock.engine.training.planning.run_plan import RunPlan
from adaptdock.errors import AdaptError, UsageError

BATCH = "batch size of all processes"
"""Name of a part of a run's identity."""


class Run:
    """One or more members in one folder; a call trains them and returns a result for each task."""

    def __init__(self, members: Members, folder: Path) -> None:
        self.members, self.folder = members, folder

    def __call__(self, progress: Callable[[Progress], None] | None = None, resume: bool = False) -> list[Result]:
        """Train, store the best adapters, and return the results.

        With ``resume`` the run continues from its last complete checkpoint. Ctrl-C ends it with the best adapters so
        far. Raises :class:`AdaptError` if the loss is no longer a number, after storing the last good weights, and
        :class:`LockedError` if another run works in the folder.
        """
        with owned_by_first(self.folder):
            return self._train(progress, resume)

    def _train(self, progress: Callable[[Progress], None] | None, resume: bool) -> list[Result]:
        self._settle(resume)
        members, trainable = self.members, self.members.trainable()
        if not any(parameter.requires_grad for parameter in trainable.parameters()):
            return self._measure_only(trainable)
        members.begin_with(trainable.tensors())
        trainer = make_trainer(members, self.folder, trainable, progress)
        ending: Ending = "complete"
        ports = members.dock.ports
        for assembly in members.assemblies:
            ports.acquire(assembly.sites)
        try:
            checkpoint = shared(trainer.last_checkpoint() if resume else None)
            trainer.args.eval_on_start = members.measured_before and checkpoint is None
            if not trainer.had_stopped(checkpoint):
                trainer.train(resume_from_checkpoint=checkpoint)
            shared(None)  # wait until no process is writing a checkpoint
        except KeyboardInterrupt:
            ending = "interrupted"
        except LossIsNotFinite as error:
            members.keep_if_none(error.last_good)
            files = " and ".join(str(task.file) for task in members.tasks)
            raise AdaptError(
                f"the loss became {error.loss} in step {error.step}, so training stopped; the last good weights are in "
                f"{files}. A smaller learning rate than {members.options.learning_rate:g} usually helps."
            ) from None
        finally:
            for assembly in members.assemblies:
                ports.release(assembly.sites)
        members.recall_endings(trainer.state.log_history)
        members.keep_if_none(trainable.tensors())
        results = members.finish(trainer.state.log_history, trainer.state.global_step, ending)
        self._tidy(results[-1].ending if results else ending)
        return results

    def _measure_only(self, trainable: Trainable) -> list[Result]:
        """Validate and store an adapter without trained weights, such as a template for the bare backbone."""
        tensors = trainable.tensors()
        validated = self.members.check(tensors)
        history = [{**validated.numbers, "step": 0}]
        self.members.keep_best(history, tensors, validated)
        return self.members.finish(history, 0, "complete")

    def _tidy(self, ending: Ending) -> None:
        """Remove the checkpoints of a run that cannot be resumed."""
        if ending != "interrupted" and ranks().first:
            shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)

    def _settle(self, resume: bool) -> None:
        """Write the identity of the run into its folder, or compare it with the identity of the resumed run."""
        if ranks().first:
            batch = self.members.options.batch_size * ranks().count
            identify(self.folder, {**self.members.identity(), BATCH: str(batch)}, resume)
            if not resume:
                shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)
        shared(None)
        if resume:
            self.members.recall()


def planned_run(
    run_plan: RunPlan, folder: Path, try_folds: Mapping[str, Callable[[], FoldChoice | None]] | None = None
) -> Run:
    """Return the run of a plan; of several tasks each has a subfolder with the files of a run of its own.

    ``try_folds`` has that of :class:`TaskRun` by the names of tasks.
    """
    plans, counts = run_plan.plans, run_plan.counts
    dock, together, identity = Dock(next(iter(plans.values())).backbone), {}, {}
    if run_plan.several:
        check_alone("training several tasks together")
        together = {**run_plan.sharing.model_dump(mode="json"), "tasks": dict(zip(plans, counts, strict=True))}
        identity = {"tasks and their shares": f"{run_plan.sharing.model_dump_json()} {run_plan.weights}"}
    tasks = [
        TaskRun(plan, dock, run_plan.folder(folder, name), name, together, (try_folds or {}).get(name))
        for name, plan in plans.items()
    ]
    if run_plan.shared:
        members = [Member(tasks, 0, counts)]
    else:
        members = [Member([task], n, [count]) for n, (task, count) in enumerate(zip(tasks, counts, strict=True))]
    return Run(Members(dock, members, identity), folder)


def run_of(
    plan: Plan, folder: Path, name: str | None = None, try_folds: Callable[[], FoldChoice | None] | None = None
) -> Run:
    """Return the run of one task by itself; ``try_folds`` is that of :class:`TaskRun`."""
    run_plan = RunPlan.of(plan, name)
    return planned_run(run_plan, folder, dict.fromkeys(run_plan.plans, try_folds) if try_folds else None)


def train_plan(
    plan: Plan,
    folder: Path,
    name: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    resume: bool = False,
    try_folds: Callable[[], FoldChoice | None] | None = None,
) -> Result:
    """Train one task by itself and return its result; raises what :class:`Run` raises."""
    (result,) = run_of(plan, folder, name, try_folds)(progress, resume)
    return result


def identify(folder: Path, identity: Mapping[str, str], resume: bool) -> None:
    """Write the identity of a run into its folder; raise :class:`UsageError` if a resumed run has another."""
    file = folder / IDENTITY
    folder.mkdir(parents=True, exist_ok=True)
    before = json.loads(file.read_text()) if resume and file.exists() else identity
    changed = sorted(key for key in {**before, **identity} if before.get(key) != identity.get(key))
    if BATCH in changed and BATCH in before:
        raise UsageError(_another_batch(folder, int(before[BATCH])))
    if changed:
        raise UsageError(
            f"the run in {folder} was begun with other {' and '.join(changed)}; start a new run, or resume it with "
            f"unchanged settings and data"
        )
    file.write_text(json.dumps(identity, indent=2) + "\n")


def _another_batch(folder: Path, batch: int) -> str:
    """Return which batch size continues a run whose batches have ``batch`` examples in all processes together."""
    count = ranks().count
    size, rest = divmod(batch, count)
    advice = (
        f"{count} processes cannot divide that: start a number of processes that divides {batch}"
        if rest
        else f"continue it with --batch-size {size} in {'this process' if count == 1 else f'each of {count} processes'}"
    )
    return f"the run in {folder} was begun with batches of {batch} in all processes together; {advice}"
