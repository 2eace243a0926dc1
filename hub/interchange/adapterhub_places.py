"""The parts of each architecture as AdapterHub names them: layers, blocks with bottlenecks, and places of prefixes."""

from functools import cached_property

from adaptdock.plugins.contracts import Backbone, Port
from adaptdock.plugins.toolkit.interchange.tensors import refuse

IN_BLOCK = frozenset({"bert", "roberta", "xlm-roberta", "electra", "bert-generation", "xmod", "deberta", "deberta-v2"})
IN_LAYER = frozenset({"t5", "mt5"})
BESIDE = frozenset({"gpt2", "gptj", "llama", "mistral", "distilbert", "bart", "mbart", "plbart"})
"""Architectures by the place of their bottlenecks: in the block's output, in the layer, or beside the block."""
EXCHANGED = frozenset({"llama", "mistral"})
"""Architectures whose feed-forward down and up maps are called intermediate and output in the library."""
SWAPPED = frozenset({"albert"})
"""Architectures in which a bottleneck after the attention gets the block's input instead of its output."""
OTHERWISE = frozenset({"deberta"})
"""Architectures whose hidden states differ between the library and transformers, even without an adapter."""
OWNERS = {
    "attention_adapters": "attention_output",
    "cross_attention_adapters": "cross_attention_output",
    "output_adapters": "ffn_down",
}
"""Names of modules with bottlenecks beside a block -> the role that ends the block."""
NAMES = {role: name for name, role in OWNERS.items()}
PREFIXES = {
    "self": "attention",
    "self_prefix": "attention",
    "encoder_prefix": "attention",
    "cross_prefix": "cross_attention",
}
"""Place of a prefix -> the role of its attention ports."""


class Architecture:
    """The backbone's architecture as AdapterHub names its parts."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone, self.name = backbone, backbone.architecture

    @property
    def feed_forward(self) -> tuple[str, str]:
        """The roles of the maps that the library calls intermediate and output."""
        return ("ffn_down", "ffn_up") if self.name in EXCHANGED else ("ffn_up", "ffn_down")

    @property
    def feeds_attention_input(self) -> bool:
        """Whether a bottleneck after the attention reads the attention's input instead of its output."""
        return self.name in SWAPPED

    @property
    def masks_prefixes(self) -> bool:
        """Whether causal attention masks a prefix otherwise under sdpa than under eager attention."""
        return self.backbone.causal or self.backbone.encoder_decoder

    @property
    def shifts_prefixes(self) -> bool:
        """Whether a mask of padding adds one to the scores of a prefix under sdpa."""
        return self.name == "distilbert"

    @cached_property
    def _encoder_layers(self) -> int:
        return 1 + max(port.layer for port in self.backbone.ports if port.stack == "encoder")

    def layer(self, port: Port) -> int:
        """Return the number of a port's layer as the library counts: decoder layers follow the encoder's."""
        return port.layer + self._encoder_layers if port.stack == "decoder" else port.layer

    def block(self, port: Port) -> str:
        """Return the path of the module with the bottleneck of the block that ends at a port."""
        parts = port.module.split(".")
        if self.name in IN_BLOCK:
            return ".".join(parts[:-1])
        if self.name in IN_LAYER:
            return ".".join(parts[: parts.index("layer") + 2])
        last = max(number for number, part in enumerate(parts) if part.isdigit())
        return ".".join([*parts[: last + 1], NAMES[port.role]])

    def block_end(self, module: str) -> Port:
        """Return the last port of the block with a bottleneck at this path; raise :class:`UsageError` if unknown."""
        path, _, leaf = module.rpartition(".")
        roles = (OWNERS[leaf],) if leaf in OWNERS else tuple(OWNERS.values())
        parts = (path if leaf in OWNERS else module).split(".")
        for start in range(len(parts)):
            front = ".".join(parts[start:]) + "."
            candidates = [
                port
                for port in self.backbone.ports
                if port.kind == "linear" and port.role in roles and port.module.startswith(front)
            ]
            if len(candidates) > 1 and leaf not in OWNERS:  # BERT: the output of the layer, not of its attention
                candidates = [port for port in candidates if port.module.count(".") == front.count(".")]
            if len(candidates) == 1:
                return candidates[0]
        raise refuse(f"the bottleneck at {module}", f"{self.name!r} has no block there that an adapter can end")

    def prefix_place(self, port: Port) -> str:
        """Return the name of the place of a prefix."""
        if self.name == "distilbert":
            return "self"
        if port.role == "cross_attention":
            return "cross_prefix"
        return "encoder_prefix" if port.stack == "encoder" else "self_prefix"

    def prefix_ports(self, place: str) -> list[Port]:
        """Return the attention ports of a place, by layer; raise :class:`UsageError` for an unknown place."""
        role = PREFIXES.get(place.removeprefix(f"{self.name}_"))
        if role is None:
            raise refuse(f"the prefix {place}", "this place of a model is not known here")
        backbone = self.backbone
        stack = "" if not backbone.encoder_decoder else ("encoder" if place.endswith("encoder_prefix") else "decoder")
        attentions = (port for port in backbone.ports if port.kind == "attention")
        ports = [port for port in attentions if port.role == role and port.stack == stack]
        if not ports:
            raise refuse(f"the prefix {place}", f"{self.name!r} has no attention there that takes one")
        return sorted(ports, key=lambda port: port.layer)
