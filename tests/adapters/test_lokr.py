"""LoKr: what peft computes with the same weights, and its division of sizes."""

import copy

import peft
import pytest
import torch
from architectures import tiny_backbone, tiny_model
from builders import build_adapter
from peft.tuners.lokr.layer import factorization

from adaptdock.adapters.lokr import divided
from adaptdock.engine.inference.dock import Dock

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of peft
INPUTS = {"input_ids": torch.tensor([[7, 8, 9], [11, 12, 13]]), "attention_mask": torch.ones(2, 3, dtype=torch.long)}


@pytest.mark.parametrize("options", [{"rank": 2}, {"rank": 1, "decompose_both": True, "factor": 4}], ids=str)
def test_it_computes_what_peft_computes(options: dict[str, int]) -> None:
    backbone = tiny_backbone("bert")
    built = build_adapter(backbone, "lokr", {**options, "roles": "query,ffn_up"})
    config = peft.LoKrConfig(
        r=options["rank"],
        decompose_both=bool(options.get("decompose_both")),
        decompose_factor=options.get("factor", -1),
        target_modules=["query", "intermediate.dense"],
    )
    other = peft.get_peft_model(copy.deepcopy(tiny_model("bert")), config).eval()
    with torch.no_grad():
        for port in backbone.ports.select("linear", ("query", "ffn_up")):
            layer = other.get_base_model().get_submodule(port.module)
            for name, tensor in built.tensors.items():
                if name.startswith(f"{port.name}.lokr"):
                    part = getattr(layer, name.rpartition(".")[2])["default"]
                    part.copy_(tensor)
                    layer.scaling["default"] = 8 / options["rank"]
        expected = other(**INPUTS)[0]
    dock = Dock(backbone)
    dock.dock(built)
    dock.dock(build_adapter(backbone, "lokr", {**options, "rank": 4, "roles": "query"}, seed=1), "other")
    with dock.boarding(["other", "lokr"]) as rows:
        states = dock.hidden(rows, INPUTS)
    dock.close()
    torch.testing.assert_close(states[1], expected[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("factor", [-1, 2, 3, 4, 8, 16])
def test_sizes_are_divided_as_in_peft(factor: int) -> None:
    numbers = [*range(2, 130), 768, 997, 1000, 2048, 3072]
    assert [divided(size, factor) for size in numbers] == [factorization(size, factor) for size in numbers]
