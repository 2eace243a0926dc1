"""What the family of transformers models is made of."""
