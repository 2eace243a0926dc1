"""The matrix: any two methods and any two heads in one batch, on an encoder, a decoder and one with both halves.

Each pair of methods meets with one pair of heads, and each pair of heads with some methods; ``make test-slow`` and
``make docs`` go through all methods with all heads. With ADAPTDOCK_WRITE_DOCS=1 (make docs) the measured tables are
written into docs/mixed.md.
"""

import itertools
import os
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import tiny_backbone, tiny_language_model
from builders import build_adapter
from models import tiny_tokenizer

from adaptdock.backbones.huggingface import HuggingFaceBackbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Composite, Feature

LIMIT = 1e-5
PAGE = Path(__file__).parents[3] / "docs" / "mixed.md"
START, END = "<!-- measured: matrix -->", "<!-- end -->"
TEXTS = ["ada met bob in oslo", "rain", "a quick brown fox jumps", "no."]
OPTIONS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 3, "roles": "all"},
    "dora": {"rank": 3, "roles": "query,value"},
    "prefix": {"length": 3, "roles": "all"},
    "prompt": {"length": 3},
    "bottleneck": {"reduction_factor": 4},
    "parallel": {"reduction_factor": 4, "parallel": True},
}
HEADS = ("token,2", "token,7", "sequence,3", "span", "lm")
STACK = "lora+bottleneck"


def language_model(architecture: str) -> HuggingFaceBackbone:
    tokenizer = tiny_tokenizer()
    model = tiny_language_model(architecture, vocab_size=len(tokenizer))
    return HuggingFaceBackbone(f"tiny-{architecture}", model, tokenizer, f"blocks1:{architecture}")


BACKBONES = {
    "encoder (BERT)": lambda: tiny_backbone("bert"),
    "decoder (Llama)": lambda: language_model("llama"),
    "both halves (T5)": lambda: language_model("t5"),
}


@pytest.fixture(autouse=True)
def _head_task(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("heads", "head_tasks:HeadTask", "adaptdock.tasks")
    plugin = registry.Plugin("task", "heads", point.value, "tests", "0", point)
    installed = (*registry._installed(), plugin)
    monkeypatch.setattr(registry, "_installed", lambda: installed)


def methods() -> dict[str, str]:
    """Every registered method and combination, and the parallel bottleneck, by the plugin that it is.

    Methods that are made of trained adapters cannot be built from options alone: they have tests of their own.
    """
    named = [name for name in registry.names("method") if not issubclass(registry.load("method", name), Composite)]
    return {name: name for name in named} | {"parallel": "bottleneck"}


def adapter(backbone: HuggingFaceBackbone, name: str, head: str, seed: int) -> AdapterFile:
    made = build_adapter(
        backbone,
        methods()[name],
        OPTIONS.get(name, {}),
        labels=head.split(","),
        name=f"{name}/{head}",
        task="heads",
        seed=seed,
    )
    opened = {key: 5 * tensor if key.endswith("gate") else tensor for key, tensor in made.tensors.items()}
    return AdapterFile(made.card, opened)


def features(backbone: HuggingFaceBackbone) -> list[Feature]:
    return [Feature(dict(backbone.tokenizer(text, return_token_type_ids=False))) for text in TEXTS]


def logits(dock: Dock, names: list[str], given: list[Feature]) -> list[torch.Tensor]:
    with dock.boarding(names) as rows:
        return dock.run(rows, given)


Kind = tuple[str, str, str]
"""Method, head, and the name that is docked."""


def pairs(kinds: list[Kind], all_heads: bool) -> Iterator[tuple[Kind, Kind]]:
    """Yield all pairs, or one for each pair of methods, whose heads go through all pairs of heads in turn."""
    if all_heads:
        yield from itertools.combinations_with_replacement(kinds, 2)
        return
    by_method = [list(group) for _, group in itertools.groupby(kinds, key=lambda kind: kind[0])]
    for number, (one, other) in enumerate(itertools.combinations_with_replacement(by_method, 2)):
        yield one[number // len(other) % len(one)], other[number % len(other)]


def differences(backbone: HuggingFaceBackbone, all_heads: bool) -> Iterator[tuple[str, str, str, str, float]]:
    """Yield (method, head, method, head, largest difference) for pairs of adapters in one batch."""
    dock, given = Dock(backbone), features(backbone)
    heads = [head for head in HEADS if head != "lm" or backbone.generator is not None]
    for seed, (name, head) in enumerate(itertools.product(methods(), heads)):
        dock.dock(adapter(backbone, name, head, seed))
    kinds = [*((name, head, f"{name}/{head}") for name in methods() for head in heads)]
    kinds += [(STACK, head, f"lora/{heads[0]}+bottleneck/{head}") for head in heads]
    alone = {name: [logits(dock, [name], [feature])[0] for feature in given] for _, _, name in kinds}
    for one, other in pairs(kinds, all_heads):
        names = [one[2], other[2], other[2], one[2]]
        found = logits(dock, names, given)
        largest = max(
            (row - alone[name][number]).abs().max().item()
            for number, (name, row) in enumerate(zip(names, found, strict=True))
        )
        yield *one[:2], *other[:2], largest
    dock.close()


def table(title: str, names: list[str], largest: dict[frozenset[str], float]) -> list[str]:
    rows = [
        f"| **{one}** | {' | '.join(f'{largest[frozenset((one, other))]:.0e}' for other in names)} |" for one in names
    ]
    return [f"| {title} | {' | '.join(names)} |", f"|{'---|' * (len(names) + 1)}", *rows, ""]


@pytest.mark.parametrize("all_heads", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", BACKBONES)
def test_any_two_methods_with_any_two_heads_give_together_what_each_gives_alone(kind: str, all_heads: bool) -> None:
    by_method: dict[frozenset[str], float] = {}
    by_head: dict[frozenset[str], float] = {}
    count = 0
    for method, head, other_method, other_head, largest in differences(BACKBONES[kind](), all_heads):
        count += 1
        assert largest < LIMIT, (method, head, other_method, other_head)
        for found, key in ((by_method, {method, other_method}), (by_head, {head, other_head})):
            found[frozenset(key)] = max(found.get(frozenset(key), 0.0), largest)
    named = [*methods(), STACK]
    heads = [head for head in HEADS if frozenset((head,)) in by_head]
    kinds = len(named) * len(heads) if all_heads else len(named)
    assert count == kinds * (kinds + 1) // 2
    assert len(by_method) == len(named) * (len(named) + 1) // 2
    assert len(by_head) == len(heads) * (len(heads) + 1) // 2
    lines = [f"**{kind}**, {count:,} pairs", "", *table("methods", named, by_method), *table("heads", heads, by_head)]
    page = PAGE.read_text()
    if all_heads and os.environ.get("ADAPTDOCK_WRITE_DOCS"):
        start = START.replace("matrix", kind)
        before, _, rest = page.partition(start)
        page = before + "\n".join([start, "", *lines]) + END + rest.partition(END)[2]
        PAGE.write_text(page)
    missing = [name for name in [*named, *heads] if f"**{name}**" not in page]
    assert missing == [], "docs/mixed.md is older than the methods: run make docs"
