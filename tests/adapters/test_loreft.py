"""LoReFT: the formula of the paper, at the first positions of each text alone."""

import pytest
import torch
from architectures import tiny_backbone, tiny_model
from builders import build_adapter

from adaptdock.engine.core.assembly import make_method
from adaptdock.engine.inference.dock import Dock
from adaptdock.errors import UsageError

IDS = torch.tensor([[7, 8, 9, 10], [11, 12, 13, 0]])
INPUTS = {"input_ids": IDS, "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])}


@pytest.mark.parametrize("architecture", ["bert", "llama", "bloom"])
@pytest.mark.parametrize("first", [None, 2])
def test_it_computes_the_formula_of_the_paper(architecture: str, first: int | None) -> None:
    """The reference: hooks of plain torch on a copy of the model, with W and R as the paper writes them."""
    backbone, other = tiny_backbone(architecture), tiny_model(architecture).eval()
    built = build_adapter(backbone, "loreft", {"rank": 3, "first": first})
    for port in backbone.ports.select("hidden", ("block",)):
        free, change, bias = (built.tensors[f"{port.name}.{name}"] for name in ("free", "change", "bias"))
        rotation = orthonormal(free)
        weight = rotation + change

        def after(_, args, out, weight=weight, rotation=rotation, bias=bias):
            h = out[0] if isinstance(out, tuple) else out
            changed = h + (h @ weight.T + bias - h @ rotation.T) @ rotation
            changed[:, len(IDS[0]) if first is None else first :] = h[:, len(IDS[0]) if first is None else first :]
            return (changed, *out[1:]) if isinstance(out, tuple) else changed

        other.get_submodule(port.module).register_forward_hook(after)
    with torch.no_grad():
        expected = other(**INPUTS)[0]
    dock = Dock(backbone)
    dock.dock(built)
    with dock.boarding(["loreft", "loreft"]) as rows:
        found = dock.hidden(rows, INPUTS)
    dock.close()
    kept = INPUTS["attention_mask"].bool()
    torch.testing.assert_close(found[kept], expected[kept], atol=1e-5, rtol=0)


def orthonormal(rows: torch.Tensor) -> torch.Tensor:
    """Gram and Schmidt's way to orthonormal rows."""
    done: list[torch.Tensor] = []
    for row in rows:
        for other in done:
            row = row - (row @ other) * other
        done.append(row / row.norm())
    return torch.stack(done)


def test_a_rank_above_the_width_is_refused() -> None:
    with pytest.raises(UsageError, match="rank 33 is above the width 32"):
        make_method("loreft", {"rank": 33}).sites(tiny_backbone("bert").ports)
