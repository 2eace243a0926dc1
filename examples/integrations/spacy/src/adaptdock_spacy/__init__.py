"""Adapters of adaptdock as a component of spaCy."""
