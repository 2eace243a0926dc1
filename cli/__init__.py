"""The command line, one file a command."""

if __name__ != "adaptdock.cli":
    raise ImportError("this folder is the package adaptdock.cli; import it by that name")
