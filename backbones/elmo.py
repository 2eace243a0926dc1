"""ELMo (Peters et al. 2018, arXiv:1802.05365), from the published files: ``options.json`` and ``weights.hdf5``.

The hidden states are the mean of the layers; ``features`` with a mix of layers learns weights for them. The
format is that of allenai/bilm-tf, gates there in the order i, j, f, o with 1.0 added to f.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adaptdock.backbones.fingerprint import fingerprint
from adaptdock.backbones.recurrent.bilm import CHARACTERS, BiLM, Shape, read_shape
from adaptdock.backbones.recurrent.character_tokenizer import CharacterTokenizer
from adaptdock.backbones.recurrent.lstm import State
from adaptdock.backbones.recurrent.recurrent_backbone import (
    RecurrentBackbone,
    check_options,
    chosen_dtype,
    linear_port,
    open_ports,
    place,
)
from adaptdock.backbones.transformers.devices import pick_device
from adaptdock.errors import BackboneError
from adaptdock.plugins.contracts import BackboneFamily, Batch, LoadOptions, Port

FORGET_BIAS = 1.0
GATES = [0, 2, 1, 3]  # torch's i, f, g, o among the file's i, j, f, o
DIRECTIONS = ("ahead", "back")
NAMES = {"ahead": "forward", "back": "backward"}


class ELMo(BackboneFamily):
    """Loads a folder with an options and a weight file, or the options file of one."""

    def accepts(self, name: str) -> bool:
        """Take what leads to an options file that describes LSTMs and a character CNN."""
        return _files(name) is not None

    def load(self, name: str, options: LoadOptions) -> "ELMoBackbone":
        """Load a model, frozen, with its character tokenizer; raise :class:`BackboneError` if that fails."""
        files = _files(name)
        if files is None:
            raise BackboneError(f"{name}: there is no options file of ELMo")
        check_options(name, options)
        described, weights = files
        if weights is None:
            raise BackboneError(f"{described}: the weights, an .hdf5 file, are missing beside it")
        told = _read_json(described)
        try:
            shape = read_shape(told)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise BackboneError(f"{described}: no options of ELMo: {reason}") from None
        model = _built(name, shape, weights)
        model.to(device=pick_device(options.device), dtype=chosen_dtype(options))
        mark = hashlib.sha256(json.dumps({key: told[key] for key in ("lstm", "char_cnn")}, sort_keys=True).encode())
        known_as = str(Path(name).expanduser().absolute())
        return ELMoBackbone(known_as, model, f"{fingerprint([weights])}-{mark.hexdigest()[:16]}")


class ELMoBackbone(RecurrentBackbone):
    """A frozen ELMo. It may also be built around a network that is already in memory."""

    architecture = "elmo"
    causal = False
    model: BiLM
    tokenizer: CharacterTokenizer

    def __init__(self, name: str, model: BiLM, fingerprint: str) -> None:
        super().__init__(name, model, CharacterTokenizer(model.shape.longest_word), fingerprint)
        self.width = 2 * model.shape.outputs
        self.ports = open_ports(list(_ports(model)), self.architecture)

    def vectors(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the token vectors (R, T, P) of words, given by their ``characters`` (R, T, C)."""
        return self.model.tokens(inputs["characters"])  # type: ignore[no-any-return]

    def through(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Return the mean of the layers (R, T, W)."""
        return self.model.mean(self.model(vectors, mask))

    def layers(self, batch: Batch) -> list[Tensor]:
        """Return the layers that ELMo mixes, and their mean."""
        found = self.model(*self.steps(batch.inputs, batch.virtual))
        return [*self.model.alike(found), self.model.mean(found)]

    @torch.inference_mode()
    def embed(self, sentences: Sequence[Sequence[str]], states: "list[list[State]] | None" = None) -> Tensor:
        """Return every layer (N + 1, R, T, W) of sentences given as words, without adapters and without <S> and </S>.

        What lies behind a sentence's end is zero. ``states``, from :meth:`states`, are carried from call to call: the
        original program does so, and what it says of a sentence depends on those before it in the same row.
        """
        given = [self.tokenizer.of_words(words) for words in sentences]
        longest = max(map(len, given))
        nothing = [0] * self.model.shape.longest_word
        padded = [[*words, *[nothing] * (longest - len(words))] for words in given]
        characters = torch.tensor(padded, device=self.device)
        mask = torch.tensor([[n < len(words) for n in range(longest)] for words in given], device=self.device)
        found = self.model(self.model.tokens(characters), mask, states)
        inner = torch.tensor([[n < len(words) for n in range(longest - 2)] for words in sentences], device=self.device)
        return torch.stack([layer[:, 1:-1] * inner.unsqueeze(-1) for layer in found if layer.shape[-1] == self.width])

    def states(self) -> list[list[State]]:
        """Return the states of a stream that begins: of each layer none yet."""
        return [[] for _ in self.model.layers]


# --------------------------------------------------------------------------------------- loading


def _files(name: str) -> tuple[Path, Path | None] | None:
    """Return the options file that a name leads to, and the weights beside it; None if there is no options file."""
    path = Path(name).expanduser()
    found = sorted(path.glob("*options*.json")) if path.is_dir() else [path] if path.suffix == ".json" else []
    described = next((file for file in found if file.is_file() and _is_elmo(file)), None)
    return None if described is None else (described, _weights(described))


def _is_elmo(file: Path) -> bool:
    try:
        told = _read_json(file)
    except BackboneError:
        return False
    return isinstance(told, dict) and "lstm" in told and "char_cnn" in told


def _weights(described: Path) -> Path | None:
    """Return the weights that belong to an options file: named as it is, or the only ones in its folder."""
    named = described.with_name(described.name.replace("options", "weights")).with_suffix(".hdf5")
    if named.is_file():
        return named
    for pattern in ("*weights*.hdf5", "*.hdf5"):
        found = sorted(described.parent.glob(pattern))
        if len(found) == 1:
            return found[0]
    return None


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackboneError(f"{file} cannot be read as JSON: {error}") from error


def _built(name: str, shape: Shape, weights: Path) -> BiLM:
    """Return the network with the weights of a file, in float32."""
    try:
        import h5py
    except ImportError:
        raise BackboneError(f"the weights of {name!r} are an HDF5 file: pip install 'adaptdock[elmo]'") from None
    found: dict[str, Tensor] = {}
    try:
        with h5py.File(weights, "r") as file:
            file.visititems(
                lambda key, item: found.update({key: torch.from_numpy(item[()]).float()} if _holds(item) else {})
            )
    except (OSError, TypeError, ValueError) as error:
        raise BackboneError(f"{weights} cannot be read as HDF5: {error}") from error
    model = BiLM(shape, projected="CNN_proj/W_proj" in found or shape.channels != shape.width)
    place(_renamed(found, model, weights), model, name)
    return model


def _holds(item: Any) -> bool:
    return hasattr(item, "shape")


def _renamed(found: Mapping[str, Tensor], model: BiLM, weights: Path) -> dict[str, Tensor]:
    """Return the weights of a file under the names of the network, each laid out as torch has it."""
    left = {key: tensor for key, tensor in found.items() if not key.startswith("softmax")}

    def take(key: str) -> Tensor:
        if key not in left:
            raise BackboneError(f"{weights} lacks {key!r}, which its options promise")
        return left.pop(key)

    table = take("char_embed")
    if len(table) != CHARACTERS - 1:
        raise BackboneError(f"{weights}: 'char_embed' has {len(table)} characters, the format has {CHARACTERS - 1}")
    state = {"tokens.characters.weight": torch.cat([torch.zeros_like(table[:1]), table])}  # 0: there is no word
    for number in range(len(model.tokens.convolutions)):
        at = f"tokens.convolutions.{number}"
        state[f"{at}.weight"] = take(f"CNN/W_cnn_{number}").squeeze(0).permute(2, 1, 0)
        state[f"{at}.bias"] = take(f"CNN/b_cnn_{number}")
    for number in range(len(model.tokens.highways)):
        for part in ("carry", "transform"):
            at = f"tokens.highways.{number}.{part}"
            state[f"{at}.weight"] = take(f"CNN_high_{number}/W_{part}").T
            state[f"{at}.bias"] = take(f"CNN_high_{number}/b_{part}")
    if model.tokens.projection is not None:
        state["tokens.projection.weight"] = take("CNN_proj/W_proj").T
        state["tokens.projection.bias"] = take("CNN_proj/b_proj")
    for layer in range(len(model.layers)):
        for number, direction in enumerate(DIRECTIONS):
            cell = f"RNN_{number}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"
            at = f"layers.{layer}.{direction}"
            state |= _cell(at, take(f"{cell}/W_0"), take(f"{cell}/B"), model.shape)
            if model.shape.projection is not None:
                state[f"{at}.projection.weight"] = take(f"{cell}/W_P_0").T
    if left:
        raise BackboneError(f"{weights} holds {min(left)!r} ({len(left)} such), of which its options say nothing")
    return state


def _cell(at: str, weight: Tensor, bias: Tensor, shape: Shape) -> dict[str, Tensor]:
    """Return the maps of a direction: what acts on the inputs, with the bias, and what acts on the state."""
    if weight.ndim != 2 or weight.shape[1] != 4 * shape.cell or bias.shape != (4 * shape.cell,):
        raise BackboneError(
            f"the weights of {at} have the shape {tuple(weight.shape)}; its options ask for {4 * shape.cell} columns"
        )
    gates = weight.T.view(4, shape.cell, -1)[GATES].flatten(0, 1)
    biases = bias.view(4, shape.cell)[GATES]
    biases[1] += FORGET_BIAS
    inputs = weight.shape[0] - shape.outputs
    return {
        f"{at}.input.weight": gates[:, :inputs],
        f"{at}.input.bias": biases.flatten(),
        f"{at}.recurrent.weight": gates[:, inputs:],
        f"{at}.recurrent.bias": torch.zeros(4 * shape.cell),
    }


# ----------------------------------------------------------------------------------------- ports


def _ports(model: BiLM) -> Iterator[Port]:
    """Yield the ports: token vectors, the maps beneath them, each direction's maps, each layer's output, all layers."""
    projection: nn.Module | None = model.tokens.projection
    width = model.shape.channels if projection is None else model.shape.width
    yield Port("embeddings", "embedding", "embeddings", 0, "", "tokens", outputs=width)
    for number in range(len(model.tokens.highways)):
        for part in ("carry", "transform"):
            at = f"tokens.highways.{number}.{part}"
            yield linear_port(model, at, f"highway_{part}", 0, at)
    if projection is not None:
        yield linear_port(model, "tokens.projection", "token_projection", 0, "tokens.projection")
    inputs, outputs = 2 * width, 2 * model.shape.outputs
    for layer in range(len(model.layers)):
        for direction in DIRECTIONS:
            for role in ("input", "recurrent", *(("projection",) if model.shape.projection else ())):
                name = f"layers.{layer}.{NAMES[direction]}.{role}"
                yield linear_port(model, name, role, layer, f"layers.{layer}.{direction}.{role}")
        yield Port(f"layers.{layer}.output", "hidden", "block", layer, "", f"layers.{layer}", inputs, outputs)
        inputs = outputs
    yield Port("layers", "layers", "layers", len(model.layers) + model.mixes_tokens, "", "layers")
