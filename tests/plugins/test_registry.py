"""The registry: found by metadata, imported when used, broken ones set aside."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from adaptdock.errors import PluginError, UnknownNameError
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import AnswerKind, PortKind


def install(site: Path, name: str, version: str, entry_points: str, modules: dict[str, str]) -> None:
    """Put a distribution into a folder as pip would leave it."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(entry_points)
    for module, code in modules.items():
        (site / f"{module}.py").write_text(code)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.refresh()
    yield tmp_path
    registry.refresh()


def test_the_built_in_plugins_stand_in_the_same_groups_as_a_third_partys() -> None:
    assert {"lora", "bottleneck", "prefix", "mam"} <= set(registry.names("method"))
    assert "ner" in registry.names("task")
    assert "huggingface" in registry.names("backbone")
    assert {plugin.distribution for plugin in registry.discover("method")} == {"adaptdock"}


def test_discovery_imports_no_plugin(site: Path) -> None:
    install(site, "acme-slow", "1.0", "[adaptdock.adapters]\nslow = acme_slow:Slow\n", {"acme_slow": "1 / 0"})
    registry.refresh()
    assert registry.find("method", "slow").source == "acme-slow 1.0"
    assert "acme_slow" not in sys.modules


def test_a_broken_plugin_is_named_and_breaks_nothing_else(site: Path) -> None:
    install(site, "acme-broken", "1.2", "[adaptdock.adapters]\nbroken = acme_broken:B\n", {"acme_broken": "1 / 0"})
    install(
        site, "acme-exits", "1.0", "[adaptdock.adapters]\nexits = acme_exits:B\n", {"acme_exits": "raise SystemExit(3)"}
    )
    registry.refresh()
    with pytest.raises(PluginError, match=r"'broken' of acme-broken 1\.2 cannot be imported.*ZeroDivisionError"):
        registry.load("method", "broken")
    built_in = {"bottleneck", "dora", "features", "full", "fusion", "ia3", "lora", "mam", "prefix", "prompt"}
    built_in |= {"alora", "boft", "gated-lora", "oft", "unipelt", "vera"}
    built_in |= {"adalora", "bitfit", "compacter", "embedding-lora", "invertible", "loha", "lokr", "loreft", "norms"}
    assert {plugin.name for plugin, _ in registry.usable("method")} == built_in
    assert not registry.state(registry.find("method", "exits"), check=True).usable


def test_two_plugins_of_one_name_are_refused_with_both_distributions(site: Path) -> None:
    install(site, "acme-lora", "3.0", "[adaptdock.adapters]\nlora = acme_lora:L\n", {"acme_lora": "class L: pass"})
    registry.refresh()
    with pytest.raises(
        PluginError, match=r"'lora' is registered by acme-lora 3\.0 and adaptdock [\d.]+; uninstall one"
    ):
        registry.load("method", "lora")
    assert registry.load("method", "prefix").__name__ == "Prefix"


def test_a_plugin_of_another_contract_version_is_refused(site: Path) -> None:
    code = "class Old:\n    api_version = 99\n"
    install(site, "acme-old", "0.1", "[adaptdock.tasks]\nold = acme_old:Old\n", {"acme_old": code})
    registry.refresh()
    with pytest.raises(PluginError, match="built for version 99 of the plugin contracts; this is version 2"):
        registry.load("task", "old")


OLD_METHOD = """
from adaptdock.plugins.contracts import Method, Options

class Old(Method):
    Options = Options

    def sites(self, ports):
        return ()

    def parameters(self, site):
        return {}

    def transform(self, parameters, x, out, dropout):
        return out
"""


@pytest.mark.parametrize(
    ("code", "version"),
    [
        (OLD_METHOD, r"its transform takes \(parameters, x, out, dropout\); this is version 2, where "),
        ("class Old:\n    api_version = 1\n", "was built for version 1 of the plugin contracts; this is version 2"),
    ],
)
def test_a_method_of_contract_1_is_refused_with_versions_and_what_changed(site: Path, code: str, version: str) -> None:
    install(site, "acme-old", "0.1", "[adaptdock.adapters]\nold = acme_old:Old\n", {"acme_old": code})
    registry.refresh()
    sys.modules.pop("acme_old", None)
    with pytest.raises(PluginError, match=version) as refused:
        registry.load("method", "old")
    assert "the method 'old' of acme-old 0.1" in str(refused.value)
    assert "every act of a method takes the forward pass in place of dropout" in str(refused.value)
    assert "Install a release of acme-old that fits" in str(refused.value)


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown method 'lorra': did you mean lora, "):
        registry.load("method", "lorra")


def test_discovery_and_contracts_import_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from adaptdock.plugins import registry, contracts; registry.discover(); "
        "assert not {'torch', 'transformers'} & sys.modules.keys(); "
        "assert not [name for name in sys.modules if name.startswith(('adaptdock.adapters', 'adaptdock.tasks'))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_entry_point_to_something_else_is_named(site: Path) -> None:
    install(site, "acme-odd", "0.1", "[adaptdock.adapters]\nodd = math:sqrt\n", {})
    registry.refresh()
    with pytest.raises(PluginError, match=r"'odd' of acme-odd 0\.1 is not a Method of the plugin contracts"):
        registry.load("method", "odd")


TRANSLATORS = "interchange"
"""The room whose files say which method or task of ours computes what another library's does."""


FIELDS = {"ner", "features"}
"""Names of plugins that are also fields of data sets."""


def test_the_engine_names_no_plugin() -> None:
    root = Path(__file__).parents[2]
    names = {name for kind in ("method", "task", "backbone") for name in registry.names(kind)} | {"minilm"}
    names -= {*get_args(PortKind), *get_args(AnswerKind)}  # an embedding is a port too, and spans are answers
    for room in ("engine", "hub"):
        for file in (root / room).rglob("*.py"):
            if file.parent.name == TRANSLATORS:
                continue
            fields = FIELDS if file.is_relative_to(root / "engine" / "data") else set()
            assert not (names - fields) & set(strings(file)), file


def strings(file: Path) -> Iterator[str]:
    """Yield the strings of a module's code; docstrings, whose examples name plugins, are none of it."""
    tree = ast.parse(file.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and described(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def described(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return ast.get_docstring(node, clean=False) is not None


def test_a_plugin_whose_import_takes_long_is_named(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from threading import Event\nEvent().wait(0.5)\n"
    install(site, "acme-sleeps", "1.0", "[adaptdock.backbones]\nsleeps = acme_sleeps:B\n", {"acme_sleeps": code})
    registry.refresh()
    names: list[str] = []
    monkeypatch.setattr(registry, "SLOW_IMPORT", 0.02)
    registry.tell_slow_imports(lambda plugin: names.append(plugin.name))
    try:
        with pytest.raises(PluginError):
            registry.load("backbone", "sleeps")
    finally:
        registry.tell_slow_imports(None)
    assert names == ["sleeps"]
