"""What the serving process refuses, beside the errors of the rooms below."""

from adaptdock.errors import AdaptError


class BusyError(AdaptError):
    """Too much waits already. Attribute: ``seconds`` after which another attempt makes sense."""

    def __init__(self, what: str, seconds: int) -> None:
        self.seconds = seconds
        super().__init__(f"{what}: try again in {seconds} s")


class LateError(AdaptError):
    """A request that was not answered in its time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"there was no answer within {seconds:g} s, so the request was given up")


class StoppingError(AdaptError):
    """A request that came when the process was stopping, or waited longer than it could."""

    def __init__(self) -> None:
        super().__init__("this process is stopping: send the request again, to another or in a moment")


class StartingError(AdaptError):
    """A name that may belong to an adapter that is not loaded yet."""

    def __init__(self) -> None:
        super().__init__("this process is starting, and has not loaded all adapters yet: send the request again")


class BrokenError(AdaptError):
    """A name that may belong to an adapter that could not be loaded, as the start failed."""

    def __init__(self) -> None:
        super().__init__("this process could not start, so its adapters are not loaded; its log has the reason")


class SlowChangeError(AdaptError):
    """A change of what is served that was not complete in its time. Attribute: ``begun``."""

    def __init__(self, seconds: float, begun: bool) -> None:
        self.begun = begun
        outcome = (
            "it has begun and may still be made: GET /v1/adapters shows what is served"
            if begun
            else "an earlier one was not complete, so this one was not begun and nothing has changed"
        )
        super().__init__(f"the change was not complete within {seconds:g} s: {outcome}")


class LimitError(AdaptError):
    """A request that is larger than this process allows."""


class StoreError(AdaptError):
    """The state or a copy of an adapter could not be written or read; nothing has changed."""

    def __init__(self, folder: object, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or error
        super().__init__(f"{folder}: the state of the process cannot be kept there: {reason}")
