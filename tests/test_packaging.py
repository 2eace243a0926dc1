"""The distribution: every room in it, every plugin registered, the index in the wheel."""

import inspect
import json
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from adaptdock.plugins.contracts import BackboneFamily, Combination, Method, Task

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
ROOMS = ("adapters", "backbones", "cli", "engine", "hub", "plugins", "serving", "tasks")


def test_every_room_and_sub_folder_with_modules_is_in_the_list_of_packages() -> None:
    folders = {
        "adaptdock." + ".".join(file.parent.relative_to(ROOT).parts)
        for room in ROOMS
        for file in (ROOT / room).rglob("*.py")
    }
    assert {"adaptdock", *folders} == set(SETUPTOOLS["packages"])
    assert set(SETUPTOOLS["package-dir"]) == {"", *(name for name in SETUPTOOLS["packages"] if "." in name)}


def test_the_installed_entry_points_are_those_of_the_project_file() -> None:
    declared = {
        (group, name, target)
        for group, points in PROJECT["project"]["entry-points"].items()
        for name, target in points.items()
    }
    installed = {
        (point.group, point.name, point.value)
        for point in distribution("adaptdock").entry_points
        if point.group.startswith("adaptdock.")
    }
    assert installed == declared, "entry points are frozen at install: reinstall with pip install -e ."


def requirements(extra: str = "") -> dict[str, Requirement]:
    """The requirements of the distribution, or of one of its extras, by name."""
    project = PROJECT["project"]
    listed = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return {requirement.name: requirement for requirement in map(Requirement, listed)}


def test_quantised_backbones_interchange_and_merging_need_no_extra() -> None:
    assert {"bitsandbytes", "peft", "torchao"} <= requirements().keys()
    assert [name for name in PROJECT["project"]["optional-dependencies"] if not requirements(name)] == [
        "merge",
        "quantize",
    ], "names of earlier releases still install, and add nothing"


@pytest.mark.parametrize(
    ("system", "machine", "wanted"),
    [
        ("linux", "x86_64", True),
        ("linux", "aarch64", True),
        ("linux", "ppc64le", False),
        ("win32", "AMD64", True),
        ("win32", "ARM64", True),
        ("darwin", "arm64", True),
        ("darwin", "x86_64", False),
    ],
)
def test_bitsandbytes_is_required_where_it_has_a_wheel(system: str, machine: str, wanted: bool) -> None:
    marker = requirements()["bitsandbytes"].marker
    assert marker is not None
    assert marker.evaluate({"sys_platform": system, "platform_machine": machine}) == wanted


def test_every_direct_requirement_of_a_run_is_pinned() -> None:
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {name.lower() for name in requirements()} <= pinned


def plugins_of(module: str) -> list[type]:
    """The classes of a module that could be registered: those that others are built on are abstract."""
    kinds = (Method, Combination, Task, BackboneFamily)
    found = [value for value in vars(import_module(module)).values() if inspect.isclass(value)]
    return [one for one in found if one.__module__ == module and issubclass(one, kinds) and not inspect.isabstract(one)]


def test_every_method_task_and_family_file_is_registered() -> None:
    targets = {
        target.partition(":")[0] for points in PROJECT["project"]["entry-points"].values() for target in points.values()
    }
    for room in ("adapters", "tasks", "backbones"):
        modules = [f"adaptdock.{room}.{file.stem}" for file in (ROOT / room).glob("*.py") if file.stem != "__init__"]
        assert {module for module in modules if plugins_of(module)} <= targets


def test_the_wheel_built_from_the_source_distribution_is_complete(tmp_path: Path) -> None:
    build = (
        "from setuptools import build_meta; import sys, os, shutil, glob; out = sys.argv[1]; "
        "name = build_meta.build_sdist(out); shutil.unpack_archive(os.path.join(out, name), out); "
        "os.chdir(glob.glob(os.path.join(out, 'adaptdock-*', ''))[0]); print(build_meta.build_wheel(out))"
    )
    copied = tmp_path / "source"
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    for name in files:
        if (ROOT / name).is_file():
            (copied / name).parent.mkdir(parents=True, exist_ok=True)
            (copied / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", build, str(tmp_path)], cwd=copied, check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"adaptdock/{room}/{file.name}" for room in ROOMS for file in (ROOT / room).glob("*.py")}
    assert expected <= names
    assert {"adaptdock/registry.json", "adaptdock/py.typed", "adaptdock/tasks/samples/ner/train.conll"} <= names
    published = json.loads((ROOT / "registry.json").read_text())["adapters"]
    assert {f"adaptdock/{entry['file']}" for entry in published} <= names
    assert wheel.stat().st_size < 6_000_000
    assert {f"adaptdock/serving/page/{name}" for name in ("route.py", "index.html", "page.js", "page.css")} <= names
    assert not [name for name in names if name.startswith("tests")]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_refuses_to_be_imported_under_its_bare_name(room: str) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {room}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"adaptdock.{room}; import it by that name" in done.stderr
