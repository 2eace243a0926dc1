"""Clients of a serving process."""
