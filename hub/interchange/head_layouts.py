"""Layouts of transformers' heads as our layers: the state they read, the layers before the last map, and that map.

Names and functions are from the modelling files of transformers 5. ``body`` layers (poolers) belong to the model and
are frozen; the others belong to the head. If an adapter saves only the last map, the checkpoint has the others.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from adaptdock.errors import UnknownNameError
from adaptdock.hub.interchange.incoming import Headed
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone
from adaptdock.plugins.toolkit.interchange.activations import our_name
from adaptdock.plugins.toolkit.interchange.peft import Change
from adaptdock.plugins.toolkit.interchange.ports import config_of, ends
from adaptdock.plugins.toolkit.interchange.tensors import ForeignTensors, refuse

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Layout:
    """A head: the state it reads, (module, function) of the layers before its last map, and the last map.

    ``norms`` are the layer norms after the layers, none or one each.
    """

    reads: str
    layers: tuple[tuple[str, str], ...]
    last: str
    body: frozenset[str] = frozenset()
    norms: tuple[str, ...] = ()

    @property
    def modules(self) -> tuple[str, ...]:
        """The paths of all modules of the head."""
        return (*(module for module, _ in self.layers), *self.norms, self.last)


_POOLED = Layout("first", (("pooler.dense", "tanh"),), "classifier", frozenset({"pooler.dense"}))
_ROBERTA = Layout("first", (("classifier.dense", "tanh"),), "classifier.out_proj")
_CONTEXT = Layout("first", (("pooler.dense", "gelu"),), "classifier")
NORMED = Layout("first", (("head.dense", "gelu"),), "classifier", norms=("head.norm",))
"""The head of ModernBERT for texts and for tokens; its configuration has the function and the state it reads."""
SEQUENCE: dict[str, Layout] = {
    **dict.fromkeys(("bert", "ernie", "nezha", "big_bird_pooled", "megatron-bert"), _POOLED),
    **dict.fromkeys(("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm"), _ROBERTA),
    **dict.fromkeys(("mpnet", "data2vec-text", "longformer", "xmod"), _ROBERTA),
    **dict.fromkeys(("deberta", "deberta-v2"), _CONTEXT),
    "albert": Layout("first", (("pooler", "tanh"),), "classifier", frozenset({"pooler"})),
    "electra": Layout("first", (("classifier.dense", "gelu"),), "classifier.out_proj"),
    "distilbert": Layout("first", (("pre_classifier", "relu"),), "classifier"),
    "modernbert": NORMED,
}
"""Layout by architecture; a causal model has a map named ``score`` on the last state."""
LAST = Layout("last", (), "score")
CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "FEATURE_EXTRACTION": "AutoModel",
}
"""Task type of peft -> the transformers class of the model."""


def skeleton(backbone: Backbone, kind: str, classes: int = 0) -> "nn.Module | None":
    """Return the model for a task type, without weights; None if transformers has no class for it.

    Raises :class:`UsageError` for a backbone that is not a model of transformers.
    """
    import torch
    import transformers

    config = deepcopy(config_of(backbone))
    if config is None:
        raise refuse("an adapter of this backbone", "it is not a model of transformers")
    if classes:
        config.num_labels = classes
    try:
        with torch.device("meta"):
            return getattr(transformers, CLASSES[kind]).from_config(config)  # type: ignore[no-any-return]
    except ValueError:
        return None


def token_layout(model: "nn.Module", kind: str) -> Layout | None:
    """Return the head layout of a model for spans or tokens; None if the head is not a linear map."""
    if kind == "TOKEN_CLS" and hasattr(model, "head") and hasattr(model.head, "norm"):
        return _normed(model.config)
    names = ("qa_outputs",) if kind == "QUESTION_ANS" else ("classifier", "score")
    last = next((name for name in names if hasattr(model, name)), None)
    return Layout("", (), last) if last is not None and hasattr(getattr(model, last), "weight") else None


def _normed(config: Any) -> Layout:
    """Return the layout of a head with a norm, as its configuration has it."""
    activation = our_name(getattr(config, "classifier_activation", "gelu"), "the head")
    reads = {"cls": "first", "mean": "mean"}.get(getattr(config, "classifier_pooling", "cls"))
    if reads is None:
        raise refuse("the head", f"classifier_pooling is {config.classifier_pooling!r}, which is not known here")
    return replace(NORMED, reads=reads, layers=((NORMED.layers[0][0], activation),))


def sequence_layout(backbone: Backbone) -> Layout:
    """Return the head layout for sequence classification; raise :class:`UsageError` for an unknown architecture."""
    layout = SEQUENCE.get(backbone.architecture)
    if layout is NORMED:
        return _normed(config_of(backbone))
    if layout is _CONTEXT:
        activation = our_name(getattr(config_of(backbone), "pooler_hidden_act", "gelu"), "the head")
        return Layout(layout.reads, (("pooler.dense", activation),), layout.last)
    if layout is None and backbone.encoder_decoder:
        raise refuse(
            f"a head for sequence classification of {backbone.architecture}",
            "it reads the decoder's state at the end of the text, which no head here does",
        )
    if layout is None and not backbone.causal:
        raise refuse(f"a head for sequence classification of {backbone.architecture}", "its layers are not known here")
    return layout or LAST


# --------------------------------------------------------------------------------------- labels


def labels_of(backbone: Backbone, classes: int, labels: tuple[str, ...]) -> tuple[tuple[str, ...], bool]:
    """Return the class names, and whether they are known: from ``labels`` or the configuration, else LABEL_0, ..."""
    if labels:
        if len(labels) != classes or len(set(labels)) != classes:
            raise refuse("the head", f"it has {classes} classes, and --labels names {len(set(labels))}")
        return labels, True
    id2label = getattr(config_of(backbone), "id2label", None) or {}
    names = tuple(str(id2label.get(number, id2label.get(str(number), ""))) for number in range(classes))
    if len(id2label) == classes and all(names) and len(set(names)) == classes:
        return names, names != numbered(classes)
    return numbered(classes), False


def numbered(classes: int) -> tuple[str, ...]:
    """Return the default class names of transformers."""
    return tuple(f"LABEL_{number}" for number in range(classes))


def sequence_head(labels: tuple[str, ...], several: bool, options: Mapping[str, Any], tensors: Any) -> Headed:
    """Return the task of a head on texts: labels, or a number for a single class."""
    if len(labels) == 1:
        return Headed("regression", dict(options), tensors)
    return Headed("classification", {"labels": labels, "multi_label": several, **options}, tensors)


def token_head(labels: tuple[str, ...], options: Mapping[str, Any], tensors: Any) -> Headed:
    """Return the task of a head on words: ``ner`` if the tags are in its order, else ``pos``."""
    types = tuple(dict.fromkeys(label[2:] for label in labels if label[:2] in ("B-", "I-")))
    try:
        ner = registry.load("task", "ner")
        if types and tuple(ner(ner.Options(labels=types)).tags) == labels:
            return Headed("ner", {"labels": types, "scheme": "bio", **options}, tensors)
    except UnknownNameError:
        pass  # there may be a distribution without it
    return Headed("pos", {"labels": labels, **options}, tensors)


# -------------------------------------------------------------------------------------- weights


class HeadWeights:
    """Looks up weights of a head: in the adapter, in the model's body, then in its checkpoint."""

    def __init__(self, backbone: Backbone, tensors: ForeignTensors | None = None, model: "nn.Module | None" = None):
        self.backbone, self.tensors, self.model = backbone, tensors, model
        self.changes: dict[str, Change] = {}
        """Module -> the tuner's change; removed when the map is read, so that unread changes remain."""

    def linear(self, module: str, owner: str) -> "tuple[Tensor, Tensor]":
        """Return weight and bias (zeros if the class has none) of a linear map, with the adapter's changes.

        Raises :class:`UsageError` for a missing tensor.
        """
        weight, weight_saved = self._find(f"{module}.weight")
        if weight is None:
            raise refuse(owner, f"the weights of its {module} are neither in the adapter nor in the checkpoint")
        if weight.ndim != 2:
            raise refuse(
                owner, f"the weight of its {module} has the shape {tuple(weight.shape)}: it is not a linear map"
            )
        if not self._biased(module):
            bias: Tensor | None = weight.new_zeros(weight.shape[0])
        else:
            bias, bias_saved = self._find(f"{module}.bias", f"{module}.base_layer.bias")
            if bias is None or (weight_saved and not bias_saved):
                where = "adapter" if weight_saved else "checkpoint"
                raise refuse(owner, f"the {where} has the weight of its {module}, and {module}.bias is missing there")
        assert bias is not None
        if tuple(bias.shape) != (weight.shape[0],):
            raise refuse(
                owner, f"its {module}.bias has the shape {tuple(bias.shape)}, and its weight {tuple(weight.shape)}"
            )
        for name in [name for name in self.changes if ends(name, module)]:
            weight, bias = self.changes.pop(name)(weight.float(), bias.float())
        return weight, bias

    def norm(self, module: str, owner: str) -> "dict[str, Tensor]":
        """Return weight, bias (zeros if the class has none) and epsilon of a layer norm.

        Raises :class:`UsageError` for a missing tensor.
        """
        modules = {} if self.model is None else dict(self.model.named_modules())
        path = next((path for path in modules if ends(path, module)), None)
        if path is None:
            raise refuse(owner, f"transformers has no {module} in {self.backbone.architecture}")
        weight, _ = self._find(f"{module}.weight")
        bias, _ = self._find(f"{module}.bias") if self._biased(module) else (None, False)
        if weight is None or (bias is None and self._biased(module)):
            raise refuse(owner, f"the weights of its {module} are neither in the adapter nor in the checkpoint")
        epsilon = weight.new_full((1,), float(modules[path].eps))
        return {"weight": weight, "bias": weight.new_zeros(weight.shape) if bias is None else bias, "epsilon": epsilon}

    def _biased(self, module: str) -> bool:
        if self.model is None:
            return True
        path = next((path for path, _ in self.model.named_modules() if ends(path, module)), None)
        return path is None or getattr(self.model.get_submodule(path), "bias", None) is not None

    def _find(self, *names: str) -> "tuple[Tensor | None, bool]":
        """Return the tensor with one of these names, and whether the adapter has saved it."""
        for name in names:
            saved = None if self.tensors is None else self.tensors.ending(name)
            if self.tensors is not None and saved is not None:
                return self.tensors.take(saved), True
        return self.frozen(names[0]), False

    def frozen(self, name: str) -> "Tensor | None":
        """Return a tensor of the checkpoint, or of the model if it was built in memory; None if there is none."""
        stored = self._stored(name)
        if stored is not None or self.backbone.files:
            return stored  # a pooler that the checkpoint lacks is there, but holds random numbers
        return parameter(self.backbone.model, name)

    def _stored(self, name: str) -> "Tensor | None":
        base = getattr(self.backbone.model, "base_model_prefix", "")
        both = (self.backbone.stored(path) for path in (name, f"{base}.{name}"))
        return next((tensor for tensor in both if tensor is not None), None)


def read_layout(weights: HeadWeights, layout: Layout, owner: str) -> "dict[str, Tensor]":
    """Return the tensors of our head for a layout."""
    tensors: dict[str, Tensor] = {}
    width = weights.backbone.width
    for number, module in enumerate([*(name for name, _ in layout.layers), layout.last]):
        weight, bias = weights.linear(module, owner)
        shape = (weight.shape[0] if module == layout.last else width, width)
        if tuple(weight.shape) != shape:
            raise refuse(
                owner, f"its {module}.weight has the shape {tuple(weight.shape)}, and on this backbone {shape}"
            )
        front = "" if module == layout.last else f"hidden{number}_"
        tensors |= {f"{front}weight": weight, f"{front}bias": bias}
    for number, module in enumerate(layout.norms):
        tensors |= {f"norm{number}_{name}": tensor for name, tensor in weights.norm(module, owner).items()}
    return tensors


def functions(layout: Layout) -> tuple[str, ...]:
    """Return the activation functions of the layers before the last map."""
    return tuple(name for _, name in layout.layers)


def parameter(model: "nn.Module", name: str) -> "Tensor | None":
    """Return a frozen parameter of the model by its name, or None."""
    return next((tensor.detach().cpu() for path, tensor in model.named_parameters() if path == name), None)
