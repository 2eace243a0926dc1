"""Plugins of others cannot hinder the command line: heavy, broken and hanging ones are listed, not imported."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

COUNT = 20
GROUPS = ("adapters", "tasks", "backbones", "files", "commands")
CLASS = "class Plugin:\n    api_version = 2\n"
BAD = {
    "raises": "raise RuntimeError('broken on import')\n",
    "exits": "import os\nos._exit(3)\n",
    "hangs": "import time\nwhile True:\n    time.sleep(1)\n",
    "outdated": "class Plugin:\n    api_version = 99\n",
}
RUN = """
import contextlib, io, json, sys
from adaptdock.cli import main
from adaptdock.plugins import registry
watched, commands = sys.argv[1].split(","), json.loads(sys.argv[2])
reports, before = [], set()
for folder, arguments in commands:
    if folder not in sys.path:
        sys.path.append(folder)
        registry.refresh()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        status = main(arguments)
    imported = [name for name in set(sys.modules) - before if name.split(".")[0] in watched]
    before = set(sys.modules)
    reports.append([status, imported, printed.getvalue()])
print(json.dumps(reports))
"""
LIST = [["--help"], ["plugins"], ["plugins", "--json"], ["list"], ["plugin", "--help"]]
"""Commands that import no plugin and no torch: a process for each."""
HELP = ["train", "--task", "ner", "--method", "lora", "--help"]
DRY_RUN = ["train", "--task", "ner", "--dry-run"]
REFUSED = {"raises": "RuntimeError: broken on import", "outdated": "built for version 99"}
CHECK = ["plugin", "check", "outdated"]
Report = tuple[int, list[str], str]
"""Exit status, watched modules that the command imported, printed text."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with distributions that import torch, and with some that cannot be imported."""
    folder = tmp_path_factory.mktemp("site")
    for number in range(COUNT):
        group = GROUPS[number % len(GROUPS)]
        put(folder, f"heavy{number}", group, "import torch\nimport transformers\n" + CLASS)
    for name, code in BAD.items():
        put(folder, name, "adapters", code)
        put(folder, f"{name}task", "tasks", code)
    return folder


@pytest.fixture(scope="module")
def loom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a backbone family whose import hangs."""
    folder = tmp_path_factory.mktemp("loom")
    put(folder, "loom", "backbones", BAD["hangs"])
    return folder


def put(site: Path, name: str, group: str, code: str) -> None:
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[adaptdock.{group}]\n{name} = {name}_plugin:Plugin\n")
    (site / f"{name}_plugin.py").write_text(code)


def run(site: Path, *commands: tuple[Path, list[str]], watched: str) -> list[Report]:
    """Run commands of ``adapt`` one after another in a new process; each adds its folder to those with plugins."""
    modules = [file.stem for folder in {folder for folder, _ in commands} for file in folder.glob("*_plugin.py")]
    process = subprocess.run(
        [sys.executable, "-c", RUN, ",".join([*modules, *watched.split(",")]), json.dumps(commands, default=str)],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=site,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return [(status, imported, printed) for status, imported, printed in json.loads(process.stdout.splitlines()[-1])]


def chosen(name: str) -> list[list[str]]:
    return [["train", *arguments, "--dry-run"] for arguments in (["--method", name], ["--task", f"{name}task"])]


@pytest.fixture(scope="module")
def reports(site: Path, loom: Path) -> Callable[..., Report]:
    """Look up what a command that imports torch did, in one process for all, which imports torch once."""
    commands = [(site, command) for command in (HELP, DRY_RUN, *chosen("raises"), *chosen("outdated"), CHECK)]
    commands.append((loom, DRY_RUN))
    outcomes = run(site, *commands, watched="nothing")
    by_command = {(folder, *command): report for (folder, command), report in zip(commands, outcomes, strict=True)}
    return lambda folder, command: by_command[folder, *command]


@pytest.mark.parametrize("arguments", LIST)
def test_what_is_listed_is_not_imported_and_neither_is_torch(site: Path, arguments: list[str]) -> None:
    [(status, imported, printed)] = run(site, (site, arguments), watched="torch,transformers")
    assert status == 0
    assert imported == []
    if arguments == ["plugins"]:
        for name in (*BAD, "heavy0", "heavy1", "heavy2", "heavy3"):
            assert name in printed


def test_other_methods_and_tasks_work_beside_them(site: Path, reports: Callable[..., Report]) -> None:
    status, imported, printed = reports(site, HELP)
    assert (status, imported) == (0, [])
    assert "--rank" in printed
    assert "raises" in printed, "it can be chosen"


@pytest.mark.parametrize(("name", "reason"), REFUSED.items())
def test_one_that_is_chosen_is_refused_with_its_reason(
    site: Path, reports: Callable[..., Report], name: str, reason: str
) -> None:
    for command in chosen(name):
        status, _, printed = reports(site, command)
        assert status == 1
        assert reason in printed
        assert name in printed.splitlines()[-1]


def test_a_backbone_that_is_an_alias_waits_for_no_family_that_hangs(
    site: Path, loom: Path, reports: Callable[..., Report]
) -> None:
    for folder in (site, loom):
        status, imported, _ = reports(folder, DRY_RUN)
        assert (status, imported) == (0, [])


def test_one_that_does_not_work_is_found_by_its_check(site: Path, reports: Callable[..., Report]) -> None:
    status, _, printed = reports(site, CHECK)
    assert status == 1
    assert "built for version 99" in printed
