"""Shared parts of the commands that train: settings, output paths, progress."""
