"""Answers found in a text: the forms of their data, and SQuAD's metrics."""
