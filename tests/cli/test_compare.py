"""``adapt compare``: two adapters on the same records."""

import json
from pathlib import Path
from typing import Any

import pytest
from builders import build_adapter

from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins.contracts import Backbone


@pytest.fixture
def other(backbone: Backbone, tmp_path: Path) -> Path:
    path = tmp_path / "other.safetensors"
    write_file(path, build_adapter(backbone, "bottleneck", labels=("LOC", "PER"), name="other", seed=5))
    return path


def measured(adapt: Any, adapter: Path, data: Path) -> dict[str, Any]:
    return json.loads(adapt("eval", adapter, "--data", data, "--split", "train", "--json").out)["metrics"]


def test_both_metrics_are_those_of_eval_and_the_difference_is_theirs(
    adapt: Any, adapter: Path, other: Path, data: Path
) -> None:
    ran = adapt("compare", adapter, other, "--data", data, "--split", "train", "--json")
    assert ran.status == 0, ran.err
    found = json.loads(ran.out)
    expected = [measured(adapt, path, data) for path in (adapter, other)]
    assert [found[side]["metrics"] for side in "ab"] == expected
    assert found["difference"] == pytest.approx(expected[1]["f1"] - expected[0]["f1"], abs=0.02)
    assert found["interval"][0] <= found["difference"] <= found["interval"][1]
    assert 0 < found["p_value"] <= 1
    assert found["records"] == 16


def test_an_adapter_does_not_differ_from_itself(adapt: Any, adapter: Path, data: Path) -> None:
    ran = adapt("compare", adapter, adapter, "--data", data)
    assert ran.status == 0, ran.err
    assert "B minus A: +0.00 (95 %: 0.00 to 0.00); p = 1.0000" in ran.out
    assert "does not show which of the two is better" in ran.out
    assert "Only A is right on 0 records, only B on 0" in ran.out


@pytest.fixture
def topics(backbone: Backbone, tmp_path: Path) -> tuple[Path, Path, Path]:
    """Two classifiers, and data that the second answers rightly and the first does not."""
    paths = (tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    rows = ["text,label"]
    for number, path in enumerate(paths):
        adapter = build_adapter(backbone, "lora", labels=("sport", "food"), task="topic", name=path.stem)
        bias = adapter.tensors["head.bias"].new_tensor([9.0, 0.0] if number else [0.0, 9.0])
        write_file(path, type(adapter)(adapter.card, {**adapter.tensors, "head.bias": bias}))
    rows += [f"the {word} match,{'sport' if number < 11 else 'food'}" for number, word in enumerate("abcdefghijkl")]
    data = tmp_path / "test.csv"
    data.write_text("\n".join(rows))
    return (*paths, data)


def test_the_records_that_only_one_has_right_are_shown(adapt: Any, topics: tuple[Path, Path, Path]) -> None:
    first, second, data = topics
    ran = adapt("compare", first, second, "--data", data, "--examples", 1)
    assert ran.status == 0, ran.err
    assert "McNemar's exact test" in ran.out
    assert "B is significantly better" in ran.out
    assert "Only A is right on 1 records, only B on 11, both on 0, neither on 0." in ran.out
    assert ran.out.count("text: the") == 2
    shown = ran.out[ran.out.index("Only A is right:") :]
    assert "text: the l match" in shown
    assert "A: food" in shown
    assert "B: sport" in shown
    document = json.loads(adapt("compare", first, second, "--data", data, "--json").out)
    assert [len(document["only_right"][side]) for side in "ab"] == [1, 11]
    assert document["better"] == "b"
    assert document["p_value"] == pytest.approx(2 * 13 / 2**12)
    assert document["only_right"]["a"][0]["place"] == f"{data}:13"


def test_adapters_of_two_tasks_are_refused(adapt: Any, adapter: Path, topics: tuple[Path, Path, Path]) -> None:
    adapt("compare", adapter, topics[0], "--data", topics[2]).failed(2, "A is for ner and B for topic")


def test_labels_that_neither_adapter_knows_are_named_and_count_as_missed_by_both(
    adapt: Any, topics: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    partly_known = tmp_path / "partly-known.csv"
    partly_known.write_text("text,label\na,art\nb,food\nc,art\n")
    ran = adapt("compare", topics[0], topics[1], "--data", partly_known, "--json")
    assert ran.status == 0, ran.err
    assert ran.err.count("labels that the adapter does not know count as missed: 'art' (2)") == 1
    document = json.loads(ran.out)
    places = {record["place"] for side in "ab" for record in document["only_right"][side]}
    assert places <= {f"{partly_known}:3"}
    assert all(document[side]["metrics"]["accuracy"] in (0.0, 33.33) for side in "ab")
