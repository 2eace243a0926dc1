"""Trainings that repeat a run: folds, shares of the labels, members of one pass, self-training."""
