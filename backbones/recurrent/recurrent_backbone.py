"""The common base of recurrent backbones: ports, prompts as first steps, checks of options and weights.

A pass begins with a state of zeros, so that a row does not depend on earlier batches.
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
"""The longest window, in tokens; the networks themselves have no limit."""
NO_ATTENTION = (
    "it is made of LSTMs, which compute no attention, so there are no keys and values to put a prefix in "
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
        """The dtype of the weights, and of the states between the layers."""
        return next(self.model.parameters()).dtype

    def placement(self, port: Port) -> torch.device:
        """Return the device of the weights, which all ports share."""
        return self.device

    @abstractmethod
    def vectors(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the input embeddings (R, T, W) of tokens."""

    @abstractmethod
    def through(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Return the last hidden states (R, T, W) for input embeddings (R, T, W)."""

    def forward(self, batch: Batch) -> Tensor:
        """Return the last hidden states (R, T, W); a shift has no effect without positions."""
        return self.through(*self.steps(batch.inputs, batch.virtual))

    def steps(self, inputs: Mapping[str, Tensor], virtual: Virtual | None) -> tuple[Tensor, Tensor]:
        """Return the input embeddings (R, L + T, W) and their mask; virtual ones are steps before the first token."""
        vectors = self.vectors(inputs)
        if virtual is None:
            return vectors, inputs["attention_mask"]
        extended = virtual_tokens.lay_out(inputs, vectors, virtual)
        return extended["inputs_embeds"], extended["attention_mask"]

    def weight(self, port: Port) -> Tensor:
        """Return the frozen weight (outputs, inputs) of a linear port."""
        module: Any = self.model.get_submodule(port.module)
        return module.weight.detach()  # type: ignore[no-any-return]

    def bias(self, port: Port) -> Tensor:
        """Return the frozen bias (outputs) of a linear port; zeros where it has none."""
        module: Any = self.model.get_submodule(port.module)
        if module.bias is None:
            return torch.zeros(port.outputs, device=self.device)
        return module.bias.detach()  # type: ignore[no-any-return]

    def generate(self, batch: Batch, options: Mapping[str, Any], seeds: Sequence[int] | None = None) -> Tensor:
        """Raise :class:`BackboneError`: recurrent networks have no search."""
        raise BackboneError(
            f"the backbone {self.id!r} is recurrent, and recurrent backbones do not write; a causal one measures texts "
            f"(--task clm). To write, take a causal language model of transformers, such as smollm2."
        )

    def open_attention(self, handler: AttentionHandler) -> AbstractContextManager[None]:
        """Do nothing: there is no attention."""
        return nullcontext()


def open_ports(ports: Sequence[Port], architecture: str) -> Ports:
    """Return ports with the reason for the missing attention ports."""
    return Ports(ports, architecture, {"attention": NO_ATTENTION})


def linear_port(model: nn.Module, name: str, role: str, layer: int, module: str) -> Port:
    """Return the port of a linear map."""
    linear: Any = model.get_submodule(module)
    return Port(name, "linear", role, layer, "", module, linear.in_features, linear.out_features)


def check_options(name: str, options: LoadOptions) -> None:
    """Raise :class:`BackboneError` for load options that have no meaning for a recurrent network."""
    for flag, value, reason in (
        ("--quantize", options.quantize, "its weights can be held in float32, bfloat16 or float16 (--dtype)"),
        ("--drop-layers", options.drop_layers, "its layers are few and belong together; choose adapters' by --layers"),
        ("--device-map", options.device_map, "it is small enough for one device (--device)"),
        ("--shard-backbone", options.shard_backbone, "it is small enough for one device (--device)"),
        ("--revision", options.revision, "it is read from files, not from the hub"),
    ):
        if value:
            raise BackboneError(f"{flag} does not go with the recurrent backbone {name!r}: {reason}")


def chosen_dtype(options: LoadOptions) -> torch.dtype:
    """Return the precision that the options name; float32 for ``auto``."""
    return torch.float32 if options.dtype == "auto" else getattr(torch, options.dtype)


def place(state: Mapping[str, Tensor], model: nn.Module, name: str) -> None:
    """Load weights into a network; raise :class:`BackboneError` for a missing, surplus or misshapen tensor."""
    expected = model.state_dict()
    for missing in sorted(expected.keys() - state.keys()):
        raise BackboneError(f"the backbone {name!r} cannot be loaded: its file lacks the weights of {missing}")
    for surplus in sorted(state.keys() - expected.keys()):
        raise BackboneError(f"the backbone {name!r} cannot be loaded: its network has no place for {surplus}")
    for key, tensor in state.items():
        if tensor.shape != expected[key].shape:
            raise BackboneError(
                f"the backbone {name!r} cannot be loaded: {key} has the shape {tuple(tensor.shape)}, its options ask "
                f"for {tuple(expected[key].shape)}"
            )
    model.load_state_dict(dict(state))
