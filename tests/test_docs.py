"""The documents do what they say: the README's commands and its Python run, in order, in an empty folder."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from environments import environment

ROOT = Path(__file__).parent.parent
README, MIXED, PLUGINS, FIRST, LIBRARY = (
    (ROOT / name).read_text()
    for name in ("README.md", "docs/mixed.md", "docs/plugins.md", "docs/first-adapter.md", "docs/library.md")
)


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.slow
def test_the_commands_of_the_readme_run_and_the_python_that_uses_what_they_made(tmp_path: Path) -> None:
    commands = [line for block in blocks("bash") for line in block.splitlines()]
    verbs = [command.split()[1] for command in commands]
    assert verbs == ["predict", "train", "predict", "eval", "inspect", "sample", "train", "sample", "train", "predict"]
    outputs = [run(["bash", "-c", command], tmp_path) for command in commands]
    tagged = [re.sub(r"\x1b\[[0-9;]*m", "", output).strip() for output in (outputs[0], outputs[2])]
    assert tagged == re.findall(r"prints `(\[[^`]+)`", README)
    assert "f1" in outputs[3].lower()
    assert "minilm" in outputs[4]
    assert "[sport" in outputs[9]
    (program,) = blocks("python")
    found = run([sys.executable, "-c", program], tmp_path)
    assert "'text': 'Ada Lovelace', 'label': 'PER'" in found
    assert len(found.splitlines()) == 2
    (program,) = blocks("python", MIXED)
    run([sys.executable, "-c", program], tmp_path)


@pytest.mark.slow
def test_the_first_adapter_is_trained_as_its_page_says(tmp_path: Path) -> None:
    sample, dry_run, training, *uses, measuring = (block.splitlines() for block in blocks("bash", FIRST))
    shown = "".join(run(["bash", "-c", command], tmp_path) for command in [*sample, *dry_run])
    data, plan, answers = blocks("text", FIRST)
    assert data in shown
    assert set(plan.splitlines()) <= set(shown.splitlines())
    for command in training:
        run(["bash", "-c", command], tmp_path)
    assert (tmp_path / "runs/topic/curves.png").exists()
    labels = re.findall(r"^\[(\w+) ", answers, flags=re.MULTILINE)
    printed = run(["bash", "-c", uses[0][0]], tmp_path)
    assert re.findall(r"\[(\w+) ", printed) == labels == ["sport", "weather"]
    assert json.loads(run(["bash", "-c", uses[0][1]], tmp_path))["label"] == "sport"
    for command in measuring:
        run(["bash", "-c", command], tmp_path)
    (program,) = blocks("python", FIRST)
    assert [line.split()[0] for line in run([sys.executable, "-c", program], tmp_path).splitlines()] == labels


@pytest.mark.slow
def test_the_page_on_training_from_python_runs_as_one_program(tmp_path: Path) -> None:
    printed = run([sys.executable, "-c", "\n".join(blocks("python", LIBRARY))], tmp_path).splitlines()
    assert printed[:2] == ["runs/list/best.safetensors complete", "The striker scored twice."]
    assert printed[2] == "{'train': 8, 'validation': 2}"
    assert sum(line.startswith("step ") for line in printed) == 2
    assert printed[-1].startswith("pandas.DataFrame of 8 rows (text, label), sha256 ")


def test_the_figures_of_the_readme_stand_in_the_pages_that_it_names() -> None:
    rows = re.findall(
        r"^\| ([^|]+) \| ([\d.]+) \| ([\d.]+) \| \[[^\]]+\]\(([^)#]+)#[^)]+\) \|$", README, flags=re.MULTILINE
    )
    assert len(rows) == 5
    for name, ours, theirs, page in rows:
        lines = [line for line in (ROOT / page).read_text().splitlines() if line.startswith("|")]
        assert any(re.search(rf"\| {re.escape(ours)}\b", line) and "PEFT" not in line for line in lines), name
        assert any(re.search(rf"\| {re.escape(theirs)}\b", line) and "PEFT" in line for line in lines), name


@pytest.mark.slow
def test_the_plugins_of_the_document_are_written_checked_installed_and_used(tmp_path: Path) -> None:
    made = environment(tmp_path / "env")
    for language, block in re.findall(r"```(bash|python)\n(.*?)```", PLUGINS, flags=re.DOTALL):
        path = re.match(r"# (\S+\.py)\n", block)
        if path:
            (tmp_path / path[1]).write_text(block.removeprefix(path[0]))
        elif language == "python":
            (tmp_path / "program.py").write_text(block)
            made.run("python program.py", tmp_path)
        else:
            for command in block.splitlines():
                made.run(command, tmp_path)
    names = {line.split()[0] for line in made.run("adapt list", tmp_path).stdout.splitlines()[1:]}
    assert names == {"tone", "topic"}
    assert (tmp_path / "dist").is_dir()
    made.run("python -m pytest -q adaptdock-gain/tests", tmp_path)


def test_the_make_targets_that_the_readme_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z-]+)", README):
        if target not in ("and",):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if "://" not in link:
                assert (document.parent / link).exists(), f"{document.name}: {link}"
