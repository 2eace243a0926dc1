"""The table of model types: a sample of it is measured here, and its counts are those of its rows."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "compatibility.md").read_text()
WRITES = ("lora", "ia3", "bottleneck", "prefix")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    folder = str(ROOT / "scripts")
    sys.path.insert(0, folder)
    try:
        import compatibility
    finally:
        sys.path.remove(folder)
    return compatibility


def table() -> dict[str, dict[str, str]]:
    """Return the rows of the document by model type."""
    lines = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    head, *rows = lines
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


def count(what: str) -> int:
    found = re.search(rf"^- {re.escape(what)}: (\d+)$", PAGE, flags=re.MULTILINE)
    assert found is not None, what
    return int(found[1])


def test_the_counts_of_the_document_are_those_of_its_rows() -> None:
    rows = table().values()
    opened = [row for row in rows if row["linear roles"] != "none"]
    methods = list(next(iter(rows)))[4:]
    assert len(rows) == count("model types tried") >= 60
    assert len(opened) == count("ports open")
    assert sum("writes" in row["kind"] for row in opened) == count("language models, which also write")
    for method in methods:
        assert sum(row[method].startswith("yes") for row in opened) == count(f"{method} works")
    every = sum(all(row[method].startswith("yes") for method in methods) for row in opened)
    assert every == count("every method works")


def test_each_cell_that_is_no_yes_has_a_reason() -> None:
    reasons = PAGE.partition("## What does not work, and why")[2]
    for name, row in table().items():
        if any(not cell.startswith("yes") for cell in list(row.values())[4:]):
            assert f"`{name}`" in reasons, name


@pytest.mark.parametrize(
    ("model_type", "methods"),
    [
        ("flaubert", ("lora", "bottleneck")),  # lists its attentions, whose maps do not say so
        ("moshi", ("lora", "prefix")),  # has its maps inside modules with their names
        ("splinter", ("prefix",)),  # knows eager attention alone, in which no mask hides nothing
        ("switch_transformers", ("prefix",)),  # has masks of one query
        ("phimoe", ("lora",)),  # has a router that is a linear map and gives what it has chosen
        ("llama4_text", ("lora",)),  # holds its body under another name than it declares
        ("smollm3", ("lora", "bottleneck", "prompt")),
    ],
)
def test_a_sample_of_the_table_is_what_is_measured_here(
    script: ModuleType, model_type: str, methods: tuple[str, ...]
) -> None:
    found = script.examine(model_type, methods)
    assert not found.closed
    row = table()[model_type]
    assert {method: script.cell(found, method) for method in methods} == {method: row[method] for method in methods}
    assert all(row[method].startswith("yes") for method in methods)


def test_a_refusal_is_in_the_table_with_its_reason(script: ModuleType) -> None:
    found = script.examine("gptj", ("prefix",))
    assert found.methods == {"prefix": {"refused": "its attention does not go through transformers' interface"}}
    assert script.cell(found, "prefix") == table()["gptj"]["prefix"] == "no"


def test_a_model_type_that_takes_too_long_stops_nothing(script: ModuleType) -> None:
    rows = list(script.examine_apart(["bert", "gpt2"], seconds=0.001))
    assert [row.model_type for row in rows] == ["bert", "gpt2"]
    assert all(row.closed == "not done after 0.001 seconds" for row in rows)


def test_a_model_type_that_reads_no_text_is_refused(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--only", "llama,vit"]) == 2
    assert re.search(r"no text model type of transformers \S+: vit\n", capsys.readouterr().err)
