"""Texts that a language model writes: prompts, their common part, and ROUGE."""
