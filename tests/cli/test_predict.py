import json

import pytest

from adaptdock.engine.dock import Dock


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
