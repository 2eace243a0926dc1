"""The roles of linear maps in a transformer, read from module names and shapes.

One table serves all architectures; its words are the module names in transformers' modelling files.
A map with an unknown name gets its role from its shape (wider out than in: up; back to the width: down).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

WORDS: dict[str, dict[str, str]] = {
    "attention": {
        **dict.fromkeys(("query", "q", "q_proj", "query_proj", "q_lin", "wq", "to_q", "project_q"), "query"),
        **dict.fromkeys(("key", "k", "k_proj", "key_proj", "k_lin", "wk", "to_k", "project_k"), "key"),
        **dict.fromkeys(("value", "v", "v_proj", "value_proj", "v_lin", "wv", "to_v", "project_v"), "value"),
        **dict.fromkeys(("wqkv", "c_attn", "qkv", "qkv_proj", "query_key_value", "in_proj"), "qkv"),
        **dict.fromkeys(("dense", "o", "o_proj", "out_proj", "out_lin", "wo", "c_proj"), "attention_output"),
        **dict.fromkeys(("to_out", "output", "attention_out"), "attention_output"),
    },
    "feed-forward": {
        **dict.fromkeys(
            ("intermediate.dense", "lin1", "ffn", "c_fc", "fc1", "up_proj", "dense_h_to_4h", "wi", "wi_1", "layer_1"),
            "ffn_up",
        ),
        **dict.fromkeys(("fc_in", "w3", "linear_1"), "ffn_up"),
        **dict.fromkeys(("gate_proj", "wi_0", "w1"), "ffn_gate"),
        **dict.fromkeys(("gate_up_proj",), "ffn_gate_up"),
        **dict.fromkeys(
            ("output.dense", "lin2", "ffn_output", "c_proj", "fc2", "down_proj", "dense_4h_to_h", "wo", "layer_2"),
            "ffn_down",
        ),
        **dict.fromkeys(("fc_out", "w2", "linear_2"), "ffn_down"),
    },
}
ATTENTION = re.compile(r"attn|attention")
WRAPPED = "linear"
"""The name of a map inside a module whose name tells the role (Moshi: ``q_proj.linear``)."""
NEITHER = re.compile(r"(^|\.)bottleneck(\.|$)")  # MobileBERT's, around both kinds of block
CROSS = re.compile(r"cross|encdec|encoder_attn|encoder_decoder")


@dataclass(frozen=True)
class Place:
    """The place of a module: half of the model, layer, kind of block, name inside the layer."""

    stack: str
    layer: int
    block: str
    cross: bool
    leaf: str

    @property
    def prefix(self) -> str:
        """The beginning of the port names of this layer."""
        return f"{self.stack}.layers.{self.layer}" if self.stack else f"layers.{self.layer}"


def place(path: str, encoder_decoder: bool) -> Place | None:
    """Read a module's path; None for a module outside the layers (embeddings, pooler, heads)."""
    number = re.search(r"\.(\d+)(?=\.|$)", path)
    if number is None:
        return None
    stack = ""
    if encoder_decoder:
        stack = "decoder" if re.search(r"(^|\.)decoder\.", path) else "encoder"
    inner, listed = path[number.end() + 1 :].lower(), path[: number.start()].lower().rpartition(".")[2]
    attention = any(map(ATTENTION.search, (inner, listed)))  # XLM lists its attentions: attentions.0.q_lin
    return Place(
        stack=stack,
        layer=int(number.group(1)),
        block="attention" if attention else "feed-forward",
        cross=attention and any(map(CROSS.search, (inner, listed))),
        leaf=inner,
    )


def is_expert(path: str) -> bool:
    """Return whether a module is one of several experts, which see tokens picked from the whole batch."""
    return any(part in ("expert", "experts") for part in path.split("."))


def role(where: Place, inputs: int, outputs: int, width: int, siblings: Sequence[tuple[int, int]] = ()) -> str:
    """Return the role of a linear map; ``other`` if neither its name nor its shape tells.

    ``width`` is the width of the hidden states, ``siblings`` are the (inputs, outputs) of the linear maps beside
    this map. If the down projection takes half of this map's outputs, the other half is a gate.
    """
    parts = [part for part in where.leaf.split(".") if part != WRAPPED] or [WRAPPED]
    words = WORDS[where.block]
    kind = words.get(".".join(parts[-2:])) or words.get(parts[-1])
    if NEITHER.search(where.leaf):
        return "other"
    if kind is None and where.block == "feed-forward":
        if inputs == width and outputs > width:
            kind = "ffn_up"
        elif inputs > width and outputs == width:
            kind = "ffn_down"
    if kind == "ffn_up" and (outputs // 2, inputs) in siblings:
        kind = "ffn_gate_up"
    if kind is None:
        return "other"
    return f"cross_{kind}" if where.cross else kind


def attention_role(where: Place) -> str:
    """Return the role of a module that computes attention."""
    return "cross_attention" if where.cross else "attention"
