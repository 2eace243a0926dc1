"""Import of heads in peft's adapters: saved tensors, changes by a tuner, and unused tensors."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from adaptdock.hub.interchange import head_layouts
from adaptdock.hub.interchange.incoming import Headed
from adaptdock.plugins.contracts import Backbone
from adaptdock.plugins.toolkit.interchange.options import under
from adaptdock.plugins.toolkit.interchange.peft import IMPLIED, PeftOptions, PeftSource, TunerOptions
from adaptdock.plugins.toolkit.interchange.ports import config_of, ends, frozen_parameter
from adaptdock.plugins.toolkit.interchange.tensors import ForeignTensors, contradiction, refuse

if TYPE_CHECKING:
    from torch import nn

CLASS_ENDINGS = (
    ("ForSequenceClassification", "SEQ_CLS"),
    ("ForTokenClassification", "TOKEN_CLS"),
    ("ForQuestionAnswering", "QUESTION_ANS"),
    ("ForConditionalGeneration", "SEQ_2_SEQ_LM"),
    ("LMHeadModel", "CAUSAL_LM"),
    ("ForCausalLM", "CAUSAL_LM"),
)
"""Suffix of a class name -> its task type."""
VOCABULARY = ("embed_tokens", "word_embeddings", "wte", "shared", "lm_head", "embed_out", "tok_embeddings")
"""Modules that peft saves, trained or not, after the vocabulary was resized."""


def read_head(source: PeftSource[PeftOptions], labels: tuple[str, ...], front: int) -> Headed:
    """Return the task and the head of an adapter; ``front`` is the number of virtual tokens that a head can read."""
    options, backbone, tensors = source.options, source.backbone, source.tensors
    changes, notes = source.changes, source.notes
    kind = options.task_type or guessed_kind(options, backbone, tensors, changes, notes)
    if kind is not None and kind not in head_layouts.CLASSES:
        raise refuse(f"the task type {kind}", "adaptdock has no task for it")
    kind = kind or "FEATURE_EXTRACTION"
    model = head_layouts.skeleton(backbone, kind) if kind in IMPLIED else None
    _check_saved(options, tensors, model, backbone)
    weights = head_layouts.HeadWeights(backbone, tensors, model)
    weights.changes = changes
    head = _head(kind, options, weights, labels, front, notes)
    if changes:
        raise refuse(f"the update at {next(iter(changes))}", "the task of this adapter has no such head")
    return head


def _head(
    kind: str,
    options: PeftOptions,
    weights: head_layouts.HeadWeights,
    labels: tuple[str, ...],
    front: int,
    notes: list[str],
) -> Headed:
    backbone = weights.backbone
    if kind in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
        return Headed("generation")
    if kind == "FEATURE_EXTRACTION":
        return Headed("embedding")
    layout = _layout(kind, weights)
    _check_changed(options, layout, weights)
    tensors = head_layouts.read_layout(weights, layout, "the head")
    classes = tensors["weight"].shape[0]
    if kind == "QUESTION_ANS":
        if classes != 2:
            raise refuse("the head", f"it has {classes} scores for each token, and a span has 2")
        return Headed("qa", {}, tensors)
    names = _labels(backbone, classes, labels, notes)
    layers = {"hidden_layers": head_layouts.functions(layout), "norms": bool(layout.norms)}
    if kind == "TOKEN_CLS":
        return head_layouts.token_head(names, layers, tensors)
    seen = front if layout.reads == "first" else 0
    if front and layout.reads == "last":
        notes.append("behind a prompt peft reads the last state even of a padded text; here it is the last token's")
    several = getattr(config_of(backbone), "problem_type", None) == "multi_label_classification"
    values = {"pooling": layout.reads, "reads_prompt": seen, **layers}
    return head_layouts.sequence_head(names, several, values, tensors)


def _layout(kind: str, weights: head_layouts.HeadWeights) -> head_layouts.Layout:
    backbone, model = weights.backbone, weights.model
    if kind == "SEQ_CLS":
        return head_layouts.sequence_layout(backbone)
    if kind == "QUESTION_ANS" and getattr(model, "head", None) is not None:
        raise refuse(f"a head for spans of {backbone.architecture}", "it has layers before its last, ours has none")
    layout = None if model is None else head_layouts.token_layout(model, kind)
    if layout is None:
        raise refuse(
            f"a head for {kind} of {backbone.architecture}",
            f"{head_layouts.CLASSES[kind]} has no such linear map there",
        )
    return layout


def _labels(backbone: Backbone, classes: int, labels: tuple[str, ...], notes: list[str]) -> tuple[str, ...]:
    names, known = head_layouts.labels_of(backbone, classes, labels)
    if not known and len(names) > 1:
        notes.append(f"the classes have no names in the backbone's configuration; they are called {names[0]}, ...")
    return names


def guessed_kind(
    options: PeftOptions,
    backbone: Backbone,
    tensors: ForeignTensors,
    changes: Iterable[str],
    notes: list[str],
) -> str | None:
    """Return the task type shown by the model's class or the head, for a configuration without one."""
    mapping = options.auto_mapping
    kind = None if mapping is None else class_task(mapping.base_model_class or "")
    if kind is not None:
        return kind
    modules = {*changes, *(name.rpartition(".")[0] for name in tensors.unused)}
    if not any(is_head(module, backbone) for module in modules):
        return "CAUSAL_LM" if getattr(backbone, "generator", None) is not None else None
    classes = getattr(config_of(backbone), "architectures", None) or ()
    of_base = next(filter(None, map(class_task, classes)), None)
    kind = of_base if of_base in IMPLIED else None
    if kind is None:
        kind = "QUESTION_ANS" if any(ends(module, "qa_outputs") for module in modules) else "SEQ_CLS"
    notes.append(f"the configuration has no task_type; the head that is there is read as that of {kind}")
    return kind


def class_task(name: str) -> str | None:
    """Return the task type that the name of a transformers class shows, or None."""
    return next((kind for ending, kind in CLASS_ENDINGS if name.endswith(ending)), None)


def is_head(module: str, backbone: Backbone) -> bool:
    """Return whether a module is a map of the architecture's head."""
    layout = head_layouts.SEQUENCE.get(backbone.architecture, head_layouts.LAST)
    names = (*layout.modules, "classifier", "score", "qa_outputs")
    return any(ends(module, name) for name in names)


# ------------------------------------------------------------------------------------------ checks


def _check_saved(options: PeftOptions, tensors: ForeignTensors, model: "nn.Module | None", backbone: Backbone) -> None:
    """Raise :class:`UsageError` if the configuration saves a module in full, but its tensors are missing."""
    whole = model or getattr(backbone, "generator", None) or backbone.model
    parameters = [name for name, _ in whole.named_parameters()]
    for name in (*(options.modules_to_save or ()), *IMPLIED.get(options.task_type or "", ())):
        covers = under(name)
        lacking = next(filter(covers.match, parameters), None)
        if lacking is not None and not any(map(covers.match, tensors.names)):
            saved = repr(options.modules_to_save) if name in (options.modules_to_save or ()) else "null"
            option = f"modules_to_save (for {options.task_type}, peft adds {name!r})"
            raise contradiction(
                tensors.path, "modules_to_save" if saved != "null" else option, saved, lacking, "is missing"
            )


def _check_changed(options: PeftOptions, layout: head_layouts.Layout, weights: head_layouts.HeadWeights) -> None:
    """Raise :class:`UsageError` if the configuration names a map of the head, but its tensors are missing."""
    if not isinstance(options, TunerOptions) or options.every or weights.model is None or weights.tensors is None:
        return
    for module in layout.modules:
        path = next((path for path, _ in weights.model.named_modules() if ends(path, module)), module)
        changed = any(ends(name, module) for name in weights.changes)
        if options.targets(path) and not changed and weights.tensors.ending(f"{module}.weight") is None:
            raise contradiction(weights.tensors.path, "target_modules", options.target_modules, path, "is missing")


def check_unused(tensors: ForeignTensors, backbone: Backbone) -> None:
    """Raise :class:`UsageError` for an unused saved tensor, unless it equals the frozen parameter."""
    for name, tensor in tensors.unused.items():
        parameter = frozen_parameter(name, backbone)
        if parameter is not None and tensor.equal(parameter.to(tensor.dtype)):
            continue
        module = name.rpartition(".")[0]
        if parameter is not None and tensor.shape != parameter.shape and module.rpartition(".")[2] in VOCABULARY:
            raise refuse(
                f"the tensor {name!r}",
                f"it has {tensor.shape[0]} tokens, the backbone {parameter.shape[0]}: the vocabulary was resized "
                f"before training. Resize the backbone in the same way, put the saved tensors into it, save it, and "
                f"give that to --backbone",
            )
        raise refuse(
            f"the module {module!r} with the tensor {name!r}",
            "it was saved in full, and differs from the backbone's; an adapter file has a place for heads, and for "
            "nothing else that is saved in full"
            if parameter is not None
            else "neither the configuration nor the backbone explains it",
        )
