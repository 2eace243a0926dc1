"""One direction of an LSTM layer, made of linear maps so that adapters can act at every step.

    i, f, g, o = W_ih x_t + b_ih + W_hh h_(t-1) + b_hh
    c_t = sigmoid(f) * c_(t-1) + sigmoid(i) * tanh(g)
    h_t = W_p (sigmoid(o) * tanh(c_t))

(Hochreiter and Schmidhuber 1997, the projection W_p of Sak et al. 2014; gates in torch's order.) ``torch.nn.LSTM``
computes the same in one kernel, where hooks cannot act. Here the map of the inputs is one product over all
steps; the maps of the state and the projection are one product per step each.

Letters in shapes: R rows, T steps, I inputs, H the width of the cell, O the width of the output.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass
class State:
    """The state of a direction between two steps: output (R, O) and cell (R, H)."""

    hidden: Tensor
    cell: Tensor

    def detached(self) -> "State":
        """Return the same values without gradients."""
        return State(self.hidden.detach(), self.cell.detach())


class RecurrentMap(nn.Linear):
    """A linear map whose weights may come with the call, thinned out by weight dropout."""

    def forward(self, input: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the product, (..., inputs) -> (..., outputs)."""
        return functional.linear(input, self.weight if weight is None else weight, self.bias)


class LSTM(nn.Module):
    """One direction of a layer. ``projection`` is the width O where it differs from the cell's.

    ``cell_clip`` and ``projection_clip`` bound the cell and the output of the projection. ``weight_dropout`` is the
    share of the recurrent weights that training drops, once for a whole pass (Merity et al. 2018, arXiv:1708.02182).
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        projection: int | None = None,
        cell_clip: float | None = None,
        projection_clip: float | None = None,
        backward: bool = False,
        weight_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.width, self.outputs = width, projection or width
        self.cell_clip, self.projection_clip = cell_clip, projection_clip
        self.backward, self.weight_dropout = backward, weight_dropout
        self.input = nn.Linear(inputs, 4 * width)
        self.recurrent = RecurrentMap(self.outputs, 4 * width)
        self.projection = nn.Linear(width, projection, bias=False) if projection else None

    def forward(self, x: Tensor, mask: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the outputs (R, T, O), and the state after each row's last step.

        ``x`` (R, T, I). A step that ``mask`` (R, T) hides leaves the state as it is, at either end of the row.
        """
        state = self.start(x) if state is None else state
        hidden, cell = state.hidden, state.cell
        gates = self.input(x)
        weight = functional.dropout(self.recurrent.weight, self.weight_dropout, self.training)
        visible = None if bool(mask.all()) else mask.bool().unsqueeze(-1)  # a batch without padding needs no where()
        outputs: list[Tensor] = [hidden] * x.shape[1]
        for step in reversed(range(x.shape[1])) if self.backward else range(x.shape[1]):
            sums = gates[:, step] + self.recurrent(hidden.unsqueeze(1), weight).squeeze(1)
            new_hidden, new_cell = self._step(sums, cell)
            if visible is not None:
                new_hidden = torch.where(visible[:, step], new_hidden, hidden)
                new_cell = torch.where(visible[:, step], new_cell, cell)
            hidden, cell = new_hidden, new_cell
            outputs[step] = hidden
        return torch.stack(outputs, dim=1), State(hidden, cell)

    def start(self, x: Tensor) -> State:
        """Return the state before the first step: zeros."""
        return State(x.new_zeros(len(x), self.outputs), x.new_zeros(len(x), self.width))

    def _step(self, sums: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        input_gate, forget_gate, candidate, output_gate = sums.chunk(4, dim=-1)
        cell = forget_gate.sigmoid() * cell + input_gate.sigmoid() * candidate.tanh()
        if self.cell_clip is not None:
            cell = cell.clamp(-self.cell_clip, self.cell_clip)
        hidden = output_gate.sigmoid() * cell.tanh()
        if self.projection is not None:
            hidden = self.projection(hidden.unsqueeze(1)).squeeze(1)
            if self.projection_clip is not None:
                hidden = hidden.clamp(-self.projection_clip, self.projection_clip)
        return hidden, cell
