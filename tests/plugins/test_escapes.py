"""Text from outside as a terminal or a log may have it."""

import json
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from adaptdock.plugins.escapes import HIDDEN, escaped, json_text

TEXTS = st.text(st.characters(), max_size=20)


def hidden(text: str) -> list[str]:
    return [letter for letter in text if unicodedata.category(letter) in HIDDEN]


def test_hidden_characters_are_written_as_their_numbers_and_letters_stay() -> None:
    assert escaped("\x1b[2J\x9b\x7f\r\n\t\u202e\u2028\ud800\U000e0041") == (
        r"\x1b[2J\x9b\x7f\r\n\t\u202e\u2028\ud800\U000e0041"
    )
    assert escaped("Zoë Привет 東京 שלום ½\u00a0€") == "Zoë Привет 東京 שלום ½\u00a0€"
    assert escaped("a\tb\n", "\t") == "a\tb\\n"


@given(TEXTS)
def test_no_hidden_character_is_left(text: str) -> None:
    assert not hidden(escaped(text))


@given(st.dictionaries(TEXTS, st.lists(TEXTS)), st.sampled_from([None, 2]))
def test_json_is_the_same_value_without_hidden_characters(value: dict[str, list[str]], indent: int | None) -> None:
    text = json_text(value, indent)
    assert json.loads(text) == json.loads(json.dumps(value))
    assert not hidden(text.replace("\n", "") if indent else text)


def test_json_keeps_letters_readable() -> None:
    assert json_text({"é": "東\x9b"}) == '{"é": "東\\u009b"}'
    assert json_text({"é": "東\x7f"}, ascii_only=True) == '{"\\u00e9": "\\u6771\\u007f"}'
