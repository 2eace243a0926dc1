"""Scripts: the pieces of each script's words, as the tokenizer itself divides them."""

from transformers import PreTrainedTokenizerBase

from adaptdock.engine.evaluation.script_coverage import ScriptCoverage, script_coverage
from adaptdock.plugins.contracts import Backbone


def test_words_pieces_and_unknown_pieces_are_counted_by_script(backbone: Backbone) -> None:
    tokenizer: PreTrainedTokenizerBase = backbone.tokenizer
    coverage = script_coverage(["ada lives, in rome!", "ada Привет мирada 北京"], tokenizer)
    words = {"LATIN": ["ada", "lives", "in", "rome", "ada", "ada"], "CYRILLIC": ["Привет", "мир"], "CJK": ["北京"]}
    assert list(coverage) == ["LATIN", "CYRILLIC", "CJK"]
    for script, members in words.items():
        pieces = [tokenizer.tokenize(word) for word in members]
        assert coverage[script].words == len(members)
        assert coverage[script].characters == sum(map(len, members))
        assert coverage[script].pieces == sum(map(len, pieces))
        assert coverage[script].unknown == sum(parts.count(tokenizer.unk_token) for parts in pieces)
    assert coverage["LATIN"].has_spaces
    assert not coverage["CJK"].has_spaces


def test_a_script_is_taken_apart_by_short_or_unknown_pieces() -> None:
    assert ScriptCoverage(10, 100, 90, 0, has_spaces=True).taken_apart
    assert ScriptCoverage(10, 100, 30, 10, has_spaces=True).taken_apart
    assert not ScriptCoverage(10, 100, 30, 0, has_spaces=True).taken_apart
    assert not ScriptCoverage(10, 100, 100, 0, has_spaces=False).taken_apart
    assert not ScriptCoverage(1, 10, 10, 10, has_spaces=True).taken_apart  # too little text
