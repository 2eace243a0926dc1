"""The page at ``/``: what a browser shows of the process. Its files are served as they are."""
