"""What the tasks that read images or sounds have in common."""
