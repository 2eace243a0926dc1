"""The adapter file and its card, and how files are written."""
