"""An adapter on top of another: one file, the lower one's weights untouched."""

from pathlib import Path

import pytest
import torch

from adaptdock.engine.data.sources import Source
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.loop.run import train_plan
from adaptdock.engine.training.planning.plan import plan
from adaptdock.errors import FileError, MismatchError, UsageError
from adaptdock.hub.artefact.file import AdapterFile, read_file
from adaptdock.plugins.contracts import Backbone

TEXTS = ["Ada Lovelace lived in London .", "nothing here"]


def trained(backbone: Backbone, data: Path, folder: Path, method: str, **options: object) -> AdapterFile:
    chosen = {"epochs": 1, "learning_rate": 1e-2, "batch_size": 4, "head_start": "random", **options}
    made = plan(backbone, "ner", method, Source(data=str(data)), chosen)
    return train_plan(made, folder, name=folder.name).adapter


@pytest.fixture
def lower(backbone: Backbone, data: Path, tmp_path: Path) -> Path:
    trained(backbone, data, tmp_path / "domain", "lora")
    return tmp_path / "domain" / "best.safetensors"


@pytest.mark.parametrize("method", ["lora", "bottleneck", "prefix"])
def test_one_file_does_what_the_stack_of_both_does(
    backbone: Backbone, dock: Dock, data: Path, tmp_path: Path, lower: Path, method: str
) -> None:
    upper = trained(backbone, data, tmp_path / "task", method, on=str(lower))
    assert [base.name for base in upper.card.on] == ["domain"]
    assert "on" not in upper.card.training["options"]
    base = read_file(lower)
    kept = {name.removeprefix("on.0."): tensor for name, tensor in upper.tensors.items() if name.startswith("on.")}
    assert kept.keys() == {name for name in base.tensors if not name.startswith("head.")}
    assert all(torch.equal(tensor, base.tensors[name]) for name, tensor in kept.items())
    alone = AdapterFile(
        upper.card.model_copy(update={"on": [], "name": "alone"}),
        {name: tensor for name, tensor in upper.tensors.items() if not name.startswith("on.")},
    )
    for adapter in (base, upper, alone):
        dock.dock(adapter)
    record = dock.assembly("task").task.read(TEXTS[0])
    with dock.boarding(["task", "domain+alone", "alone"]) as rows:
        features = [dock.assembly("task").task.encode(record, dock.reading(64), labelled=False)[0]] * 3
        found = dock.run(rows, features)
    assert (found[0] - found[1]).abs().max() < 1e-5
    assert (found[0] - found[2]).abs().max() > 1e-4


def test_a_tower_of_three_stands_in_one_file(
    backbone: Backbone, dock: Dock, data: Path, tmp_path: Path, lower: Path
) -> None:
    trained(backbone, data, tmp_path / "middle", "bottleneck", on=str(lower))
    middle = tmp_path / "middle" / "best.safetensors"
    top = trained(backbone, data, tmp_path / "top", "lora", on=str(middle))
    assert [base.name for base in top.card.on] == ["domain", "middle"]
    assert {name.split(".")[1] for name in top.tensors if name.startswith("on.")} == {"0", "1"}
    assert dock.dock(read_file(tmp_path / "top" / "best.safetensors")) == "top"


def test_a_base_that_cannot_be_one_is_refused(backbone: Backbone, data: Path, tmp_path: Path, lower: Path) -> None:
    with pytest.raises(FileError):
        trained(backbone, data, tmp_path / "x", "lora", on=str(tmp_path / "absent.safetensors"))
    stranger = read_file(lower)
    card = stranger.card.model_copy(
        update={"backbone": stranger.card.backbone.model_copy(update={"fingerprint": "blocks1:another"})}
    )
    from adaptdock.hub.artefact.file import write_file

    write_file(lower, AdapterFile(card, stranger.tensors))
    with pytest.raises(MismatchError, match=r"best\.safetensors: .*their weights differ"):
        trained(backbone, data, tmp_path / "y", "lora", on=str(lower))


def test_what_stands_on_another_is_not_added_to_others(
    backbone: Backbone, data: Path, tmp_path: Path, lower: Path
) -> None:
    from adaptdock.engine.merging.arithmetic import combine

    upper = trained(backbone, data, tmp_path / "task", "lora", on=str(lower))
    with pytest.raises(UsageError, match="has the base adapter 'domain'"):
        combine(backbone, [upper, upper], [1.0, 1.0])
