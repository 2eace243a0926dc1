"""Measure the code: sizes, vague names, comments, circles of imports. Prints a table, or JSON with --json.

    python scripts/measures.py [--json] [--root FOLDER]

Local names, imports and functions are read from the syntax trees; comments are counted by the tokenizer.
"""

import argparse
import ast
import io
import json
import statistics
import tokenize
from collections.abc import Iterator
from itertools import count
from pathlib import Path

ROOMS = ("adapters", "backbones", "cli", "engine", "hub", "plugins", "serving", "tasks")
VAGUE = frozenset({"found", "given", "made", "own", "mine", "one", "other", "told", "there", "kept", "chosen", "named"})
"""Names of local values that say nothing of the value."""
OPAQUE = frozenset(
    {
        "answers",
        "batcher",
        "bodies",
        "calls",
        "checking",
        "compatible",
        "course",
        "drawing",
        "envelope",
        "firstuse",
        "foreign",
        "front",
        "language",
        "layouts",
        "limits",
        "managing",
        "names",
        "passes",
        "placing",
        "places",
        "predicting",
        "quiet",
        "rates",
        "residual",
        "rowwise",
        "scribe",
        "settings",
        "stepping",
        "strict",
        "together",
        "trial",
        "whole",
        "words",
        "work",
    }
)
"""File names that tell an engineer of this field nothing."""


def files(root: Path) -> dict[str, Path]:
    """Return the modules of the package by their dotted names."""
    modules = {
        "adaptdock." + ".".join(path.relative_to(root).with_suffix("").parts): path
        for room in ROOMS
        for path in sorted((root / room).rglob("*.py"))
    }
    front = {f"adaptdock.{path.stem}": path for path in (root / "src" / "adaptdock").glob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in {**modules, **front}.items()}


def imports(modules: dict[str, Path]) -> dict[str, set[str]]:
    """Return what each module imports of the package, for types and inside functions too."""
    graph = {}
    for module, path in modules.items():
        targets = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                submodules = names & modules.keys()
                targets |= submodules | ({node.module} if len(submodules) < len(names) else set())
        graph[module] = targets & modules.keys() - {module}
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the sets of modules that import each other, by Tarjan's algorithm (1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    numbers, components = count(), []

    def visit(module: str) -> None:
        index[module] = low[module] = next(numbers)
        stack.append(module)
        for target in sorted(graph[module]):
            if target not in index:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], index[target])
        if low[module] == index[module]:
            start = stack.index(module)
            components.append(sorted(stack[start:]))
            del stack[start:]

    for module in sorted(graph):
        if module not in index:
            visit(module)
    return [component for component in components if len(component) > 1]


def local_names(tree: ast.AST) -> Iterator[str]:
    """Yield the name of each assignment, loop variable and comprehension variable, in functions and outside."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def functions(tree: ast.AST) -> Iterator[int]:
    """Yield the length of each function in lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1


def comments(text: str) -> int:
    """Return the number of comments."""
    return sum(token.type == tokenize.COMMENT for token in tokenize.generate_tokens(io.StringIO(text).readline))


def largest_folder(root: Path) -> tuple[int, str]:
    """Return the number of modules in the folder with most of them, and its name."""
    folders = {path.parent for path in files(root).values()}
    sizes = [(sum(path.name != "__init__.py" for path in folder.glob("*.py")), folder) for folder in folders]
    size, folder = max(sizes)
    return size, str(folder.relative_to(root))


def measures(root: Path) -> dict[str, float | int | str]:
    """Return the measures of the checkout at ``root`` by name."""
    modules = files(root)
    texts = {module: path.read_text() for module, path in modules.items()}
    trees = [ast.parse(text) for text in texts.values()]
    lengths = [text.count("\n") for text in texts.values()]
    sizes = [size for tree in trees for size in functions(tree)]
    names = [name for tree in trees for name in local_names(tree)]
    stems = [path.stem for path in modules.values() if path.name != "__init__.py"]
    size, folder = largest_folder(root)
    return {
        "modules": len(modules),
        "lines": sum(lengths),
        "median lines of a module": statistics.median(lengths),
        "longest module": max(lengths),
        "functions": len(sizes),
        "median lines of a function": statistics.median(sizes),
        "functions over 60 lines": sum(size > 60 for size in sizes),
        "assigned names": len(names),
        "vague names": sum(name in VAGUE for name in names),
        "comments per 100 lines": round(100 * sum(map(comments, texts.values())) / sum(lengths), 2),
        "opaque file names": sum(stem in OPAQUE for stem in stems),
        "circles of imports": len(circles(imports(modules))),
        f"modules in the largest folder ({folder})": size,
    }


def main() -> None:
    """Print the measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent, help="the checkout")
    arguments = parser.parse_args()
    table = measures(arguments.root)
    if arguments.json:
        print(json.dumps(table, indent=2))
        return
    for name, value in table.items():
        print(f"{name:<48} {value:>8}")


if __name__ == "__main__":
    main()
