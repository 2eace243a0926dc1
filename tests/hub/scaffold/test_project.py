"""New plugin projects: complete, named as distributions are, whole or not at all."""

import tomllib
from pathlib import Path

import pytest
from builders import build_adapter

from adaptdock.errors import FileError, UsageError
from adaptdock.hub.artefact.file import read_card, write_file
from adaptdock.hub.scaffold import project
from adaptdock.hub.scaffold.project import PROJECTS, ProjectKind, checked, write_project
from adaptdock.plugins.contracts import Backbone


@pytest.mark.parametrize("kind", PROJECTS)
def test_a_project_has_code_test_package_readme_and_ci_with_every_word_filled_in(
    kind: ProjectKind, tmp_path: Path
) -> None:
    folder = tmp_path / "new"
    files = write_project(checked(kind, "two-words"), folder)
    names = {str(file) for file in files}
    assert {"pyproject.toml", "README.md", "LICENSE", ".gitignore", ".github/workflows/test.yml"} <= names
    assert any(file.parts[0] == "tests" for file in files)
    for file in files:
        text = (folder / file).read_text()
        for left in ("PACKAGE", "MODULE", "$name", "$package", "template"):
            assert left not in f"{file} {text}", file
        if file.suffix == ".py":
            compile(text, str(file), "exec")
    configuration = tomllib.loads((folder / "pyproject.toml").read_text())
    (points,) = configuration["project"]["entry-points"].values()
    assert list(points) == ["two-words"]
    assert configuration["project"]["name"] == "adaptdock-two-words"
    module = points["two-words"].partition(":")[0].replace(".", "/")
    assert (folder / "src" / f"{module}.py").is_file() or (folder / "src" / module).is_dir()


@pytest.mark.parametrize("kind", PROJECTS)
def test_package_data_that_a_project_declares_is_there(kind: ProjectKind, tmp_path: Path, backbone: Backbone) -> None:
    file = tmp_path / "people.safetensors"
    write_file(file, build_adapter(backbone, "lora", name="people"))
    folder = tmp_path / "new"
    write_project(checked(kind, "gain"), folder, [file] if kind == "adapters" else [])
    declared = tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["setuptools"].get("package-data", {})
    assert bool(declared) == (kind in ("task", "adapters"))
    for package, patterns in declared.items():
        for pattern in patterns:
            assert list((folder / "src" / package.replace(".", "/")).glob(pattern)), (package, pattern)


@pytest.mark.parametrize(
    ("name", "near"),
    [("My_Method", "'my-method'"), ("a--b", "'a-b'"), ("ends-", "'ends'"), ("../up", "'up'"), ("3d", "'d'"), ("", "")],
)
def test_a_name_that_no_distribution_has_is_refused_with_one_that_would_do(name: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"PEP 503.*{near}"):
        checked("method", name)


def test_a_name_that_is_registered_is_refused_with_who_has_it() -> None:
    with pytest.raises(UsageError, match=r"the method 'lora' is there already, from adaptdock [\d.]+"):
        checked("method", "lora")
    assert checked("task", "lora").distribution == "adaptdock-lora"


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        write_project(checked("method", "gain"), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["kept.txt"]


def test_nothing_half_written_is_left_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(project, "_fill", full)
    with pytest.raises(FileError, match="No space left"):
        write_project(checked("task", "gain"), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_an_adapters_project_carries_the_files_that_are_named(tmp_path: Path, backbone: Backbone) -> None:
    file = tmp_path / "people.safetensors"
    write_file(file, build_adapter(backbone, "lora", name="people"))
    write_project(checked("adapters", "names"), tmp_path / "new", [file])
    assert read_card(tmp_path / "new/src/adaptdock_names/files/people.safetensors").name == "people"
    with pytest.raises(UsageError, match="the same name"):
        write_project(checked("adapters", "names"), tmp_path / "other", [file, file])
    with pytest.raises(UsageError, match="carries no adapter files"):
        write_project(checked("method", "gain"), tmp_path / "other", [file])


def test_a_file_that_is_no_adapter_is_not_carried(tmp_path: Path) -> None:
    (tmp_path / "odd.safetensors").write_bytes(b"PK not one")
    with pytest.raises(FileError, match="pickle"):
        write_project(checked("adapters", "names"), tmp_path / "new", [tmp_path / "odd.safetensors"])
    assert not (tmp_path / "new").exists()
