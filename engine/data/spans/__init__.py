"""Annotated texts: spans and labels as annotation tools export them, a file for each tool."""
