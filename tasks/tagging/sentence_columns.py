"""The columns of words and tags in sentences without a header, judged by the values.

Files of the CoNLL shared tasks have the words first and the tags last, with parts of speech and phrases between them.
Other files begin with a counter, and end with nested entities (GermEval) or names of annotators (Universal NER).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from adaptdock.tasks.tagging.tag_notation import is_prefixed, is_tag, type_of

SHARE = 0.95
"""Least share of tags in a column of tags: some tags are misspelt."""
TYPES_AT_MOST = 60
"""Most distinct values in a column of types without prefixes; more values are words."""
SPANS = (
    "There are spans of characters, as annotation tools write them: the task ner reads them where the text that they "
    "are of is beside them, as text, data, content, sentence or document (--columns text=COLUMN names another)."
)


def _names(*lines: str) -> frozenset[str]:
    return frozenset(name for line in lines for name in line.split())


PHRASES = _names("NP VP PP ADVP ADJP AP SBAR PRT CONJP INTJ LST UCP NC VC PC NX VX PX AVP NM QP WHNP WHPP WHADVP")
"""Types of phrases in the chunked corpora of several languages."""
NESTED_SUFFIXES = ("deriv", "part")
"""GermEval's suffixes of types, for words that are derived from a name or contain one."""
ENTITIES = _names("PER PERS PERSON LOC LOCATION ORG ORGANIZATION ORGANISATION MISC OTH GPE FAC PROD EVENT TIME DATE")
WORD_CLASSES = _names(
    "ADJ ADP ADV AUX CCONJ CONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X",
    "CC CD DT EX FW IN JJ JJR JJS LS MD NN NNS NNP NNPS PDT POS PRP PRP$ RB RBR RBS RP TO UH VB VBD VBG VBN VBP VBZ",
    "WDT WP WP$ WRB HYPH NFP ADD AFX GW XX -LRB- -RRB- . , : ; ( ) `` '' \" # $ ! ? -",
)
"""Parts of speech of the Universal Dependencies and of the Penn Treebank."""


def token_column(sentences: Sequence[Sequence[Sequence[str]]], tags: int | None) -> int | None:
    """Return the first column that is not a counter, a name of a document or the tags; None if there is none."""
    for number in range(len(sentences[0])):
        column = [sentence[number] for sentence in sentences]
        if number != tags and not _counts(column) and not _is_constant(column):
            return number
    return None


def entity_column(columns: Sequence[Sequence[str]]) -> int | None:
    """Return the column with tags of entities: of nested entities the outer layer, otherwise the last; None if none.

    Tags of phrases are taken only if there is no other column of tags.
    """
    tagged = [number for number, column in enumerate(columns) if _follows_scheme(column)]
    entities = [number for number in tagged if not _are_phrases(columns[number])]
    if not entities:
        plain = _plain_column({number: column for number, column in enumerate(columns) if number not in tagged})
        return plain if plain is not None else tagged[-1] if tagged else None
    last = entities[-1]
    nested = [number for number in entities if _share_types(columns[number], columns[last])]
    return max(nested, key=lambda number: sum(bool(type_of(tag)) for tag in columns[number]))


def phrase_column(columns: Sequence[Sequence[str]]) -> int | None:
    """Return the last column with tags of phrases; None if there is none."""
    phrases = [number for number, column in enumerate(columns) if _follows_scheme(column) and _are_phrases(column)]
    return phrases[-1] if phrases else None


def word_class_column(columns: Sequence[Sequence[str]]) -> int | None:
    """Return the last column with well-known parts of speech; None if there is none."""
    classes = [number for number, column in enumerate(columns) if _mostly(column, WORD_CLASSES)]
    return classes[-1] if classes else None


def marks_spans(value: Any) -> bool:
    """Return whether a value is labelled spans: ``[[0, 9, "PER"]]``, or objects with a start and a label."""
    if not isinstance(value, list | tuple) or not value:
        return False
    first = value[0]
    if isinstance(first, Mapping):
        return any(name.startswith("start") for name in map(str, first)) and len(first) > 1
    is_triple = isinstance(first, list | tuple) and len(first) >= 3
    return is_triple and all(isinstance(part, int) for part in first[:2])


def _follows_scheme(column: Sequence[str]) -> bool:
    """Return whether the values of a column are O, or a prefix and a type."""
    counts = Counter(column)
    tags = sum(count for tag, count in counts.items() if is_tag(tag))
    return tags >= SHARE * len(column) and any(map(is_prefixed, counts))


def _are_phrases(column: Sequence[str]) -> bool:
    return _mostly([kind.upper() for kind in map(type_of, column) if kind], PHRASES)


def _mostly(values: Sequence[str], vocabulary: frozenset[str]) -> bool:
    return bool(values) and sum(value in vocabulary for value in values) >= 0.8 * len(values)


def _plain_column(columns: Mapping[int, Sequence[str]]) -> int | None:
    """Return the last column with few distinct values including O, preferably with other values too."""
    plain = [
        number for number, column in columns.items() if {"O", "o"} & set(column) and len(set(column)) <= TYPES_AT_MOST
    ]
    with_types = [number for number in plain if len(set(columns[number])) > 1]
    return max(with_types or plain, default=None)


def _share_types(column: Sequence[str], last: Sequence[str]) -> bool:
    """Return whether two columns are layers of nested entities: with a common type, or both with well-known types."""
    if column is last:
        return True
    types = [{_stem(type_of(tag)) for tag in layer} - {""} for layer in (column, last)]
    return bool(types[0] & types[1]) or all(layer & ENTITIES for layer in types)


def _stem(kind: str) -> str:
    for suffix in NESTED_SUFFIXES:
        kind = kind.removesuffix(suffix)
    return kind.upper()


def _counts(column: Sequence[Sequence[str]]) -> bool:
    """Return whether a column counts words: consecutive whole numbers in each sentence."""
    if not any(len(sentence) > 1 for sentence in column):
        return False
    for sentence in column:
        if not all(cell.isdecimal() for cell in sentence):
            return False
        numbers = list(map(int, sentence))
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            return False
    return True


def _is_constant(column: Sequence[Sequence[str]]) -> bool:
    """Return whether a column names documents or sentences: the same value for all words of each sentence."""
    longer = [sentence for sentence in column if len(sentence) > 1]
    return len(longer) > 1 and all(len(set(sentence)) == 1 for sentence in longer)
