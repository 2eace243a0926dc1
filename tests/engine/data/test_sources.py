"""Data: every layout gives the same records; every fault is named with file and line."""

import json
from pathlib import Path

import pytest

from adaptdock.engine.data.sources import Reader, Source, load_splits, parse_columns
from adaptdock.errors import DataError, UnknownNameError
from adaptdock.tasks.ner import NER

TOKENS, TAGS = [["Ada", "sings"], ["#hashtag", "in", "Oslo"]], [["B-PER", "O"], ["O", "O", "B-LOC"]]
CONLL = "Ada\tB-PER\nsings\tO\n\t\n#hashtag\tO\nin\tO\nOslo\tB-LOC\n"


def read(path: Path, **source: object) -> list[dict]:
    return Reader(NER, Source(**source)).file(path)


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def assert_same(records: list[dict]) -> None:
    assert [record["tokens"] for record in records] == TOKENS
    assert [record["tags"] for record in records] == TAGS


def test_conll_with_tabs_spaces_comments_document_marks_and_a_lone_tab_between_sentences(tmp_path: Path) -> None:
    assert_same(read(write(tmp_path / "a.conll", CONLL)))
    assert_same(read(write(tmp_path / "b.annotated", CONLL.replace("\t\n", "\n\n\n").rstrip("\n"))))
    spaced = "-DOCSTART- O\n\n# a comment\n" + CONLL.replace("\t\n", "\n").replace("\t", " ")
    assert_same(read(write(tmp_path / "c.bio", spaced)))
    assert_same(read(write(tmp_path / "d.conll", "\ufeff" + CONLL.replace("\n", "\r\n"))))


def test_columns_come_in_any_order(tmp_path: Path) -> None:
    swapped = "B-PER x Ada\nO x sings\n\nO x #hashtag\nO x in\nB-LOC x Oslo\n"
    assert_same(read(write(tmp_path / "a.conll", swapped), columns={"tokens": "2", "tags": "0"}))
    with pytest.raises(DataError, match=r"a\.conll:1: no column '7' for tags; columns are 0 to 2"):
        read(tmp_path / "a.conll", columns={"tags": "7"})


def test_conllu_takes_words_and_a_key_of_the_last_column(tmp_path: Path) -> None:
    lines = ["# text = Ada sings"]
    for sentence, (tokens, tags) in enumerate(zip(TOKENS, TAGS, strict=True)):
        lines += [""] if sentence else []
        for number, (token, tag) in enumerate(zip(tokens, tags, strict=True), 1):
            lines.append("\t".join([str(number), token, *["_"] * 7, f"SpaceAfter=No|NER={tag}"]))
        lines.append("\t".join(["1.1", "ghost", *["_"] * 8]))
    path = write(tmp_path / "a.conllu", "\n".join(lines) + "\n")
    assert_same(read(path))
    assert read(path, columns={"tags": "xpos"})[0]["tags"] == ["_", "_"]
    with pytest.raises(UnknownNameError, match="CoNLL-U column 'xpoz': did you mean xpos"):
        read(path, columns={"tags": "xpoz"})


def test_json_lines_csv_and_parquet(tmp_path: Path) -> None:
    import datasets

    rows = [{"words": tokens, "ner_tags": tags} for tokens, tags in zip(TOKENS, TAGS, strict=True)]
    assert_same(read(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))))
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "a.parquet"))
    assert_same(read(tmp_path / "a.parquet"))
    lines = ["tokens,tags", *(f"{' '.join(a)},{' '.join(b)}" for a, b in zip(TOKENS, TAGS, strict=True))]
    records = read(write(tmp_path / "a.csv", "\n".join(lines)))
    assert_same(NER(NER.Options()).clean(records, "train").records)


def test_class_numbers_of_a_data_set_become_their_names(tmp_path: Path) -> None:
    import datasets

    names = datasets.ClassLabel(names=["O", "B-PER", "B-LOC"])
    features = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "ner_tags": datasets.List(names)})
    rows = [{"tokens": tokens, "ner_tags": tags} for tokens, tags in zip(TOKENS, TAGS, strict=True)]
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "a.parquet"))
    assert_same(read(tmp_path / "a.parquet"))


def test_a_hub_data_set_gives_its_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [json.dumps({"tokens": tokens, "tags": tags}) for tokens, tags in zip(TOKENS, TAGS, strict=True)]
    folder = tmp_path / "acme" / "ner"
    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        write(folder / f"{split}.jsonl", "\n".join(rows))
    import datasets

    original = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda name, _=None: original(str(tmp_path / name)))
    splits, _ = load_splits(Source(data="acme/ner"), NER)
    assert splits.keys() == {"train", "validation"}
    assert_same(splits["validation"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.conll", "Ada\tB-PER\nsings\n", r"a\.conll:2: 1 columns, where the lines before have 2"),
        ("a.conll", "Ada\nsings\n", r"a\.conll:1: one column only"),
        ("a.jsonl", '{"tokens": [], "tags": []}\n{"tokens"', r"a\.jsonl:2: not JSON"),
        ("a.jsonl", "3\n", r"a\.jsonl:1: a line holds one JSON object or list, this one a int"),
        ("a.jsonl", '{"tokens": ["a"], "x": 1}\n', r"a\.jsonl:1: no column for tags: looked for .*there is tokens, x"),
        ("a.csv", "tokens,tags\na,b\na,b,c\n", r"a\.csv:3: 3 columns, the header has 2"),
        ("a.parquet", "no parquet", r"a\.parquet: not a Parquet file"),
        ("a.conllu", "1\tAda\t_\n", r"a\.conllu:1: CoNLL-U has 10 columns, this line 3"),
    ],
)
def test_a_faulty_file_is_refused_with_its_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / name, content))


def test_bytes_that_are_not_utf8_are_refused_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_bytes(b"Ada\tB-PER\nM\xfcller\tB-PER\n")
    with pytest.raises(DataError, match=r"a\.conll:2: not valid UTF-8"):
        read(tmp_path / "a.conll")


def test_a_missing_file_folder_or_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_splits(Source(train=str(tmp_path / "absent.conll")), NER)
    with pytest.raises(DataError, match=r"no file is named train\.\*"):
        load_splits(Source(data=str(tmp_path)), NER)
    write(tmp_path / "train.conll", CONLL)
    write(tmp_path / "dev.conll", "\n\n")
    with pytest.raises(DataError, match="the validation split is empty"):
        load_splits(Source(data=str(tmp_path)), NER)
    write(tmp_path / "train2.conll", CONLL)
    with pytest.raises(DataError, match=r"several files could be train: train\.conll, train2\.conll"):
        load_splits(Source(data=str(tmp_path)), NER)


def test_validation_data_is_held_out_where_none_is_given_and_the_note_says_so(tmp_path: Path) -> None:
    write(tmp_path / "train.conll", "\n".join(f"w{number}\tO\n" for number in range(50)))
    splits, notes = load_splits(Source(data=str(tmp_path)), NER, seed=3)
    words = [record["tokens"][0] for split in ("train", "validation") for record in splits[split]]
    assert sorted(words) == sorted(f"w{number}" for number in range(50))
    assert len(splits["validation"]) == 5
    assert notes == ["no validation data given: 5 of 50 training records held out for it (seed 3)"]
    assert load_splits(Source(data=str(tmp_path)), NER, seed=3)[0] == splits


def test_columns_are_given_as_field_and_name() -> None:
    assert parse_columns(["tokens=0", "tags=misc:NER"]) == {"tokens": "0", "tags": "misc:NER"}
    with pytest.raises(DataError, match="write FIELD=COLUMN"):
        parse_columns(["tokens"])


def test_document_marks_comments_and_line_breaks_in_cells_are_read_as_such(tmp_path: Path) -> None:
    first = "-DOCSTART-\n\n# sent_id = 5\nAda x y B-PER\nsings x y O\n"
    marked = first + "\n# sent_id = 6\n#hashtag x y O\nin x y O\nOslo x y B-LOC\n"
    assert_same(read(write(tmp_path / "a.conll", marked)))
    records = read(write(tmp_path / "a.csv", 'tokens,tags\n"Ada\nsings",B-PER O\n'))
    assert NER(NER.Options()).clean(records, "train").records[0]["tokens"] == ["Ada", "sings"]
