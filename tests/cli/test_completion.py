"""Tab completion: the script, commands, options, values and file names."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from adaptdock.cli.app import COMMANDS

HEAVY = ("torch", "transformers", "adaptdock.adapters", "adaptdock.tasks", *(module for module, _ in COMMANDS.values()))


@pytest.fixture
def candidates(adapt, monkeypatch: pytest.MonkeyPatch):
    def ask(line: str) -> list[str]:
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
        monkeypatch.setenv("_ADAPT_COMPLETE", "bash_complete")
        ran = adapt()
        assert (ran.status, ran.err) == (0, "")
        return ran.out.split()

    return ask


@pytest.mark.parametrize(("shell", "words"), [("bash", "complete "), ("zsh", "#compdef adapt"), ("fish", "complete ")])
def test_a_shell_gets_its_script(adapt, monkeypatch: pytest.MonkeyPatch, shell: str, words: str) -> None:
    monkeypatch.setenv("_ADAPT_COMPLETE", f"{shell}_source")
    ran = adapt()
    assert ran.status == 0
    assert words in ran.out
    assert f"_ADAPT_COMPLETE={shell}_complete" in ran.out
    assert "Usage" not in ran.out


def test_another_shell_is_refused_with_the_instructions_that_work(adapt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_ADAPT_COMPLETE", "tcsh_source")
    adapt().failed(2, "tcsh_source", "bash_source, zsh_source, fish_source")


def test_commands_options_and_values_are_completed(candidates) -> None:
    assert candidates("adapt tr") == ["plain,train", "plain,trust"]
    assert candidates("adapt trust re") == ["plain,remove", "plain,revoke"]
    assert "plain,--max-length" in candidates("adapt train --task ner --max")
    assert candidates("adapt train --method prefix --leng") == ["plain,--length"]
    assert candidates("adapt train --task sent") == ["plain,sentiment"]
    assert candidates("adapt predict --format jsonl") == ["plain,jsonl"]


def test_file_names_are_completed_where_nothing_else_is(candidates) -> None:
    for line in ("adapt predict ner", "adapt eval ner", "adapt train --task ner --data da", "adapt push x"):
        assert candidates(line) == [f"file,{line.split()[-1]}"]


def test_an_error_while_someone_types_is_silent(candidates) -> None:
    assert candidates("adapt trian --") == []
    assert candidates("adapt train --config nowhere.yaml --") == []


def test_commands_are_completed_without_importing_one() -> None:
    code = "import sys; from adaptdock.cli import main; main([]); print(*sys.modules)"
    environment = {"COMP_WORDS": "adapt ", "COMP_CWORD": "1", "_ADAPT_COMPLETE": "bash_complete"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    *lines, modules = done.stdout.splitlines()
    assert {f"plain,{name}" for name in COMMANDS} <= set(lines)
    assert not [name for name in modules.split() if name.startswith(HEAVY)]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_a_line(tmp_path: Path) -> None:
    script = (
        "source <(_ADAPT_COMPLETE=bash_source adapt); COMP_WORDS=(adapt inspect --js); COMP_CWORD=2; "
        '_adapt_completion adapt; echo "${COMPREPLY[@]}"'
    )
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(["bash", "-c", script], env={"PATH": path}, capture_output=True, text=True, check=True)
    assert done.stdout == "--json\n"
