"""The serving process."""

if __name__ != "adaptdock.serving":
    raise ImportError("this folder is the package adaptdock.serving; import it by that name")
