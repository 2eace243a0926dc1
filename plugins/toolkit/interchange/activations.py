"""Activation functions by the names of other libraries."""

from adaptdock.plugins.toolkit.interchange.tensors import refuse

OURS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_python": "gelu",
    "gelu_10": "gelu_10",
    "quick_gelu": "quick_gelu",
    "relu6": "relu6",
    "hardswish": "hardswish",
    "relu2": "relu2",
    "swish": "silu",
    "silu": "silu",
    "tanh": "tanh",
    "leakyrelu": "leaky_relu",
    "leaky_relu": "leaky_relu",
    "mish": "mish",
    "linear": "identity",
    None: "identity",
}
"""Name in another library -> our name. The first name of several is the one that AdapterHub writes."""


def our_name(name: str | None, owner: str) -> str:
    """Return our name of an activation function; raise :class:`UsageError` for an unknown function."""
    activation = OURS.get(None if name is None else name.lower())
    if activation is None:
        raise refuse(owner, f"the function {name!r} is not one of {', '.join(filter(None, OURS))}")
    return activation


def foreign_name(activation: str) -> str:
    """Return AdapterHub's name of one of our activation functions."""
    return next(name for name, ours in OURS.items() if ours == activation and name is not None)
