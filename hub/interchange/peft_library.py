"""An adapter of peft put on its base model by the installed peft library itself.

The base model is built in memory, in float32 and on the CPU, from the backbone's weights and the checkpoint's head. So
it costs the memory of a second copy of the backbone.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptdock.hub.interchange import head_layouts
from adaptdock.hub.interchange.peft_heads import is_head
from adaptdock.plugins.contracts import Backbone
from adaptdock.plugins.toolkit.interchange.ports import config_of
from adaptdock.plugins.toolkit.interchange.tensors import Named, refuse

if TYPE_CHECKING:
    from torch import nn

NAME = "default"
"""The name of the adapter inside the library's model."""
UNFIXED = {
    "ADAPTION_PROMPT": "its prompts have an attention of their own, beside that of the text",
    "LILY": "its factors are mixed anew for each token",
    "POLY": "it mixes its updates by the task number of each call. Save the mixture of a single task as LoRA",
    "SHADOW": "it runs a second model beside the base model",
    "XLORA": "it mixes several adapters anew at each token. Import each of the adapters",
}
"""Types of peft whose effect is not a fixed change of weights, with the reason."""
CHANGING = {
    "alora_invocation_tokens": "it acts only behind certain tokens. An adapter trained without them is LoRA",
    "arrow_config": "it routes each token among several adapters. Import each of them",
    "layer_replication": "it repeats layers of the model. Save the model with the repeated layers as a backbone",
    "megatron_config": "its layers are divided among machines. Save it in one piece",
}
"""Options that change more than weights, with the reason."""
STARTS = ("pissa_niter", "corda", "loftq", "lora_ga")
"""Initialisations that change the frozen weights in a way that cannot be repeated from the base model alone."""
FILES = ("tokenizer_name_or_path", "tokenizer_kwargs", "prompt_tuning_init_text", "prompt_tuning_init_state_dict_path")
"""Options that only say where a prompt started, by the name of a file or model."""
NEUTRAL: tuple[Any, ...] = (None, False, [], {}, "", "none")
"""Values with which an unknown option changes nothing."""


@contextmanager
def silent() -> Iterator[None]:
    """Silence the library's warnings: what matters in them is checked and refused here."""
    import logging

    logger = logging.getLogger("transformers")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def check_fixed(values: Mapping[str, Any]) -> None:
    """Raise :class:`UsageError` for an effect that is not a fixed change of weights."""
    kind = str(values.get("peft_type"))
    for option, why in CHANGING.items():
        if values.get(option):
            raise refuse(f"{kind} with {option}", why)


def check_known(values: Mapping[str, Any]) -> None:
    """Raise :class:`UsageError` for a type or an option that the installed library cannot put on a model exactly."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kind = str(values.get("peft_type"))
    if kind in UNFIXED:
        raise refuse(f"the PEFT type {kind}", UNFIXED[kind])
    config = PEFT_TYPE_TO_CONFIG_MAPPING.get(kind)
    if config is None:
        raise refuse(f"the PEFT type {kind}", "the installed peft does not know it. Install a newer peft")
    start = values.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(STARTS):
        raise refuse(
            f"LoRA that started as {start}",
            "peft changes the frozen weights when it loads one. Save it with path_initial_model_for_weight_conversion",
        )
    known = {entry.name for entry in fields(config)} | {"auto_mapping", "peft_version"}
    unknown = next((name for name in values if name not in known and values[name] not in NEUTRAL), None)
    if unknown is not None:
        raise refuse(f"{kind} with the option {unknown!r}", "the installed peft does not know it. Install a newer peft")


def base_model(backbone: Backbone, kind: str, classes: int) -> "nn.Module":
    """Return a copy of the backbone in the class of transformers for a task type, in evaluation mode.

    A parameter of its head that the checkpoint lacks is not a number, so that no result can silently depend on it.
    """
    import torch
    import transformers

    if backbone.quantized:
        raise refuse("this adapter", "it is converted with the unquantised weights. Leave --quantize out of the import")
    config = config_of(backbone)
    if config is None:
        raise refuse("an adapter of this backbone", "it is not a model of transformers")
    config = type(config).from_dict(config.to_dict())
    if classes:
        config.num_labels = classes
    try:
        with silent(), torch.random.fork_rng(devices=[]):
            model: nn.Module = getattr(transformers, head_layouts.CLASSES[kind]).from_config(config).float().eval()
    except ValueError:
        raise refuse(f"a task of the type {kind}", f"transformers has none for {backbone.architecture}") from None
    generator = getattr(backbone, "generator", None)
    whole = generator is not None and type(generator) is type(model)
    source: nn.Module = generator if whole else backbone.model  # type: ignore[assignment]
    front = "" if whole or type(backbone.model) is type(model) else f"{getattr(model, 'base_model_prefix', '')}."
    weights = {f"{front}{name}": tensor for name, tensor in source.state_dict().items()}
    for name, tensor in model.state_dict().items():
        stored = weights.get(name)
        if stored is None or (backbone.files and is_head(name.rpartition(".")[0], backbone)):
            # a loaded model has random numbers for a pooler that its checkpoint lacks
            candidates = (backbone.stored(path) for path in (name, name.removeprefix(front)))
            stored = next((tensor for tensor in candidates if tensor is not None), None)
        if stored is not None and stored.shape == tensor.shape:
            tensor.copy_(stored)
        elif tensor.is_floating_point():
            tensor.fill_(float("nan"))
    return model


def attach(model: "nn.Module", values: Mapping[str, Any], tensors: Named, path: Path) -> Any:
    """Return the library's model with the adapter.

    Raises :class:`UsageError` if it cannot be put on the base model, or for a missing or surplus tensor.
    """
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    kind = values["peft_type"]
    try:
        with silent():
            config = PeftConfig.from_peft_type(**{**values, **_harmless(values)})
            tuned: Any = get_peft_model(model, config, adapter_name=NAME)
            unexpected = set_peft_model_state_dict(tuned, tensors, adapter_name=NAME).unexpected_keys
            expected = get_peft_model_state_dict(tuned, adapter_name=NAME, save_embedding_layers=False)
    except KeyError as error:
        raise refuse(f"this adapter of the PEFT type {kind}", f"it has no tensor {error}") from None
    except Exception as error:  # the library raises many types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise refuse(f"this adapter of the PEFT type {kind}", f"peft cannot put it on the backbone: {reason}") from None
    missing = next((name for name in expected if name not in tensors), None)
    if missing is not None:
        raise refuse(f"this adapter of the PEFT type {kind}", f"the tensor {missing!r} is missing in {path}")
    names = (name.replace(f".{NAME}", "") for name in unexpected)
    surplus = next((name for name in names if name not in expected and not _is_copy(name, tensors)), None)
    if surplus is not None:
        raise refuse(f"the tensor {surplus!r}", "it belongs to nothing in the base model")
    return tuned.eval()


def _harmless(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return options in place of those with which the library would read other files, or import a class."""
    overrides: dict[str, Any] = {"inference_mode": True, "auto_mapping": None}
    if "prompt_tuning_init" in values:
        overrides["prompt_tuning_init"] = "RANDOM"
    return overrides | {name: None for name in FILES if name in values}


def _is_copy(name: str, tensors: Named) -> bool:
    """Return whether a tensor is a second copy of a saved module's, as peft writes it for ``bias="all"``."""
    saved = tensors.get(name.replace(".modules_to_save.", "."))
    return ".modules_to_save." in name and saved is not None and saved.equal(tensors[name])
