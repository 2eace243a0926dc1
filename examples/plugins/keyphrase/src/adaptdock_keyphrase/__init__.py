"""Keyphrase extraction, a task for adaptdock."""
