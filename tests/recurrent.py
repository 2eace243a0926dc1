"""Tiny recurrent backbones in the published formats, and ELMo's equations in plain numpy, written for reading."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

Arrays = dict[str, np.ndarray]
Carried = dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]

ELMO: dict[str, Any] = {
    "lstm": {
        "cell_clip": 0.8,
        "use_skip_connections": True,
        "n_layers": 2,
        "proj_clip": 0.7,
        "projection_dim": 12,
        "dim": 20,
    },
    "char_cnn": {
        "embedding": {"dim": 4},
        "filters": [[1, 4], [2, 6], [3, 10]],
        "n_highway": 2,
        "n_characters": 262,
        "max_characters_per_token": 50,
        "activation": "relu",
    },
}
WORDS = ["xxunk", "xxpad", "xxbos", "xxup", "xxmaj", "xxrep", "xxwrep", "ada", "met", "bob", "in", "oslo", "rain", "."]


def elmo_options(lstm: Mapping[str, Any] | None = None, cnn: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"lstm": {**ELMO["lstm"], **(lstm or {})}, "char_cnn": {**ELMO["char_cnn"], **(cnn or {})}}


def elmo_weights(options: Mapping[str, Any], seed: int = 0) -> Arrays:
    """Random weights in the layout of bilm-tf, large enough that clips bind, small enough that errors do not grow."""
    draw = np.random.default_rng(seed)
    lstm, cnn = options["lstm"], options["char_cnn"]
    width, cell, total = lstm["projection_dim"], lstm["dim"], sum(count for _, count in cnn["filters"])
    outputs = min(width, cell)
    found: Arrays = {"char_embed": draw.normal(size=(261, cnn["embedding"]["dim"]))}
    for number, (size, count) in enumerate(cnn["filters"]):
        found[f"CNN/W_cnn_{number}"] = draw.normal(size=(1, size, cnn["embedding"]["dim"], count)) * 0.5
        found[f"CNN/b_cnn_{number}"] = draw.normal(size=count) * 0.1
    for number in range(cnn.get("n_highway") or 0):
        for part in ("carry", "transform"):
            found[f"CNN_high_{number}/W_{part}"] = draw.normal(size=(total, total)) * total**-0.5
            found[f"CNN_high_{number}/b_{part}"] = draw.normal(size=total) * 0.1
    if total != width:
        found["CNN_proj/W_proj"] = draw.normal(size=(total, width)) * total**-0.5
        found["CNN_proj/b_proj"] = draw.normal(size=width) * 0.1
    for direction in range(2):
        for layer in range(lstm["n_layers"]):
            at = f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"
            inputs = width if layer == 0 else outputs
            found[f"{at}/W_0"] = draw.normal(size=(inputs + outputs, 4 * cell)) * 0.4
            found[f"{at}/B"] = draw.normal(size=4 * cell) * 0.3
            if width < cell:
                found[f"{at}/W_P_0"] = draw.normal(size=(cell, width)) * 0.6
    return {name: array.astype(np.float32) for name, array in found.items()}


def write_elmo(folder: Path, options: Mapping[str, Any] | None = None, seed: int = 0) -> Path:
    options = elmo_options() if options is None else options
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "options.json").write_text(json.dumps(options))
    with h5py.File(folder / "weights.hdf5", "w") as file:
        for name, array in elmo_weights(options, seed).items():
            file[name] = array
    return folder


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def word_ids(word: str | int, longest: int) -> list[int]:
    inner = [word] if isinstance(word, int) else list(word.encode())[: longest - 2]
    return [n + 1 for n in [258, *inner, 259, *[260] * (longest - len(inner) - 2)]]


def token_vector(ids: Sequence[int], options: Mapping[str, Any], weights: Arrays) -> np.ndarray:
    cnn = options["char_cnn"]
    table = np.concatenate([np.zeros_like(weights["char_embed"][:1]), weights["char_embed"]])
    letters = table[ids]
    activation = np.tanh if cnn.get("activation") == "tanh" else lambda x: np.maximum(x, 0)
    parts = []
    for number, (size, _) in enumerate(cnn["filters"]):
        kernel, bias = weights[f"CNN/W_cnn_{number}"][0], weights[f"CNN/b_cnn_{number}"]
        seen = [np.einsum("sd,sdf->f", letters[start : start + size], kernel) for start in range(len(ids) - size + 1)]
        parts.append(activation(np.max(seen, axis=0) + bias))
    x = np.concatenate(parts)
    for number in range(cnn.get("n_highway") or 0):
        at = f"CNN_high_{number}"
        carry = sigmoid(x @ weights[f"{at}/W_carry"] + weights[f"{at}/b_carry"])
        x = carry * np.maximum(x @ weights[f"{at}/W_transform"] + weights[f"{at}/b_transform"], 0) + (1 - carry) * x
    return x @ weights["CNN_proj/W_proj"] + weights["CNN_proj/b_proj"] if "CNN_proj/W_proj" in weights else x


def run_direction(
    xs: Sequence[np.ndarray], at: str, options: Mapping[str, Any], weights: Arrays, state: tuple[np.ndarray, np.ndarray]
) -> tuple[list[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """One layer over the words in the order given; ``state`` is output and cell."""
    lstm, (out, cell) = options["lstm"], state
    found = []
    for x in xs:
        i, j, f, o = np.split(np.concatenate([x, out]) @ weights[f"{at}/W_0"] + weights[f"{at}/B"], 4)
        cell = sigmoid(f + 1.0) * cell + sigmoid(i) * np.tanh(j)
        if lstm.get("cell_clip"):
            cell = np.clip(cell, -lstm["cell_clip"], lstm["cell_clip"])
        out = sigmoid(o) * np.tanh(cell)
        if f"{at}/W_P_0" in weights:
            out = out @ weights[f"{at}/W_P_0"]
            if lstm.get("proj_clip"):
                out = np.clip(out, -lstm["proj_clip"], lstm["proj_clip"])
        found.append(out)
    return found, (out, cell)


def elmo_layers(sentence: Sequence[str], options: Mapping[str, Any], weights: Arrays, carried: Carried) -> np.ndarray:
    """Every layer (N + 1, T, 2 O) of one sentence in float64; ``carried`` is where the sentence before has ended."""
    weights = {name: array.astype(np.float64) for name, array in weights.items()}
    lstm, longest = options["lstm"], options["char_cnn"]["max_characters_per_token"]
    outputs = min(lstm["projection_dim"], lstm["dim"])
    tokens = [token_vector(word_ids(word, longest), options, weights) for word in (256, *sentence, 257)]
    by_direction: list[list[list[np.ndarray]]] = []
    for direction in range(2):
        xs = tokens if direction == 0 else tokens[::-1]
        layers = [xs]
        for layer in range(lstm["n_layers"]):
            at = f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"
            start = carried.get((direction, layer), (np.zeros(outputs), np.zeros(lstm["dim"])))
            found, carried[direction, layer] = run_direction(layers[-1], at, options, weights, start)
            if lstm.get("use_skip_connections") and layer > 0:
                found = [one + other for one, other in zip(found, layers[-1], strict=True)]
            layers.append(found)
        by_direction.append([found if direction == 0 else found[::-1] for found in layers])
    both = [
        np.stack([np.concatenate(pair) for pair in zip(*found, strict=True)][1:-1])
        for found in zip(*by_direction, strict=True)
    ]
    return np.stack(both)


def awd_state(vocabulary: int = len(WORDS), width: int = 12, hidden: int = 20, layers: int = 3, seed: int = 0) -> Any:
    """The weights of a language model under the names that fastai 2 gives them."""
    draw = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw) * 0.4

    state = {"0.encoder.weight": random(vocabulary, width)}
    state["0.encoder_dp.emb.weight"] = state["0.encoder.weight"]
    widths = [width, *[hidden] * (layers - 1), width]
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        at = f"0.rnns.{number}"
        state[f"{at}.weight_hh_l0_raw"] = random(4 * outputs, outputs)
        state[f"{at}.module.weight_ih_l0"] = random(4 * outputs, inputs)
        state[f"{at}.module.bias_ih_l0"] = random(4 * outputs)
        state[f"{at}.module.bias_hh_l0"] = random(4 * outputs)
    return {**state, "1.decoder.weight": state["0.encoder.weight"], "1.decoder.bias": random(vocabulary)}


def write_ulmfit(folder: Path, words: Sequence[str] = WORDS, state: Any = None, name: str = "weights.pth") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(awd_state(len(words)) if state is None else state, folder / name)
    (folder / "itos.json").write_text(json.dumps(list(words)))
    return folder
