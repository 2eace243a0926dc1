"""Formats: tables without a header, documents, SQuAD, parallel files, encodings."""

import json
from collections.abc import Hashable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptdock.engine.data.formats import parsed
from adaptdock.engine.data.sources import Reader, Source, load_splits
from adaptdock.errors import DataError, UnknownNameError
from adaptdock.tasks.classification import Classification
from adaptdock.tasks.ner import NER


class Labelled:
    """The part of a task that reading needs: two fields, of which one may be lacking."""

    columns = {"text": ("text", "sentence", "0"), "label": ("label", "category", "1")}
    optional: frozenset[str] = frozenset()
    layout = "lines"
    asks = ("text",)
    files: dict[str, tuple[str, ...]] = {}
    words = None

    @classmethod
    def group(cls, record: dict[str, Any]) -> Hashable:
        return None


class Unlabelled(Labelled):
    columns = {"text": ("text",)}
    layout = "document"


class Grouped(Labelled):
    @classmethod
    def group(cls, record: dict[str, Any]) -> Hashable:
        return record["label"]


def read(path: Path | str, task: Any = Labelled, **source: Any) -> list[dict[str, Any]]:
    return Reader(task, Source(**source)).file(path)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_table_whose_columns_are_numbers_has_no_header_and_quotes_in_tabs_are_text(tmp_path: Path) -> None:
    path = write(tmp_path / "SMS", 'ham\tHe said "hi\nspam\tWin, "now"\n')
    records = read(path, format="tsv", columns={"label": "0", "text": "-1"})
    assert [(record["label"], record["text"]) for record in records] == [("ham", 'He said "hi'), ("spam", 'Win, "now"')]
    assert records[1]["where"] == f"{path}:2"
    with pytest.raises(DataError, match=r"SMS:1: no column '4' for label; columns are 0 to 1"):
        read(path, format="tsv", columns={"label": "4"})
    write(path, "ham\ta\nspam\n")
    with pytest.raises(DataError, match=r"SMS:2: 1 columns, the first line has 2"):
        read(path, format="tsv", columns={"label": "0", "text": "1"})


def test_a_table_with_a_header_is_read_by_its_names(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.tsv", "category\ttext\nx\tone\n"))[0] | {"where": ""} == {
        "where": "",
        "text": "one",
        "label": "x",
    }


def test_squad_of_both_versions_becomes_questions(tmp_path: Path) -> None:
    answered = {"id": "1", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 0}]}
    unanswered = {"id": "2", "question": "Why?", "is_impossible": True, "answers": []}
    article = {"title": "T", "paragraphs": [{"context": "Ada sings.", "qas": [answered, unanswered]}]}

    class Questions(Labelled):
        columns = {name: (name,) for name in ("question", "context", "answers", "title")}

    records = read(write(tmp_path / "a.json", json.dumps({"version": "v2.0", "data": [article]})), Questions)
    assert [record["id"] for record in records] == ["1", "2"]
    assert records[0]["answers"] == {"text": ["Ada"], "answer_start": [0]}
    assert records[1]["answers"] == {"text": [], "answer_start": []}
    assert records[0]["title"] == "T"
    del article["paragraphs"][0]["context"]
    with pytest.raises(DataError, match=r"not SQuAD's layout: KeyError.*context.* in 'T'"):
        read(write(tmp_path / "a.json", json.dumps({"data": [article]})), Questions)


@pytest.mark.parametrize(
    "content",
    ['[{"text": "a", "label": "x"}]', '{"data": [{"text": "a", "label": "x"}]}', '{"text": "a", "label": "x"}'],
)
def test_a_json_document_is_a_list_or_holds_one_or_is_lines(tmp_path: Path, content: str) -> None:
    assert [record["text"] for record in read(write(tmp_path / "a.json", content))] == ["a"]
    lines = '{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n'
    assert [record["text"] for record in read(write(tmp_path / "b.json", lines))] == ["a", "b"]


def test_lines_that_are_not_utf8_are_an_error_or_read_and_counted(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    write(tmp_path / "texts" / "1945.txt", "café\n".encode())
    write(tmp_path / "texts" / "1946.txt", b"plain\ncaf\xe9 \x96 b\n")
    source = {"data": str(tmp_path / "texts")}
    with pytest.raises(DataError, match=r"1946\.txt:2: not valid UTF-8.*--encoding auto"):
        load_splits(Source(**source), Unlabelled)  # type: ignore[type-var]
    splits, notes = load_splits(Source(**source, encoding="auto"), Unlabelled)  # type: ignore[type-var]
    texts = [record["text"] for split in splits.values() for record in split]
    assert sorted(texts) == ["café", "plain\ncafé – b"]
    assert notes[0].startswith("1 lines in 1 files are not UTF-8 and were read as Windows-1252: ")
    assert notes[0].endswith("1946.txt:2")
    with pytest.raises(DataError, match="there is no such encoding"):
        read(tmp_path / "texts" / "1945.txt", Unlabelled, encoding="utf-ate")
    assert read(write(tmp_path / "l.txt", b"caf\xe9"), Unlabelled, encoding="latin-1")[0]["text"] == "café"


def test_parallel_files_are_read_line_by_line_and_must_be_equally_long(tmp_path: Path) -> None:
    left, right = write(tmp_path / "a.en", "one\ntwo\n"), write(tmp_path / "a.sv", "ett\ntvå\n")
    records = read(f"{left},{right}")
    assert [(record["text"], record["label"]) for record in records] == [("one", "ett"), ("two", "två")]
    write(right, "ett\n")
    with pytest.raises(DataError, match=r"a\.en has 2, .*a\.sv has 1"):
        read(f"{left},{right}")
    with pytest.raises(DataError, match=r"3 parallel files .*the task reads 2, for text and label"):
        read(f"{left},{right},{left}")
    with pytest.raises(DataError, match=r"b\.sv: there is no such file"):
        read(f"{left},{tmp_path / 'b.sv'}")


def test_groups_are_not_divided_when_data_is_held_out(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"t{number}", "label": f"group {number % 8}"}) for number in range(40)]
    path = write(tmp_path / "train.jsonl", "\n".join(lines))
    splits, _ = load_splits(Source(train=str(path)), Grouped)  # type: ignore[type-var]
    groups = [{record["label"] for record in splits[split]} for split in ("train", "validation")]
    assert not groups[0] & groups[1]
    assert len(splits["validation"]) == 5


def test_ids_that_occur_twice_are_counted_and_kept(tmp_path: Path) -> None:
    lines = [json.dumps({"id": number % 9, "text": "t", "label": "x"}) for number in range(10)]
    path = write(tmp_path / "train.jsonl", "\n".join(lines))
    splits, notes = load_splits(Source(train=str(path)), Labelled)  # type: ignore[type-var]
    assert notes[0] == f"train: 1 ids occur more than once, such as '0' at {path}:1 and {path}:10"
    assert sum(map(len, splits.values())) == 10


def test_what_a_task_can_do_without_may_be_lacking_unless_it_is_named(tmp_path: Path) -> None:
    class Lenient(Labelled):
        optional = frozenset({"label"})

    path = write(tmp_path / "a.jsonl", '{"text": "a"}\n')
    assert read(path, Lenient) == [{"where": f"{path}:1", "text": "a"}]
    with pytest.raises(DataError, match="no column for label: looked for kind"):
        read(path, Lenient, columns={"label": "kind"})


def test_an_unknown_format_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"format 'xml'.*tsv"):
        read(write(tmp_path / "a.xml", "<a/>"), format="xml")


@pytest.mark.parametrize("comment", ["# id=7", "# id = 7", "#\tid 7\tx", "# one two three", "#id"])
@pytest.mark.parametrize("suffix", ["conll", "pos", "bio", "iob2", "tsv", "txt"])
def test_a_comment_before_a_sentence_is_no_word(tmp_path: Path, suffix: str, comment: str) -> None:
    path = write(tmp_path / f"a.{suffix}", f"{comment}\nAda\u00a0Lovelace\tB-PER\nsings\tO\n\n{comment}\nBo\tB-PER\n")
    words = [record["tokens"] for record in read(path, NER)]
    assert words == [["Ada\u00a0Lovelace", "sings"], ["Bo"]]


TOKENS = st.text("aZé#-.=\u00a0\u00ad\u200b\u2003語👩\u200d👧'\"", min_size=1, max_size=5).filter(
    lambda token: (
        bool(token.strip()) and token != "#" and token[0] not in "\u00a0\u2003" and token[-1] not in "\u00a0\u2003"
    )
)
TAGGED = st.lists(
    st.lists(st.tuples(TOKENS, st.sampled_from(["O", "B-PER", "B-LOC"])), min_size=1, max_size=6), min_size=1
)


def test_a_comment_with_columns_of_its_own_does_not_decide_the_columns_of_words_with_a_hash(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conll", "#\tid 7\tx\ty\n#oslo\tB-LOC\n#win\tO\n")
    (record,) = read(path, NER, columns={"tokens": "-2", "tags": "-1"})
    assert (record["tokens"], record["tags"]) == (["#oslo", "#win"], ["B-LOC", "O"])


@settings(deadline=None)
@given(
    TAGGED, st.sampled_from(["\t", " ", "  "]), st.booleans(), st.sampled_from(["", "# id = 7\n", "#\tid 7\tx\ty\n"])
)
def test_words_and_tags_come_back_from_any_columns(
    sentences: list[list[tuple[str, str]]], gap: str, counted: bool, comment: str
) -> None:
    def line(number: int, token: str, tag: str) -> str:
        return gap.join([*([str(number)] if counted else []), token, tag])

    blocks = [[line(number, *word) for number, word in enumerate(sentence, 1)] for sentence in sentences]
    content = "\n\n".join(comment + "\n".join(block) for block in blocks)
    with TemporaryDirectory() as folder:
        path = write(Path(folder) / "a.conll", content + "\n")
        columns = {"tokens": "-2", "tags": "-1"}
        records = read(path, NER, columns=columns)
    assert [list(zip(record["tokens"], record["tags"], strict=True)) for record in records] == sentences


JSON_KEYS = st.text(st.sampled_from('ab:"\\ {'), max_size=3)
JSON_VALUES = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('a:"\\ {}'), max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(JSON_KEYS, inner, max_size=2),
    max_leaves=4,
)
JSON_OBJECTS = st.dictionaries(JSON_KEYS, JSON_VALUES, min_size=1, max_size=3)


@given(JSON_OBJECTS, st.sampled_from([": ", ":", " : ", "\t:"]))
def test_json_objects_are_read_as_they_are_whatever_their_texts_hold(value: dict[str, Any], colon: str) -> None:
    assert parsed(json.dumps(value, separators=(", ", colon)), "here") == value


@given(JSON_OBJECTS, st.sampled_from([": ", ":", " : ", "\t:"]), st.data())
def test_a_key_that_an_object_has_twice_is_an_error_at_any_depth(
    value: dict[str, Any], colon: str, data: st.DataObject
) -> None:
    key = data.draw(st.sampled_from(list(value)))
    again = json.dumps({key: data.draw(JSON_VALUES)}, separators=(", ", colon))
    twice = json.dumps(value, separators=(", ", colon))[:-1] + ", " + again[1:]
    for text in (twice, f'{{"rows": [{{"n": {twice}}}]}}'):
        with pytest.raises(DataError, match=r"has the key .* twice"):
            parsed(text, "here")


FASTTEXT = (
    "__label__sport The striker scored twice .\n\n__label__food\tThe soup  needs salt .\nA late goal __label__sport\n"
)


def test_lines_of_fasttext_are_found_by_their_labels(tmp_path: Path) -> None:
    for name in ("train.txt", "cooking.train", "train.csv", "train"):
        path = write(tmp_path / name, FASTTEXT)
        reader = Reader(Classification, Source(train=str(path)))
        records = reader.splits()["train"]
        assert [(record["text"], record["label"]) for record in records] == [
            ("The striker scored twice .", ["sport"]),
            ("The soup  needs salt .", ["food"]),
            ("A late goal", ["sport"]),
        ]
        assert any("read as fasttext, as its content is" in note for note in reader.notes())
        assert records[1]["where"] == f"{path}:3"
        values = [item.value["text"] for item in reader.inputs(path, reader.input_layout(path))]
        assert values == [record["text"] for record in records]


def test_several_labels_of_fasttext_are_a_list(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", "__label__a|b __label__c one\n__label__c two\nthree\n")
    task = Classification(Classification.Options(multi_label=True))
    records = task.clean(Reader(Classification, Source(train=str(path))).splits()["train"], "train").records
    assert [record["label"] for record in records] == [["a|b", "c"], ["c"], []]
    single = Classification(Classification.Options())
    with pytest.raises(DataError, match=r"train\.txt:1: the text has 2 labels.*--multi-label"):
        single.clean(Reader(Classification, Source(train=str(path))).splits()["train"], "train")
