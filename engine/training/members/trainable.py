"""Adapters in training: their weights as parameters, acting at the same ports as docked adapters."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from adaptdock.engine.core.assembly import HEAD, Assembly, Part, lowest_layer
from adaptdock.engine.core.forward import for_head, mask_for, resumed, routed_lm_head, shared_states, states
from adaptdock.engine.core.open_ports import OpenPorts
from adaptdock.engine.core.rows import Action
from adaptdock.engine.training.heads.pairs import pair_loss
from adaptdock.engine.training.members.member_dropout import Draw, DropoutSeed, MaskedActs, MemberDropout
from adaptdock.plugins.contracts import Backbone, Method, Penalised, Port, Reparameterised, Side, Site, Stepped


class Answering(nn.Module):
    """The head of an adapter in training, and the loss of its task."""

    def __init__(self, task: "TaskStart", start: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.assembly, self.pairs = task.assembly, task.pairs
        assembly, class_weights = task.assembly, task.class_weights
        declared = assembly.head.parameters(assembly.width)
        self.weights = nn.ParameterDict(
            {
                name: nn.Parameter(start[f"{HEAD}.{name}"], requires_grad=parameter.trained)
                for name, parameter in declared.items()
            }
        )
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights, persistent=False)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take weights by the names they are stored under; those that are not named stay."""
        for name, weight in self.weights.items():
            if f"{HEAD}.{name}" in tensors:
                weight.copy_(tensors[f"{HEAD}.{name}"])

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights by the names they are stored under."""
        return {f"{HEAD}.{name}": tensor for name, tensor in self.weights.items()}

    def forward(
        self, backbone: Backbone, hidden: Tensor, mask: Tensor, labels: Tensor, row_inputs: Mapping[str, Tensor]
    ) -> Tensor:
        """Return the mean loss for the states (R, L + T, W) of this task's rows and their mask (R, T)."""
        head, weights = self.assembly.head, {name: tensor.unsqueeze(0) for name, tensor in self.weights.items()}
        mask = mask.to(labels.device)
        row_inputs = {name: tensor.to(labels.device) for name, tensor in row_inputs.items()}
        head_input = for_head(backbone, head, hidden, mask, row_inputs)
        if self.pairs:
            return pair_loss(head.vectors(head_input, mask), labels)  # type: ignore[attr-defined]
        logits = head.apply(weights, head_input, mask)
        return self.assembly.task.loss(logits, labels, self.class_weights)


class Acting(nn.ModuleList):
    """The methods of an adapter in training; without a ``generator`` they keep the weights as given."""

    def __init__(
        self, assembly: Assembly, start: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> None:
        super().__init__(_Weights(part, start, generator) for part in assembly.parts)

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights by their names in the file, with reparameterisations resolved."""
        return {name: tensor for part in self for name, tensor in part().items()}

    def penalty(self) -> Tensor | None:
        """Return the methods' penalty, a term of the loss, or None."""
        terms = [term for weights in self for term in weights.penalties()]  # type: ignore[operator]
        return torch.stack(terms).sum() if terms else None

    @torch.no_grad()
    def after_step(self, step: int, steps: int) -> None:
        """Call the methods after step ``step`` of ``steps``, while its gradients exist."""
        for weights in self:
            weights.after_step(step, steps)  # type: ignore[operator]


@dataclass(frozen=True)
class TaskStart:
    """The start of a task's training: its adapter, the seed of the initial weights and of dropout, the class weights,
    and whether its rows use the dropout of the backbone.

    With ``pairs`` the loss compares the rows of a batch with each other (:mod:`pairs`), and the head is not trained.
    """

    assembly: Assembly
    seed: int = 0
    class_weights: Tensor | None = None
    backbone_dropout: bool = False
    pairs: bool = False


class Trainable(nn.Module):
    """The trained weights of all members; the backbone is not part of this module.

    A member is one adapter with the heads of its tasks, one or several. Tasks are numbered over all members. A call
    with a batch returns the loss.
    """

    def __init__(self, backbone: Backbone, ports: OpenPorts, members: Sequence[Sequence[TaskStart]]) -> None:
        super().__init__()
        self.heads, self.adapters = nn.ModuleList(), nn.ModuleList()
        self.owners = [number for number, tasks in enumerate(members) for _ in tasks]
        """The number of each task's member."""
        for tasks in members:
            for position, task in enumerate(tasks):
                generator = torch.Generator().manual_seed(task.seed)
                start = task.assembly.start(generator)
                self.heads.append(Answering(task, start))
                if position == 0:
                    self.adapters.append(Acting(task.assembly, start, generator))
        self.losses: list[list[Tensor]] = [[] for _ in self.heads]
        """The losses of each task since the last report; not collected for a single task."""
        self.newest: dict[int, Tensor] = {}
        """The loss of each member with rows in the newest batch."""
        self._outside = (backbone, ports)  # in a tuple, so that torch does not register the backbone as a submodule
        self._seeds = [DropoutSeed(tasks[0].seed, tasks[0].backbone_dropout) for tasks in members]

    @property
    def acting(self) -> list[Acting]:
        """The adapter of each member."""
        return cast("list[Acting]", list(self.adapters))

    @property
    def answering(self) -> list[Answering]:
        """The head of each task."""
        return cast("list[Answering]", list(self.heads))

    def weights_of(self, member: int) -> list[nn.Parameter]:
        """Return the parameters of a member's adapter and heads."""
        heads = [head for head, owner in zip(self.heads, self.owners, strict=True) if owner == member]
        return [weight for module in (self.adapters[member], *heads) for weight in module.parameters()]

    def drop_gradients(self, member: int) -> None:
        """Forget the gradients of a member, so that no step changes its weights."""
        for weight in self.weights_of(member):
            weight.grad = None

    def tensors(self) -> list[dict[str, Tensor]]:
        """Return, for each task, a copy of its weights by their names in the file, in float32."""
        acting = [copied(adapter.tensors()) for adapter in self.acting]
        return [
            {**acting[owner], **copied(head.tensors())} for owner, head in zip(self.owners, self.answering, strict=True)
        ]

    def forward(
        self,
        labels: Sequence[Tensor],
        row_inputs: Sequence[Mapping[str, Tensor]] | None = None,
        tasks: Sequence[int] | None = None,
        factors: Sequence[float] | None = None,
        draw: Draw | None = None,
        entering: Tensor | None = None,
        texts: Sequence[int] | None = None,
        **inputs: Tensor,
    ) -> dict[str, Tensor]:
        """Return the loss of a batch: the sum over members of the mean over a member's rows, times its factor.

        ``tasks`` (R) has the number of each row's task, the first by default; ``labels`` and ``row_inputs`` have an
        entry for each task, for its rows. ``draw`` makes dropout independent of other members.
        ``entering`` (R, T, W) are cached states below the lowest adapted layer. ``texts`` (R) has equal numbers for
        rows with equal inputs.
        """
        backbone, ports = self._outside
        inputs = {name: tensor.to(backbone.device) for name, tensor in inputs.items()}
        first = self.answering[0].assembly  # all tasks read the same half of the backbone
        mask = mask_for(first.head, inputs)
        tasks = [0] * len(mask) if tasks is None else tasks
        owners = [self.owners[task] for task in tasks]
        masks = MemberDropout(self._seeds, owners, draw, inputs) if draw is not None and self.training else None
        rows = TrainedRows(backbone, self.acting, owners, self.training, masks)
        drops = self.training and any(self._seeds[owner].backbone for owner in owners)
        with dropping(backbone.model, drops), masks or nullcontext():
            if entering is None and texts is not None and not drops:
                hidden = shared_states(backbone, ports, rows, inputs, first.head.reads, texts)
            elif entering is None:
                hidden = states(backbone, ports, rows, inputs, first.head.reads)
            else:
                hidden = resumed(backbone, ports, rows, inputs, lowest_layer(first), entering)
        losses: dict[int, list[Tensor]] = {owner: [] for owner in sorted(set(owners))}
        for task, loss in self._losses(hidden, mask, labels, row_inputs, tasks):
            owner = self.owners[task]
            losses[owner].append(
                loss * (tasks.count(task) / owners.count(owner)) * (factors[owner] if factors else 1.0)
            )
        if self.training:
            for owner, terms in losses.items():
                penalty = self.acting[owner].penalty()
                if penalty is not None:
                    terms.append(penalty * (factors[owner] if factors else 1.0))
        totals = {owner: torch.stack(terms).sum() for owner, terms in losses.items()}
        self.newest = {owner: total.detach() for owner, total in totals.items()}
        return {"loss": torch.stack(list(totals.values())).sum()}

    def _losses(
        self,
        hidden: Tensor,
        mask: Tensor,
        labels: Sequence[Tensor],
        row_inputs: Sequence[Mapping[str, Tensor]] | None,
        tasks: Sequence[int],
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield the number of each task with rows in the batch, and the mean loss over its rows."""
        backbone, ports = self._outside
        present = sorted(set(tasks))
        for task in present:
            own_states, own_mask = hidden, mask
            if len(present) > 1:
                selected = torch.tensor([number == task for number in tasks])
                own_mask = mask[selected.to(mask.device)]
                longest = int(own_mask.sum(1).max())  # cut to this task's longest row, as in a batch of its own
                own_mask = own_mask[:, :longest]
                own_states = hidden[:, -mask.shape[1] :][selected.to(hidden.device), :longest]
            of_rows = row_inputs[task] if row_inputs else {}
            rows = TrainedRows(backbone, self.acting, [self.owners[task]] * len(own_mask), dropout=self.training)
            with routed_lm_head(ports, self.answering[task].assembly.head, rows, own_states):
                loss = self.heads[task](backbone, own_states, own_mask, labels[task], of_rows)
            if len(self.heads) > 1:
                self.losses[task].append(loss.detach())
            yield task, loss

    def after_step(self, member: int, step: int, steps: int) -> None:
        """Call the methods of a member after its step ``step`` of ``steps``; they may change their parameters."""
        self.acting[member].after_step(step, steps)


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return float32 copies on the CPU, which further training does not change."""
    with torch.no_grad():
        return {name: tensor.detach().float().cpu().clone() for name, tensor in tensors.items()}


@contextmanager
def dropping(model: nn.Module, drops: bool) -> Iterator[None]:
    """Switch on the dropout of a frozen model if ``drops``; batch norms keep their frozen statistics."""
    modules = [module for module in model.modules() if drops and not isinstance(module, _BatchNorm)]
    for module in modules:
        module.training = True
    try:
        yield
    finally:
        for module in modules:
            module.training = False


class _Weights(nn.Module):
    """The weights of one method: as parameters, or as the output of the method's reparameterisation.

    Weights that are not trained have no gradient, and are never reparameterised; without a ``generator`` none are.
    """

    def __init__(self, part: Part, start: Mapping[str, Tensor], generator: torch.Generator | None) -> None:
        super().__init__()
        self.part = part
        trains = {
            f"{part.prefix}{place}.{name}": declared.trained
            for place, parameters in part.parameters.items()
            for name, declared in parameters.items()
        }
        trained = {name: start[name] for name, is_trained in trains.items() if is_trained}
        self.detour: nn.Module | None = None
        if trained and generator is not None and isinstance(part.method, Reparameterised):
            self.detour = part.method.reparameterise(trained, generator)
        self.names = [name for name, is_trained in trains.items() if self.detour is None or not is_trained]
        self.plain = nn.ParameterList(nn.Parameter(start[name], requires_grad=trains[name]) for name in self.names)

        method, self.memory = part.method, nn.Module()
        self._remembered: list[str] = []
        if trained and isinstance(method, Stepped):
            for number, (name, tensor) in enumerate(method.memory(self._steppable()).items()):
                self._remembered.append(name)
                self.memory.register_buffer(str(number), tensor)

    def penalties(self) -> list[Tensor]:
        """Return the method's penalty, or an empty list."""
        method = self.part.method
        if self.part.frozen or not isinstance(method, Penalised):
            return []
        return [method.penalty(self())]

    def after_step(self, step: int, steps: int) -> None:
        """Call the method after a step; it may change its parameters in place."""
        method = self.part.method
        if self._remembered and isinstance(method, Stepped):
            parameters = self._steppable()
            gradients = {name: weight.grad for name, weight in parameters.items() if weight.grad is not None}
            memory = dict(zip(self._remembered, self.memory.buffers(), strict=True))
            method.after_step(step, steps, parameters, gradients, memory)

    def _steppable(self) -> dict[str, Tensor]:
        """Return the trained parameters that are not reparameterised."""
        return {name: weight for name, weight in zip(self.names, self.plain, strict=True) if weight.requires_grad}

    def forward(self) -> dict[str, Tensor]:
        """Return the weights by their names in the file."""
        plain = dict(zip(self.names, self.plain, strict=True))
        return plain if self.detour is None else {**plain, **self.detour()}


class TrainedRows:
    """A batch in which each row trains one of several adapters.

    Equal methods of several adapters are computed together; rows of other adapters get zeros, which change nothing. No
    gradient reaches an adapter without a row.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapters: Sequence[Acting],
        owners: Sequence[int],
        dropout: bool,
        masks: MemberDropout | None = None,
    ) -> None:
        """``owners`` has, for each row, the number of its adapter in ``adapters``; ``masks`` are those of dropout."""
        self.count, self._owners = len(owners), tuple(owners)
        parts: list[list[Part]] = [[weights.part for weights in acting] for acting in adapters]  # type: ignore[misc]
        self._shifts = [sum(part.method.shift for part in parts_of_adapter) for parts_of_adapter in parts]
        self._actions: dict[Side, dict[str, list[_TrainedAction]]] = {"output": {}, "input": {}, "front": {}}
        actions_by_key: dict[Hashable, _TrainedAction] = {}
        present = sorted(set(owners))
        acting = [(order, owner) for owner in present for order in range(len(adapters[owner]))]
        for order, owner in sorted(acting):  # the methods of an adapter act in the order of its card
            weights: Any = adapters[owner][order]
            part: Part = weights.part
            for place, folded in part.folded(weights(), backbone).items():
                key = (order, place, part.name, part.prefix, part.method.options.model_dump_json(), _shapes(folded))
                if key not in actions_by_key:
                    site = part.by_port[place]
                    trains, device = dropout and not part.frozen, backbone.placement(site.port)
                    actions_by_key[key] = _TrainedAction(part.method, site, self._owners, trains, device, masks)
                    self._actions[site.side].setdefault(place, []).append(actions_by_key[key])
                actions_by_key[key].folded[owner] = folded

    def at(self, port: Port, side: Side = "output") -> Sequence[Action]:
        """Return the actions at one side of a port, in order."""
        return self._actions[side].get(port.name, ())

    @property
    def shifts(self) -> Sequence[int]:
        """The number of positions by which each row is shifted to the right."""
        return [self._shifts[owner] for owner in self._owners]

    def repeated(self, copies: int) -> "TrainedRows":
        """Return these rows, each repeated ``copies`` times in succession."""
        repeated = copy(self)
        repeated.count = self.count * copies
        repeated._actions = {
            side: {place: [action.repeated(copies) for action in actions] for place, actions in places.items()}
            for side, places in self._actions.items()
        }
        return repeated


class _TrainedAction:
    """A method that acts on the rows of several adapters; ``folded`` has their weights by the adapter's number."""

    span = None

    def __init__(
        self,
        method: Method,
        site: Site,
        owners: Sequence[int],
        dropout: bool,
        device: torch.device,
        masks: MemberDropout | None,
    ) -> None:
        self.site, self.dropout, self._device = site, dropout, device
        self.folded: dict[int, Mapping[str, Tensor]] = {}
        self.method = method if masks is None else cast("Method", MaskedActs(method, masks, self.folded))
        self._owners = owners

    def parameters(self, like: Tensor | None) -> dict[str, Tensor]:
        """Return the folded weights (R or 1, ...), with gradients."""
        complete = self.folded.keys() >= set(self._owners)
        folded_owners = list(self.folded)
        index = [folded_owners.index(owner) if owner in self.folded else len(folded_owners) for owner in self._owners]
        weights = {}
        for name, first in self.folded[folded_owners[0]].items():
            parts = [self.folded[owner][name] for owner in folded_owners]
            if len(parts) == 1 and complete:
                stacked = first.unsqueeze(0)
            else:
                rows = torch.tensor(index, device=first.device)
                stacked = torch.stack(parts if complete else [*parts, torch.zeros_like(first)]).index_select(0, rows)
            weights[name] = stacked.to(self._device) if like is None else stacked.to(like)
        return weights

    def repeated(self, copies: int) -> "_TrainedAction":
        """Return this action for a batch in which each row is repeated ``copies`` times in succession."""
        repeated = copy(self)
        repeated._owners = [owner for owner in self._owners for _ in range(copies)]
        return repeated


def _shapes(folded: Mapping[str, Tensor]) -> Hashable:
    return tuple((name, tuple(tensor.shape)) for name, tensor in folded.items())
