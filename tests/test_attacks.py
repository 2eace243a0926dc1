"""Every row of docs/attacks.md names a test that exists."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
LEAST = 60


@cache
def functions(file: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)}


def test_there_are_many_attacks_and_each_has_a_test() -> None:
    lines = (ROOT / "docs" / "attacks.md").read_text("utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if "::" in line]
    attacks = [row[0] for row in rows]
    assert len(set(attacks)) == len(attacks) >= LEAST
    for attack, answer, test in rows:
        path, _, name = test.strip("`").partition("::")
        file = ROOT / "tests" / path
        assert file.is_file(), attack
        assert name in functions(file), (attack, test)
        assert answer, attack
