"""The example plugins: small, true to their papers, and installed from wheels into an environment of their own."""

import json
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from environments import Environment, environment
from models import tiny_bert

from adaptdock.engine.conformance import Check, checks
from adaptdock.engine.core.assembly import make_method
from adaptdock.engine.core.loading import load_backbone
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, ForwardPass, LoadOptions

EXAMPLES = Path(__file__).parent.parent / "examples" / "plugins"
KINDS = {group: kind for kind, group in registry.GROUPS.items()}


def project(name: str) -> tuple[registry.Kind, EntryPoint]:
    """Return the kind and the entry point of an example, from its project file."""
    made = tomllib.loads((EXAMPLES / name / "pyproject.toml").read_text())
    ((group, points),) = made["project"]["entry-points"].items()
    ((point, value),) = points.items()
    return KINDS[group], EntryPoint(point, value, group)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Register the examples from their source folders."""
    found = []
    for folder in sorted(EXAMPLES.iterdir()):
        kind, point = project(folder.name)
        monkeypatch.syspath_prepend(folder / "src")
        found.append(registry.Plugin(kind, point.name, point.value, f"adaptdock-{folder.name}", "0.1.0", point))
    installed = (*registry._installed(), *found)
    monkeypatch.setattr(registry, "_installed", lambda: installed)
    yield
    for name in [name for name in sys.modules if name.startswith(("adaptdock_vera", "adaptdock_keyphrase"))]:
        del sys.modules[name]


def test_the_method_takes_fewer_than_80_lines_and_nothing_else() -> None:
    files = [file for file in (EXAMPLES / "vera" / "src").rglob("*.py") if file.name != "__init__.py"]
    assert [file.name for file in files] == ["vera.py"]
    assert len(files[0].read_text().splitlines()) < 80


@pytest.mark.parametrize("name", sorted(folder.name for folder in EXAMPLES.iterdir()))
def test_an_example_keeps_to_its_contract(name: str) -> None:
    kind, point = project(name)
    failed = [one for one in (check.outcome() for check in checks(kind, point.name)) if one.verdict == "failed"]
    assert failed == []


def test_a_check_that_fails_says_so_to_pytest() -> None:
    with pytest.raises(Exception, match="it cannot be: ValueError: because"):
        Check("it cannot be", lambda: (_ for _ in ()).throw(ValueError("because")))()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of peft
def test_vera_computes_what_peft_does(backbone: Backbone, tmp_path: Path) -> None:
    from peft import VeraConfig, get_peft_model

    method = make_method("vera", {"rank": 6, "roles": ["query"]})
    model = load_backbone(str(tiny_bert(tmp_path / "model")), LoadOptions(device="cpu")).model
    config = VeraConfig(r=6, target_modules=["query"], projection_prng_key=0, d_initial=0.1)
    theirs = get_peft_model(model, config).base_model.model.encoder.layer[0].attention.self.query
    with torch.no_grad():
        theirs.vera_lambda_b["default"].normal_()
        theirs.vera_lambda_d["default"].normal_()
    (site, *_) = method.sites(backbone.ports)
    learnt = {"d": theirs.vera_lambda_d["default"].detach(), "b": theirs.vera_lambda_b["default"].detach()}
    sys.modules[type(method).__module__].matrices = lambda *_: (
        theirs.vera_A["default"].detach(),
        theirs.vera_B["default"].detach(),
    )
    x = torch.randn(2, 5, 32)
    bare = theirs.base_layer(x)
    folded = {name: tensor.unsqueeze(0) for name, tensor in method.fold(site, learnt, backbone).items()}
    mine = method.transform(folded, x, bare.clone(), ForwardPass(1))
    torch.testing.assert_close(mine, theirs(x), atol=1e-5, rtol=0)
    assert not torch.allclose(mine, bare, atol=1e-3)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment in which the examples are installed from wheels."""
    folder = tmp_path_factory.mktemp("environment")
    made = environment(folder / "env")
    made.run(f"pip wheel --wheel-dir dist {' '.join(str(path) for path in EXAMPLES.iterdir())}", folder)
    made.run("pip install dist/*.whl", folder)
    return made


@pytest.mark.slow
def test_the_examples_are_installed_from_wheels_and_used(
    wheels: Environment, tmp_path: Path, model_folder: Path
) -> None:
    plugins = json.loads(wheels.run("adapt plugins --json", tmp_path).stdout)
    theirs = {(row["kind"], row["name"]): row["distribution"] for row in plugins if row["distribution"] != "adaptdock"}
    assert theirs == {
        ("method", "vera"): "adaptdock-vera",
        ("task", "keyphrase"): "adaptdock-keyphrase",
        ("files", "topics"): "adaptdock-topics",
    }
    training = f"--backbone {model_folder} --precision fp32 --epochs 1"
    wheels.run(f"adapt train --task keyphrase --method vera {training} -o both.safetensors", tmp_path)
    card = json.loads(wheels.run("adapt inspect both.safetensors --json", tmp_path).stdout)["card"]
    assert [card["task"]["distribution"], card["methods"][0]["distribution"]] == [
        "adaptdock-keyphrase",
        "adaptdock-vera",
    ]
    answer = json.loads(wheels.run("adapt predict both.safetensors --json 'Wind farms need storage.'", tmp_path).stdout)
    assert answer["text"] == "Wind farms need storage."
    (row,) = json.loads(wheels.run("adapt list --json", tmp_path).stdout)
    assert (row["name"], row["distribution"]) == ("topics", "adaptdock-topics")
    assert str(wheels.folder) in row["path"]
    assert (
        "food" in wheels.run("adapt predict topics 'We ate fried fish and onion soup at the market.'", tmp_path).stdout
    )
    measured = json.loads(wheels.run("adapt eval topics --json", tmp_path).stdout)
    assert measured["metrics"]["accuracy"] > 80


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vera", "keyphrase", "topics"])
def test_an_installed_example_passes_adapt_plugin_check(wheels: Environment, tmp_path: Path, name: str) -> None:
    assert " 0 failed" in wheels.run(f"adapt plugin check {name}", tmp_path).stderr
