"""The names of other libraries, and the tensors that a method has not taken."""

from pathlib import Path
from typing import get_args

import pytest
import torch
from transformers.activations import ACT2CLS

from adaptdock.errors import FileError, UsageError
from adaptdock.plugins.toolkit.activations import ACTIVATIONS, Activation
from adaptdock.plugins.toolkit.interchange.activations import OURS, foreign_name, our_name
from adaptdock.plugins.toolkit.interchange.tensors import ForeignTensors


@pytest.mark.parametrize("activation", get_args(Activation))
def test_the_name_of_a_function_in_another_library_is_read_as_the_same_function(activation: str) -> None:
    assert our_name(foreign_name(activation), "the head") == activation


@pytest.mark.parametrize("name", sorted(OURS.keys() & ACT2CLS.keys()))
def test_a_function_has_the_values_of_that_name_in_transformers(name: str) -> None:
    entry = ACT2CLS[name]
    theirs = entry[0](**entry[1]) if isinstance(entry, tuple) else entry()
    x = torch.linspace(-4, 4, 33)
    torch.testing.assert_close(ACTIVATIONS[our_name(name, "the head")](x), theirs(x), atol=1e-6, rtol=1e-6)


def test_an_unknown_function_is_refused_with_the_known_names() -> None:
    with pytest.raises(UsageError, match=r"'sine' is not one of relu, gelu, gelu_new"):
        our_name("sine", "the head")


def test_a_tensor_is_unused_until_it_is_taken_and_can_be_taken_once() -> None:
    tensors = ForeignTensors(
        Path("weights"), {"base.a.weight": torch.zeros(2), "base.b.weight": torch.ones(2)}, "base."
    )
    assert tensors.take("a.weight").equal(torch.zeros(2))
    assert list(tensors.unused) == ["b.weight"]
    assert tensors.names == {"a.weight", "b.weight"}
    with pytest.raises(FileError, match=r"'a\.weight' is missing"):
        tensors.take("a.weight")
