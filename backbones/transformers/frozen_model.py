"""What every frozen transformers model has, whatever it reads: ports, weights, the states of its layers."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from adaptdock.backbones.transformers import attention, quantization
from adaptdock.backbones.transformers.blocks import Blocks, check_resuming
from adaptdock.backbones.transformers.lm_head import device_of, in_memory
from adaptdock.backbones.transformers.residual_measurement import residuals
from adaptdock.errors import BackboneError
from adaptdock.plugins.contracts import AttentionHandler, Backbone, Batch, Port, Residual


class FrozenModel(Backbone):
    """A frozen transformers model with its ports; its subclasses know its inputs."""

    model: PreTrainedModel
    generator: PreTrainedModel | None = None
    """The whole language model, whose body is :attr:`model`; None for other models."""
    _attention: dict[nn.Module, Port]
    """The attention ports by the module that computes attention."""
    _states_device: torch.device
    """The device of the last hidden states."""

    def __init__(self, name: str, fingerprint: str, revision: str | None) -> None:
        self.id, self.fingerprint, self.revision = name, fingerprint, revision
        self._resumed: set[int] = set()
        self._residuals: dict[str, Residual] | None = None

    @property
    def device(self) -> torch.device:
        """The device of the input embeddings."""
        return device_of(self.model.get_input_embeddings())

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the embeddings, and of the states between the layers."""
        return next(self.model.get_input_embeddings().parameters()).dtype  # type: ignore[no-any-return]

    def placement(self, port: Port) -> torch.device:
        """Return the device on which the port's module computes; for mixed layers the device of the last states."""
        return self._states_device if port.kind == "layers" else device_of(self.module(port))

    def module(self, port: Port) -> nn.Module:
        """Return the module of a port; that of the LM head is outside the body."""
        whole = self.generator if port.kind == "logits" and self.generator is not None else self.model
        module: nn.Module = whole.get_submodule(port.module)
        return module

    def layers(self, batch: Batch) -> list[Tensor]:
        """Return the inputs of each layer, with the adapters' changes, and the last hidden states (R, T, W)."""
        with Blocks(self.model).seen() as states:
            last = self.forward(batch)
        odd = next((state for state in states if state.shape != last.shape), None)
        if odd is not None:
            raise BackboneError(
                f"the layers of {type(self.model).__name__} pass on states of shape {tuple(odd.shape)}, but the "
                f"last hidden states have shape {tuple(last.shape)}: they cannot be mixed"
            )
        return [*(state.to(last.device) for state in states), last]

    def entering(self, inputs: Mapping[str, Tensor], layer: int | None) -> Tensor:
        """Return the inputs (R, T, W) of a layer; the first call checks that the model can resume there."""
        if layer is None:
            return self.forward(Batch(inputs))
        blocks = Blocks(self.model)
        if layer not in self._resumed:
            check_resuming(blocks, self.forward, Batch(inputs), layer)
            self._resumed.add(layer)
        with blocks.stopping(layer) as block_inputs:
            self.forward(Batch(inputs))
        return block_inputs[0]

    def resumed(self, inputs: Mapping[str, Tensor], layer: int, hidden: Tensor) -> Tensor:
        """Return the last hidden states (R, T, W), computed from the inputs of a layer."""
        with Blocks(self.model).only(layer, hidden):
            return self.forward(Batch(inputs))

    def norm(self, path: str) -> tuple[Tensor, Tensor, float]:
        """Return factor, bias and epsilon of a layer norm."""
        module = self.model.get_submodule(path)
        if not isinstance(module, nn.LayerNorm) or module.weight is None or module.bias is None:
            raise BackboneError(
                f"{path} of {self.id!r} is not a layer norm with factor and bias: {type(module).__name__}"
            )
        weight, bias = in_memory(module.weight, path), in_memory(module.bias, path)
        return weight.detach(), bias.detach(), module.eps

    def stored(self, name: str) -> Tensor | None:
        """Return a tensor of the files that the model was loaded from."""
        for file in self.files:
            with safe_open(file, "pt") as opened:
                if name in opened.keys():  # noqa: SIM118
                    return opened.get_tensor(name)  # type: ignore[no-any-return]
        return None

    def residual(self, port: Port) -> Residual | None:
        """Return the residual that the output of a block is added to; the first call runs a small batch."""
        if self._residuals is None:
            self._residuals = residuals(self, self.ports)
        return self._residuals.get(port.name)

    def weight(self, port: Port) -> Tensor:
        """Return the frozen weight (outputs, inputs) of a linear port, dequantised."""
        return in_memory(quantization.dense(self.model.get_submodule(port.module)), port.name)

    def bias(self, port: Port) -> Tensor:
        """Return the frozen bias (outputs) of a linear port; zeros for a map without bias."""
        bias = getattr(self.model.get_submodule(port.module), "bias", None)
        if bias is None:
            return torch.zeros(port.outputs, device=self.placement(port))
        return in_memory(bias.detach(), port.name)

    def open_attention(self, handler: AttentionHandler) -> AbstractContextManager[None]:
        """Route the attention calls of all attention ports through the handler."""
        if not self._attention:
            return nullcontext()
        handlers = {module: _at_port(handler, port) for module, port in self._attention.items()}
        return attention.intercept(self.model, handlers)

    def attention_kernel(self) -> AbstractContextManager[None]:
        """Choose the attention kernel that trains fast.

        On a CPU the backward pass of torch's fused attention in bfloat16 takes five times as long as
        that of the plain one (16 rows of 34 tokens: 11 ms against 2), and half of a training step.
        """
        if torch.is_grad_enabled() and self.dtype == torch.bfloat16 and self.device.type == "cpu":
            return sdpa_kernel(SDPBackend.MATH)
        return nullcontext()


def _at_port(handler: AttentionHandler, port: Port) -> attention.Handler:
    return lambda key, value: handler(port, key.shape[0])
