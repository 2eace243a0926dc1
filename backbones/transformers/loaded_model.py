"""Models that a program loaded itself: the origin of their weights, and their fingerprint.

A model whose weights equal those of the checkpoint in its ``name_or_path`` has the checkpoint's fingerprint, in any
precision. Any other model has the fingerprint of the files that ``save_pretrained`` would write.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from adaptdock.backbones.fingerprint import fingerprint, fingerprint_of_tensors
from adaptdock.backbones.transformers.checkpoint import Checkpoint, resolve
from adaptdock.errors import BackboneError

COMPARED = 4096
"""Number of elements of a tensor that are compared with the checkpoint, at even distances."""


@dataclass(frozen=True)
class Origin:
    """The name, the fingerprint and the files (none for weights of no known checkpoint) of a model in memory."""

    name: str
    fingerprint: str
    revision: str | None = None
    files: tuple[Path, ...] = ()


def origin_of(model: PreTrainedModel) -> Origin:
    """Return the origin of a model's weights, without any network access."""
    state, name = _state_as_saved(model), str(model.name_or_path or "")
    checkpoint = _local_checkpoint(name, getattr(model.config, "_commit_hash", None))
    if checkpoint is not None and _is_of(model, state, checkpoint):
        known_as = str(Path(name).absolute()) if Path(name).exists() else name
        files = tuple(checkpoint.weight_files)
        return Origin(known_as, fingerprint(list(files)), checkpoint.revision, files)
    return Origin(f"{type(model).__name__} in memory", fingerprint_of_tensors(state))


def with_padding(tokenizer: Any) -> Any:
    """Return a tokenizer with a padding token, as for backbones loaded by name; the argument stays unchanged."""
    if getattr(tokenizer, "pad_token", "") is not None:
        return tokenizer
    padded = copy.deepcopy(tokenizer)
    padded.pad_token = padded.eos_token or padded.unk_token
    return padded


def _state_as_saved(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the tensors that ``save_pretrained`` writes, by their names in its files."""
    ignored = set(model._keys_to_ignore_on_save or ())
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in ignored}
    absent = next((name for name, tensor in state.items() if tensor.is_meta), None)
    if absent is not None:
        raise BackboneError(f"the model in memory has no weights in {absent}: load it without a device map")
    saved: dict[str, Tensor] = revert_weight_conversion(model, remove_tied_weights_from_state_dict(state, model))
    return saved


def _local_checkpoint(name: str, revision: str | None) -> Checkpoint | None:
    """Return the checkpoint that a model was loaded from; None unless its files are on this machine."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    if not name:
        return None
    try:
        if Path(name).is_dir():
            return resolve(name)
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (BackboneError, HFValidationError, LocalEntryNotFoundError, OSError):
        return None
    return Checkpoint(folder, revision=folder.name)


def _is_of(model: PreTrainedModel, state: Mapping[str, Tensor], checkpoint: Checkpoint) -> bool:
    """Return whether a model has the structure of a checkpoint's configuration, and the checkpoint's weights."""
    try:
        with torch.device("meta"):  # only names and shapes are compared: no memory for weights
            whole = type(model)(AutoConfig.from_pretrained(checkpoint.folder))
        if _shapes(whole) != _shapes(model):
            return False
        return any(_holds(checkpoint, state, prefix) for prefix in ("", f"{model.base_model_prefix}."))
    except (BackboneError, SafetensorError, OSError, ValueError, TypeError):
        return False


def _shapes(model: PreTrainedModel) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _holds(checkpoint: Checkpoint, state: Mapping[str, Tensor], prefix: str) -> bool:
    """Return whether a checkpoint has all tensors of a model; the names of a body have a prefix there."""
    expected = {f"{prefix}{name}": tensor for name, tensor in state.items() if "pooler" not in name}  # may be absent
    alike = set()
    for file in checkpoint.weight_files:
        with safe_open(file, "pt") as opened:
            shared = expected.keys() & set(opened.keys())
            alike |= {name for name in shared if _alike(expected[name], opened.get_tensor(name))}
    return alike == expected.keys()


def _alike(tensor: Tensor, stored: Tensor) -> bool:
    if tensor.shape != stored.shape:
        return False
    places = torch.linspace(0, max(0, tensor.numel() - 1), min(COMPARED, tensor.numel())).round().long()
    sample = tensor.detach().reshape(-1)[places.to(tensor.device)].cpu()
    return torch.equal(sample, stored.reshape(-1)[places].to(tensor.dtype))
