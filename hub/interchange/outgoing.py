"""What is written for other libraries: an adapter with its methods, sites and head, as its card describes them."""

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
    """An adapter that is to be written by the rules of another library; ``headless`` leaves its head out."""

    file: AdapterFile
    backbone: Backbone
    headless: bool = False
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        card, mine = self.card, self.backbone
        if card.on:
            raise refuse("an adapter that stands on another", "other libraries keep such a stack as two adapters")
        if card.backbone.fingerprint != mine.fingerprint:
            raise MismatchError(
                f"the adapter {card.name!r} was trained on the backbone {card.backbone.id!r}, this is {mine.id!r}: "
                f"their weights differ. Name the backbone it was trained on."
            )

    @property
    def card(self) -> Card:
        """Its card."""
        return self.file.card

    @property
    def base(self) -> str:
        """The name by which others know the backbone."""
        return self.backbone.hub_id or self.card.backbone.id

    @cached_property
    def task(self) -> Task:
        """Its task."""
        plugin = registry.load("task", self.card.task.name)
        made: Task = plugin(plugin.Options.model_validate(self.card.task.options))
        return made

    @cached_property
    def head(self) -> Head | None:
        """Its head, unless that is left out."""
        return None if self.headless else self.task.head()

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of its classes; none where the task has none."""
        return tuple(getattr(self.task, "tags", None) or self.card.task.options.get("labels") or ())

    @property
    def classes(self) -> int:
        """The number of classes of its head; 0 where it has none."""
        weight = self.file.tensors.get("head.weight")
        return 0 if weight is None or self.headless else int(weight.shape[0])

    @cached_property
    def parts(self) -> list[tuple[str, dict[str, Any], dict[str, Named]]]:
        """Name, options (with the defaults of those that a card does not know) and tensors by port of each method."""
        found = []
        ports = self.backbone.ports.within(self.task.head().reads)
        for entry in self.card.methods:
            plugin = registry.load("method", entry.name)
            made: Method = plugin(plugin.Options.model_validate(entry.options))
            tensors: dict[str, Named] = {}
            for site in made.sites(ports):
                place = site.port.name
                kept = made.parameters(site)
                tensors[place] = {name: self.file.tensors[f"{place}.{name}"] for name in kept}
            found.append((entry.name, made.options.model_dump(), tensors))
        return found

    def port(self, name: str) -> Port:
        """Return a port by its name."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> Mapping[str, Port]:
        return {port.name: port for port in self.backbone.ports}

    @property
    def layers(self) -> int:
        """The number of layers with attention."""
        return len({(port.stack, port.layer) for port in self.backbone.ports if port.kind == "attention"})

    @property
    def prompt(self) -> int:
        """The length of its prompt."""
        return sum(options["length"] for name, options, _ in self.parts if name == "prompt")


def refuse_head(out: Outgoing, why: str) -> UsageError:
    """Return the error for a head that cannot be carried."""
    return refuse(
        f"the head of {out.card.name!r} ({out.card.task.name})", f"{why}. --without-head writes the adapter alone"
    )
