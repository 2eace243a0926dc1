"""The scribe: texts that are written side by side, a token of each at a time; they join and leave between two tokens.

What the steps cannot do (beams, encoder-decoders, models that keep more than keys and values) is left to the batches.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from adaptdock.engine.core.batches import length
from adaptdock.engine.inference.continuous_batching import Steps, Text
from adaptdock.engine.inference.residency import Residency
from adaptdock.serving.configuration import ServingOptions
from adaptdock.serving.scheduling.fairness import FairQueues
from adaptdock.serving.scheduling.inference_request import Work

UNFINISHED = "\ufffd"
"""What is decoded where the bytes of a character are not complete yet."""
QUANTUM = 256


@dataclass(eq=False)
class Underway:
    """A text that is being written, and what keeps its adapters aboard."""

    work: Work
    text: Text
    aboard: ExitStack
    told: int = 0
    """The characters that have been told already."""


class Scribe:
    """Used by one thread at a time. ``dropped`` tells of an input whether nobody waits for it any more."""

    def __init__(self, residency: Residency, options: ServingOptions, dropped: Callable[[Work], bool]) -> None:
        self._residency, self._dock, self._options = residency, residency.dock, options
        self._dropped = dropped
        self._waiting: FairQueues[Work] = FairQueues(self._cost, QUANTUM)
        self._underway: list[Underway] = []
        self._steps = Steps(self._dock)

    @property
    def busy(self) -> bool:
        """Whether something is written, or waits for it."""
        return bool(self._underway or self._waiting)

    def takes(self, work: Work) -> bool:
        """Tell whether an input is a text that can be written in steps."""
        return work.search is not None and work.search.num_beams == 1 and self._dock.backbone.writes_in_steps

    def put(self, work: Work) -> None:
        """Let a text wait until it can join."""
        self._waiting.put(work.name, work)

    def turn(self) -> None:
        """Let texts join and leave, and write a token of each."""
        self._leave([one for one in self._underway if self._dropped(one.work)])
        free = self._options.batch_rows - len(self._underway)
        if free > 0 and self._waiting:
            works = [work for work in self._waiting.take(self._options.write_tokens, free) if not self._dropped(work)]
            self._join(works)
        try:
            self._steps.step()
        except Exception as error:
            for one in self._underway:
                one.work.fail(error)
            self._leave(self._underway)
            self._steps = Steps(self._dock)
        self._tell()

    def _join(self, works: list[Work]) -> None:
        """Let texts join together; where that fails, each by itself, so that one's trouble is its own."""
        if not works:
            return
        boarded: list[Underway] = []
        try:
            boarded += [self._boarded(work) for work in works]
            self._steps.join([one.text for one in boarded])
        except Exception as error:
            for one in boarded:
                one.aboard.close()
            if len(works) == 1:
                works[0].fail(error)
                return
            for work in works:
                self._join([work])
            return
        self._underway += boarded

    def _boarded(self, work: Work) -> Underway:
        with ExitStack() as stack:
            names = [work.key or None]
            stack.enter_context(self._residency.present(names))
            (row,) = stack.enter_context(self._dock.boarding(names))
            assert work.search is not None  # it is a text
            text = Text(row, work.features[0].inputs["input_ids"], work.search)
            return Underway(work, text, stack.pop_all())

    def _tell(self) -> None:
        """Tell what was written, and answer for the texts that are done."""
        for one in self._underway:
            done = one.text.done
            if done or one.work.told is not None:
                text = self._dock.backbone.tokenizer.decode(one.text.tokens, skip_special_tokens=True)
                if one.work.told is not None and (done or not text.endswith(UNFINISHED)):
                    if len(text) > one.told:
                        one.work.told(text[one.told :])
                    one.told = max(one.told, len(text))
                if done:
                    self._answer(one, text)
        self._leave([one for one in self._underway if one.text.done])

    def _answer(self, one: Underway, text: str) -> None:
        try:
            one.work.succeed(one.work.written(text, len(one.text.tokens), one.text.ended))
        except Exception as error:
            one.work.fail(error)

    def _cost(self, work: Work) -> int:
        assert work.search is not None  # it is a text
        return work.cost(length(work.features[0]) + work.search.max_new_tokens, self._dock.backbone.width)

    def _leave(self, gone: list[Underway]) -> None:
        if not gone:
            return
        self._steps.leave([one.text for one in gone])
        self._underway = [one for one in self._underway if one not in gone]
        for one in gone:
            one.aboard.close()
