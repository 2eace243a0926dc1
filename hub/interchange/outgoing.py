"""An adapter to export: its methods, sites and head, as its card describes them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from adaptdock.errors import MismatchError, UsageError
from adaptdock.hub.artefact.card import Card
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.hub.interchange.incoming_tensors import Named, refuse
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, Head, Method, Port, Task


@dataclass
class Outgoing:
    """An adapter to export to another library; ``headless`` leaves its head out."""

    file: AdapterFile
    backbone: Backbone
    headless: bool = False
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        card, backbone = self.card, self.backbone
        if card.on:
            raise refuse("an adapter on top of another", "other libraries keep such a stack as two adapters")
        if card.backbone.fingerprint != backbone.fingerprint:
            raise MismatchError(
                f"the adapter {card.name!r} was trained on the backbone {card.backbone.id!r}, this is {backbone.id!r}: "
                f"their weights differ. Name the backbone it was trained on."
            )

    @property
    def card(self) -> Card:
        """The card of the adapter."""
        return self.file.card

    @property
    def base(self) -> str:
        """The public name of the backbone: its hub id, if known."""
        return self.backbone.hub_id or self.card.backbone.id

    @cached_property
    def task(self) -> Task:
        """The task of the adapter, with the card's options."""
        plugin = registry.load("task", self.card.task.name)
        task: Task = plugin(plugin.Options.model_validate(self.card.task.options))
        return task

    @cached_property
    def head(self) -> Head | None:
        """The head; None if it is left out."""
        return None if self.headless else self.task.head()

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names; empty for a task without classes."""
        return tuple(getattr(self.task, "tags", None) or self.card.task.options.get("labels") or ())

    @property
    def classes(self) -> int:
        """The number of classes of the head; 0 without a head."""
        weight = self.file.tensors.get("head.weight")
        return 0 if weight is None or self.headless else int(weight.shape[0])

    @cached_property
    def parts(self) -> list[tuple[str, dict[str, Any], dict[str, Named]]]:
        """Name, options (with defaults for those not on the card) and tensors by port of each method."""
        parts = []
        ports = self.backbone.ports.within(self.task.head().reads)
        for entry in self.card.methods:
            plugin = registry.load("method", entry.name)
            method: Method = plugin(plugin.Options.model_validate(entry.options))
            tensors: dict[str, Named] = {}
            for site in method.sites(ports):
                place = site.port.name
                parameters = method.parameters(site)
                tensors[place] = {name: self.file.tensors[f"{place}.{name}"] for name in parameters}
            parts.append((entry.name, method.options.model_dump(), tensors))
        return parts

    def port(self, name: str) -> Port:
        """Return the port with this name."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> Mapping[str, Port]:
        return {port.name: port for port in self.backbone.ports}

    @property
    def layers(self) -> int:
        """The number of attention layers."""
        return len({(port.stack, port.layer) for port in self.backbone.ports if port.kind == "attention"})

    @property
    def prompt(self) -> int:
        """The number of virtual tokens of a prompt; 0 without one."""
        return sum(options["length"] for name, options, _ in self.parts if name == "prompt")


def refuse_head(out: Outgoing, why: str) -> UsageError:
    """Return the error for an unsupported head, with the way out."""
    return refuse(
        f"the head of {out.card.name!r} ({out.card.task.name})", f"{why}. --without-head writes the adapter alone"
    )
