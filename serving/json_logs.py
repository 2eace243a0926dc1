"""Logs: one JSON object per line, with the time and the request id. Tokens and inputs are never logged.

An invisible character, such as a control character or a mark of writing direction, becomes a JSON escape.
"""

import logging
import sys
import traceback
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


def to_standard_error() -> None:
    """Write the logs of this process, uvicorn's included, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("adaptdock.serving", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if name == "adaptdock.serving" else logging.WARNING)
