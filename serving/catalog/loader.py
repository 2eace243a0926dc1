"""The loader: the thread that reads files and changes the catalog, one change after the other.

The thread is a daemon: if a file system never answers, the process can still exit.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")


class Loader:
    """Runs changes in the order of their submission. :meth:`submit` may be called from any thread."""

    def __init__(self) -> None:
        self._changes: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._condition = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="loader", daemon=True)
        self._thread.start()

    def submit(self, change: Callable[..., Result], *arguments: Any) -> "Future[Result]":
        """Add a change and return its future. After :meth:`stop` the future is cancelled."""
        future: Future[Result] = Future()
        with self._condition:
            if self._stopping:
                future.cancel()
                return future
            self._changes.append((future, lambda: change(*arguments)))
            self._condition.notify()
        return future

    def stop(self, seconds: float) -> bool:
        """Cancel pending changes and wait for the running change; return whether the thread has ended."""
        with self._condition:
            self._stopping = True
            for future, _ in self._changes:
                future.cancel()
            self._changes.clear()
            self._condition.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._changes:
                    if self._stopping:
                        return
                    self._condition.wait()
                future, change = self._changes.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = change()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
