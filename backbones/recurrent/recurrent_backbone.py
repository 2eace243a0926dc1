"""What recurrent backbones share: their ports, prompts as first steps, and what a loaded one answers for.

A pass begins with a state of zeros, so that a row does not depend on what was read before it.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from adaptdock.errors import BackboneError
from adaptdock.plugins.contracts import AttentionHandler, Backbone, Batch, LoadOptions, Port, Ports, Virtual
from adaptdock.plugins.toolkit import virtual_tokens

LONGEST = 8192
"""Windows are no longer than this; the networks themselves have no limit."""
NO_ATTENTION = (
    "it is made of LSTMs, which compute no attention, so there are no keys and values that something could stand in "
    "front of; use prompt (learned first steps), lora or bottleneck instead"
)


class RecurrentBackbone(Backbone):
    """A frozen recurrent network with its ports."""

    max_length = LONGEST
    revision = None

    def __init__(self, name: str, model: nn.Module, tokenizer: Any, fingerprint: str) -> None:
        self.id, self.fingerprint, self.tokenizer = name, fingerprint, tokenizer
        self.model = model.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights, and of what flows between the layers."""
        return next(self.model.parameters()).dtype

    def placement(self, port: Port) -> torch.device:
        """Return the one device that there is."""
        return self.device

    @abstractmethod
    def vectors(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the input embeddings (R, T, W) of tokens."""

    @abstractmethod
    def through(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Return the last hidden states (R, T, W), from the input embeddings on."""

    def forward(self, batch: Batch) -> Tensor:
        """Return the last hidden states; there are no positions that a shift could move."""
        return self.through(*self.steps(batch.inputs, batch.virtual))

    def steps(self, inputs: Mapping[str, Tensor], virtual: Virtual | None) -> tuple[Tensor, Tensor]:
        """Return the input embeddings (R, L + T, W) and their mask; virtual ones are steps before the first token."""
        vectors = self.vectors(inputs)
        if virtual is None:
            return vectors, inputs["attention_mask"]
        given = virtual_tokens.lay_out(inputs, vectors, virtual)
        return given["inputs_embeds"], given["attention_mask"]

    def weight(self, port: Port) -> Tensor:
        """Return the frozen weight (outputs, inputs) of a linear port."""
        found: Any = self.model.get_submodule(port.module)
        return found.weight.detach()  # type: ignore[no-any-return]

    def bias(self, port: Port) -> Tensor:
        """Return the frozen bias (outputs) of a linear port; zeros where it has none."""
        found: Any = self.model.get_submodule(port.module)
        if found.bias is None:
            return torch.zeros(port.outputs, device=self.device)
        return found.bias.detach()  # type: ignore[no-any-return]

    def generate(self, batch: Batch, options: Mapping[str, Any], seeds: Sequence[int] | None = None) -> Tensor:
        """Refuse: no search is written for recurrent networks."""
        raise BackboneError(
            f"the backbone {self.id!r} is recurrent, and recurrent backbones do not write; a causal one measures texts "
            f"(--task clm). To write, take a causal language model of transformers, such as smollm2."
        )

    def open_attention(self, handler: AttentionHandler) -> AbstractContextManager[None]:
        """Do nothing: there is no attention."""
        return nullcontext()


def open_ports(ports: Sequence[Port], architecture: str) -> Ports:
    """Return ports with the reason why there is none at an attention."""
    return Ports(ports, architecture, {"attention": NO_ATTENTION})


def linear_port(model: nn.Module, name: str, role: str, layer: int, module: str) -> Port:
    """Return the port of a linear map."""
    found: Any = model.get_submodule(module)
    return Port(name, "linear", role, layer, "", module, found.in_features, found.out_features)


def check_options(name: str, options: LoadOptions) -> None:
    """Raise :class:`BackboneError` for options of loading that mean nothing for a recurrent network."""
    for flag, given, reason in (
        ("--quantize", options.quantize, "its weights can be held in float32, bfloat16 or float16 (--dtype)"),
        ("--drop-layers", options.drop_layers, "its layers are few and belong together; choose adapters' by --layers"),
        ("--device-map", options.device_map, "it is small enough for one device (--device)"),
        ("--revision", options.revision, "it is read from files, not from the hub"),
    ):
        if given:
            raise BackboneError(f"{flag} does not go with the recurrent backbone {name!r}: {reason}")


def chosen_dtype(options: LoadOptions) -> torch.dtype:
    """Return the precision that the options name; float32 for ``auto``."""
    return torch.float32 if options.dtype == "auto" else getattr(torch, options.dtype)


def place(state: Mapping[str, Tensor], model: nn.Module, name: str) -> None:
    """Put weights into a network; raise :class:`BackboneError` for one that is missing, left over or does not fit."""
    wanted = model.state_dict()
    for missing in sorted(wanted.keys() - state.keys()):
        raise BackboneError(f"the backbone {name!r} cannot be loaded: its file lacks the weights of {missing}")
    for surplus in sorted(state.keys() - wanted.keys()):
        raise BackboneError(f"the backbone {name!r} cannot be loaded: its network has no place for {surplus}")
    for key, tensor in state.items():
        if tensor.shape != wanted[key].shape:
            raise BackboneError(
                f"the backbone {name!r} cannot be loaded: {key} has the shape {tuple(tensor.shape)}, its options ask "
                f"for {tuple(wanted[key].shape)}"
            )
    model.load_state_dict(dict(state))
