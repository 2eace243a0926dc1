"""Batches: features of similar length, padded to the longest of the batch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from adaptdock.errors import BackboneError, PluginError
from adaptdock.plugins.contracts import Backbone, Feature, Head, Reading

NOT_COUNTED = -100
"""The label of positions that the loss leaves out: torch's ``ignore_index``."""


def length(feature: Feature) -> int:
    """Return the number of positions of a feature: of its mask, or of its tokens."""
    return len(feature.inputs["attention_mask" if "attention_mask" in feature.inputs else "input_ids"])


def encoder_inputs(feature: Feature) -> Feature:
    """Return a feature with the inputs of the encoder, or of a model without halves."""
    inputs = {name: values for name, values in feature.inputs.items() if not name.startswith("decoder_")}
    return replace(feature, inputs=inputs)


def position_counts(inputs: Mapping[str, Tensor]) -> set[int]:
    """Return the numbers of positions of inputs; tensors of floats (images, sounds) have none."""
    return {tensor.shape[1] for tensor in inputs.values() if tensor.ndim > 1 and not tensor.is_floating_point()}


def collate(backbone: Backbone, features: Sequence[Feature]) -> dict[str, Tensor]:
    """Pad the inputs of features on the right and return tensors (R, T) on the backbone's device.

    Each input is padded to its longest; an input that a feature lacks is all padding. Inputs with a list of
    integers per position, all of one length, become tensors (R, T, integers). The backbone's processor adds the
    float inputs of features with a content.
    """
    pad = getattr(backbone.tokenizer, "pad_token_id", None) or 0
    pads = {"input_ids": pad, "decoder_input_ids": pad}
    pads["token_type_ids"] = getattr(backbone.tokenizer, "pad_token_type_id", 0)
    inputs = {
        name: _padded([feature.inputs.get(name, []) for feature in features], pads.get(name, 0), backbone.device)
        for name in dict.fromkeys(name for feature in features for name in feature.inputs)
    }
    contents = [feature.content for feature in features if feature.content is not None]
    if not contents or backbone.processor is None:
        return inputs
    floats = backbone.processor.tensors(contents)
    return inputs | {name: tensor.to(backbone.device, backbone.dtype) for name, tensor in floats.items()}


def _padded(lists: Sequence[Sequence[Any]], pad: int, device: torch.device) -> Tensor:
    longest = max(map(len, lists))
    element = next((numbers[0] for numbers in lists if numbers), pad)
    nothing = [pad] * len(element) if isinstance(element, list) else pad
    return torch.tensor([[*numbers, *[nothing] * (longest - len(numbers))] for numbers in lists], device=device)


def reading(backbone: Backbone, max_length: int, taken: int) -> Reading:
    """Return the reading of a backbone: windows of at most ``max_length`` tokens, with ``taken`` positions reserved.

    A backbone with a processor has windows of its own length. Raises :class:`BackboneError` for a backbone without
    tokenizer and processor.
    """
    if backbone.processor is not None:
        return Reading(None, backbone.max_length, backbone.causal, None, backbone.processor)
    limit = min(max_length, backbone.max_length - taken)
    return Reading(tokenizer(backbone), limit, backbone.causal, backbone.decoder_start)


def tokenizer(backbone: Backbone) -> Any:
    """Return the tokenizer of a backbone; raise :class:`BackboneError` for a backbone that cannot read texts."""
    if backbone.processor is not None:
        raise BackboneError(f"the backbone {backbone.id!r} reads {backbone.modality}, and no texts")
    if backbone.tokenizer is None:
        raise BackboneError(
            f"the backbone {backbone.id!r} has no tokenizer, so it cannot read texts: put its tokenizer files "
            f"(tokenizer.json, tokenizer_config.json) into its folder"
        )
    return backbone.tokenizer


def length_read(head: Head, feature: Feature) -> int:
    """Return the number of positions of a feature that a head reads."""
    decoder_ids = feature.inputs.get("decoder_input_ids") if head.reads == "decoder" else None
    return length(feature) if decoder_ids is None else len(decoder_ids)


def collate_labels(features: Sequence[Feature], device: torch.device) -> Tensor:
    """Return the labels of features as one tensor; lists are padded with :data:`NOT_COUNTED`.

    Raises :class:`PluginError` for labels that are not numbers or lists of numbers.
    """
    labels = [feature.labels for feature in features]
    if not labels:
        return torch.empty(0, dtype=torch.long, device=device)
    return _numbers(labels, NOT_COUNTED, device, "the labels of features")


def collate_row_inputs(head: Head, features: Sequence[Feature], device: torch.device) -> dict[str, Tensor]:
    """Return the row inputs of a head as tensors, (R) or (R, longest).

    Raises :class:`PluginError` for a feature that lacks a row input, and for values that are not numbers or lists.
    """
    collated = {}
    for name, pad in head.row_inputs.items():
        if any(name not in feature.row_inputs for feature in features):
            raise PluginError(f"{type(head).__name__} reads the row input {name!r}, and a feature has none: encode()")
        values = [feature.row_inputs[name] for feature in features]
        collated[name] = _numbers(values, pad, device, f"the row inputs {name!r}")
    return collated


def form(value: Any) -> tuple[str, str]:
    """Return ``number`` or ``list``, and ``int`` or ``float``, of labels or row inputs.

    Raises :class:`PluginError` for anything else; an empty list counts as a list of ints.
    """
    numbers = value if isinstance(value, list) else [value]
    kinds = {type(number) for number in numbers} or {int}
    if kinds not in ({int}, {float}):
        raise PluginError(
            f"labels and row inputs are an int, a float, or a list of ints or of floats; found {value!r:.60}"
        )
    return "list" if isinstance(value, list) else "number", kinds.pop().__name__


def same_features(features: Sequence[Feature]) -> list[int]:
    """Return a number for each feature, the same for the same object."""
    numbers: dict[int, int] = {}
    return [numbers.setdefault(id(feature), len(numbers)) for feature in features]


def _numbers(values: Sequence[Any], pad: float, device: torch.device, subject: str) -> Tensor:
    if any(isinstance(value, list) for value in values):
        try:
            longest = max(map(len, values))
        except TypeError:
            raise PluginError(f"{subject} are lists in some features and numbers in others") from None
        values = [[*value, *[pad] * (longest - len(value))] for value in values]
    try:
        return torch.tensor(values, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PluginError(f"{subject} cannot become a tensor: {error}") from None


def counts(labels: Any) -> bool:
    """Return whether any of a feature's labels counts in the loss."""
    return any(label != NOT_COUNTED for label in labels) if isinstance(labels, list) else labels is not None


def by_length(lengths: Sequence[int], rows: int, tokens: int) -> Iterator[list[int]]:
    """Yield batches of indices, longest first: at most ``rows`` each, and ``tokens`` with padding."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and (len(batch) == rows or lengths[batch[0]] * (len(batch) + 1) > tokens):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def shuffled(lengths: Sequence[int], rows: int, seed: int, grouped: bool) -> list[int]:
    """Return a random order for training; ``grouped`` puts features of similar length into one batch of ``rows``."""
    if grouped:
        return shuffled_by_length(lengths, rows, seed)
    return torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed)).tolist()


def shuffled_by_length(lengths: Sequence[int], rows: int, seed: int) -> list[int]:
    """Return an order for training: random, but with features of similar length within each batch.

    Indices are shuffled, sorted by length within pools of 50 batches, and the batches shuffled.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(lengths), generator=generator)
    pool = 50 * rows
    batches = []
    for start in range(0, len(order), pool):
        part = sorted(order[start : start + pool].tolist(), key=lambda index: -lengths[index])
        batches += [part[offset : offset + rows] for offset in range(0, len(part), rows)]
    complete = [batch for batch in batches if len(batch) == rows]
    incomplete = [batch for batch in batches if len(batch) < rows]
    shuffled = [complete[number] for number in torch.randperm(len(complete), generator=generator).tolist()]
    # Incomplete batches come last: the loader cuts the order every ``rows`` indices, and would shift all later batches.
    return [index for batch in shuffled + incomplete for index in batch]
