"""Before the first request: adapters docked, the first texts computed, and the speed of the processor measured."""

import time
from collections.abc import Mapping

import torch
from torch import Tensor

from adaptdock.engine.core.batches import collate
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.residency import Residency
from adaptdock.errors import AdaptError
from adaptdock.plugins.contracts import Backbone, Feature
from adaptdock.serving.catalog.catalog import Catalog
from adaptdock.serving.configuration import ServingOptions
from adaptdock.serving.json_logs import log
from adaptdock.serving.scheduling.admission import AdmissionControl

TEXT = "The first text is the slowest."


def warm_up(
    dock: Dock, residency: Residency, catalog: Catalog, admission: AdmissionControl, options: ServingOptions
) -> None:
    """Dock the answering versions while there is room, and send texts through the bare backbone.

    ``admission`` learns the speed of a full batch, so that the first burst of inputs is estimated well.
    """
    if not options.shared:  # requests divide the adapters among processes
        _dock_versions(residency, catalog, options.device_bytes)
    inputs = _inputs(dock.backbone)
    dock.hidden([()], inputs)
    _calibrate(dock, inputs, admission, options)


def _dock_versions(residency: Residency, catalog: Catalog, limit: int | None) -> None:
    for served in catalog.all().values():
        for number in served.split:
            try:
                if limit is None or residency.resident_bytes < limit // 2:
                    with residency.present([served.versions[number].key]):
                        continue
            except AdaptError as error:
                log("not warm", adapter=served.name, version=number, reason=str(error))


def _inputs(backbone: Backbone) -> dict[str, Tensor]:
    """Return the inputs of one row: a text, or a trial of a backbone that reads no texts."""
    if backbone.tokenizer is None:
        return {name: tensor[:1] for name, tensor in backbone.trial_inputs().items()}
    encoding = backbone.tokenizer(TEXT)
    names = [name for name in backbone.tokenizer.model_input_names if name in encoding]
    return collate(backbone, [Feature({name: list(encoding[name]) for name in names})])


def _calibrate(dock: Dock, inputs: Mapping[str, Tensor], admission: AdmissionControl, options: ServingOptions) -> None:
    positions = inputs["attention_mask"].shape[1]
    rows = max(1, min(options.batch_rows, options.batch_tokens // positions))
    batch = {name: torch.cat([tensor] * rows) for name, tensor in inputs.items()}
    for _ in range(2):  # the first one allocates memory
        started = time.perf_counter()
        hidden = dock.hidden([()] * rows, batch)
        hidden[0].cpu()  # waits for the device
        seconds = time.perf_counter() - started
    admission.batch(rows * positions, seconds, full=True, texts=False)
