"""Adapters of peft whose effect is a fixed change of weights are imported through the library, to the logit."""

from pathlib import Path

import pytest
import torch
from logits import difference, ours
from peft import PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft_adapters import LIMIT, OPTIONS, TYPES, Case, adapter_folder, base_model, batch, case, load, theirs

from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.docking_trial import compare
from adaptdock.errors import MismatchError, UsageError
from adaptdock.hub.interchange.conversion import import_adapter, library_result
from adaptdock.hub.interchange.incoming import Imported
from adaptdock.hub.interchange.peft_library import UNFIXED
from adaptdock.plugins.contracts import Backbone, LoadOptions
from adaptdock.plugins.toolkit.interchange.changes import low_rank

pytestmark = [
    pytest.mark.filterwarnings("ignore:Could not find a config file in:UserWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]
DIRECT = {
    *("LORA", "IA3", "PREFIX_TUNING", "CARTRIDGE", "PROMPT_TUNING", "P_TUNING", "CPT", "MULTITASK_PROMPT_TUNING"),
}
"""Types that a method reads by itself; the other tests have them."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


@pytest.fixture(scope="module")
def backbones() -> dict[Path, Backbone]:
    return {}


def imported(case: Case, folder: Path, bases: Path, backbones: dict[Path, Backbone]) -> tuple[Backbone, Imported]:
    """Import an adapter, and compare it with the real library on another batch than the import does."""
    base = base_model(bases, case.architecture, case.task)
    adapter_folder(case, base, folder)
    reference = PeftModel.from_pretrained(load(base, case.task), folder)
    inputs = batch(reference.get_base_model())
    wanted, bare = theirs(reference, inputs), theirs(load(base, case.task), inputs)
    backbone = backbones.setdefault(base, load_backbone(str(base), LoadOptions(device="cpu")))
    result = import_adapter(folder, backbone, "theirs")
    assert (wanted - bare).abs().max() > 1e-3  # the adapter does something
    if case.task == "FEATURE_EXTRACTION":  # the head's mean of the states
        weights = inputs["attention_mask"].unsqueeze(-1)
        wanted = (wanted * weights).sum(1) / weights.sum(1)
    assert difference(ours(backbone, result.file, inputs), wanted, inputs) < LIMIT
    return backbone, result


def test_every_type_of_the_installed_peft_is_read_or_refused_by_name() -> None:
    kinds = {kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
    assert kinds - {"BONE"} == DIRECT | TYPES.keys() | UNFIXED.keys()


@pytest.mark.parametrize("kind", TYPES)
def test_a_fixed_change_of_weights_is_imported_to_the_logit(
    kind: str, tmp_path: Path, bases: Path, backbones: dict[Path, Backbone]
) -> None:
    backbone, result = imported(case(kind, "bert", "SEQ_CLS", "", **TYPES[kind]), tmp_path, bases, backbones)
    reference = result.reference or library_result(tmp_path, backbone)
    assert compare(Dock(backbone), result.file, reference) < LIMIT


@pytest.mark.parametrize("case", OPTIONS, ids=str)
def test_options_and_saved_modules_are_stored_by_the_method_with_the_fewest_numbers(
    case: Case, tmp_path: Path, bases: Path, backbones: dict[Path, Backbone]
) -> None:
    _, result = imported(case, tmp_path, bases, backbones)
    assert sorted(method.name for method in result.file.card.methods) == case.method.split(",")


def test_an_import_that_differs_from_the_library_is_refused(
    tmp_path: Path, bases: Path, backbones: dict[Path, Backbone]
) -> None:
    backbone, result = imported(
        case("HIRA", "bert", "SEQ_CLS", "", target_modules=["query"]), tmp_path, bases, backbones
    )
    assert result.reference is not None
    result.file.tensors["layers.0.query.weight_change"].mul_(2)
    with pytest.raises(MismatchError, match="differs from the library"):
        compare(Dock(backbone), result.file, result.reference)


@pytest.mark.parametrize(
    "case",
    [
        case("LORA", "bert", "SEQ_CLS", "", target_modules=["query"]),
        case("IA3", "bert", "SEQ_CLS", "", target_modules=["query"], feedforward_modules=[]),
        case("PROMPT_TUNING", "bert", "SEQ_CLS", "", num_virtual_tokens=3),
        case("PREFIX_TUNING", "llama", "CAUSAL_LM", "", num_virtual_tokens=3),
        case("CARTRIDGE", "llama", "CAUSAL_LM", "", num_virtual_tokens=3, num_frozen_tokens=1),
        case("MULTITASK_PROMPT_TUNING", "bert", "SEQ_CLS", "", num_virtual_tokens=3, num_ranks=2),
        case(
            *("CPT", "llama", "CAUSAL_LM", ""),
            cpt_token_ids=[5, 6, 7],
            cpt_mask=[1, 1, 1],
            cpt_tokens_type_mask=[1, 2, 3],
        ),
    ],
    ids=str,
)
def test_an_adapter_that_a_method_reads_can_be_compared_with_the_library(
    case: Case, tmp_path: Path, bases: Path, backbones: dict[Path, Backbone]
) -> None:
    base = base_model(bases, case.architecture, case.task)
    adapter_folder(case, base, tmp_path)
    backbone = backbones.setdefault(base, load_backbone(str(base), LoadOptions(device="cpu")))
    result = import_adapter(tmp_path, backbone, "theirs")
    assert compare(Dock(backbone), result.file, library_result(tmp_path, backbone)) < LIMIT


@pytest.mark.parametrize("rank", [1, 5, 20, 40])
def test_factors_have_the_rank_of_the_matrix_and_its_values(rank: int) -> None:
    generator = torch.Generator().manual_seed(rank)
    up, down = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((90, rank), (rank, 120)))
    factors = low_rank(up @ down)
    assert factors is not None
    assert [factor.shape for factor in factors] == [(90, rank), (rank, 120)]
    torch.testing.assert_close(factors[0] @ factors[1], (up @ down).float(), rtol=1e-4, atol=1e-4)


def test_a_matrix_of_full_rank_has_no_factors() -> None:
    assert low_rank(torch.randn(40, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)) is None


def test_a_change_at_a_place_without_a_port_is_refused_with_the_reason(
    tmp_path: Path, bases: Path, backbones: dict[Path, Backbone]
) -> None:
    saved = case("LORA", "gpt2", "CAUSAL_LM", "", target_modules=["c_attn"], modules_to_save=["wpe"])
    with pytest.raises(UsageError, match=r"wpe.* cannot be carried over"):
        imported(saved, tmp_path, bases, backbones)


def test_an_untrained_adapter_is_refused_with_the_reason(
    tmp_path: Path, bases: Path, backbones: dict[Path, Backbone]
) -> None:
    untrained = case("MISS", "bert", "SEQ_CLS", "", target_modules=["query"], r=8)
    base = base_model(bases, "bert", "SEQ_CLS")
    get_peft_model(load(base, "SEQ_CLS"), untrained.config(task_type="SEQ_CLS", **untrained.options)).save_pretrained(
        tmp_path
    )
    backbone = backbones.setdefault(base, load_backbone(str(base), LoadOptions(device="cpu")))
    with pytest.raises(UsageError, match="saved untrained"):
        import_adapter(tmp_path, backbone, "theirs")
