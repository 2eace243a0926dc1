"""Backbones in 4 or 8 bit: the library for each device, and its calls.

Measured on a CPU: bitsandbytes' int8 is about a hundred times slower than float32 there, torchao's
dynamic int8 two to three times faster. On a GPU bitsandbytes is the usual choice for both formats.
"""

import logging
import warnings
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from adaptdock.errors import BackboneError

Quantizer = Literal["bitsandbytes", "torchao"]


def choose(quantize: str, quantizer: str, device: str) -> Quantizer:
    """Return the quantisation library; raise :class:`BackboneError` if it lacks the format or is not installed."""
    library: Quantizer = "torchao" if quantize == "int8" and device == "cpu" else "bitsandbytes"
    if quantizer != "auto":
        library = "torchao" if quantizer == "torchao" else "bitsandbytes"
    if quantize == "nf4" and library == "torchao":
        raise BackboneError("nf4 is a format of bitsandbytes; torchao quantises to int8 here")
    if find_spec(library) is None:
        raise BackboneError(
            f"--quantize {quantize} on {device} needs {library}, which is missing here: pip install {library}, if it "
            f"has a wheel for this machine. --dtype bfloat16 halves the memory of the weights without it."
        )
    return library


def bitsandbytes_config(quantize: str, compute_dtype: Any) -> Any:
    """Return the configuration with which transformers loads 4-bit (nf4) or 8-bit weights."""
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it logs a cast to float16 at each call
    if quantize == "nf4":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute_dtype)
    return BitsAndBytesConfig(load_in_8bit=True)


def keep_trainable(model: nn.Module) -> None:
    """Keep bitsandbytes from packing 4-bit weights for a CPU at the first pass without gradients.

    The kernel for packed weights has no backward pass, so no adapter could be trained afterwards.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def quantize_with_torchao(model: nn.Module) -> None:
    """Turn the linear maps of a float model into int8 weights with int8 activations, in place.

    Each position of each row has a scale of its own, so a row does not depend on its neighbours. Raises
    :class:`BackboneError` for a model with layers of another type, which torchao would silently skip.
    """
    conv1d_paths = [path for path, module in model.named_modules() if isinstance(module, Conv1D)]
    if conv1d_paths:
        raise BackboneError(
            f"torchao quantises linear maps of the type Linear only, and {conv1d_paths[0]} is a Conv1D; "
            f"on a GPU use --quantizer bitsandbytes, on a CPU --dtype bfloat16 is fast"
        )
    logging.getLogger("torchao").setLevel(logging.ERROR)  # it warns of every GPU kernel that a CPU lacks
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        quantize_(model, Int8DynamicActivationInt8WeightConfig(), filter_fn=_is_linear)
    for module in model.modules():
        if _is_linear(module):
            module.__class__ = Int8Linear


def dense(module: nn.Module) -> Tensor:
    """Return the weight (outputs, inputs) of a linear map of any type, dequantised where it is quantised."""
    weight: Any = module.weight
    if hasattr(module, "quant_state") or weight.__class__.__name__ in ("Params4bit", "Int8Params"):
        from transformers.integrations.bitsandbytes import dequantize_bnb_weight

        return dequantize_bnb_weight(weight, state=getattr(module, "state", None)).detach()  # type: ignore[no-any-return]
    if type(weight).dequantize is not Tensor.dequantize:  # other subclasses (DTensor) hold plain numbers
        return weight.dequantize().detach()  # type: ignore[no-any-return]
    return weight.detach().T if isinstance(module, Conv1D) else weight.detach()  # type: ignore[no-any-return]


def _is_linear(module: nn.Module, _name: str = "") -> bool:
    return type(module) is nn.Linear


class Int8Linear(nn.Linear):
    """A linear map with int8 weights that passes gradients on; torchao's map drops them without a warning."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the product, (..., inputs) -> (..., outputs)."""
        if torch.is_grad_enabled() and input.requires_grad:
            return _StraightThrough.apply(input, self.weight, self.bias)  # type: ignore[no-any-return,no-untyped-call]
        return super().forward(input)


class _StraightThrough(torch.autograd.Function):
    """The int8 product forward; backward the product of the dequantised weights, as if nothing were rounded."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return gradient @ ctx.weight.dequantize(gradient.dtype), None, None
