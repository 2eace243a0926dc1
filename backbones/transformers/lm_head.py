"""Language models: a body that gives hidden states, and the frozen map from them to the vocabulary."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel
from transformers.models.auto import modeling_auto

from adaptdock.backbones.transformers.checkpoint import Checkpoint
from adaptdock.backbones.transformers.sharding import whole
from adaptdock.errors import BackboneError
from adaptdock.plugins.contracts import LoadOptions


def auto_class(checkpoint: Checkpoint, options: LoadOptions) -> Any:
    """Return the auto class that loads a checkpoint with its language-model head, if it has one."""
    extra = {"gguf_file": checkpoint.gguf} if checkpoint.gguf else {}
    config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=options.trust_remote_code, **extra)
    names = config.architectures or []
    if checkpoint.gguf and not names:
        names = [modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type, "")]
    for mapping, auto_model in (
        (modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, AutoModelForCausalLM),
        (modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, AutoModelForSeq2SeqLM),
    ):
        if mapping.get(config.model_type, "") in names:
            return auto_model
    return AutoModel


def is_language_model(model: PreTrainedModel) -> bool:
    """Return whether a model can generate text and has a language-model head."""
    return bool(model.can_generate()) and model.get_output_embeddings() is not None


def body(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model without its map to the vocabulary; the parts are shared, not copied.

    Some language models (T5) hold encoder and decoder themselves, without a base model: their parts are put into an
    empty base model. Llama 4 holds its body under another name than it declares.
    """
    if not is_language_model(model):
        return model
    if model.base_model is not model:
        return model.base_model
    with torch.device("meta"):
        shell: PreTrainedModel = AutoModel.from_config(model.config)
    held = next((child for child in model.children() if type(child) is type(shell)), None)
    if held is not None:
        return held
    for name, _ in list(shell.named_children()):
        setattr(shell, name, getattr(model, name))
    return shell


def language_logits(generator: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Return logits (R, T, V) of hidden states (R, T, W), with the scales, biases and caps of known configurations."""
    config = generator.config.get_text_config()
    output = generator.get_output_embeddings()
    if getattr(config, "scale_decoder_outputs", False):  # T5 with tied embeddings
        hidden = hidden * config.d_model**-0.5
    logits = output(hidden.to(device_of(output)))
    bias, scale = getattr(generator, "final_logits_bias", None), getattr(config, "logit_scale", None)
    cap = getattr(config, "final_logit_softcapping", None)
    logits = logits if bias is None else logits + bias
    logits = logits if scale is None else logits * scale
    return logits if cap is None else torch.tanh(logits / cap) * cap  # type: ignore[no-any-return]


def device_of(module: nn.Module) -> torch.device:
    """Return the device on which a module computes."""
    hook = getattr(module, "_hf_hook", None)  # accelerate's, where weights wait on another device
    execution = getattr(hook, "execution_device", None)
    if execution is not None:
        return torch.device(execution)
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def in_memory(weight: Tensor, owner: str) -> Tensor:
    """Return a frozen weight, gathered if processes share it.

    Raises :class:`BackboneError` for a weight that a device map has offloaded.
    """
    if weight.device.type == "meta":
        raise BackboneError(
            f"the weight of {owner} waits on a disk or in host memory and cannot be read here: load the backbone "
            f"without a device map, or choose a method or task that does not read it"
        )
    return whole(weight)


def endings(generator: PreTrainedModel) -> frozenset[int]:
    """Return the end-of-text tokens of the generation configuration."""
    token_ids = generator.generation_config.eos_token_id
    return frozenset() if token_ids is None else frozenset(token_ids if isinstance(token_ids, list) else [token_ids])
