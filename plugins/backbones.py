"""Backbones: loading a model, its ports, and its forward pass.

Letters of shapes: R rows of a batch, T positions, W the width of the hidden states,
L virtual positions before the text, V words of the vocabulary.
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
from adaptdock.plugins.processors import TEXT, Processor

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

AttentionHandler = Callable[["Port", int], "list[Prepended]"]
"""Returns the keys and values before those of an attention port, from the port and the number of rows."""


TRIAL_TOKENS = ((5, 6, 7), (8, 5, 9))
"""The tokens of a trial; every vocabulary has them."""


class Continuation(ABC):
    """The state of texts in generation (the KV cache), one row per text; rows join and leave between steps."""

    @abstractmethod
    def append(self, tokens: "Tensor") -> "Tensor":
        """Read the next token of each row (R), and return the logits (R, V) of the one after it."""

    @abstractmethod
    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these."""

    @abstractmethod
    def join(self, other: "Continuation") -> None:
        """Append the rows of another continuation of the same model."""


class Backbone(ABC):
    """A loaded, frozen model with its ports.

    Attributes: ``id`` (the name from the user), ``revision``, ``architecture``, ``fingerprint`` (of
    the checkpoint's contents), ``model``, ``tokenizer``, ``processor`` (of
    a model that reads no tokens), ``ports``, ``width`` of the hidden
    states, ``max_length`` in tokens, ``causal`` (a position sees only the positions before it), ``encoder_decoder``
    (the model has two halves), ``decoder_start`` (the first token of the decoder's answer), ``dropped`` (number of
    layers removed from its top), ``vocabulary`` (a hash of the tokens and their numbers; empty if not known),
    ``quantized``, ``divided`` (the shares of processes that divide its weights, in words; empty if they do
    not), ``hub_id`` (the public name, if ``id`` is an alias), ``files`` (of the checkpoint, for
    :meth:`stored`; empty for a model from memory).
    """

    id: str
    revision: str | None
    architecture: str
    fingerprint: str
    model: "nn.Module"
    tokenizer: Any
    processor: Processor | None = None
    ports: Ports
    width: int
    max_length: int
    causal: bool
    encoder_decoder: bool = False
    decoder_start: int | None = None
    dropped: int = 0
    vocabulary: str = ""
    quantized: str | None = None
    divided: str = ""
    hub_id: str | None = None
    files: tuple[Path, ...] = ()

    @property
    def modality(self) -> str:
        """What the backbone reads; :attr:`Task.modality` must be the same."""
        return TEXT if self.processor is None else self.processor.modality

    @property
    @abstractmethod
    def device(self) -> "torch.device":
        """The device of the inputs."""

    @property
    @abstractmethod
    def dtype(self) -> "torch.dtype":
        """The dtype of the hidden states."""

    @abstractmethod
    def placement(self, port: Port) -> "torch.device":
        """Return the device of a port's module."""

    @abstractmethod
    def forward(self, batch: Batch) -> "Tensor":
        """Return the last hidden states (R, T, W) of the half of the model that a head reads.

        With virtual embeddings the states include theirs: (R, L + T, W). Masked embeddings and left padding come
        first, so a row's virtual embeddings are directly before its text. The decoder reads ``decoder_input_ids``; in
        their absence it reads the text, after its start token. With ``position_ids`` (R, T), a text begins at each 0
        and does not see the texts before it.
        """

    def trial_inputs(self) -> "dict[str, Tensor]":
        """Return the inputs of two different rows of equal length, for a trial or a measurement of the model."""
        import torch

        ids = torch.tensor(TRIAL_TOKENS, device=self.device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def module(self, port: Port) -> "nn.Module":
        """Return the module of a port."""
        return self.model.get_submodule(port.module)

    def layers(self, batch: Batch) -> "list[Tensor]":
        """Return the input (R, L + T, W) of each layer, followed by the result of :meth:`forward`.

        Raises :class:`BackboneError` if they are not accessible; such a backbone has no port of the kind ``layers``.
        """
        raise BackboneError(f"the backbone {self.id!r} does not show the states of its layers")

    def entering(self, inputs: "Mapping[str, Tensor]", layer: int | None) -> "Tensor":
        """Return the input (R, T, W) of a layer without computing the layers after it; for None, the last states.

        Raises :class:`BackboneError` if a model cannot start at a layer.
        """
        raise BackboneError(f"the backbone {self.id!r} cannot begin at a layer")

    def resumed(self, inputs: "Mapping[str, Tensor]", layer: int, hidden: "Tensor") -> "Tensor":
        """Return the result of :meth:`forward`, computed from the result (R, T, W) of :meth:`entering` for a layer."""
        raise BackboneError(f"the backbone {self.id!r} cannot begin at a layer")

    def weight(self, port: Port) -> "Tensor":
        """Return the frozen weight (outputs, inputs) of a linear port, dequantised."""
        raise BackboneError(f"the backbone {self.id!r} does not give its weights away")

    def bias(self, port: Port) -> "Tensor":
        """Return the frozen bias (outputs) of a linear port; zeros if it has none."""
        raise BackboneError(f"the backbone {self.id!r} does not give its weights away")

    def norm(self, path: str) -> "tuple[Tensor, Tensor, float]":
        """Return factor (W), bias (W) and epsilon of a frozen layer norm.

        Raises :class:`BackboneError` for other norms.
        """
        raise BackboneError(f"the backbone {self.id!r} does not give its weights away")

    def stored(self, name: str) -> "Tensor | None":
        """Return a tensor of the checkpoint by its name, also one that the model does not use (a head), or None."""
        return None

    def embeddings(self) -> "Tensor":
        """Return the frozen input embeddings (V, W); raise :class:`BackboneError` if they have another width."""
        raise BackboneError(f"the backbone {self.id!r} does not give its weights away")

    def vocabulary_logits(self, hidden: "Tensor") -> "Tensor":
        """Return the frozen language model's logits (R, T, V) for hidden states (R, T, W)."""
        raise BackboneError(f"the backbone {self.id!r} is not a language model: it has no LM head")

    def generate(self, batch: Batch, options: Mapping[str, Any], seeds: Sequence[int] | None = None) -> "Tensor":
        """Return new tokens (R, N) after the inputs (R, T), padded on the right.

        ``options``: max_new_tokens, num_beams, repetition_penalty, and for sampling temperature, top_k and
        top_p. With ``seeds``, one per row, tokens are sampled. Beam search repeats a row, its copies in
        succession. ``batch.calls`` is called before each call of the model.
        """
        raise BackboneError(f"the backbone {self.id!r} is not a language model: it cannot generate text")

    @property
    def endings(self) -> frozenset[int]:
        """The tokens that end a generated text."""
        return frozenset()

    @property
    def writes_in_steps(self) -> bool:
        """Whether :meth:`begin` works: the model generates text, and its state can be divided by rows."""
        return False

    def begin(self, batch: Batch) -> "tuple[Tensor, Continuation]":
        """Read inputs (R, T), padded on the left; return the logits (R, V) of the next token, and the state.

        ``batch.shift`` (R) moves the positions of each row to the right, including generated tokens.
        Raises :class:`BackboneError` if the model cannot generate in steps.
        """
        raise BackboneError(f"the backbone {self.id!r} does not write in steps")

    def save(self, folder: Path, maps: "Mapping[Port, tuple[Tensor, Tensor]]") -> None:
        """Save a copy of the model with its tokenizer, with new weights and biases of linear ports.

        ``maps`` has weight (outputs, inputs) and bias (outputs) of each port. The copy must be loadable without this
        project, like the original. Raises :class:`BackboneError` if a layer cannot have these weights, or the model
        cannot be saved.
        """
        raise BackboneError(f"the backbone {self.id!r} cannot be saved as a model without adapters")

    @abstractmethod
    def open_attention(self, handler: AttentionHandler) -> AbstractContextManager[None]:
        """Return a context in which attention calls get the handler's keys and values for their port."""


class BackboneFamily(ABC):
    """Recognises and loads the models of one kind."""

    api_version: ClassVar[int] = API_VERSION
    general: ClassVar[bool] = False
    """True for a family that accepts any name, and is therefore asked last."""
    aliases: ClassVar[Collection[str]] = ()
    """Names that belong to this family alone."""

    @abstractmethod
    def accepts(self, name: str) -> bool:
        """Return whether this family can load the model with this name, path or hub id."""

    @abstractmethod
    def load(self, name: str, options: LoadOptions) -> Backbone:
        """Load and freeze a model; raise :class:`BackboneError` with the reason on failure."""
