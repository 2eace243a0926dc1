"""What an act is told of the positions at its port: padded, in a mixed batch, behind a prompt, while it writes."""

from importlib.metadata import EntryPoint
from typing import Any

import marks
import pytest
import torch
from architectures import tiny_backbone
from builders import build_adapter
from torch import Tensor
from writers import untrained, writing_backbone

from adaptdock.engine.core.assembly import assemble, make_task, method_entries
from adaptdock.engine.inference.continuous_batching import Steps, Text
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.generation import GenerationOptions
from adaptdock.errors import AdaptError
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import ForwardPass, Layout, Positions

IDS = torch.tensor([[7, 8, 9, 10], [11, 12, 0, 0], [13, 14, 15, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
INPUTS = {"input_ids": IDS, "attention_mask": MASK}
KINDS = ("linear", "norm", "hidden", "embedding")


@pytest.fixture(autouse=True)
def _marks(monkeypatch: pytest.MonkeyPatch) -> None:
    marks.register(monkeypatch)


def opened(architecture: str, kind: str = "linear") -> Dock:
    dock = Dock(tiny_backbone(architecture))
    dock.dock(build_adapter(dock.backbone, "marks", {"kind": kind}), "marks")
    dock.dock(build_adapter(dock.backbone, "lora"), "lora")
    if "front" not in dock.backbone.ports.closed:
        dock.dock(build_adapter(dock.backbone, "prompt", {"length": 2}), "prompt")
    return dock


def hidden(dock: Dock, names: list[str | None], inputs: dict[str, Tensor] = INPUTS) -> Tensor:
    with dock.boarding(names) as rows:
        return dock.hidden(rows, inputs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["bert", "llama", "opt", "t5"])
def test_an_act_is_told_mask_positions_and_tokens_of_its_rows(architecture: str, kind: str) -> None:
    dock = opened(architecture, kind)
    hidden(dock, ["marks"] * 3)
    dock.close()
    assert marks.SEEN
    for _, mask, positions, tokens in marks.SEEN:
        assert mask.tolist() == MASK.tolist()
        assert positions.tolist() == [[0, 1, 2, 3], [0, 1, 0, 0], [0, 1, 2, 0]]
        assert tokens is not None
        assert tokens.tolist() == IDS.tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["bert", "llama", "opt", "t5", "bart"])
def test_what_a_row_is_told_does_not_depend_on_its_neighbours(architecture: str, kind: str) -> None:
    dock = opened(architecture, kind)
    front = "prompt" if "prompt" in dock.names else "lora"
    names: list[str | None] = [front, "marks", "lora"]
    together = hidden(dock, names)
    for row, (name, length) in enumerate(zip(names, MASK.sum(1).tolist(), strict=True)):
        cut = {key: tensor[row : row + 1, :length] for key, tensor in INPUTS.items()}
        torch.testing.assert_close(together[row, :length], hidden(dock, [name], cut)[0], atol=1e-5, rtol=0)
    assert (hidden(dock, [None] * 3)[1, :2] - together[1, :2]).abs().max() > 1e-3
    dock.close()


def test_behind_a_prompt_positions_go_on_and_its_embeddings_are_no_tokens() -> None:
    dock = opened("llama")
    hidden(dock, ["prompt+marks", "marks", "marks"])
    dock.close()
    told = {
        tuple(row): (mask[number].tolist(), positions[number].tolist())
        for _, mask, positions, tokens in marks.SEEN
        for number, row in enumerate(tokens.tolist() if tokens is not None else [])
    }
    assert told == {
        (-1, -1, 7, 8, 9, 10): ([1, 1, 1, 1, 1, 1], [0, 1, 2, 3, 4, 5]),
        (-1, -1, 11, 12, 0, 0): ([0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 0, 0]),
        (-1, -1, 13, 14, 15, 0): ([0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 2, 0]),
    }


def test_a_text_that_is_moved_has_its_positions_moved() -> None:
    dock = opened("llama")
    dock.dock(build_adapter(dock.backbone, "prefix", {"length": 3, "move": True}), "moved")
    hidden(dock, ["moved+marks"] * 3)
    dock.close()
    assert marks.SEEN[0][2].tolist() == [[3, 4, 5, 6], [3, 4, 0, 0], [3, 4, 5, 0]]


def test_each_half_of_an_encoder_decoder_is_told_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("decoder-tags", "decoder_tags:DecoderTags", "adaptdock.tasks")
    plugin = registry.Plugin("task", "decoder-tags", point.value, "tests", "0", point)
    known = registry._installed()
    monkeypatch.setattr(registry, "_installed", lambda: (*known, plugin))
    dock = Dock(tiny_backbone("t5"))
    roles = ("query", "cross_key", "cross_query")
    made = build_adapter(dock.backbone, "marks", {"roles": roles}, task="decoder-tags")
    dock.dock(made, "marks")
    answers = torch.tensor([[0, 21, 22], [0, 23, 0], [0, 0, 0]])
    answered = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]])
    inputs = INPUTS | {"decoder_input_ids": answers, "decoder_attention_mask": answered}
    from adaptdock.engine.core.forward import states

    with dock.boarding(["marks"] * 3) as rows, torch.inference_mode():
        states(dock.backbone, dock.ports, dock.mixed(rows), inputs, "decoder")
    dock.close()
    told = [tokens.tolist() for _, _, _, tokens in marks.SEEN if tokens is not None]
    assert told[:2] == [IDS.tolist()] * 2  # the encoder's queries
    assert sorted(map(str, told[2:])) == sorted(map(str, ([answers.tolist()] * 2 + [IDS.tolist()]) * 2))
    masks = {str(mask.tolist()) for _, mask, _, tokens in marks.SEEN if tokens is not None and tokens.shape[1] == 3}
    assert masks == {str(answered.tolist())}


# --------------------------------------------------------------------------------------- generation

PROMPTS = ["the cat", "a text about the sea", "the dog ran"]


def writing(architecture: str, kind: str = "linear") -> Dock:
    dock = Dock(writing_backbone(architecture))
    for seed, (name, method, options) in enumerate(
        [("marks", "marks", {"kind": kind}), ("lora", "lora", {"rank": 2}), ("prompt", "prompt", {"length": 3})]
    ):
        made = untrained(dock.backbone, "generation")
        methods = method_entries(method, options)
        generator = torch.Generator().manual_seed(seed)
        assembly = assemble(dock.backbone, methods, make_task("generation", {}))
        tensors = {
            key: tensor + 0.3 * torch.randn(tensor.shape, generator=generator)
            for key, tensor in assembly.start(generator).items()
        }
        dock.dock(AdapterFile(made.card.model_copy(update={"methods": methods}), tensors), name)
    return dock


@pytest.mark.parametrize("beams", [1, 3])
def test_while_it_writes_an_act_is_told_the_token_and_the_position_of_each_step(beams: int) -> None:
    dock = writing("llama")
    prompts = [dock.backbone.tokenizer(text)["input_ids"] for text in PROMPTS[:2]]
    dock.generate(["marks", "marks"], PROMPTS[:2], max_new_tokens=4, num_beams=beams)
    dock.close()
    calls = [entry for number, entry in enumerate(marks.SEEN) if number % (len(marks.SEEN) // 4) == 0]
    longest = max(map(len, prompts))
    first = calls[0]
    assert first[1].sum(1).tolist() == [len(prompt) for prompt in prompts for _ in range(first[1].shape[0] // 2)]
    assert first[2][:, -1].tolist() == [len(prompt) - 1 for prompt in prompts for _ in range(len(first[2]) // 2)]
    assert first[1].shape[1] == longest
    for step, (_, mask, positions, tokens) in enumerate(calls[1:]):
        assert mask.tolist() == [[1]] * (2 * beams)
        assert positions.tolist() == [[len(prompt) + step] for prompt in prompts for _ in range(beams)]
        assert tokens is not None
        assert tokens.shape == (2 * beams, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_what_is_written_with_a_cache_is_what_whole_texts_give(architecture: str, kind: str) -> None:
    """The reference has no cache and no beams: at each token the whole text goes through the dock again."""
    dock = writing(architecture, kind)
    read = dock.backbone.tokenizer
    ids = list(read(PROMPTS[1])["input_ids"])
    with dock.boarding(["marks"]) as rows, torch.inference_mode():
        for _ in range(5):
            given = torch.tensor([ids])
            states = dock.hidden(rows, {"input_ids": given, "attention_mask": torch.ones_like(given)})
            ids.append(int(dock.backbone.vocabulary_logits(states)[0, -1].argmax()))
    written = ids[-5:]
    end = next((number for number, token in enumerate(written) if token in dock.backbone.endings), 5)
    expected = read.decode(written[:end], skip_special_tokens=True)
    names: list[str | None] = ["prompt", "marks", "lora"]
    assert dock.generate(names, PROMPTS, max_new_tokens=5)[1] == expected
    for beams in (1, 2):
        search: dict[str, Any] = {"max_new_tokens": 5, "num_beams": beams}
        together = dock.generate(names, PROMPTS, **search)
        assert together == [
            dock.generate([name], [text], **search)[0] for name, text in zip(names, PROMPTS, strict=True)
        ]
    steps = Steps(dock)
    with dock.boarding(names) as rows:
        texts = [
            Text(row, read(prompt)["input_ids"], GenerationOptions(max_new_tokens=5))
            for row, prompt in zip(rows, PROMPTS, strict=True)
        ]
        steps.join(texts[:1])
        steps.step()
        steps.join(texts[1:])
        while steps.texts:
            steps.step()
    dock.close()
    assert read.decode(texts[1].tokens, skip_special_tokens=True) == expected


# ------------------------------------------------------------------------------- the object itself


def test_a_part_of_the_rows_each_several_times_is_what_is_seen() -> None:
    layout = Layout(2, lambda: Positions(torch.tensor([[1, 0], [1, 1]]), torch.tensor([[0, 0], [0, 1]])))
    found = ForwardPass(2, False, layout, copies=2, span=slice(1, 3))
    assert found.mask.tolist() == [[1, 0], [1, 1]]
    assert found.token_ids is None


def test_nothing_is_computed_for_a_method_that_does_not_look() -> None:
    def compute() -> Positions:
        raise AssertionError("somebody looked")

    found = ForwardPass(2, True, Layout(2, compute), length=3)
    assert (found.rows, found.training) == (2, True)
    with pytest.raises(AssertionError, match="somebody looked"):
        _ = found.positions


def test_positions_of_something_else_are_refused() -> None:
    with pytest.raises(AdaptError, match="5 positions pass the port, and the batch is laid out in 4"):
        _ = ForwardPass(3, layout=Layout(3, lambda: Positions(MASK, MASK)), length=5).mask
    with pytest.raises(AdaptError, match="does not provide the positions"):
        _ = ForwardPass(3).mask
