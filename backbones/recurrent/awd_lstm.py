"""AWD-LSTM (Merity et al. 2018, arXiv:1708.02182), the network of ULMFiT (Howard and Ruder 2018, arXiv:1801.06146).

Layers of LSTMs in one direction; the last layer is as wide as the embeddings, which also map to the vocabulary.
Training drops whole words from the embedding table, recurrent weights, and for each row the same channels at every
step. Places and shares of dropout are those of fastai's ``AWD_LSTM``.

Letters in shapes: R rows, T steps, E the width of the embeddings, V words of the vocabulary.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptdock.backbones.recurrent.lstm import LSTM, State


@dataclass(frozen=True)
class Dropout:
    """Dropout shares in training; the defaults are those of fastai's language models."""

    embedding: float = 0.02
    input: float = 0.25
    weight: float = 0.2
    hidden: float = 0.15
    output: float = 0.1

    def times(self, factor: float) -> "Dropout":
        """Return all shares multiplied, as by fastai's ``drop_mult``."""
        return Dropout(*(factor * share for share in vars(self).values()))


class Variational(nn.Module):
    """Variational dropout: drops the same channels of a row at every step, (R, T, E) -> (R, T, E)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Return the remaining values, scaled up to keep the expected sum."""
        if not self.training or not self.share:
            return x
        return x * functional.dropout(x.new_ones(len(x), 1, x.shape[-1]), self.share)


class Embeddings(nn.Embedding):
    """A table of embeddings of which whole words are dropped while training."""

    share: float = 0.0

    def forward(self, input: Tensor) -> Tensor:
        """Return the vectors of words, (R, T) -> (R, T, E)."""
        vectors = super().forward(input)
        if not self.training or not self.share:
            return vectors
        mask = functional.dropout(vectors.new_ones(self.num_embeddings), self.share)
        return vectors * mask[input].unsqueeze(-1)


class Layer(nn.Module):
    """One layer: (R, T, inputs) -> (R, T, outputs)."""

    def __init__(self, inputs: int, outputs: int, weight_dropout: float) -> None:
        super().__init__()
        self.ahead = LSTM(inputs, outputs, weight_dropout=weight_dropout)

    def forward(self, x: Tensor, mask: Tensor, states: "list[State] | None" = None) -> Tensor:
        """Return the outputs; ``states``, if given, holds the start state and is filled with the end state."""
        outputs, end = self.ahead(x, mask, states[0] if states else None)
        if states is not None:
            states[:] = [end]
        return outputs  # type: ignore[no-any-return]


class AWDLSTM(nn.Module):
    """The network, with its map to the vocabulary where it is a whole language model (``decoder``)."""

    def __init__(
        self,
        vocabulary: int,
        width: int,
        hidden: int,
        layers: int,
        padding: int | None = None,
        decoder: bool = True,
        bias: bool = True,
        dropout: Dropout | None = None,
    ) -> None:
        super().__init__()
        dropout = dropout or Dropout()
        self.embeddings = Embeddings(vocabulary, width, padding_idx=padding)
        self.embeddings.share = dropout.embedding
        widths = [width, *[hidden] * (layers - 1), width]
        self.layers = nn.ModuleList(Layer(inputs, outputs, dropout.weight) for inputs, outputs in pairwise(widths))
        self.input_dropout = Variational(dropout.input)
        self.hidden_dropout = Variational(dropout.hidden)
        self.output_dropout = Variational(dropout.output)
        self.decoder = nn.Linear(width, vocabulary, bias=bias) if decoder else None

    def forward(self, vectors: Tensor, mask: Tensor, states: "list[list[State]] | None" = None) -> Tensor:
        """Return the last hidden states (R, T, E) for word vectors (R, T, E).

        ``states`` holds a list for each layer; an empty list starts with zeros. Each list is filled with the state
        after each row's last word.
        """
        return self.between(self.input_dropout(vectors), mask, 0, len(self.layers), states)

    def between(
        self, x: Tensor, mask: Tensor, first: int, end: int, states: "list[list[State]] | None" = None
    ) -> Tensor:
        """Return the inputs (R, T, width) of layer ``end``, computed from the inputs of layer ``first``."""
        for number in range(first, end):
            x = self.layers[number](x, mask, None if states is None else states[number])
            x = self.hidden_dropout(x) if number < len(self.layers) - 1 else x
        return x

    def tie(self) -> None:
        """Tie the map to the vocabulary to the weights of the embeddings."""
        if self.decoder is not None:
            self.decoder.weight = self.embeddings.weight

    @torch.no_grad()
    def start(self) -> None:
        """Fill the embeddings uniformly within 0.1, as the paper does, and the bias of the decoder with zeros."""
        self.embeddings.weight.uniform_(-0.1, 0.1)
        if self.decoder is not None and self.decoder.bias is not None:
            self.decoder.bias.zero_()
