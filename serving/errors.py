"""Errors of the serving process, in addition to :mod:`adaptdock.errors`."""

from adaptdock.errors import AdaptError


class BusyError(AdaptError):
    """Too many waiting requests or inputs. Attributes: ``seconds`` before a retry, and ``limit``, which was reached."""

    def __init__(self, what: str, seconds: int, limit: str = "queue") -> None:
        self.seconds, self.limit = seconds, limit
        super().__init__(f"{what}: try again in {seconds} s")


class LateError(AdaptError):
    """A request without an answer within its timeout."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"there was no answer within {seconds:g} s, so the request was given up")


class StoppingError(AdaptError):
    """A request to a stopping process, or an input still waiting when the drain time ends."""

    def __init__(self) -> None:
        super().__init__("this process is stopping: send the request again, to another or in a moment")


class StartingError(AdaptError):
    """An unknown name while some adapters are not loaded yet."""

    def __init__(self) -> None:
        super().__init__("this process is starting, and has not loaded all adapters yet: send the request again")


class BrokenError(AdaptError):
    """An unknown name after a failed start, so that the adapter may exist but could not be loaded."""

    def __init__(self) -> None:
        super().__init__("this process could not start, so its adapters are not loaded; its log has the reason")


class DeviceError(AdaptError):
    """A request to a process whose device has failed for good."""

    def __init__(self) -> None:
        super().__init__("the device of this process has failed, and only a restart helps; its log has the reason")


class SlowChangeError(AdaptError):
    """A change that was not complete within its timeout. Attribute: ``begun``, whether it may still complete."""

    def __init__(self, seconds: float, begun: bool) -> None:
        self.begun = begun
        outcome = (
            "it has begun and may still be made: GET /v1/adapters shows what is served"
            if begun
            else "an earlier one was not complete, so this one was not begun and nothing has changed"
        )
        super().__init__(f"the change was not complete within {seconds:g} s: {outcome}")


class ForbiddenError(AdaptError):
    """A request for an adapter or alias outside the limits of its token. Attribute: ``name``."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"the token is not for {name[:150]!r}: its line in the tokens file lists its adapters (adapters=)"
        )


class ChangedError(AdaptError):
    """A change under a condition that the state does not meet. Attribute: ``etag`` of the state, None without one."""

    def __init__(self, name: str, etag: str | None) -> None:
        self.etag = etag
        now = "it is not served" if etag is None else f"its ETag is {etag}"
        super().__init__(
            f"nothing was changed: {name[:150]!r} is not in the state that the condition of the request names, {now}; "
            f"read it again, and repeat the change if it is still right"
        )


class LimitError(AdaptError):
    """A request over a limit of this process."""


class StoreError(AdaptError):
    """A failed read or write of the state or of a copy of an adapter; nothing has changed."""

    def __init__(self, folder: object, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or error
        super().__init__(f"{folder}: the state of the process cannot be kept there: {reason}")
