"""Adapters merged into a backbone, and combined with each other."""
