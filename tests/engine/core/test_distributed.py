"""Several processes that train one adapter: what one process would train, written once."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import tiny_language_model
from models import tiny_tokenizer
from safetensors.torch import load_file
from torch.nn import functional

from adaptdock.cli import main
from adaptdock.cli.common.failures import describe
from adaptdock.engine.core import distributed
from adaptdock.engine.core.distributed import Ranks, placed, ranks
from adaptdock.engine.training.loop import trainer
from adaptdock.engine.training.loop.run import BATCH, identify
from adaptdock.engine.training.loop.trainer import label_weight
from adaptdock.errors import UsageError
from adaptdock.plugins.contracts import LoadOptions

BROKEN_LOSS = """
from adaptdock.engine.core import distributed
from adaptdock.engine.training.members import trainable
forward = trainable.Trainable.forward
def broken(self, *arguments, **named):
    found = forward(self, *arguments, **named)
    return {"loss": found["loss"] * float("nan")} if distributed.ranks().rank == 1 else found
trainable.Trainable.forward = broken
"""
RUN = "\nimport sys\nfrom adaptdock.cli import main\nsys.exit(main(sys.argv[1:]))\n"


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process the first of two."""
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


def uneven(folder: Path) -> Path:
    """Write sentences with unequal numbers of words, 12 to train on: of the last step one process has none."""
    sentences = [
        "ada B-PER",
        "bob B-PER runs O in O oslo B-LOC",
        "the O rain O sings O in O rome B-LOC and O oslo B-LOC",
    ]
    folder.mkdir()
    for split, repeats in (("train", 4), ("validation", 2)):
        lines = [" ".join(s.split()[n : n + 2]) for s in sentences * repeats for n in range(0, len(s.split()) + 1, 2)]
        (folder / f"{split}.conll").write_text("\n".join(lines))
    return folder


def arguments(model: Path, data: Path, output: str, *more: object) -> list[str]:
    """Return those of a training without dropout, whose masks depend on how rows are divided."""
    fixed = ["--epochs", 2, "--device", "cpu", "--precision", "fp32", "--patience", 0, "--store", "float32"]
    still = ["--dropout", 0, "--no-backbone-dropout", "--checkpoint-steps", 3]
    what = ["--task", "ner", "--backbone", model, "--data", data, "-o", output]
    return [str(argument) for argument in ["train", *what, *fixed, *still, *more]]


def both(folder: Path, command: list[str], before: str = "") -> list[subprocess.CompletedProcess[str]]:
    """Run a command in two processes that torchrun could have started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", before + RUN, *command],
            cwd=folder,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate() for process in processes]
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *texts)
        for process, texts in zip(processes, outputs, strict=True)
    ]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def apart(one: Path, other: Path) -> float:
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)


def test_two_processes_train_what_one_trains_with_batches_twice_as_large(tmp_path, model_folder, capsys):
    data = uneven(tmp_path / "data")
    together = both(tmp_path, arguments(model_folder, data, "two.safetensors", "--batch-size", 5))
    assert [process.returncode for process in together] == [0, 0], together
    first, second = together
    assert "validation f1" in first.stderr
    assert "adapter" in first.stdout
    assert "validation" not in second.stdout + second.stderr
    (run,) = (tmp_path / "runs").iterdir()
    one = tmp_path / "one.safetensors"
    alone = arguments(model_folder, data, str(one), "--batch-size", 10, "--run-dir", tmp_path / "run")
    assert main(alone) == 0
    assert apart(one, tmp_path / "two.safetensors") < 1e-5
    assert files(run) == files(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["prefix", "bottleneck", "decoder", "class weights"])
def test_two_processes_train_any_method_as_one(tmp_path, model_folder, case):
    data, more = uneven(tmp_path / "data"), ["--method", case]
    if case == "class weights":
        more = ["--class-weights", "balanced"]
    if case == "decoder":
        model_folder, more = tmp_path / "llama", []
        tiny_language_model("llama").save_pretrained(model_folder)
        tiny_tokenizer().save_pretrained(model_folder)
    for output, rows in (("two", 5), ("one", 10)):
        file, fixed = tmp_path / f"{output}.safetensors", ("--batch-size", rows, "--run-dir", tmp_path / output)
        command = arguments(model_folder, data, str(file), *fixed, *more)
        if case == "prefix":
            start = command.index("--dropout")
            del command[start : start + 2]
        ended = both(tmp_path, command) if output == "two" else [main(command)]
        assert all(not getattr(process, "returncode", process) for process in ended), ended
    assert apart(tmp_path / "one.safetensors", tmp_path / "two.safetensors") < 1e-5


@pytest.mark.slow
def test_two_processes_that_divide_the_backbone_train_what_one_trains(tmp_path, model_folder):
    data, one = uneven(tmp_path / "data"), tmp_path / "one.safetensors"
    shared = ("--method", "dora", "--run-dir")
    assert main(arguments(model_folder, data, str(one), "--batch-size", 10, *shared, tmp_path / "alone")) == 0
    command = arguments(model_folder, data, "two.safetensors", "--batch-size", 5, *shared, "run", "--shard-backbone")
    together = both(tmp_path, command)
    assert [process.returncode for process in together] == [0, 0], together
    assert "MB of weights in each of 2 processes" in together[0].stderr
    assert apart(one, tmp_path / "two.safetensors") < 1e-5


@pytest.mark.slow
def test_one_process_completes_a_run_that_divided_its_backbone(tmp_path, model_folder, data):
    one = tmp_path / "one.safetensors"
    assert main(arguments(model_folder, data, str(one), "--batch-size", 10, "--run-dir", tmp_path / "alone")) == 0
    command = arguments(model_folder, data, "two.safetensors", "--batch-size", 5, "--run-dir", "run")
    assert [process.returncode for process in both(tmp_path, [*command, "--shard-backbone"], STOP)] == [130, 130]
    two = str(tmp_path / "two.safetensors")
    assert main(["train", "--resume", str(tmp_path / "run"), "--batch-size", "10", "-o", two]) == 0
    assert apart(one, Path(two)) < 1e-5


@pytest.mark.parametrize(
    ("labels", "class_weights", "weight"),
    [
        (torch.tensor([[1, 2, -100], [0, -100, -100]]), None, 3.0),
        (torch.tensor([1, 2, 2, -100]), torch.tensor([1.0, 2.0, 4.0]), 10.0),
        (torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([3.0, 5.0]), 4.0),
    ],
)
def test_a_mean_loss_is_over_the_labels_that_count_by_the_weights_of_their_classes(labels, class_weights, weight):
    assert label_weight(labels, class_weights) == weight
    if not labels.is_floating_point():  # what torch divides by
        logits = torch.randn(*labels.shape, 3).reshape(-1, 3)
        arguments = (logits, labels.flatten(), class_weights)
        ratio = functional.cross_entropy(*arguments, reduction="sum") / functional.cross_entropy(*arguments)
        assert ratio.item() == pytest.approx(weight, rel=1e-5)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_ends_all(tmp_path, model_folder, data):
    ended = both(tmp_path, arguments(model_folder, data, "two.safetensors", "--batch-size", 5), BROKEN_LOSS)
    assert [process.returncode for process in ended] == [1, 1]
    assert all("the loss became nan in step 1" in process.stderr for process in ended)
    assert not (tmp_path / "two.safetensors").exists()


STOP = """
from adaptdock.engine.training.loop import trainer
step = trainer.AdapterTrainer.training_step
def stopping(self, *arguments):
    if self.state.global_step == 4:
        raise KeyboardInterrupt
    return step(self, *arguments)
trainer.AdapterTrainer.training_step = stopping
"""


@pytest.mark.slow
def test_torchrun_resumes_what_was_interrupted_and_ends_where_it_would_have(tmp_path, model_folder, data):
    command = arguments(model_folder, data, "whole.safetensors", "--batch-size", 5, "--run-dir", "whole")
    assert [process.returncode for process in both(tmp_path, command)] == [0, 0]
    command = arguments(model_folder, data, "part.safetensors", "--batch-size", 5, "--run-dir", "part")
    assert [process.returncode for process in both(tmp_path, command, STOP)] == [130, 130]
    shutil.copytree(tmp_path / "part", tmp_path / "fewer")
    resume = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python", sys.executable, "-c", RUN]
    done = subprocess.run(
        [sys.executable, *resume, "train", "--resume", "part"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert apart(tmp_path / "whole.safetensors", tmp_path / "part.safetensors") < 1e-5
    one = tmp_path / "one.safetensors"
    assert main(["train", "--resume", str(tmp_path / "fewer"), "--batch-size", "10", "-o", str(one)]) == 0
    assert apart(tmp_path / "whole.safetensors", one) < 1e-5


def test_one_process_continues_what_two_began_with_batches_twice_as_large(
    tmp_path, model_folder, data, capsys, monkeypatch
):
    command = arguments(model_folder, data, str(tmp_path / "a.safetensors"), "--run-dir", str(tmp_path / "run"))
    step = trainer.AdapterTrainer.training_step

    def stopping(self, *arguments):
        if self.state.global_step == 1:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(trainer.AdapterTrainer, "training_step", stopping)
        assert main([*command, "--batch-size", "10"]) == 130
    resume = ["train", "--resume", str(tmp_path / "run")]
    assert main([*resume, "--batch-size", "5"]) == 2
    assert "begun with batches of 10 in all processes together" in capsys.readouterr().err
    assert main([*resume, "--batch-size", "none"]) == 2
    assert main([*resume, "--rank", "4"]) == 2
    assert main(resume) == 0


@pytest.mark.parametrize(
    ("count", "advice"),
    [
        (1, "continue it with --batch-size 12 in this process"),
        (3, "continue it with --batch-size 4 in each of 3 processes"),
        (5, "5 processes cannot divide that: start a number of processes that divides 12"),
    ],
)
def test_a_run_is_resumed_with_the_batch_of_all_processes_together(tmp_path, monkeypatch, count, advice):
    begun = {"data": "a", BATCH: "12"}
    identify(tmp_path, begun, resume=False)
    identify(tmp_path, begun, resume=True)
    monkeypatch.setattr("adaptdock.engine.training.loop.run.ranks", lambda: Ranks(count=count))
    with pytest.raises(UsageError, match=advice):
        identify(tmp_path, {"data": "a", BATCH: "15"}, resume=True)
    with pytest.raises(UsageError, match="begun with other data"):
        identify(tmp_path, {"data": "b", BATCH: "12"}, resume=True)


def test_one_process_of_accelerate_launch_says_how_to_start_two(monkeypatch):
    assert distributed.launcher_note() == ""
    launched = ["accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", "2", "-m"]
    code = (
        "from adaptdock.engine.core import distributed; print(distributed.ranks().count, distributed.launcher_note())"
    )
    command = [sys.executable, "-m", *launched[:-1], "--no_python", sys.executable, "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.startswith("1 accelerate launch has started one process")
    assert "torchrun --nproc-per-node 2" in printed
    monkeypatch.setenv(distributed.LAUNCHED, "default")
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert distributed.launcher_note() == ""


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["sweep", "--task", "ner"], "adapt sweep runs in one process"),
        (["predict", "a.safetensors", "text"], "adapt predict runs in one process"),
        (["train", "--tasks", "tasks.yaml"], "adapt train --tasks runs in one process"),
        (["train", "--task", "ner", "--folds", "2"], "adapt train --folds runs in one process"),
        (["train", "--task", "ner", "--unlabelled", "a.txt"], "adapt train --unlabelled runs in one process"),
        (["train", "--task", "ner", "--device", "cuda:0"], "the backbones of all 2 processes"),
        (["train", "--task", "ner", "--device-map", "auto"], "--device-map divides one backbone among all GPUs"),
        (["train", "--task", "ner", "--shard-backbone", "--quantize", "nf4"], "divides float weights alone"),
    ],
)
def test_what_several_processes_cannot_share_is_refused_in_one_sentence(
    two, tmp_path, monkeypatch, capsys, command, words
):
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("Error: ")
    assert printed.count("\n") == 1
    assert words in printed
    assert list(tmp_path.iterdir()) == []


def test_a_backbone_is_not_divided_in_one_process(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--task", "ner", "--shard-backbone"]) == 2
    assert "this is the only one: start them with torchrun" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_only_helps_leaves_wrong_arguments_to_the_first_one(two, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert main(["train", "--task", "nonsense"]) == 2
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("where", ["after they have connected", "on another machine"])
def test_an_error_that_the_first_process_may_not_have_is_told_with_the_number_of_the_process(
    two, monkeypatch, capsys, where
):
    monkeypatch.setenv("RANK", "1")
    if where == "on another machine":
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    else:
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    assert main(["train", "--task", "nonsense"]) == 2
    assert capsys.readouterr().err.startswith("Error: process 1: unknown task 'nonsense'")


def test_a_process_that_loses_another_says_so(two):
    lost = RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:53407. Check the logs")
    message, status = describe(lost)
    assert (status, message.partition(":")[0]) == (1, "another process of this run has ended, and this one with it")


# ----------------------------------------------------------------------------------------- devices


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_each_process_loads_its_backbone_onto_a_gpu_of_its_own(two, four_gpus, monkeypatch, device):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert placed(LoadOptions(device=device)).device == "cuda:1"
    assert placed(LoadOptions(device="cpu")).device == "cpu"


def test_a_backbone_is_loaded_where_its_process_belongs(two, monkeypatch):
    from adaptdock.engine.core import loading

    seen: list[Any] = []
    monkeypatch.setattr(loading, "placed", lambda options: seen.append(options) or options)
    with pytest.raises(Exception, match="nowhere"):
        loading.load_backbone("/nowhere", LoadOptions())
    assert seen == [LoadOptions()]


def test_more_processes_than_gpus_are_refused(two, four_gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "5")
    with pytest.raises(UsageError, match="5 processes on this machine, which has 4 GPUs: --nproc-per-node 4"):
        placed(LoadOptions())


@pytest.mark.parametrize("environment", [{}, {"WORLD_SIZE": "4"}, {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}])
def test_a_process_that_torchrun_did_not_start_beside_others_is_alone(monkeypatch, environment):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ranks() == Ranks()
    options = LoadOptions(device="cuda:1")
    assert placed(options) is options
    assert distributed.shared("value") == "value"
