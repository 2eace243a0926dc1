"""Import of AdapterHub's prediction heads: linear layers with an activation function between them."""

import re
from pathlib import Path
from typing import Any

from adaptdock.hub.interchange import head_layouts
from adaptdock.hub.interchange.adapterhub_config import FolderOptions, HeadOptions
from adaptdock.hub.interchange.incoming import Headed, read_json, unknown_notes
from adaptdock.hub.interchange.incoming_tensors import read_tensors
from adaptdock.plugins.contracts import Backbone
from adaptdock.plugins.toolkit.interchange.activations import our_name
from adaptdock.plugins.toolkit.interchange.ports import config_of
from adaptdock.plugins.toolkit.interchange.tensors import ForeignTensors, ModuleTensors, Named, contradiction, refuse

CONFIG, WEIGHTS = "head_config.json", ("model_head.safetensors", "pytorch_model_head.bin")
LAYERS = re.compile(r"heads\.(?P<adapter>[^.]+)\.(?P<module>\d{1,4})\.(?P<part>weight|bias)")
SEQUENCE = ("classification", "multilabel_classification")
VOCABULARY = ("causal_lm", "seq2seq_lm")
KNOWN = (*SEQUENCE, *VOCABULARY, "tagging", "question_answering")


def head_type(folder: Path) -> str | None:
    """Return the type of the head in a folder, or None without a head."""
    path = folder / CONFIG
    if not path.is_file():
        return None
    values = read_json(path)
    if values.get("config") is None:  # a head of transformers, which read_head refuses
        return None
    return HeadOptions.parse(FolderOptions.parse(values, path).config, path, "config").head_type


def read_head(folder: Path, backbone: Backbone, labels: tuple[str, ...]) -> tuple[Headed, list[str]]:
    """Return the head in a folder, and notes; without a head, the default head for the backbone."""
    path = folder / CONFIG
    if not path.is_file():
        weights = next((name for name in WEIGHTS if (folder / name).exists()), None)
        if weights is not None:
            raise refuse(f"the head in {weights}", f"there is no {CONFIG} beside it that describes it")
        writes = getattr(backbone, "generator", None) is not None
        kind = "generation" if writes else "embedding"
        return Headed(kind), [f"the adapter has no head; it is taken for {kind}"]
    values = read_json(path)
    if values.get("config") is None:
        raise refuse(
            f"the head of {values.get('model_class')!r}", f"{path} describes none of AdapterHub's own heads ('config')"
        )
    about = FolderOptions.parse(values, path)
    options = HeadOptions.parse(about.config, path, "config")
    if options.head_type not in KNOWN:
        raise refuse(f"the head {options.head_type}", "adaptdock has no task for it")
    tensors = read_tensors(folder, WEIGHTS)
    layers = _layers(tensors, about)
    head, notes = _head(options, layers, tensors, backbone, labels)
    surplus = next(iter(tensors.unused), None)
    if surplus is not None:
        raise refuse(f"the tensor {surplus!r} of the head", "it belongs to no layer that its configuration describes")
    return head, [*notes, *unknown_notes((*about.unknown, *options.unknown), "AdapterHub's heads")]


def _head(
    options: HeadOptions,
    layers: list[ModuleTensors],
    tensors: ForeignTensors,
    backbone: Backbone,
    labels: tuple[str, ...],
) -> tuple[Headed, list[str]]:
    if options.head_type in VOCABULARY:
        return _vocabulary(options, layers, tensors, backbone), []
    _check_count(options, len(layers), len(layers), tensors)
    head = _linear(layers, backbone.width, options.bias is not False)
    classes = head["weight"].shape[0]
    if options.num_labels not in (None, classes):
        raise contradiction(
            tensors.path, "num_labels", options.num_labels, layers[-1].name("weight"), f"has {classes} classes"
        )
    functions = (our_name(options.activation_function, "the head"),) * (len(layers) - 1)
    if options.head_type == "question_answering":
        if functions or classes != 2:
            raise refuse("a head for question answering with several layers", "ours has one")
        return Headed("qa", {}, head), []
    names, notes = _labels(options, classes, labels, tensors.path)
    if options.head_type == "tagging":
        return head_layouts.token_head(names, {"hidden_layers": functions}, head), notes
    values, head = _pooled(options, functions, head, backbone, notes)
    return head_layouts.sequence_head(names, options.head_type == "multilabel_classification", values, head), notes


def _layers(tensors: ForeignTensors, about: FolderOptions) -> list[ModuleTensors]:
    """Return the tensors of each layer, in the order of the head's modules."""
    for name in tensors.unused:
        match = LAYERS.fullmatch(name)
        if match is None:
            raise refuse(f"the tensor {name!r} of the head", "it belongs to no layer of a head that is known here")
        if about.name is not None and match["adapter"] != about.name:
            raise contradiction(tensors.path, "name", repr(about.name), name, f"is of a head {match['adapter']!r}")
    modules = tensors.modules(LAYERS)
    return [modules[number] for number in sorted(modules, key=int)]


def _check_count(options: HeadOptions, linear: int, modules: int, tensors: ForeignTensors) -> None:
    """Raise :class:`UsageError` if the numbers of layers in head and configuration differ."""
    if options.layers not in (None, linear) or not modules:
        state = f"belongs to a head of {linear} layers"
        raise contradiction(tensors.path, "layers", options.layers, next(iter(tensors.names), "heads"), state)


def _linear(layers: list[ModuleTensors], width: int, biased: bool) -> Named:
    """Take the tensors of linear layers, under our names; ``biased`` tells whether the last layer has a bias."""
    weights: Named = {}
    for number, layer in enumerate(layers):
        last = number == len(layers) - 1
        front = "" if last else f"hidden{number}_"
        shape = layer.shape("weight")
        outputs = shape[0] if last and shape else width
        weight = layer.taken("weight", (outputs, width), f"the backbone is {width} wide")
        weights[f"{front}weight"] = weight
        if last and not biased:
            weights["bias"] = weight.new_zeros(outputs)
        else:
            weights[f"{front}bias"] = layer.taken("bias", (outputs,), f"its layer has {outputs} outputs")
    return weights


def _labels(
    options: HeadOptions, classes: int, labels: tuple[str, ...], path: Path
) -> tuple[tuple[str, ...], list[str]]:
    if labels:
        if len(labels) != classes or len(set(labels)) != classes:
            raise refuse("the head", f"it has {classes} classes, and --labels names {len(set(labels))}")
        return labels, []
    if options.label2id is None:
        return head_layouts.numbered(classes), ["the head does not name its classes; they are called LABEL_0, ..."]
    names = {number: label for label, number in options.label2id.items()}
    if sorted(options.label2id.values()) != list(range(classes)):
        raise contradiction(
            path,
            "label2id",
            options.label2id,
            "weight of the last layer",
            f"has {classes} classes (name them by --labels)",
        )
    return tuple(names[number] for number in range(classes)), []


def _pooled(
    options: HeadOptions, functions: tuple[str, ...], weights: Named, backbone: Backbone, notes: list[str]
) -> tuple[dict[str, Any], Named]:
    """Return the options and weights of a head; a head on the pooler gets the pooler's layer first."""
    if backbone.encoder_decoder:
        raise refuse(f"the head {options.head_type} of an encoder-decoder", "it reads the decoder's last state")
    if not options.use_pooler:
        if backbone.causal:
            notes.append("a text is read at its last token")
        return {"pooling": "last" if backbone.causal else "first", "hidden_layers": functions}, weights
    layout = head_layouts.sequence_layout(backbone)
    if not layout.body:
        raise refuse("a head that reads the pooler", f"{backbone.architecture!r} has none that is known here")
    ((module, name),) = layout.layers
    weight, bias = head_layouts.HeadWeights(backbone).linear(module, "the head")
    moved: Named = {"hidden0_weight": weight, "hidden0_bias": bias}
    for key, tensor in weights.items():
        match = re.fullmatch(r"hidden(\d+)_(\w+)", key)
        moved[key if match is None else f"hidden{int(match[1]) + 1}_{match[2]}"] = tensor
    return {"pooling": "first", "hidden_layers": (name, *functions)}, moved


def _vocabulary(
    options: HeadOptions, layers: list[ModuleTensors], tensors: ForeignTensors, backbone: Backbone
) -> Headed:
    """Return a language-model head with its own vocabulary map."""
    config, causal = config_of(backbone), options.head_type == "causal_lm"
    if causal and not backbone.causal:
        raise refuse("the head causal_lm", f"{backbone.architecture!r} reads both ways")
    normed = bool(options.layer_norm)
    step, width = (2 if normed else 1), backbone.width
    linear = [*layers[:-1:step], *layers[-1:]]
    norms = layers[1:-1:2] if normed else []
    _check_count(options, len(linear), len(layers), tensors)
    if options.embedding_size not in (None, width):
        raise refuse("a head with an embedding size of its own", "the layers of ours are as wide as the backbone")
    between = our_name(options.activation_function, "the head")
    weights = _linear(linear, width, bool(options.bias))
    words = weights["weight"].shape[0]
    if options.vocab_size not in (None, words):
        raise contradiction(
            tensors.path, "vocab_size", options.vocab_size, linear[-1].name("weight"), f"has {words} words"
        )
    for number, norm in enumerate(norms):
        for part in ("weight", "bias"):
            weights[f"norm{number}_{part}"] = norm.taken(part, (width,), "it is a layer norm of the backbone's width")
        epsilon = float(getattr(config, "layer_norm_eps", 1e-12))
        weights[f"norm{number}_epsilon"] = weights[f"norm{number}_weight"].new_full((1,), epsilon)
    scaled = (
        not causal
        and getattr(config, "model_type", "") in ("t5", "mt5")
        and getattr(config, "tie_word_embeddings", True)
    )
    values = {
        "vocabulary": words,
        "hidden_layers": (between,) * (len(linear) - 1),
        "norms": normed,
        "states_scale": float(config.d_model**-0.5) if scaled else 1.0,
    }
    return Headed("clm" if causal else "generation", values, weights)
