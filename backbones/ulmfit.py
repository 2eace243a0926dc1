"""ULMFiT (Howard and Ruder 2018, arXiv:1801.06146): an AWD-LSTM from the files of fastai.

A folder with the weights (``.pth`` as fastai's ``learn.save`` and ``save_encoder`` write them, or the same tensors as
``.safetensors``) and the vocabulary (``itos`` or ``vocab`` as ``.json``, ``.txt`` or ``.pkl``).
Sizes are read from the tensors. A ``.pth`` file is opened with ``torch.load(weights_only=True)``, which reads tensors
and containers of tensors and executes no code of the file. A file with anything else is refused.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from adaptdock.backbones.fingerprint import fingerprint
from adaptdock.backbones.recurrent.awd_lstm import AWDLSTM
from adaptdock.backbones.recurrent.fastai_vocabulary import VocabularyTokenizer, read_vocabulary
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

WEIGHTS, VOCABULARIES = (".pth", ".safetensors"), (".json", ".txt", ".pkl")
ENCODER, DECODER = "encoder.weight", "1.decoder."
RNN = re.compile(r"rnns\.(\d+)\.(?:module\.)?(weight|bias)_(ih|hh)_l0(_raw)?")
COPIES = re.compile(r"encoder_(?:dp|with_dropout)\.emb(?:ed)?\.weight")
"""Copies of the embeddings in fastai's module for embedding dropout."""


class ULMFiT(BackboneFamily):
    """Loads a folder with the weights and the vocabulary of an AWD-LSTM, or a path to the weight file."""

    def accepts(self, name: str) -> bool:
        """Take a folder with one weight file and a vocabulary but no ``config.json``, or that weight file."""
        return _files(name) is not None

    def load(self, name: str, options: LoadOptions) -> "ULMFiTBackbone":
        """Load a model, frozen, with its vocabulary; raise :class:`BackboneError` if that fails."""
        files = _files(name)
        if files is None:
            raise BackboneError(f"{name}: no weights of an AWD-LSTM with a vocabulary beside them were found there")
        check_options(name, options)
        weights, vocabulary = files
        tokenizer = VocabularyTokenizer(read_vocabulary(vocabulary))
        state = renamed(read_state(weights), weights)
        model = _built(name, state, tokenizer)
        if len(tokenizer) != model.embeddings.num_embeddings:
            raise BackboneError(
                f"{vocabulary} has {len(tokenizer)} words, {weights} has {model.embeddings.num_embeddings} embeddings: "
                f"they do not belong together"
            )
        model.to(device=pick_device(options.device), dtype=chosen_dtype(options))
        return ULMFiTBackbone(str(Path(name).expanduser().absolute()), model, tokenizer, fingerprint([weights]))


class ULMFiTBackbone(RecurrentBackbone):
    """A frozen AWD-LSTM; it can also be built around a network in memory."""

    architecture = "awd_lstm"
    causal = True
    model: AWDLSTM

    def __init__(self, name: str, model: AWDLSTM, tokenizer: VocabularyTokenizer, fingerprint: str) -> None:
        super().__init__(name, model, tokenizer, fingerprint)
        self.width = model.embeddings.embedding_dim
        self.vocabulary = tokenizer.digest
        words = model.embeddings.num_embeddings
        ports = [Port("embeddings", "embedding", "embeddings", 0, "", "embeddings", words, self.width)]
        for number in range(len(model.layers)):
            at = f"layers.{number}"
            maps = [
                linear_port(model, f"{at}.{role}", role, number, f"{at}.ahead.{role}")
                for role in ("input", "recurrent")
            ]
            ports += maps
            outputs = maps[1].inputs
            ports.append(Port(f"{at}.output", "hidden", "block", number, "", at, maps[0].inputs, outputs))
        self.ports = open_ports(ports, self.architecture)

    def vectors(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the word vectors (R, T, E)."""
        return self.model.embeddings(inputs["input_ids"])  # type: ignore[no-any-return]

    def through(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Return the last layer's outputs (R, T, E)."""
        return self.model(vectors, mask)  # type: ignore[no-any-return]

    def entering(self, inputs: Mapping[str, Tensor], layer: int | None) -> Tensor:
        """Return the states (R, T, width) that enter a layer."""
        if layer is None:
            return self.forward(Batch(inputs))
        x = self.model.input_dropout(self.vectors(inputs))
        return self.model.between(x, inputs["attention_mask"], 0, layer)

    def resumed(self, inputs: Mapping[str, Tensor], layer: int, hidden: Tensor) -> Tensor:
        """Return the last layer's outputs, from the states that enter a layer."""
        return self.model.between(hidden, inputs["attention_mask"], layer, len(self.model.layers))

    def embeddings(self) -> Tensor:
        """Return the frozen word vectors (V, E)."""
        return self.model.embeddings.weight

    def vocabulary_logits(self, hidden: Tensor) -> Tensor:
        """Return the language model's logits (R, T, V)."""
        if self.model.decoder is None:
            raise BackboneError(
                f"the backbone {self.id!r} holds an encoder only, as save_encoder of fastai writes, and has no map "
                f"to the vocabulary. Save the whole language model (learn.save)."
            )
        return self.model.decoder(hidden)  # type: ignore[no-any-return]


# --------------------------------------------------------------------------------------- loading


def _files(name: str) -> tuple[Path, Path] | None:
    """Return the weight file and the vocabulary file of a name, or None."""
    path = Path(name).expanduser()
    folder = path if path.is_dir() else path.parent
    if path.is_file() and path.suffix not in WEIGHTS:
        return None
    if not path.exists() or (folder / "config.json").exists():  # config.json marks a model of transformers
        return None
    weights = [path] if path.is_file() else [file for suffix in WEIGHTS for file in sorted(folder.glob(f"*{suffix}"))]
    words = [
        file
        for suffix in VOCABULARIES
        for file in sorted(folder.glob(f"*{suffix}"))
        if "itos" in file.stem or "vocab" in file.stem
    ]
    return (weights[0], words[0]) if len(weights) == 1 and words else None


def read_state(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a weight file by name; raise :class:`BackboneError` for a file with anything else."""
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except (SafetensorError, OSError) as error:
            raise BackboneError(f"{file} cannot be read: {error}") from error
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, OSError, EOFError) as error:
        raise BackboneError(
            f"{file} cannot be read as weights alone, and nothing else is ever loaded of a pickle. Save it where you "
            f"trust it: torch.save(learn.model.state_dict(), 'weights.pth'). ({str(error).splitlines()[0]})"
        ) from error
    # learn.save stores the optimiser beside the model
    content = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise BackboneError(f"{file} does not hold a table of tensors")
    return dict(content)


def renamed(state: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Return fastai's weights under the names of :class:`AWDLSTM`, in float32, without the layers of a classifier.

    Raises :class:`BackboneError` for another network: QRNN, or two directions.
    """
    table = next((key for key in state if key.endswith(ENCODER)), None)
    if table is None:
        raise BackboneError(f"{file} has no {ENCODER!r}: it is not an AWD-LSTM of fastai")
    prefix = table.removesuffix(ENCODER)
    weights = {"embeddings.weight": state[table].float()}
    raw = set()
    for key, tensor in state.items():
        inner = key.removeprefix(prefix) if key.startswith(prefix) else ""
        match = RNN.fullmatch(inner)
        if match:
            layer, kind, side, is_raw = match.groups()
            name = f"layers.{layer}.ahead.{'input' if side == 'ih' else 'recurrent'}.{kind}"
            if is_raw or name not in raw:  # without _raw: a copy that weight dropout has thinned out
                weights[name] = tensor.float()
            raw |= {name} if is_raw else set()
        elif inner.startswith("rnns."):
            raise BackboneError(f"{file}: {key!r} belongs to a network that is not a one-directional LSTM")
        elif key.startswith(DECODER):
            weights[f"decoder.{key.removeprefix(DECODER)}"] = tensor.float()
        elif inner != ENCODER and not COPIES.fullmatch(inner) and not key.startswith("1."):
            raise BackboneError(f"{file}: {key!r} is not a weight of an AWD-LSTM")
    return weights


def _built(name: str, state: Mapping[str, Tensor], tokenizer: VocabularyTokenizer) -> AWDLSTM:
    """Return a network with the sizes of its weights."""
    numbers = {int(key.split(".")[1]) for key in state if key.startswith("layers.")}
    recurrent = state.get("layers.0.ahead.recurrent.weight")
    if recurrent is None or numbers != set(range(len(numbers))):
        raise BackboneError(f"the backbone {name!r} cannot be loaded: it lacks layers, found {sorted(numbers)}")
    words, width = state["embeddings.weight"].shape
    model = AWDLSTM(
        words,
        width,
        hidden=recurrent.shape[1],
        layers=len(numbers),
        padding=tokenizer.pad_token_id,
        decoder="decoder.weight" in state,
        bias="decoder.bias" in state,
    )
    place(state, model, name)
    return model
