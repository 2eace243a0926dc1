"""The pages for contributors: targets, files, versions and imports that they name are those of the project."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from pages import ROOT, blocks

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
GUIDES = ("CONTRIBUTING.md", "AGENTS.md", "RELEASING.md", "SECURITY.md", "README.md", "docs/architecture.md")
EXAMPLES = {"adapters/gain.py", "tasks/tone.py"}
"""Files that a walk-through writes."""
MADE = ("build/", "dist/", ".venv", "runs/")
"""Folders that a command makes."""
GITHUB = ROOT / ".github"


def read(name: str) -> str:
    return (ROOT / name).read_text()


@pytest.mark.parametrize("name", [*GUIDES, ".github/pull_request_template.md", ".github/workflows/test.yml"])
def test_every_make_target_that_is_named_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", read("Makefile"), flags=re.MULTILINE))
    named = set(re.findall(r"(?:`|\$ |run: )make ([a-z-]+)", read(name)))
    assert named <= targets


def test_the_guides_name_targets_at_all() -> None:
    for name in ("CONTRIBUTING.md", "AGENTS.md", "RELEASING.md"):
        assert "make test" in read(name)


@pytest.mark.parametrize("name", [*GUIDES, "mkdocs.yml"])
def test_every_file_that_is_named_exists(name: str) -> None:
    quoted = re.findall(r"`([^`\s]+)`", read(name))
    paths = {path for path in quoted if re.fullmatch(r"\.?[\w.-]+/[\w./-]*|[\w-]+\.(?:md|toml|txt|yml|py)", path)}
    for path in paths - EXAMPLES:
        if not path.startswith(MADE):
            assert (ROOT / path).exists(), path


def test_the_page_for_agents_is_short() -> None:
    assert len(read("AGENTS.md").splitlines()) <= 40


# ------------------------------------------------------------------------------------- architecture


def file_of(module: str) -> Path:
    """The file of a module of the package, by its name without ``adaptdock.``"""
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imported_by(module: str) -> set[str]:
    """What a module imports of the package, for types and inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(file_of(module).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.removeprefix("adaptdock.") for name in names if name.startswith("adaptdock.")}


ARROWS = [
    arrow
    for block in blocks(ARCHITECTURE, "text")
    for arrow in re.findall(r"^([a-z_.]+) +-> +([a-z_.]+)\b", block, flags=re.MULTILINE)
]


def test_the_diagrams_have_arrows() -> None:
    assert len(ARROWS) == sum(block.count("->") for block in blocks(ARCHITECTURE, "text"))
    assert len(ARROWS) > 30


@pytest.mark.parametrize(("module", "target"), ARROWS, ids=lambda name: name)
def test_every_arrow_of_the_architecture_is_an_import(module: str, target: str) -> None:
    assert file_of(target).is_file()
    assert target in imported_by(module)


def test_every_module_that_the_architecture_names_exists() -> None:
    packages = "adapters|backbones|cli|engine|hub|plugins|serving|tasks"
    named = set(re.findall(rf"(?<![\w./])(?:adaptdock\.)?((?:{packages})(?:\.[a-z_]+)+)\b(?<!\.md)", ARCHITECTURE))
    assert "cli.app" in named
    for module in named:
        assert file_of(module).is_file(), module


def test_the_rooms_of_the_architecture_are_those_that_the_imports_are_checked_by() -> None:
    layers = next(
        contract["layers"] for contract in PROJECT["tool"]["importlinter"]["contracts"] if "layers" in contract
    )
    rooms = [layer.split()[0] for layer in layers]
    assert "  >  ".join(rooms[: rooms.index("plugins") + 1]) in ARCHITECTURE
    table = set(re.findall(r"^\| `(\w+)/` \|", ARCHITECTURE, flags=re.MULTILINE))
    assert table == {"adapters", "tasks", "backbones", "plugins", "hub", "engine", "serving", "cli"}


# --------------------------------------------------------------------------------- tools and forms


def test_the_workflow_tests_the_python_versions_that_the_project_claims() -> None:
    workflow = yaml.safe_load(read(".github/workflows/test.yml"))
    tested = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    stated = [
        version
        for line in PROJECT["project"]["classifiers"]
        for version in re.findall(r"^Programming Language :: Python :: (3\.\d+)$", line)
    ]
    assert tested == stated
    assert PROJECT["project"]["requires-python"] == f">={stated[0]}"
    assert any(step.get("run") == "make test" for step in workflow["jobs"]["test"]["steps"])


def test_type_checkers_and_editors_look_where_the_links_are_made() -> None:
    (folder,) = PROJECT["tool"]["pyright"]["extraPaths"]
    assert folder == PROJECT["tool"]["mypy"]["mypy_path"] == "build/typed"
    assert PROJECT["tool"]["pyright"]["pythonVersion"] == PROJECT["tool"]["mypy"]["python_version"]
    code = ast.parse(read("scripts/link_rooms.py"))
    target = next(
        node for node in ast.walk(code) if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "TYPED"
    )
    assert re.findall(r"'([^']+)'", ast.unparse(target.value)) == [*folder.split("/"), "adaptdock"]


@pytest.mark.parametrize("form", sorted(GITHUB.glob("ISSUE_TEMPLATE/*.yml")), ids=lambda path: path.stem)
def test_an_issue_form_has_a_name_and_fields_with_labels(form: Path) -> None:
    content = yaml.safe_load(form.read_text())
    if form.stem == "config":
        assert set(content) <= {"blank_issues_enabled", "contact_links"}
        return
    assert content["name"]
    assert content["description"]
    assert len({field["id"] for field in content["body"]}) == len(content["body"])
    assert all(field["attributes"]["label"] for field in content["body"])


def test_the_hooks_before_a_commit_are_local_and_run_what_is_installed() -> None:
    (repository,) = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/")
        for path in re.findall(r"tests/\S+", hook["entry"]):
            assert (ROOT / path).is_file()
