"""The stack of equal blocks in a model: dropping the top, or resuming above a lower part with a known result."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from adaptdock.errors import BackboneError
from adaptdock.plugins.contracts import Batch


class Blocks:
    """The blocks of an encoder or decoder, and the module list that holds them.

    Raises :class:`BackboneError` for a model without such a list, or with several.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
        if model.config.is_encoder_decoder:
            raise BackboneError(f"{type(model).__name__} has two halves, whose layers cannot be left out")
        stacks = [
            (path, module)
            for path, module in model.named_modules()
            if isinstance(module, nn.ModuleList) and len(module) == count
        ]
        if len(stacks) != 1:
            raise BackboneError(f"no stack of {count} layers was recognised in {type(model).__name__}")
        path, self.modules = stacks[0]
        self.path = path
        parent, _, self.name = path.rpartition(".")
        self.parent, self.model = model.get_submodule(parent), model

    def __len__(self) -> int:
        return len(self.modules)

    def drop_top(self, count: int) -> None:
        """Remove the topmost blocks permanently, from the model and its configuration."""
        remaining = len(self) - count
        if remaining < 1:
            raise BackboneError(f"--drop-layers {count}: the backbone has {len(self)} layers, and one has to stay")
        config = self.model.config.get_text_config()
        for name, value in vars(config).items():
            if isinstance(value, list) and len(value) == len(self):  # the types of the layers, in some architectures
                setattr(config, name, value[:remaining])
        config.num_hidden_layers = remaining
        self.modules = self.modules[:remaining]
        setattr(self.parent, self.name, self.modules)

    @contextmanager
    def only(self, first: int, hidden: Tensor) -> Iterator[None]:
        """Start the model at block ``first`` with the input ``hidden`` (R, T, W), while the context is open."""
        whole = self.modules

        def enter(_: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            if args:
                return (hidden, *args[1:]), keywords
            return args, {**keywords, "hidden_states": hidden}

        handle = whole[first].register_forward_pre_hook(enter, with_kwargs=True, prepend=True)
        setattr(self.parent, self.name, whole[first:])
        try:
            yield
        finally:
            handle.remove()
            setattr(self.parent, self.name, whole)

    @contextmanager
    def seen(self) -> Iterator[list[Tensor]]:
        """Yield a list that fills with each block's input (R, T, W) during this thread's passes."""
        states: list[Tensor] = []
        thread = get_ident()

        def see(_: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            if get_ident() == thread:
                states.append(args[0] if args else keywords["hidden_states"])

        handles = [block.register_forward_pre_hook(see, with_kwargs=True, prepend=True) for block in self.modules]
        try:
            yield states
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def stopping(self, first: int) -> Iterator[list[Tensor]]:
        """Stop the model before block ``first``; the yielded list then holds that block's input (R, T, W)."""
        block_inputs: list[Tensor] = []

        def stop(_: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            block_inputs.append(args[0] if args else keywords["hidden_states"])
            raise _Reached

        handle = self.modules[first].register_forward_pre_hook(stop, with_kwargs=True, prepend=True)
        try:
            yield block_inputs
        except _Reached:
            pass
        finally:
            handle.remove()


class _Reached(Exception):
    """Ends a pass before the requested block."""


def check_resuming(blocks: Blocks, run: Callable[[Batch], Tensor], inputs: Batch, first: int) -> None:
    """Raise :class:`BackboneError` unless a pass resumed at block ``first`` equals a whole pass, bit for bit.

    ``run`` takes a batch and returns the last hidden states.
    """
    with torch.no_grad():
        whole = run(inputs)
        with blocks.stopping(first) as block_inputs:
            run(inputs)
        with blocks.only(first, block_inputs[0]):
            resumed = run(inputs)
    if not torch.equal(whole, resumed):
        raise BackboneError(
            f"the layers of {type(blocks.model).__name__} pass on more than hidden states, so none can be left out"
        )
