"""The backbone families and what they share."""

if __name__ != "adaptdock.backbones":
    raise ImportError("this folder is the package adaptdock.backbones; import it by that name")
