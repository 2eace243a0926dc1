"""One small batch through a frozen model, in which each module shows how it treats the rows.

Module names tell what a linear map is for, but not whether the rows of a batch can be told apart in what
it sees: XLNet puts positions first, DeBERTa sends tables of relative positions through its maps, and
experts see tokens picked from the whole batch. An adapter for some of the rows must not act there.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from adaptdock.backbones.transformers import attention
from adaptdock.plugins.contracts import Batch, Prepended, Virtual

ROWS, LENGTH = 2, 3  # unlike, so that they cannot be taken for each other


@dataclass(frozen=True)
class Call:
    """What an attention call shows of itself: key/value heads and their widths."""

    heads: int
    key_width: int
    value_width: int


@dataclass
class Findings:
    """What the batch has shown."""

    width: int = 0
    device: torch.device | None = None
    """Where the last hidden states come out; of a model on several devices that is not where inputs go."""
    causal: bool = False
    attention: dict[nn.Module, Call] = field(default_factory=dict)
    seen: dict[nn.Module, bool] = field(default_factory=dict)
    """Each linear map that was called, and whether the rows could be told apart every time."""
    states: dict[nn.Module, int] = field(default_factory=dict)
    """The width of what each other module puts out, in the order of their first calls; zero unless it is (R, T, W)."""
    called: dict[nn.Module, None] = field(default_factory=dict)
    """The watched modules in the order of their first calls."""

    embedding_closed: str = ""
    """Why nothing can stand in front of the input embeddings; empty where it can."""
    vocabulary_closed: str = ""
    """Why the logits cannot be computed from hidden states; empty where they can."""

    def rows_told(self, module: nn.Module) -> bool:
        """Tell whether a linear map takes part, and the rows of a batch can be told apart in it."""
        return self.seen.get(module, False)


class Probed(Protocol):
    """What is asked of a backbone here."""

    model: PreTrainedModel
    generator: PreTrainedModel | None
    positions_counted: bool

    @property
    def device(self) -> torch.device:
        """Where inputs go."""

    def forward(self, batch: Batch) -> Tensor:
        """Return the last hidden states."""


def probe(
    backbone: Probed,
    linear_maps: Iterable[nn.Module],
    others: Iterable[nn.Module],
    language_logits: Callable[[PreTrainedModel, Tensor], Tensor],
) -> Findings:
    """Send two rows of three tokens through the model, the last token of the second row being another.

    ``others`` are the modules, beside linear maps, that may put out hidden states.
    """
    findings, model = Findings(), backbone.model
    ids = torch.full((ROWS, LENGTH), 5, device=backbone.device)
    ids[1, -1] = 6
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for module in linear_maps:
            stack.callback(module.register_forward_hook(_watch_rows(findings)).remove)
        for module in others:
            stack.callback(module.register_forward_hook(_watch_states(findings)).remove)
        if attention.implementation(model) in attention.WRAPPED:
            handlers = {module: _watch_attention(findings, module) for module in model.modules()}
            stack.enter_context(attention.intercept(model, handlers))
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        hidden = backbone.forward(Batch(batch, "decoder"))
    findings.embedding_closed = _front_refused(backbone, batch)
    if backbone.generator is not None:
        findings.vocabulary_closed = _logits_refused(backbone, batch, hidden, language_logits)
    findings.width, findings.device = hidden.shape[-1], hidden.device
    findings.causal = bool(torch.equal(hidden[0, 0], hidden[1, 0]))
    return findings


@torch.no_grad()
def _front_refused(backbone: Probed, batch: Mapping[str, Tensor]) -> str:
    """Return why nothing can stand in front of the inputs, or nothing: two masked embeddings must change nothing.

    One row is padded on the left, which shows how the model numbers its positions.
    """
    name = type(backbone.model).__name__
    embeddings = backbone.model.get_input_embeddings()
    if not isinstance(embeddings, nn.Embedding):
        return f"the input embeddings of {name} are no table of tokens"
    width, device = embeddings.weight.shape[-1], backbone.device
    masked = Virtual(
        torch.zeros(ROWS, 2, width, device=device, dtype=embeddings.weight.dtype),
        torch.zeros(ROWS, 2, dtype=torch.long, device=device),
    )
    batch = {key: tensor.clone() for key, tensor in batch.items()}
    batch["input_ids"][1, 0] = getattr(backbone.model.config, "pad_token_id", None) or 0
    batch["attention_mask"][1, 0] = 0
    kept = batch["attention_mask"].bool()
    for counted in (False, True):
        backbone.positions_counted = counted
        try:
            found = backbone.forward(Batch(batch, virtual=masked))[:, 2:]
        except Exception as error:  # whatever a model raises that wants tokens and no embeddings
            return f"{name} takes no input embeddings ({type(error).__name__})"
        alone = backbone.forward(Batch(batch))
        kept = kept.to(alone.device)
        if _alike(found[kept], alone[kept]):
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
    """Return why the logits cannot be had from hidden states, or nothing: they must be those of the whole model."""
    model = backbone.generator
    assert model is not None
    given = dict(batch)
    if model.config.is_encoder_decoder:
        given["decoder_input_ids"] = torch.zeros_like(batch["input_ids"])
        hidden = backbone.forward(Batch(given, "decoder"))
    if _alike(language_logits(model, hidden), model(**given, use_cache=False).logits):
        return ""
    return f"{type(model).__name__} does more with its hidden states than map them to the vocabulary"


def _alike(one: Tensor, other: Tensor) -> bool:
    """Compare results of the body and of the whole model, whose hook may bring its result back to another device."""
    one = one.to(other.device)
    scale = other.float().abs().max().clamp(min=1e-6)
    limit = 1e-4 if other.dtype == torch.float32 else 0.05
    return bool((one.float() - other.float()).abs().max() <= limit * scale)


def _watch_rows(findings: Findings) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def after(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        *leading, _ = args[0].shape
        apart = leading == [ROWS * LENGTH] or (len(leading) > 1 and leading[0] == ROWS)
        apart = apart and isinstance(out, Tensor)  # PhiMoE's router gives what it has chosen
        findings.called[module] = None
        findings.seen[module] = apart and findings.seen.get(module, True)

    return after


def _watch_states(findings: Findings) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def after(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        states = out[0] if isinstance(out, tuple) and out else out
        *leading, width = states.shape if isinstance(states, Tensor) and states.ndim > 1 else (0, 0)
        apart = leading in ([ROWS, LENGTH], [ROWS * LENGTH])
        findings.states[module] = width if apart and findings.states.get(module, width) == width else 0
        findings.called[module] = None

    return after


def _watch_attention(findings: Findings, module: nn.Module) -> attention.Handler:
    def handler(key: Tensor, value: Tensor) -> list[Prepended]:
        if key.shape[0] == ROWS:
            findings.attention[module] = Call(key.shape[1], key.shape[3], value.shape[3])
        return []

    return handler
