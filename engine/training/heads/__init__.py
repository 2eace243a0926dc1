"""Heads fitted before and after training, and what an adapter is worth beside simple answers."""
