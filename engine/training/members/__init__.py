"""The members of a run: weights in training, batches, dropout, validation, and the file of each task."""
