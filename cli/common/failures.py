"""Errors as one paragraph on standard error, and an exit status."""

import os
import shutil
import sys
import textwrap
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import click

from adaptdock.cli.common.completion import VARIABLE, complete
from adaptdock.cli.common.output import LINES, filtered
from adaptdock.engine.core.distributed import leave, ranks, repeats_first
from adaptdock.errors import AdaptError
from adaptdock.plugins.escapes import escaped

INTERRUPTED, BROKEN_PIPE = 130, 141
"""What a shell reports of a program that SIGINT or SIGPIPE ended."""
CLOSED = "Connection closed by peer"
"""What torch's gloo reports in the processes that lose another."""
MEMORY = (
    "out of memory: {}. A smaller --batch-size or --max-length, --dtype bfloat16, --quantize or "
    "--device-map auto makes do with less."
)


def run(app: click.Command, arguments: Sequence[str]) -> int:
    """Run a command; every error becomes one paragraph on standard error."""
    with filtered():
        return _run(app, arguments)


def _run(app: click.Command, arguments: Sequence[str]) -> int:
    debug = "--debug" in _before_texts(arguments)
    try:
        with _printing(ranks().first):
            status = _invoke(app, list(arguments))
            sys.stdout.flush()
        leave()
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _close_stdout()
        return BROKEN_PIPE
    except Exception as error:
        message, status = describe(error, debug)
        if not ranks().first:
            if status == 2 and repeats_first():
                return status
            message = f"process {ranks().rank}: {message}"
        if debug:
            sys.stderr.write(escaped(traceback.format_exc(), LINES))
        say_error(message)
        return status


@contextmanager
def _printing(prints: bool) -> Iterator[None]:
    """Discard the output of processes that only help the first process."""
    if prints:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _invoke(app: click.Command, arguments: list[str]) -> int:
    instruction = os.environ.get(VARIABLE)
    if instruction:
        return complete(app, instruction)
    try:
        with app.make_context("adapt", arguments or ["--help"]) as context:
            status = app.invoke(context)
            return status if isinstance(status, int) else 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None


def describe(error: Exception, debug: bool = False) -> tuple[str, int]:
    """Return a paragraph about an error, and the exit status."""
    if isinstance(error, AdaptError):
        return str(error), error.exit_status
    if isinstance(error, click.ClickException):
        return _usage(error), 2
    if isinstance(error, MemoryError) or _is_torch_memory(error):
        return MEMORY.format(_first_line(error)), 1
    if ranks().count > 1 and CLOSED in str(error):
        return "another process of this run has ended, and this one with it: the message of the other says why", 1
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the system'}: {error.strerror}", 1
    where = "" if debug else " This should not happen; run again with --debug for the traceback."
    return f"{type(error).__name__}: {error}.{where}", 1


def say_error(message: str) -> None:
    """Print one paragraph on standard error, folded on a terminal."""
    paragraph = escaped(" ".join(f"Error: {message}".split()))
    if sys.stderr.isatty():
        paragraph = textwrap.fill(paragraph, shutil.get_terminal_size().columns, break_on_hyphens=False)
    sys.stderr.write(f"{paragraph}\n")


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    message = error.format_message()
    if isinstance(error, click.NoSuchOption):
        near = ", ".join(error.possibilities or ())
        message = f"no such option: {error.option_name}.{f' Did you mean {near}?' if near else ''}"
    return f"{message} See {context.command_path} --help." if context else message


def _is_torch_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text or "out of memory" in text
    )


def _first_line(error: Exception) -> str:
    return next((line.strip(" .") for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _before_texts(arguments: Sequence[str]) -> Sequence[str]:
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _close_stdout() -> None:
    """Redirect standard output, so that no broken pipe is reported at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return
