"""The house: no circle of imports, names that say what a value is, a test for every module."""

import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent
VAGUE_NAMES = 535
"""How many vague names there are; this number can only fall."""


def measures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("measures", ROOT / "scripts" / "measures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_circle_of_imports_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}
    assert measures().circles(graph) == [["a", "b", "c"]]


def test_no_modules_import_each_other() -> None:
    module = measures()
    graph = module.imports(module.files(ROOT))
    assert len(graph) > 200
    assert module.circles(graph) == []


def test_vague_names_do_not_become_more() -> None:
    assert 0 < measures().measures(ROOT)["vague names"] <= VAGUE_NAMES


def test_no_function_is_longer_than_60_lines() -> None:
    assert measures().measures(ROOT)["functions over 60 lines"] == 0
