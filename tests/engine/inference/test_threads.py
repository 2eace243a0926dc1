"""Many threads ask while adapters come, go and change; each adapter has a number of its own to answer with."""

import random
import threading

import pytest
import torch
from builders import build_adapter

from adaptdock.engine.inference.dock import Dock
from adaptdock.errors import UnknownNameError
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Backbone

LABELS = [f"T{number:02}" for number in range(20)]
METHODS = {
    "lora": {},
    "bottleneck": {"reduction_factor": 4},
    "prefix": {"length": 3},
    "ia3": {},
    "prompt": {"length": 2},
}


def identity(backbone: Backbone, number: int) -> AdapterFile:
    """Return an adapter that finds entity type ``number`` in every word, whatever its method does to the states."""
    method = list(METHODS)[number % len(METHODS)]
    made = build_adapter(backbone, method, METHODS[method], labels=LABELS, seed=number)
    bias = torch.zeros_like(made.tensors["head.bias"])
    bias[1 + 2 * number] = 1e4
    return AdapterFile(made.card, {**made.tensors, "head.bias": bias})


@pytest.fixture(scope="module")
def identities(backbone: Backbone) -> list[AdapterFile]:
    return [identity(backbone, number) for number in range(len(LABELS))]


def test_no_answer_is_another_adapters_while_versions_change(dock: Dock, identities: list[AdapterFile]) -> None:
    for number, made in enumerate(identities[:10]):
        dock.dock(made, f"n{number}")
    wrong: list[str] = []
    stop = threading.Event()

    def ask(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(25):
            numbers = [draw.randrange(10) for _ in range(draw.choice((1, 3, 8)))]
            answers = dock.predict([f"n{number}" for number in numbers], ["ada met bob in oslo"] * len(numbers))
            for number, answer in zip(numbers, answers, strict=True):
                found = {entity["label"] for entity in answer["entities"]}
                if len(found) != 1 or not found <= {LABELS[number], LABELS[number + 10]}:
                    wrong.append(f"n{number} answered {found}")

    def swap() -> None:
        draw = random.Random(0)
        while not stop.is_set():
            number = draw.randrange(10)
            dock.dock(identities[number + 10 * draw.randrange(2)], f"n{number}", replace=True)

    swapper = threading.Thread(target=swap)
    swapper.start()
    askers = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in askers:
        thread.start()
    for thread in askers:
        thread.join()
    stop.set()
    swapper.join()
    assert wrong == []


def test_an_unknown_name_fails_its_own_call_and_no_other_row_is_wrong(
    dock: Dock, identities: list[AdapterFile]
) -> None:
    for number, made in enumerate(identities):
        dock.dock(made, f"n{number}")
    names = [f"n{number}" for number in range(20)]
    with pytest.raises(UnknownNameError, match=r"'m17'.*row 17"):
        dock.predict([*names[:17], "m17", *names[18:]], ["rain"] * 20)
    answers = dock.predict(names, ["rain"] * 20)
    assert [answer["entities"][0]["label"] for answer in answers] == LABELS
