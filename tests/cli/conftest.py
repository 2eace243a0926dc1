"""The command line run in this process, on tiny data and a tiny backbone."""

import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from builders import build_adapter

from adaptdock.cli import main
from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone

SENTENCES = [
    ("ada lives in rome", "B-PER O O B-LOC"),
    ("bob saw oslo", "B-PER O B-LOC"),
    ("we met eva lind in paris", "O O B-PER I-PER O B-LOC"),
    ("nothing here at all", "O O O O"),
]


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str

    def failed(self, status: int, *words: str) -> None:
        """Check that this is a failure told in one paragraph with these words."""
        assert self.status == status, self
        last = self.err.rstrip("\n").splitlines()[-1]
        assert last.startswith("Error: "), self.err
        assert sum(line.startswith("Error: ") for line in self.err.splitlines()) == 1
        assert "Traceback" not in self.err + self.out
        for word in words:
            assert word in last


Adapt = Callable[..., Ran]


@pytest.fixture
def adapt(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Adapt:
    """Run ``adapt`` with arguments and standard input, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, stdin: bytes = b"") -> Ran:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
            status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(status, captured.out, captured.err)

    return run


@pytest.fixture
def train(adapt: Adapt, model_folder: Path, data: Path) -> Adapt:
    """Run ``adapt train`` for one epoch on the tiny data, more options added."""

    def run(*arguments: object) -> Ran:
        given = [str(argument) for argument in arguments]
        defaults = {"--task": "ner", "--backbone": model_folder, "--epochs": 1, "--precision": "fp32"}
        if "--train" not in given and "--config" not in given:
            defaults["--data"] = data
        added = [part for name, value in defaults.items() if name not in given for part in (name, value)]
        return adapt("train", *added, *given)

    return run


def write_conll(path: Path, repeats: int = 1) -> Path:
    lines = []
    for words, tags in SENTENCES * repeats:
        lines += [f"{word}\t{tag}" for word, tag in zip(words.split(), tags.split(), strict=True)] + [""]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def conll() -> Callable[..., Path]:
    """Write the sentences to a file, some times over."""
    return write_conll


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three splits."""
    folder = tmp_path_factory.mktemp("data")
    for split, repeats in (("train", 4), ("validation", 1), ("test", 1)):
        write_conll(folder / f"{split}.conll", repeats)
    return folder


@pytest.fixture(scope="session")
def adapter(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter file for the tiny backbone, with random weights."""
    path = tmp_path_factory.mktemp("adapter") / "ner.safetensors"
    write_file(path, build_adapter(backbone, "lora", {"rank": 2}, labels=("LOC", "PER"), name="places"))
    return path


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str, str], None]]:
    """Install a distribution made of its metadata and one module."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name: str, entry_points: str, code: str) -> None:
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(entry_points)
        (tmp_path / f"{name.replace('-', '_')}.py").write_text(code)
        registry.refresh()

    yield install
    monkeypatch.undo()
    registry.refresh()
