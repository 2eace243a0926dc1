"""Training: a task and its data become an adapter file."""
