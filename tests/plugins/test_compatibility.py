"""Plugins of another version of the contracts: how they are known, and what they are told."""

from typing import Any

import pytest

from adaptdock.backbones.huggingface import HuggingFaceBackbone
from adaptdock.engine.core.loading import _loaded
from adaptdock.errors import PluginError
from adaptdock.plugins import registry
from adaptdock.plugins.compatibility import reason
from adaptdock.plugins.contracts import Backbone, BackboneFamily, LoadOptions


class Old(Backbone):
    """A backbone as contract 1 had it."""

    def __init__(self) -> None:
        pass

    device = dtype = placement = open_attention = None  # type: ignore[assignment]

    def forward(self, inputs: Any, reads: str = "encoder", virtual: Any = None) -> Any:  # type: ignore[override]
        raise NotImplementedError


class Family(BackboneFamily):
    def accepts(self, name: str) -> bool:
        return True

    def load(self, name: str, options: LoadOptions) -> Backbone:
        return Old()


def test_a_backbone_of_contract_1_is_refused_with_its_family_and_what_changed() -> None:
    plugin = registry.find("backbone", "huggingface")
    with pytest.raises(
        PluginError, match=r"its forward takes \(inputs, reads, virtual\); this is version 2"
    ) as refused:
        _loaded(plugin, Family(), "x", LoadOptions())
    assert "a backbone takes a Batch in place of inputs, reads, virtual, encoded and shift" in str(refused.value)


def test_what_keeps_to_the_contract_is_not_refused() -> None:
    assert reason(HuggingFaceBackbone, Backbone) is None
    for plugin in registry.discover("method"):
        assert registry.state(plugin, check=True).usable, plugin.name
