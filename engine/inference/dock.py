"""The dock: a backbone with docked adapters, which predicts and generates with them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from adaptdock.engine.core.assembly import validated
from adaptdock.engine.core.docked_adapters import NAMES, DockedAdapters, Prepared
from adaptdock.engine.core.loading import adopt_backbone, load_backbone
from adaptdock.engine.inference.generation import GenerationOptions, generate
from adaptdock.engine.inference.golden_probes import check
from adaptdock.engine.inference.prediction import logits_of, predict
from adaptdock.errors import UsageError
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.hub.registry.admission import NONE, Requirements, read_adapter
from adaptdock.plugins import registry
from adaptdock.plugins.arguments import file_path, of_type, refusal
from adaptdock.plugins.contracts import Backbone, LoadOptions
from adaptdock.plugins.sequences import listed, size, text
from adaptdock.plugins.toolkit.heads import EmbeddingHead

INPUTS = "inputs", "['a text', 'another text']"
TEXTS = "texts", INPUTS[1]


class Dock(DockedAdapters):
    """A backbone with its ports open, and the predictions of the adapters docked to it.

    Safe for use by many threads: a batch finishes with the adapters it started with, whatever is
    docked or undocked meanwhile. As a context manager it undocks all adapters at its end.

    >>> with Dock.open("minilm") as dock:
    ...     name = dock.load("ner.safetensors")
    ...     (answer,) = dock.predict(name, ["Ada lived in London."])
    ...     len(dock), name in dock, answer["text"]
    (1, True, 'Ada lived in London.')
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self._proved: set[str] = set()

    @classmethod
    def open(cls, backbone: Any = registry.DEFAULT_BACKBONE, *, tokenizer: Any = None, **options: Any) -> Self:
        """Load a backbone by alias, path or hub id, or take a loaded model, and open its ports.

        ``options`` are those of :class:`LoadOptions`: ``device``, ``dtype``, ``quantize``, ... A loaded model of
        transformers needs its ``tokenizer`` and no options; it is frozen in place and switched to evaluation mode.

        A loaded model has the fingerprint of the checkpoint in ``model.name_or_path`` if its weights equal that
        checkpoint's, in any precision, and the checkpoint is on this machine. Otherwise the fingerprint is
        computed from the weights, as ``save_pretrained`` would write them. Adapters trained on the model therefore
        load on the same weights opened by name: from that checkpoint, or from a folder of ``save_pretrained``.
        They do not load on weights that were quantised in memory or written by another program.

        Raises :class:`BackboneError` if loading fails or the model cannot be used, :class:`UsageError` for invalid
        options and for anything but a name or a model.

        >>> dock = Dock.open("minilm", device="cpu")
        >>> dock
        <Dock on '...minilm' (bert) with no adapters>

        >>> from transformers import AutoModel, AutoTokenizer
        >>> model, tokenizer = AutoModel.from_pretrained("minilm"), AutoTokenizer.from_pretrained("minilm")
        >>> Dock.open(model, tokenizer=tokenizer).load("ner.safetensors")
        'ner'
        """
        if isinstance(backbone, str | Path):
            if tokenizer is not None:
                raise UsageError(refusal(tokenizer, "tokenizer= goes with a loaded model alone"))
            return cls(load_backbone(str(backbone), validated(LoadOptions, options, "loading")))
        if options:
            raise UsageError(f"the model is loaded already, so {', '.join(options)} cannot be chosen any more")
        return cls(adopt_backbone(backbone, tokenizer))

    def load(
        self,
        path: str | Path,
        name: str | None = None,
        replace: bool = False,
        *,
        probes: bool = True,
        trust: Requirements | None = None,
    ) -> str:
        """Dock the adapter in a file, or an installed adapter by its name, and return its name in the dock.

        ``name`` is the card's unless given. A taken name is refused unless ``replace`` is
        set: then the new version takes over between two batches. ``probes`` checks the golden probes first.
        ``trust`` adds requirements to this machine's policy: ``Requirements(signed=True)``, ``Requirements(lock=...)``.

        Raises :class:`FileError` for a damaged file, :class:`TrustError` for a revoked or forbidden adapter,
        :class:`MismatchError` for another backbone or for tensors that do not fit, :class:`ProbeError` for changed
        answers to the golden probes, and :class:`UsageError` for a taken name.
        """
        requirements = NONE if trust is None else of_type(trust, Requirements, "trust is a Requirements")
        adapter = read_adapter(file_path(path, "the file of an adapter"), requirements)
        return self.dock(self.proved(adapter) if probes else adapter, name, replace)

    def proved(self, adapter: AdapterFile) -> Prepared:
        """Verify an adapter as :meth:`prepare` does, and check its golden probes, if it has any.

        The content of a file is checked once in a dock. Raises :class:`MismatchError`, and :class:`ProbeError` for
        answers that have changed since the adapter was saved.
        """
        prepared = self.prepare(adapter)
        if not prepared.sha256 or prepared.sha256 not in self._proved:
            check(self, adapter, prepared)
            self._proved.add(prepared.sha256)
        return prepared

    def predict(self, name: str | Sequence[str], inputs: Sequence[Any], batch_size: int = 32) -> list[dict[str, Any]]:
        """Return a prediction for each input: a text, or any other input of the adapter's task.

        ``name`` is the name of an adapter, or a list with a name per input; ``lower+upper`` names a stack, whose
        upper adapter answers. Inputs of different adapters share batches of at most ``batch_size`` rows. Pass a single
        text as a list of length 1. A prediction is a dictionary of JSON values with the task's keys.

        Raises :class:`UsageError` for arguments that are not lists, :class:`UnknownNameError` for an adapter that is
        not docked, and :class:`DataError` for an input that the task cannot read.

        >>> dock = Dock.open("minilm")
        >>> dock.predict(dock.load("ner.safetensors"), ["Ada lived in London."])
        [{'text': 'Ada lived in London.', 'entities': [...]}]
        """
        items = listed(inputs, *INPUTS)
        return predict(self, self._answering(name, items), items, size(batch_size, "batch size"))

    def logits(self, name: str | Sequence[str], inputs: Sequence[Any], batch_size: int = 32) -> list[list[Tensor]]:
        """Return, for each input, the logits of its windows, float32 on the CPU; a text that fits has one window.

        Names, inputs and errors are as in :meth:`predict`. The shape depends on the adapter's head: (classes) for a
        text, (tokens, classes) for tags, (tokens, 2) for a span, (tokens, words of the vocabulary) for a language
        model. Tokens include the special tokens.

        >>> dock = Dock.open("minilm")
        >>> [[logits]] = dock.logits(dock.load("topic.safetensors"), ["Ada lived in London."])
        >>> logits.shape
        torch.Size([3])
        """
        items, batch = listed(inputs, *INPUTS), size(batch_size, "batch size")
        with self.boarding(self._answering(name, items)) as rows:
            return logits_of(self, rows, items, batch)

    def embed(self, name: str, texts: Sequence[str], batch_size: int = 32) -> list[list[float]]:
        """Return a vector of length 1 for each text, by an adapter that embeds (``adapt train --task embedding``).

        The cosine of two texts is the dot product of their vectors. Raises :class:`UsageError` for an adapter of
        another task, and for a text without a token.

        >>> dock = Dock.open("minilm")
        >>> [vector] = dock.embed(dock.load("near.safetensors"), ["Ada lived in London."])
        >>> len(vector), round(sum(number**2 for number in vector), 3)
        (32, 1.0)
        """
        items = [text(item, f"text {number}") for number, item in enumerate(listed(texts, *TEXTS))]
        upper = text(name, "the name of an adapter").rpartition("+")[2]
        if not isinstance(self.assembly(upper).head, EmbeddingHead):
            raise UsageError(f"the adapter {upper!r} is for {self.card(upper).task.name}: it gives no vectors of texts")
        vectors = [prediction["embedding"] for prediction in self.predict(name, items, batch_size)]
        for number, vector in enumerate(vectors):
            if not vector:
                raise UsageError(f"text {number} has no token, and so no vector: {items[number]!r:.60}")
        return vectors

    def generate(
        self, names: str | Sequence[str | None] | None, texts: Sequence[str], batch_size: int = 8, **options: Any
    ) -> list[str]:
        """Return the text that a language model writes after each text, with adapters as in :meth:`predict`.

        The name None is the bare backbone. ``options`` are the fields of :class:`GenerationOptions`:
        ``max_new_tokens``, ``num_beams``, ``do_sample``, ... Raises :class:`BackboneError` for a backbone that cannot
        write, :class:`UsageError` for invalid options and for texts without room.

        >>> dock = Dock.open("my-language-model")
        >>> texts = dock.generate([None, dock.load("writer.safetensors")], ["a text", "a text"], max_new_tokens=4)
        >>> len(texts)
        2
        """
        search = validated(GenerationOptions, options, "writing")
        prompts = [text(item, f"text {number}") for number, item in enumerate(listed(texts, *TEXTS))]
        batch = size(batch_size, "batch size")
        answers: list[str] = []
        with self.boarding(_one_each(names, prompts, "texts")) as rows:
            for start in range(0, len(prompts), batch):
                part = slice(start, start + batch)
                answers += generate(self, rows[part], prompts[part], search)
        return answers

    def _answering(self, name: Any, items: Sequence[Any]) -> list[str]:
        names = _one_each(name, items, "inputs")
        if None in names:
            raise UsageError("each input needs the name of an adapter: a bare row has no head that could answer")
        return names


def _one_each(names: Any, inputs: Sequence[Any], noun: str) -> list[Any]:
    every = [names] * len(inputs) if names is None or isinstance(names, str) else listed(names, *NAMES)
    if len(every) != len(inputs):
        raise UsageError(f"{len(every)} adapter names for {len(inputs)} {noun}: give one name, or one for each")
    return every
