"""The served adapters, their versions, and the watched folder."""
