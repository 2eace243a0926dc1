"""Backbones: how a model is loaded, where its ports are, and how it is run.

Shapes are written with these letters: R rows of a batch, T positions, W the width of the hidden states,
L positions put in front, V words of the vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from adaptdock.errors import BackboneError
from adaptdock.plugins.forward_pass import Batch
from adaptdock.plugins.options import API_VERSION, LoadOptions
from adaptdock.plugins.ports import Port, Ports, Prepended

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

AttentionHandler = Callable[["Port", int], "list[Prepended]"]
"""Given a port and the number of rows in the call, says what stands in front of its keys."""


class Continuation(ABC):
    """What a language model keeps of texts that it is writing, a row for each; rows join and leave between steps."""

    @abstractmethod
    def append(self, tokens: "Tensor") -> "Tensor":
        """Read the next token of each row (R), and return the logits (R, V) of the one after it."""

    @abstractmethod
    def keep(self, rows: Sequence[int]) -> None:
        """Forget all rows but these."""

    @abstractmethod
    def join(self, other: "Continuation") -> None:
        """Take the rows of another continuation of the same model, after its own."""


class Backbone(ABC):
    """A loaded, frozen model with its ports.

    Attributes: ``id`` (as the user named it), ``revision``, ``architecture``, ``fingerprint`` (of
    the checkpoint's contents), ``model``, ``tokenizer``, ``ports``, ``width`` of the hidden
    states, ``max_length`` in tokens, ``causal`` (a position sees only what stands before it), ``encoder_decoder``
    (it has two halves), ``decoder_start`` (the token with which the answer of the second half begins),
    ``dropped`` (layers that were left off its top), ``vocabulary`` (a hash of which token has which number; empty
    if not known), ``quantized``, ``hub_id`` (the name by which others know it, where ``id`` is an alias),
    ``files`` (of the checkpoint, which :meth:`stored` reads; none where the model came from memory).
    """

    id: str
    revision: str | None
    architecture: str
    fingerprint: str
    model: "nn.Module"
    tokenizer: Any
    ports: Ports
    width: int
    max_length: int
    causal: bool
    encoder_decoder: bool = False
    decoder_start: int | None = None
    dropped: int = 0
    vocabulary: str = ""
    quantized: str | None = None
    hub_id: str | None = None
    files: tuple[Path, ...] = ()

    @property
    @abstractmethod
    def device(self) -> "torch.device":
        """The device that inputs go to."""

    @property
    @abstractmethod
    def dtype(self) -> "torch.dtype":
        """The dtype of the hidden states."""

    @abstractmethod
    def placement(self, port: Port) -> "torch.device":
        """Return the device on which a port's module computes."""

    @abstractmethod
    def forward(self, batch: Batch) -> "Tensor":
        """Return the last hidden states (R, T, W) of the half of the model that a head reads.

        With virtual embeddings in front of the inputs' own, states include theirs: (R, L + T, W). What is
        masked of them, and padding on the left, comes first: a row's own stand directly before its text.
        The decoder reads ``decoder_input_ids``, or where there are none the text itself, after its start token.
        Where there are ``position_ids`` (R, T), a text begins at each 0 and sees nothing of those before it.
        """

    def layers(self, batch: Batch) -> "list[Tensor]":
        """Return the hidden states (R, L + T, W) that enter each layer, and after them what :meth:`forward` gives.

        Raises :class:`BackboneError` where they cannot be seen; such a backbone has no port of the kind ``layers``.
        """
        raise BackboneError(f"the backbone {self.id!r} does not show the states of its layers")

    def entering(self, inputs: "Mapping[str, Tensor]", layer: int | None) -> "Tensor":
        """Return the hidden states (R, T, W) that enter a layer, computing none above; the last ones for None.

        Raises :class:`BackboneError` where a model cannot begin in its middle.
        """
        raise BackboneError(f"the backbone {self.id!r} cannot begin at a layer")

    def resumed(self, inputs: "Mapping[str, Tensor]", layer: int, hidden: "Tensor") -> "Tensor":
        """Return what :meth:`forward` does, computed from what :meth:`entering` gave for that layer (R, T, W)."""
        raise BackboneError(f"the backbone {self.id!r} cannot begin at a layer")

    def weight(self, port: Port) -> "Tensor":
        """Return the frozen weight (outputs, inputs) of a linear port, dequantised."""
        raise BackboneError(f"the backbone {self.id!r} does not give its weights away")

    def bias(self, port: Port) -> "Tensor":
        """Return the frozen bias (outputs) of a linear port; zeros where it has none."""
        raise BackboneError(f"the backbone {self.id!r} does not give its weights away")

    def norm(self, path: str) -> "tuple[Tensor, Tensor, float]":
        """Return factor (W), bias (W) and epsilon of a frozen layer norm; raise :class:`BackboneError` for another."""
        raise BackboneError(f"the backbone {self.id!r} does not give its weights away")

    def stored(self, name: str) -> "Tensor | None":
        """Return a tensor of the checkpoint by its name there, used or not (a head); None where there is none."""
        return None

    def embeddings(self) -> "Tensor":
        """Return the frozen input embeddings (V, W); raise :class:`BackboneError` where they are of another width."""
        raise BackboneError(f"the backbone {self.id!r} does not give its weights away")

    def vocabulary_logits(self, hidden: "Tensor") -> "Tensor":
        """Return the frozen language model's logits (R, T, V) for hidden states (R, T, W)."""
        raise BackboneError(f"the backbone {self.id!r} is no language model: it has no map to a vocabulary")

    def generate(self, batch: Batch, options: Mapping[str, Any], seeds: Sequence[int] | None = None) -> "Tensor":
        """Return new tokens (R, N) after the inputs (R, T), padded on the right.

        ``options``: max_new_tokens, num_beams, repetition_penalty, and for draws temperature, top_k and
        top_p. Tokens are drawn where there are ``seeds``, one for each row. A row may stand in the
        model several times (its beams), one copy after the other. ``batch.calls`` is told each call of the model.
        """
        raise BackboneError(f"the backbone {self.id!r} is no language model: it cannot write")

    @property
    def endings(self) -> frozenset[int]:
        """The tokens with which a written text ends."""
        return frozenset()

    @property
    def writes_in_steps(self) -> bool:
        """Whether :meth:`begin` can be called: the model writes, and keeps nothing but what rows can leave with."""
        return False

    def begin(self, batch: Batch) -> "tuple[Tensor, Continuation]":
        """Read inputs (R, T), padded on the left; return the logits (R, V) of the next token, and what was kept.

        A shift (R) moves the positions of each row to the right, of what is written too.
        Raises :class:`BackboneError` where the model cannot write in steps.
        """
        raise BackboneError(f"the backbone {self.id!r} does not write in steps")

    def save(self, folder: Path, maps: "Mapping[Port, tuple[Tensor, Tensor]]") -> None:
        """Write a copy of the model, tokenizer included, in which linear ports have another weight and bias.

        ``maps`` gives weight (outputs, inputs) and bias (outputs). Whoever made the original must be able to
        load the copy without this project. Raises :class:`BackboneError` where a map cannot become what is
        given, or the model cannot be saved.
        """
        raise BackboneError(f"the backbone {self.id!r} cannot be saved as a model that stands for itself")

    @abstractmethod
    def open_attention(self, handler: AttentionHandler) -> AbstractContextManager[None]:
        """While the context is open, attention calls see what the handler gives for their port."""


class BackboneFamily(ABC):
    """How models of one kind are recognised and loaded."""

    api_version: ClassVar[int] = API_VERSION
    general: ClassVar[bool] = False
    """True for a family that takes any name, which is therefore asked last."""
    aliases: ClassVar[Collection[str]] = ()
    """Names that are this family's and no other's."""

    @abstractmethod
    def accepts(self, name: str) -> bool:
        """Tell whether this family can load the model of that name, path or hub id."""

    @abstractmethod
    def load(self, name: str, options: LoadOptions) -> Backbone:
        """Load a model, frozen; raise :class:`BackboneError` with the reason if that fails."""
