"""Logs: one JSON object per line, with the time and the request id. Tokens and inputs are never logged.

An invisible character, such as a control character or a mark of writing direction, becomes a JSON escape.
"""

import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from adaptdock.plugins.escapes import json_text

LOGGER = logging.getLogger("adaptdock.serving")


def log(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Log an event with its fields."""
    LOGGER.log(level, event, extra={"fields": fields})


def log_error(event: str, error: BaseException, **fields: Any) -> None:
    """Log an unexpected error with its traceback."""
    where = "".join(traceback.format_exception(error))
    log(event, logging.ERROR, error=f"{type(error).__name__}: {error}", traceback=where, **fields)


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return time, level, event and the fields of a record."""
        fields = getattr(record, "fields", {})
        if record.exc_info and "traceback" not in fields:
            fields = {**fields, "traceback": self.formatException(record.exc_info)}
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry = {"time": time, "level": record.levelname.lower(), "event": record.getMessage(), **fields}
        return json_text(entry, default=str)


def lines_to_standard_error() -> None:
    """Write the log of this package to standard error from now on, and leave other logs as they are."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    LOGGER.handlers, LOGGER.propagate = [handler], False
    LOGGER.setLevel(logging.INFO)


@contextmanager
def to_standard_error() -> Iterator[None]:
    """Write the logs of this process to standard error while the context is open, those of libraries included.

    Python would write plain text for a warning, for the error of a thread or of a finalizer, and for the log of a
    library without a handler (asyncio).
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    loggers = [logging.getLogger(name) for name in (None, "adaptdock.serving", "uvicorn")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    hooks = threading.excepthook, sys.unraisablehook
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if logger.name == "adaptdock.serving" else logging.WARNING)
    logging.captureWarnings(True)
    threading.excepthook, sys.unraisablehook = _thread_failed, _not_raised
    try:
        yield
    finally:
        logging.captureWarnings(False)
        threading.excepthook, sys.unraisablehook = hooks
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_value is not None and failure.exc_type is not SystemExit:
        name = None if failure.thread is None else failure.thread.name
        log_error("thread failed", failure.exc_value, thread=name)


def _not_raised(failure: "sys.UnraisableHookArgs") -> None:
    if failure.exc_value is not None:
        log_error("error not raised", failure.exc_value, where=repr(failure.object)[:200])
