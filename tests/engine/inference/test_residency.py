"""Residency: many known adapters, few docked; the least recently used make room, pinned ones stay."""

import threading
from pathlib import Path

import pytest
import torch
from builders import build_adapter

from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.residency import Residency
from adaptdock.errors import BudgetError, FileError, UnknownNameError, UsageError
from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins.contracts import Backbone

TEXT = "ada met bob in oslo"


@pytest.fixture(scope="module")
def files(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    paths = []
    for seed in range(6):
        paths.append(folder / f"a{seed}.safetensors")
        write_file(paths[-1], build_adapter(backbone, "lora", seed=seed))
    return paths


@pytest.fixture
def size(dock: Dock, files: list[Path]) -> int:
    name = dock.load(files[0])
    found = dock._residents[name].adapter.nbytes
    dock.unload(name)
    return found


def known(dock: Dock, files: list[Path], **budgets: int) -> Residency:
    residency = Residency(dock, **budgets)
    for path in files:
        residency.know(path.stem, path)
    return residency


def test_a_known_adapter_is_docked_when_it_is_used(dock: Dock, files: list[Path]) -> None:
    residency = known(dock, files)
    assert (dock.names, residency.tier("a1")) == ([], "disk")
    found = residency.predict("a1", [TEXT])
    assert (dock.names, residency.tier("a1")) == (["a1"], "device")
    plain = Dock(dock.backbone)
    assert found == plain.predict(plain.load(files[1]), [TEXT])
    plain.close()


def test_the_least_recently_used_makes_room_and_pinned_ones_stay(dock: Dock, files: list[Path], size: int) -> None:
    residency = known(dock, files, device_bytes=3 * size)
    residency.pin("a0")
    for name in ("a1", "a2", "a1", "a3"):
        residency.predict(name, [TEXT])
    assert dock.names == ["a0", "a1", "a3"]
    assert residency.resident_bytes == 3 * size
    residency.unpin("a0")
    residency.predict(["a4", "a5"], [TEXT] * 2)
    assert "a0" not in dock.names


def test_what_finds_no_room_is_told_the_bytes_and_nothing_is_undocked(dock: Dock, files: list[Path], size: int) -> None:
    residency = known(dock, files, device_bytes=2 * size)
    residency.pin("a0")
    residency.predict("a1", [TEXT])
    with pytest.raises(BudgetError, match=rf"needs {size:,} bytes.*{2 * size:,}, {size:,} are pinned") as caught:
        residency.predict(["a1", "a2"], [TEXT] * 2)
    assert (caught.value.needed, caught.value.pinned, caught.value.used) == (size, size, size)
    assert dock.names == ["a0", "a1"]
    assert residency.predict("a1", [TEXT])


def test_a_batch_larger_than_the_budget_is_refused_and_smaller_ones_go_on(
    dock: Dock, files: list[Path], size: int
) -> None:
    residency = known(dock, files, device_bytes=2 * size)
    with pytest.raises(BudgetError):
        residency.predict([path.stem for path in files[:3]], [TEXT] * 3)
    assert len(residency.predict(["a4", "a5"], [TEXT] * 2)) == 2


def test_an_unknown_name_fails_its_call_with_the_row(dock: Dock, files: list[Path]) -> None:
    residency = known(dock, files)
    with pytest.raises(UnknownNameError, match=r"'a17': did you mean a1.*row 2"):
        residency.predict(["a1", "a2", "a17"], [TEXT] * 3)
    assert all(not entry.leases for entry in residency._known.values())


def test_a_new_version_of_a_file_is_used_from_the_next_call_on(dock: Dock, files: list[Path]) -> None:
    residency = known(dock, files)
    with residency.present(["a1"]), dock.boarding(["a1"]) as rows:
        before = rows[0][0].card, rows[0][0].head.flats[0]
        residency.know("a1", files[2])
        with residency.present(["a1"]):
            after = dock._residents["a1"].head.flats[0]
        assert rows[0][0].head.flats[0] is before[1]
    assert not torch.equal(before[1], after)


def test_a_file_that_is_damaged_fails_its_call_alone(dock: Dock, files: list[Path], tmp_path: Path) -> None:
    residency = known(dock, files)
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(files[0].read_bytes()[:-10])
    residency.know("bad", bad)
    with pytest.raises(FileError, match="truncated"):
        residency.predict(["a1", "bad"], [TEXT] * 2)
    assert residency.tier("bad") == "disk"
    assert residency.predict("a1", [TEXT])


def test_forgetting_undocks_and_a_stack_needs_all_its_adapters(dock: Dock, files: list[Path]) -> None:
    residency = known(dock, files)
    assert residency.predict("a1+a2", [TEXT])
    assert dock.names == ["a1", "a2"]
    residency.forget("a1")
    assert dock.names == ["a2"]
    with pytest.raises(UnknownNameError):
        residency.predict("a1+a2", [TEXT])
    with pytest.raises(UsageError, match=r"'x\+y' cannot be used"):
        residency.know("x+y", files[0])


def test_ten_thousand_may_be_known(dock: Dock, files: list[Path], size: int) -> None:
    residency = known(dock, [], device_bytes=2 * size)
    for number in range(10_000):
        residency.know(f"n{number}", files[number % 6])
    for number in range(0, 10_000, 500):
        assert residency.predict(f"n{number}", [TEXT])
    assert len(dock.names) == 2
    with pytest.raises(UnknownNameError) as caught:
        residency.predict("zzz", [TEXT])
    assert len(str(caught.value)) < 500


def test_what_leaves_another_device_waits_in_host_memory(dock: Dock, files: list[Path], size: int) -> None:
    residency = known(dock, files, device_bytes=size, host_bytes=2 * size)
    residency._separate = True  # as on a GPU
    for name in ("a0", "a1", "a2"):
        residency.predict(name, [TEXT])
    assert [residency.tier(name) for name in ("a0", "a1", "a2")] == ["disk", "host", "device"]
    files_read: list[str] = []
    residency._read = lambda entry: files_read.append(entry.path.stem)  # type: ignore[assignment,method-assign,func-returns-value]
    assert residency.predict("a1", [TEXT])
    assert files_read == []


def test_many_threads_with_little_room_get_the_answers_of_their_own_adapters(
    dock: Dock, files: list[Path], size: int
) -> None:
    plain = Dock(dock.backbone)
    expected = {path.stem: plain.predict(plain.load(path, path.stem), [TEXT]) for path in files}
    plain.close()
    residency = known(dock, files, device_bytes=4 * size)
    wrong: list[str] = []

    def ask(start: int) -> None:
        for step in range(25):
            name = f"a{(start + step * 5) % 6}"
            if residency.predict(name, [TEXT]) != expected[name]:
                wrong.append(name)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert residency.resident_bytes <= 4 * size
