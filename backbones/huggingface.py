"""The backbone family of transformers: any model that ``AutoModel`` can load, GGUF files included.

Ports are read from the module tree, and from the shapes that each module shows in one small batch through the frozen
model. No architecture has code of its own here.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from adaptdock.backbones.fingerprint import fingerprint
from adaptdock.backbones.transformers import kv_cache, model_limits, quantization, saving, sharding
from adaptdock.backbones.transformers.blocks import Blocks
from adaptdock.backbones.transformers.checkpoint import ALIASES, Checkpoint, resolve
from adaptdock.backbones.transformers.devices import pick_device
from adaptdock.backbones.transformers.frozen_model import FrozenModel
from adaptdock.backbones.transformers.lm_head import (
    auto_class,
    body,
    endings,
    in_memory,
    is_language_model,
    language_logits,
)
from adaptdock.backbones.transformers.loaded_model import origin_of, with_padding
from adaptdock.backbones.transformers.media import MediaBackbone, encoder_of, media_reader, reads_media
from adaptdock.backbones.transformers.port_table import called_table, open_ports, watched
from adaptdock.backbones.transformers.ports import widths
from adaptdock.backbones.transformers.positions import moved, moving_on
from adaptdock.backbones.transformers.probe import Findings, probe
from adaptdock.backbones.transformers.sampling import drawing
from adaptdock.backbones.transformers.search_calls import reported
from adaptdock.backbones.transformers.silence import quiet
from adaptdock.backbones.transformers.tokenizer import load_tokenizer
from adaptdock.errors import BackboneError
from adaptdock.plugins.contracts import (
    BackboneFamily,
    Batch,
    LoadOptions,
    Port,
    Virtual,
)
from adaptdock.plugins.toolkit import virtual_tokens


class HuggingFace(BackboneFamily):
    """Loads models of the transformers library from a folder, a GGUF file, an alias or the hub."""

    general = True
    aliases = ALIASES

    def accepts(self, name: str) -> bool:
        """Take every name: this is the general family."""
        return True

    def load(self, name: str, options: LoadOptions) -> "HuggingFaceBackbone | MediaBackbone":
        """Load a model, frozen, with its tokenizer, or with its image processor or feature extractor.

        Raises :class:`BackboneError` if that fails.
        """
        checkpoint = resolve(name, options.revision, with_code=options.trust_remote_code)
        device = pick_device(options.device)
        mark = fingerprint(checkpoint.weight_files)
        with quiet():
            try:
                model = _load_model(name, checkpoint, options, device)
                reader = media_reader(checkpoint, options, model) if reads_media(model) else None
                tokenizer = load_tokenizer(checkpoint, options) if reader is None else None
            except (OSError, ValueError, KeyError, RuntimeError, ImportError, TypeError, SafetensorError) as error:
                raise BackboneError(f"the backbone {name!r} cannot be loaded: {_first_line(error)}") from error
        if options.drop_layers:
            Blocks(encoder_of(model) if reads_media(model) else body(model)).drop_top(options.drop_layers)
            mark = f"{mark}-{options.drop_layers}"
        divided = sharding.divide(model, device) if options.shard_backbone else ""
        path = Path(name).expanduser()
        known_as = (
            str(path.absolute()) if name not in ALIASES and path.exists() else name
        )  # absolute: valid in any folder
        backbone = (
            HuggingFaceBackbone(known_as, model, tokenizer, mark, revision=checkpoint.revision)
            if reader is None
            else MediaBackbone(known_as, model, reader, mark, revision=checkpoint.revision)
        )
        backbone.quantized, backbone.dropped = options.quantize, options.drop_layers
        backbone.divided = divided
        backbone.files = () if checkpoint.gguf else tuple(checkpoint.weight_files)
        backbone.hub_id = ALIASES[name].hub_id if name in ALIASES else None
        return backbone

    def adopts(self, model: object) -> bool:
        """Take the models of transformers."""
        return isinstance(model, PreTrainedModel)

    def adopt(self, model: Any, tokenizer: Any) -> "HuggingFaceBackbone | MediaBackbone":
        """Build a backbone around a model in memory, which is frozen in place and switched to evaluation mode.

        The ``tokenizer`` of a model of images or sounds is its image processor or feature extractor.
        """
        origin = origin_of(model)
        backbone = (
            MediaBackbone(origin.name, model, tokenizer, origin.fingerprint, origin.revision)
            if reads_media(model)
            else HuggingFaceBackbone(origin.name, model, with_padding(tokenizer), origin.fingerprint, origin.revision)
        )
        backbone.files = origin.files
        return backbone


class HuggingFaceBackbone(FrozenModel):
    """A frozen transformers model of texts; it can also be built around a model in memory."""

    positions_counted = False
    """Whether the model numbers tokens by its mask, without padding; measured by the probe."""

    def __init__(
        self, name: str, model: PreTrainedModel, tokenizer: Any, fingerprint: str, revision: str | None = None
    ) -> None:
        super().__init__(name, fingerprint, revision)
        config = model.config.get_text_config()
        self.architecture = str(model.config.model_type)
        self.generator = model.eval().requires_grad_(False) if is_language_model(model) else None
        self.model = body(model).eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.encoder_decoder = bool(getattr(model.config, "is_encoder_decoder", False))
        self.decoder_start = model_limits.decoder_start(model.config) if self.encoder_decoder else None
        self.vocabulary = model_limits.vocabulary(tokenizer)
        self._encoder_output: type[Any] = BaseModelOutput  # some encoders have an output class of their own
        self._position_offset = model_limits.position_offset(self.model)
        reader = self.model.get_encoder() if self.encoder_decoder else self.model
        self._takes_positions = "position_ids" in signature(reader.forward).parameters
        self.max_length = model_limits.max_length(self.model, self._position_offset, tokenizer)
        self._table = self.model.get_input_embeddings()
        findings = _probe(self)
        self.width, self._states_device = findings.width, findings.device or self.device
        self._table = called_table(
            self.model, findings
        )  # the probe ran with the declared table; models may call a copy
        self.causal = findings.causal and not self.encoder_decoder
        self.ports, self._attention = open_ports(
            self, self.model, int(getattr(config, "hidden_size", findings.width)), findings
        )
        self._vocabulary_closed = findings.vocabulary_closed

    def forward(self, batch: Batch) -> Tensor:
        """Return the last hidden states (R, T, W), of the encoder alone if the batch reads only the encoder."""
        inputs, encoded = batch.inputs, batch.encoded
        encoder_inputs = {name: tensor for name, tensor in inputs.items() if not name.startswith("decoder_")}
        model_inputs = (
            dict(self._divided(encoder_inputs))
            if batch.virtual is None
            else self.with_virtual(encoder_inputs, batch.virtual)
        )
        if batch.shift is not None:
            if not self._takes_positions or self.encoder_decoder:
                raise BackboneError(
                    f"{type(self.model).__name__} takes no position_ids, so texts cannot be shifted in it"
                )
            model_inputs["position_ids"] = moved(
                model_inputs, batch.shift, self.positions_counted, self._position_offset
            )
        with self.attention_kernel():
            if not self.encoder_decoder:
                extra = {"use_cache": False} if hasattr(self.model.config, "use_cache") else {}
                return self.model(**model_inputs, **extra)[0]  # type: ignore[no-any-return]
            if encoded is None:
                output = self.model.get_encoder()(**model_inputs)
                encoded, self._encoder_output = output[0], type(output)
            if batch.reads == "encoder":
                return encoded
            ids = inputs.get("decoder_input_ids")
            return self.model(  # type: ignore[no-any-return]
                encoder_outputs=self._encoder_output(last_hidden_state=encoded),
                attention_mask=model_inputs["attention_mask"],
                decoder_input_ids=self._shift_right(inputs["input_ids"]) if ids is None else ids,
                use_cache=False,
            )[0]

    def _divided(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Drop the mask of rows with several texts: with a mask transformers does not divide texts by positions."""
        if "position_ids" in inputs and not self._takes_positions:
            raise BackboneError(f"{type(self.model).__name__} takes no positions, so a row holds one text only")
        return {
            name: tensor for name, tensor in inputs.items() if name != "attention_mask" or "position_ids" not in inputs
        }

    def with_virtual(self, inputs: Mapping[str, Tensor], virtual: Virtual) -> dict[str, Tensor]:
        """Return the model's inputs with embeddings in front, which have positions like tokens."""
        embeddings = self._table(inputs["input_ids"])
        extended = virtual_tokens.lay_out(inputs, embeddings, virtual)
        if self._takes_positions:
            positions = virtual_tokens.positions(virtual, extended["attention_mask"], self.positions_counted)
            extended["position_ids"] = positions + self._position_offset
        return extended

    def save(self, folder: Path, maps: Mapping[Port, tuple[Tensor, Tensor]]) -> None:
        """Write a copy as transformers writes models; a language model keeps its map to the vocabulary."""
        changed = {self.model.get_submodule(port.module): (port.name, *tensors) for port, tensors in maps.items()}
        try:
            saving.write(self.generator or self.model, self.tokenizer, folder, changed)
        except (ValueError, RuntimeError, ImportError, SafetensorError) as error:
            raise BackboneError(f"the backbone {self.id!r} cannot be saved: {_first_line(error)}") from error

    def embeddings(self) -> Tensor:
        """Return the frozen input embeddings (V, W)."""
        table = getattr(self.model.get_input_embeddings(), "weight", None)
        if table is None or table.shape[-1] != self.width:
            description = (
                "no table of tokens" if table is None else f"{table.shape[-1]} wide, its hidden states {self.width}"
            )
            raise BackboneError(
                f"{type(self.model).__name__} has no map to a vocabulary: its input embeddings are {description}"
            )
        return in_memory(table, "the input embeddings")

    def vocabulary_logits(self, hidden: Tensor) -> Tensor:
        """Return the frozen language model's logits (R, T, V); the probe compared them with the model's own."""
        if self.generator is None or self._vocabulary_closed:
            reason = self._vocabulary_closed or f"{type(self.model).__name__} has no map to a vocabulary"
            raise BackboneError(f"the backbone {self.id!r} cannot be used as a language model: {reason}")
        return language_logits(self.generator, hidden)

    def generate(self, batch: Batch, options: Mapping[str, Any], seeds: Sequence[int] | None = None) -> Tensor:
        """Return new tokens (R, N), by the search of transformers."""
        if self.generator is None:
            raise BackboneError(
                f"the backbone {self.id!r} cannot write: as {type(self.model).__name__} it has no map to a vocabulary"
            )
        inputs, virtual, shift = batch.inputs, batch.virtual, batch.shift
        arguments, prompts = dict(inputs), None
        if virtual is not None:
            extended = self.with_virtual(inputs, virtual)
            arguments = {name: extended[name] for name in ("inputs_embeds", "attention_mask")}
            prompts, _ = virtual_tokens.token_ids(inputs, virtual)
        moving = nullcontext() if shift is None else moving_on(self.model, shift)
        with moving, reported(self.model, batch.calls, prompts, shift):
            tokens: Tensor = self._search(arguments, options, seeds)
        skipped = 1 if self.encoder_decoder else (0 if virtual is not None else inputs["input_ids"].shape[1])
        return tokens[:, skipped:]

    def _search(
        self, arguments: Mapping[str, Tensor], options: Mapping[str, Any], seeds: Sequence[int] | None
    ) -> Tensor:
        assert self.generator is not None
        return self.generator.generate(  # type: ignore[no-any-return]
            **arguments,
            max_new_tokens=options["max_new_tokens"],
            num_beams=options["num_beams"],
            repetition_penalty=options["repetition_penalty"],
            do_sample=False,  # the processors of drawing() sample, with a seed per row
            temperature=None,
            top_k=None,
            top_p=None,
            logits_processor=drawing(options, seeds, self.device) if seeds else None,
            pad_token_id=self.tokenizer.pad_token_id,
            use_cache=True,
        )

    @property
    def endings(self) -> frozenset[int]:
        """The end tokens of the generation configuration."""
        return frozenset() if self.generator is None else endings(self.generator)

    @cached_property
    def writes_in_steps(self) -> bool:
        """Whether this is a decoder that caches keys and values only; measured with a short text."""
        return self.generator is not None and not self.encoder_decoder and kv_cache.possible(self.model)

    def begin(self, batch: Batch) -> tuple[Tensor, kv_cache.Cached]:
        """Read prompts into a cache of keys and values."""
        if not self.writes_in_steps:
            raise BackboneError(f"the backbone {self.id!r} does not write in steps")
        inputs = dict(batch.inputs) if batch.virtual is None else self.with_virtual(batch.inputs, batch.virtual)
        return kv_cache.begin(self.model, inputs, self.vocabulary_logits, self._takes_positions, batch.shift)

    def _shift_right(self, ids: Tensor) -> Tensor:
        assert self.decoder_start is not None  # there is a decoder
        return torch.cat([torch.full_like(ids[:, :1], self.decoder_start), ids[:, :-1]], dim=1)


# --------------------------------------------------------------------------------------- loading


def _load_model(name: str, checkpoint: Checkpoint, options: LoadOptions, device: str) -> PreTrainedModel:
    dtype: Any = options.dtype if options.dtype != "auto" else ("float32" if device == "cpu" else "auto")
    arguments: dict[str, Any] = {"dtype": dtype, "trust_remote_code": options.trust_remote_code}
    if not checkpoint.gguf:
        arguments["use_safetensors"] = True  # otherwise transformers may fall back to a pickle
    quantizer = None
    if options.quantize:
        quantizer = quantization.choose(options.quantize, options.quantizer, device.partition(":")[0])
        if quantizer == "bitsandbytes":
            if checkpoint.gguf:
                raise BackboneError(f"{name!r} is a GGUF file, which bitsandbytes cannot quantise again")
            compute = torch.float32 if dtype == "auto" else getattr(torch, dtype)
            arguments["quantization_config"] = quantization.bitsandbytes_config(options.quantize, compute)
    if checkpoint.gguf:
        arguments["gguf_file"] = checkpoint.gguf
    placed = options.device_map or (device if quantizer == "bitsandbytes" else None)
    if placed:
        arguments["device_map"] = placed
    model, report = auto_class(checkpoint, options).from_pretrained(
        checkpoint.folder, output_loading_info=True, **arguments
    )
    # Many checkpoints come without the pooler, which no port and no head reads.
    lacking = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if lacking:
        raise BackboneError(
            f"the checkpoint of {name!r} lacks weights, among them {lacking[0]} ({len(lacking)} in all)"
        )
    if not placed and not options.shard_backbone:  # a divided model need not fit into a device
        model.to(device)
    if quantizer == "torchao":
        quantization.quantize_with_torchao(body(model))
    elif quantizer == "bitsandbytes":
        quantization.keep_trainable(model)
    return model


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _probe(backbone: HuggingFaceBackbone) -> Findings:
    model = backbone.model
    linear_maps = [module for module in model.modules() if widths(module) is not None]
    try:
        with quiet():
            return probe(backbone, linear_maps, watched(model, backbone.encoder_decoder), language_logits)
    except Exception as error:  # models of images or sound raise anything when they get tokens
        raise BackboneError(
            f"the architecture {backbone.architecture!r} cannot be used: a small batch of tokens did not come through "
            f"{type(model).__name__} ({type(error).__name__}: {_first_line(error)})"
        ) from error
