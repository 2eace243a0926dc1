"""Ranking: the forms in which data has queries with candidates, and the metrics of rankings."""
