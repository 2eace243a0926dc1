"""Metrics of an adapter on labelled data, the bootstrap, the report."""
