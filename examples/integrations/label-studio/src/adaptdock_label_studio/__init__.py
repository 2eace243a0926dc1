"""Adapters of adaptdock as an ML backend of Label Studio."""
