"""Logs: one JSON object a line, with the time and the request that it belongs to. No token or input stands in them.

A character that is not seen, such as a control character or a mark of writing direction, is a JSON escape.
"""

import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

from adaptdock.plugins.escapes import json_text

LOGGER = logging.getLogger("adaptdock.serving")


def log(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Write what happened."""
    LOGGER.log(level, event, extra={"fields": fields})


def log_error(event: str, error: BaseException, **fields: Any) -> None:
    """Write of an error that should not happen, with where it came from."""
    where = "".join(traceback.format_exception(error))
    log(event, logging.ERROR, error=f"{type(error).__name__}: {error}", traceback=where, **fields)


class JsonLines(logging.Formatter):
    """Makes one line of JSON of a record."""

    def format(self, record: logging.LogRecord) -> str:
        """Return time, level, event and the fields that go with it."""
        fields = getattr(record, "fields", {})
        if record.exc_info and "traceback" not in fields:
            fields = {**fields, "traceback": self.formatException(record.exc_info)}
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        found = {"time": time, "level": record.levelname.lower(), "event": record.getMessage(), **fields}
        return json_text(found, default=str)


def to_standard_error() -> None:
    """Write the logs of this process, uvicorn's included, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("adaptdock.serving", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if name == "adaptdock.serving" else logging.WARNING)
