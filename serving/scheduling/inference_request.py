"""Work: one input on its way through the process, and its outcome."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from adaptdock.engine.core.batches import length, reading
from adaptdock.engine.inference.generation import GenerationOptions
from adaptdock.engine.inference.pipeline import EncodedRecord
from adaptdock.errors import UsageError
from adaptdock.plugins.contracts import Backbone, Feature, Reading, Record, Task, Writer
from adaptdock.serving.configuration import ServingOptions
from adaptdock.serving.errors import LimitError
from adaptdock.serving.versions import Version


@dataclass(frozen=True)
class Outcome:
    """The answer to an input: a prediction; for a generated text also the text and its token counts."""

    prediction: dict[str, Any]
    text: str = ""
    read_tokens: int = 0
    new_tokens: int = 0
    finished: bool = True
    """Whether the text ended with an end token, not at a limit."""


@dataclass(eq=False)
class Work:
    """One input for a stack of adapters. The topmost adapter answers; without adapters the bare language model does.

    ``wishes`` override the task's generation options. ``raw`` inputs are continued as they are, whatever the task: a
    text, token ids, or ``{"messages": [...]}`` by the backbone's own chat template.
    ``on_text`` is called with each piece of a text during generation.
    """

    name: str
    parts: Sequence[Version]
    item: Any
    deadline: float
    wishes: Mapping[str, Any] = field(default_factory=dict)
    raw: bool = False
    on_text: Callable[[str], None] | None = None
    stops: tuple[str, ...] = ()
    """Texts before which generation ends."""
    future: "Future[Outcome]" = field(default_factory=Future)
    encoded: EncodedRecord | None = None
    """The input, unless the text of the answer is generated."""
    record: Record = field(default_factory=dict)
    features: list[Feature] = field(default_factory=list)
    search: GenerationOptions | None = None
    """The generation options of a text; None for a prediction from one pass."""
    since: float = field(default_factory=time.monotonic)
    size: int = 0
    """Cost of encoding, in characters."""
    client: str = ""
    """The name of the client's token; empty without tokens."""
    began: float = 0.0
    """When the computation of its first window, or of its text, began (as ``since``, by the monotonic clock)."""

    @property
    def key(self) -> str:
        """The name of the adapters in the dock, such as ``lower@1+upper@2``."""
        return "+".join(part.key for part in self.parts)

    @property
    def task(self) -> Task:
        """The task of the adapter that answers."""
        return self.parts[-1].assembly.task

    def cost(self, tokens: int, width: int) -> int:
        """Return the cost of a window of ``tokens``, in tokens of a short text with one adapter.

        Each adapter of a stack counts as much as the first. In a layer of this width a token takes about
        24 * width ** 2 operations in linear layers, and 4 * width * tokens in attention.
        """
        return max(1, len(self.parts)) * (tokens + tokens * tokens // (6 * width))

    def generation(self, longest: int) -> GenerationOptions | None:
        """Return the expected options of a text of at most ``longest`` tokens, unchecked; None without a text."""
        writer = None if self.raw else self.task
        if not self.raw and not isinstance(writer, Writer):
            return None
        defaults = writer.search() if isinstance(writer, Writer) else {}
        options = GenerationOptions.model_construct(**{**defaults, **self.wishes})
        return options.model_copy(update={"max_new_tokens": min(options.max_new_tokens, longest)})

    @property
    def given_up(self) -> bool:
        """Whether the input already has an answer or is past its deadline."""
        return self.future.done() or time.monotonic() > self.deadline

    def encode(self, backbone: Backbone, tokenizer: Any, options: ServingOptions) -> None:
        """Tokenize the input into windows. No other thread may use ``tokenizer`` meanwhile.

        Raises :class:`LimitError` for more tokens than ``options`` allow.
        """
        if self.raw or isinstance(self.task, Writer):
            self._ask(backbone, tokenizer, options.max_new_tokens)
        else:
            limit = self.parts[-1].card.preprocessing.max_length
            record = self.task.read(self.item)
            self.encoded = EncodedRecord.encode(self.task, record, self._reading(backbone, tokenizer, limit))
            self.features = self.encoded.windows
        tokens = sum(map(length, self.features))
        if tokens > options.max_tokens:
            raise LimitError(f"the input has {tokens:,} tokens in its windows; at most {options.max_tokens:,} are read")

    def _reading(self, backbone: Backbone, tokenizer: Any, limit: int) -> Reading:
        return replace(reading(backbone, limit, self._taken), tokenizer=tokenizer)

    def _ask(self, backbone: Backbone, tokenizer: Any, longest_text: int) -> None:
        writer = None if self.raw else self.task
        defaults = writer.search() if isinstance(writer, Writer) else {}
        search = GenerationOptions.model_validate({**defaults, **self.wishes})
        if search.max_new_tokens > longest_text:
            raise LimitError(f"{search.max_new_tokens} new tokens are asked for; at most {longest_text} are written")
        room = backbone.max_length - self._taken - (0 if backbone.encoder_decoder else search.max_new_tokens)
        if room < 1:
            raise UsageError(f"{search.max_new_tokens} new tokens leave no room in {backbone.max_length} positions")
        self.search = search
        if isinstance(writer, Writer):
            self.record = writer.read(self.item)
            limit = min(self.parts[-1].card.preprocessing.max_length, room)
            self.features = [writer.prompt(self.record, self._reading(backbone, tokenizer, limit))]
            return
        ids = self._prompt_ids(tokenizer)
        if not 0 < len(ids) <= room:
            raise UsageError(f"the prompt has {len(ids)} tokens; the requested new tokens leave room for 1 to {room}")
        self.features = [Feature({"input_ids": ids})]

    def _prompt_ids(self, tokenizer: Any) -> list[int]:
        """Return the token ids of a raw input."""
        if isinstance(self.item, str):
            return list(tokenizer(self.item, verbose=False)["input_ids"])
        if isinstance(self.item, list):
            unknown = next((token for token in self.item if token >= len(tokenizer)), None)
            if unknown is not None:
                raise UsageError(f"{unknown} is not a token id of this backbone: they are less than {len(tokenizer)}")
            return list(self.item)
        if not getattr(tokenizer, "chat_template", None):
            raise UsageError("the backbone has no chat template: ask for a completion, or name an adapter")
        text = tokenizer.apply_chat_template(self.item["messages"], tokenize=False, add_generation_prompt=True)
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def written(self, text: str, new_tokens: int, finished: bool) -> Outcome:
        """Return the outcome for a generated text."""
        (prompt,) = self.features
        writer = None if self.raw else self.task
        answer = writer.answer(self.record, text) if isinstance(writer, Writer) else {"text": text}
        cut = {"cut_tokens": prompt.cut} if prompt.cut else {}
        return Outcome({**answer, **cut}, text, length(prompt), new_tokens, finished)

    @property
    def _taken(self) -> int:
        return sum(part.assembly.positions for part in self.parts)

    def fail(self, error: BaseException) -> None:
        """Answer with an error, unless there is an answer already."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)

    def succeed(self, outcome: Outcome) -> None:
        """Answer with an outcome, unless there is an answer already."""
        with suppress(InvalidStateError):
            self.future.set_result(outcome)
