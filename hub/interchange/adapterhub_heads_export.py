"""Export of heads as prediction heads of AdapterHub."""

from typing import Any

from adaptdock.hub.interchange.outgoing import Outgoing, refuse_head
from adaptdock.plugins.toolkit import heads
from adaptdock.plugins.toolkit.interchange.activations import foreign_name
from adaptdock.plugins.toolkit.interchange.tensors import Named


def head_of(out: Outgoing, name: str) -> tuple[dict[str, Any], Named] | None:
    """Return configuration and tensors of a head, or None if the model's own head is used.

    Raises :class:`UsageError` for a head without a counterpart in AdapterHub.
    """
    head = out.head
    if head is None:
        return None
    if isinstance(head, heads.LanguageModelHead):
        out.notes.append("the adapter uses the language model's own head: load it into that, with adapters.init(model)")
        return None
    if isinstance(head, heads.EmbeddingHead) and head.dimension is None:
        return None
    if isinstance(head, heads.VocabularyHead):
        return _vocabulary(out, head, name)
    if not isinstance(head, heads.SequenceHead | heads.TokenHead):
        raise refuse_head(out, "AdapterHub has none that computes the same")
    functions = set(head.layers)
    if len(functions) > 1:
        raise refuse_head(out, f"its layers have different functions ({', '.join(head.layers)}), AdapterHub's one")
    between = _function(head.layers[0]) if head.layers else "tanh"
    config: dict[str, Any] = {"layers": len(head.layers) + 1, "activation_function": between, "dropout_prob": None}
    config |= {
        "num_labels": out.classes,
        "label2id": {label: number for number, label in enumerate(out.labels)} or None,
    }
    if isinstance(head, heads.SpanHead):
        config |= {"head_type": "question_answering", "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
    elif isinstance(head, heads.TokenHead):
        config["head_type"] = "tagging"
    else:
        wanted = "last" if out.backbone.causal else "first"
        if head.pooling != wanted or head.front or out.backbone.encoder_decoder:
            raise refuse_head(out, f"it reads the {head.pooling} state, AdapterHub's the {wanted} one")
        if head.length != "plain":
            raise refuse_head(out, "it reads vectors of one length (--vector-length plain trains one that does not)")
        several = bool(out.card.task.options.get("multi_label"))
        config["head_type"] = "multilabel_classification" if several else "classification"
        config |= {"use_pooler": False, "bias": True}
    return config, _tensors(out, len(head.layers), name, first=1, step=2 if between is None else 3)


def _function(activation: str) -> str | None:
    """Return the library's name of a function between layers; None for no function at all."""
    return None if activation == "identity" else foreign_name(activation)


def _tensors(out: Outgoing, layers: int, name: str, first: int, step: int) -> Named:
    """Return the tensors of linear layers by their module numbers in the head."""
    stored: Named = {}
    for number in range(layers + 1):
        front = "" if number == layers else f"hidden{number}_"
        for part in ("weight", "bias"):
            stored[f"heads.{name}.{first + step * number}.{part}"] = out.file.tensors[f"head.{front}{part}"]
    return stored


def _vocabulary(out: Outgoing, head: heads.VocabularyHead, name: str) -> tuple[dict[str, Any], Named]:
    functions = set(head.layers)
    if len(functions) > 1:
        raise refuse_head(out, f"its layers have different functions ({', '.join(head.layers)}), AdapterHub's one")
    between = _function(head.layers[0]) if head.layers else None
    biased, causal = bool(out.file.tensors["head.bias"].any()), not out.backbone.encoder_decoder
    step = 1 + (between is not None) + head.norms
    stored = _tensors(out, len(head.layers), name, first=0, step=step)
    if not biased:
        del stored[f"heads.{name}.{step * len(head.layers)}.bias"]
    for number in range(len(head.layers) if head.norms else 0):
        for part in ("weight", "bias"):
            place = step * number + step - 1
            stored[f"heads.{name}.{place}.{part}"] = out.file.tensors[f"head.norm{number}_{part}"]
    config = {
        "head_type": "causal_lm" if causal else "seq2seq_lm",
        "vocab_size": head.words,
        "layers": len(head.layers) + 1,
        "activation_function": between,
        "layer_norm": head.norms,
        "bias": biased,
        "shift_labels": causal,
        "label2id": None,
    }
    if causal:
        config |= {"embedding_size": out.backbone.width, "dropout_prob": None}
    return config, stored
