"""Prompts: what a language model is asked, and what it answers, as text and as tokens.

A record's fields fill a template. Then the answer follows the prompt, or both are turns of a conversation in the
tokenizer's own chat template. What is written begins where the tokens of what stands before it end, so
that a prompt has the same tokens whether its answer is known or not.
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
    """A token of a prompt or an answer: is it to be written, and is it one of a field, which may be cut?"""

    id: int
    written: bool = False
    of_field: bool = False


@dataclass(frozen=True)
class Asked:
    """The messages up to the answer; ``fields`` are the spans of the last one that the record's fields fill."""

    messages: tuple[Message, ...]
    fields: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Script:
    """A text whose stretches are given and written, in turn; the first is given.

    ``fields`` are spans of the first. ``closed`` says that the last answer ends with its template's mark.
    """

    stretches: tuple[str, ...]
    fields: tuple[Span, ...] = ()
    closed: bool = False


# --------------------------------------------------------------------------------------- templates


def checked_template(template: str, names: Sequence[str]) -> str:
    """Return a template in which a backslash and n have become a line break.

    Raises :class:`ValueError` where it is none, names something else than these fields, or none of them.
    """
    there = " and ".join(f"{{{name}}}" for name in names)
    template = template.replace("\\n", "\n")
    parts = [part for part in Formatter().parse(template) if part[1] is not None]
    for _, name, form, conversion in parts:
        if name not in names or form or conversion:
            raise ValueError(f"a prompt names {there} and nothing else in braces, not {{{name}}}; {{{{ is a brace")
    if not parts:
        raise ValueError(f"a prompt has to name {there}, or every text would ask the same")
    return template


def fill(template: str, values: Mapping[str, str]) -> Asked:
    """Fill a template that has been checked; what the values fill may be cut."""
    text, fields = "", []
    for literal, name, _, _ in Formatter().parse(template):
        text += literal
        if name is not None:
            fields.append((len(text), len(text) + len(values[name])))
            text += values[name]
    return Asked(({"role": "user", "content": text},), tuple(fields))


# ------------------------------------------------------------------------------------------- texts


def plain(asked: Asked, system: str | None, answer: str | None) -> Script:
    """Put what the system says, what is asked and the answer one after the other.

    Raises :class:`BackboneError` for a conversation, which needs a chat template.
    """
    if len(asked.messages) > 1:
        raise BackboneError("a conversation needs turns, and the tokenizer has no chat template or --chat is off")
    front = f"{system}\n\n" if system else ""
    fields = tuple((start + len(front), end + len(front)) for start, end in asked.fields)
    given = front + asked.messages[0]["content"]
    return Script((given,) if answer is None else (given, answer), fields)


def chat(asked: Asked, system: str | None, answer: str | None, tokenizer: Any) -> Script:
    """Lay a conversation out by the tokenizer's chat template; every turn of the assistant is written.

    A turn is written to the first special token after its text, which ends it. Raises
    :class:`DataError` for a conversation that the template does not take.
    """
    last = {**asked.messages[-1], "content": asked.messages[-1]["content"].strip()}
    messages = [*asked.messages[:-1], last]
    if system and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    prompt = _rendered(tokenizer, messages, to_answer=True)
    if answer is not None:
        messages.append({"role": ASSISTANT, "content": answer})
    text = prompt if answer is None else _rendered(tokenizer, messages, to_answer=False)
    ending = _ending(tokenizer)
    stretches: list[str] = []
    done, closed = 0, False
    for number, message in enumerate(messages):
        if message["role"] == ASSISTANT:
            start, end = _turn(tokenizer, messages, number, text)
            found = ending.search(text, end)
            closed = found is not None
            end = found.end() if found else end
            stretches += [text[done:start], text[start:end]]
            done = end
    if answer is None:
        stretches.append(text[done:])
    return Script(tuple(stretches), _moved(asked, last["content"], prompt), closed)


def _turn(tokenizer: Any, messages: Sequence[Message], number: int, text: str) -> Span:
    """Return where an assistant's turn begins in the text of a conversation, and where what it says ends."""
    before = _rendered(tokenizer, messages[:number], to_answer=True)
    said = messages[number]["content"].strip()
    start = text.find(said, len(before))
    if start < 0 or not text.startswith(before):
        raise DataError(
            f"the chat template of the tokenizer changes turn {number + 1} of the conversation, or those before it, so "
            f"what is to be learnt cannot be told; --chat off does without the template"
        )
    return len(before), start + len(said)


def _rendered(tokenizer: Any, messages: Sequence[Message], to_answer: bool) -> str:
    try:
        found: str = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=to_answer)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(f"the chat template of the tokenizer refuses turns of {roles}: {error}") from None
    return found


def _ending(tokenizer: Any) -> re.Pattern[str]:
    """Match any special token."""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    names = sorted({*tokenizer.all_special_tokens, *added}, key=lambda name: (-len(name), name))
    return re.compile("|".join(map(re.escape, names)))


def _moved(asked: Asked, content: str, prompt: str) -> tuple[Span, ...]:
    """Return where the fields of the last message, stripped to ``content``, stand in the prompt."""
    at = prompt.rfind(content)
    if at < 0:
        return ()  # the template has changed it: then it cannot be cut either
    raw = asked.messages[-1]["content"]
    shift = at - (len(raw) - len(raw.lstrip()))
    return tuple((start + shift, end + shift) for start, end in asked.fields)


# ------------------------------------------------------------------------------------------ tokens


def tokens(script: Script, tokenizer: Any, lead: Sequence[int]) -> list[Token]:
    """Return the tokens of a script after those that lead it; there is one at least."""
    ids, offsets = _encoded(tokenizer, script.stretches[0])
    found = [Token(given) for given in lead]
    found += [Token(given, of_field=_within(span, script.fields)) for given, span in zip(ids, offsets, strict=True)]
    found = found or [Token(starting(tokenizer))]
    text = script.stretches[0]
    for number, stretch in enumerate(script.stretches[1:], 1):
        more = _continued(tokenizer, text, ids, stretch)
        found += [Token(given, written=number % 2 == 1) for given in more]
        text, ids = text + stretch, ids + more
    return found


def read_whole(script: Script, tokenizer: Any) -> list[Token]:
    """Return the tokens that an encoder reads of a script without an answer, its special ones included."""
    (text,) = script.stretches
    found = tokenizer(text, return_offsets_mapping=True, verbose=False)
    spans = zip(found["input_ids"], found["offset_mapping"], strict=True)
    return [Token(given, of_field=_within(span, script.fields)) for given, span in spans]


def leading(tokenizer: Any) -> list[int]:
    """Return the special tokens that the tokenizer puts in front of a text."""
    found = tokenizer("a", return_special_tokens_mask=True)
    pairs = zip(found["input_ids"], found["special_tokens_mask"], strict=True)
    return [given for given, _ in takewhile(lambda pair: pair[1], pairs)]


def starting(tokenizer: Any) -> int:
    """Return the token after which a text begins where nothing is asked."""
    return closing(tokenizer) if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id)


def closing(tokenizer: Any) -> int:
    """Return the token that ends an answer; raise :class:`BackboneError` where there is none."""
    found = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    if found is None:
        raise BackboneError(f"{type(tokenizer).__name__} has no token that ends a text, so no answer could end")
    return int(found)


def shortened(found: Sequence[Token], room: int) -> list[Token]:
    """Return tokens of which as many are cut off the end of the fields as there is no room for, if they suffice."""
    places = [number for number, token in enumerate(found) if token.of_field]
    dropped = set(places[max(0, len(places) - max(0, len(found) - room)) :])
    return [token for number, token in enumerate(found) if number not in dropped]


def _continued(tokenizer: Any, text: str, ids: list[int], more: str) -> list[int]:
    """Return the tokens of what follows a text, whose own tokens stay as they are."""
    whole, _ = _encoded(tokenizer, text + more)
    return whole[len(ids) :] if whole[: len(ids)] == ids else _encoded(tokenizer, more)[0]


def _encoded(tokenizer: Any, text: str) -> tuple[list[int], list[Span]]:
    if not tokenizer.is_fast:
        raise BackboneError(f"{type(tokenizer).__name__} does not tell which characters a token stands for")
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return list(found["input_ids"]), list(found["offset_mapping"])


def _within(span: Span, fields: Sequence[Span]) -> bool:
    return span[0] < span[1] and any(start <= span[0] and span[1] <= end for start, end in fields)
