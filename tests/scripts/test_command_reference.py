"""The pages about commands: all options as the program shows them, and a section with an example for each command."""

import re
import sys
from pathlib import Path

import pytest

from adaptdock.cli.app import COMMANDS
from adaptdock.plugins import registry

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def page() -> str:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from command_reference import page
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    return page()


def test_the_page_of_all_options_is_what_the_program_shows(page: str) -> None:
    written = (ROOT / "docs" / "commands-help.md").read_text()
    assert written == page, "docs/commands-help.md is not what the program shows: make reference writes it"


def test_the_page_has_every_command_method_and_task(page: str) -> None:
    headings = set(re.findall(r"^##+ (.*)$", page, flags=re.MULTILINE))
    assert {f"adapt {name}" for name in COMMANDS} <= headings
    assert {"adapt trust revoke", "adapt key new", "adapt plugin check"} <= headings
    assert {f"Method {name}" for name in registry.names("method")} <= headings
    assert {f"Task {name}" for name in registry.names("task")} <= headings


def test_every_command_has_a_section_with_an_example() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL))
    for name in COMMANDS:
        (section,) = (body for title, body in sections.items() if f"adapt {name}" in title.split(", "))
        examples = "".join(re.findall(r"```console\n(.*?)```", section, flags=re.DOTALL))
        assert f"adapt {name}" in examples, name


def test_no_example_or_paragraph_is_written_twice_or_outside_a_block() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines = [line for line in prose.splitlines() if len(line) > 60]
    assert len({line[:60] for line in lines}) == len(lines)
    assert not re.findall(r"^adapt .*$", prose, flags=re.MULTILINE)
