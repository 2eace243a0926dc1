"""Continuous batching: texts are generated together, a token at a time; each joins and leaves between two steps.

A text does not depend on its neighbours: it equals the result of
:func:`adaptdock.engine.inference.generation.generate` with the same options. Beams are not supported.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adaptdock.engine.core.docked_adapters import DockedAdapters, Row
from adaptdock.engine.core.forward import in_front
from adaptdock.engine.core.length_groups import length_groups
from adaptdock.engine.core.position_layouts import layouts, next_tokens
from adaptdock.engine.core.rows import MixedRows, moves
from adaptdock.engine.inference.generation import GenerationOptions, lay_out
from adaptdock.errors import BackboneError
from adaptdock.plugins.contracts import Batch, Continuation, Feature


@dataclass(eq=False)
class Text:
    """A text in generation; its row stays aboard until the text is done."""

    row: Row
    prompt: Sequence[int]
    search: GenerationOptions
    tokens: list[int] = field(default_factory=list)
    """The generated tokens."""
    ended: bool = False
    """Whether the last token is an end token."""
    generator: torch.Generator | None = None

    @property
    def done(self) -> bool:
        """Whether the text is complete: an end token, or the longest answer."""
        return self.ended or len(self.tokens) >= self.search.max_new_tokens

    @property
    def position(self) -> int:
        """The position of the last token, counted from the positions that the adapters take."""
        return len(self.prompt) + len(self.tokens) - 1 + sum(part.assembly.positions for part in self.row)

    def choose(self, logits: Tensor) -> int:
        """Return the next token, from its logits (V)."""
        scores = logits.float()
        if self.search.repetition_penalty != 1:
            scores = _penalised(scores, [*self.prompt, *self.tokens], self.search.repetition_penalty)
        if self.search.do_sample:
            scores = self._drawn(scores)
        return int(scores.argmax())

    def _drawn(self, scores: Tensor) -> Tensor:
        if self.generator is None:
            seed = secrets.randbits(63) if self.search.seed is None else self.search.seed
            self.generator = torch.Generator(scores.device).manual_seed(seed)
        # Temperature, top-k, top-p, noise: the order of generate(), so that both draw the same text.
        scores = scores / self.search.temperature
        if self.search.top_k:
            least = scores.topk(min(self.search.top_k, len(scores))).values[-1]
            scores = scores.masked_fill(scores < least, float("-inf"))
        if self.search.top_p < 1:
            scores = _nucleus(scores, self.search.top_p)
        noise = torch.empty_like(scores).exponential_(generator=self.generator)
        return scores - noise.log()


class Steps:
    """The texts in generation, in the order of joining."""

    def __init__(self, dock: DockedAdapters) -> None:
        self._dock, self._backbone = dock, dock.backbone
        self.texts: list[Text] = []
        self._continuation: Continuation | None = None
        self._mixed: MixedRows | None = None

    @torch.inference_mode()
    def join(self, texts: Sequence[Text]) -> None:
        """Read the prompts of new texts, generate their first token, and add them to the running texts.

        Prompts of similar length are read together. Raises :class:`UsageError` for a prompt without room, and
        :class:`BackboneError` for a backbone that does not write in steps.
        """
        if (
            not self._backbone.writes_in_steps
        ):  # asked before rows are routed: a backbone may try it with a pass of its own
            raise BackboneError(f"the backbone {self._backbone.id!r} does not write in steps")
        room = self._backbone.max_length - max(
            text.search.max_new_tokens + sum(part.assembly.positions for part in text.row) for text in texts
        )
        groups = length_groups(self._backbone, [Feature({"input_ids": list(text.prompt)}) for text in texts])
        joining = [self._begun([texts[number] for number in group], room) for group in groups]
        for unfinished, continuation in joining:  # after all passes: an error in one leaves the running texts alone
            if not unfinished:
                continue
            if self._continuation is None:
                self._continuation = continuation
            else:
                self._continuation.join(continuation)
            self.texts += unfinished
            self._mixed = None

    def _begun(self, texts: Sequence[Text], room: int) -> tuple[list[Text], Continuation]:
        """Read prompts, generate their first token, and return the unfinished texts with their state."""
        inputs = lay_out(self._dock, [text.prompt for text in texts], room)
        mixed = self._dock.mixed([text.row for text in texts])
        prompts = in_front(self._backbone, mixed, inputs)
        length = inputs["input_ids"].shape[1] + (0 if prompts is None else prompts.mask.shape[1])
        batch = Batch(inputs, virtual=prompts, shift=moves(mixed, self._backbone.device))
        with self._dock.ports.routed(mixed, {length}, layouts(self._backbone, batch)):
            logits, continuation = self._backbone.begin(batch)
        self._write(texts, logits)
        unfinished = [number for number, text in enumerate(texts) if not text.done]
        if unfinished and len(unfinished) < len(texts):
            continuation.keep(unfinished)
        return [texts[number] for number in unfinished], continuation

    @torch.inference_mode()
    def step(self) -> list[Text]:
        """Generate a token for every text; return the complete texts, which have left."""
        if self._continuation is None:
            return []
        if self._mixed is None:
            self._mixed = self._dock.mixed([text.row for text in self.texts])
        last_tokens = torch.tensor([text.tokens[-1] for text in self.texts], device=self._backbone.device)
        laid_out = next_tokens(
            last_tokens, [text.position for text in self.texts], [text.prompt for text in self.texts]
        )
        with self._dock.ports.routed(self._mixed, {1}, laid_out):
            logits = self._continuation.append(last_tokens)
        self._write(self.texts, logits)
        finished = [text for text in self.texts if text.done]
        self.leave(finished)
        return finished

    def leave(self, texts: Sequence[Text]) -> None:
        """Stop these texts and free their rows of the cache."""
        rows = [number for number, text in enumerate(self.texts) if text not in texts]
        if len(rows) == len(self.texts):
            return
        self.texts = [self.texts[number] for number in rows]
        self._mixed = None
        if not rows:
            self._continuation = None
        elif self._continuation is not None:
            self._continuation.keep(rows)

    def _write(self, texts: Sequence[Text], logits: Tensor) -> None:
        best_tokens = logits.argmax(-1).tolist()
        for text, scores, best_token in zip(texts, logits, best_tokens, strict=True):
            plain = not text.search.do_sample and text.search.repetition_penalty == 1
            token = best_token if plain else text.choose(scores)
            text.tokens.append(token)
            text.ended = token in self._backbone.endings


def _penalised(scores: Tensor, token_ids: Sequence[int], penalty: float) -> Tensor:
    """Lower the scores of tokens that occurred before (Keskar et al. 2019, arXiv:1909.05858)."""
    places = torch.tensor(sorted(set(token_ids)), device=scores.device)
    occurred = scores[places]
    return scores.index_copy(0, places, torch.where(occurred < 0, occurred * penalty, occurred / penalty))


def _nucleus(scores: Tensor, share: float) -> Tensor:
    """Keep the most probable tokens with this total probability (Holtzman et al. 2019, arXiv:1904.09751)."""
    ordered, places = scores.sort()
    out = ordered.softmax(-1).cumsum(-1) <= 1 - share
    out[-1] = False  # the most probable token always stays
    return scores.masked_fill(torch.zeros_like(out).scatter(0, places, out), float("-inf"))
