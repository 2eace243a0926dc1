"""The house: no circle of imports, names that say what a value is, a test for every module."""

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parent.parent
VAGUE_NAMES = 2
"""How many vague names there are; this number can only fall."""


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def measures() -> dict[str, Any]:
    """The measures of the whole tree, which take seconds."""
    return script("measures").measures(ROOT)


def test_a_circle_of_imports_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}
    assert script("measures").circles(graph) == [["a", "b", "c"]]


def test_no_modules_import_each_other() -> None:
    module = script("measures")
    graph = module.imports(module.files(ROOT))
    assert len(graph) > 200
    assert module.circles(graph) == []


def test_vague_names_do_not_become_more() -> None:
    assert 0 < measures()["vague names"] <= VAGUE_NAMES


def test_prose_that_is_not_plain_is_found_outside_fenced_code_only(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("There is no way beneath.\n```\nwhat is written\n```\nA plain sentence.\n")
    module = tmp_path / "module.py"
    module.write_text('"""The result goes on here."""\nkey = "beneath"\n')
    lines = {path: [line for _, line in script("prose").sentences(path)] for path in (page, module)}
    assert lines[page] == ["There is no way beneath.", "```", "A plain sentence."]
    assert lines[module] == ['"""The result goes on here."""']


def test_no_function_is_longer_than_60_lines() -> None:
    assert measures()["functions over 60 lines"] == 0
