"""The arithmetic of adapters: the backbone with the sum of the updates, and the peft library on the same weights."""

import itertools
import sys

import pytest
import torch
from architectures import tiny_backbone, tiny_model
from builders import build_adapter
from peft import LoraConfig, get_peft_model
from peft.utils import merge_utils
from torch import Tensor

from adaptdock.backbones.huggingface import HuggingFaceBackbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.merging.arithmetic import combine
from adaptdock.engine.merging.combination import CombineOptions
from adaptdock.errors import MismatchError, UsageError
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Batch

IDS = torch.tensor([[2, 11, 23, 35, 47, 59, 3], [2, 8, 9, 10, 3, 0, 0]])
MASK = (IDS != 0).long()
KEPT = MASK.bool()
INPUTS = {"input_ids": IDS, "attention_mask": MASK}
A = {"rank": 3, "alpha": 5, "roles": ("query", "value")}
B = {"rank": 2, "alpha": 7, "rslora": True, "roles": ("query", "value")}

pytestmark = pytest.mark.filterwarnings(  # transformers deprecates an attribute that peft still reads
    "ignore:.*is_gradient_checkpointing.*:FutureWarning"
)


@pytest.fixture
def backbone() -> HuggingFaceBackbone:
    return tiny_backbone("bert")


@pytest.fixture
def a(backbone) -> AdapterFile:
    return build_adapter(backbone, "lora", A, name="a", seed=1)


@pytest.fixture
def b(backbone) -> AdapterFile:
    return build_adapter(backbone, "lora", B, name="b", seed=2)


def with_card(adapter: AdapterFile, **changes) -> AdapterFile:
    return AdapterFile(adapter.card.model_copy(update=changes), adapter.tensors)


def docked(backbone: HuggingFaceBackbone, adapter: AdapterFile) -> Tensor:
    dock = Dock(backbone)
    name = dock.dock(adapter)
    with dock.boarding([name] * 2) as rows:
        hidden = dock.hidden(rows, INPUTS)
    dock.close()
    return hidden[KEPT]


def bare(backbone: HuggingFaceBackbone) -> Tensor:
    with torch.no_grad():
        return backbone.forward(Batch(INPUTS))[KEPT]


def deltas(adapter: AdapterFile) -> dict[str, Tensor]:
    """Return the update at each port, computed from the card alone."""
    options = adapter.card.methods[0].options
    scale = options["alpha"] / options["rank"] ** (0.5 if options["rslora"] else 1)
    ports = [name.removesuffix(".lora_a") for name in adapter.tensors if name.endswith("lora_a")]
    tensors = adapter.tensors
    return {port: scale * tensors[f"{port}.lora_b"] @ tensors[f"{port}.lora_a"] for port in ports}


def with_deltas(architecture: str, *updates: dict[str, Tensor]) -> Tensor:
    """Return the hidden states of a fresh backbone with these updates added to its weights."""
    backbone = tiny_backbone(architecture)
    with torch.no_grad():
        for update, port in itertools.product(updates, backbone.ports):
            if port.name in update:
                weight = backbone.model.get_submodule(port.module).weight
                weight += update[port.name].T if architecture == "gpt2" else update[port.name]
    return bare(backbone)


def weighted(adapter: AdapterFile, weight: float) -> dict[str, Tensor]:
    return {port: weight * delta for port, delta in deltas(adapter).items()}


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
def test_the_linear_sum_is_the_backbone_with_the_weighted_sum_of_the_updates(architecture):
    backbone = tiny_backbone(architecture)
    one = build_adapter(backbone, "lora", {**A, "roles": "all"}, seed=1)
    other = build_adapter(backbone, "lora", {**B, "roles": "all"}, seed=2)
    made = combine(backbone, [one, other], [0.7, -0.3])
    wanted = with_deltas(architecture, weighted(one, 0.7), weighted(other, -0.3))
    torch.testing.assert_close(docked(backbone, made), wanted, atol=1e-5, rtol=0)
    assert made.card.methods[0].options["rank"] == 5
    assert (wanted - bare(backbone)).abs().max() > 0.1


def test_the_card_says_what_it_was_made_of(backbone, a, b):
    a, b = (with_card(adapter, licence="MIT", languages=["en"], metrics={"test": {"f1": 1}}) for adapter in (a, b))
    card = combine(backbone, [a, b], [0.7, 0.3], name="both").card
    assert card.name == "both"
    assert card.training == {"combined": ["a", "b"], "weights": [0.7, 0.3], "how": "linear", "head": "average"}
    assert (card.metrics, card.licence, card.languages) == ({}, "MIT", ["en"])
    assert card.methods[0].options["roles"] == ["query", "value"]
    assert card.methods[0].options["layers"] is None
    options = CombineOptions(how="dare_ties", density=0.5)
    other = combine(backbone, [a, with_card(b, licence="GPL", languages=["de"])], [1, 1], options, head=b).card
    assert (other.licence, other.languages) == ("", [])
    assert (other.training["density"], other.training["seed"], other.training["head"]) == (0.5, 0, "b")


def test_the_precision_that_all_were_trained_in_is_kept(backbone, a, b):
    bf16, fp32 = {"precision": "bfloat16"}, {"precision": "float32"}
    both = [with_card(a, training=bf16), with_card(b, training=bf16)]
    assert combine(backbone, both, [1, 1]).card.training["precision"] == "bfloat16"
    assert "precision" not in combine(backbone, [both[0], with_card(b, training=fp32)], [1, 1]).card.training


@pytest.mark.parametrize("how", ["linear", "svd"])
def test_an_adapter_less_itself_is_the_bare_backbone(backbone, a, how):
    made = combine(backbone, [a, a], [1, -1], CombineOptions(how=how))
    torch.testing.assert_close(docked(backbone, made), bare(backbone), atol=1e-5, rtol=0)


def test_a_weight_of_minus_one_negates(backbone, a):
    negated = combine(backbone, [a], [-1])
    torch.testing.assert_close(docked(backbone, negated), with_deltas("bert", weighted(a, -1)), atol=1e-5, rtol=0)
    nothing = combine(backbone, [a, negated], [1, 1])
    torch.testing.assert_close(docked(backbone, nothing), bare(backbone), atol=1e-5, rtol=0)


def test_svd_of_the_full_rank_is_the_sum_and_of_a_smaller_one_the_closest(backbone, a, b):
    full = combine(backbone, [a, b], [0.7, 0.3], CombineOptions(how="svd", rank=5))
    torch.testing.assert_close(docked(backbone, full), docked(backbone, combine(backbone, [a, b], [0.7, 0.3])))
    small = combine(backbone, [a, b], [0.7, 0.3], CombineOptions(how="svd", rank=2))
    assert small.card.methods[0].options["rank"] == 2
    wanted, more = weighted(a, 0.7), weighted(b, 0.3)
    for port, found in deltas(small).items():
        left, values, right = torch.linalg.svd(wanted[port] + more[port])
        torch.testing.assert_close(found, left[:, :2] * values[:2] @ right[:2], atol=1e-6, rtol=0)


def test_adapters_at_different_roles_or_layers_add_up_at_all_of_them(backbone, a):
    other = build_adapter(backbone, "lora", {"rank": 4, "roles": ("ffn_up",)}, seed=3)
    made = combine(backbone, [a, other], [1, 2])
    wanted = with_deltas("bert", weighted(a, 1), weighted(other, 2))
    torch.testing.assert_close(docked(backbone, made), wanted, atol=1e-5, rtol=0)
    halves = [build_adapter(backbone, "lora", {**A, "layers": str(layer)}, seed=layer) for layer in (0, 1)]
    made = combine(backbone, halves, [1, 1], CombineOptions(how="svd"))
    torch.testing.assert_close(docked(backbone, made), with_deltas("bert", *map(deltas, halves)), atol=1e-5, rtol=0)
    assert made.card.methods[0].options["layers"] is None
    alone = combine(backbone, [halves[1]], [1])
    assert alone.card.methods[0].options["layers"] == "1"


def test_a_union_that_no_options_express_is_refused(backbone):
    one = build_adapter(backbone, "lora", {"roles": ("query",), "layers": "0"})
    other = build_adapter(backbone, "lora", {"roles": ("value",), "layers": "1"})
    with pytest.raises(UsageError, match=r"not in the same layers.*at layers.0.value too"):
        combine(backbone, [one, other], [1, 1])


# ------------------------------------------------------------------------------- beside peft


def peft_model(backbone: HuggingFaceBackbone, adapters: dict[str, AdapterFile]):
    """Return peft's model with the same adapters."""
    model = None
    for name, adapter in adapters.items():
        options = adapter.card.methods[0].options
        config = LoraConfig(
            r=options["rank"],
            lora_alpha=options["alpha"],
            use_rslora=options["rslora"],
            target_modules=["query", "value"],
        )
        if model is None:
            model = get_peft_model(tiny_model("bert"), config, name)
        else:
            model.add_adapter(name, config)
        weights = dict(model.named_parameters())
        with torch.no_grad():
            for port, half in itertools.product(backbone.ports.select("linear", ("query", "value")), "AB"):
                found = weights[f"base_model.model.{port.module}.lora_{half}.{name}.weight"]
                found.copy_(adapter.tensors[f"{port.name}.lora_{half.lower()}"])
    return model.eval()


@pytest.mark.parametrize(
    ("how", "peft_how", "options"),
    [
        ("linear", "cat", {}),
        ("svd", "svd", {"rank": 2}),
        ("ties", "ties_svd", {"rank": 3, "density": 0.5}),
        ("magnitude_prune", "magnitude_prune_svd", {"rank": 3, "density": 0.3}),
    ],
)
@pytest.mark.parametrize("weights", [[0.7, 0.3], [1.0, -0.5]])
def test_what_it_gives_is_what_pefts_add_weighted_adapter_gives(backbone, a, b, how, peft_how, options, weights):
    model = peft_model(backbone, {"first": a, "second": b})
    more = {"svd_rank": options.get("rank"), "density": options.get("density")}
    model.add_weighted_adapter(["first", "second"], weights, "made", combination_type=peft_how, **more)
    model.set_adapter("made")
    with torch.no_grad():
        wanted = model(**INPUTS)[0][KEPT]
    made = combine(backbone, [a, b], weights, CombineOptions(how=how, **options))
    torch.testing.assert_close(docked(backbone, made), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("how", ["dare_linear", "dare_ties"])
def test_dare_is_pefts_with_the_draws_of_the_seed(backbone, a, b, how):
    options = CombineOptions(how=how, density=0.6, seed=7, rank=32)
    state = torch.get_rng_state()
    made = combine(backbone, [a, b], [0.7, 0.3], options)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        pairs = [(port, [deltas(a)[port], deltas(b)[port]]) for port in deltas(a)]
        wanted = {port: getattr(merge_utils, how)(pair, torch.tensor([0.7, 0.3]), density=0.6) for port, pair in pairs}
    torch.testing.assert_close(docked(backbone, made), with_deltas("bert", wanted), atol=1e-5, rtol=0)
    again = combine(backbone, [a, b], [0.7, 0.3], options)
    assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in made.tensors.items())
    other = combine(backbone, [a, b], [0.7, 0.3], options.model_copy(update={"seed": 8}))
    assert not torch.equal(other.tensors["layers.0.query.lora_b"], made.tensors["layers.0.query.lora_b"])


# ------------------------------------------------------------------------------------- heads


def test_heads_are_averaged_in_proportion_to_the_absolute_weights(backbone, a, b):
    made = combine(backbone, [a, b], [3, -1])
    for name in ("head.weight", "head.bias"):
        torch.testing.assert_close(made.tensors[name], 0.75 * a.tensors[name] + 0.25 * b.tensors[name])


def test_one_adapters_head_brings_its_task(backbone, a):
    other = build_adapter(backbone, "lora", B, labels=("X", "Y", "Z"), name="other")
    made = combine(backbone, [a, other], [1, 1], head=other)
    assert made.card.task == other.card.task
    assert torch.equal(made.tensors["head.weight"], other.tensors["head.weight"])
    dock = Dock(backbone)
    assert dock.predict(dock.dock(made), ["ada met bob"])


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ([1], {}, "1 weights for 2 adapters"),
        ([1, 0], {}, "a number other than 0, found 0"),
        ([1, float("nan")], {}, "a number other than 0, found nan"),
        ([1, 1], {"rank": 3}, "linear keeps every rank.*svd compresses"),
        ([1, 1], {"how": "ties"}, "ties prunes: say with --density"),
        ([1, 1], {"how": "svd", "density": 0.5}, "svd does not prune"),
        ([1, 1], {"how": "ties", "density": 0.5, "seed": 3}, "ties drops nothing at random"),
        ([1, 1], {"how": "svd", "rank": 999}, "has a rank above 32"),
        ([1e9, 1], {"store": "float16"}, "becomes too large for float16.*--store float32"),
    ],
)
def test_weights_and_options_that_cannot_work_are_named(backbone, a, b, weights, options, message):
    with pytest.raises(UsageError, match=message):
        combine(backbone, [a, b], weights, CombineOptions(**options))


def test_other_methods_are_refused_with_those_that_can_be_added(backbone, a):
    with pytest.raises(UsageError, match=r"adapter 2 \('prefix'\) is prefix, whose updates cannot be added; .*lora"):
        combine(backbone, [a, build_adapter(backbone, "prefix")], [1, 1])


def test_adapters_of_different_backbones_are_refused(backbone, a, b):
    other = b.card.backbone.model_copy(update={"fingerprint": "blocks1:other", "id": "elsewhere"})
    with pytest.raises(MismatchError, match=r"adapter 2 \('b'\) is of the backbone 'elsewhere'.*weights differ"):
        combine(backbone, [a, with_card(b, backbone=other)], [1, 1])
    with pytest.raises(MismatchError, match=r"the adapter with the head \('b'\) is of the backbone 'elsewhere'"):
        combine(backbone, [a], [1], head=with_card(b, backbone=other))
    with pytest.raises(MismatchError, match="their weights differ"):
        combine(backbone, [with_card(b, backbone=other)], [1])


def test_heads_for_other_labels_are_not_averaged(backbone, a):
    other = build_adapter(backbone, "lora", B, labels=("X",), name="other")
    with pytest.raises(UsageError, match=r"has labels \['X'\], .* has labels \['LOC', 'PER'\].*--head FILE"):
        combine(backbone, [a, other], [1, 1])
    task = a.card.task.model_copy(update={"name": "pos"})
    with pytest.raises(UsageError, match=r"is for pos, .* for ner.*--head FILE"):
        combine(backbone, [a, with_card(other, task=task)], [1, 1])


def test_without_peft_the_pruning_ones_say_what_to_install(backbone, a, b, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError, match=r"ties needs the library peft: pip install peft"):
        combine(backbone, [a, b], [1, 1], CombineOptions(how="ties", density=0.5))
    assert combine(backbone, [a, b], [1, 1], CombineOptions(how="svd"))


def test_an_update_behind_what_the_head_reads_is_refused():
    backbone = tiny_backbone("bart")
    a = build_adapter(backbone, "lora", A)
    port = next(port for port in backbone.ports if port.name == "decoder.layers.0.query")
    from adaptdock.engine.merging.arithmetic import Term, _union

    term = Term(1.0, {port: (torch.zeros(2, 1), torch.zeros(1, 2))})
    with pytest.raises(UsageError, match=r"behind which decoder.layers.0.query lies"):
        _union([term], backbone.ports.within("encoder"))
    assert combine(backbone, [a], [1])
