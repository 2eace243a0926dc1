"""Records without a word: the text around it stays, and spans stay those of the words."""

import pytest

from adaptdock.tasks.common.occlusion import joined_texts, with_word, without_word, words_of_texts

PAIR = {"text": "Is it, red?", "second": "A red cat."}


def test_words_of_a_pair_are_found_in_the_joined_text() -> None:
    text = joined_texts(PAIR)
    assert text == "Is it, red?\nA red cat."
    assert [text[start:end] for start, end in words_of_texts(PAIR)] == [
        *["Is", "it", ",", "red", "?"],
        *["A", "red", "cat", "."],
    ]


@pytest.mark.parametrize(
    ("word", "filler", "expected"),
    [
        (0, "", ("it, red?", PAIR["second"])),
        (2, "[MASK]", ("Is it[MASK] red?", PAIR["second"])),
        (6, "", (PAIR["text"], "A cat.")),
        (6, "[MASK]", (PAIR["text"], "A [MASK] cat.")),
    ],
)
def test_a_word_is_removed_or_replaced_in_its_own_text(word: int, filler: str, expected: tuple[str, str]) -> None:
    record = without_word(PAIR, word, filler)
    assert (record["text"], record["second"]) == expected


def test_the_words_of_scripts_without_spaces_are_characters() -> None:
    assert len(words_of_texts({"text": "私は猫"})) == 3


@pytest.mark.parametrize("word", range(3))
def test_a_filler_takes_the_place_of_a_word_and_the_spans_move(word: int) -> None:
    record = {"text": "Ada  met Bob", "spans": [(0, 3), (5, 8), (9, 12)], "tokens": ["Ada", "met", "Bob"]}
    changed = with_word(record, word, "[MASK]")
    tokens = ["Ada", "met", "Bob"]
    tokens[word] = "[MASK]"
    assert changed["tokens"] == tokens
    assert [changed["text"][start:end] for start, end in changed["spans"]] == tokens
    assert with_word({"tokens": ["Ada", "met"]}, 1, "...") == {"tokens": ["Ada", "..."]}
