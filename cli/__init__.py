"""The command line, one file a command; :func:`main` is the console script ``adapt``."""

if __name__ != "adaptdock.cli":
    raise ImportError("this folder is the package adaptdock.cli; import it by that name")

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on these arguments (default: those of the process) and return its exit status."""
    import sys

    from adaptdock.cli.app import app
    from adaptdock.cli.common.failures import run

    return run(app, list(sys.argv[1:] if arguments is None else arguments))
