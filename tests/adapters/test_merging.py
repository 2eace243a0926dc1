"""A method that can be merged makes of weight and bias what the map with the adapter is."""

import pytest
import torch
from architectures import tiny_backbone
from builders import build_adapter
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from adaptdock.engine.core.assembly import assemble, make_task
from adaptdock.engine.inference.dock import Dock
from adaptdock.plugins.contracts import Backbone, Batch

IDS = torch.tensor([[2, 11, 23, 35, 47, 59, 3], [2, 8, 9, 10, 3, 0, 0]])
INPUTS = {"input_ids": IDS, "attention_mask": (IDS != 0).long()}
KEPT = INPUTS["attention_mask"].bool()
METHODS = {
    "lora": ("lora", {"rank": 3, "roles": "all"}),
    "dora": ("dora", {"rank": 3, "roles": "all", "rslora": True}),
    "ia3": ("ia3", {}),
    "ia3 on outputs": ("ia3", {"roles": "all", "feed_forward": False}),
}


def hidden(backbone: Backbone) -> Tensor:
    with torch.no_grad():
        return backbone.forward(Batch(INPUTS))[KEPT]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
def test_a_backbone_with_merged_maps_is_the_backbone_with_the_adapter(architecture: str, method: str) -> None:
    backbone, merged = tiny_backbone(architecture), tiny_backbone(architecture)
    bare = hidden(backbone)
    adapter = build_adapter(backbone, *METHODS[method])
    dock = Dock(backbone)
    with dock.boarding([dock.dock(adapter)] * 2) as rows:
        wanted = dock.hidden(rows, INPUTS)[KEPT]
    dock.close()
    task = make_task("ner", adapter.card.task.options)
    (part,) = assemble(backbone, adapter.card.methods, task).parts
    folded = part.folded(adapter.tensors, backbone)
    for site in part.sites:
        own = backbone.weight(site.port), backbone.bias(site.port)
        weight, bias = part.method.merge(site, folded[site.port.name], *own)
        module = merged.model.get_submodule(site.port.module)
        module.weight.data = weight.T if isinstance(module, Conv1D) else weight
        if module.bias is None:
            assert not bias.any()
        else:
            module.bias.data = bias
    torch.testing.assert_close(hidden(merged), wanted, atol=1e-5, rtol=0)
    assert (wanted - bare).abs().max() > 0.05
