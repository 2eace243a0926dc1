"""Stepping: texts that are written together, a token at a time; each joins and leaves between two steps.

What a text becomes does not depend on its neighbours: it is what
:func:`adaptdock.engine.inference.generation.generate` writes with the same options, of which beams are left out.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adaptdock.engine.core.docked_adapters import DockedAdapters, Row
from adaptdock.engine.core.forward import in_front
from adaptdock.engine.core.layouts import layouts, next_tokens
from adaptdock.engine.core.rows import MixedRows, moves
from adaptdock.engine.inference.generation import GenerationOptions, lay_out
from adaptdock.errors import BackboneError
from adaptdock.plugins.contracts import Batch, Continuation


@dataclass(eq=False)
class Text:
    """A text that is being written, by a row that stays aboard until it is done."""

    row: Row
    prompt: Sequence[int]
    search: GenerationOptions
    tokens: list[int] = field(default_factory=list)
    """What has been written."""
    ended: bool = False
    """Whether it came to its end by itself."""
    generator: torch.Generator | None = None

    @property
    def done(self) -> bool:
        """Whether nothing more is written."""
        return self.ended or len(self.tokens) >= self.search.max_new_tokens

    @property
    def position(self) -> int:
        """The position of the last token, behind those that the adapters take for themselves."""
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
        scores = scores / self.search.temperature
        if self.search.top_k:
            least = scores.topk(min(self.search.top_k, len(scores))).values[-1]
            scores = scores.masked_fill(scores < least, float("-inf"))
        if self.search.top_p < 1:
            scores = _nucleus(scores, self.search.top_p)
        noise = torch.empty_like(scores).exponential_(generator=self.generator)
        return scores - noise.log()


class Steps:
    """The texts that are being written, in the order in which they joined."""

    def __init__(self, dock: DockedAdapters) -> None:
        self._dock, self._mine = dock, dock.backbone
        self.texts: list[Text] = []
        self._kept: Continuation | None = None
        self._mixed: MixedRows | None = None

    @torch.inference_mode()
    def join(self, texts: Sequence[Text]) -> None:
        """Read the prompts of new texts, write their first token, and go on with them beside the others.

        Raises :class:`UsageError` for a prompt without room, and :class:`BackboneError` where the backbone does not
        write in steps.
        """
        if not self._mine.writes_in_steps:  # asked before rows are routed: a backbone may try it with a pass of its own
            raise BackboneError(f"the backbone {self._mine.id!r} does not write in steps")
        room = self._mine.max_length - max(
            text.search.max_new_tokens + sum(part.assembly.positions for part in text.row) for text in texts
        )
        inputs = lay_out(self._dock, [text.prompt for text in texts], room)
        mixed = self._dock.mixed([text.row for text in texts])
        prompts = in_front(self._mine, mixed, inputs)
        length = inputs["input_ids"].shape[1] + (0 if prompts is None else prompts.mask.shape[1])
        batch = Batch(inputs, virtual=prompts, shift=moves(mixed, self._mine.device))
        with self._dock.ports.routed(mixed, {length}, layouts(self._mine, batch)):
            logits, kept = self._mine.begin(batch)
        self._write(texts, logits)
        going = [number for number, text in enumerate(texts) if not text.done]
        if not going:
            return
        if len(going) < len(texts):
            kept.keep(going)
        if self._kept is None:
            self._kept = kept
        else:
            self._kept.join(kept)
        self.texts += [texts[number] for number in going]
        self._mixed = None

    @torch.inference_mode()
    def step(self) -> list[Text]:
        """Write a token of every text, and return those that are done: they have left."""
        if self._kept is None:
            return []
        if self._mixed is None:
            self._mixed = self._dock.mixed([text.row for text in self.texts])
        last = torch.tensor([text.tokens[-1] for text in self.texts], device=self._mine.device)
        laid_out = next_tokens(last, [text.position for text in self.texts])
        with self._dock.ports.routed(self._mixed, {1}, laid_out):
            logits = self._kept.append(last)
        self._write(self.texts, logits)
        done = [text for text in self.texts if text.done]
        self.leave(done)
        return done

    def leave(self, texts: Sequence[Text]) -> None:
        """Write no further at these texts."""
        rows = [number for number, text in enumerate(self.texts) if text not in texts]
        if len(rows) == len(self.texts):
            return
        self.texts = [self.texts[number] for number in rows]
        self._mixed = None
        if not rows:
            self._kept = None
        elif self._kept is not None:
            self._kept.keep(rows)

    def _write(self, texts: Sequence[Text], logits: Tensor) -> None:
        best = logits.argmax(-1).tolist()
        for text, scores, found in zip(texts, logits, best, strict=True):
            plain = not text.search.do_sample and text.search.repetition_penalty == 1
            token = found if plain else text.choose(scores)
            text.tokens.append(token)
            text.ended = token in self._mine.endings


def _penalised(scores: Tensor, seen: Sequence[int], penalty: float) -> Tensor:
    """Make tokens that occurred less probable (Keskar et al. 2019, arXiv:1909.05858)."""
    places = torch.tensor(sorted(set(seen)), device=scores.device)
    found = scores[places]
    return scores.index_copy(0, places, torch.where(found < 0, found * penalty, found / penalty))


def _nucleus(scores: Tensor, share: float) -> Tensor:
    """Leave the most probable tokens that together have this probability (Holtzman et al. 2019, arXiv:1904.09751)."""
    ordered, places = scores.sort()
    out = ordered.softmax(-1).cumsum(-1) <= 1 - share
    out[-1] = False
    return scores.masked_fill(torch.zeros_like(out).scatter(0, places, out), float("-inf"))
