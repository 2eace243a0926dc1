"""``adapt predict`` at a pipe: each line is answered when it is there, and many lines share batches."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import pytest

from adaptdock.cli.common.inputs import from_lines
from adaptdock.cli.common.streaming import Arriving, arrives, lines
from adaptdock.engine.data.sources import Input
from adaptdock.errors import DataError

RUN = "import sys; from adaptdock.cli import main; sys.exit(main())"
PATIENCE = 240


class Asked:
    """``adapt predict`` in a process of its own, with a pipe on each side."""

    def __init__(self, adapter: Path, *arguments: str) -> None:
        command = [sys.executable, "-c", RUN, "predict", str(adapter), "--json", *arguments]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=os.environ)
        self._answers: Queue[bytes] = Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._answers.put(line)

    def say(self, *texts: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{text}\n" for text in texts).encode())
        self.process.stdin.flush()

    def answer(self) -> str:
        return str(json.loads(self._answers.get(timeout=PATIENCE))["text"])

    def end(self) -> tuple[int, str]:
        """Return the exit status, and what was printed as an error."""
        assert self.process.stdin is not None
        assert self.process.stderr is not None
        if not self.process.stdin.closed:
            self.process.stdin.close()
        error = self.process.stderr.read().decode()
        self._reader.join(PATIENCE)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return self.process.wait(PATIENCE), error


def test_a_line_in_a_pipe_is_answered_before_the_next_is_written(adapter: Path) -> None:
    asked = Asked(adapter)
    for text in ("ada in rome", "bob"):
        asked.say(text)
        assert asked.answer() == text
    asked.say("one", "two", '{"text": "three"}')
    assert [asked.answer() for _ in range(3)] == ["one", "two", "three"]
    assert asked.end() == (0, "")


@pytest.mark.slow
def test_an_interrupt_ends_a_program_that_waits_for_a_line(adapter: Path) -> None:
    asked = Asked(adapter)
    asked.say("ada")
    assert asked.answer() == "ada"
    asked.process.send_signal(signal.SIGINT)
    assert asked.process.wait(PATIENCE) == 130
    assert asked.end() == (130, "")


@pytest.mark.slow
def test_lines_before_one_that_cannot_be_read_are_answered(adapter: Path) -> None:
    asked = Asked(adapter, "--format", "jsonl", "--input", "-")
    asked.say('{"text": "fine"}', "{broken")
    assert asked.answer() == "fine"
    status, error = asked.end()
    assert status == 2
    assert "standard input:2: not JSON" in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_the_program_without_a_traceback(adapter: Path) -> None:
    command = f"yes 'ada in rome' | {sys.executable} -c '{RUN}' predict {adapter} | head -1; echo ${{PIPESTATUS[1]}}"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=PATIENCE, check=True)
    first, status = ran.stdout.splitlines()
    assert "rome" in first
    assert status == "141"
    assert ran.stderr == ""


# ------------------------------------------------------------------------------------ without a model


def numbered(count: int) -> Iterator[Input]:
    return (Input(number, str(number)) for number in range(count))


def test_what_has_arrived_is_taken_at_once_and_no_more_than_a_batch() -> None:
    arriving = Arriving(numbered(25), 10)
    taken: list[int] = []
    while batch := arriving.take(10):
        assert len(batch) <= 10
        taken += [item.value for item in batch]
    assert taken == list(range(25))
    assert arriving.take(10) == []


def test_no_more_is_read_ahead_than_asked_for() -> None:
    read: list[int] = []
    gate = threading.Event()

    def items() -> Iterator[Input]:
        for item in numbered(100):
            read.append(item.value)
            if item.value == 6:
                gate.set()
            yield item

    arriving = Arriving(items(), 5)
    assert len(arriving.take(1)) == 1
    assert gate.wait(PATIENCE)  # one is taken, five wait, and one more is held by the thread
    assert len(read) <= 7


def test_an_error_is_raised_after_the_inputs_before_it() -> None:
    arriving = Arriving(from_lines(iter([b"fine\n", b"{x}\n"]), "here"), 5)
    taken = arriving.take(2)
    while len(taken) < 1:
        taken += arriving.take(2)
    assert [item.value for item in taken] == ["fine"]
    with pytest.raises(DataError, match="here:2"):
        arriving.take(2)


@pytest.mark.parametrize("whole", [b"", b"a\n", b"a", b"\n\n", "é\r\nzwei\n".encode(), b"x" * 200_000 + b"\nend"])
def test_lines_of_a_pipe_are_those_of_a_file(whole: bytes, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_bytes(whole)
    command = ["cat", str(tmp_path / "in.txt")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process, (tmp_path / "in.txt").open("rb") as file:
        assert process.stdout is not None
        assert arrives(process.stdout)
        assert not arrives(file)
        assert list(lines(process.stdout)) == list(file)
