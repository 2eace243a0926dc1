"""The dock as people see it: prediction, generation, continuous batching."""
