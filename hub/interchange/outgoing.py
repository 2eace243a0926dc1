"""An adapter to export: its methods, sites and head, as its card describes them."""

from dataclasses import dataclass, field
from functools import cached_property

from adaptdock.errors import MismatchError, UsageError
from adaptdock.hub.artefact.card import Card
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, Head, Method, Task
from adaptdock.plugins.toolkit.interchange.tensors import Named, refuse


@dataclass(frozen=True)
class Part:
    """One method of an adapter: its name, the method with the card's options, and its parameters by port name."""

    name: str
    method: Method
    tensors: dict[str, Named]


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
    def parts(self) -> list[Part]:
        """The methods of the adapter."""
        parts = []
        ports = self.backbone.ports.within(self.task.head().reads)
        for entry in self.card.methods:
            plugin = registry.load("method", entry.name)
            method: Method = plugin(plugin.Options.model_validate(entry.options))
            tensors: dict[str, Named] = {}
            for site in method.sites(ports):
                place = site.port.name
                tensors[place] = {name: self.file.tensors[f"{place}.{name}"] for name in method.parameters(site)}
            parts.append(Part(entry.name, method, tensors))
        return parts

    @property
    def virtual_tokens(self) -> int:
        """The number of positions in front of a text whose states a head can read, as those of a prompt."""
        ports = self.backbone.ports
        fronts = (part for part in self.parts if any(site.side == "front" for site in part.method.sites(ports)))
        return sum(part.method.positions for part in fronts)


def refuse_head(out: Outgoing, why: str) -> UsageError:
    """Return the error for an unsupported head, with the way out."""
    return refuse(
        f"the head of {out.card.name!r} ({out.card.task.name})", f"{why}. --without-head writes the adapter alone"
    )
