"""What is decided before the first step: options, data, units, and the plan of each task and of a run."""
