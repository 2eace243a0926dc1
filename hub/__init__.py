"""The artefact: card and file."""

if __name__ != "adaptdock.hub":
    raise ImportError("this folder is the package adaptdock.hub; import it by that name")
