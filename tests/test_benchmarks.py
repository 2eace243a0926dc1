"""The benchmarks, which take too long for tests, import names that exist."""

import ast
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

FOLDERS = [Path(__file__).parent.parent / name for name in ("benchmarks", "scripts")]
FILES = sorted(file for folder in FOLDERS for file in folder.glob("*.py"))


def imports(file: Path) -> list[tuple[str, str]]:
    """The modules of ours that a file imports from, anywhere in it, with the names."""
    nodes = [node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.ImportFrom)]
    return [
        (node.module, alias.name)
        for node in nodes
        if node.module and node.module.split(".")[0] == "adaptdock"
        for alias in node.names
    ]


def test_the_benchmarks_import_from_the_package() -> None:
    assert len(FILES) > 20
    assert sum(len(imports(file)) for file in FILES) > 100


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_imported_name_exists(file: Path) -> None:
    missing = []
    for module, name in imports(file):
        if not hasattr(import_module(module), name):
            try:
                import_module(f"{module}.{name}")
            except ImportError:
                missing.append(f"{module}.{name}")
    assert missing == []


@pytest.mark.slow
def test_the_page_on_methods_has_the_table_of_its_results(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    page = shutil.copy(root / "docs" / "methods.md", tmp_path)
    script, rows = root / "benchmarks" / "methods.py", root / "benchmarks" / "methods.jsonl"
    subprocess.run([sys.executable, script, tmp_path, "--rows", rows, "--page", page], check=True)
    assert Path(page).read_text("utf-8") == (root / "docs" / "methods.md").read_text("utf-8")
