"""A method of a third party takes part in the interchange by its ability alone, in the file that defines it."""

import re
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
import transformers
from architectures import CONFIGS
from builders import build_adapter
from logits import difference, ours
from peft import PeftModel
from torch import Tensor

from adaptdock.engine.core.loading import load_backbone
from adaptdock.errors import UsageError
from adaptdock.hub.interchange.conversion import export_adapter, import_adapter
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import (
    AdapterHubInterchange,
    Backbone,
    ForwardPass,
    LoadOptions,
    Method,
    Options,
    Parameter,
    PeftInterchange,
    Ports,
    Site,
)
from adaptdock.plugins.toolkit.interchange.peft import PeftAdapter, PeftSource, PeftTarget, place
from adaptdock.plugins.toolkit.interchange.peft_lora import LoraOptions
from adaptdock.plugins.toolkit.interchange.ports import Finder
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

LIMIT = 1e-5
FACTORS = re.compile(r"(?P<module>.+)\.(?P<part>lora_[AB]\.weight)")


class OuterOptions(Options):
    """Options of ``outer``."""

    roles: tuple[str, ...] = ("query", "value")
    """Linear maps to adapt, by role."""


class Outer(Method):
    """Adds the outer product of two vectors to each chosen map: ``out + column (row x)``."""

    Options = OuterOptions
    options: OuterOptions
    peft_types = {"LORA": LoraOptions}

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        return tuple(Site(port) for port in ports.select("linear", self.options.roles))

    def parameters(self, site: Site) -> dict[str, Parameter]:
        return {"row": Parameter((site.port.inputs,)), "column": Parameter((site.port.outputs,))}

    def transform(self, parameters: Mapping[str, Tensor], x: Tensor, out: Tensor, forward_pass: ForwardPass) -> Tensor:
        return out + (x @ parameters["row"].unsqueeze(-1)) * parameters["column"].unsqueeze(1)

    @classmethod
    def from_peft(cls, source: PeftSource[LoraOptions]) -> MethodWeights | None:
        options = source.options
        if options.r != 1 or options.use_dora:
            return None
        finder, tensors = Finder(source.backbone.ports, "an outer product"), {}
        modules = source.tensors.modules(FACTORS)
        for module, port in place(source, modules, finder).items():
            assert port is not None
            group = modules[module]
            row, column = group.take("lora_A.weight")[0], group.take("lora_B.weight")[:, 0] * options.scale(module)
            tensors[port.name] = {"row": row, "column": column}
        return MethodWeights({"roles": tuple(tensors)}, tensors)

    def to_peft(self, target: PeftTarget) -> PeftAdapter:
        paths = {name: target.path(target.port(name)) for name in target.tensors}
        stored = {}
        for name, path in paths.items():
            stored[f"{path}.lora_A.weight"] = target.tensors[name]["row"].unsqueeze(0)
            stored[f"{path}.lora_B.weight"] = target.tensors[name]["column"].unsqueeze(1)
        targets = target.target_modules(list(paths.values()))
        return PeftAdapter({"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": targets}, stored)


@pytest.fixture
def backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """A tiny random BERT, beside which the method is registered as the plugin of another distribution."""
    point = EntryPoint("outer", f"{__name__}:Outer", "adaptdock.adapters")
    plugin = registry.Plugin("method", "outer", point.value, "acme-outer", "1", point)
    installed = (*registry._installed(), plugin)
    monkeypatch.setattr(registry, "_installed", lambda: installed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.BertForTokenClassification(
            transformers.BertConfig(vocab_size=100, num_labels=5, **CONFIGS["bert"])
        )
    model.save_pretrained(tmp_path / "base")
    return load_backbone(str(tmp_path / "base"), LoadOptions(device="cpu"))


def inputs() -> dict[str, Tensor]:
    tokens = torch.randint(4, 100, (3, 9), generator=torch.Generator().manual_seed(3))
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def test_the_method_has_the_ability_and_only_that_of_its_library() -> None:
    assert isinstance(Outer, PeftInterchange)
    assert not isinstance(Outer, AdapterHubInterchange)


def test_it_is_exported_to_the_lora_format_of_peft_and_read_again(tmp_path: Path, backbone: Backbone) -> None:
    adapter = build_adapter(backbone, "outer")
    logits = ours(backbone, adapter, inputs())
    export_adapter(adapter, backbone, tmp_path / "peft", "peft")
    base = transformers.BertForTokenClassification.from_pretrained(tmp_path / "base")
    reference = PeftModel.from_pretrained(base, tmp_path / "peft").eval()
    with torch.no_grad():
        theirs = reference(**inputs()).logits
    assert difference(logits, theirs, inputs()) < LIMIT
    again = import_adapter(tmp_path / "peft", backbone, "again", method="outer").file
    assert [entry.name for entry in again.card.methods] == ["outer"]
    assert difference(ours(backbone, again, inputs()), theirs, inputs()) < LIMIT


def test_a_built_in_method_reads_an_adapter_first_and_a_note_names_the_other_method(
    tmp_path: Path, backbone: Backbone
) -> None:
    export_adapter(build_adapter(backbone, "outer"), backbone, tmp_path / "peft", "peft")
    imported = import_adapter(tmp_path / "peft", backbone, "again")
    assert [entry.name for entry in imported.file.card.methods] == ["lora"]
    assert [note for note in imported.notes if "--method" in note] == [
        "the adapter is read as lora; --method reads it as outer"
    ]


def test_a_method_that_cannot_read_the_adapter_is_refused_with_the_reason(tmp_path: Path, backbone: Backbone) -> None:
    folder = tmp_path / "peft"
    export_adapter(build_adapter(backbone, "lora", {"rank": 2}), backbone, folder, "peft")
    with pytest.raises(UsageError, match=r"its options are read by none of outer"):
        import_adapter(folder, backbone, "again", method="outer")
    with pytest.raises(UsageError, match=r"'norms' has no counterpart in peft; these methods have: .*lora.*outer"):
        import_adapter(folder, backbone, "again", method="norms")


def test_no_built_in_method_has_half_of_an_ability() -> None:
    for _, method in registry.usable("method"):
        for ability, names in ((PeftInterchange, "peft"), (AdapterHubInterchange, "adapterhub")):
            parts = [
                hasattr(method, f"{front}{names}{back}") for front, back in (("from_", ""), ("to_", ""), ("", "_types"))
            ]
            assert all(parts) == any(parts) == isinstance(method, ability), method
