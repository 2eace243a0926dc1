"""``adapt predict --output FOLDER/``: every row of many files is answered once by the adapter that it names."""

import json
import os
from pathlib import Path

import pyarrow
import pytest
from builders import build_adapter
from pyarrow import parquet

from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.row_adapters import RowAdapters
from adaptdock.hub.artefact.file import write_file

TEXTS = ["ada in rome", "bob sings", "eve", "the rain in rome", "joe runs", "ada and bob", "rome"]
NAMES = ["topics", "people"]


@pytest.fixture
def lake(backbone, tmp_path):
    """Two Parquet files of 28 rows whose adapters alternate, and the folder of these adapters."""
    (tmp_path / "adapters").mkdir()
    (tmp_path / "texts").mkdir()
    for name, task, labels in (("topics", "classification", ("a", "b")), ("people", "ner", ("LOC", "PER"))):
        write_file(
            tmp_path / "adapters" / f"{name}.safetensors", build_adapter(backbone, "lora", task=task, labels=labels)
        )
    for file in range(2):
        rows = {
            "id": [28 * file + number for number in range(28)],
            "text": TEXTS * 4,
            "model": [NAMES[number % 2] for number in range(28)],
        }
        parquet.write_table(pyarrow.table(rows), tmp_path / "texts" / f"{file}.parquet")
    return tmp_path


@pytest.fixture
def label(adapt, lake):
    def run(*arguments, source="texts/*.parquet"):
        return adapt(
            "predict", "--input", source, "--output", "out/", "--adapter-column", "model", "--adapters", "adapters",
            "--part-rows", 10, "--batch-size", 1, *arguments,
        )  # fmt: skip

    return run


def parts(folder: Path) -> dict[str, list[dict]]:
    """The rows of each part, rejected ones aside."""
    return {path.name: parquet.read_table(path).to_pylist() for path in sorted(folder.glob("out/*.parquet"))}


def rows(folder: Path) -> list[dict]:
    return [row for part in parts(folder).values() for row in part]


def rejected(folder: Path) -> list[dict]:
    return [row for path in sorted(folder.glob("out/_rejected/*")) for row in parquet.read_table(path).to_pylist()]


def test_each_row_is_answered_by_its_adapter_beside_its_columns(label, lake, model_folder):
    ran = label()
    assert ran.status == 0, ran.err
    assert "56 of 56 rows" in ran.err
    assert list(parts(lake))[:3] == [f"0.parquet.{s:010}-{e:010}.parquet" for s, e in ((0, 10), (10, 20), (20, 28))]
    dock = Dock.open(str(model_folder))
    for name in NAMES:
        dock.load(lake / "adapters" / f"{name}.safetensors", name)
    answers = rows(lake)
    assert [row["id"] for row in answers] == list(range(56))
    expected = dock.predict([row["model"] for row in answers], [row["text"] for row in answers], batch_size=1)
    for row, prediction in zip(answers, expected, strict=True):
        assert json.loads(row["answer"]) == prediction
        assert (row["label"], row["score"]) == (prediction.get("label"), prediction.get("score"))
    assert not list(lake.glob("out/**/.*"))
    assert not (lake / "out" / "_rejected").exists()


def test_one_adapter_labels_jsonl_csv_and_text_by_a_named_column(adapt, lake):
    (lake / "texts" / "a.jsonl").write_text('{"body": "ada", "id": 1}\n\n{"body": "bob", "id": 2}\n')
    (lake / "texts" / "b.csv").write_text("id;body\n3;eve\n")
    for source in ("texts/a.jsonl", "texts/b.csv"):
        ran = adapt(
            "predict", "adapters/topics.safetensors", "--input", source, "--output", "out/", "--text-column", "body"
        )
        assert ran.status == 0, ran.err
    (lake / "more.txt").write_text("ada\nbob\n")
    assert adapt("predict", "adapters/topics.safetensors", "--input", "more.txt", "--output", "out/").status == 0
    answers = rows(lake)
    assert [json.loads(row["answer"])["text"] for row in answers] == ["ada", "bob", "eve", "ada", "bob"]
    assert [row.get("id") for row in answers] == [1, 2, "3", None, None]
    assert {row["label"] for row in answers} <= {"a", "b"}


def test_rows_that_cannot_be_answered_are_in_a_file_with_their_reason_and_counted(label, lake):
    lines = [
        {"text": "ada", "model": "topics"},
        {"text": None, "model": "topics"},
        {"text": 7, "model": "topics"},
        {"text": "ada", "model": "topic"},
        {"text": "ada", "model": None},
        {"text": "ada", "model": "../adapters/topics"},
        {"text": "bob", "model": "people.safetensors"},
    ]
    (lake / "texts" / "in.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines) + "{broken\n")
    ran = label(source="texts/in.jsonl")
    ran.failed(2, "6 rows were rejected", "out/_rejected", "row 1 of texts/in.jsonl")
    assert [row["text"] for row in rows(lake)] == ["ada", "bob"]
    reasons = rejected(lake)
    assert [(row["row"], row["line"]) for row in reasons] == [(n, n + 1) for n in (1, 2, 3, 4, 5, 7)]
    assert {row["file"] for row in reasons} == {"texts/in.jsonl"}
    assert "did you mean topics" in reasons[2]["reason"]
    assert "'model' names no adapter" in reasons[3]["reason"]
    assert "not JSON" in reasons[5]["reason"]
    label(source="texts/in.jsonl").failed(2, "6 rows were rejected")


def test_an_adapter_that_cannot_be_used_rejects_its_rows_and_no_other(label, lake):
    path = lake / "adapters" / "people.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    label().failed(2, "28 rows were rejected", "people.safetensors")
    assert [row["model"] for row in rows(lake)] == ["topics"] * 28
    assert all("does not match its checksum" in row["reason"] for row in rejected(lake))


def test_a_run_that_was_killed_continues_and_every_row_is_there_once(label, lake, monkeypatch):
    predict, calls = RowAdapters.predict, []

    def interrupted(self, *arguments):
        calls.append(arguments)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return predict(self, *arguments)

    monkeypatch.setattr(RowAdapters, "predict", interrupted)
    assert label().status == 130
    done = {path: path.stat().st_mtime_ns for path in lake.glob("out/*.parquet")}
    assert len(done) == 2
    left = lake / "out" / ".0.parquet.0000000020-0000000028.parquet.abc.partial"  # as SIGKILL leaves it
    left.write_bytes(b"half")
    monkeypatch.setattr(RowAdapters, "predict", predict)
    ran = label()
    assert ran.status == 0, ran.err
    assert "2 parts were complete before" in ran.err
    assert sorted(row["id"] for row in rows(lake)) == list(range(56))
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert not left.exists()


def test_a_changed_input_adapter_or_option_is_refused_and_overwrite_writes_its_parts_again(label, lake, backbone):
    assert label().status == 0
    before = {path: path.stat().st_mtime_ns for path in lake.glob("out/*.parquet")}
    label("--part-rows", 20).failed(2, "--part-rows was 10, and is 20 now", "--overwrite")
    table = parquet.read_table(lake / "texts" / "1.parquet")
    parquet.write_table(table.slice(0, 15), lake / "texts" / "1.parquet")
    label().failed(2, "out/1.parquet.", "the input has been changed since", "--overwrite")
    assert label("--overwrite").status == 0
    assert sorted(row["id"] for row in rows(lake)) == list(range(43))
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if path.name.startswith("0."))
    write_file(lake / "adapters" / "people.safetensors", build_adapter(backbone, "lora", seed=5))
    label().failed(2, "the adapter 'people' had the sha256", "--overwrite")
    assert label("--overwrite", "--part-rows", 20).status == 0
    assert sorted(row["id"] for row in rows(lake)) == list(range(43))


def test_shards_divide_the_rows(label, lake):
    (lake / "texts" / "2.jsonl").write_text(
        "".join(f'{{"id": {56 + n}, "text": "ada", "model": "topics"}}\n' for n in range(25))
    )
    seen: list[int] = []
    for shard in (3, 1, 2):
        ran = label("--shard", f"{shard}/3", source="texts")
        assert ran.status == 0, ran.err
        new = [row["id"] for row in rows(lake) if row["id"] not in seen]
        assert new
        seen += new
    assert sorted(row["id"] for row in rows(lake)) == list(range(81))


def test_a_parquet_file_that_ends_early_is_named_and_all_other_rows_are_answered(label, lake):
    path = lake / "texts" / "0.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    label().failed(2, "texts/0.parquet: not a Parquet file that can be read", "lacks its footer")
    assert sorted(row["id"] for row in rows(lake)) == list(range(28, 56))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--shard", "4/3"), ("--shard 4/3", "such as 3/16")),
        (("--text-column", "body"), ("no column 'body'", "id, text, model")),
        (("--columns", "words=text"), ("unknown field in --columns 'words'",)),
        (("--json",), ("--json", "--output a file")),
        (("--adapter", "topics"), ("--adapter cannot be combined",)),
        (("--output-format", "csv"), ("Parquet files",)),
        (("--input", "nothing/*.parquet"), ("nothing/*.parquet: no file has this name",)),
        (("--input", "."), ("is in the output folder",)),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_written(label, lake, arguments, words):
    if arguments == ("--input", "."):
        (lake / "out").mkdir()
        (lake / "out" / "old.csv").write_text("text\n")
    label(*arguments).failed(2, *words)
    assert not list(lake.glob("out/*.parquet"))


def test_a_column_of_the_name_of_an_answer_is_refused_and_a_prefix_helps(adapt, lake):
    (lake / "in.csv").write_text("text,label\nada,x\n")
    arguments = ("predict", "adapters/topics.safetensors", "--input", "in.csv", "--output", f"out{os.sep}")
    adapt(*arguments).failed(2, "a column 'label'", "--answer-prefix predicted_")
    assert adapt(*arguments, "--answer-prefix", "predicted_").status == 0
    assert list(rows(lake)[0]) == ["text", "label", "predicted_answer", "predicted_label", "predicted_score"]


def test_adapters_for_several_backbones_need_a_choice(label, lake, backbone):
    adapter = build_adapter(backbone, "lora")
    card = adapter.card.model_copy(
        update={"backbone": adapter.card.backbone.model_copy(update={"fingerprint": "f" * 64, "id": "elsewhere"})}
    )
    write_file(lake / "adapters" / "far.safetensors", type(adapter)(card, adapter.tensors))
    label().failed(2, "2 backbones", "elsewhere (far)", "--backbone")


def test_options_of_a_folder_are_refused_for_a_file(adapt, lake):
    adapt("predict", "adapters/topics.safetensors", "ada", "--shard", "1/2").failed(
        2, "--shard", "end its name with a slash"
    )
