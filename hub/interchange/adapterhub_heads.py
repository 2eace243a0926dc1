"""The prediction heads of AdapterHub, read: layers with a function between them, before the last map."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptdock.hub.interchange import head_layouts
from adaptdock.hub.interchange.incoming import Headed, Named, read_json, read_tensors, refuse
from adaptdock.plugins.contracts import Backbone

CONFIG, WEIGHTS = "head_config.json", ("model_head.safetensors", "pytorch_model_head.bin")
SEQUENCE = ("classification", "multilabel_classification")
VOCABULARY = ("causal_lm", "seq2seq_lm")


def read_head(folder: Path, backbone: Backbone, labels: tuple[str, ...]) -> tuple[Headed, list[str]]:
    """Return the head in a folder, and notes; where there is none, what suits the backbone."""
    if not (folder / CONFIG).is_file():
        writes = getattr(backbone, "generator", None) is not None
        kind = "generation" if writes else "embedding"
        return Headed(kind), [f"the adapter has no head; it is taken for {kind}"]
    config = read_json(folder / CONFIG)["config"]
    layers = _layers(read_tensors(folder, WEIGHTS))
    kind = config["head_type"]
    if kind in VOCABULARY:
        return _vocabulary(config, layers, backbone), []
    between = head_layouts.function(config.get("activation_function"), "the head")
    functions = (between,) * (len(layers) - 1)
    tensors = _named(layers)
    if kind == "question_answering":
        if functions or tensors["weight"].shape[0] != 2:
            raise refuse("a head for question answering with several layers", "ours has one")
        return Headed("qa", {}, tensors), []
    names, notes = _labels(config, tensors["weight"].shape[0], labels)
    if kind == "tagging":
        return head_layouts.token_head(names, {"hidden_layers": functions}, tensors), notes
    if kind not in SEQUENCE:
        raise refuse(f"the head {kind}", "there is no task for it here")
    options, tensors = _pooled(config, functions, tensors, backbone, notes)
    return head_layouts.sequence_head(names, kind == "multilabel_classification", options, tensors), notes


def _layers(tensors: Named) -> list[Named]:
    """Return the weights of each layer, by their numbers among the head's modules."""
    found: dict[int, Named] = {}
    for key, tensor in tensors.items():
        match = re.fullmatch(r"heads\.[^.]+\.(\d+)\.(weight|bias)", key)
        if match is None:
            raise refuse(f"the tensor {key!r} of the head", "it belongs to no layer of a head that is known here")
        found.setdefault(int(match[1]), {})[match[2]] = tensor
    return [found[number] for number in sorted(found)]


def _named(layers: list[Named]) -> Named:
    """Return the tensors of linear layers by our names; a bias that is not there is zero."""
    tensors: Named = {}
    for number, layer in enumerate(layers):
        front = "" if number == len(layers) - 1 else f"hidden{number}_"
        tensors[f"{front}weight"] = layer["weight"]
        bias = layer.get("bias")
        tensors[f"{front}bias"] = layer["weight"].new_zeros(layer["weight"].shape[0]) if bias is None else bias
    return tensors


def _labels(config: Mapping[str, Any], classes: int, given: tuple[str, ...]) -> tuple[tuple[str, ...], list[str]]:
    numbers = {int(number): str(label) for label, number in (config.get("label2id") or {}).items()}
    if given:
        if len(given) != classes:
            raise refuse("the head", f"it has {classes} classes, and --labels names {len(given)}")
        return given, []
    if sorted(numbers) == list(range(classes)):
        return tuple(numbers[number] for number in range(classes)), []
    return head_layouts.numbered(classes), ["the head does not name its classes; they are called LABEL_0, ..."]


def _pooled(
    config: Mapping[str, Any], functions: tuple[str, ...], tensors: Named, backbone: Backbone, notes: list[str]
) -> tuple[dict[str, Any], Named]:
    """Return what a head reads, and its weights, after those of the pooler if it reads that."""
    if backbone.encoder_decoder:
        raise refuse(f"the head {config['head_type']} of an encoder-decoder", "it reads the decoder's last state")
    if not config.get("use_pooler"):
        if backbone.causal:
            notes.append("a text is read at its last token")
        return {"pooling": "last" if backbone.causal else "first", "hidden_layers": functions}, tensors
    layout = head_layouts.sequence_layout(backbone)
    if not layout.body:
        raise refuse("a head that reads the pooler", f"{backbone.architecture!r} has none that is known here")
    ((module, name),) = layout.layers
    weight, bias = head_layouts.HeadWeights(backbone, {}).linear(module, "the head")
    moved: Named = {"hidden0_weight": weight, "hidden0_bias": bias}
    for key, tensor in tensors.items():
        match = re.fullmatch(r"hidden(\d+)_(\w+)", key)
        moved[key if match is None else f"hidden{int(match[1]) + 1}_{match[2]}"] = tensor
    return {"pooling": "first", "hidden_layers": (name, *functions)}, moved


def _vocabulary(config: Mapping[str, Any], layers: list[Named], backbone: Backbone) -> Headed:
    """Return a head with a map to the vocabulary of its own."""
    own, causal = head_layouts.config_of(backbone), config["head_type"] == "causal_lm"
    if causal and not backbone.causal:
        raise refuse("the head causal_lm", f"{backbone.architecture!r} reads both ways")
    normed = bool(config.get("layer_norm"))
    *before, last = layers
    step = 2 if normed else 1
    between = head_layouts.function(config.get("activation_function"), "the head")
    tensors = _named([*before[::step], last])
    for number, norm in enumerate(before[1::step] if normed else ()):
        epsilon = float(getattr(own, "layer_norm_eps", 1e-12))
        tensors |= {f"norm{number}_weight": norm["weight"], f"norm{number}_bias": norm["bias"]}
        tensors[f"norm{number}_epsilon"] = norm["weight"].new_full((1,), epsilon)
    if any(tensor.shape[0] != backbone.width for name, tensor in tensors.items() if name.startswith("hidden")):
        raise refuse("a head with an embedding size of its own", "the layers of ours are as wide as the backbone")
    scaled = (
        not causal and getattr(own, "model_type", "") in ("t5", "mt5") and getattr(own, "tie_word_embeddings", True)
    )
    options = {
        "vocabulary": tensors["weight"].shape[0],
        "hidden_layers": (between,) * len(before[::step]),
        "norms": normed,
        "states_scale": float(own.d_model**-0.5) if scaled else 1.0,
    }
    return Headed("clm" if causal else "generation", options, tensors)
