"""The conformance kit over every plugin that is built in."""

from collections.abc import Callable
from pathlib import Path

import pytest
from recurrent import write_elmo, write_ulmfit

from adaptdock.engine.conformance import Check, checks
from adaptdock.plugins import registry

MODELS: dict[str, Callable[[Path], Path]] = {"elmo": write_elmo, "ulmfit": write_ulmfit}
"""Families that take no model of transformers, and what writes a tiny one of theirs."""
BUILT_IN = [
    (plugin.kind, plugin.name)
    for plugin in registry.discover()
    if plugin.distribution == "adaptdock" and plugin.kind in ("method", "task", "backbone")
]


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=f"{kind} {name}: {check}")
        for kind, name in BUILT_IN
        if name not in MODELS
        for check in checks(kind, name)
    ],
)
def test_a_built_in_plugin_keeps_to_its_contract(check: Check) -> None:
    check()


@pytest.mark.parametrize("family", MODELS)
def test_a_family_with_models_of_its_own_keeps_to_its_contract(family: str, tmp_path: Path) -> None:
    for check in checks("backbone", family, str(MODELS[family](tmp_path / family))):
        check()
