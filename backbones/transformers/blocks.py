"""The stack of equal blocks in a model: its top left off, or its lower part left out once its result is known."""

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
    """The blocks of a model that is in one piece, and the module list that holds them.

    Raises :class:`BackboneError` where a model has none, or two stacks of them.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
        if model.config.is_encoder_decoder:
            raise BackboneError(f"{type(model).__name__} has two halves, whose layers cannot be left out")
        found = [
            (path, module)
            for path, module in model.named_modules()
            if isinstance(module, nn.ModuleList) and len(module) == count
        ]
        if len(found) != 1:
            raise BackboneError(f"no stack of {count} layers was recognised in {type(model).__name__}")
        path, self.modules = found[0]
        self.path = path
        parent, _, self.name = path.rpartition(".")
        self.parent, self.model = model.get_submodule(parent), model

    def __len__(self) -> int:
        return len(self.modules)

    def drop_top(self, count: int) -> None:
        """Take the topmost blocks off the model for good, and out of its configuration."""
        kept = len(self) - count
        if kept < 1:
            raise BackboneError(f"--drop-layers {count}: the backbone has {len(self)} layers, and one has to stay")
        config = self.model.config.get_text_config()
        for name, value in vars(config).items():
            if isinstance(value, list) and len(value) == len(self):  # what each layer is, in some architectures
                setattr(config, name, value[:kept])
        config.num_hidden_layers = kept
        self.modules = self.modules[:kept]
        setattr(self.parent, self.name, self.modules)

    @contextmanager
    def only(self, first: int, hidden: Tensor) -> Iterator[None]:
        """Let the model begin with block ``first``, whose input is ``hidden`` (R, T, W), while the context is open."""
        whole = self.modules

        def enter(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            if args:
                return (hidden, *args[1:]), named
            return args, {**named, "hidden_states": hidden}

        handle = whole[first].register_forward_pre_hook(enter, with_kwargs=True, prepend=True)
        setattr(self.parent, self.name, whole[first:])
        try:
            yield
        finally:
            handle.remove()
            setattr(self.parent, self.name, whole)

    @contextmanager
    def seen(self) -> Iterator[list[Tensor]]:
        """Let the list that is given fill with each block's input (R, T, W), of this thread's pass alone."""
        states: list[Tensor] = []
        mine = get_ident()

        def see(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            if get_ident() == mine:
                states.append(args[0] if args else named["hidden_states"])

        handles = [block.register_forward_pre_hook(see, with_kwargs=True, prepend=True) for block in self.modules]
        try:
            yield states
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def stopping(self, first: int) -> Iterator[list[Tensor]]:
        """Stop the model before block ``first``; the list that is given then holds that block's input (R, T, W)."""
        seen: list[Tensor] = []

        def stop(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            seen.append(args[0] if args else named["hidden_states"])
            raise _Reached

        handle = self.modules[first].register_forward_pre_hook(stop, with_kwargs=True, prepend=True)
        try:
            yield seen
        except _Reached:
            pass
        finally:
            handle.remove()


class _Reached(Exception):
    """The block that is waited for is about to run."""


def check_resuming(blocks: Blocks, run: Callable[[Batch], Tensor], inputs: Batch, first: int) -> None:
    """Raise :class:`BackboneError` unless a batch that begins with block ``first`` gives what a whole one does.

    ``run`` takes a batch and returns the last hidden states.
    """
    with torch.no_grad():
        whole = run(inputs)
        with blocks.stopping(first) as seen:
            run(inputs)
        with blocks.only(first, seen[0]):
            found = run(inputs)
    if not torch.equal(whole, found):
        raise BackboneError(
            f"the layers of {type(blocks.model).__name__} hand on more than hidden states, so none can be left out"
        )
