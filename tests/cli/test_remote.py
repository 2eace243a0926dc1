"""``adapt predict --url`` and ``adapt push``, in front of a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from live import certain, live

from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins.contracts import Backbone
from adaptdock.serving.http.access_tokens import new_token


@pytest.fixture(scope="module")
def people(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapters") / "people.safetensors"
    write_file(path, certain(backbone, "ner", ("PER",)))
    return path


@pytest.fixture(scope="module")
def process(model_folder, people, tmp_path_factory):
    """A process that serves one adapter to this machine, without tokens."""
    log = tmp_path_factory.mktemp("log") / "serve.log"
    with live("--backbone", model_folder, "--adapters", people.parent, log=log) as url:
        yield url


def test_texts_that_go_to_a_process_are_answered_as_by_the_file(adapt, process, people):
    stdin = 'ada in rome\n\n{"text": "bob saw Zoë"}\n'.encode()
    here = adapt("predict", people, "--json", stdin=stdin)
    there = adapt("predict", "--url", process, "--json", stdin=stdin)
    assert (there.status, there.err) == (0, "")
    answers = [[json.loads(line) for line in ran.out.splitlines()] for ran in (here, there)]
    assert answers[0] == answers[1]
    assert adapt("predict", "--url", process, "ada", "bob").out == "[ada|PER]\n[bob|PER]\n"


def test_a_file_with_columns_goes_to_a_process_as_its_task_reads_it(adapt, process, tmp_path):
    (tmp_path / "in.csv").write_text("label,Text\nx,ada\ny,bob\n")
    ran = adapt("predict", "--url", process, "--input", "in.csv")
    assert ran.out == "[ada|PER]\n[bob|PER]\n"
    assert "text is read from the column 'Text'" in ran.err
    (tmp_path / "in.csv").write_text("notes\nada bob\n")
    adapt("predict", "--url", process, "--input", "in.csv").failed(2, "in.csv:2", "--columns text=COLUMN")


def test_more_texts_than_a_request_may_have_go_in_several(adapt, process):
    ran = adapt("predict", "--url", process, "--batch-size", 200, stdin=b"ada\n" * 450)
    assert ran.out == "[ada|PER]\n" * 450
    adapt("predict", "--url", process, "--batch-size", 500, stdin=b"ada\n" * 450).failed(2, "450 inputs", "256")


def test_an_input_that_cannot_be_read_is_named_by_its_place(adapt, process):
    stdin = b'fine\n{"txt": 1}\n'
    adapt("predict", "--url", process, stdin=stdin).failed(2, "standard input:2", "found dict")
    adapt("predict", "--url", process, "--batch-size", 1, stdin=stdin).failed(2, "standard input:2", "found dict")


def test_a_file_that_is_sent_is_served_and_the_next_is_a_version(adapt, process, backbone, tmp_path):
    write_file(tmp_path / "colours.safetensors", certain(backbone, "ner", ("RED",)))
    write_file(tmp_path / "other.safetensors", certain(backbone, "ner", ("BLUE",)))
    assert adapt("push", "colours.safetensors", "--to", process).out == "colours: version 1 answers\n"
    assert adapt("predict", "--url", process, "--adapter", "colours", "ada").out == "[ada|RED]\n"
    kept = adapt("push", "other.safetensors", "--to", process, "--name", "colours", "--no-activate")
    assert kept.out == "colours: version 2 is kept, version 1 answers\n"
    assert adapt("predict", "--url", process, "--adapter", "colours@2", "ada").out == "[ada|BLUE]\n"
    sent = adapt("push", "other.safetensors", "--to", process, "--name", "colours", "--json")
    assert json.loads(sent.out) == {"adapter": "colours", "version": 2, "answers": 2}
    adapt("predict", "--url", process, "ada").failed(2, "--adapter NAME is needed", "colours, people")


def test_other_labels_and_another_task_are_named_before_a_file_is_sent(adapt, process, backbone, tmp_path):
    for name, task, labels in (("a", "ner", ("RED", "BLUE")), ("b", "ner", ("RED", "GREEN")), ("c", "pos", ("X",))):
        write_file(tmp_path / f"{name}.safetensors", certain(backbone, task, labels))
    assert adapt("push", "a.safetensors", "--to", process, "--name", "hues").err == ""
    ran = adapt("push", "b.safetensors", "--to", process, "--name", "hues")
    assert ran.err.splitlines() == [
        "Warning: hues: labels that answers no longer have: BLUE.",
        "Warning: hues: new labels: GREEN.",
    ]
    assert ran.out == "hues: version 2 answers\n"
    ran = adapt("push", "c.safetensors", "--to", process, "--name", "hues", "--replacing", 2)
    assert (ran.out, ran.err) == ("hues: version 3 answers\n", "Warning: hues: the task is pos, and was ner.\n")
    assert adapt("push", "a.safetensors", "--to", process, "--name", "hues", "--no-activate").err == ""


def test_a_version_that_someone_else_has_replaced_is_not_replaced_again(adapt, process, backbone, tmp_path):
    for name in ("ONE", "TWO", "THREE"):
        write_file(tmp_path / f"{name}.safetensors", certain(backbone, "ner", (name,)))
    push = ("--to", process, "--name", "turns", "--yes")
    adapt("push", "ONE.safetensors", *push, "--replacing", 1).failed(
        2, "'turns' is not served", "leave --replacing out"
    )
    adapt("push", "ONE.safetensors", *push)
    adapt("push", "TWO.safetensors", *push, "--replacing", 1)
    adapt("push", "THREE.safetensors", *push, "--replacing", 1).failed(
        2, "version 2 of 'turns' answers", "--replacing 2"
    )
    assert adapt("push", "THREE.safetensors", *push, "--replacing", 2).out == "turns: version 3 answers\n"


def test_what_is_no_adapter_and_what_the_process_refuses_are_told(adapt, process, backbone, tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"nothing of the kind")
    adapt("push", "bad.safetensors", "--to", process).failed(1, "bad.safetensors", "not an adapter file")
    adapt("push", "none.safetensors", "--to", process).failed(1, "none.safetensors", "there is no such file")
    made = certain(backbone, "ner", ("X",))
    other = made.card.backbone.model_copy(update={"fingerprint": "blocks1:another"})
    write_file(
        tmp_path / "other.safetensors", type(made)(made.card.model_copy(update={"backbone": other}), made.tensors)
    )
    adapt("push", "other.safetensors", "--to", process).failed(2, "backbone")
    write_file(tmp_path / "fine.safetensors", made)
    adapt("push", "fine.safetensors", "--to", process, "--name", "a name").failed(2, "'a name' cannot be used")
    adapt("predict", "--url", process, "--adapter", "peeple", "x").failed(2, "did you mean people?")


def test_flags_that_do_not_go_together_are_refused(adapt, process, people):
    adapt("predict", "--url", process, "--device", "cpu", "x").failed(2, "--device", process)
    adapt("predict", "--url", process, "--backbone", "minilm", "x").failed(2, "--backbone")
    adapt("predict", people, "--adapter", "people", "x").failed(2, "--adapter", "--url")
    adapt("predict").failed(2, "FILE", "is missing")
    adapt("predict", "--url", "nonsense", "x").failed(2, "not an address of a serving process")
    adapt("predict", "--url", "http://127.0.0.1:9", "x").failed(1, "http://127.0.0.1:9", "cannot be reached")
    adapt("push", people).failed(2, "--to")


def test_a_token_of_the_environment_lets_in_as_far_as_its_scope(adapt, model_folder, people, tmp_path, monkeypatch):
    secrets = {scope: new_token(tmp_path / "tokens", scope) for scope in ("predict", "admin")}
    options = ("--backbone", model_folder, "--state", tmp_path / "state", "--tokens", tmp_path / "tokens")
    with live(*options, log=tmp_path / "log") as url:
        adapt("push", people, "--to", url).failed(2, "a token is needed")
        monkeypatch.setenv("ADAPTDOCK_TOKEN", secrets["predict"])
        adapt("push", people, "--to", url).failed(2, "has not the scope admin")
        monkeypatch.setenv("ADAPTDOCK_TOKEN", secrets["admin"])
        assert adapt("push", people, "--to", url).out == "people: version 1 answers\n"
        monkeypatch.setenv("ADAPTDOCK_TOKEN", secrets["predict"])
        assert adapt("predict", "--url", url, "ada").out == "[ada|PER]\n"


def test_neither_imports_torch(process, people):
    code = (
        "import sys; from adaptdock.cli import main; status = main(sys.argv[1:]); "
        "sys.exit(status or bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    for arguments in (
        ["predict", "--url", process, "--adapter", "people", "ada"],
        ["push", str(people), "--to", process],
    ):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
