"""What is known of a pass: what a backbone is given, and what every act of a method may look at.

Shapes are written with these letters: R rows, T positions, L positions put in front, W the width of the hidden states.
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
    """The positions of a half of the model: each (R, T); see :class:`ForwardPass`."""

    mask: "Tensor"
    positions: "Tensor"
    token_ids: "Tensor | None" = None


@dataclass(frozen=True, eq=False)
class Layout:
    """How the positions of one half of the model are laid out; ``compute`` is called when somebody looks, and once."""

    rows: int
    compute: Callable[[], Positions]

    @cached_property
    def values(self) -> Positions:
        """The tensors."""
        return self.compute()

    def with_tokens(self, token_ids: "Tensor | None") -> "Layout":
        """Return this layout with other token ids (R, T)."""
        return Layout(self.rows, lambda: self.values._replace(token_ids=token_ids))


@dataclass(frozen=True, eq=False)
class ForwardPass:
    """What an act of a method may look at, beside its parameters and the tensors that pass the port.

    ``rows`` is the number R of rows that it acts on, a part of the batch or all of it, and of a search each row
    with its beams. ``training`` is true while this adapter is trained. The other values are tensors, which are
    computed when a method first asks for them: one that does not look pays nothing.
    """

    rows: int
    training: bool = False
    layout: Layout | None = None
    copies: int = 1
    """How many times in succession each row of the layout passes the port."""
    span: slice | None = None
    length: int | None = None
    """The number T of positions that pass the port, where that is known; the layout must have as many."""
    device: "torch.device | None" = None

    @classmethod
    def of(
        cls,
        mask: "Tensor",
        positions: "Tensor | None" = None,
        token_ids: "Tensor | None" = None,
        training: bool = False,
    ) -> "ForwardPass":
        """Return the pass of a whole batch with these values (R, T), as the test of a method needs it."""
        counted = (mask.cumsum(1) - 1).clamp(min=0) if positions is None else positions
        return cls(len(mask), training, Layout(len(mask), lambda: Positions(mask, counted, token_ids)))

    @property
    def mask(self) -> "Tensor":
        """One where there is something, zero at padding (R, T); a prompt's positions come before the text's own."""
        return self._seen(self._values.mask)

    @property
    def positions(self) -> "Tensor":
        """The number of each position in its text (R, T), whatever stands beside the text in the batch.

        They are counted from 0 over what the mask shows, and moved to the right by the shift of the row's methods. A
        row that holds several texts begins again at each; a step of generation goes on counting. Padding has 0.
        """
        return self._seen(self._values.positions)

    @property
    def token_ids(self) -> "Tensor | None":
        """The tokens (R, T), -1 where an embedding of a prompt stands; None where the input is no tokens."""
        token_ids = self._values.token_ids
        return None if token_ids is None else self._seen(token_ids)

    @property
    def _values(self) -> Positions:
        if self.layout is None:
            raise AdaptError("this backbone does not tell how the positions of the batch are laid out")
        return self.layout.values

    def _seen(self, values: "Tensor") -> "Tensor":
        if self.length not in (None, values.shape[1]):
            raise AdaptError(
                f"{self.length} positions pass the port, and the batch is laid out in {values.shape[1]}: what is "
                f"known of the positions does not belong to this port"
            )
        repeated = values.repeat_interleave(self.copies, dim=0) if self.copies > 1 else values
        part = repeated if self.span is None else repeated[self.span]
        return part if self.device is None else part.to(self.device)


CallHandler = Callable[[str, Layout], None]
"""Is told, before each call of the model in a search, the half that is called and how its positions are laid out."""


@dataclass(frozen=True)
class Batch:
    """What a backbone is given for a pass.

    ``inputs`` are those that features have, padded, (R, T) each. ``reads`` is the half of the model that a head reads.
    ``virtual`` embeddings stand in front of the inputs' own. ``encoded`` is what the same inputs gave for the encoder,
    which is then not computed again. ``shift`` (R), which only methods with a :attr:`Method.shift` ask for, moves a
    row's positions to the right. ``calls`` is for :meth:`Backbone.generate`, which tells it each call of its search.
    """

    inputs: "Mapping[str, Tensor]"
    reads: str = "encoder"
    virtual: Virtual | None = None
    encoded: "Tensor | None" = None
    shift: "Tensor | None" = None
    calls: CallHandler | None = None
