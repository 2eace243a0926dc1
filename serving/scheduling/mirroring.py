"""Mirroring: a version that does not answer yet gets the same inputs, and its answers are compared."""

from collections.abc import Callable

from adaptdock.serving.catalog.catalog import Catalog
from adaptdock.serving.errors import BusyError, StoppingError
from adaptdock.serving.scheduling.dynamic_batching import Batcher
from adaptdock.serving.scheduling.inference_request import Work
from adaptdock.serving.versions import Version


class Mirroring:
    """Inputs for mirrored versions, sent while their queues have room; ``compared`` counts each comparison."""

    def __init__(self, catalog: Catalog, batcher: Batcher, compared: Callable[[str, bool], None]) -> None:
        """Call ``compared`` with the adapter and whether the prediction of its mirrored version differs."""
        self._catalog, self._batcher, self._compared = catalog, batcher, compared

    def send(self, work: Work, mirrored: tuple[Version, ...]) -> None:
        """Send an input to the mirrored parts as well; a full queue drops it."""
        shadow = Work(
            f"{work.name} (mirror)",
            mirrored,
            work.item,
            work.deadline,
            work.wishes,
            work.raw,
            size=work.size,
            client=work.client,
        )
        held = self._catalog.hold(mirrored)
        try:
            self._batcher.submit([shadow])
        except (BusyError, StoppingError):
            self._catalog.release(held)
            return
        shadow.future.add_done_callback(lambda _: self._compare(work, shadow))

    def _compare(self, work: Work, shadow: Work) -> None:
        self._catalog.release(tuple(shadow.parts))
        if not work.future.done() or work.future.cancelled() or work.future.exception() is not None:
            return
        failed = shadow.future.cancelled() or shadow.future.exception() is not None
        differs = failed or shadow.future.result().prediction != work.future.result().prediction
        self._compared(shadow.parts[-1].name, differs)
