"""The decode scheduler: continuous batching. Texts grow side by side by a token each, and join or leave at any step.

Beam search, encoder-decoders and models with more state than a KV cache need whole batches: the batcher runs these.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from adaptdock.engine.core.batches import length
from adaptdock.engine.inference.continuous_batching import Steps, Text
from adaptdock.engine.inference.residency import Residency
from adaptdock.serving.configuration import ServingOptions
from adaptdock.serving.scheduling.admission import AdmissionControl
from adaptdock.serving.scheduling.device_health import DeviceHealth
from adaptdock.serving.scheduling.fairness import FairQueues
from adaptdock.serving.scheduling.inference_request import Work
from adaptdock.serving.scheduling.stop_sequences import held_back, stop_position

UNFINISHED = "\ufffd"
"""The decoder's output for an incomplete UTF-8 sequence: the next token may complete the character."""
QUANTUM = 256


@dataclass(eq=False)
class Generation:
    """A text in generation, and the context that keeps its adapters docked."""

    work: Work
    text: Text
    aboard: ExitStack
    sent: int = 0
    """Characters already sent to the client."""


class DecodeScheduler:
    """Generates texts step by step, for one thread at a time. ``dropped`` returns whether an input was given up."""

    def __init__(
        self,
        residency: Residency,
        options: ServingOptions,
        dropped: Callable[[Work], bool],
        admission: AdmissionControl,
        device: DeviceHealth,
    ) -> None:
        self._residency, self._dock, self.options = residency, residency.dock, options
        self._dropped, self._admission, self._device = dropped, admission, device
        self._stepped = 0.0  # when the texts in generation got their last token; 0 without any
        self._waiting: FairQueues[Work] = FairQueues(self._cost, QUANTUM)
        self._generations: list[Generation] = []
        self._steps = Steps(self._dock)

    @property
    def busy(self) -> bool:
        """Whether a text is in generation or waits for it."""
        return bool(self._generations or self._waiting)

    def takes(self, work: Work) -> bool:
        """Return whether an input asks for a text that can be generated step by step."""
        return work.search is not None and work.search.num_beams == 1 and self._dock.backbone.writes_in_steps

    def put(self, work: Work) -> None:
        """Queue a text until there is room for it."""
        self._waiting.put(work.name, work, work.client)

    def turn(self) -> None:
        """Remove given-up texts, add waiting texts, and generate one token of each."""
        self._leave([generation for generation in self._generations if self._dropped(generation.work)])
        free = self.options.batch_rows - len(self._generations)
        if free > 0 and self._waiting:
            works = [work for work in self._waiting.take(self.options.write_tokens, free) if not self._dropped(work)]
            self._join(works)
        try:
            self._steps.step()
            self._measure()
        except Exception as error:
            self._device.check(error)
            for generation in self._generations:
                generation.work.fail(error)
            self._leave(self._generations)
            self._steps = Steps(self._dock)  # the KV cache may be half updated
        self._send()

    def _measure(self) -> None:
        """Measure the time between two steps, with the batches in between."""
        now = time.perf_counter()
        if self._stepped:
            self._admission.step(now - self._stepped)
        self._stepped = now if self._generations else 0.0

    def _join(self, works: list[Work]) -> None:
        """Add texts together. After an error add each alone, so that only the faulty text fails."""
        if not works:
            return
        boarded: list[Generation] = []
        try:
            boarded += [self._boarded(work) for work in works]
            self._steps.join([generation.text for generation in boarded])
        except Exception as error:
            for generation in boarded:
                generation.aboard.close()
            if len(works) == 1:
                self._device.check(error)
                works[0].fail(error)
                return
            for work in works:
                self._join([work])
            return
        self._generations += boarded
        for work in works:
            self._admission.started(work)
            self._admission.boarded(work)

    def _boarded(self, work: Work) -> Generation:
        with ExitStack() as stack:
            names = [work.key or None]
            stack.enter_context(self._residency.present(names))
            (row,) = stack.enter_context(self._dock.boarding(names))
            assert work.search is not None  # takes() accepts only texts
            text = Text(row, work.features[0].inputs["input_ids"], work.search)
            return Generation(work, text, stack.pop_all())

    def _send(self) -> None:
        """Send new characters to the clients, and answer for complete texts."""
        for generation in self._generations:
            work, text = generation.work, generation.text
            if not (text.done or work.on_text is not None or work.stops):
                continue
            content = self._dock.backbone.tokenizer.decode(text.tokens, skip_special_tokens=True)
            end = stop_position(content, work.stops)
            if end is not None:
                content, text.ended = content[:end], True
            if work.on_text is not None and (text.done or not content.endswith(UNFINISHED)):
                safe = len(content) if text.done else len(content) - held_back(content, work.stops)
                if safe > generation.sent:
                    work.on_text(content[generation.sent : safe])
                generation.sent = max(generation.sent, safe)
            if text.done:
                self._answer(generation, content)
        self._leave([generation for generation in self._generations if generation.text.done])

    def _answer(self, generation: Generation, text: str) -> None:
        self._admission.generated(len(generation.text.tokens), generation.text.search.max_new_tokens)
        try:
            generation.work.succeed(generation.work.written(text, len(generation.text.tokens), generation.text.ended))
        except Exception as error:
            generation.work.fail(error)

    def _cost(self, work: Work) -> int:
        assert work.search is not None  # takes() accepts only texts
        return work.cost(length(work.features[0]) + work.search.max_new_tokens, self._dock.backbone.width)

    def _leave(self, gone: list[Generation]) -> None:
        if not gone:
            return
        self._steps.leave([generation.text for generation in gone])
        self._generations = [generation for generation in self._generations if generation not in gone]
        for generation in gone:
            generation.aboard.close()
