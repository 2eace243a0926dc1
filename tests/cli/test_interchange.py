"""``adapt import`` and ``adapt export``."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft_adapters import adapter_folder, base_model, case

from adaptdock.hub.artefact.file import AdapterFile, read_card, read_file, write_file

FIXTURES = Path(__file__).parent.parent / "hub" / "fixtures" / "adapterhub"
BASE = FIXTURES / "base_bert"
Adapt = Callable[..., Any]


@pytest.mark.parametrize("form", ["peft", "adapterhub"])
def test_an_adapter_is_imported_inspected_exported_and_imported_again(adapt: Adapt, tmp_path: Path, form: str) -> None:
    done = adapt("import", FIXTURES / "lora", "--backbone", BASE, "-o", "lora.safetensors", "--name", "mood", "--json")
    assert done.status == 0, done
    assert json.loads(done.out)["card"]["name"] == "mood"
    card = read_card(tmp_path / "lora.safetensors")
    assert card.training["imported"]["library"] == "adapters"
    assert "mood" in adapt("inspect", "lora.safetensors").out
    written = adapt("export", "lora.safetensors", "--to", "out", "--format", form)
    assert written.status == 0, written
    adapt("export", "lora.safetensors", "--to", "out", "--format", form).failed(2, "--overwrite")
    assert adapt("export", "lora.safetensors", "--to", "out", "--format", form, "--overwrite").status == 0
    done = adapt("import", "out", "--backbone", BASE, "-o", "again.safetensors")
    assert done.status == 0, done
    assert read_card(tmp_path / "again.safetensors").methods == card.methods


def test_a_method_that_the_other_library_lacks_is_refused_and_nothing_is_written(adapt: Adapt, tmp_path: Path) -> None:
    assert adapt("import", FIXTURES / "double", "--backbone", BASE, "-o", "x.safetensors").status == 0
    adapt("export", "x.safetensors", "--to", "out").failed(2, "bottleneck", "peft")
    assert not (tmp_path / "out").exists()


def test_the_method_that_reads_an_adapter_can_be_named(adapt: Adapt, tmp_path: Path) -> None:
    source = (FIXTURES / "lora", "--backbone", BASE, "-o", "x.safetensors")
    adapt("import", *source, "--method", "norms").failed(2, "'norms' has no counterpart in AdapterHub", "bottleneck")
    adapt("import", *source, "--method", "dora").failed(2, "its options are read by none of dora")
    assert not (tmp_path / "x.safetensors").exists()
    assert adapt("import", *source, "--method", "lora").status == 0


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["inv_gpt2"], 2, "an adapter for gpt2"),
        (["nothing"], 1, "no such folder"),
        (["seqbn", "--labels", "a,b"], 2, "3 classes"),
    ],
)
def test_a_bad_source_is_told_in_one_paragraph_and_leaves_no_file(
    adapt: Adapt, tmp_path: Path, arguments: list[str], status: int, said: str
) -> None:
    source, *more = arguments
    adapt("import", FIXTURES / source, "--backbone", BASE, "-o", "x.safetensors", *more).failed(status, said)
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"alpha": None}, 1, "'config.alpha': it is null"),
        ({"r": 0}, 1, "'config.r': it is 0"),
        ({"r": 8}, 2, "r is 8"),
        ({"attn_matrices": ["q"]}, 2, "attn_matrices is ['q']"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_told_in_one_paragraph(
    adapt: Adapt, tmp_path: Path, changes: dict[str, Any], status: int, said: str
) -> None:
    shutil.copytree(FIXTURES / "lora", tmp_path / "lora")
    config = tmp_path / "lora" / "adapter_config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "config": {**values["config"], **changes}}))
    adapt("import", "lora", "--backbone", BASE, "-o", "x.safetensors").failed(status, said)
    assert not (tmp_path / "x.safetensors").exists()


def test_a_folder_of_other_things_is_not_replaced(adapt: Adapt, tmp_path: Path) -> None:
    assert adapt("import", FIXTURES / "lora", "--backbone", BASE, "-o", "x.safetensors").status == 0
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    adapt("export", "x.safetensors", "--to", "out", "--overwrite").failed(2, "holds no exported adapter")
    assert (tmp_path / "out" / "thesis.txt").exists()
    adapt("import", FIXTURES / "lora", "--backbone", BASE, "-o", "x.safetensors").failed(2, "exists already")


def test_texts_need_a_tokenizer_and_the_error_says_so(adapt: Adapt) -> None:
    assert adapt("import", FIXTURES / "lora", "--backbone", BASE, "-o", "x.safetensors").status == 0
    adapt("predict", "x.safetensors", "a text").failed(1, "has no tokenizer")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning", "ignore::UserWarning")
def test_an_import_through_the_library_is_compared_and_a_large_file_is_asked_for(adapt: Adapt, tmp_path: Path) -> None:
    base = base_model(tmp_path, "bert", "SEQ_CLS")
    folder = adapter_folder(
        case("OFT", "bert", "SEQ_CLS", "", target_modules=["query"], bias="oft_only"), base, tmp_path / "oft"
    )
    refused = adapt("import", folder, "--backbone", base, "-o", "oft.safetensors", "--largest", "0.001")
    refused.failed(2, "0.0131 MB", "--largest")
    assert not (tmp_path / "oft.safetensors").exists()
    advice = refused.err.rpartition("--largest ")[2].split()[0]
    done = adapt("import", folder, "--backbone", base, "-o", "oft.safetensors", "--largest", advice)
    assert done.status == 0, done
    assert "compared  logits differ from peft's by at most" in done.out
    assert "stored as full" in done.err
    lora = adapter_folder(case("LORA", "bert", "SEQ_CLS", "", target_modules=["query"]), base, tmp_path / "lora")
    plain = adapt("import", lora, "--backbone", base, "-o", "lora.safetensors")
    assert "compared" not in plain.out
    checked = adapt("import", lora, "--backbone", base, "-o", "lora.safetensors", "--check", "--overwrite")
    assert "compared" in checked.out
    hub = adapt("import", FIXTURES / "lora", "--backbone", BASE, "-o", "hub.safetensors", "--check")
    hub.failed(2, "only adapters of peft can be compared")


def test_a_folder_of_adapters_is_imported_with_a_table(adapt: Adapt, tmp_path: Path) -> None:
    for name in ("lora", "unipelt", "prompt"):
        shutil.copytree(FIXTURES / name, tmp_path / "all" / name)
    shutil.copytree(FIXTURES.parent / "adapterhub_setups" / "stack", tmp_path / "all" / "stack")
    (tmp_path / "all" / "notes").mkdir()
    done = adapt("import", "all", "--backbone", BASE, "-o", "files")
    assert done.status == 1
    assert [line.split()[0] for line in done.out.splitlines()[1:]] == ["lora", "prompt", "stack", "unipelt"]
    assert "bottleneck and gated-lora and prefix" in done.out
    assert "prompt: the architecture prompt_tuning" in done.err
    assert "1 of 4 adapters are refused" in done.err
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == [
        f"{name}.safetensors" for name in ("lora", "stack", "unipelt")
    ]
    again = adapt("import", "all", "--backbone", BASE, "-o", "files", "--json")
    rows = json.loads(again.out)["adapters"]
    assert (again.status, [row["result"] for row in rows]) == (1, ["refused"] * 4)
    assert "--overwrite" in rows[0]["error"]
    shutil.rmtree(tmp_path / "all" / "prompt")
    assert adapt("import", "all", "--backbone", BASE, "-o", "files", "--overwrite").status == 0
    adapt("import", "all", "--backbone", BASE, "-o", "files", "--name", "x").failed(2, "--name names one adapter")
    (tmp_path / "file").write_text("")
    adapt("import", "all", "--backbone", BASE, "-o", "file").failed(2, "--output names a folder")


def test_an_adapter_that_changes_nothing_is_exported_with_its_head_and_a_remark_or_not_at_all(
    adapt: Adapt, tmp_path: Path
) -> None:
    assert adapt("import", FIXTURES / "lora", "--backbone", BASE, "-o", "lora.safetensors").status == 0
    adapter = read_file(tmp_path / "lora.safetensors")
    still = {name: tensor.zero_() if name.endswith("lora_b") else tensor for name, tensor in adapter.tensors.items()}
    card = adapter.card.model_copy(update={"probes": None})
    write_file(tmp_path / "still.safetensors", AdapterFile(card, still))
    adapt("export", "still.safetensors", "--to", "out", "--without-head").failed(2, "lora changes nothing", "head")
    assert not (tmp_path / "out").exists()
    exported = adapt("export", "still.safetensors", "--to", "out")
    assert exported.status == 0, exported
    assert "lora changes nothing: all that this adapter has learnt is in its head" in exported.err
