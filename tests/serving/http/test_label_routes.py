"""The label file over HTTP: rows with drafts, confirmed one at a time, and nothing else is written."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import Client, serving

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Backbone
from adaptdock.serving.http.access_tokens import Token, Tokens
from adaptdock.serving.label_file import DraftFile

PATH = "/v1/label-file"


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def spans(text: str, *answer: list[Any], **more: Any) -> dict[str, Any]:
    return {"text": text, "label": list(answer), "adapter": list(answer), "kind": "spans", "confirmed": False, **more}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    first = spans("🚀 ada met bob", [2, 5, "PER"], place="a.txt:1", topic="news")
    return write(tmp_path / "drafts.jsonl", first, spans("oslo"))


@pytest.fixture
def client(backbone: Backbone, folder: Path, path: Path) -> Iterator[Client]:
    with serving(backbone, adapters=str(folder), label_file=str(path)) as client:
        yield client


def test_rows_are_confirmed_one_at_a_time_in_the_file(client: Client, path: Path) -> None:
    document = client.get(PATH).json()
    assert document["kind"] == "spans"
    assert document["labels"] == ["BLUE", "GREEN", "PER", "RED"]  # those of the file and of the served adapters
    assert document["rows"][0] == {
        "number": 0,
        "text": "🚀 ada met bob",
        "tokens": None,
        "fields": {"topic": "news"},
        "answer": [[2, 5, "PER"]],
        "drafts": {"adapter": [[2, 5, "PER"]]},
        "confirmed": False,
    }
    answer = [[2, 5, "RED"], [10, 13, "PER"]]
    confirmed = client.post(f"{PATH}/0", json={"text": "🚀 ada met bob", "answer": answer})
    assert confirmed.status_code == 200, confirmed.text
    assert confirmed.json()["answer"] == answer
    assert confirmed.json()["confirmed"] is True
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[0]["label"] == answer
    assert rows[0]["adapter"] == [[2, 5, "PER"]]
    assert [row["confirmed"] for row in rows] == [True, False]
    assert rows[1] == spans("oslo")


@pytest.mark.parametrize(
    ("number", "text", "answer", "words"),
    [
        (1, "oslo", [[0, 9, "PER"]], "not of the kind 'spans'"),
        (1, "oslo", [[0, 4, "LOC"]], "the label 'LOC' is not known"),
        (1, "oslo", [[2, 4, "PER"], [0, 2, "PER"]], "not of the kind"),
        (1, "oslo", [["0", 4, "PER"]], "not of the kind"),
        (1, "oslo", "PER", "not of the kind"),
        (1, "rome", [], "another text now"),
        (7, "oslo", [], "another text now"),
    ],
)
def test_an_answer_of_another_form_changes_nothing(
    client: Client, path: Path, number: int, text: str, answer: Any, words: str
) -> None:
    before = path.read_bytes()
    client.refused(422, words, path=f"{PATH}/{number}", json={"text": text, "answer": answer})
    assert path.read_bytes() == before


def test_a_token_for_some_adapters_and_a_process_without_a_file_have_no_rows(
    backbone: Backbone, folder: Path, path: Path
) -> None:
    def token(name: str, *adapters: str) -> Token:
        return Token(name, frozenset(["predict"]), hashlib.sha256(name.encode()).hexdigest(), adapters=adapters)

    tokens = Tokens([token("all", "*"), token("some", "red")])
    with serving(backbone, tokens, adapters=str(folder), label_file=str(path)) as client:
        assert client.get("/label").status_code == 200
        assert client.get(PATH).status_code == 401
        assert client.get(PATH, headers={"authorization": "Bearer some"}).status_code == 403
        assert client.get(PATH, headers={"authorization": "Bearer all"}).status_code == 200
    with serving(backbone, adapters=str(folder)) as client:
        assert client.get(PATH).status_code == 404


def test_answers_of_every_kind_are_checked(tmp_path: Path) -> None:
    row = {"text": "a b", "confirmed": False}
    words = {"tokens": ["a", "b"], "tags": None}
    files = {
        "label": (write(tmp_path / "1.jsonl", {**row, "kind": "label", "label": None}), "x", ["x"]),
        "labels": (write(tmp_path / "2.jsonl", {**row, "kind": "labels", "label": ["y"]}), ["x", "y"], "x"),
        "tags": (
            write(tmp_path / "3.jsonl", {**row, "kind": "tags", **words}),
            ["x"] * 2,
            ["x"],
        ),
    }
    for kind, (path, right, wrong) in files.items():
        drafts = DraftFile(path)
        with pytest.raises(DataError, match=f"not of the kind '{kind}'"):
            drafts.confirm(0, "a b", wrong, {"x", "y"})
        drafts.confirm(0, "a b", right, {"x", "y"})
        (stored,) = drafts.rows()
        assert stored["tags" if kind == "tags" else "label"] == right
        assert stored["confirmed"] is True


def test_a_file_that_is_not_one_of_drafts_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.jsonl: the file does not exist; adapt label"):
        DraftFile(tmp_path / "no.jsonl")
    with pytest.raises(DataError, match=r"b\.jsonl:2: not a row of adapt label"):
        DraftFile(write(tmp_path / "b.jsonl", spans("a"), {"text": "b", "label": "x"}))
    with pytest.raises(DataError, match=r"c\.jsonl:2: not a row"):
        DraftFile(write(tmp_path / "c.jsonl", spans("a"), {**spans("b"), "kind": "label"}))
