"""The adapter methods, one a file."""

if __name__ != "adaptdock.adapters":
    raise ImportError("this folder is the package adaptdock.adapters; import it by that name")
