"""Relations between two marked entities, a task for adaptdock."""
