"""What the recurrent families are made of."""
