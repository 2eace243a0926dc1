"""MAM: two methods that make one adapter."""

import pytest
import torch
from builders import build_adapter

from adaptdock.engine.core.assembly import make_method, method_entries
from adaptdock.engine.inference.dock import Dock
from adaptdock.errors import UsageError
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Backbone

INPUTS = {"input_ids": torch.tensor([[2, 11, 23, 35, 3]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}


def hidden(dock: Dock, name: str | None) -> torch.Tensor:
    with dock.boarding([name]) as rows:
        return dock.hidden(rows, INPUTS)


def test_its_card_lists_prefix_and_bottleneck_with_the_options_of_the_paper() -> None:
    prefix, bottleneck = method_entries("mam", {})
    assert (prefix.name, prefix.options["length"]) == ("prefix", 30)
    wanted = {"placement": "pfeiffer", "parallel": True, "scale": 4.0, "reduction_factor": 2.0, "activation": "relu"}
    assert bottleneck.name == "bottleneck"
    assert wanted.items() <= bottleneck.options.items()


def test_every_option_reaches_the_method_it_is_of() -> None:
    given = {"length": 3, "gate": False, "learning_rate_factor": 2.0, "reparameterise": True, "roles": "all"}
    of_bottleneck = {"reduction_factor": 4.0, "activation": "gelu", "scale": 2.0, "dropout": 0.5}
    prefix, bottleneck = method_entries("mam", {**given, **of_bottleneck, "layers": "0"})
    assert (given | {"roles": ["all"], "layers": "0"}).items() <= prefix.options.items()
    assert (of_bottleneck | {"layers": "0"}).items() <= bottleneck.options.items()


def test_it_does_what_prefix_and_bottleneck_do_together(dock: Dock, backbone: Backbone) -> None:
    options = {"length": 3, "gate": False, "reduction_factor": 4}
    both = build_adapter(backbone, "mam", options)
    dock.dock(both, "both")
    for method in both.card.methods:
        alone = build_adapter(backbone, method.name, method.options)
        own = {name: both.tensors[name] for name in alone.tensors}
        dock.dock(AdapterFile(alone.card, own), method.name)
    torch.testing.assert_close(hidden(dock, "both"), hidden(dock, "prefix+bottleneck"), atol=1e-5, rtol=0)
    assert (hidden(dock, "both") - hidden(dock, "prefix")).abs().max() > 1e-3
    assert (hidden(dock, "both") - hidden(dock, "bottleneck")).abs().max() > 1e-3


def test_a_card_cannot_name_the_combination_instead_of_its_methods() -> None:
    with pytest.raises(UsageError, match="'mam' is not a method by itself: it stands for prefix and bottleneck"):
        make_method("mam", {})


def test_wrong_options_are_named() -> None:
    with pytest.raises(UsageError, match="method 'mam': rank is no option of it"):
        method_entries("mam", {"rank": 3})
