"""ELMo (Peters et al. 2018, arXiv:1802.05365), from the published files: ``options.json`` and ``weights.hdf5``.

The hidden states are the mean of the layers; ``features`` with a mix of layers learns weights for them. The
format is that of allenai/bilm-tf: its gates have the order i, j, f, o, and 1.0 is added to f.
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
    """Loads a folder with an options file and a weight file, or a path to the options file."""

    def accepts(self, name: str) -> bool:
        """Take a folder or path with an options file that describes LSTMs and a character CNN."""
        return _files(name) is not None

    def load(self, name: str, options: LoadOptions) -> "ELMoBackbone":
        """Load a model, frozen, with its character tokenizer; raise :class:`BackboneError` if that fails."""
        files = _files(name)
        if files is None:
            raise BackboneError(f"{name}: no ELMo options file was found there")
        check_options(name, options)
        options_file, weights = files
        if weights is None:
            raise BackboneError(f"{options_file}: the weights, an .hdf5 file, are missing beside the options file")
        settings = _read_json(options_file)
        try:
            shape = read_shape(settings)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise BackboneError(f"{options_file}: not an ELMo options file: {reason}") from None
        model = _built(name, shape, weights)
        model.to(device=pick_device(options.device), dtype=chosen_dtype(options))
        # The options are part of the fingerprint: with another clip or activation the same weights give other states.
        mark = hashlib.sha256(json.dumps({key: settings[key] for key in ("lstm", "char_cnn")}, sort_keys=True).encode())
        known_as = str(Path(name).expanduser().absolute())
        return ELMoBackbone(known_as, model, f"{fingerprint([weights])}-{mark.hexdigest()[:16]}")


class ELMoBackbone(RecurrentBackbone):
    """A frozen ELMo model; it can also be built around a network in memory."""

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
        outputs = self.model(*self.steps(batch.inputs, batch.virtual))
        return [*self.model.alike(outputs), self.model.mean(outputs)]

    @torch.inference_mode()
    def embed(self, sentences: Sequence[Sequence[str]], states: "list[list[State]] | None" = None) -> Tensor:
        """Return every layer (N + 1, R, T, W) of sentences given as words, without adapters and without <S> and </S>.

        Positions after the end of a sentence are zero. ``states``, from :meth:`states`, are carried from call to call.
        The original program carries them too: its vectors depend on the earlier sentences of the same row.
        """
        character_ids = [self.tokenizer.of_words(words) for words in sentences]
        longest = max(map(len, character_ids))
        no_word = [0] * self.model.shape.longest_word
        padded = [[*words, *[no_word] * (longest - len(words))] for words in character_ids]
        characters = torch.tensor(padded, device=self.device)
        mask = torch.tensor([[n < len(words) for n in range(longest)] for words in character_ids], device=self.device)
        layers = self.model(self.model.tokens(characters), mask, states)
        inner = torch.tensor([[n < len(words) for n in range(longest - 2)] for words in sentences], device=self.device)
        return torch.stack([layer[:, 1:-1] * inner.unsqueeze(-1) for layer in layers if layer.shape[-1] == self.width])

    def states(self) -> list[list[State]]:
        """Return empty states, one list per layer, for the start of a stream."""
        return [[] for _ in self.model.layers]


# --------------------------------------------------------------------------------------- loading


def _files(name: str) -> tuple[Path, Path | None] | None:
    """Return the options file and the weights of a name; None without an options file."""
    path = Path(name).expanduser()
    candidates = sorted(path.glob("*options*.json")) if path.is_dir() else [path] if path.suffix == ".json" else []
    options_file = next((file for file in candidates if file.is_file() and _is_elmo(file)), None)
    return None if options_file is None else (options_file, _weights(options_file))


def _is_elmo(file: Path) -> bool:
    try:
        settings = _read_json(file)
    except BackboneError:
        return False
    return isinstance(settings, dict) and "lstm" in settings and "char_cnn" in settings


def _weights(options_file: Path) -> Path | None:
    """Return the weight file of an options file: the one with the same name, or the only one in the folder."""
    namesake = options_file.with_name(options_file.name.replace("options", "weights")).with_suffix(".hdf5")
    if namesake.is_file():
        return namesake
    for pattern in ("*weights*.hdf5", "*.hdf5"):
        matches = sorted(options_file.parent.glob(pattern))
        if len(matches) == 1:
            return matches[0]
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
    tensors: dict[str, Tensor] = {}
    try:
        with h5py.File(weights, "r") as file:
            file.visititems(
                lambda key, item: tensors.update({key: torch.from_numpy(item[()]).float()} if _holds(item) else {})
            )
    except (OSError, TypeError, ValueError) as error:
        raise BackboneError(f"{weights} cannot be read as HDF5: {error}") from error
    model = BiLM(shape, projected="CNN_proj/W_proj" in tensors or shape.channels != shape.width)
    place(_renamed(tensors, model, weights), model, name)
    return model


def _holds(item: Any) -> bool:
    return hasattr(item, "shape")


def _renamed(tensors: Mapping[str, Tensor], model: BiLM, weights: Path) -> dict[str, Tensor]:
    """Return the weights of a file under the network's names, each in torch's layout."""
    remaining = {key: tensor for key, tensor in tensors.items() if not key.startswith("softmax")}

    def take(key: str) -> Tensor:
        if key not in remaining:
            raise BackboneError(f"{weights} lacks {key!r}, which its options file requires")
        return remaining.pop(key)

    table = take("char_embed")
    if len(table) != CHARACTERS - 1:
        raise BackboneError(f"{weights}: 'char_embed' has {len(table)} characters, the format has {CHARACTERS - 1}")
    # The file has no row for number 0, which marks a missing word; the embedding table needs one.
    state = {"tokens.characters.weight": torch.cat([torch.zeros_like(table[:1]), table])}
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
    if remaining:
        raise BackboneError(f"{weights} holds {min(remaining)!r} ({len(remaining)} such), unknown to its options file")
    return state


def _cell(at: str, weight: Tensor, bias: Tensor, shape: Shape) -> dict[str, Tensor]:
    """Return the two linear maps of a direction: the map of the inputs, with the bias, and the map of the state."""
    if weight.ndim != 2 or weight.shape[1] != 4 * shape.cell or bias.shape != (4 * shape.cell,):
        raise BackboneError(
            f"the weights of {at} have the shape {tuple(weight.shape)}; its options ask for {4 * shape.cell} columns"
        )
    gates = weight.T.view(4, shape.cell, -1)[GATES].flatten(0, 1)
    biases = bias.view(4, shape.cell)[GATES]
    biases[1] += FORGET_BIAS  # the forget gate, after reordering: bilm-tf adds it when it computes, not in the file
    inputs = weight.shape[0] - shape.outputs
    return {
        f"{at}.input.weight": gates[:, :inputs],
        f"{at}.input.bias": biases.flatten(),
        f"{at}.recurrent.weight": gates[:, inputs:],
        f"{at}.recurrent.bias": torch.zeros(4 * shape.cell),
    }


# ----------------------------------------------------------------------------------------- ports


def _ports(model: BiLM) -> Iterator[Port]:
    """Yield the ports: token vectors, the maps below them, each direction's maps, each layer's output, all layers."""
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
