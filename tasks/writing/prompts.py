"""Prompts and answers of a language model, as text and as tokens.

A record's fields fill a template. Then the answer follows the prompt, or both are turns of a conversation in the
tokenizer's own chat template. The prompt is tokenised before the answer, so it has the same tokens in training, where
the answer is known, and in prediction.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from string import Formatter
from typing import Any, NamedTuple

from jinja2 import TemplateError

from adaptdock.errors import BackboneError, DataError

Message = dict[str, str]
Span = tuple[int, int]
ASSISTANT = "assistant"


class Token(NamedTuple):
    """A token, whether the model generates it, and whether it is part of a field, which may be cut."""

    id: int
    written: bool = False
    of_field: bool = False


@dataclass(frozen=True)
class Conversation:
    """The messages before the answer; ``fields`` are the spans of the record's fields in the last message."""

    messages: tuple[Message, ...]
    fields: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Script:
    """A text in stretches: prompt and answer in turn, beginning with a prompt.

    ``fields`` are spans of the first stretch. ``closed`` says that the last answer ends with the template's end token.
    """

    stretches: tuple[str, ...]
    fields: tuple[Span, ...] = ()
    closed: bool = False


# --------------------------------------------------------------------------------------- templates


def checked_template(template: str, names: Sequence[str]) -> str:
    r"""Return a template with line breaks in place of ``\n``.

    Raises :class:`ValueError` for a template that is malformed, contains other fields, or contains none.
    """
    fields = " and ".join(f"{{{name}}}" for name in names)
    template = template.replace("\\n", "\n")
    parts = [part for part in Formatter().parse(template) if part[1] is not None]
    for _, name, form, conversion in parts:
        if name not in names or form or conversion:
            raise ValueError(f"a prompt names {fields} and nothing else in braces, not {{{name}}}; {{{{ is a brace")
    if not parts:
        raise ValueError(f"a prompt has to name {fields}, or every text would ask the same")
    return template


def fill(template: str, values: Mapping[str, str]) -> Conversation:
    """Fill a checked template; the values may be cut later."""
    text, fields = "", []
    for literal, name, _, _ in Formatter().parse(template):
        text += literal
        if name is not None:
            fields.append((len(text), len(text) + len(values[name])))
            text += values[name]
    return Conversation(({"role": "user", "content": text},), tuple(fields))


# ------------------------------------------------------------------------------------------- texts


def plain(conversation: Conversation, system: str | None, answer: str | None) -> Script:
    """Return system message, prompt and answer in sequence.

    Raises :class:`BackboneError` for a conversation, which needs a chat template.
    """
    if len(conversation.messages) > 1:
        raise BackboneError("a conversation needs turns, and the tokenizer has no chat template or --chat is off")
    front = f"{system}\n\n" if system else ""
    fields = tuple((start + len(front), end + len(front)) for start, end in conversation.fields)
    prompt = front + conversation.messages[0]["content"]
    return Script((prompt,) if answer is None else (prompt, answer), fields)


def chat(conversation: Conversation, system: str | None, answer: str | None, tokenizer: Any) -> Script:
    """Render a conversation by the tokenizer's chat template; the model generates every turn of the assistant.

    The first special token after the text of a turn ends it, and is generated too. Raises :class:`DataError` for a
    conversation that the template does not accept.
    """
    # Templates strip messages, so only stripped text can be located in the prompt.
    last = {**conversation.messages[-1], "content": conversation.messages[-1]["content"].strip()}
    messages = [*conversation.messages[:-1], last]
    if system and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    prompt = _rendered(tokenizer, messages, to_answer=True)
    if answer is not None:
        messages.append({"role": ASSISTANT, "content": answer})
    text = prompt if answer is None else _rendered(tokenizer, messages, to_answer=False)
    ending = _ending(tokenizer)
    stretches: list[str] = []
    position, closed = 0, False
    for number, message in enumerate(messages):
        if message["role"] == ASSISTANT:
            start, end = _turn(tokenizer, messages, number, text)
            ending_mark = ending.search(text, end)
            closed = ending_mark is not None
            end = ending_mark.end() if ending_mark else end
            stretches += [text[position:start], text[start:end]]
            position = end
    if answer is None:
        stretches.append(text[position:])
    return Script(tuple(stretches), _moved(conversation, last["content"], prompt), closed)


def _turn(tokenizer: Any, messages: Sequence[Message], number: int, text: str) -> Span:
    """Return the start of an assistant's turn in the text of a conversation, and the end of its content."""
    before = _rendered(tokenizer, messages[:number], to_answer=True)
    content = messages[number]["content"].strip()
    start = text.find(content, len(before))
    if start < 0 or not text.startswith(before):
        raise DataError(
            f"the chat template of the tokenizer changes turn {number + 1} of the conversation, or a turn before it, "
            f"so the learnt text cannot be located; --chat off avoids the template"
        )
    return len(before), start + len(content)


def _rendered(tokenizer: Any, messages: Sequence[Message], to_answer: bool) -> str:
    try:
        text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=to_answer)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(f"the chat template of the tokenizer refuses turns of {roles}: {error}") from None
    return text


def _ending(tokenizer: Any) -> re.Pattern[str]:
    """Return a pattern of all special tokens, longer names first."""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    # Longer names first: a regular expression takes the first alternative that matches.
    names = sorted({*tokenizer.all_special_tokens, *added}, key=lambda name: (-len(name), name))
    return re.compile("|".join(map(re.escape, names)))


def _moved(conversation: Conversation, content: str, prompt: str) -> tuple[Span, ...]:
    """Return the spans of the last message's fields in the prompt; ``content`` is the message without outer spaces."""
    at = prompt.rfind(content)
    if at < 0:
        return ()  # the template altered the message, so its fields cannot be cut
    raw = conversation.messages[-1]["content"]
    shift = at - (len(raw) - len(raw.lstrip()))
    return tuple((start + shift, end + shift) for start, end in conversation.fields)


# ------------------------------------------------------------------------------------------ tokens


def tokens(script: Script, tokenizer: Any, lead: Sequence[int]) -> list[Token]:
    """Return the tokens of a script after the tokens of ``lead``; at least one token."""
    ids, offsets = _encoded(tokenizer, script.stretches[0])
    sequence = [Token(token) for token in lead]
    sequence += [Token(token, of_field=_within(span, script.fields)) for token, span in zip(ids, offsets, strict=True)]
    sequence = sequence or [Token(starting(tokenizer))]
    text = script.stretches[0]
    for number, stretch in enumerate(script.stretches[1:], 1):
        more = _continued(tokenizer, text, ids, stretch)
        sequence += [Token(token, written=number % 2 == 1) for token in more]
        text, ids = text + stretch, ids + more
    return sequence


def read_whole(script: Script, tokenizer: Any) -> list[Token]:
    """Return an encoder's tokens of a script without an answer, special tokens included."""
    (text,) = script.stretches
    encoding = tokenizer(text, return_offsets_mapping=True, verbose=False)
    spans = zip(encoding["input_ids"], encoding["offset_mapping"], strict=True)
    return [Token(token, of_field=_within(span, script.fields)) for token, span in spans]


def leading(tokenizer: Any) -> list[int]:
    """Return the special tokens that the tokenizer puts before a text."""
    encoding = tokenizer("a", return_special_tokens_mask=True)
    pairs = zip(encoding["input_ids"], encoding["special_tokens_mask"], strict=True)
    return [token for token, _ in takewhile(lambda pair: pair[1], pairs)]


def starting(tokenizer: Any) -> int:
    """Return the token to begin a text with when the prompt is empty."""
    return closing(tokenizer) if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id)


def closing(tokenizer: Any) -> int:
    """Return the token that ends an answer; raise :class:`BackboneError` if there is none."""
    token = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    if token is None:
        raise BackboneError(f"{type(tokenizer).__name__} has no token that ends a text, so no answer could end")
    return int(token)


def shortened(prompt: Sequence[Token], room: int) -> list[Token]:
    """Return the tokens without the last field tokens that exceed ``room``; longer if the fields do not suffice."""
    places = [number for number, token in enumerate(prompt) if token.of_field]
    dropped = set(places[max(0, len(places) - max(0, len(prompt) - room)) :])
    return [token for number, token in enumerate(prompt) if number not in dropped]


def _continued(tokenizer: Any, text: str, ids: list[int], more: str) -> list[int]:
    """Return the tokens of ``more`` after a text, without changing the tokens ``ids`` of the text.

    A tokenizer may merge across the border; then ``more`` is tokenised alone.
    """
    whole, _ = _encoded(tokenizer, text + more)
    return whole[len(ids) :] if whole[: len(ids)] == ids else _encoded(tokenizer, more)[0]


def _encoded(tokenizer: Any, text: str) -> tuple[list[int], list[Span]]:
    if not tokenizer.is_fast:
        raise BackboneError(f"{type(tokenizer).__name__} does not give the characters that a token stands for")
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return list(encoding["input_ids"]), list(encoding["offset_mapping"])


def _within(span: Span, fields: Sequence[Span]) -> bool:
    return span[0] < span[1] and any(start <= span[0] and span[1] <= end for start, end in fields)
