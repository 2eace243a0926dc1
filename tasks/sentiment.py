"""Sentiment: classification with a sample of reviews."""

from pathlib import Path

from adaptdock.tasks.classification import Classification


class Sentiment(Classification):
    """Says whether a text praises or complains."""

    sample = Path(__file__).parent / "samples" / "sentiment"
