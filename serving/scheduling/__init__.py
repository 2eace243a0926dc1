"""Batches and decoding steps, shared fairly among requests."""
