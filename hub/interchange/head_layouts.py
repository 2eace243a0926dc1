"""The heads of transformers' models, as layers of ours: what they read, the layers before the last map, that map.

The names and functions are those of the modelling files of transformers 5. ``body`` layers (poolers) are the model's
own and frozen; others belong to the head, and an adapter that saves only the last map leaves them to the checkpoint.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptdock.errors import UnknownNameError
from adaptdock.hub.interchange.incoming import Headed, refuse
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Layout:
    """A head: the state it reads, (module, function) of the layers before its last map, and that map."""

    reads: str
    layers: tuple[tuple[str, str], ...]
    last: str
    body: frozenset[str] = frozenset()


_POOLED = Layout("first", (("pooler.dense", "tanh"),), "classifier", frozenset({"pooler.dense"}))
_ROBERTA = Layout("first", (("classifier.dense", "tanh"),), "classifier.out_proj")
_CONTEXT = Layout("first", (("pooler.dense", "gelu"),), "classifier")
SEQUENCE: dict[str, Layout] = {
    **dict.fromkeys(("bert", "ernie", "nezha", "big_bird_pooled", "megatron-bert"), _POOLED),
    **dict.fromkeys(("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm"), _ROBERTA),
    **dict.fromkeys(("mpnet", "data2vec-text", "longformer", "xmod"), _ROBERTA),
    **dict.fromkeys(("deberta", "deberta-v2"), _CONTEXT),
    "albert": Layout("first", (("pooler", "tanh"),), "classifier", frozenset({"pooler"})),
    "electra": Layout("first", (("classifier.dense", "gelu"),), "classifier.out_proj"),
    "distilbert": Layout("first", (("pre_classifier", "relu"),), "classifier"),
}
"""By architecture; a causal model has a map named ``score`` that reads the last state."""
LAST = Layout("last", (), "score")
FUNCTIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "swish": "silu",
    "silu": "silu",
    "tanh": "tanh",
    "leakyrelu": "leaky_relu",
    "leaky_relu": "leaky_relu",
    "mish": "mish",
    "linear": "identity",
    None: "identity",
}
"""The functions between two maps, by the names of other libraries."""


def function(name: str | None, owner: str) -> str:
    """Return our name of a function; raise :class:`UsageError` for one that there is not."""
    found = FUNCTIONS.get(None if name is None else name.lower())
    if found is None:
        raise refuse(owner, f"the function {name!r} is none of {', '.join(filter(None, FUNCTIONS))}")
    return found


def config_of(backbone: Backbone) -> Any:
    """Return the configuration of a backbone's model, or None."""
    return getattr(backbone.model, "config", None)


def sequence_layout(backbone: Backbone) -> Layout:
    """Return the head of a model for sequence classification; raise :class:`UsageError` where it is not known."""
    found = SEQUENCE.get(backbone.architecture)
    if found is _CONTEXT:
        own = function(getattr(config_of(backbone), "pooler_hidden_act", "gelu"), "the head")
        return Layout(found.reads, (("pooler.dense", own),), found.last)
    if found is None and backbone.encoder_decoder:
        raise refuse(
            f"a head for sequence classification of {backbone.architecture}",
            "it reads the decoder's state at the end of the text, which no head here does",
        )
    if found is None and not backbone.causal:
        raise refuse(f"a head for sequence classification of {backbone.architecture}", "its layers are not known here")
    return found or LAST


# --------------------------------------------------------------------------------------- labels


def labels_of(backbone: Backbone, classes: int, given: tuple[str, ...]) -> tuple[tuple[str, ...], bool]:
    """Return the names of the classes, and whether they are known: given, or the configuration's."""
    if given:
        if len(given) != classes or len(set(given)) != classes:
            raise refuse("the head", f"it has {classes} classes, and --labels names {len(set(given))}")
        return given, True
    named = getattr(config_of(backbone), "id2label", None) or {}
    found = tuple(str(named.get(number, named.get(str(number), ""))) for number in range(classes))
    if len(named) == classes and all(found) and len(set(found)) == classes:
        return found, found != numbered(classes)
    return numbered(classes), False


def numbered(classes: int) -> tuple[str, ...]:
    """Return the names that transformers gives to classes without one."""
    return tuple(f"LABEL_{number}" for number in range(classes))


def sequence_head(labels: tuple[str, ...], several: bool, options: Mapping[str, Any], tensors: Any) -> Headed:
    """Return the task of a head that gives a text labels, or a number where there is one class only."""
    if len(labels) == 1:
        return Headed("regression", dict(options), tensors)
    return Headed("classification", {"labels": labels, "multi_label": several, **options}, tensors)


def token_head(labels: tuple[str, ...], options: Mapping[str, Any], tensors: Any) -> Headed:
    """Return the task of a head that gives each word a tag: ``ner`` where the tags are its own, in its order."""
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
    """Where the weights of a head are looked for: in the adapter, in the model's body, in its checkpoint."""

    def __init__(self, backbone: Backbone, saved: "Mapping[str, Tensor]") -> None:
        self.backbone, self.saved = backbone, saved
        self.used: set[str] = set()
        self.updates: dict[str, Tensor] = {}
        """Module -> what low-rank updates add to its weight."""

    def linear(self, module: str, owner: str) -> "tuple[Tensor, Tensor]":
        """Return weight and bias (zeros where it has none) of a linear map; raise :class:`UsageError` without."""
        import torch

        weight = self._find(f"{module}.weight")
        if weight is None:
            raise refuse(owner, f"the weights of its {module} are neither in the adapter nor in the checkpoint")
        for name in [name for name in self.updates if _ends(name, module)]:
            weight = weight.float() + self.updates.pop(name)
        bias = self._find(f"{module}.bias")
        return weight, torch.zeros(weight.shape[0], dtype=weight.dtype) if bias is None else bias

    def _find(self, name: str) -> "Tensor | None":
        for key in self.saved:
            if _ends(key, name):
                self.used.add(key)
                return self.saved[key]
        stored = self._stored(name)
        if stored is not None or self.backbone.files:
            return stored  # a pooler that the checkpoint lacks is there, but holds random numbers
        return _parameter(self.backbone.model, name)

    def _stored(self, name: str) -> "Tensor | None":
        base = getattr(self.backbone.model, "base_model_prefix", "")
        both = (self.backbone.stored(path) for path in (name, f"{base}.{name}"))
        return next((tensor for tensor in both if tensor is not None), None)


def read_layout(weights: HeadWeights, layout: Layout, owner: str) -> "dict[str, Tensor]":
    """Return the tensors of a head of ours that does what a layout says."""
    tensors = {}
    for number, (module, _) in enumerate(layout.layers):
        tensors[f"hidden{number}_weight"], tensors[f"hidden{number}_bias"] = weights.linear(module, owner)
    tensors["weight"], tensors["bias"] = weights.linear(layout.last, owner)
    return tensors


def functions(layout: Layout) -> tuple[str, ...]:
    """Return the functions of the layers before the last map."""
    return tuple(name for _, name in layout.layers)


def _ends(name: str, module: str) -> bool:
    return name == module or name.endswith(f".{module}")


def _parameter(model: "nn.Module", name: str) -> "Tensor | None":
    return next((tensor.detach().cpu() for path, tensor in _named(model) if path == name), None)


def _named(model: "nn.Module") -> "Iterator[tuple[str, Tensor]]":
    yield from model.named_parameters()
