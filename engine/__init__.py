"""The dock: ports, slots, rows, data, training, prediction."""

if __name__ != "adaptdock.engine":
    raise ImportError("this folder is the package adaptdock.engine; import it by that name")
