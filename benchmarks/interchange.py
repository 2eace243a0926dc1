"""The table of docs/interchange.md: every kind of foreign adapter, imported, exported, and the largest difference.

    python benchmarks/interchange.py [--references FOLDER | --doctor]

A row is exact, refused with the reason, or silently wrong (more than 1e-5 from the library). Every type of the
installed peft has a row. Adapters of peft are made by the real library, which also computes the reference; those of
AdapterHub, whose library wants an older transformers, are the recorded ones of the tests. ``--references`` takes
recorded ones from another folder instead: ``KIND_refs/CASE`` with its files, its reference.safetensors and the backbone
``base_FAMILY``; and real adapters of PEFT for GPT-2 without a backbone, which are put on a random one. ``--doctor``
runs ``adapt doctor`` on the adapters of PEFT and AdapterHub that can be imported: all are sound, so a fault is a false
alarm.
"""

import argparse
import io
import json
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests" / folder) for folder in ("", "hub/interchange", "adapters")]

import peft_adapters as library
import test_adapterhub as hub
import test_adapterhub_attention as attention
import test_adapterhub_setup as setups
import test_alora as invoked
import torch
from logits import difference, ours
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from adaptdock.cli import main as adapt
from adaptdock.engine.core.loading import load_backbone
from adaptdock.errors import UsageError
from adaptdock.hub.interchange.conversion import export_adapter, import_adapter
from adaptdock.hub.interchange.incoming import read_json
from adaptdock.plugins.contracts import Backbone, LoadOptions

Row = tuple[str, str, str, str]
HIDDEN = ("r", "lora_alpha", "exclude_modules")


def peft_cases(folder: Path) -> Iterator[tuple[library.Case, Path, Path]]:
    """Yield every case of the tests, its adapter's folder and the base model's.

    They are methods that read adapters themselves, and each type through the library.
    """
    types = [library.case(kind, "bert", "SEQ_CLS", "", **options) for kind, options in library.TYPES.items()]
    for number, case in enumerate([*library.CASES, *types, *library.OPTIONS, *library.REFUSED]):
        base = library.base_model(folder, case.architecture, case.task, **case.changes)
        yield case, library.adapter_folder(case, base, folder / f"{number}"), base


def title_of(case: library.Case) -> tuple[str, str]:
    """Return the type, architecture and task of a case, and its options."""
    options = {
        name: value for name, value in case.options.items() if name not in HIDDEN and value is not library.ATTENTION
    }
    listed = ", ".join(f"{name} {value}" for name, value in options.items()) or "-"
    return f"{case.config.__name__.removesuffix('Config')}, {case.architecture}, {case.task}", listed


def of_peft(folder: Path) -> Iterator[Row]:
    """Yield the results of every case of peft, imported and exported."""
    backbones: dict[Path, Backbone] = {}
    for case, source, base in peft_cases(folder):
        if base not in backbones:
            backbones[base] = load_backbone(str(base), LoadOptions(device="cpu"))
        yield *title_of(case), *_in_and_out(case, source, base, backbones[base], folder / f"{source.name}-again")


def _in_and_out(case: library.Case, source: Path, base: Path, backbone: Backbone, again: Path) -> tuple[str, str]:
    """Return the results of an import and of an export: the largest difference, or the refusal."""
    try:
        imported = import_adapter(source, backbone, "theirs")
    except UsageError as error:
        return f"refused: {error}", "-"
    reference = PeftModel.from_pretrained(library.load(base, case.task), source)
    inputs = library.batch(reference.get_base_model(), case.padded)
    states = library.theirs(reference, inputs)
    wanted = states
    if case.task == "FEATURE_EXTRACTION":
        kept = inputs["attention_mask"].unsqueeze(-1)
        wanted = (states * kept).sum(1) / kept.sum(1)
    result = _judged(difference(ours(backbone, imported.file, inputs), wanted, inputs))
    try:
        export_adapter(imported.file, backbone, again, "peft")
    except UsageError:
        return result, "refused"
    return result, _judged(difference(list(loaded(again, base, case.task, inputs)), states, inputs))


def _judged(largest: float) -> str:
    return _e(largest) if largest <= library.LIMIT else f"**wrong: {_e(largest)}**"


def of_adapterhub(folder: Path) -> Iterator[Row]:
    backbones: dict[str, Backbone] = {}
    for name in sorted([*hub.CARRIED, *hub.REFUSED]):
        source = hub.FIXTURES / name
        kind = (source / "base.txt").read_text()
        told, head = (read_json(source / file)["config"] for file in ("adapter_config.json", "head_config.json"))
        backbone = backbones.get(kind) or load_backbone(str(hub.FIXTURES / f"base_{kind}"), LoadOptions(device="cpu"))
        backbones[kind] = backbone
        what = f"{told.get('architecture') or 'bottleneck'} ({name}), {kind}, {head['head_type']}"
        try:
            found = import_adapter(source, backbone, name, attention="eager")
        except UsageError as error:
            yield what, str(error), "refused", "-"
            continue
        inputs, wanted = hub.recorded(source)
        there = _judged(difference(ours(backbone, found.file, inputs), wanted, inputs))
        try:
            export_adapter(found.file, backbone, folder / f"{name}-back", "adapterhub")
        except UsageError:
            yield what, "-", there, "refused"
            continue
        again = import_adapter(folder / f"{name}-back", backbone, name, attention="eager")
        yield what, "-", there, _judged(difference(ours(backbone, again.file, inputs), wanted, inputs))


def of_attention(folder: Path) -> Iterator[Row]:
    """Yield recorded prefixes of AdapterHub, in each attention of the library."""
    for name in attention.NAMES:
        source = attention.FOLDERS / f"{name}_prefix"
        base = (attention.FOLDERS if name == "bart" else hub.FIXTURES) / f"base_{name}"
        backbone = load_backbone(str(base), LoadOptions(device="cpu"))
        for mode in attention.MODES:
            inputs, wanted = attention.recorded(name, mode)
            imported = import_adapter(source, backbone, name, attention=mode)
            there = _judged(difference(ours(backbone, imported.file, inputs), wanted, inputs))
            back = folder / f"{name}-{mode}"
            export_adapter(imported.file, backbone, back, "adapterhub")
            again = import_adapter(back, backbone, name, attention=mode)
            yield (
                f"prefix_tuning, {name}",
                mode,
                there,
                _judged(difference(ours(backbone, again.file, inputs), wanted, inputs)),
            )


def of_setups(folder: Path) -> Iterator[Row]:
    """Yield the recorded stacks and fusions of AdapterHub, in folders of several parts."""
    backbone = load_backbone(str(hub.FIXTURES / "base_bert"), LoadOptions(device="cpu"))
    for source in sorted(setups.FOLDERS.iterdir()):
        what = f"{read_json(source / 'adapter_setup.json')['adapter_setup']['type']} ({source.name}), bert"
        try:
            imported = import_adapter(source, backbone, source.name)
        except UsageError as error:
            yield what, str(error), "refused", "-"
            continue
        inputs, wanted = hub.recorded(source)
        yield what, "-", _judged(difference(ours(backbone, imported.file, inputs), wanted, inputs)), "-"


def of_invoked(folder: Path) -> Iterator[Row]:
    """Yield aLoRA of peft, on texts that have the invocation, twice, and not at all."""
    for architecture, module in (("llama", "q_proj"), ("gpt2", "c_attn")):
        case = invoked.case(architecture, module)
        base = library.base_model(folder, architecture, case.task)
        source = library.adapter_folder(case, base, folder / f"{architecture}-invoked")
        backbone = load_backbone(str(base), LoadOptions(device="cpu"))
        wanted = loaded(source, base, case.task, invoked.INPUTS)
        imported = import_adapter(source, backbone, "invoked")
        there = _judged(difference(ours(backbone, imported.file, invoked.INPUTS), wanted, invoked.INPUTS))
        export_adapter(imported.file, backbone, folder / f"{architecture}-out", "peft")
        again = loaded(folder / f"{architecture}-out", base, case.task, invoked.INPUTS)
        back = _judged(difference(list(again), wanted, invoked.INPUTS))
        yield f"Lora, {architecture}, {case.task}", f"alora_invocation_tokens {invoked.INVOCATION}", there, back


def of_references(root: Path, folder: Path) -> Iterator[Row]:
    """Yield recorded adapters: those of PEFT are exported for the real library, others read back."""
    for recorded in sorted(root.glob("*_refs/*/reference.safetensors")):
        source, tensors = recorded.parent, load_file(recorded)
        inputs = {key[3:]: tensor for key, tensor in tensors.items() if key.startswith("in.")}
        wanted = (
            tensors["out.logits"]
            if "out.logits" in tensors
            else torch.stack([tensors["out.start_logits"], tensors["out.end_logits"]], dim=-1)
        )
        base = next(path for path in source.parent.glob("base_*") if f"_{path.name[5:]}_" in f"_{source.name}_")
        backbone = load_backbone(str(base), LoadOptions(device="cpu"))
        found = import_adapter(source, backbone, source.name)
        there = difference(ours(backbone, found.file, inputs), wanted, inputs)
        again, kind = folder / f"{source.name}-again", source.parent.name.removesuffix("_refs")
        export_adapter(found.file, backbone, again, kind)
        if kind == "peft":
            task = read_json(source / "adapter_config.json")["task_type"]
            back = difference(list(loaded(again, base, task, inputs)), wanted, inputs)
        else:
            reread = import_adapter(again, backbone, source.name).file
            back = difference(ours(backbone, reread, inputs), wanted, inputs)
        yield source.name, kind, _e(there), _e(back)


def of_real(root: Path, folder: Path) -> Iterator[Row]:
    """Yield adapters of PEFT that were made for GPT-2, on a random model of its shape."""
    torch.manual_seed(0)
    base = folder / "gpt2"
    GPT2LMHeadModel(GPT2Config(bos_token_id=2, eos_token_id=3)).save_pretrained(base)
    backbone = load_backbone(str(base), LoadOptions(device="cpu"))
    for config in sorted(root.glob("*/adapter_config.json")):
        source, again = config.parent, folder / f"{config.parent.name}-again"
        inputs = library.batch(library.load(base, "CAUSAL_LM"))
        wanted = loaded(source, base, "CAUSAL_LM", inputs)
        found = import_adapter(source, backbone, source.name)
        there = difference(ours(backbone, found.file, inputs), wanted, inputs)
        export_adapter(found.file, backbone, again, "peft")
        back = difference(list(loaded(again, base, "CAUSAL_LM", inputs)), wanted, inputs)
        yield source.name, "peft, real", _e(there), _e(back)


def examined(folder: Path) -> None:
    """Run ``adapt doctor`` on all sound adapters and print each alarm, and the counts."""
    cases = [(", ".join(title_of(case)), source, base) for case, source, base in peft_cases(folder)]
    for name in hub.CARRIED:
        base = hub.FIXTURES / f"base_{(hub.FIXTURES / name / 'base.txt').read_text()}"
        cases.append((f"AdapterHub {name}", hub.FIXTURES / name, base))
    counts: Counter[str] = Counter()
    for title, source, base in cases:
        output = io.StringIO()
        with redirect_stdout(output):
            status = adapt(["doctor", str(source), "--backbone", str(base), "--json"])
        findings = json.loads(output.getvalue())["findings"] if status in (0, 1) else []
        faults = [finding["text"] for finding in findings if finding["kind"] == "fault"]
        refused = any("cannot be imported" in fault for fault in faults) or status > 1
        counts["refused" if refused else "false alarms" if faults else "sound"] += 1
        if faults and not refused:
            print(f"{title}: {' '.join(faults)}", flush=True)
    print(", ".join(f"{count} {result}" for result, count in counts.items()))


def loaded(adapter: Path, base: Path, task: str, inputs: dict[str, Tensor]) -> Tensor:
    """Return what the real peft computes with an adapter's folder."""
    return library.theirs(PeftModel.from_pretrained(library.load(base, task), adapter), inputs)


def _e(number: float) -> str:
    return f"{number:.0e}" if number else "0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--references", type=Path)
    parser.add_argument("--doctor", action="store_true")
    arguments = parser.parse_args()
    root: Path | None = arguments.references
    warnings.simplefilter("ignore")
    if arguments.doctor:
        with tempfile.TemporaryDirectory() as folder:
            examined(Path(folder))
        return
    tables: dict[str, Callable[[Path], Iterator[Row]]] = {
        "peft": of_peft,
        "aLoRA of peft": of_invoked,
        "AdapterHub": of_adapterhub,
        "prefixes of AdapterHub": of_attention,
        "setups of AdapterHub": of_setups,
    }
    if root is not None:
        tables = {"recorded": partial(of_references, root), "real": partial(of_real, root)}
    with tempfile.TemporaryDirectory() as folder:
        for title, rows in tables.items():
            print(f"\n| {title} | options | imported | exported |\n|---|---|---|---|")
            counts: Counter[str] = Counter()
            for row in rows(Path(folder)):
                refused, wrong = "refused" in row[2], "wrong" in row[2]
                counts["refused with the reason" if refused else "silently wrong" if wrong else "exact"] += 1
                print(f"| {' | '.join(row)} |", flush=True)
            print(f"\n{', '.join(f'{count} {result}' for result, count in counts.items())}")


if __name__ == "__main__":
    main()
