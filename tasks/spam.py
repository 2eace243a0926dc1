"""Spam detection: classification with a sample of messages."""

from pathlib import Path

from adaptdock.tasks.classification import Classification


class Spam(Classification):
    """Separates spam from wanted messages."""

    sample = Path(__file__).parent / "samples" / "spam"
