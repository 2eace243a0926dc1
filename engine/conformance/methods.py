"""The checks of a method: identity when untrained, mixed batches, training, saving, undocking without trace."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import torch
from torch import nn

from adaptdock.engine.conformance.abilities import merged, penalised, stepped
from adaptdock.engine.conformance.bench import SLACK, TOLERANCE, Bench, same
from adaptdock.engine.conformance.check import Check, NotAsked, Unmet, expect
from adaptdock.engine.conformance.models import Shape, tiny_backbone
from adaptdock.engine.core.assembly import method_entries
from adaptdock.engine.inference.dock import Dock
from adaptdock.errors import AdaptError
from adaptdock.hub.artefact.card import PluginEntry
from adaptdock.hub.artefact.file import AdapterFile, read_file, write_file
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, Composite, Options

ON: tuple[Shape, ...] = ("encoder", "decoder")
UNTRAINED = 1e-3
"""Largest difference that an untrained adapter may make: an almost closed gate makes a small difference."""
EVERYWHERE = {"roles": ["all"]}
"""Options of the default method with which it acts wherever a backbone has linear maps."""
LONG_TEXT = " ".join(["word"] * 500)


def method_checks(name: str, model: str | None) -> list[Check]:
    """Return the checks of a method on an encoder and on a decoder; ``model`` has no meaning here."""
    trials = [Trial(name, shape, partial(tiny_backbone, shape)) for shape in ON]
    return [
        *(check for trial in trials for check in trial.checks()),
        Check("it acts on an encoder or on a decoder", partial(acts_somewhere, trials)),
    ]


def acts_somewhere(trials: list["Trial"]) -> None:
    """Raise :class:`Unmet` with the reasons if a method acts on none of the backbones."""
    refused = []
    for trial in trials:
        try:
            trial.bench.assembly(trial.entries())
            return
        except NotAsked:
            raise
        except AdaptError as error:
            refused.append(f"{trial.place}: {error}")
    raise Unmet("; ".join(refused))


class Trial:
    """A method on one backbone, which is loaded at the first check."""

    def __init__(
        self, method: str, place: str, backbone: Callable[[], Backbone], options: Mapping[str, Any] | None = None
    ) -> None:
        self.method, self.place, self._backbone, self._options = method, place, backbone, dict(options or {})

    def checks(self) -> list[Check]:
        """Return the checks that need a backbone."""
        acts: dict[str, Any] = {
            "untrained it leaves the hidden states as they were": self._untrained,
            "with other weights it changes them": self._acts,
            "in a mixed batch each row is what it is alone": self._mixed,
            "gone, it has left the backbone as it was, to the bit": self._undocked,
            "saved and read, it gives the same bits": self._saved,
            "every weight that is trained has a gradient and moves": self._trained,
            "trained and docked it computes the same": self._both_paths,
            "texts that are longer than the model reads go through": self._long,
        }
        abilities = {
            "merged into the linear maps it computes the same": merged,
            "its penalty is a finite number with gradients": penalised,
            "after a step its parameters are as they were declared": stepped,
        }
        acts |= {title: partial(self._on_bench, act) for title, act in abilities.items()}
        return [Check(f"{self.place}: {title}", partial(self._ask, act)) for title, act in acts.items()]

    @cached_property
    def bench(self) -> Bench:
        """The backbone with the example task, or else with the first task that reads what the backbone reads.

        Raises :class:`NotAsked` if no task does.
        """
        backbone = self._backbone()
        if registry.load("task", registry.EXAMPLE_TASK).modality == backbone.modality:
            return Bench.of(backbone, registry.EXAMPLE_TASK)
        # tasks are imported until one fits, as other plugins may be slow or broken
        for plugin, task in registry.usable("task"):
            if task.modality == backbone.modality:
                return Bench.of(backbone, plugin.name)
        raise NotAsked(f"no installed task reads {backbone.modality}")

    def entries(self, options: Mapping[str, Any] | None = None) -> list[PluginEntry]:
        """Return the card entries of the method; raise :class:`NotAsked` for a method made of trained adapters."""
        if issubclass(registry.load("method", self.method), Composite):
            raise NotAsked("it is made of trained adapters, which only its own tests can provide")
        return method_entries(self.method, {**self._options, **(options or {})})

    def _ask(self, act: Any) -> None:
        entries = self.entries()
        try:
            self.bench.assembly(entries)
        except AdaptError as refusal:
            raise NotAsked(f"it refuses this backbone: {refusal}") from None
        act(entries)

    # ------------------------------------------------------------------------------------------ acts

    def _on_bench(self, act: Callable[[Bench, list[PluginEntry]], None], entries: list[PluginEntry]) -> None:
        act(self.bench, entries)

    def _untrained(self, entries: list[PluginEntry]) -> None:
        if any(site.side == "front" for site in self.bench.assembly(entries).sites.sites):
            raise NotAsked("it puts embeddings in front of a text, which changes the states after them")
        largest = self._change(entries, noise=0.0)
        expect(largest <= UNTRAINED, f"the hidden states differ by {largest:.2g}; {UNTRAINED:g} is allowed")

    def _acts(self, entries: list[PluginEntry]) -> None:
        if not self.bench.assembly(entries).sites.sites:
            raise NotAsked("it acts nowhere: the head alone is trained")
        largest = self._change(entries, noise=0.5)
        expect(largest > TOLERANCE, "noise on every weight changes nothing: the trained weights have no effect")

    def _change(self, entries: list[PluginEntry], noise: float) -> float:
        features = self.bench.features(entries)
        with self.bench.dock() as dock:
            bare = self.bench.hidden(dock, [None] * len(features), features)
            name = dock.dock(self.bench.adapter(entries, "tried", noise=noise))
            states = self.bench.hidden(dock, [name] * len(features), features)
        return max(float((state - bare_state).abs().max()) for state, bare_state in zip(states, bare, strict=True))

    def _mixed(self, entries: list[PluginEntry]) -> None:
        """Mix bare rows, another method, and this method with other weights, sizes and options in one batch."""
        features = self.bench.features(entries)
        neighbour = method_entries(registry.DEFAULT_METHOD, EVERYWHERE)
        adapters = [("as it is", entries), ("with other weights", entries), (registry.DEFAULT_METHOD, neighbour)]
        with self.bench.dock() as dock:
            adapters += self._variants(dock)
            row_names: dict[str | None, str] = {None: "a bare row"}
            for seed, (words, methods) in enumerate(adapters):
                row_names[dock.dock(self.bench.adapter(methods, f"row-{seed}", seed))] = words
            names = [*row_names, *list(row_names)[:2]]
            rows = [features[number % len(features)] for number in range(len(names))]
            together = self.bench.hidden(dock, names, rows)
            for name, row, state in zip(names, rows, together, strict=True):
                (alone,) = self.bench.hidden(dock, [name], [row])
                largest = float((state - alone).abs().max())
                expect(
                    largest <= TOLERANCE, f"the row {row_names[name]!r} differs by {largest:.2g} from that row alone"
                )

    def _variants(self, dock: Dock) -> Iterator[tuple[str, list[PluginEntry]]]:
        """Yield the method with one option changed, for every option with a guessable other value."""
        model: type[Options] = registry.load("method", self.method).Options
        for field, info in model.model_fields.items():
            for value in _others(info.annotation, info.default):
                try:
                    entries = self.entries({field: value})
                    dock.prepare(self.bench.adapter(entries, "tried"))
                except AdaptError:  # some values do not go with the other options or with this backbone
                    continue
                yield f"with {field}={value}", entries

    def _undocked(self, entries: list[PluginEntry]) -> None:
        features, model = self.bench.features(entries), self.bench.backbone.model
        bare: list[str | None] = [None] * len(features)
        weights, modules = self.bench.state(), _modules(model)
        with self.bench.dock() as dock:
            before = self.bench.hidden(dock, bare, features)
            name = dock.dock(self.bench.adapter(entries, "tried"))
            self.bench.hidden(dock, [name] * len(features), features)
            dock.unload(name)
            after = self.bench.hidden(dock, bare, features)
        expect(all(map(torch.equal, before, after)), "the bare hidden states have changed")
        expect(same(weights, self.bench.state()), "the backbone's weights have changed")
        expect(_modules(model) == modules, "the backbone's modules or their hooks have changed")

    def _saved(self, entries: list[PluginEntry]) -> None:
        adapter, features = self.bench.adapter(entries, "tried"), self.bench.features(entries)
        reread = stored(adapter)
        expect(reread.card == adapter.card, "the card has changed")
        logits = []
        for version in (adapter, reread):
            with self.bench.dock() as dock:
                logits.append(self.bench.logits(dock, dock.dock(version), features))
        expect(all(map(torch.equal, *logits)), "the logits are not the same bits")

    def _trained(self, entries: list[PluginEntry]) -> None:
        adapter = self.bench.adapter(entries, "tried", noise=0.0)
        self.bench.assembly(entries).check(self.bench.train(adapter), "what training leaves")

    def _both_paths(self, entries: list[PluginEntry]) -> None:
        trained, docked = self.bench.losses(self.bench.adapter(entries, "tried"))
        close = abs(trained - docked) <= SLACK * max(1.0, abs(docked))
        expect(close, f"the loss is {trained:g} in training and {docked:g} when docked")

    def _long(self, entries: list[PluginEntry]) -> None:
        if self.bench.backbone.tokenizer is None:
            raise NotAsked("the backbone reads no texts")
        with self.bench.dock() as dock:
            name = dock.dock(self.bench.adapter(entries, "tried"))
            expect(len(dock.predict(name, [LONG_TEXT])) == 1, "a long text has no answer")


def stored(adapter: AdapterFile) -> AdapterFile:
    """Return an adapter after writing it to a file and reading it again."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tried.safetensors"
        write_file(path, adapter)
        return read_file(path)


def _modules(model: nn.Module) -> list[tuple[str, int]]:
    """Return the names of a model's modules, each with its number of hooks."""
    return [
        (name, len(module._forward_hooks) + len(module._forward_pre_hooks)) for name, module in model.named_modules()
    ]


def _others(annotation: Any, default: Any) -> list[Any]:
    """Return values other than the default for an option of this type."""
    if get_origin(annotation) is Literal:
        return [value for value in get_args(annotation) if value != default]
    if isinstance(default, bool):
        return [not default]
    if isinstance(default, int) and default > 1:
        return [default // 2, default + 1]
    if isinstance(default, float):
        return [default / 2, default * 2]
    return []
