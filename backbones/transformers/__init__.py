"""The parts of the family of transformers models."""
