"""What tasks of several kinds share: pooled sequences, outcomes for reports, words left out to explain answers."""
