"""Training: what is trained, that it can be killed, interrupted and resumed, and that it stops in time."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import killed_run
import pytest
import torch

from adaptdock.engine.data.sources import Source
from adaptdock.engine.evaluation.measurement import evaluate
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.loop.progress import Progress
from adaptdock.engine.training.loop.run import run_of, train_plan
from adaptdock.engine.training.members.task_run import Result, TaskRun
from adaptdock.engine.training.planning.plan import Plan, plan
from adaptdock.engine.training.train import train
from adaptdock.errors import AdaptError, FileError, UsageError
from adaptdock.hub.artefact.file import read_file
from adaptdock.plugins.contracts import Backbone


def make_plan(backbone: Backbone, data: Path, method: str = "lora", **options: object) -> Plan:
    given = {"learning_rate": 1e-2, "epochs": 2, "batch_size": 8, **options}
    return plan(backbone, "ner", method, Source(data=str(data)), given)


def make_run(
    backbone: Backbone, data: Path, folder: Path, method: str = "lora", **options: object
) -> Callable[..., Result]:
    return partial(train_plan, make_plan(backbone, data, method, **options), folder, None)


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_training_is_one_call_in_python(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    result = train("ner", "bottleneck", backbone, str(data), tmp_path, {"placement": "pfeiffer"}, epochs=1)
    assert result.adapter.card.methods[0].options["placement"] == "pfeiffer"
    assert read_file(result.file).card == result.adapter.card


@pytest.mark.parametrize("method", ["lora", "bottleneck", "prefix", "ia3", "dora", "prompt", "mam"])
def test_training_lowers_the_loss_and_leaves_the_backbone_untouched(
    backbone: Backbone, data: Path, tmp_path: Path, method: str
) -> None:
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    result = make_run(backbone, data, tmp_path, method, epochs=4, patience=0)()
    losses = [entry["eval_loss"] for entry in result.history if "eval_loss" in entry]
    assert losses[-1] < losses[0]
    assert result.adapter.card.metrics["test"]["f1"] > 0  # what O for every word reaches
    assert result.shortfall == ""
    assert all(torch.equal(value, before[name]) for name, value in backbone.model.state_dict().items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in backbone.model.parameters())
    assert not any(module._forward_hooks for module in backbone.model.modules())


def test_what_validation_measured_is_what_was_stored(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    made = make_plan(backbone, data)
    result = train_plan(made, tmp_path)
    stored = read_file(result.file)
    assert {tensor.dtype for tensor in stored.tensors.values()} == {torch.float16}
    measured = evaluate(Dock(backbone), stored, made.records["validation"], 16)
    assert measured.metrics == stored.card.metrics["validation"]
    best = max(entry["eval_f1"] for entry in result.history if "eval_f1" in entry)
    assert stored.card.metrics["validation"]["f1"] == best


def test_a_saved_adapter_gives_the_same_logits_in_a_fresh_process(
    backbone: Backbone, model_folder: Path, data: Path, tmp_path: Path
) -> None:
    result = make_run(backbone, data, tmp_path)()
    code = (
        "import sys, json, torch; torch.set_num_threads(1); from adaptdock import Dock; "
        "dock = Dock.open(sys.argv[1], device='cpu'); name = dock.load(sys.argv[2]); "
        "task = dock.assembly(name).task; feature = task.encode(task.read('ada runs'), dock.reading(64), False)\n"
        "with dock.boarding([name]) as rows: print(json.dumps(dock.run(rows, feature)[0].tolist()))"
    )
    command = [sys.executable, "-c", code, str(model_folder), str(result.file)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    with_dock = Dock(backbone)
    name = with_dock.load(result.file)
    task = with_dock.assembly(name).task
    with with_dock.boarding([name]) as rows:
        here = with_dock.run(rows, task.encode(task.read("ada runs"), with_dock.reading(64), labelled=False))[0]
    with_dock.close()
    assert torch.equal(here, torch.tensor(found))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    backbone: Backbone, data: Path, tmp_path: Path
) -> None:
    one, same, other = (
        make_run(backbone, data, tmp_path / str(number), epochs=1, seed=seed)().adapter.tensors
        for number, seed in enumerate((1, 1, 2))
    )
    assert equal(one, same)
    assert not equal(one, other)


def test_gradient_accumulation_gives_the_step_of_the_larger_batch(
    backbone: Backbone, data: Path, tmp_path: Path
) -> None:
    common = {"epochs": 1, "store": "float32", "group_by_length": False, "backbone_dropout": False}
    common["head_start"] = "random"  # a fitted head would be better than one step, and saved in its place
    whole, parts, small = (
        make_run(backbone, data, tmp_path / str(rows), batch_size=rows, gradient_accumulation=steps, **common)()
        for rows, steps in ((20, 1), (10, 2), (10, 1))
    )
    name = next(name for name in whole.adapter.tensors if name.endswith("lora_b"))
    torch.testing.assert_close(whole.adapter.tensors[name], parts.adapter.tensors[name], atol=1e-4, rtol=0)
    assert not torch.allclose(whole.adapter.tensors[name], small.adapter.tensors[name], atol=1e-3)


def test_a_reparameterised_prefix_is_stored_as_a_plain_one(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    made = plan(backbone, "ner", "prefix", Source(data=str(data)), {"epochs": 1}, {"reparameterise": True, "length": 4})
    result = train_plan(made, tmp_path)
    assert {name.rpartition(".")[2] for name in result.adapter.tensors} == {
        "prefix_key",
        "prefix_value",
        "prefix_gate",
        "weight",
        "bias",
    }


def test_the_backbone_drops_only_in_training_and_only_if_asked(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    from adaptdock.engine.core.batches import collate, collate_labels

    for drops in (True, False):
        made = make_plan(backbone, data, backbone_dropout=drops)
        trainable = run_of(made, tmp_path).members.trainable()
        features = [feature for unit in made.units[:4] for feature in unit]
        batch = {**collate(backbone, features), "labels": [collate_labels(features, backbone.device)]}
        losses = {float(trainable(**batch)["loss"].detach()) for _ in range(3)}
        assert (len(losses) > 1) is drops
        trainable.eval()
        assert len({float(trainable(**batch)["loss"].detach()) for _ in range(3)}) == 1
        assert not any(module.training for module in backbone.model.modules())


def test_layers_limit_where_the_adapter_acts(backbone: Backbone, data: Path) -> None:
    made = plan(backbone, "ner", "lora", Source(data=str(data)), {}, {"layers": "1"})
    assert {site.port.layer for part in made.assembly.parts for site in part.sites} == {1}
    with pytest.raises(UsageError, match="this backbone has 0 to 1"):
        plan(backbone, "ner", "lora", Source(data=str(data)), {}, {"layers": "1-5"})


def test_training_stops_when_validation_gets_no_better(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    result = make_run(backbone, data, tmp_path, learning_rate=1e-9, epochs=20, patience=2)()
    assert result.ending == "early"
    assert result.epochs == 3


def test_a_loss_that_is_not_a_number_stops_training_and_keeps_the_last_good_weights(
    backbone: Backbone, data: Path, tmp_path: Path
) -> None:
    run = make_run(backbone, data, tmp_path, learning_rate=1e30, max_grad_norm=1e30, warmup=0.0)
    with pytest.raises(AdaptError, match=r"the loss became (nan|inf) in step \d+.*best\.safetensors"):
        run()
    kept = read_file(tmp_path / "best.safetensors")
    assert all(tensor.isfinite().all() for tensor in kept.tensors.values())


def test_ctrl_c_leaves_the_best_adapter_so_far(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.metrics is None and progress.epoch > 1.3:
            raise KeyboardInterrupt

    result = make_run(backbone, data, tmp_path, epochs=5)(interrupt)
    assert result.ending == "interrupted"
    assert read_file(result.file).card.metrics["validation"]["f1"] > 0


def test_ctrl_c_before_the_first_validation_leaves_the_weights_there_are(
    backbone: Backbone, data: Path, tmp_path: Path
) -> None:
    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    result = make_run(backbone, data, tmp_path)(interrupt)
    assert read_file(result.file).card.metrics == {}


def in_a_process(model: Path, data: Path, folder: Path, members: int, ends: str) -> int:
    command = [sys.executable, killed_run.__file__, model, data, folder, members, ends]
    return subprocess.run(list(map(str, command)), check=False, capture_output=True).returncode


@pytest.mark.parametrize("resumed_by", ["this process", pytest.param("another process", marks=pytest.mark.slow)])
@pytest.mark.parametrize("files", [["."], ["a", "b"]], ids=["one task", "two members that differ"])
def test_a_run_killed_in_an_epoch_and_resumed_ends_with_the_weights_of_one_that_was_not(
    model_folder: Path, data: Path, tmp_path: Path, files: list[str], resumed_by: str
) -> None:
    killed_run.make_run(model_folder, data, tmp_path / "straight", len(files))()
    killed = model_folder, data, tmp_path / "killed", len(files)
    assert in_a_process(*killed, "killed") == -signal.SIGKILL
    checkpoints = sorted((tmp_path / "killed" / "checkpoints").iterdir())
    assert checkpoints
    (tmp_path / "killed" / "checkpoints" / "checkpoint-999").mkdir()  # one that was not written to its end
    if resumed_by == "this process":
        killed_run.make_run(*killed)(resume=True)
    else:
        assert in_a_process(*killed, "resumed") == 0
    for file in files:
        straight, resumed = (read_file(tmp_path / name / file / "best.safetensors") for name in ("straight", "killed"))
        assert equal(straight.tensors, resumed.tensors)
        assert straight.card.metrics == resumed.card.metrics


def test_a_run_leaves_metrics_log_and_curves_in_its_folder(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    made = make_plan(backbone, data)
    result = train_plan(made, tmp_path)
    verdict = result.report(tmp_path, made)
    assert json.loads((tmp_path / "metrics.json").read_text())["verdict"] == verdict
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == len(result.history)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "checkpoints").exists()


def fake_history(losses: list[tuple[float, float, float]]) -> list[dict]:
    history: list[dict] = []
    for epoch, (training, validation, f1) in enumerate(losses, 1):
        history.append({"loss": training, "epoch": epoch - 0.5})
        history.append({"eval_loss": validation, "eval_f1": f1, "epoch": epoch})
    return history


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([(1.0, 0.5, 10), (0.5, 0.4, 30), (0.3, 0.5, 29), (0.1, 0.7, 28)], "Overfitting: since epoch 2"),
        ([(1.0, 0.5, 10), (0.5, 0.4, 30), (0.3, 0.3, 40)], "more epochs may help"),
        ([(1.0, 0.5, 10), (0.5, 0.4, 30), (0.3, 0.3, 29)], "No sign of overfitting; the best epoch by f1 was 2"),
        ([(1.0, 0.5, 0), (0.5, 0.4, 0), (0.3, 0.5, 0), (0.1, 0.7, 0)], "The best f1 is 0"),
        ([], "no validation"),
    ],
)
def test_the_curves_are_put_into_words(losses: list, words: str) -> None:
    from adaptdock.engine.evaluation.report import best_of, judge, validations

    points = validations(fake_history(losses), "f1")
    assert words in " ".join(
        judge(points, best_of(points, "f1", lower_is_better=False), "complete", lower_is_better=False)
    )


def test_an_error_of_0_is_the_best_there_is() -> None:
    from adaptdock.engine.evaluation.report import judge, validations

    points = validations(fake_history([(1.0, 0.5, 0), (0.5, 0.4, 0)]), "f1")
    assert "No sign of overfitting" in " ".join(judge(points, 0, "complete", lower_is_better=True))


def test_how_far_the_losses_lie_apart_stands_in_words_and_in_the_metrics(
    backbone: Backbone, data: Path, tmp_path: Path
) -> None:
    made = make_plan(backbone, data)
    verdict = train_plan(made, tmp_path).report(tmp_path, made)
    report = json.loads((tmp_path / "metrics.json").read_text())
    best = max(report["epochs"], key=lambda point: point["f1"])
    assert report["gap"] == pytest.approx(best["validation_loss"] - best["train_loss"], abs=1e-4)
    side = "above" if report["gap"] > 0 else "below"
    assert f"{abs(report['gap']):.3f} {side} the training loss" in " ".join(verdict)


@pytest.mark.parametrize("epochs", [1, 2])
def test_weights_that_blow_up_in_the_last_step_of_an_epoch_are_not_kept(
    backbone: Backbone, data: Path, tmp_path: Path, epochs: int
) -> None:
    run = make_run(backbone, data, tmp_path, learning_rate=1e38, batch_size=64, epochs=epochs, warmup=0.0)
    with pytest.raises(AdaptError, match="the loss became nan"):
        run()
    kept = read_file(tmp_path / "best.safetensors")
    assert all(tensor.isfinite().all() for tensor in kept.tensors.values())


def test_a_sentence_without_any_token_does_not_disturb_training(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    text = (data / "train.conll").read_text() + "\n\n\u200b\tO\n\n\u200b\tO\n"
    (tmp_path / "train.conll").write_text(text)
    made = plan(backbone, "ner", "lora", Source(train=str(tmp_path / "train.conll")), {"epochs": 1, "batch_size": 1})
    assert train_plan(made, tmp_path / "run").ending == "complete"


def test_a_new_run_takes_nothing_from_an_older_one_in_its_folder(
    backbone: Backbone, data: Path, tmp_path: Path
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.step >= 12:
            raise KeyboardInterrupt

    make_run(backbone, data, tmp_path, seed=1, checkpoint_steps=2)(interrupt)
    assert list((tmp_path / "checkpoints").iterdir())
    fresh = make_run(backbone, data, tmp_path, seed=2, epochs=1)().adapter.tensors
    assert equal(fresh, make_run(backbone, data, tmp_path / "other", seed=2, epochs=1)().adapter.tensors)


def test_a_run_is_resumed_only_with_what_it_was_begun_with(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.step >= 12:
            raise KeyboardInterrupt

    make_run(backbone, data, tmp_path, checkpoint_steps=2)(interrupt)
    with pytest.raises(UsageError, match="begun with other training options"):
        make_run(backbone, data, tmp_path, seed=5)(resume=True)
    options = {"learning_rate": 1e-2, "epochs": 2, "batch_size": 8, "checkpoint_steps": 2}
    other = plan(backbone, "ner", "lora", Source(data=str(data)), options, {"rank": 2})
    with pytest.raises(UsageError, match="begun with other methods"):
        train_plan(other, tmp_path, resume=True)


def test_a_run_killed_after_it_had_stopped_early_does_not_go_on_when_resumed(
    backbone: Backbone, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"learning_rate": 1e-9, "epochs": 10, "patience": 2}
    with monkeypatch.context() as patch:
        patch.setattr(TaskRun, "finish", lambda *_: (_ for _ in ()).throw(SystemExit("killed")))
        with pytest.raises(SystemExit):
            make_run(backbone, data, tmp_path, **options)()
    result = make_run(backbone, data, tmp_path, **options)(resume=True)
    assert result.ending == "early"
    assert len([entry for entry in result.history if "eval_f1" in entry]) == 3


def test_ctrl_c_in_the_final_test_leaves_the_adapter(
    backbone: Backbone, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TaskRun._evaluate

    def interrupted(run: TaskRun, adapter: object, split: str, write: bool = True) -> object:
        if split == "test":
            raise KeyboardInterrupt
        return original(run, adapter, split, write)

    monkeypatch.setattr(TaskRun, "_evaluate", interrupted)
    result = make_run(backbone, data, tmp_path, epochs=1)()
    assert result.ending == "interrupted"
    assert read_file(result.file).card.metrics.keys() == {"validation"}


def test_a_checkpoint_that_cannot_be_written_is_told(
    backbone: Backbone, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(FileError, match="a checkpoint could not be saved"):
        make_run(backbone, data, tmp_path, checkpoint_steps=1)()


def test_a_precision_that_the_backbone_does_not_have_is_refused(backbone: Backbone, data: Path) -> None:
    with pytest.raises(UsageError, match="precision bf16 is asked for, but the backbone was loaded in float32"):
        plan(backbone, "ner", "lora", Source(data=str(data)), {"precision": "bf16"})


def test_the_same_data_under_another_path_is_the_same_data(
    backbone: Backbone, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.parent)
    relative = plan(backbone, "ner", "lora", Source(data=data.name), {})
    assert relative.identity() == plan(backbone, "ner", "lora", Source(data=str(data)), {}).identity()
