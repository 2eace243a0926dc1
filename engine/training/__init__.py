"""Plan, hyperparameters, loop, trainer, schedules, packing, caches."""
