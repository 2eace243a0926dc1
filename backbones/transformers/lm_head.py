"""Language models: a body that gives hidden states, and the frozen map from them to the vocabulary."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel
from transformers.models.auto import modeling_auto

from adaptdock.backbones.transformers.checkpoint import Checkpoint
from adaptdock.errors import BackboneError
from adaptdock.plugins.contracts import LoadOptions


def auto_class(checkpoint: Checkpoint, options: LoadOptions) -> Any:
    """Return the class that loads a checkpoint with its map to the vocabulary, if it has one that writes."""
    extra = {"gguf_file": checkpoint.gguf} if checkpoint.gguf else {}
    config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=options.trust_remote_code, **extra)
    names = config.architectures or []
    if checkpoint.gguf and not names:
        names = [modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type, "")]
    for mapping, chosen in (
        (modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, AutoModelForCausalLM),
        (modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, AutoModelForSeq2SeqLM),
    ):
        if mapping.get(config.model_type, "") in names:
            return chosen
    return AutoModel


def is_language_model(model: PreTrainedModel) -> bool:
    """Tell whether a model can write: it maps hidden states to a vocabulary and knows how to generate."""
    return bool(model.can_generate()) and model.get_output_embeddings() is not None


def body(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model without its map to the vocabulary; the parts are shared, not copied.

    Some language models (T5) hold the halves themselves, where others hold a model of both: then the
    parts are put into an empty one. Llama 4 holds its body under another name than it declares.
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
    """Map hidden states to the vocabulary, with what configurations are known to add to the bare map."""
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
    """Return a frozen weight; raise :class:`BackboneError` for one that a device map has put aside."""
    if weight.device.type == "meta":
        raise BackboneError(
            f"the weight of {owner} waits on a disk or in host memory and cannot be read here: load the backbone "
            f"without a device map, or choose a method or task that does not read it"
        )
    return weight


def endings(generator: PreTrainedModel) -> frozenset[int]:
    """Return the tokens with which a text ends."""
    found = generator.generation_config.eos_token_id
    return frozenset() if found is None else frozenset(found if isinstance(found, list) else [found])
