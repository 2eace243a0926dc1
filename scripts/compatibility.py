"""Which text model types of transformers can be adapted: each one, tiny and random, with every method; writes a table.

    python scripts/compatibility.py                         # all of them, into docs/compatibility.md
    python scripts/compatibility.py --only bert,llama       # some of them, printed

A model type is tried if transformers' auto mappings have a class for it that takes ``input_ids`` and neither images
nor sound. Each is tried in a process of its own, with a time limit: one that crashes or hangs is a row like any other.
"""

import argparse
import inspect
import json
import multiprocessing
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import transformers
from compatibility_page import METHODS, Found, cell, counts, page
from tiny_configs import LARGEST, TooLarge, tiny_config
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel
from transformers.models.auto import modeling_auto as auto

from adaptdock.backbones.huggingface import HuggingFaceBackbone
from adaptdock.engine.conformance.bench import Bench
from adaptdock.engine.conformance.methods import stored
from adaptdock.engine.conformance.models import byte_tokenizer
from adaptdock.engine.core.assembly import method_entries
from adaptdock.engine.core.batches import collate
from adaptdock.engine.inference.dock import Dock
from adaptdock.errors import AdaptError
from adaptdock.hub.artefact.card import PluginEntry
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Feature

PAGE = Path(__file__).parents[1] / "docs" / "compatibility.md"
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "lora": [{"roles": "all"}, {}, {"roles": "attention_output"}],
    "dora": [{"roles": "all"}, {}, {"roles": "attention_output"}],
    "ia3": [{}, {"feed_forward": False}, {"roles": "all"}, {"roles": "all", "feed_forward": False}],
    "bottleneck": [{}, {"placement": "pfeiffer"}],
    "prefix": [{"roles": "all"}, {}],
    "prompt": [{}],
}
"""Each method with the options it is tried with: the first with which it works."""
SIZES: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4},
    "dora": {"rank": 4},
    "bottleneck": {"reduction_factor": 4},
    "prefix": {"length": 4},
    "prompt": {"length": 3},
}
MAPPINGS = ("MODEL_MAPPING", "MODEL_FOR_CAUSAL_LM_MAPPING", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING")
NO_TEXT = ("pixel", "image", "visual", "video", "audio", "speech", "bbox", "input_features", "input_values")
TOLERANCE = 1e-5
NOISE = 0.1
"""Added to the usual start, which is so small that attention is even and mistakes stay invisible."""
HEAVY = ["adaptdock.backbones.huggingface", "adaptdock.engine.conformance.bench", "adaptdock.engine.inference.dock"]
"""What the processes share, so that each begins at once."""
SECONDS = 240
"""For one model type with every method, on one core."""
NEW_TOKENS = 4
UNEQUAL = ["ada met bob in oslo", "rain", "a brown fox jumps over the fence", "no: it is ada"]
EQUAL = [text[:4] for text in UNEQUAL]


# ----------------------------------------------------------------------------- what there is to try


def text_types() -> list[str]:
    """Return the model types that transformers can build and that take tokens alone."""
    return [name for name in CONFIG_MAPPING if _takes_text_alone(name)]


def _takes_text_alone(model_type: str) -> bool:
    if not any(model_type in getattr(auto, f"{mapping}_NAMES") for mapping in MAPPINGS):
        return False
    config = CONFIG_MAPPING[model_type]
    try:
        found = next(filter(None, (getattr(auto, mapping).get(config, None) for mapping in MAPPINGS)))
        model = found[0] if isinstance(found, tuple) else found
        taken = inspect.signature(model.forward).parameters
    except (ImportError, ValueError):  # a library for images or sound that is not here
        return False
    return "input_ids" in taken and not any(word in name for name in taken for word in NO_TEXT)


def tiny_model(model_type: str, words: int) -> PreTrainedModel:
    """Return a random model; the language model where it writes, the bare one where it reads both ways."""
    config = tiny_config(model_type, words)
    kind: Any = AutoModel
    if model_type in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        kind = AutoModelForSeq2SeqLM
    elif model_type not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and (
        model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    ):
        kind = AutoModelForCausalLM
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in kind.from_config(config).parameters())
    if size > LARGEST:
        raise TooLarge(f"its smallest configuration here still has {size / 1e6:.0f} million weights")
    torch.manual_seed(0)
    model: PreTrainedModel = kind.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * NOISE)
    if model.can_generate():
        model.generation_config.eos_token_id = None  # what is written is never cut short
        model.generation_config.forced_eos_token_id = None
        if config.is_encoder_decoder and model.generation_config.decoder_start_token_id is None:
            model.generation_config.decoder_start_token_id = 0
    return model


# ----------------------------------------------------------------------------------- one model type


def examine(model_type: str, methods: Sequence[str] = METHODS) -> Found:
    """Build a tiny model, open its ports, and try every method on it."""
    found = Found(model_type)
    try:
        trial = _opened(model_type, found)
    except Exception as error:  # whatever a model raises that is built or probed
        found.closed = phrase(error)
        return found
    for method in methods:
        found.methods[method], found.options[method] = trial.failures(method)
    found.padding = trial.padding
    return found


def _opened(model_type: str, found: Found) -> "Trial":
    tokenizer = byte_tokenizer(bidirectional=False)
    model = tiny_model(model_type, len(tokenizer))
    backbone = HuggingFaceBackbone(f"tiny-{model_type}", model, tokenizer, f"blocks1:{model_type}")
    found.kind = "encoder-decoder" if backbone.encoder_decoder else "decoder" if backbone.causal else "encoder"
    found.writes = backbone.generator is not None
    linear = [port for port in backbone.ports if port.kind == "linear"]
    halves = {
        stack: list(dict.fromkeys(port.role for port in linear if port.stack == stack))
        for stack in dict.fromkeys(port.stack for port in linear)
    }
    found.linear = "; ".join(f"{half + ': ' if half else ''}{', '.join(roles)}" for half, roles in halves.items())
    found.attention = sum(port.kind == "attention" for port in backbone.ports)
    return Trial(backbone)


class Trial:
    """A tiny backbone on which methods are tried."""

    def __init__(self, backbone: HuggingFaceBackbone) -> None:
        self.backbone = backbone

    @cached_property
    def bench(self) -> Bench:
        """The backbone with a task whose head reads the encoder, or the one half there is."""
        return Bench.of(self.backbone, "ner")

    @cached_property
    def padding(self) -> bool:
        """Return whether a bare row is another one when it stands beside a longer one."""
        dock = Dock(self.backbone)
        given = self._features(UNEQUAL)
        together = self._states(dock, [None] * len(given), given)
        return any(
            not _close(found, self._states(dock, [None], [row])[0]) for found, row in zip(together, given, strict=True)
        )

    def failures(self, method: str) -> tuple[dict[str, str], str]:
        """Return what does not work and why, nothing where all does; and which options had to be given for that."""
        first: dict[str, str] = {}
        for number, options in enumerate(OPTIONS[method]):
            failed = self._failures(method, options)
            if not failed:
                return {}, ", ".join(f"{name}={value}" for name, value in options.items()) if number else ""
            first = first or failed
        return first, ""

    def _failures(self, method: str, options: dict[str, Any]) -> dict[str, str]:
        try:
            entries = method_entries(method, {**SIZES.get(method, {}), **options})
            self.bench.assembly(entries)
        except AdaptError as error:
            return {"refused": phrase(error)}
        checks: dict[str, Callable[[list[PluginEntry]], None]] = {
            "trains": self._trains,
            "mixes": self._mixes,
            "saves": self._saves,
        }
        if self.backbone.generator is not None:
            checks["writes"] = self._writes
        failed = {}
        for name, check in checks.items():
            try:
                check(entries)
            except Exception as error:  # whatever a model raises on the way is what is asked here
                failed[name] = phrase(error)
        return failed

    def _trains(self, entries: list[PluginEntry]) -> None:
        self.bench.train(self._adapter(entries, "tried", 0, noise=0.0))

    def _mixes(self, entries: list[PluginEntry]) -> None:
        given = self._features(EQUAL if self.padding else UNEQUAL)
        with self.bench.dock() as dock:
            names = self._docked(dock, entries)
            mixed = self._states(dock, names, given)
            bare = self._states(dock, [None] * len(names), given)
            for row, name in enumerate(names):
                (alone,) = self._states(dock, [name], [given[row]])
                if not _close(mixed[row], alone):
                    raise Unequal(f"a row differs by {_gap(mixed[row], alone):.0e} from itself alone")
                if name is not None and torch.equal(mixed[row], bare[row]):
                    raise Unequal("it changes nothing")

    def _saves(self, entries: list[PluginEntry]) -> None:
        given, adapter = self._features(UNEQUAL), self._adapter(entries, "tried", 0)
        found = []
        for one in (adapter, stored(adapter)):
            with self.bench.dock() as dock:
                name = dock.dock(one)
                found.append(self._states(dock, [name] * len(given), given))
        if not all(map(torch.equal, *found)):
            raise Unequal("read from its file it gives other bits")

    def _writes(self, entries: list[PluginEntry]) -> None:
        with self.bench.dock() as dock:
            names = self._docked(dock, entries)
            texts = EQUAL if self.padding else UNEQUAL
            together = dock.generate(names, texts, max_new_tokens=NEW_TOKENS)
            alone = [
                dock.generate(name, [text], max_new_tokens=NEW_TOKENS)[0]
                for name, text in zip(names, texts, strict=True)
            ]
            if together != alone:
                bare: list[str | None] = [None] * len(texts)
                beside = dock.generate(bare, texts, max_new_tokens=NEW_TOKENS)
                single = [dock.generate(None, [text], max_new_tokens=NEW_TOKENS)[0] for text in texts]
                theirs = " (nor does the bare model)" if beside != single else ""
                raise Unequal(f"a row does not write what it writes alone{theirs}")

    def _docked(self, dock: Dock, entries: list[PluginEntry]) -> list[str | None]:
        """Dock two adapters of a method and one of another, and return a name for each row: a bare one first."""
        neighbour = method_entries("lora", {**SIZES["lora"], "roles": "all"})
        return [
            None,
            dock.dock(self._adapter(entries, "one", 1)),
            dock.dock(self._adapter(entries, "other", 2)),
            dock.dock(self._adapter(neighbour, "neighbour", 3)),
        ]

    def _adapter(self, entries: list[PluginEntry], name: str, seed: int, noise: float = NOISE) -> AdapterFile:
        return self.bench.adapter(entries, name, seed, noise)

    def _features(self, texts: Sequence[str]) -> list[Feature]:
        read = self.backbone.tokenizer
        return [Feature(dict(read(text, return_token_type_ids=False)), None) for text in texts]

    def _states(self, dock: Dock, names: Sequence[str | None], given: list[Feature]) -> list[Tensor]:
        inputs = collate(self.backbone, given)
        with dock.boarding(names) as rows:
            found = dock.hidden(rows, inputs)
        return [states[mask.bool()] for states, mask in zip(found, inputs["attention_mask"], strict=True)]


class Unequal(Exception):
    """Two results that had to be equal are not."""


def _gap(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def _close(one: Tensor, other: Tensor) -> bool:
    """Compare within 1e-5; of the largest value where that is above one."""
    return _gap(one, other) <= TOLERANCE * max(1.0, float(other.abs().max()))


def phrase(error: BaseException) -> str:
    """Return the reason of an error in few words, the same for every model type that it befalls."""
    told = " ".join(str(error).split())
    for pattern, short in SHORT:
        match = re.search(pattern, told)
        if match:
            return match.expand(short)
    if isinstance(error, AdaptError | Unequal | TooLarge):
        return told
    return f"{type(error).__name__}: {told[:LONGEST]}"


LONGEST = 110
SHORT = (
    (r"does not go through the attention interface", "its attention does not go through transformers' interface"),
    (r"no attention port was found", "its attention does not go through transformers' interface"),
    (r"the positions of a text depend on what stands in front", "its positions depend on what stands in front"),
    (r"\w+ takes no input embeddings \((\w+)\)", r"it takes no input embeddings (\1)"),
    (r"unknown linear role '(\w+)'.*cannot be told apart in .*expert", r"no role '\1': experts mix the rows"),
    (r"unknown linear role '(\w+)'.*cannot be told apart", r"no role '\1': rows cannot be told apart in its maps"),
    (r"unknown linear role '(\w+)'", r"no linear map has the role '\1'"),
    (r"nothing can be adapted .*cannot be told apart", "the rows of a batch cannot be told apart in any map"),
    (r"no role was recognised", "no linear map of a known type"),
    (r"did not come through \w+ \((.{1,110}).*\)$", r"tokens alone do not come through (\1)"),
    (r"passed `inputs_embeds` to `.generate", "transformers' search takes no embeddings here"),
    (r"the weight \S+ has no gradient", "a weight has no gradient: the model's output does not depend on it"),
    (r"\d+ steps have not moved", "a weight has a gradient of zero and does not move"),
    (r"Unrecognized configuration class", "AutoModel does not know its configuration"),
    (r"a row differs by \S+ from", "a row differs from itself alone"),
)


# --------------------------------------------------------------------------------------- all of them


def examine_apart(model_types: Iterable[str], seconds: float = SECONDS) -> Iterator[Found]:
    """Examine model types one after another, each in a process of its own that is ended when its time is over."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    for model_type in model_types:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_examine_into, args=(sender, model_type))
        process.start()
        sender.close()
        found = Found(model_type, closed=f"not done after {seconds:g} seconds")
        try:
            if receiver.poll(seconds):
                found = receiver.recv()
        except EOFError:
            process.join()
            found.closed = f"its process ended with the status {process.exitcode}"
        process.kill()
        process.join()
        yield found


def _examine_into(sender: Connection, model_type: str) -> None:
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    sender.send(examine(model_type))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", help="model types, divided by commas; what is found is printed and not written")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time limit of a model type")
    parser.add_argument("--output", type=Path, default=PAGE)
    given = parser.parse_args(arguments)
    transformers.logging.set_verbosity_error()
    chosen = given.only.split(",") if given.only else text_types()
    unknown = [name for name in chosen if not _takes_text_alone(name)]
    if unknown:
        print(f"no text model type of transformers {transformers.__version__}: {', '.join(unknown)}", file=sys.stderr)
        return 2
    rows, start = [], time.monotonic()
    for row in examine_apart(sorted(chosen), given.seconds):
        rows.append(row)
        told = row.closed or ", ".join(f"{method} {cell(row, method)}" for method in METHODS)
        print(f"{row.model_type}: {told}", flush=True)
        if given.only:
            print(json.dumps(asdict(row), indent=1))
    if not given.only:
        given.output.write_text(page(rows, f"transformers {transformers.__version__} and torch {torch.__version__}"))
    print("\n".join(counts(rows)), f"- {time.monotonic() - start:.0f} seconds", sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
