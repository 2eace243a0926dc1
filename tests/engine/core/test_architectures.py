"""Every architecture that is promised, as a tiny random model: ports, methods, mixing, training, files.

The last test writes what it measures into docs/backbones.md.
"""

from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
import transformers
from architectures import CONFIGS, tiny_backbone
from builders import build_adapter
from one_step import train
from torch import Tensor

from adaptdock.backbones.huggingface import HuggingFaceBackbone
from adaptdock.engine.core.batches import collate
from adaptdock.engine.inference.dock import Dock
from adaptdock.errors import AdaptError, BackboneError
from adaptdock.hub.artefact.file import AdapterFile, read_file, write_file
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Feature

METHODS = {
    "lora": ("lora", {"rank": 4, "roles": "all"}),
    "prefix": ("prefix", {"length": 4, "roles": "all"}),
    "houlsby": ("bottleneck", {"reduction_factor": 4}),
    "pfeiffer": ("bottleneck", {"reduction_factor": 4, "placement": "pfeiffer"}),
    "parallel": ("bottleneck", {"reduction_factor": 4, "parallel": True}),
    "ia3": ("ia3", {}),
    "dora": ("dora", {"rank": 4, "roles": "all"}),
    "prompt": ("prompt", {"length": 3}),
}
ELSEWHERE = {"norms": {}, "embedding-lora": {"rank": 4}, "loreft": {"first": 3}}
"""Methods that act at norms, at the input embeddings and at the outputs of layers, which every architecture has."""
NO_IDENTITY = ("prompt",)
HALVES = ("t5", "bart", "mbart", "pegasus")
NO_INTERFACE = ("deberta-v2", "mpnet", "bloom", "falcon")
SHIFTED = ("bart", "mbart", "pegasus")
NO_PORT = ("xlnet",)
OPEN = [name for name in CONFIGS if name not in NO_PORT]
READERS = [*((name, "encoder") for name in OPEN), *((name, "decoder") for name in HALVES)]
ROTARY = ("modernbert", "gpt_neox", "llama", "mistral", "qwen3", "gemma2", "gemma3_text", "phi3", "mixtral")
TEXTS = [
    "ada met bob in oslo",
    "rain",
    "a quick brown fox jumps over 13 dogs",
    "a b c d e f",
    "no.",
    "bob: it is ada!",
    "(so)",
    "7 of 9",
    "it rains in oslo",
]

PLAIN = ("query", "key", "value", "attention_output", "ffn_up", "ffn_down")
GATED = (*PLAIN, "ffn_gate")
FUSED = ("qkv", "attention_output", "ffn_up", "ffn_down")
FUSED_GATED = ("qkv", "attention_output", "ffn_gate_up", "ffn_down")
CROSS = ("cross_query", "cross_key", "cross_value", "cross_attention_output")
ROLES = {
    **dict.fromkeys(OPEN, PLAIN),
    **dict.fromkeys(("llama", "mistral", "qwen3", "gemma2", "gemma3_text"), GATED),
    **dict.fromkeys(("gpt2", "gpt_neox", "bloom", "falcon"), FUSED),
    **dict.fromkeys(("modernbert", "phi3"), FUSED_GATED),
    "mixtral": ("query", "key", "value", "attention_output"),
}
LAYERS = {"modernbert": 3, "gemma3_text": 6, "albert": 1}  # ALBERT's three layers are one that is run three times


def refusal(architecture: str, method: str) -> str | None:
    """Return what the message of a refusal says, for what cannot work."""
    if method == "prefix" and architecture in NO_INTERFACE:
        return "does not go through the attention interface"
    if method == "prompt" and architecture in SHIFTED:
        return "takes nothing in front of its input embeddings: in .* the positions of a text depend on what stands in"
    if architecture == "mixtral" and method in ("houlsby", "pfeiffer", "parallel", "ia3"):
        return r"unknown linear role 'ffn_down'.*cannot be told apart in layers.0.mlp.experts"
    return None


POSSIBLE = [(name, reads, method) for name, reads in READERS for method in METHODS if refusal(name, method) is None]
IMPOSSIBLE = [(name, reads, method) for name, reads in READERS for method in METHODS if refusal(name, method)]


@pytest.fixture(autouse=True)
def _decoder_task(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("decoder-tags", "decoder_tags:DecoderTags", "adaptdock.tasks")
    plugin = registry.Plugin("task", "decoder-tags", point.value, "tests", "0", point)
    installed = (*registry._installed(), plugin)
    monkeypatch.setattr(registry, "_installed", lambda: installed)


@cache
def backbone(architecture: str, attention: str | None = None) -> HuggingFaceBackbone:
    return tiny_backbone(architecture, attention)


@pytest.fixture
def dock(request: pytest.FixtureRequest) -> Iterator[Dock]:
    opened = Dock(backbone(request.getfixturevalue("architecture")))
    yield opened
    opened.close()


def adapter(mine: HuggingFaceBackbone, reads: str, method: str, trained: bool, seed: int = 0) -> AdapterFile:
    plugin, options = METHODS[method]
    task = "ner" if reads == "encoder" else "decoder-tags"
    built = build_adapter(mine, plugin, options, name=method, task=task, seed=seed, trained=trained)
    if trained and method == "prefix":  # its gates are noise too: open them, so that it can be seen to act
        built = AdapterFile(built.card, {name: 5 * tensor for name, tensor in built.tensors.items()})
    return built


def features(texts: list[str], labelled: bool = False) -> list[Feature]:
    read = backbone("bert").tokenizer
    encoded = [dict(read(text, return_token_type_ids=False)) for text in texts]
    return [
        Feature(inputs, [n % 5 for n in range(len(inputs["input_ids"]))] if labelled else None) for inputs in encoded
    ]


def hidden(dock: Dock, names: list[str | None], inputs: dict[str, Tensor], reads: str) -> Tensor:
    with dock.boarding(names) as rows:
        return dock.hidden(rows, inputs, reads)


def every(dock: Dock, reads: str, trained: bool = True) -> list[str]:
    """Dock an adapter of each method that can work, and return the names."""
    possible = [method for method in METHODS if refusal(dock.backbone.architecture, method) is None]
    return [dock.dock(adapter(dock.backbone, reads, method, trained)) for method in possible]


# ---------------------------------------------------------------------------------------- ports


@pytest.mark.parametrize("architecture", OPEN)
def test_every_linear_map_of_every_layer_has_its_role_and_none_is_unknown(architecture: str) -> None:
    found = Counter((port.stack, port.role) for port in backbone(architecture).ports if port.kind == "linear")
    layers = LAYERS.get(architecture, 2)
    if architecture in HALVES:
        wanted = {(stack, role): layers for stack in ("encoder", "decoder") for role in ROLES[architecture]}
        wanted |= {("decoder", role): layers for role in CROSS}
    else:
        wanted = {("", role): layers for role in ROLES[architecture]}
    assert found == wanted


@pytest.mark.parametrize("architecture", OPEN)
def test_the_widths_of_ports_are_those_of_the_modules(architecture: str) -> None:
    mine = backbone(architecture)
    shared = (
        {"key", "value"} if architecture in ("llama", "mistral", "qwen3", "gemma2", "gemma3_text", "mixtral") else set()
    )
    for port in mine.ports:
        if port.kind == "embedding":
            assert port.outputs == mine.model.get_input_embeddings().weight.shape[1]
        elif port.kind == "layers":
            assert len(mine.model.get_submodule(port.module)) == port.layer
        elif port.kind == "attention":
            heads = 2 if shared or architecture == "phi3" else 4
            assert (port.heads, port.key_width, port.value_width) == (heads, 8, 8), port
        else:
            role = port.role.removeprefix("cross_")
            assert port.inputs == 32 or role == "ffn_down", port
            assert role not in PLAIN[:4] or port.outputs == (16 if role in shared else 32), port
            assert role != "ffn_down" or (port.inputs > 32 and port.outputs == 32), port


@pytest.mark.parametrize("architecture", OPEN)
def test_every_attention_call_is_a_port_unless_it_avoids_the_interface(architecture: str) -> None:
    found = Counter((port.stack, port.role) for port in backbone(architecture).ports if port.kind == "attention")
    layers = LAYERS.get(architecture, 2)
    if architecture in HALVES:
        assert found == dict.fromkeys(
            [("encoder", "attention"), ("decoder", "attention"), ("decoder", "cross_attention")], layers
        )
    else:
        assert found == ({} if architecture in NO_INTERFACE else {("", "attention"): layers})


@pytest.mark.parametrize("architecture", NO_PORT)
def test_an_architecture_whose_rows_cannot_be_told_apart_is_refused_at_loading(architecture: str) -> None:
    with pytest.raises(BackboneError, match=f"'{architecture}': the rows of a batch cannot be told apart in layer.0"):
        tiny_backbone(architecture)


@pytest.mark.parametrize(("architecture", "reads", "method"), IMPOSSIBLE)
def test_what_cannot_work_is_refused_before_any_work_with_the_reason(
    architecture: str, reads: str, method: str
) -> None:
    with pytest.raises(AdaptError, match=refusal(architecture, method)):
        adapter(backbone(architecture), reads, method, trained=False)


# -------------------------------------------------------------------------------------- methods


@pytest.mark.parametrize(("architecture", "reads", "method"), [case for case in POSSIBLE if case[2] not in NO_IDENTITY])
def test_an_untrained_adapter_is_the_identity_and_leaves_nothing_behind(
    dock: Dock, architecture: str, reads: str, method: str
) -> None:
    inputs = collate(dock.backbone, features(TEXTS[:3]))
    kept = inputs["attention_mask"].bool()
    before = hidden(dock, [None] * 3, inputs, reads)
    name = dock.dock(adapter(dock.backbone, reads, method, trained=False))
    inside = hidden(dock, [name] * 3, inputs, reads)
    beside = hidden(dock, [None] * 3, inputs, reads)
    dock.unload(name)
    # the gates of a prefix start at 1e-3: its positions take some millionths of the attention, the others nothing
    bound = 2e-5 * max(1.0, before[kept].abs().max().item()) if method == "prefix" else 1e-6
    torch.testing.assert_close(inside[kept], before[kept], atol=bound, rtol=0)
    assert torch.equal(beside, before)
    assert torch.equal(hidden(dock, [None] * 3, inputs, reads), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in dock.backbone.model.modules())


@pytest.mark.parametrize(("architecture", "reads", "method"), [case for case in POSSIBLE if case[2] in NO_IDENTITY])
def test_an_untrained_prompt_changes_its_own_row_alone_and_leaves_nothing_behind(
    dock: Dock, architecture: str, reads: str, method: str
) -> None:
    inputs = collate(dock.backbone, features(TEXTS[:3]))
    kept = inputs["attention_mask"].bool()
    before = hidden(dock, [None] * 3, inputs, reads)
    name = dock.dock(adapter(dock.backbone, reads, method, trained=False))
    mixed = hidden(dock, [name, None, None], inputs, reads)
    beside = hidden(dock, [None] * 3, inputs, reads)
    dock.unload(name)
    torch.testing.assert_close(mixed[1:][kept[1:]], before[1:][kept[1:]], atol=1e-5, rtol=0)
    assert (mixed - before)[0][kept[0]].abs().max() > 1e-3
    assert torch.equal(beside, before)
    assert torch.equal(hidden(dock, [None] * 3, inputs, reads), before)


@pytest.mark.parametrize(("architecture", "reads", "method"), POSSIBLE)
def test_an_adapter_trains_and_a_fresh_backbone_gives_the_same_logits_from_its_file(
    dock: Dock, architecture: str, reads: str, method: str, tmp_path: Path
) -> None:
    mine, start = dock.backbone, adapter(dock.backbone, reads, method, trained=False)
    given = features(TEXTS[:3], labelled=True)
    trained = train(dock, start, given)
    write_file(tmp_path / "a.safetensors", AdapterFile(start.card, trained))
    inputs = collate(mine, given)
    bare = hidden(dock, [None] * 3, inputs, reads)
    answers, states = [], []
    for there in (mine, tiny_backbone(architecture)):
        opened = Dock(there)
        name = opened.dock(read_file(tmp_path / "a.safetensors"))
        with opened.boarding([name] * 3) as rows:
            answers.append(opened.run(rows, given))
        states.append(hidden(opened, [name] * 3, inputs, reads))
        opened.close()
    assert all(torch.equal(one, other) for one, other in zip(*answers, strict=True))
    assert torch.equal(*states)
    kept = inputs["attention_mask"].bool()
    assert (states[0] - bare)[kept].abs().max() > 1e-4


@pytest.mark.parametrize(("architecture", "reads"), READERS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_each_row_of_a_mixed_batch_is_that_row_alone(dock: Dock, architecture: str, reads: str, side: str) -> None:
    names = [None, *every(dock, reads)]
    inputs = collate(dock.backbone, features(TEXTS[: len(names)]))
    if side == "left":
        inputs = to_the_right(inputs)
    kept = inputs["attention_mask"].bool()
    mixed = hidden(dock, names, inputs, reads)
    bare = hidden(dock, [None] * len(names), inputs, reads)
    assert mixed.isfinite().all()
    for row, name in enumerate(names):
        padded = {key: value[row : row + 1] for key, value in inputs.items()}
        cut = {key: value[row : row + 1][:, kept[row]] for key, value in inputs.items()}
        alone = hidden(dock, [name], padded, reads)[0]
        torch.testing.assert_close(mixed[row][kept[row]], alone[kept[row]], atol=1e-5, rtol=0)
        if side == "right" or (architecture in ROTARY and reads == "encoder"):
            short = hidden(dock, [name], cut, reads)[0]
            torch.testing.assert_close(mixed[row][kept[row]], short, atol=1e-5, rtol=0)
        assert name is None or (mixed[row] - bare[row])[kept[row]].abs().max() > 1e-3


@pytest.mark.parametrize("architecture", ["t5"])
def test_heads_of_both_halves_and_prompts_share_a_batch(dock: Dock, architecture: str) -> None:
    names = []
    for method, reads in (("prompt", "encoder"), ("lora", "decoder"), ("prompt", "decoder"), ("lora", "encoder")):
        names.append(dock.dock(adapter(dock.backbone, reads, method, trained=True), f"{method} {reads}"))
    given = features(TEXTS[:4])
    for chosen in (names, names[:2]):
        with dock.boarding(chosen) as rows:
            mixed = dock.run(rows, given[: len(chosen)])
            for row, feature, found in zip(rows, given, mixed, strict=False):
                torch.testing.assert_close(found, dock.run([row], [feature])[0], atol=1e-5, rtol=0)


def to_the_right(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Move the padding to the left."""
    shifts = (1 - inputs["attention_mask"]).sum(1).tolist()
    return {
        name: torch.stack([row.roll(shift) for row, shift in zip(tensor, shifts, strict=True)])
        for name, tensor in inputs.items()
    }


@pytest.mark.parametrize(("architecture", "reads"), READERS)
def test_one_token_is_enough(dock: Dock, architecture: str, reads: str) -> None:
    names = [None, *every(dock, reads)]
    ids = torch.full((len(names), 1), 7)
    found = hidden(dock, names, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, reads)
    assert found.isfinite().all()
    assert all(not torch.equal(found[0], row) for row in found[1:])


@pytest.mark.parametrize("architecture", OPEN)
def test_the_longest_input_that_is_promised_goes_through(dock: Dock, architecture: str) -> None:
    names, longest = [None, *every(dock, "encoder")], dock.backbone.max_length
    with dock.boarding(names) as rows:
        lengths = torch.tensor([dock.reading(longest, row).max_length for row in rows])
    taken = {"prompt": 3}
    assert lengths.tolist() == [longest - taken.get(name, 0) for name in names]
    ids = torch.full((len(names), longest), 7)
    mask = (torch.arange(longest) < lengths.unsqueeze(1)).long()
    assert hidden(dock, names, {"input_ids": ids, "attention_mask": mask}, "encoder").isfinite().all()


@pytest.mark.parametrize(("architecture", "reads"), READERS)
def test_bfloat16_weights_take_every_method(architecture: str, reads: str) -> None:
    model = tiny_backbone(architecture).model.to(torch.bfloat16)
    mine = HuggingFaceBackbone("half", model, backbone("bert").tokenizer, "blocks1:half")
    opened = Dock(mine)
    names = [None, *every(opened, reads)]
    inputs = collate(mine, features(TEXTS[: len(names)]))
    found = hidden(opened, names, inputs, reads)
    assert found.dtype == torch.bfloat16
    assert found.isfinite().all()
    exact = Dock(backbone(architecture))
    every(exact, reads)
    wanted = hidden(exact, names, inputs, reads)
    exact.close()
    kept = inputs["attention_mask"].bool()
    assert (found.float() - wanted)[kept].abs().mean() < 0.1 * wanted[kept].abs().mean()


@pytest.mark.parametrize(("architecture", "reads"), [case for case in READERS if case[0] not in NO_INTERFACE])
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_prefix_does_the_same_in_eager_attention_as_in_the_fused_one(
    architecture: str, reads: str, side: str
) -> None:
    inputs = collate(backbone(architecture), features(TEXTS[:3]))
    inputs = to_the_right(inputs) if side == "left" else inputs
    kept = inputs["attention_mask"].bool()
    models = [backbone(architecture, implementation).model for implementation in ("eager", None)]
    if not models[0].config.is_encoder_decoder:
        with torch.inference_mode():
            own = [model(**inputs).last_hidden_state[kept] for model in models]
        if not torch.allclose(*own, atol=1e-5, rtol=0):  # Gemma 2 in 5.20: the fused one caps no logits
            pytest.skip(f"transformers {transformers.__version__} itself computes something else in each")
    found = []
    for implementation in ("eager", None):
        opened = Dock(backbone(architecture, implementation))
        names = [None, opened.dock(adapter(opened.backbone, reads, "prefix", trained=True)), "prefix"]
        found.append(hidden(opened, names, inputs, reads)[kept])
        opened.close()
    torch.testing.assert_close(*found, atol=1e-5, rtol=0)


# ------------------------------------------------------------------------------------ the matrix

PAGE = Path(__file__).parents[3] / "docs" / "backbones.md"
START, END = "<!-- measured: start -->", "<!-- measured: end -->"


def measure(architecture: str, refusals: list[str]) -> str:
    """Open a model, let every method act on a batch, and return a line of the table; add to the refusals."""
    try:
        mine = backbone(architecture)
    except BackboneError as error:
        refusals.append(f"- `{architecture}`: {error}")
        return f"| {architecture} | none | none | {' | '.join(['no'] * len(METHODS))} |"
    cells = [open_roles(mine, "linear"), open_roles(mine, "attention")]
    for method in METHODS:
        opened = Dock(mine)
        try:
            for reads in ("encoder", "decoder") if mine.encoder_decoder else ("encoder",):
                name = opened.dock(adapter(mine, reads, method, trained=True), f"{method}-{reads}")
                given = collate(mine, features(TEXTS[:2]))
                bare, acting = hidden(opened, [None, name], given, reads), hidden(opened, [name] * 2, given, reads)
                assert not torch.equal(bare[0], acting[0])
            cells.append("yes")
        except AdaptError as error:
            refusals.append(f"- `{architecture}`, {method}: {error}")
            cells.append("no")
        finally:
            opened.close()
    return f"| {architecture} | {' | '.join(cells)} |"


def open_roles(mine: HuggingFaceBackbone, kind: str) -> str:
    parts = []
    for stack in dict.fromkeys(port.stack for port in mine.ports):
        found = [port for port in mine.ports if port.kind == kind and port.stack == stack]
        roles = ", ".join(dict.fromkeys(port.role for port in found))
        layers = len({port.layer for port in found})
        parts.append(f"{stack + ': ' if stack else ''}{len(found)} in {layers}: {roles}" if found else "none")
    return "; ".join(parts)


@pytest.mark.parametrize("architecture", OPEN)
def test_norms_embeddings_and_outputs_of_layers_are_open_everywhere(architecture: str) -> None:
    mine = backbone(architecture)
    dock = Dock(mine)
    for method, options in ELSEWHERE.items():
        dock.dock(build_adapter(mine, method, options))
    names = [*ELSEWHERE, None]
    features = [Feature(dict(mine.tokenizer(text, return_token_type_ids=False))) for text in TEXTS[: len(names)]]
    inputs = collate(mine, features)
    with dock.boarding(names) as rows:
        together = dock.hidden(rows, inputs)
    with dock.boarding([None] * len(names)) as rows:
        bare = dock.hidden(rows, inputs)
    for row, name in enumerate(names):
        with dock.boarding([name]) as rows:
            alone = dock.hidden(rows, collate(mine, features[row : row + 1]))[0]
        length = len(alone)
        torch.testing.assert_close(together[row, :length], alone, atol=1e-5, rtol=0)
        assert torch.equal(together[row], bare[row]) == (name is None), name
    dock.close()


def test_the_table_in_the_docs_is_what_is_measured_here() -> None:
    refusals: list[str] = []
    rows = [measure(architecture, refusals) for architecture in CONFIGS]
    head = ["architecture", "linear ports in layers: roles", "attention ports in layers: roles", *METHODS]
    lines = [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *rows,
        "",
        "What is refused, word for word:",
        "",
        *refusals,
    ]
    before, _, rest = PAGE.read_text().partition(START)
    measured = f"{START}\n" + "\n".join(lines) + f"\n{END}"
    page = before + measured + rest.partition(END)[2]
    if page != PAGE.read_text():
        PAGE.write_text(page)
        pytest.fail(f"the measured table differed; {PAGE.name} has been rewritten: look at the change and commit it")
