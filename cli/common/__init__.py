"""What several commands share: flags, printing, failures."""
