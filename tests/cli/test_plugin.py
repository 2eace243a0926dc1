"""``adapt plugin`` and ``adapt list``: projects written, plugins checked, installed adapters used by name."""

import json
import sys
from pathlib import Path

import pytest
from builders import build_adapter

from adaptdock.hub.artefact.file import write_file
from adaptdock.hub.scaffold.project import checked, write_project
from adaptdock.plugins import registry

METHOD = "[adaptdock.adapters]\n{0} = {1}:{2}\n"


@pytest.fixture
def mutant(distribution, tmp_path):
    """Install the method that a new project begins with, one line of it changed."""
    write_project(checked("method", "gain"), tmp_path / "project")
    code = (tmp_path / "project/src/adaptdock_gain/gain.py").read_text()

    def install(old: str = "", new: str = "") -> None:
        assert old in code
        distribution("acme-gain", METHOD.format("gain", "acme_gain", "Gain"), code.replace(old, new))

    return install


def verdicts(ran) -> dict[str, str]:
    return {row["check"]: row["verdict"] for row in json.loads(ran.out)}


def failures(ran) -> dict[str, str]:
    return {row["check"]: row["reason"] for row in json.loads(ran.out) if row["verdict"] == "failed"}


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    """Let each test have nothing installed, and import the plugin of its own distribution."""
    monkeypatch.setenv("ADAPTDOCK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ADAPTDOCK_SOURCES", str(tmp_path))  # without the adapters of the package's own index
    yield
    for name in [name for name in sys.modules if name.startswith("acme_")]:
        del sys.modules[name]


def test_new_writes_a_project_and_says_what_comes_next(adapt):
    ran = adapt("plugin", "new", "method", "my-gain")
    assert ran.status == 0
    assert "adaptdock-my-gain/pyproject.toml" in ran.out.splitlines()
    assert all(Path(line).is_file() for line in ran.out.splitlines())
    assert "pip install -e adaptdock-my-gain; adapt plugin check my-gain" in ran.err
    adapt("plugin", "new", "method", "my-gain").failed(2, "is there already", "--folder")


def test_new_refuses_an_unknown_kind_and_a_bad_name(adapt):
    adapt("plugin", "new", "methods", "gain").failed(2, "did you mean method?")
    adapt("plugin", "new", "task", "Bad Name").failed(2, "'bad-name' would do")


def test_the_method_of_a_new_project_passes_every_check(adapt, mutant):
    mutant()
    ran = adapt("plugin", "check", "gain", "--json")
    assert ran.status == 0, failures(ran)
    left_out = {row["check"]: row["reason"] for row in json.loads(ran.out) if row["verdict"] == "left out"}
    assert set(left_out.values()) == {f"it has no function {name}" for name in ("merge", "penalty", "after_step")}
    assert len(verdicts(ran)) - len(left_out) > 15


@pytest.mark.parametrize(
    ("old", "new", "caught"),
    [
        ("return out + out *", "return 1 + out + out *", "untrained it leaves"),
        ("return out + out *", "return out + 0 * out *", "every weight that is trained"),
        ("return out + out *", "return out + self.options.scale * out *", "in a mixed batch"),
        ("return out + out *", "out *= 1.5\n        return out + out *", "untrained it leaves"),
        ('"shift": Parameter((site.port.outputs,))', '"shift": Parameter((3,))', "with other weights"),
        ('    """Multiplies gain and shift."""\n', "", "its options have defaults, words"),
        ("scale: float = Field(1.0, gt=0)", "scale: float = Field(gt=0)", "its options have defaults, words"),
        ("class Gain(Method):\n", "class Gain(Method):\n    api_version = 7\n", "it can be imported"),
        ("from torch import Tensor\n", "from torch import Tensor, no_such_thing\n", "it can be imported"),
    ],
)
def test_what_is_wrong_with_a_method_is_found_by_the_check_for_it(adapt, mutant, old, new, caught):
    mutant(old, new)
    ran = adapt("plugin", "check", "gain", "--json")
    found = failures(ran)
    assert ran.status == 1
    assert any(caught in title for title in found), found
    assert all(found.values())


def test_the_table_shows_a_failure_with_its_reason(adapt, mutant):
    mutant("class Gain(Method):\n", "class Gain(Method):\n    api_version = 7\n")
    ran = adapt("plugin", "check", "gain")
    assert ran.status == 1
    assert any(line.startswith("FAIL") and "built for version 7" in line for line in ran.out.splitlines())
    assert " failed," in ran.err


def test_an_unknown_plugin_offers_the_nearest(adapt):
    adapt("plugin", "check", "lorra").failed(2, "did you mean lora")
    adapt("plugin", "check", "ner", "--kind", "method").failed(2, "unknown method 'ner'")
    adapt("plugin", "check", "lora", "--model", "x").failed(2, "--model is for a backbone family")


@pytest.fixture
def people(distribution, tmp_path, backbone, model_folder):
    """Install a distribution with an adapter for the tiny backbone."""
    (tmp_path / "acme_files").mkdir()
    write_file(tmp_path / "acme_files/people.safetensors", build_adapter(backbone, "lora", name="card-name"))
    distribution("acme-people", "[adaptdock.files]\npeople = acme_files\n", "raise RuntimeError")
    return tmp_path / "acme_files/people.safetensors"


def test_an_installed_adapter_is_listed_and_stands_wherever_a_file_could(adapt, people, data):
    (row,) = json.loads(adapt("list", "--json").out)
    assert row == {"name": "people", "distribution": "acme-people", "version": "1.0", "path": str(people)}
    assert adapt("list").out.splitlines()[1].split()[0] == "people"
    assert json.loads(adapt("inspect", "people", "--json").out)["card"]["name"] == "card-name"
    by_name, by_path = adapt("predict", "people", "ada in rome"), adapt("predict", people, "ada in rome")
    assert by_name.status == 0
    assert by_name.out == by_path.out
    assert adapt("eval", "people", "--data", data).status == 0


def test_an_unknown_adapter_offers_the_nearest_for_every_command(adapt, people):
    for command in ("inspect", "predict", "eval"):
        adapt(command, "poeple").failed(2, "did you mean people?", "adapt list")


def test_adapter_files_pass_their_checks_and_damaged_ones_do_not(adapt, people):
    ran = adapt("plugin", "check", "people", "--json")
    assert ran.status == 0, failures(ran)
    assert any("checksum" in title for title in verdicts(ran))
    blob = bytearray(people.read_bytes())
    blob[-1] ^= 1
    people.write_bytes(blob)
    (people.parent / "helper.py").write_text("")
    found = failures(adapt("plugin", "check", "people", "--json"))
    assert "damaged" in found["people.safetensors: its content matches its checksum, its card is valid"]
    assert "helper.py" in found["its folder holds no code and no pickles"]


def test_files_that_lead_nowhere_are_told_by_list_and_break_nothing(adapt, people, distribution):
    distribution("lost-adapters", "[adaptdock.files]\nlost = acme_lost_files\n", "")
    ran = adapt("list")
    assert ran.status == 0
    assert "people" in ran.out
    assert "lost-adapters 1.0 cannot be used" in ran.err
    assert registry.names("files") == ["lost", "people"]
