"""The invariants of the design, on a tiny backbone."""

import gc
import itertools
import threading
import weakref
from pathlib import Path

import pytest
import torch
from builders import build_adapter

from adaptdock.engine.core.batches import collate
from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.errors import BackboneError, MismatchError, UnknownNameError, UsageError
from adaptdock.hub.artefact.file import AdapterFile, read_file, write_file
from adaptdock.plugins.contracts import Backbone, Feature, LoadOptions

TEXTS = ["ada met bob in oslo", "rain", "the quick brown fox jumps over 13 lazy dogs, twice!", "a b c d e f"]


def features(dock: Dock, count: int) -> list[Feature]:
    texts = list(itertools.islice(itertools.cycle(TEXTS), count))
    return [
        Feature({k: dock.backbone.tokenizer(text)[k] for k in dock.backbone.tokenizer.model_input_names})
        for text in texts
    ]


def logits(dock: Dock, names: list[str], given: list[Feature]) -> list[torch.Tensor]:
    with dock.boarding(names) as rows:
        return dock.run(rows, given)


def bare(dock: Dock) -> torch.Tensor:
    return dock.hidden([()] * 4, collate(dock.backbone, features(dock, 4)))


@pytest.fixture
def full_dock(dock: Dock, adapters: dict[str, AdapterFile]) -> Dock:
    for name, adapter in adapters.items():
        dock.dock(adapter, name)
    return dock


def test_every_pair_of_adapters_gives_in_one_batch_what_each_gives_alone(full_dock: Dock) -> None:
    given = features(full_dock, 4)
    for pair in itertools.combinations_with_replacement(full_dock.names, 2):
        names = [pair[0], pair[1], pair[1], pair[0]]
        together = logits(full_dock, names, given)
        for name, feature, mixed in zip(names, given, together, strict=True):
            alone = logits(full_dock, [name], [feature])[0]
            assert mixed.shape == alone.shape
            torch.testing.assert_close(mixed, alone, atol=1e-5, rtol=0)


def test_all_methods_bare_rows_and_stacks_stand_in_one_batch(full_dock: Dock) -> None:
    names = [*full_dock.names, "lora+bottleneck", "prefix+lora", "lora+lora-wide", "prefix+prefix-short"]
    given = features(full_dock, len(names))
    for name, feature, mixed in zip(names, given, logits(full_dock, names, given), strict=True):
        torch.testing.assert_close(mixed, logits(full_dock, [name], [feature])[0], atol=1e-5, rtol=0)


def test_a_bare_row_beside_adapters_is_the_bare_backbone(full_dock: Dock) -> None:
    inputs = collate(full_dock.backbone, features(full_dock, 4))
    alone = full_dock.hidden([()] * 4, inputs)
    with full_dock.boarding([None, "lora", None, "prefix"]) as rows:
        mixed = full_dock.hidden(rows, inputs)
    kept = inputs["attention_mask"].bool()
    for row in (0, 2):
        torch.testing.assert_close(mixed[row][kept[row]], alone[row][kept[row]], atol=1e-5, rtol=0)
    assert not torch.allclose(mixed[1][kept[1]], alone[1][kept[1]], atol=1e-2)


def test_adapters_of_the_same_methods_in_another_order_keep_their_own(dock: Dock, backbone: Backbone) -> None:
    one = build_adapter(backbone, "lora", {"roles": "ffn_down"})
    two = build_adapter(backbone, "bottleneck", {"placement": "pfeiffer", "reduction_factor": 4})
    methods, tensors = [one.card.methods[0], two.card.methods[0]], one.tensors | two.tensors
    for name, order in (("up", methods), ("down", methods[::-1])):
        dock.dock(AdapterFile(one.card.model_copy(update={"methods": order}), tensors), name)
    given = features(dock, 2)
    for names in (["up", "down"], ["down", "up"]):
        mixed = logits(dock, names, given)
        for name, feature, found in zip(names, given, mixed, strict=True):
            torch.testing.assert_close(found, logits(dock, [name], [feature])[0], atol=1e-5, rtol=0)
    assert not torch.allclose(logits(dock, ["up"], given[:1])[0], logits(dock, ["down"], given[:1])[0], atol=1e-4)


def test_methods_whose_tensors_would_have_one_name_are_refused(dock: Dock, adapters: dict[str, AdapterFile]) -> None:
    adapter = adapters["lora"]
    twice = adapter.card.model_copy(update={"methods": adapter.card.methods * 2})
    with pytest.raises(UsageError, match=r"two methods of the adapter keep a tensor named 'layers\.0\.query\.lora_a'"):
        dock.dock(AdapterFile(twice, adapter.tensors))


def test_the_order_of_a_stack_matters(full_dock: Dock) -> None:
    given = features(full_dock, 1)
    one = logits(full_dock, ["bottleneck+parallel"], given)[0]
    assert one.shape[-1] == 5  # the upper adapter's two types
    with full_dock.boarding(["bottleneck+lora-wide", "lora-wide+bottleneck"]) as rows:
        hidden = full_dock.hidden(rows, collate(full_dock.backbone, given * 2))
    assert not torch.allclose(hidden[0], hidden[1], atol=1e-4)


def test_the_bare_backbone_is_bit_identical_after_any_docking(dock: Dock, adapters: dict[str, AdapterFile]) -> None:
    before, state = bare(dock), {k: v.clone() for k, v in dock.backbone.model.state_dict().items()}
    modules = [name for name, _ in dock.backbone.model.named_modules()]
    attention = dock.backbone.model.config._attn_implementation
    for order in (sorted(adapters), sorted(adapters, reverse=True)):
        for name in order:
            dock.dock(adapters[name], name)
            assert torch.equal(bare(dock), before)
        logits(dock, order, features(dock, len(order)))
        for name in sorted(order):
            dock.unload(name)
            assert torch.equal(bare(dock), before)
    assert dock.backbone.model.config._attn_implementation == attention
    assert [name for name, _ in dock.backbone.model.named_modules()] == modules
    assert all(torch.equal(value, state[key]) for key, value in dock.backbone.model.state_dict().items())
    assert not any(module._forward_hooks for module in dock.backbone.model.modules())


@pytest.mark.parametrize("method", ["lora", "bottleneck", "prefix"])
def test_an_untrained_adapter_leaves_the_backbone_as_it_was(dock: Dock, method: str) -> None:
    inputs = collate(dock.backbone, features(dock, 4))
    expected = bare(dock)
    dock.dock(build_adapter(dock.backbone, method, trained=False), "fresh")
    with dock.boarding(["fresh"] * 4) as rows:
        found = dock.hidden(rows, inputs)
    kept = inputs["attention_mask"].bool()
    torch.testing.assert_close(found[kept], expected[kept], atol=1e-5, rtol=0)


def test_a_saved_adapter_gives_the_same_bits_again(dock: Dock, adapters: dict[str, AdapterFile], tmp_path) -> None:
    given = features(dock, 3)
    for name, adapter in adapters.items():
        write_file(tmp_path / f"{name}.safetensors", adapter)
        dock.dock(adapter, "in-memory")
        dock.load(tmp_path / f"{name}.safetensors", "from-file")
        for one, other in zip(
            logits(dock, ["in-memory"] * 3, given), logits(dock, ["from-file"] * 3, given), strict=True
        ):
            assert torch.equal(one, other)
        dock.unload("in-memory")
        dock.unload("from-file")
        assert read_file(tmp_path / f"{name}.safetensors").card == adapter.card


def test_an_adapter_of_another_backbone_is_refused(dock: Dock, adapters: dict[str, AdapterFile]) -> None:
    adapter = adapters["lora"]
    other = adapter.card.backbone.model_copy(update={"fingerprint": "blocks1:0000", "id": "elsewhere"})
    wrong = AdapterFile(adapter.card.model_copy(update={"backbone": other}), adapter.tensors)
    with pytest.raises(MismatchError, match="trained on the backbone 'elsewhere'"):
        dock.dock(wrong)
    assert dock.names == []


@pytest.mark.parametrize("length", [1, 2, 5])
def test_an_adapter_whose_windows_hold_no_text_is_refused(
    dock: Dock, adapters: dict[str, AdapterFile], length: int
) -> None:
    """Each of its requests would be refused, as if the text were at fault."""
    card = adapters["lora"].card
    short = card.preprocessing.model_copy(update={"max_length": length})
    with pytest.raises(MismatchError, match=f"max_length {length}, and windows of {length} tokens have no room"):
        dock.dock(AdapterFile(card.model_copy(update={"preprocessing": short}), adapters["lora"].tensors))
    shortest = card.preprocessing.model_copy(update={"max_length": 6})
    dock.dock(AdapterFile(card.model_copy(update={"preprocessing": shortest}), adapters["lora"].tensors), "short")
    assert len(dock.predict("short", ["ada met bob"])) == 1


def test_missing_surplus_and_misshapen_tensors_are_refused_by_name(dock: Dock, adapters) -> None:
    adapter = adapters["lora"]
    first = next(iter(adapter.tensors))
    rest = {name: tensor for name, tensor in adapter.tensors.items() if name != first}
    cases = {
        f"'{first}' is missing": rest,
        "'extra' belongs to nothing": {**adapter.tensors, "extra": torch.zeros(1)},
        f"'{first}' has the shape": {**adapter.tensors, first: torch.zeros(1, 1)},
    }
    for message, tensors in cases.items():
        with pytest.raises(MismatchError, match=message):
            dock.dock(AdapterFile(adapter.card, tensors))
    assert dock.names == []
    assert not any(module._forward_hooks for module in dock.backbone.model.modules())


def test_an_unknown_adapter_is_refused_with_its_row(full_dock: Dock) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown adapter 'lorra': did you mean lora.*row 2"):
        full_dock.predict(["lora", "prefix", "lorra"], TEXTS[:3])


def test_a_taken_name_is_refused_and_replaced_only_on_request(dock: Dock, adapters: dict[str, AdapterFile]) -> None:
    dock.dock(adapters["lora"], "a")
    with pytest.raises(UsageError, match="docked already"):
        dock.dock(adapters["prefix"], "a")
    dock.dock(adapters["prefix"], "a", replace=True)
    assert dock.card("a").methods[0].name == "prefix"


def test_a_method_without_its_port_is_refused_before_anything_is_docked(backbone: Backbone) -> None:
    from adaptdock.plugins.contracts import Ports

    ports = Ports([port for port in backbone.ports if port.kind == "linear"], "odd", {"attention": "it has none"})
    with pytest.raises(BackboneError, match="'odd' has no attention port: it has none"):
        ports.select("attention", ("attention",))


def test_a_batch_keeps_the_version_it_started_with(dock: Dock, backbone: Backbone) -> None:
    first, second = (build_adapter(backbone, "lora", seed=seed) for seed in (1, 2))
    given = features(dock, 2)
    dock.dock(first, "a")
    with dock.boarding(["a", "a"]) as rows:
        before = dock.run(rows, given)
        dock.dock(second, "a", replace=True)
        dock.dock(build_adapter(backbone, "lora", seed=3), "b")
        assert all(torch.equal(x, y) for x, y in zip(before, dock.run(rows, given), strict=True))
    after = logits(dock, ["a", "a"], given)
    assert not torch.allclose(before[0], after[0])


def test_a_version_that_nothing_uses_any_more_leaves_no_weights_behind(dock: Dock, backbone: Backbone) -> None:
    dock.dock(build_adapter(backbone, "lora", seed=1), "a")
    held = [weakref.ref(part.slot) for part in dock._residents["a"].adapter.parts]
    with dock.boarding(["a"]) as rows:
        dock.dock(build_adapter(backbone, "lora", seed=2), "a", replace=True)
        gc.collect()
        assert all(slot() is not None for slot in held)
        del rows
    gc.collect()
    assert all(slot() is None for slot in held)


def test_threads_that_swap_and_predict_get_the_right_answers(dock: Dock, backbone: Backbone) -> None:
    given = features(dock, 2)
    adapters = {f"a{seed}": build_adapter(backbone, "lora", {"rank": 1 + seed}, seed=seed) for seed in range(4)}
    expected = {}
    for name, adapter in adapters.items():
        dock.dock(adapter, name)
        expected[name] = logits(dock, [name] * 2, given)
    stop, wrong = threading.Event(), []

    def swap() -> None:
        seed = 10
        while not stop.is_set():
            dock.dock(build_adapter(backbone, "prefix", seed=seed), "guest", replace=True)
            dock.unload("guest")
            seed += 1

    def ask(name: str) -> None:
        for _ in range(15):
            for x, y in zip(logits(dock, [name] * 2, given), expected[name], strict=True):
                if not torch.allclose(x, y, atol=1e-5):
                    wrong.append(name)

    swapper = threading.Thread(target=swap)
    swapper.start()
    askers = [threading.Thread(target=ask, args=(name,)) for name in adapters]
    for thread in askers:
        thread.start()
    for thread in askers:
        thread.join()
    stop.set()
    swapper.join()
    assert wrong == []


def test_two_docks_on_one_backbone_do_not_disturb_each_other(backbone: Backbone) -> None:
    one, other = Dock(backbone), Dock(backbone)
    given = features(one, 2)
    for dock, seed in ((one, 1), (other, 2)):
        dock.dock(build_adapter(backbone, "prefix", seed=seed), "mine")
    first, second = (logits(dock, ["mine"] * 2, given) for dock in (one, other))
    assert not torch.allclose(first[0], second[0])
    other.close()
    assert all(torch.equal(x, y) for x, y in zip(first, logits(one, ["mine"] * 2, given), strict=True))
    one.close()
    assert backbone.model.config._attn_implementation == "sdpa"


def test_weights_that_are_no_finite_numbers_are_refused(dock: Dock, adapters: dict[str, AdapterFile]) -> None:
    adapter = adapters["lora"]
    first = next(iter(adapter.tensors))
    for broken in (adapter.tensors[first] * float("nan"), adapter.tensors[first].int()):
        with pytest.raises(MismatchError, match="finite numbers"):
            dock.dock(AdapterFile(adapter.card, {**adapter.tensors, first: broken}))


def test_an_adapter_of_another_tokenizer_is_refused(dock: Dock, adapters: dict[str, AdapterFile]) -> None:
    card = adapters["lora"].card
    reading = card.preprocessing.model_copy(update={"vocabulary": "0000"})
    with pytest.raises(MismatchError, match="another tokenizer"):
        dock.dock(AdapterFile(card.model_copy(update={"preprocessing": reading}), adapters["lora"].tensors))


def test_docking_in_inference_mode_leaves_a_dock_that_works(dock: Dock, adapters: dict[str, AdapterFile]) -> None:
    with torch.inference_mode():
        dock.dock(adapters["lora"], "a")
    dock.dock(adapters["lora-wide"], "b")
    assert len(logits(dock, ["a", "b"], features(dock, 2))) == 2


def test_a_bare_row_cannot_be_asked_for_a_prediction(full_dock: Dock) -> None:
    with pytest.raises(UsageError, match="needs the name of an adapter"):
        full_dock.predict([None, "lora"], TEXTS[:2])  # type: ignore[list-item]


def test_weights_of_16_bit_wait_in_the_16_bit_that_the_backbone_computes_in(
    model_folder: Path, backbone: Backbone, adapters: dict[str, AdapterFile]
) -> None:
    halved = AdapterFile(adapters["lora"].card, {name: t.half() for name, t in adapters["lora"].tensors.items()})
    bfloat = load_backbone(str(model_folder), LoadOptions(device="cpu", dtype="bfloat16"))
    (in_bfloat,), (in_float,) = (Dock(one).prepare(halved).parts for one in (bfloat, backbone))
    assert in_bfloat.slot.stack.dtype == torch.bfloat16
    assert in_float.slot.stack.dtype == torch.float16
    assert in_bfloat.slot.nbytes == in_float.slot.nbytes
    assert torch.equal(in_bfloat.slot.flats[0], in_float.slot.flats[0].bfloat16())
