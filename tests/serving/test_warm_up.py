"""Before the first request: what is docked, and what the estimate of a burst stands on."""

from pathlib import Path

import pytest
from served import labelled, serving

from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins.contracts import Backbone
from adaptdock.serving import warm_up
from adaptdock.serving.scheduling.admission import AdmissionControl


@pytest.fixture
def state(backbone: Backbone, tmp_path: Path) -> str:
    """The state folder of an earlier process with two adapters."""
    folder = tmp_path / "adapters"
    folder.mkdir()
    for label in ("RED", "BLUE"):
        write_file(folder / f"{label.lower()}.safetensors", labelled(backbone, label))
    with serving(backbone, adapters=str(folder), state=str(tmp_path / "state")):
        return str(tmp_path / "state")


@pytest.mark.parametrize("warm", [True, False])
def test_adapters_are_docked_before_the_first_request_if_wanted(backbone: Backbone, state: str, warm: bool) -> None:
    with serving(backbone, state=state, warm_up=warm) as client:
        assert len(client.service.dock.names) == (2 if warm else 0)
        assert client.label("red") == "RED"


def test_half_of_the_memory_is_left_to_requests(backbone: Backbone, state: str) -> None:
    with serving(backbone, state=state) as client:
        size = client.service.residency.resident_bytes // 2
    with serving(backbone, state=state, device_bytes=size * 3 // 2) as client:
        assert len(client.service.dock.names) == 1
        assert [client.label("red"), client.label("blue")] == ["RED", "BLUE"]


def test_the_speed_of_a_full_batch_is_measured(backbone: Backbone, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[tuple[int, float, dict[str, bool]]] = []
    monkeypatch.setattr(
        AdmissionControl, "batch", lambda self, tokens, seconds, **more: batches.append((tokens, seconds, more))
    )
    with serving(backbone, state=state, batch_rows=5):
        ((tokens, seconds, more),) = batches
    assert tokens == 5 * len(backbone.tokenizer(warm_up.TEXT)["input_ids"])
    assert seconds > 0
    assert more == {"full": True, "texts": False}
