"""Reloading: at SIGHUP the tokens and the configuration are read again. Nothing ends, and no request is refused."""

import logging
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from adaptdock.errors import AdaptError
from adaptdock.serving.configuration import ServingOptions
from adaptdock.serving.http.access_tokens import Tokens, TokensFile
from adaptdock.serving.http.service import Service
from adaptdock.serving.json_logs import log


class HangUp:
    """The handler of SIGHUP. Without a tokens file, it ends a process whose terminal was closed.

    ``read`` returns the options as a start would read them now, or raises their errors.
    """

    def __init__(self, tokens: Tokens, options: ServingOptions, read: Callable[[], ServingOptions] | None) -> None:
        self._tokens, self._options, self._read = tokens, options, read
        self.service: Service | None = None

    def install(self) -> None:
        """Handle SIGHUP from now on. Windows has none, and other threads than the main thread cannot."""
        hang_up = getattr(signal, "SIGHUP", None)
        if hang_up is not None and threading.current_thread() is threading.main_thread():
            signal.signal(hang_up, self.handle)

    def handle(self, sig: int, frame: Any) -> None:
        """Read the tokens and the configuration again."""
        log("hang-up", signal=sig)
        if isinstance(self._tokens, TokensFile):
            self._tokens.refresh(at_once=True)
        elif sys.stdin is not None and sys.stdin.isatty():
            signal.raise_signal(signal.SIGTERM)
            return
        self._reconfigure()

    def _reconfigure(self) -> None:
        if self._read is None or self.service is None:
            return
        try:
            options = self._read()
        except AdaptError as error:  # the last valid options stay
            log("configuration refused", logging.ERROR, reason=str(error))
            return
        changed, fixed = self._options.changes(options)
        self._options = options
        self.service.configure(changed)
        log("configuration read", changed=changed, needs_restart=fixed)
