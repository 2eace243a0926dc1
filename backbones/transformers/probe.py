"""The probe: one small batch through a frozen model, which shows how each module treats the rows.

Module names tell the purpose of a linear map, but not whether its input keeps the rows of a batch apart.
XLNet puts positions first, DeBERTa sends tables of relative positions through its maps, and
experts see tokens picked from the whole batch. An adapter for some of the rows must not act there.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from adaptdock.backbones.transformers import attention
from adaptdock.plugins.contracts import Batch, Prepended, Virtual

ROWS, LENGTH = 2, 3  # different sizes, so that the two dimensions cannot be confused


@dataclass(frozen=True)
class Call:
    """The sizes of an attention call: key/value heads and their widths."""

    heads: int
    key_width: int
    value_width: int


@dataclass
class Findings:
    """The results of the probe."""

    width: int = 0
    device: torch.device | None = None
    """The device of the last hidden states; a model on several devices takes its inputs on another."""
    causal: bool = False
    attention: dict[nn.Module, Call] = field(default_factory=dict)
    length: int = LENGTH
    """The number of positions of the batch."""
    seen: dict[nn.Module, bool] = field(default_factory=dict)
    """Each linear map that was called, and whether every call kept the rows apart."""
    states: dict[nn.Module, int] = field(default_factory=dict)
    """The output width of each other module, in the order of first calls; zero unless the output is (R, T, W)."""
    called: dict[nn.Module, None] = field(default_factory=dict)
    """The watched modules in the order of their first calls."""

    embedding_closed: str = ""
    """Why no embeddings can be put in front of the input; empty if they can."""
    vocabulary_closed: str = ""
    """Why the logits cannot be computed from hidden states; empty if they can."""

    def rows_told(self, module: nn.Module) -> bool:
        """Return whether a linear map was called and keeps the rows of a batch apart."""
        return self.seen.get(module, False)


class Probed(Protocol):
    """The part of a backbone that the probe uses."""

    model: PreTrainedModel
    generator: PreTrainedModel | None
    positions_counted: bool

    @property
    def device(self) -> torch.device:
        """The device of the inputs."""

    def forward(self, batch: Batch) -> Tensor:
        """Return the last hidden states."""


def probe(
    backbone: Probed,
    linear_maps: Iterable[nn.Module],
    others: Iterable[nn.Module],
    language_logits: Callable[[PreTrainedModel, Tensor], Tensor],
) -> Findings:
    """Send two rows of three tokens through the model; only the last token of the second row differs.

    ``others`` are the modules, beside linear maps, whose outputs may be hidden states.
    """
    findings, model = Findings(), backbone.model
    ids = torch.full((ROWS, LENGTH), 5, device=backbone.device)
    ids[1, -1] = 6
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with watching(findings, model, linear_maps, others):
        hidden = backbone.forward(Batch(batch, "decoder"))
    findings.embedding_closed = _front_refused(backbone, batch)
    if backbone.generator is not None:
        findings.vocabulary_closed = _logits_refused(backbone, batch, hidden, language_logits)
    findings.width, findings.device = hidden.shape[-1], hidden.device
    findings.causal = bool(torch.equal(hidden[0, 0], hidden[1, 0]))  # position 0 did not see the different last token
    return findings


@contextmanager
def watching(
    findings: Findings, model: PreTrainedModel, linear_maps: Iterable[nn.Module], others: Iterable[nn.Module]
) -> Iterator[None]:
    """Record what passes the modules of a model, in a batch of two rows without padding, while the context is open."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for module in linear_maps:
            stack.callback(module.register_forward_hook(_watch_rows(findings)).remove)
        for module in others:
            stack.callback(module.register_forward_hook(_watch_states(findings)).remove)
        if attention.implementation(model) in attention.WRAPPED:
            handlers = {module: _watch_attention(findings, module) for module in model.modules()}
            stack.enter_context(attention.intercept(model, handlers))
        yield


@torch.no_grad()
def _front_refused(backbone: Probed, batch: Mapping[str, Tensor]) -> str:
    """Return why no embeddings can be put in front of the inputs, or "": two masked embeddings must change nothing.

    One row is padded on the left, which shows how the model numbers its positions.
    """
    name = type(backbone.model).__name__
    embeddings = backbone.model.get_input_embeddings()
    if not isinstance(embeddings, nn.Embedding):
        return f"the input embeddings of {name} are not a table of tokens"
    width, device = embeddings.weight.shape[-1], backbone.device
    masked = Virtual(
        torch.zeros(ROWS, 2, width, device=device, dtype=embeddings.weight.dtype),
        torch.zeros(ROWS, 2, dtype=torch.long, device=device),
    )
    batch = {key: tensor.clone() for key, tensor in batch.items()}
    batch["input_ids"][1, 0] = getattr(backbone.model.config, "pad_token_id", None) or 0
    batch["attention_mask"][1, 0] = 0
    visible = batch["attention_mask"].bool()
    for counted in (False, True):
        backbone.positions_counted = counted
        try:
            prompted = backbone.forward(Batch(batch, virtual=masked))[:, 2:]
        except Exception as error:  # models that take tokens only raise errors of many kinds
            return f"{name} takes no input embeddings ({type(error).__name__})"
        alone = backbone.forward(Batch(batch))
        visible = visible.to(alone.device)
        if _alike(prompted[visible], alone[visible]):
            return ""
    return (
        f"in {name} the positions of a text depend on what stands in front of it, so a prompt for one row of a "
        f"batch would change the others"
    )


@torch.no_grad()
def _logits_refused(
    backbone: Probed,
    batch: Mapping[str, Tensor],
    hidden: Tensor,
    language_logits: Callable[[PreTrainedModel, Tensor], Tensor],
) -> str:
    """Return why the logits cannot be computed from hidden states, or "": they must equal the whole model's."""
    model = backbone.generator
    assert model is not None
    inputs = dict(batch)
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.zeros_like(batch["input_ids"])
        hidden = backbone.forward(Batch(inputs, "decoder"))
    if _alike(language_logits(model, hidden), model(**inputs, use_cache=False).logits):
        return ""
    return f"{type(model).__name__} does more with its hidden states than map them to the vocabulary"


def _alike(computed: Tensor, expected: Tensor) -> bool:
    """Compare results of the body and of the whole model, which may be on different devices (accelerate's hook)."""
    computed = computed.to(expected.device)
    scale = expected.float().abs().max().clamp(min=1e-6)
    limit = 1e-4 if expected.dtype == torch.float32 else 0.05
    return bool((computed.float() - expected.float()).abs().max() <= limit * scale)


def _watch_rows(findings: Findings) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def after(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        *leading, _ = args[0].shape
        apart = leading == [ROWS * findings.length] or (len(leading) > 1 and leading[0] == ROWS)
        apart = apart and isinstance(out, Tensor)  # PhiMoE's router returns a tuple of its choices
        findings.called[module] = None
        findings.seen[module] = apart and findings.seen.get(module, True)

    return after


def _watch_states(findings: Findings) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def after(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        states = out[0] if isinstance(out, tuple) and out else out
        *leading, width = states.shape if isinstance(states, Tensor) and states.ndim > 1 else (0, 0)
        apart = leading in ([ROWS, findings.length], [ROWS * findings.length])
        findings.states[module] = width if apart and findings.states.get(module, width) == width else 0
        findings.called[module] = None

    return after


def _watch_attention(findings: Findings, module: nn.Module) -> attention.Handler:
    def handler(key: Tensor, value: Tensor) -> list[Prepended]:
        if key.shape[0] == ROWS:
            findings.attention[module] = Call(key.shape[1], key.shape[3], value.shape[3])
        return []

    return handler
