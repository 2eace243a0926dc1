"""The checks of every plugin: discovery without import, version of the contracts, sound options."""

import json
import subprocess
import sys
from functools import partial
from typing import Any

from pydantic import ValidationError

from adaptdock.engine.conformance.check import Check, expect
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import API_VERSION, Options
from adaptdock.plugins.registry import Kind

DISCOVERY = """
import json, sys
from adaptdock.plugins import registry
registry.discover()
print(json.dumps([name for name in sys.argv[1:] if name in sys.modules]))
"""
HEAVY = ("torch", "transformers")


def common_checks(kind: Kind, name: str) -> list[Check]:
    """Return the checks that are the same for plugins of one kind."""
    checks = [Check("it is found without being imported, and nothing heavy is", partial(_discovered, kind, name))]
    checks.append(Check("it can be imported, and is of its kind", lambda: registry.load(kind, name)))
    if kind != "files":
        checks.append(Check("it is built for this version of the contracts", partial(_version, kind, name)))
    if kind in ("method", "task"):
        checks.append(Check("its options have defaults, words and a JSON form", partial(_options, kind, name)))
    return checks


def _discovered(kind: Kind, name: str) -> None:
    plugin = registry.find(kind, name)
    package = plugin.entry_point.module.partition(".")[0]
    modules = [*HEAVY, plugin.entry_point.module, *([package] if package != "adaptdock" else [])]
    # In a new process: this one has imported torch and the plugin already.
    process = subprocess.run([sys.executable, "-c", DISCOVERY, *modules], capture_output=True, text=True, check=False)
    expect(process.returncode == 0, f"discovery ended with {process.returncode}: {process.stderr.strip()[-300:]}")
    loaded = json.loads(process.stdout.splitlines()[-1])
    expect(not loaded, f"discovery alone imports {', '.join(loaded)}: does the distribution install a .pth file?")


def _version(kind: Kind, name: str) -> None:
    declared = getattr(registry.load(kind, name), "api_version", None)
    expect(declared == API_VERSION, f"it declares api_version {declared}; this is version {API_VERSION}")


def _options(kind: Kind, name: str) -> None:
    model = getattr(registry.load(kind, name), "Options", None)
    is_model = isinstance(model, type) and issubclass(model, Options)
    expect(is_model, "it has no class Options derived from Options of the contracts")
    assert model is not None
    required = [field for field, info in model.model_fields.items() if info.is_required()]
    expect(not required, f"the options {required} have no default, so every user would have to set them")
    silent = [field for field, info in model.model_fields.items() if not (info.description or "").strip()]
    expect(not silent, f"the options {silent} have no docstring, so --help could not explain them")
    defaults = model()
    reread: Any = model.model_validate(json.loads(defaults.model_dump_json()))
    expect(reread == defaults, "options that went through JSON, as in a card, are no longer the same")
    try:
        model.model_validate({"no_such_option": 1})
    except ValidationError:
        return
    expect(False, "an option that does not exist is accepted; extra fields have to be forbidden")
