"""The training loop and the folder of a run: trainer, schedules, progress, trackers."""
