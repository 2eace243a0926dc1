"""The tasks, one a file."""

if __name__ != "adaptdock.tasks":
    raise ImportError("this folder is the package adaptdock.tasks; import it by that name")
