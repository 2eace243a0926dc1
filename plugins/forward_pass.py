"""A forward pass: the batch for the backbone, and the context for every act of a method.

Letters of shapes: R rows, T positions, L virtual positions before the text, W the width of the hidden states.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from adaptdock.errors import AdaptError
from adaptdock.plugins.ports import Virtual

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Positions(NamedTuple):
    """The position tensors of one half of the model, each (R, T), and the prompts (R, S); see :class:`ForwardPass`."""

    mask: "Tensor"
    positions: "Tensor"
    token_ids: "Tensor | None" = None
    prompt_ids: "Tensor | None" = None


@dataclass(frozen=True, eq=False)  # compared by identity: tensors have no single truth value
class Layout:
    """The layout of the positions of one half of the model; ``compute`` is called once, on first access."""

    rows: int
    compute: Callable[[], Positions]

    @cached_property
    def values(self) -> Positions:
        """The tensors, computed on first access."""
        return self.compute()

    def with_tokens(self, token_ids: "Tensor | None") -> "Layout":
        """Return this layout with other token ids (R, T)."""
        return Layout(self.rows, lambda: self.values._replace(token_ids=token_ids))


@dataclass(frozen=True, eq=False)
class ForwardPass:
    """The context of an act of a method, beside its parameters and the tensors at the port.

    ``rows`` is the number R of rows that the method acts on: a part of the batch, or all of it, with the beams of each
    row. ``training`` is true while this adapter is trained. The other values are tensors that are computed on first
    access, so they cost nothing for a method that does not use them.
    """

    rows: int
    training: bool = False
    layout: Layout | None = None
    copies: int = 1
    """Successive copies of each row of the layout at the port (beams)."""
    span: slice | None = None
    length: int | None = None
    """The number T of positions at the port, if known; the layout must have the same number."""
    device: "torch.device | None" = None
    read: "Tensor | None" = None
    """At an attention site with a source, the input (R, T, W) of that port."""

    @classmethod
    def of(
        cls,
        mask: "Tensor",
        positions: "Tensor | None" = None,
        token_ids: "Tensor | None" = None,
        training: bool = False,
    ) -> "ForwardPass":
        """Return the pass of a whole batch with these values (R, T), for tests of a method."""
        counted = (mask.cumsum(1) - 1).clamp(min=0) if positions is None else positions
        return cls(len(mask), training, Layout(len(mask), lambda: Positions(mask, counted, token_ids)))

    @property
    def mask(self) -> "Tensor":
        """The mask (R, T), zero at padding; the positions of a prompt come before those of the text."""
        return self._seen(self._values.mask)

    @property
    def positions(self) -> "Tensor":
        """The number of each position in its text (R, T), independent of the rest of the batch.

        Unmasked positions are counted from 0, plus the shift of the row's methods. In a row with several texts each
        text starts again at its first number; a step of generation continues the count. Padding has 0.
        """
        return self._seen(self._values.positions)

    @property
    def token_ids(self) -> "Tensor | None":
        """The tokens (R, T), -1 at the embeddings of a prompt; None if the input is not tokens."""
        token_ids = self._values.token_ids
        return None if token_ids is None else self._seen(token_ids)

    @property
    def prompt_ids(self) -> "Tensor | None":
        """In a step of generation, the tokens (R, S) of the prompts that were read before; otherwise None."""
        prompt_ids = self._values.prompt_ids
        return None if prompt_ids is None else self._of_rows(prompt_ids)

    @property
    def _values(self) -> Positions:
        if self.layout is None:
            raise AdaptError("this backbone does not provide the positions of the batch")
        return self.layout.values

    def _seen(self, values: "Tensor") -> "Tensor":
        if self.length not in (None, values.shape[1]):
            raise AdaptError(
                f"{self.length} positions pass the port, and the batch is laid out in {values.shape[1]}: the known "
                f"positions do not belong to this port"
            )
        return self._of_rows(values)

    def _of_rows(self, values: "Tensor") -> "Tensor":
        repeated = values.repeat_interleave(self.copies, dim=0) if self.copies > 1 else values
        part = repeated if self.span is None else repeated[self.span]
        return part if self.device is None else part.to(self.device)


CallHandler = Callable[[str, Layout], None]
"""Called before each call of the model in a search, with the half of the model and the layout of its positions."""


@dataclass(frozen=True)
class Batch:
    """The arguments of a forward pass of a backbone.

    ``inputs`` are the inputs of the features, padded, (R, T) each. ``reads`` is the half of the model for the head.
    ``virtual`` embeddings come before the input embeddings. ``encoded`` is the encoder's output for the same inputs,
    which is then not recomputed. ``shift`` (R), used only by methods with a :attr:`Method.shift`, moves a row's
    positions to the right. ``calls`` is for :meth:`Backbone.generate`, which calls it before each call of its search.
    """

    inputs: "Mapping[str, Tensor]"
    reads: str = "encoder"
    virtual: Virtual | None = None
    encoded: "Tensor | None" = None
    shift: "Tensor | None" = None
    calls: CallHandler | None = None
