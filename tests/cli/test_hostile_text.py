"""What others have written, in cards, registries, file names and answers, commands no terminal, in any command."""

import io
import json
import os
import shutil
import threading
import unicodedata
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import build_adapter

from adaptdock.cli import main
from adaptdock.cli.app import COMMANDS
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.golden_probes import recorded
from adaptdock.hub.artefact.file import AdapterFile, read_file, write_file
from adaptdock.hub.registry.index import Revocation
from adaptdock.hub.registry.trust import new_key, revoke, trust
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone
from adaptdock.plugins.escapes import HIDDEN

EVIL = (
    "é\x1b[2J\x1b]0;t\x07\x1b]8;;http://evil\x1b\\\x9b31m\r\nforged\x7f\x85\u061c\u200b\u202e\u2066\u2028\u2029\ufeff"
)
LINE = "".join(letter for letter in EVIL if not letter < " " and letter != "\x7f")
"""What a registry's index lets through in a line."""
FILE = LINE.replace("/", "")
PUBLISHED = ["--publisher", LINE, "--test-set", EVIL, "--licence", LINE, "--language", EVIL, "--description", EVIL]


@pytest.fixture
def hostile(backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working adapter every free text of whose card is hostile."""
    monkeypatch.setenv("ADAPTDOCK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ADAPTDOCK_SOURCES", str(tmp_path / "registry0"))
    given = build_adapter(backbone, "lora", {"rank": 2}, labels=("LOC" + EVIL, "PER" + EVIL), name="a")
    task, (method,) = given.card.task, given.card.methods
    update = {
        "task": task.model_copy(update={"distribution": EVIL, "version": EVIL}),
        "methods": [method.model_copy(update={"distribution": "", "version": EVIL})],
        "description": EVIL,
        "licence": EVIL,
        "languages": [EVIL],
        "training": {"data": EVIL, "splits": {EVIL: EVIL}, "seconds": EVIL, "libraries": {EVIL: EVIL}, "how": EVIL}
        | {"weights": [1], "combined": [EVIL], "quantized": EVIL, "best_epoch": EVIL},
        "metrics": {"test": {"f1": 1.0, EVIL: 2.0, "by_type": {EVIL: {EVIL: 1.0}}}, EVIL: {EVIL: EVIL}},
        "backbone": given.card.backbone.model_copy(update={"revision": EVIL}),
    }
    made = AdapterFile(given.card.model_copy(update=update), given.tensors)
    write_file(tmp_path / "a.safetensors", recorded(Dock(backbone), made, [EVIL, f"ada {EVIL}"], "sample"))
    return tmp_path / "a.safetensors"


class Answers(BaseHTTPRequestHandler):
    """A serving process that lies."""

    def do_GET(self) -> None:
        self.send(500, {"error": {"message": EVIL, "type": EVIL}, "request_id": EVIL})

    def do_PUT(self) -> None:
        self.send(422, {"error": {"message": EVIL, "type": EVIL, "nearest": [EVIL]}, "request_id": EVIL})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        one = {"adapter": "a", "version": 1, "prediction": {EVIL: EVIL}, "rendered": EVIL}
        self.send(200, {"predictions": [one for _ in asked["inputs"]]})

    def send(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def liar() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def check(ran: Any, words: bool = True) -> None:
    """Check that nothing hidden is in what was printed, and that what was hostile was printed."""
    for text in (ran.out, ran.err):
        assert not {letter for letter in text if unicodedata.category(letter) in HIDDEN} - {"\n"}, ran
        assert not [line for line in text.splitlines() if line.startswith("forged")]
    assert not words or "é" in ran.out + ran.err, ran
    assert "This should not happen" not in ran.err


def test_commands_on_a_file_print_escapes(
    adapt: Any, hostile: Path, model_folder: Path, data: Path, liar: str, tmp_path: Path
) -> None:
    at = ["--backbone", model_folder]
    odd = tmp_path / f"{FILE}\x1b[2J.safetensors"
    shutil.copy(hostile, odd)
    for more in ([], ["--tensors"], ["--json"]):
        check(adapt("inspect", hostile, *more))
        check(adapt("inspect", odd, *more))
    broken = read_file(hostile)
    broken.tensors["head.bias"].add_(torch.arange(5.0))
    write_file(tmp_path / "broken.safetensors", broken)
    for file in (hostile, tmp_path / "broken.safetensors"):
        for more in ([], ["--json"]):
            check(adapt("verify", "--run", file, *at, *more))
    check(adapt("predict", tmp_path / "broken.safetensors", "ada", *at), words=False)
    texts = ["ada " + EVIL, "--format", "text"]
    check(adapt("predict", hostile, *texts, *at))
    check(adapt("predict", hostile, *texts, *at, "--json"))
    check(adapt("predict", odd.with_name(f"gone{odd.name}"), *texts))
    check(adapt("predict", "--url", liar, "--adapter", "a", "ada"))
    check(adapt("predict", "--url", liar, "--adapter", "a", "ada", "--json"))
    check(adapt("predict", "--url", liar, "ada"))
    check(adapt("push", hostile, "--to", liar))
    check(adapt("eval", hostile, "--data", data, *at))
    for more in ([], ["--json"]):
        check(adapt("compare", hostile, odd, "--data", data, *at, *more))
        check(adapt("explain", hostile, "ada " + EVIL, *at, *more))
    check(adapt("rebuild", hostile, "--data", data), words=False)
    check(adapt("sign", hostile, "--key", EVIL))
    arguments = {"method": EVIL, "training": {EVIL: EVIL}, "files": [{"name": EVIL, "sha256": "0" * 64}]}
    training = {"arguments": arguments, "data_sha256": {EVIL: EVIL}, "libraries": {EVIL: EVIL}, "python": EVIL}
    signed = read_file(hostile)
    card = signed.card.model_copy(update={"training": {**training, "precision": EVIL}})
    write_file(tmp_path / "signed.safetensors", AdapterFile(card, signed.tensors))
    new_key("mine")
    assert adapt("sign", "signed.safetensors", "--key", "mine").status == 0
    for more in ([], ["--json"]):
        check(adapt("verify", "./signed.safetensors", *more))
    check(adapt("rebuild", "signed.safetensors", "--data", data))
    check(adapt("merge", hostile, "-o", f"m{FILE}", *at))
    check(adapt("combine", hostile, odd, "--weights", "1,1", "-o", f"c{FILE}.safetensors", *at))
    check(adapt("export", hostile, "--to", f"x{FILE}", *at))
    check(adapt("import", f"x{FILE}", "-o", f"i{FILE}.safetensors", *at))
    (tmp_path / f"l{FILE}.txt").write_text(f"ada {EVIL}\nbob\n", "utf-8")
    for more in ([], ["--json"]):
        check(adapt("doctor", f"x{FILE}", *at, *more), words=bool(more))
        check(adapt("label", f"l{FILE}.txt", "--adapter", hostile, *at, *more))
    run = ["train", "--task", "ner", *at, "--precision", "fp32", "--data", data, "--on", odd, "--epochs", 1]
    check(adapt(*run, "-o", f"t{FILE}.safetensors", "--run-dir", f"r{FILE}"))
    check(adapt(*run, "--dry-run", "--learning-rate", EVIL))
    check(adapt("serve", "--check", "--adapters", tmp_path, "--port", 0, *at))


def test_commands_on_a_registry_print_escapes(adapt: Any, hostile: Path, tmp_path: Path) -> None:
    check(adapt("publish", hostile, "--registry", "needing", *PUBLISHED), words=False)
    check(adapt("install", "a", "--source", "needing"))  # needs the distribution that the card names
    given = read_file(hostile)
    plain = given.card.task.model_copy(update={"distribution": "", "version": ""})
    write_file(hostile, AdapterFile(given.card.model_copy(update={"task": plain}), given.tensors))
    for more in ([], ["--json"]):
        check(adapt("publish", hostile, "--registry", f"registry{len(more)}", *PUBLISHED, *more), words=bool(more))
        check(adapt("search", *more))
        check(adapt("info", "a", *more))
        check(adapt("install", "a", "--source", tmp_path / "registry0", *more), words=bool(more))
        assert (tmp_path / "home" / "adapters" / "a").is_dir()
        trust(EVIL, "ed25519:" + "A" * 43 + "=")
        revoke(Revocation(sha256="0" * 64, reason=EVIL))
        check(adapt("trust", "list", *more))
    check(adapt("publish", hostile, "--registry", f"registry{FILE}", *PUBLISHED))
    assert adapt("publish", hostile, "--registry", "registry0", *PUBLISHED, "--version", "2").status == 0
    check(adapt("update"), words=False)
    record = tmp_path / "home" / "adapters" / "a" / "record.json"
    sha256 = json.loads(record.read_text())["entry"]["sha256"]
    revoke(Revocation(sha256=sha256, reason=EVIL))
    for more in ([], ["--json"]):
        check(adapt("verify", *more))
        check(adapt("list", *more), words=False)
    check(adapt("predict", "a", "ada"))
    check(adapt("remove", EVIL))
    check(adapt("yank", "a@1", "--registry", f"registry{FILE}", "--reason", EVIL))
    check(adapt("revoke", EVIL, "--registry", f"registry{FILE}", "--reason", EVIL))
    check(adapt("refresh", "--registry", f"registry{FILE}", "--sign", EVIL))
    check(adapt("trust", "root", EVIL, f"registry{FILE}/registry.json"))
    check(adapt("info", "a", "--source", f"registry{FILE}"))
    check(adapt("remove", "a"), words=False)
    index = json.loads((tmp_path / "registry0" / "registry.json").read_text())
    (tmp_path / "registry0" / "registry.json").write_text(json.dumps({**index, EVIL: 1}))
    check(adapt("search"))


def test_plugins_and_wrong_words_are_escaped(adapt: Any, distribution: Any) -> None:
    distribution("evil", "[adaptdock.adapters]\nodd\u202e\x9b = evil:Gone\n", "")
    for more in ([], ["--check"], ["--json"]):
        check(adapt("plugins", *more), words=False)
    for words in ([EVIL], ["train", EVIL], ["train", f"--{EVIL}"], ["plugin", "check", EVIL], ["key", "show", EVIL]):
        check(adapt(*words))
    check(adapt("inspect", EVIL.replace("\n", ""), "--debug"))
    registry.refresh()


def test_every_command_is_looked_at() -> None:
    """A sweep prints what trainings print, and a sample is of this project."""
    looked = Path(__file__).read_text()
    assert [name for name in COMMANDS if name not in ("sweep", "sample") and f'"{name}"' not in looked] == []


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_table_on_a_terminal_has_escape_codes_of_its_own_only(
    hostile: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for arguments in (["inspect", str(hostile)], ["predict", str(hostile), EVIL, "--backbone", str(model_folder)]):
        terminal = Terminal()
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", terminal)
            assert main(arguments) == 0
        plain = terminal.getvalue()
        for code in ("\x1b[1m", "\x1b[0m", "\x1b[1;36m", "\x1b[2m", "\x1b[3m"):
            plain = plain.replace(code, "")
        assert "é" in plain
        assert not {letter for letter in plain if unicodedata.category(letter) in HIDDEN} - {"\n"}, plain


def test_a_command_of_a_plugin_may_draw(adapt: Any, distribution: Any) -> None:
    code = "import click\n@click.command()\ndef draw():\n    print('\\x1b[31mred\\x1b[0m')\n"
    distribution("drawing", "[adaptdock.commands]\ndraw = drawing:draw\n", code)
    assert adapt("draw").out == "\x1b[31mred\x1b[0m\n"
    assert os.linesep in adapt("draw").out
    registry.refresh()
