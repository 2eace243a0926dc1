"""``adapt label``: proposed texts with drafts, read back by training and compared once they are confirmed."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from builders import build_adapter

from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins.contracts import Backbone

TEXTS = ["ada lives in rome", "bob saw oslo", "we met eva lind in paris", "nothing here at all", "bob saw oslo"]
LABELS = ("bill", "card", "loan")


@pytest.fixture(scope="module")
def classifier(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapter") / "topic.safetensors"
    write_file(path, build_adapter(backbone, "lora", {"rank": 2}, labels=LABELS, name="topic", task="classification"))
    return path


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    return path


@pytest.fixture
def teacher() -> Iterator[tuple[str, list[Any], dict[str, str]]]:
    """A chat endpoint on loopback: its address, the requests it got, and its answers by text."""
    requests: list[Any] = []
    answers: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            requests.append({"path": self.path, "key": self.headers.get("authorization"), **body})
            content = answers.get(body["messages"][1]["content"], "I am not sure.")
            blob = json.dumps({"choices": [{"message": {"content": content}}]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(blob)))
            self.end_headers()
            self.wfile.write(blob)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", requests, answers
    server.shutdown()
    thread.join()
    server.server_close()


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_least_certain_texts_are_proposed_once_with_the_answer_of_the_adapter(
    adapt: Any, classifier: Path, texts: Path
) -> None:
    ran = adapt("label", texts, "--adapter", classifier, "--count", 10)
    assert ran.status == 0, ran.err
    proposed = rows(ran.out)
    assert sorted(row["text"] for row in proposed) == sorted(set(TEXTS))
    assert [row["margin"] for row in proposed] == sorted(row["margin"] for row in proposed)
    for row in proposed:
        (answer,) = rows(adapt("predict", classifier, row["text"], "--json").out)
        first, second, *_ = answer["scores"].values()
        assert row["label"] == row["adapter"] == answer["label"]
        assert row["margin"] == pytest.approx(first - second, abs=2e-4)
        assert row["place"] == f"{texts}:{TEXTS.index(row['text']) + 1}"
        assert row["confirmed"] is False
    assert len(rows(adapt("label", texts, "--adapter", classifier, "--count", 2).out)) == 2


def test_drafts_are_no_training_data_until_a_person_confirms_them(adapt: Any, classifier: Path, texts: Path) -> None:
    assert adapt("label", texts, "--adapter", classifier, "--count", 4, "--output", "drafts.jsonl").status == 0
    path = Path("drafts.jsonl").resolve()
    adapt("data", path, "--task", "classification").failed(2, f"{path}:1", "none of the 4 rows is confirmed")
    drafts = rows(path.read_text())
    drafts[1] |= {"label": "loan", "confirmed": True}
    drafts[2] |= {"confirmed": True}
    path.write_text("\n".join(map(json.dumps, drafts)))
    ran = adapt("data", path, "--task", "classification", "--json")
    document = json.loads(ran.out)
    assert document["splits"] == {"train": 2}
    assert document["first"]["train"][0]["record"] == f"[loan] {drafts[1]['text']}"
    assert any("2 rows are drafts that nobody has confirmed" in note for note in document["notes"])
    assert len(adapt("predict", classifier, "--input", path).out.splitlines()) == 4


@pytest.mark.parametrize(("form", "suffix"), [("doccano", "jsonl"), ("label-studio", "json"), ("prodigy", "jsonl")])
def test_forms_of_tools_hold_the_drafts(adapt: Any, adapter: Path, texts: Path, form: str, suffix: str) -> None:
    output = f"drafts.{suffix}"
    arguments = ("label", texts, "--adapter", adapter, "--count", 4, "--output", output, "--output-format", form)
    assert adapt(*arguments).status == 0
    adapt(*arguments).failed(2, f"{output} exists already", "--overwrite")
    content = Path(output).read_text()
    drafts = json.loads(content) if form == "label-studio" else rows(content)
    assert len(drafts) == 4
    for draft in drafts:
        fields = draft["data"] if form == "label-studio" else draft
        (answer,) = rows(adapt("predict", adapter, fields["text"], "--json").out)
        spans = [[entity["start"], entity["end"], entity["label"]] for entity in answer["entities"]]
        assert fields["adapter"] == spans
        assert "confirmed" not in fields
        assert "answer" not in fields
        if form == "doccano":
            assert draft["label"] == spans
        elif form == "prodigy":
            assert [[span["start"], span["end"], span["label"]] for span in draft["spans"]] == spans
        else:
            values = [result["value"] for result in draft["predictions"][0]["result"]]
            assert [[value["start"], value["end"], *value["labels"]] for value in values] == spans


def test_prodigy_offers_all_labels_for_a_text(adapt: Any, classifier: Path, texts: Path) -> None:
    ran = adapt("label", texts, "--adapter", classifier, "--output-format", "prodigy")
    for row in rows(ran.out):
        assert [option["id"] for option in row["options"]] == list(LABELS)
        assert row["accept"] == [row["adapter"]]


def test_a_teacher_drafts_and_its_score_stands_beside_the_adapters(
    adapt: Any, classifier: Path, texts: Path, teacher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, requests, answers = teacher
    answers |= {TEXTS[0]: "loan\n", TEXTS[1]: "Card", TEXTS[2]: "bill"}  # "Card" is no label
    monkeypatch.setenv("TEACHER_KEY", "secret")
    ran = adapt(
        *("label", texts, "--adapter", classifier, "--count", 4, "--output", "drafts.jsonl"),
        *("--teacher", url, "--teacher-model", "big", "--teacher-key", "TEACHER_KEY"),
    )
    assert ran.status == 0, ran.err
    assert "2 of 4 answers of the teacher are not in the requested form" in ran.err
    assert "secret" not in ran.err + Path("drafts.jsonl").read_text()
    assert {(request["path"], request["key"], request["model"]) for request in requests} == {
        ("/v1/chat/completions", "Bearer secret", "big")
    }
    assert requests[0]["messages"][0]["content"].endswith("\nbill\ncard\nloan")
    drafts = {row["text"]: row for row in rows(Path("drafts.jsonl").read_text())}
    assert {text: row["label"] for text, row in drafts.items()} == {
        TEXTS[0]: "loan",
        TEXTS[1]: None,
        TEXTS[2]: "bill",
        TEXTS[3]: None,
    }
    truth = {TEXTS[0]: "loan", TEXTS[1]: drafts[TEXTS[1]]["adapter"], TEXTS[2]: "card"}
    confirmed = [row | {"label": truth[text], "confirmed": True} for text, row in drafts.items() if text in truth]
    lines = [*confirmed, drafts[TEXTS[3]]]
    Path("drafts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    document = json.loads(adapt("label", "--adapter", classifier, "--confirmed", "drafts.jsonl", "--json").out)
    right = sum(drafts[text]["adapter"] == label for text, label in truth.items())
    assert document == {
        "confirmed": 3,
        "not confirmed": 1,
        "drafts": [
            {"draft": "adapter", "metric": "accuracy", "value": round(100 * right / 3, 2), "texts": 3, "empty": 0},
            {"draft": "teacher", "metric": "accuracy", "value": 33.33, "texts": 3, "empty": 1},
        ],
    }


def test_spans_of_a_teacher_are_those_of_the_text_or_none(adapt: Any, adapter: Path, texts: Path, teacher: Any) -> None:
    url, _, answers = teacher
    answers |= {
        TEXTS[0]: '[["ada", "PER"], ["rome", "LOC"]]',
        TEXTS[1]: '[["Bob", "PER"]]',  # not the characters of the text
        TEXTS[2]: '[["eva lind", "ORG"]]',  # not a label of the adapter
        TEXTS[3]: "[]",
    }
    arguments = ("--teacher", url, "--teacher-model", "big", "--output", "drafts.jsonl")
    assert adapt("label", texts, "--adapter", adapter, *arguments).status == 0
    drafts = rows(Path("drafts.jsonl").read_text())
    assert {row["text"]: row["teacher"] for row in drafts} == {
        TEXTS[0]: [[0, 3, "PER"], [13, 17, "LOC"]],
        TEXTS[1]: None,
        TEXTS[2]: None,
        TEXTS[3]: [],
    }
    confirmed = [row | {"label": row["label"] or [], "confirmed": True} for row in drafts]
    Path("drafts.jsonl").write_text("\n".join(map(json.dumps, confirmed)))
    ran = adapt("label", "--adapter", adapter, "--confirmed", "drafts.jsonl", "--json")
    scores = {row["draft"]: row for row in json.loads(ran.out)["drafts"]}
    assert scores["teacher"] == {"draft": "teacher", "metric": "f1", "value": 100.0, "texts": 4, "empty": 2}
    shown = json.loads(adapt("data", "drafts.jsonl", "--task", "ner", "--json").out)
    assert shown["labels"]["train"]["entities"] == {"LOC": 1, "PER": 1}


def test_an_export_of_a_tool_is_compared_with_its_drafts(adapt: Any, adapter: Path, texts: Path) -> None:
    arguments = ("--output", "drafts.json", "--output-format", "label-studio")
    assert adapt("label", texts, "--adapter", adapter, *arguments).status == 0
    tasks = json.loads(Path("drafts.json").read_text())
    for task in tasks:
        result = [result for result in task["predictions"][0]["result"] if result["value"]["labels"] == ["PER"]]
        task["annotations"] = [{"id": 1, "result": result}]
    Path("drafts.json").write_text(json.dumps(tasks))
    ran = adapt("label", "--adapter", adapter, "--confirmed", "drafts.json", "--json")
    (score,) = json.loads(ran.out)["drafts"]
    drafted = [span for task in tasks for span in task["data"]["adapter"]]
    right = sum(label == "PER" for _, _, label in drafted)
    assert 0 < right < len(drafted)  # else any rule would do
    assert score["value"] == round(200 * right / (len(drafted) + right), 2)


def test_what_cannot_be_proposed_is_refused(adapt: Any, classifier: Path, texts: Path, tmp_path: Path) -> None:
    adapt("label", texts).failed(2, "--adapter is missing")
    adapt("label", "--adapter", classifier).failed(2, "FILE of texts is missing")
    adapt("label", "no.txt", "--adapter", classifier).failed(2, "no.txt")
    adapt("label", texts, "--adapter", classifier, "--teacher-model", "a").failed(2, "--teacher URL")
    adapt("label", texts, "--adapter", classifier, "--teacher", "http://a/v1").failed(2, "--teacher-model is missing")
    closed = ("--teacher", "http://127.0.0.1:1/v1", "--teacher-model", "a", "--output", "drafts.jsonl")
    adapt("label", texts, "--adapter", classifier, *closed).failed(1, "the teacher cannot be reached")
    missing = ("--teacher", "http://a/v1", "--teacher-model", "a", "--teacher-key", "NOT_SET")
    adapt("label", texts, "--adapter", classifier, *missing).failed(2, "NOT_SET, which is not set")
    assert list(tmp_path.glob("drafts*")) == []
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    adapt("label", empty, "--adapter", classifier).failed(2, "there are no texts")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "a"}\n{"no": 1}\n')
    adapt("label", bad, "--adapter", classifier).failed(2, f"{bad}:2")
