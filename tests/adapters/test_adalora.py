"""AdaLoRA: forward, penalty and division of the budget are those of the real peft."""

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from architectures import tiny_backbone, tiny_model
from builders import build_adapter

from adaptdock.engine.core.assembly import assemble, make_method, make_task, method_entries
from adaptdock.engine.core.open_ports import OpenPorts
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.members.trainable import TaskStart, Trainable
from adaptdock.engine.training.train import train
from adaptdock.errors import UsageError
from adaptdock.hub.artefact.file import read_file
from adaptdock.plugins.contracts import Backbone

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of peft
INPUTS = {"input_ids": torch.tensor([[7, 8, 9], [11, 12, 8]]), "attention_mask": torch.ones(2, 3, dtype=torch.long)}
OPTIONS = {"rank": 4, "target_rank": 2, "alpha": 8, "warmup": 0.2, "final": 0.3, "interval": 2}
STEPS = 10


def peft_model(tensors: dict[str, torch.Tensor]) -> Any:
    """The model of peft with the same weights."""
    config = peft.AdaLoraConfig(
        init_r=4, target_r=2, lora_alpha=8, tinit=2, tfinal=3, deltaT=2, total_step=STEPS, orth_reg_weight=0.5,
        target_modules=["query", "value"],
    )  # fmt: skip
    model = peft.get_peft_model(copy.deepcopy(tiny_model("bert")), config)
    with torch.no_grad():
        for name, weight in weights(model).items():
            weight.copy_(tensors[name].view_as(weight))
    return model


def weights(model: Any) -> dict[str, torch.nn.Parameter]:
    """The weights of peft's model under our names."""
    ports = {port.module: port.name for port in tiny_backbone("bert").ports if port.kind == "linear"}
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, peft.tuners.adalora.SVDLinear):
            place = ports[path.removeprefix("base_model.model.")]
            for letter in "AEB":
                found[f"{place}.lora_{letter.lower()}"] = getattr(module, f"lora_{letter}")["default"]
    return found


def test_it_computes_what_peft_computes() -> None:
    built = build_adapter(tiny_backbone("bert"), "adalora", OPTIONS)
    with torch.no_grad():
        expected = peft_model(built.tensors).eval()(**INPUTS)[0]
    dock = Dock(tiny_backbone("bert"))
    dock.dock(built)
    with dock.boarding(["adalora", "adalora"]) as rows:
        found = dock.hidden(rows, INPUTS)
    dock.close()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)  # peft divides by the rank + 1e-5


def test_the_penalty_is_that_of_peft() -> None:
    built = build_adapter(tiny_backbone("bert"), "adalora", OPTIONS)
    tensors = {name: tensor for name, tensor in built.tensors.items() if not name.startswith("head.")}
    model = peft_model(built.tensors)

    class Output:
        loss = torch.tensor(0.0)

    model.base_model.model.forward = lambda *_, **__: Output()
    expected = model.base_model(**INPUTS).loss
    torch.testing.assert_close(make_method("adalora", OPTIONS).penalty(tensors), expected)  # type: ignore[attr-defined]


def test_the_budget_is_divided_as_peft_divides_it() -> None:
    """Both get the same weights and gradients, ten steps long; each step moves them as an optimiser would."""
    backbone = tiny_backbone("bert")
    built = build_adapter(backbone, "adalora", OPTIONS)
    ours = {name: tensor.clone() for name, tensor in built.tensors.items() if not name.startswith("head.")}
    model = peft_model(built.tensors)
    theirs, method = weights(model), make_method("adalora", OPTIONS)
    memory = method.memory(ours)  # type: ignore[attr-defined]
    generator, left = torch.Generator().manual_seed(3), []
    for step in range(1, STEPS + 1):
        gradients = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in ours.items()}
        for name, gradient in gradients.items():
            ours[name] -= 0.01 * gradient
            theirs[name].grad = gradient.view_as(theirs[name])
            theirs[name].data -= 0.01 * theirs[name].grad
        method.after_step(step, STEPS, ours, gradients, memory)  # type: ignore[attr-defined]
        model.base_model.update_and_allocate(step)
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor, theirs[name].data.view_as(tensor), atol=1e-6, rtol=0)
        left.append(sum(int((tensor != 0).sum()) for name, tensor in ours.items() if name.endswith("lora_e")))
    assert left[0] == 16
    assert left[6:] == [8] * 4


def test_what_is_remembered_is_in_a_checkpoint() -> None:
    backbone = tiny_backbone("bert")
    assembly = assemble(backbone, method_entries("adalora", OPTIONS), make_task("ner", {"labels": ("LOC", "PER")}))
    one, other = (Trainable(backbone, OpenPorts(backbone), [[TaskStart(assembly, seed=seed)]]) for seed in (0, 1))
    for weight in one.parameters():
        weight.grad = torch.ones_like(weight)
    one.after_step(0, 1, STEPS)
    other.load_state_dict(one.state_dict())
    for model in (one, other):
        for number, weight in enumerate(model.parameters()):
            weight.grad = torch.full_like(weight, 1.0 + number)
        for step in range(2, 9):
            model.after_step(0, step, STEPS)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rank": 2, "target_rank": 3}, "target_rank is above rank"), ({"warmup": 0.6, "final": 0.4}, "leave no steps")],
)
def test_a_budget_that_cannot_fall_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_method("adalora", options)


def test_training_leaves_as_many_triplets_as_the_budget_has(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    options = {"rank": 4, "target_rank": 1, "warmup": 0.1, "final": 0.4, "roles": ("query", "value")}
    result = train(
        "ner",
        "adalora",
        backbone,
        str(data),
        tmp_path,
        options,
        epochs=2,
        patience=0,
        batch_size=8,
        head_start="random",
    )
    values = [tensor for name, tensor in read_file(result.file).tensors.items() if name.endswith("lora_e")]
    assert len(values) == 4
    assert sum(int((tensor != 0).sum()) for tensor in values) == 4  # the best weights are those of the last epoch
