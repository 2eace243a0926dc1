"""The network of ELMo: a character CNN, highway layers, and LSTMs that read in both directions (Peters et al. 2018).

arXiv:1802.05365; the equations are from the authors' program bilm-tf. Both directions run side by side, and neither
reads the other.

Letters in shapes: R rows, T words, C characters of a word, F filters in all, P the width of the token vectors, O the
output width of a direction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from adaptdock.backbones.recurrent.lstm import LSTM, State

CHARACTERS = 262
"""Characters of the format: 256 bytes, five special ones, and 0 where there is no word."""


@dataclass(frozen=True)
class Shape:
    """The sizes and settings of a network in ``options.json``."""

    filters: tuple[tuple[int, int], ...]
    character_width: int
    longest_word: int
    highways: int
    activation: Literal["relu", "tanh"]
    layers: int
    cell: int
    width: int
    skip_connections: bool
    cell_clip: float | None
    projection_clip: float | None

    @property
    def channels(self) -> int:
        """The number of filters F."""
        return sum(count for _, count in self.filters)

    @property
    def projection(self) -> int | None:
        """The width to which each direction is projected; None for a cell that is not wider."""
        return self.width if self.width < self.cell else None

    @property
    def outputs(self) -> int:
        """The output width O of a direction."""
        return self.projection or self.cell


class Highway(nn.Module):
    """``carry * relu(W x + b) + (1 - carry) * x``, where carry is the sigmoid of another linear map of x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.carry, self.transform = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (R, T, F)."""
        carry = self.carry(x).sigmoid()
        return carry * self.transform(x).relu() + (1 - carry) * x  # type: ignore[no-any-return]


class CharacterCNN(nn.Module):
    """A vector for each word, from its characters: (R, T, C) -> (R, T, P)."""

    def __init__(self, shape: Shape, projected: bool) -> None:
        super().__init__()
        self.characters = nn.Embedding(CHARACTERS, shape.character_width, padding_idx=0)
        self.convolutions = nn.ModuleList(nn.Conv1d(shape.character_width, n, size) for size, n in shape.filters)
        self.highways = nn.ModuleList(Highway(shape.channels) for _ in range(shape.highways))
        self.projection = nn.Linear(shape.channels, shape.width) if projected else None
        self.activation = {"relu": torch.relu, "tanh": torch.tanh}[shape.activation]

    def forward(self, characters: Tensor) -> Tensor:
        """Return the token vectors (R, T, P), max-pooled over the characters of each word."""
        rows, words, length = characters.shape
        embedded = self.characters(characters.reshape(rows * words, length)).mT  # (R T, character width, C)
        features = [self.activation(convolution(embedded).amax(-1)) for convolution in self.convolutions]
        x = torch.cat(features, dim=-1).view(rows, words, -1)
        for highway in self.highways:
            x = highway(x)
        return x if self.projection is None else self.projection(x)


class Both(nn.Module):
    """One layer in both directions, the forward half of the channels first: (R, T, 2 I) -> (R, T, 2 O).

    With ``skip`` the inputs are added to the outputs.
    """

    def __init__(self, inputs: int, shape: Shape, skip: bool) -> None:
        super().__init__()
        sizes = (shape.cell, shape.projection, shape.cell_clip, shape.projection_clip)
        self.ahead, self.back = LSTM(inputs, *sizes), LSTM(inputs, *sizes, backward=True)
        self.skip = skip

    def forward(self, x: Tensor, mask: Tensor, states: "list[State] | None" = None) -> Tensor:
        """Return the outputs; ``states``, if given, holds the start states and is filled with the end states."""
        first, second = x.chunk(2, dim=-1)
        ahead, end = self.ahead(first, mask, states[0] if states else None)
        back, other_end = self.back(second, mask, states[1] if states else None)
        if states is not None:
            states[:] = [end, other_end]
        outputs = torch.cat([ahead, back], dim=-1)
        return outputs + x if self.skip else outputs


class BiLM(nn.Module):
    """The whole network up to its last layer; the published files lack the softmax over words."""

    def __init__(self, shape: Shape, projected: bool) -> None:
        super().__init__()
        self.shape = shape
        self.tokens = CharacterCNN(shape, projected)
        vectors = shape.width if projected else shape.channels
        widths = [vectors, *[shape.outputs] * (shape.layers - 1)]
        self.layers = nn.ModuleList(
            Both(width, shape, skip=shape.skip_connections and number > 0) for number, width in enumerate(widths)
        )
        self.mixes_tokens = vectors == shape.outputs

    def forward(self, tokens: Tensor, mask: Tensor, states: "list[list[State]] | None" = None) -> list[Tensor]:
        """Return the token vectors, twice side by side (R, T, 2 P), and then each layer's outputs (R, T, 2 O).

        ``states`` holds a list for each layer; an empty list starts with zeros. Each list is filled with the states
        after each row's last word. Passed again with the next words, they continue the text.
        """
        x = torch.cat([tokens, tokens], dim=-1)
        outputs = [x]
        for number, layer in enumerate(self.layers):
            x = layer(x, mask, None if states is None else states[number])
            outputs.append(x)
        return outputs

    def alike(self, layers: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the layers (R, T, 2 O) that ELMo mixes, without token vectors of another width."""
        return layers if self.mixes_tokens else layers[1:]

    def mean(self, layers: Sequence[Tensor]) -> Tensor:
        """Return ELMo's weighted sum (R, T, 2 O) with the start weights, softmax(0) and gamma = 1."""
        return torch.stack(list(self.alike(layers))).mean(0)


def read_shape(options: Mapping[str, Any]) -> Shape:
    """Return the shape in the options; raise KeyError, TypeError or ValueError for missing or wrong entries."""
    lstm, cnn = options["lstm"], options["char_cnn"]
    activation = cnn.get("activation", "relu")
    if activation not in ("relu", "tanh"):
        raise ValueError(f"the activation of its character CNN is {activation!r}; there are relu and tanh")
    return Shape(
        filters=tuple((int(size), int(count)) for size, count in cnn["filters"]),
        character_width=int(cnn["embedding"]["dim"]),
        longest_word=int(cnn.get("max_characters_per_token", 50)),
        highways=int(cnn.get("n_highway") or 0),
        activation=activation,
        layers=int(lstm["n_layers"]),
        cell=int(lstm["dim"]),
        width=int(lstm["projection_dim"]),
        skip_connections=bool(lstm.get("use_skip_connections", False)),
        cell_clip=_positive(lstm.get("cell_clip")),
        projection_clip=_positive(lstm.get("proj_clip")),
    )


def _positive(clip: Any) -> float | None:
    return float(clip) if clip else None
