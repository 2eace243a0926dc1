"""Intent detection: classification with a sample of requests to an assistant."""

from pathlib import Path

from adaptdock.tasks.classification import Classification


class Intent(Classification):
    """Says what a request asks for."""

    sample = Path(__file__).parent / "samples" / "intent"
