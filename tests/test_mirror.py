"""Every module has a test: one of its name, one that imports it, or one that the table below names.

tests/ mirrors the rooms: the test of ``engine/core/slots.py`` is ``tests/engine/core/test_slots.py``.
"""

import ast
import importlib.util
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
TESTED_BY = {
    "adapters.boft": "hub/interchange/test_peft",
    "adapters.gated_lora": "hub/interchange/test_adapterhub",
    "adapters.interchange.*": "hub/interchange/test_peft",
    "adapters.oft": "hub/interchange/test_peft",
    "adapters.prefix": "plugins/test_conformance",
    "adapters.unipelt": "hub/interchange/test_adapterhub",
    "adapters.vera": "hub/interchange/test_peft",
    "backbones.recurrent.*": "backbones/test_elmo",
    "backbones.transformers.*": "backbones/test_huggingface",
    "cli.common.auto_install": "cli/test_registry",
    "cli.common.backbone": "cli/test_predict",
    "cli.common.completion": "cli/test_completion",
    "cli.common.config": "cli/test_train",
    "cli.common.conversions": "cli/test_interchange",
    "cli.common.data_checks": "cli/test_data",
    "cli.common.labelled_data": "cli/test_eval",
    "cli.common.library_warnings": "cli/test_app",
    "cli.common.output": "cli/test_hostile_text",
    "cli.common.parameters": "cli/test_app",
    "cli.common.records": "cli/test_data",
    "cli.common.registry_options": "cli/test_registry",
    "cli.export": "cli/test_interchange",
    "cli.import_": "cli/test_interchange",
    "cli.info": "cli/test_registry",
    "cli.install": "cli/test_registry",
    "cli.installed": "cli/test_registry",
    "cli.key": "cli/test_registry",
    "cli.publish": "cli/test_registry",
    "cli.push": "cli/test_remote",
    "cli.sign": "hub/registry/test_provenance",
    "cli.remove": "cli/test_registry",
    "cli.refresh": "cli/test_registry",
    "cli.revoke": "cli/test_registry",
    "cli.search": "cli/test_registry",
    "cli.training.*": "cli/test_train",
    "cli.trust": "cli/test_registry",
    "cli.update": "cli/test_registry",
    "cli.yank": "cli/test_registry",
    "engine.conformance.*": "plugins/test_conformance",
    "engine.core.position_layouts": "engine/core/test_wirings",
    "engine.data.annotations": "engine/data/spans/test_tools",
    "engine.data.columns": "engine/data/test_class_columns",
    "engine.data.confirmation": "cli/test_label",
    "engine.data.content": "engine/data/test_formats",
    "engine.data.file_lists": "engine/data/test_folders",
    "engine.data.record_ids": "engine/data/test_sources",
    "engine.data.spans.*": "engine/data/spans/test_exports",
    "engine.evaluation.comparison": "cli/test_compare",
    "engine.inference.labelling": "cli/common/test_labelling",
    "engine.inference.parts": "cli/common/test_labelling",
    "engine.evaluation.head_vectors": "engine/evaluation/test_frozen_checks",
    "engine.inference.prediction": "engine/inference/test_dock",
    "engine.inference.window_lengths": "cli/test_data",
    "engine.search.sweep_report": "cli/test_sweep",
    "engine.training.heads.fittable_heads": "engine/training/heads/test_head_fit",
    "engine.training.members.numbered_units": "engine/training/planning/test_run_plan",
    "engine.training.members.validation": "engine/training/members/test_shared_layers",
    "engine.training.members.memory": "engine/search/test_sweep",
    "engine.training.repeats.complete_runs": "engine/training/repeats/test_self_training",
    "engine.training.planning.recorded_arguments": "cli/test_rebuild",
    "engine.training.loop.run_folders": "engine/training/loop/test_run",
    "hub.interchange.adapterhub_*": "hub/interchange/test_adapterhub",
    "hub.interchange.*": "hub/interchange/test_peft",
    "hub.artefact.training_record": "cli/test_rebuild",
    "hub.registry.*": "hub/registry/test_store",
    "plugins.arguments": "engine/inference/test_arguments",
    "plugins.files": "hub/registry/test_installed",
    "plugins.method_abilities": "plugins/test_conformance",
    "plugins.outcomes": "tasks/common/test_outcomes",
    "plugins.toolkit.batched_linear": "adapters/test_dora",
    "plugins.toolkit.interchange.*": "plugins/toolkit/test_interchange",
    "plugins.toolkit.learning_rates": "plugins/test_conformance",
    "plugins.toolkit.lowrank": "adapters/test_dora",
    "plugins.toolkit.text_gates": "hub/interchange/test_adapterhub",
    "plugins.toolkit.marked_words": "test_examples",
    "plugins.sequences": "engine/inference/test_arguments",
    "plugins.*": "plugins/test_contracts",
    "serving.catalog.*": "serving/catalog/test_swapping",
    "serving.client.responses": "serving/client/test_client",
    "serving.http.authorization": "serving/http/test_access_tokens",
    "serving.http.*": "serving/http/test_operator_routes",
    "serving.scheduling.mirroring": "serving/catalog/test_swapping",
    "serving.scheduling.decode_scheduler": "serving/http/test_openai_routes",
    "serving.ray_router": "serving/test_ray",
    "serving.versions": "serving/catalog/test_version_store",
    "tasks.intent": "tasks/common/test_sequences",
    "tasks.labels.class_metrics": "tasks/labels/test_out_of_scope",
    "tasks.labels.classification_options": "tasks/labels/test_out_of_scope",
    "tasks.labels.label_survey": "tasks/labels/test_uncounted",
    "tasks.labels.label_lists": "tasks/labels/test_class_labels",
    "tasks.ranking.candidate_formats": "tasks/test_rerank",
    "tasks.reading.choice_formats": "tasks/test_choice",
    "tasks.sentiment": "tasks/common/test_sequences",
    "tasks.spam": "tasks/common/test_sequences",
    "tasks.tagging.*": "tasks/test_ner",
    "tasks.writing.*": "tasks/test_generation",
}
"""Modules (a pattern) without a test of their name or a test that imports them, and the test that runs them."""


@cache
def modules() -> dict[str, Path]:
    spec = importlib.util.spec_from_file_location("measures", ROOT / "scripts" / "measures.py")
    assert spec is not None
    assert spec.loader is not None
    measures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(measures)
    return {
        name.removeprefix("adaptdock."): path
        for name, path in measures.files(ROOT).items()
        if path.name != "__init__.py" and name.count(".") > 1
    }


def imported(path: Path) -> set[str]:
    """The modules of ours that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.removeprefix("adaptdock.") for name in names} & modules().keys()


def named_test(module: str) -> Path:
    *rooms, stem = module.split(".")
    return ROOT / "tests" / Path(*rooms) / f"test_{stem}.py"


@cache
def without_own_test() -> list[str]:
    by_tests = set().union(*(imported(path) for path in (ROOT / "tests").rglob("*.py")))
    return [module for module in modules() if not named_test(module).exists() and module not in by_tests]


def test_every_module_without_a_test_of_its_own_is_in_the_table() -> None:
    assert len(modules()) > 300
    assert [module for module in without_own_test() if not any(fnmatchcase(module, p) for p in TESTED_BY)] == []


def test_the_table_names_no_module_in_vain_and_tests_that_exist() -> None:
    vain = [pattern for pattern in TESTED_BY if not any(fnmatchcase(module, pattern) for module in without_own_test())]
    assert vain == []
    assert [test for test in TESTED_BY.values() if not (ROOT / "tests" / f"{test}.py").is_file()] == []


def test_a_test_below_a_room_is_in_a_folder_that_the_room_has() -> None:
    rooms = {ROOT / "tests" / Path(*module.split(".")[:-1]) for module in modules()}
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}
    apart = {ROOT / "tests", *(ROOT / "tests" / name for name in ("gpu", "integrations", "scripts"))}
    assert folders - rooms - apart == set()
