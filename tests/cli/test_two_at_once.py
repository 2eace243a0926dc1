"""Two commands in one place: the second is told who is there, or both results are kept."""

import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from owners import owner

from adaptdock.cli.training import settings
from adaptdock.hub.artefact.file import read_file
from adaptdock.hub.artefact.locks import NAME, changing


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != NAME}


def test_a_folder_with_a_run_is_refused_at_once_whatever_begins_there(
    train: Any, adapt: Any, model_folder: Path, data: Path, tmp_path: Path
) -> None:
    assert train("--run-dir", "run").status == 0
    (tmp_path / "tasks.yaml").write_text(f"a:\n  task: ner\n  data: {data}\nb:\n  task: ner\n  data: {data}\n")
    before, at = contents(tmp_path), ["--backbone", model_folder, "--overwrite"]
    with owner(tmp_path / "run") as process:
        words = 2, "run is in use by the process", str(process.pid)
        train("--run-dir", "run", "--overwrite").failed(*words)
        train("--run-dir", "run", "--output", "other.safetensors").failed(*words)
        adapt("train", "--resume", "run").failed(*words)
        adapt("train", "--tasks", "tasks.yaml", "--run-dir", "run", *at).failed(*words)
        run = ["sweep", "--task", "ner", "--data", data, "--search", "rank=2,4", "--run-dir", "run", *at]
        adapt(*run).failed(*words)
    assert contents(tmp_path) == before
    assert train("--run-dir", "run", "--overwrite").status == 0


def test_a_sweep_s_study_is_of_one_sweep(adapt: Any, data: Path, model_folder: Path, tmp_path: Path) -> None:
    run = ["sweep", "--task", "ner", "--data", data, "--search", "rank=2,4", "--backbone", model_folder]
    (tmp_path / "study.db").mkdir()  # its lock has another name than a folder's
    with changing(tmp_path / "study.db"):
        seen: list[Any] = []
        thread = threading.Thread(target=lambda: seen.append(adapt(*run, "--study", "study.db")))
        thread.start()
        thread.join()
    seen[0].failed(2, "study.db is in use by the process")


def test_runs_of_one_second_have_folders_of_their_own(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "run_name", lambda task, method: Path("runs/ner-lora-now"))
    with owner(tmp_path / "runs" / "ner-lora-now"):
        assert train("--output", "a.safetensors").status == 0
    assert train("--output", "b.safetensors").status == 0
    assert train("--task", "ner", "--rank", "no").status == 2
    assert train("--train", "missing.conll").status == 2
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["ner-lora-now", "ner-lora-now-2"]


def meanwhile(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, appears: Callable[[], None]) -> None:
    """Let something happen before the last step of a command."""
    work = getattr(module, name)

    def run(*arguments: Any, **more: Any) -> Any:
        result = work(*arguments, **more)
        appears()
        return result

    monkeypatch.setattr(module, name, run)


def test_a_file_that_appeared_during_a_training_is_not_replaced(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "ner.safetensors"
    meanwhile(monkeypatch, import_module("adaptdock.cli.train"), "carry_out", lambda: output.write_text("of another"))
    train().failed(2, "ner.safetensors did not exist when the work began", "the result is in ner-2.safetensors")
    assert output.read_text() == "of another"
    assert read_file(tmp_path / "ner-2.safetensors").card.name == "ner"
    assert train("--overwrite").status == 0
    assert read_file(output).card.name == "ner"
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == ["ner-2.safetensors", "ner.safetensors"]


@pytest.mark.parametrize("command", ["combine", "merge", "export"])
def test_what_appeared_during_other_work_is_not_replaced(
    adapt: Any, adapter: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    out = tmp_path / ("out.safetensors" if command == "combine" else "out")
    at = ["--backbone", model_folder]
    arguments = {
        "combine": ["combine", adapter, "--weights", "1", "-o", out, *at],
        "merge": ["merge", adapter, "-o", out, *at],
        "export": ["export", adapter, "--to", out, *at],
    }
    last = "combine" if command == "combine" else "open_backbone"

    def appears() -> None:
        if command == "combine":
            out.write_text("of another")
        else:
            out.mkdir(exist_ok=True)
            (out / "of-another").write_text("")

    meanwhile(monkeypatch, import_module(f"adaptdock.cli.{command}"), last, appears)
    adapt(*arguments[command]).failed(2, "out")
    assert out.read_text() == "of another" if out.is_file() else [path.name for path in out.iterdir()] == ["of-another"]
    if command != "merge":  # which looks once more before the work
        assert (tmp_path / f"out-2{out.suffix}").exists()


def test_a_server_s_state_is_refused_before_the_backbone_is_loaded(adapt: Any, tmp_path: Path) -> None:
    with owner(tmp_path / "state") as process:
        ran = adapt("serve", "--state", "state", "--backbone", "nowhere", "--port", 0)
        ran.failed(2, "state is in use by the process", str(process.pid))
