"""The log of a serving process: one JSON object per line, whoever writes, without a character that is not seen."""

import json
import subprocess
import sys

SCRIPT = """
import asyncio, logging, threading, warnings
from adaptdock.serving.json_logs import log, to_standard_error

before = logging.getLogger().handlers, threading.excepthook
context = to_standard_error()
context.__enter__()
log("ours", path="/a\\x9b\\u202e\\u2028\\x7fb")
logging.getLogger("some.library").error("two\\nlines \\x1b[2J")
warnings.warn("of a \\u2066library")


def fail():
    raise ValueError("in a thread\\x1b]0;t\\x07")


thread = threading.Thread(target=fail, name="worker")
thread.start()
thread.join()


class Finalized:
    def __del__(self):
        raise ValueError("in a finalizer")


Finalized()


async def lost():
    future = asyncio.get_running_loop().create_future()
    future.set_exception(ValueError("nobody looked"))


asyncio.run(lost())
import gc
gc.collect()
logging.getLogger("uvicorn.error").warning("of the server")
context.__exit__(None, None, None)
assert (logging.getLogger().handlers, threading.excepthook) == before
"""


def test_every_line_is_json_whatever_is_written_by_whom() -> None:
    done = subprocess.run([sys.executable, "-W", "default", "-c", SCRIPT], capture_output=True, check=True)
    lines = done.stderr.decode("utf-8").split("\n")
    assert lines.pop() == ""
    assert all(line.isprintable() for line in lines)
    found = [json.loads(line) for line in lines]
    assert [line["event"].splitlines()[0].rpartition(": ")[2][:40] for line in found] == [
        "ours",
        "two",
        "of a \u2066library",
        "thread failed",
        "error not raised",
        "Future exception was never retrieved",
        "of the server",
    ]
    assert found[3]["thread"] == "worker"
    assert "nobody looked" in found[5]["traceback"]
    assert done.stdout == b""
