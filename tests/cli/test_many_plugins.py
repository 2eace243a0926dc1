"""Plugins of others cannot hinder the command line: heavy, broken and hanging ones are listed, not imported."""

import json
import os
import subprocess
import sys
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
import json, sys
from adaptdock.cli import main
status = main(sys.argv[2:])
watched = sys.argv[1].split(",")
print(json.dumps([status, [name for name in sys.modules if name.split(".")[0] in watched]]), file=sys.stderr)
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with distributions that import torch, and with some that cannot be imported."""
    for number in range(COUNT):
        group = GROUPS[number % len(GROUPS)]
        put(tmp_path, f"heavy{number}", group, "import torch\nimport transformers\n" + CLASS)
    for name, code in BAD.items():
        put(tmp_path, name, "adapters", code)
        put(tmp_path, f"{name}task", "tasks", code)
    return tmp_path


def put(site: Path, name: str, group: str, code: str) -> None:
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[adaptdock.{group}]\n{name} = {name}_plugin:Plugin\n")
    (site / f"{name}_plugin.py").write_text(code)


def run(site: Path, *arguments: str, watched: str = "torch,transformers") -> tuple[int, list[str], str]:
    """Run ``adapt`` and return its status, the watched modules that it imported, and what it printed."""
    modules = [file.stem for file in site.glob("*_plugin.py")]
    done = subprocess.run(
        [sys.executable, "-c", RUN, ",".join([*modules, *watched.split(",")]), *arguments],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=site,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    status, imported = json.loads(done.stderr.splitlines()[-1])
    return status, imported, done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["plugins"], ["plugins", "--json"], ["list"], ["plugin", "--help"]])
def test_what_is_listed_is_not_imported_and_neither_is_torch(site: Path, arguments: list[str]) -> None:
    status, imported, printed = run(site, *arguments)
    assert status == 0
    assert imported == []
    if arguments == ["plugins"]:
        for name in (*BAD, "heavy0", "heavy1", "heavy2", "heavy3"):
            assert name in printed


def test_other_methods_and_tasks_work_beside_them(site: Path) -> None:
    status, imported, printed = run(site, "train", "--task", "ner", "--method", "lora", "--help", watched="nothing")
    assert (status, imported) == (0, [])
    assert "--rank" in printed
    assert "raises" in printed, "it can be chosen"


@pytest.mark.parametrize(
    ("name", "reason"), [("raises", "RuntimeError: broken on import"), ("outdated", "built for version 99")]
)
def test_one_that_is_chosen_is_refused_with_its_reason(site: Path, name: str, reason: str) -> None:
    for arguments in (["--method", name], ["--task", f"{name}task"]):
        status, _, printed = run(site, "train", *arguments, "--dry-run")
        assert status == 1
        assert reason in printed
        assert f"{name}" in printed.splitlines()[-2]


def test_a_backbone_that_is_an_alias_waits_for_no_family_that_hangs(site: Path) -> None:
    put(site, "loom", "backbones", BAD["hangs"])
    status, imported, _ = run(site, "train", "--task", "ner", "--dry-run", watched="nothing")
    assert (status, imported) == (0, [])


def test_one_that_does_not_work_is_found_by_its_check(site: Path) -> None:
    status, _, printed = run(site, "plugin", "check", "outdated")
    assert status == 1
    assert "built for version 99" in printed
