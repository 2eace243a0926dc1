"""The seam between the core and its plugins: contracts, registry, errors."""

if __name__ != "adaptdock.plugins":
    raise ImportError("this folder is the package adaptdock.plugins; import it by that name")
