import json

import pytest

from adaptdock.engine.inference.dock import Dock


def predicted(ran):
    assert ran.status == 0, ran.err
    return [json.loads(line) for line in ran.out.splitlines()]


def test_texts_given_as_arguments_are_answered_in_order_and_standard_input_is_left_alone(adapt, adapter):
    ran = adapt("predict", adapter, "ada in rome", "bob", "--json", stdin=b"\xff\xfe not read")
    assert [answer["text"] for answer in predicted(ran)] == ["ada in rome", "bob"]
    assert ran.err == ""


def test_the_command_line_predicts_what_the_library_predicts(adapt, adapter, model_folder):
    dock = Dock.open(str(model_folder))
    expected = dock.predict(dock.load(adapter), ["ada lives in rome"])
    assert predicted(adapt("predict", adapter, "--json", "ada lives in rome")) == expected


def test_plain_output_is_one_line_for_each_text(adapt, adapter):
    ran = adapt("predict", adapter, "ada in rome", "bob")
    assert len(ran.out.splitlines()) == 2


def test_standard_input_holds_texts_and_json_objects_a_line(adapt, adapter):
    stdin = 'ada in rome\r\n\n{"text": "bob saw Zoë"}\n{"tokens": ["eva", "lind"]}\nno newline'.encode()
    answers = predicted(adapt("predict", adapter, "--json", stdin=stdin))
    assert [answer["text"] for answer in answers] == ["ada in rome", "", "bob saw Zoë", "eva lind", "no newline"]


def test_the_format_can_be_fixed(adapt, adapter):
    assert predicted(adapt("predict", adapter, "--json", "--format", "text", stdin=b"{x}\n"))[0]["text"] == "{x}"
    adapt("predict", adapter, stdin=b"fine\n{x}\n").failed(2, "standard input:2", "not JSON", "--format text")
    adapt("predict", adapter, "--format", "jsonl", stdin=b"words\n").failed(2, "standard input:1", "not JSON")


def test_a_file_of_inputs_is_read(adapt, adapter, tmp_path):
    (tmp_path / "in.txt").write_text("ada\nbob\n")
    assert len(predicted(adapt("predict", adapter, "--json", "--input", "in.txt"))) == 2
    adapt("predict", adapter, "--input", "no.txt").failed(2, "no.txt", "No such file")
    adapt("predict", adapter, "--input", "in.txt", "a text").failed(2, "--input in.txt")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.csv", 'text,label\n"ada\nlives in rome",x\nbob,y\n'),
        ("in.csv", 'label;Text\nx;"ada\nlives in rome"\ny;bob\n'),
        ("in.jsonl", '{"text": "ada\\nlives in rome", "label": "x"}\n\n{"tokens": ["bob"], "tags": ["O"]}\n'),
        ("in.json", '[{"text": "ada\\nlives in rome"}, {"text": "bob"}]'),
    ],
)
def test_a_file_with_columns_is_read_by_its_suffix(adapt, adapter, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    answers = predicted(adapt("predict", adapter, "--json", "--input", name))
    assert [answer["text"] for answer in answers] == ["ada\nlives in rome", "bob"]


def test_sentences_with_tags_are_read_as_adapt_eval_reads_them(adapt, adapter, tmp_path):
    import datasets

    for name, content in (
        ("in.conll", "ada B-PER\nruns O\n\nbob B-PER\n"),
        ("in.tsv", "ada\tB-PER\nruns\tO\n\nbob\tB-PER\n"),
        ("in.iob2", "# sent_id = 1\n1\tada\tO\t-\ts\n2\truns\tO\t-\ts\n\n1\tbob\tO\t-\ts\n"),
    ):
        (tmp_path / name).write_text(content)
    datasets.Dataset.from_list([{"tokens": ["ada", "runs"]}, {"tokens": ["bob"]}]).to_parquet("in.parquet")
    for name in ("in.conll", "in.tsv", "in.iob2", "in.parquet"):
        answers = predicted(adapt("predict", adapter, "--json", "--input", name))
        assert [answer["tokens"] for answer in answers] == [["ada", "runs"], ["bob"]]
    ran = adapt("predict", adapter, "--input", "in.iob2")
    assert "tokens from column 1" in ran.err


def test_a_column_that_is_not_known_is_named_and_the_advice_works(adapt, adapter, tmp_path):
    (tmp_path / "in.csv").write_text("words of it,label\nada,x\n")
    ran = adapt("predict", adapter, "--input", "in.csv")
    ran.failed(2, "in.csv:2", "The columns are words of it, label", "--columns text=COLUMN")
    read = adapt("predict", adapter, "--json", "--input", "in.csv", "--columns", "text=words of it")
    assert [answer["text"] for answer in predicted(read)] == ["ada"]
    absent = adapt("predict", adapter, "--input", "in.csv", "--columns", "text=body")
    absent.failed(2, "in.csv:2", "no column for text: looked for body, there is words of it, label")
    (tmp_path / "in.csv").write_text("x,ada\ny,bob\n")
    read = adapt("predict", adapter, "--json", "--input", "in.csv", "--columns", "text=1")
    assert [answer["text"] for answer in predicted(read)] == ["ada", "bob"]


def test_lines_that_begin_like_a_table_are_read_as_lines_and_a_note_says_so(adapt, adapter, tmp_path):
    (tmp_path / "in.txt").write_text("text,label\nada,x\n")
    ran = adapt("predict", adapter, "--json", "--input", "in.txt")
    assert [answer["text"] for answer in predicted(ran)] == ["text,label", "ada,x"]
    assert "begins like a table with the columns text, label" in ran.err
    assert len(predicted(adapt("predict", adapter, "--json", "--input", "in.txt", "--format", "csv"))) == 1


def test_a_file_of_another_encoding_is_read(adapt, adapter, tmp_path):
    (tmp_path / "in.txt").write_bytes("ada\nzoë\n".encode("utf-16"))
    (tmp_path / "latin.txt").write_bytes("ada\nzoë\n".encode("latin-1"))
    for given in (("in.txt",), ("latin.txt", "--encoding", "latin-1")):
        answers = predicted(adapt("predict", adapter, "--json", "--input", *given))
        assert [answer["text"] for answer in answers] == ["ada", "zoë"]
    adapt("predict", adapter, "--encoding", "latin-1", "ada").failed(2, "--encoding", "--input FILE")
    adapt("predict", adapter, "--format", "csv", stdin=b"ada\n").failed(2, "--format csv", "--input FILE")


def test_no_input_gives_no_output(adapt, adapter):
    ran = adapt("predict", adapter)
    assert (ran.status, ran.out, ran.err) == (0, "", "")


def test_long_input_is_read_and_answered_in_chunks(adapt, adapter, monkeypatch):
    from adaptdock.cli import predict

    shown, show = [], predict._show
    monkeypatch.setattr(predict, "BATCHES_AT_ONCE", 2)
    monkeypatch.setattr(predict, "_show", lambda found, *rest: (shown.append(len(found)), show(found, *rest)))
    answers = predicted(adapt("predict", adapter, "--json", "--batch-size", 4, stdin=b"word\n" * 20))
    assert shown == [8, 8, 4]
    assert len(answers) == 20


def test_a_text_of_a_hundred_thousand_words_is_read_in_windows(adapt, adapter):
    answer = predicted(adapt("predict", adapter, "--json", stdin=b"a b " * 50_000 + b"\n"))[0]
    assert len(answer["text"].split()) == 100_000


def test_bytes_that_are_not_utf8_are_refused_with_their_line(adapt, adapter, tmp_path):
    adapt("predict", adapter, stdin=b"fine\n\xff\xfe\n").failed(2, "standard input:2", "not valid UTF-8")
    (tmp_path / "in.txt").write_bytes(b"caf\xe9\n")
    adapt("predict", adapter, "--input", "in.txt").failed(2, "in.txt:1", "not valid UTF-8")
    adapt("predict", adapter, "caf\udce9").failed(2, "text 1", "not valid Unicode")
    adapt("predict", adapter, stdin=b'{"text": "\\ud800"}\n').failed(2, "standard input:1", "not valid Unicode")


@pytest.mark.parametrize("line", [b'{"txt": 1}', b'{"text": 3}', b"[1, 2]", b'{"tokens": ["a"], "tags": []}'])
def test_an_object_that_the_task_cannot_read_is_named_by_its_line(adapt, adapter, line):
    stdin = b'{"text": "fine"}\n' + line + b"\n"
    ran = adapt("predict", adapter, "--format", "jsonl", stdin=stdin)
    if ran.status:
        ran.failed(2, "standard input:2")
    else:
        assert line.startswith(b'{"tokens"')


def test_load_options_are_validated_before_any_work(adapt, adapter):
    adapt("predict", adapter, "--dtype", "float15", "x").failed(2, "dtype", "float16")
    adapt("predict", adapter, "--device", "nonsense", "x").failed(1, "nonsense")


def test_an_argument_that_is_a_json_object_is_read_as_one(adapt, adapter):
    text, words = (
        adapt("predict", adapter, "Ada ran", "--json"),
        adapt("predict", adapter, '{"tokens": ["Ada", "ran"]}', "--json"),
    )
    assert json.loads(words.out)["text"] == json.loads(text.out)["text"] == "Ada ran"
    for argument in ("{Ada} ran", '{"tokens": ['):
        assert json.loads(adapt("predict", adapter, argument, "--json").out)["text"] == argument
    as_text = adapt("predict", adapter, '{"text": "Ada"}', "--format", "text", "--json")
    assert json.loads(as_text.out)["text"] == '{"text": "Ada"}'
