"""The web page at ``/``, which shows the state of the process. Its files are static."""
