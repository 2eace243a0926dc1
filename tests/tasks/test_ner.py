"""The ner task: tag schemes, alignment, windows, legal sequences, spans."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import tiny_tokenizer
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB1, IOB2, IOBES, Entities

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Reading
from adaptdock.tasks.ner import NER, NEROptions, best_path, detect_scheme, entity_spans, to_bio

TYPES = ["PER", "LOC"]
ENTITIES = st.lists(st.tuples(st.sampled_from(["O", *TYPES]), st.integers(1, 3)), max_size=12)
TASK = NER(NEROptions(labels=("LOC", "PER")))


def tagged(entities: list[tuple[str, int]], scheme: str) -> list[str]:
    """Write runs of words in a scheme, the straightforward way."""
    tags: list[str] = []
    for kind, length in entities:
        if kind == "O":
            tags += ["O"] * length
        elif scheme == "bio":
            tags += [f"B-{kind}"] + [f"I-{kind}"] * (length - 1)
        elif scheme == "iob1":
            first = "B" if tags and tags[-1][2:] == kind else "I"
            tags += [f"{first}-{kind}"] + [f"I-{kind}"] * (length - 1)
        elif scheme == "bioes":
            tags += [f"S-{kind}"] if length == 1 else [f"B-{kind}", *[f"I-{kind}"] * (length - 2), f"E-{kind}"]
    return tags


@given(ENTITIES, st.sampled_from(["bio", "iob1", "bioes"]))
def test_every_scheme_becomes_the_same_bio(entities: list[tuple[str, int]], scheme: str) -> None:
    converted, repaired = to_bio(tagged(entities, scheme), scheme, "here")
    assert converted == tagged(entities, "bio")
    assert repaired == 0


@given(ENTITIES, st.sampled_from([("bio", IOB2), ("iob1", IOB1), ("bioes", IOBES)]))
def test_spans_agree_with_seqeval_in_every_scheme(entities: list[tuple[str, int]], scheme: tuple) -> None:
    name, oracle = scheme
    tags = tagged(entities, name)
    expected = [(entity.tag, entity.start, entity.end) for entity in Entities([tags], oracle).entities[0]]
    assert entity_spans(to_bio(tags, name, "here")[0]) == expected


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        (["B-PER", "I-PER", "O"], "bio"),
        (["I-PER", "I-PER", "B-PER", "O"], "iob1"),
        (["B-PER", "E-PER", "S-LOC"], "bioes"),
        (["B-PER", "L-PER", "U-LOC"], "bioes"),
        (["PER", "PER", "O"], "io"),
        (["I-PER", "O", "I-LOC"], "io"),
        (["O", "O"], "bio"),
    ],
)
def test_the_scheme_is_found_from_the_tags(tags: list[str], scheme: str) -> None:
    assert detect_scheme([tags]) == scheme


def test_broken_sequences_are_repaired_and_counted() -> None:
    tags, repaired = to_bio(["O", "I-PER", "I-LOC", "B-LOC", "I-LOC"], "bio", "here")
    assert tags == ["O", "B-PER", "B-LOC", "B-LOC", "I-LOC"]
    assert repaired == 2
    cleaned = NER(NEROptions()).clean([{"tokens": ["a", "b"], "tags": ["B-PER", "I-LOC"]}], "train")
    assert cleaned.notes == ["train: 1 tags repaired that no BIO sequence can have"]


@pytest.mark.parametrize("tag", ["X-PER", "B-", "PER", "B PER"])
def test_a_tag_of_no_scheme_is_refused_with_its_place(tag: str) -> None:
    with pytest.raises(DataError, match=r"file:7: .* is not an entity tag"):
        to_bio(["O", tag], "bio", "file:7")


def test_unequal_numbers_of_tokens_and_tags_are_refused() -> None:
    with pytest.raises(DataError, match="file:3: 2 tokens but 1 tags"):
        NER(NEROptions()).clean([{"tokens": ["a", "b"], "tags": ["O"], "where": "file:3"}], "train")


def test_types_are_learnt_from_training_data_and_a_new_one_in_validation_is_refused() -> None:
    task = NER(NEROptions()).fit([{"tokens": ["a", "b"], "tags": ["B-PER", "B-LOC"]}])
    assert task.options.labels == ("LOC", "PER")
    with pytest.raises(DataError, match=r"dev:9: the entity type 'ORG' occurs in validation"):
        task.check([{"tokens": ["a"], "tags": ["B-ORG"], "where": "dev:9"}], "validation")


@given(st.lists(st.lists(st.floats(-5, 5), min_size=5, max_size=5), min_size=1, max_size=6))
def test_the_best_path_is_legal_and_no_legal_one_is_better(rows: list[list[float]]) -> None:
    from itertools import pairwise, product

    scores, tags = torch.tensor(rows), TASK.tags
    found = best_path(scores, tags)

    def legal(path: tuple[int, ...]) -> bool:
        named = ["O", *(tags[number] for number in path)]
        return all(after[:2] != "I-" or before[2:] == after[2:] for before, after in pairwise(named))

    def total(path: tuple[int, ...]) -> float:
        return sum(row[number] for row, number in zip(rows, path, strict=True))

    assert legal(tuple(found))
    best = max(total(path) for path in product(range(5), repeat=len(rows)) if legal(path)) if len(rows) < 5 else None
    assert best is None or total(tuple(found)) == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("max_length", [32, 48, 128])
def test_each_word_is_labelled_once_however_many_windows_there_are(max_length: int, causal: bool) -> None:
    tokens = [f"word{number}" for number in range(40)]
    tags = ["B-PER" if number % 3 == 0 else "O" for number in range(40)]
    reading = Reading(tiny_tokenizer(), max_length, causal)
    features = TASK.encode({"tokens": tokens, "tags": tags}, reading, labelled=True)
    assert all(len(feature.inputs["input_ids"]) <= max_length for feature in features)
    assert sorted(word for feature in features for word, _ in feature.alignment) == list(range(40))
    labels = [label for feature in features for label in feature.labels if label != -100]
    assert labels.count(TASK.tags.index("B-PER")) == 14
    assert len(labels) == 40
    for feature in features:
        for word, position in feature.alignment:
            piece = reading.tokenizer.convert_ids_to_tokens(feature.inputs["input_ids"][position])
            assert piece == (f"##{tokens[word][-1]}" if causal else "w")


def perfect_logits(features: list, words: list[int]) -> list[torch.Tensor]:
    logits = []
    for feature in features:
        scores = torch.zeros(len(feature.inputs["input_ids"]), 5)
        for word, position in feature.alignment:
            scores[position, words[word]] = 9.0
        logits.append(scores)
    return logits


def test_predictions_are_spans_of_the_text_with_offsets_and_score() -> None:
    text = "Ada  Lovelace's house (London)!"
    record = TASK.read(text)
    assert record["tokens"] == ["Ada", "Lovelace", "'s", "house", "(", "London", ")", "!"]
    features = TASK.encode(record, Reading(tiny_tokenizer(), 64), labelled=False)
    numbers = [TASK.tags.index(tag) for tag in ("B-PER", "I-PER", "O", "O", "O", "B-LOC", "O", "O")]
    prediction = TASK.decode(record, features, perfect_logits(features, numbers))
    assert [text[entity["start"] : entity["end"]] for entity in prediction["entities"]] == ["Ada  Lovelace", "London"]
    assert [entity["label"] for entity in prediction["entities"]] == ["PER", "LOC"]
    assert all(0.99 < entity["score"] <= 1 for entity in prediction["entities"])
    assert TASK.render(prediction) == "[Ada  Lovelace|PER]'s house ([London|LOC])!"


@pytest.mark.parametrize("text", ["", "   ", "\u200b", "!!!"])
def test_a_text_without_words_has_no_entities(text: str) -> None:
    record = TASK.read(text)
    features = TASK.encode(record, Reading(tiny_tokenizer(), 64), labelled=False)
    logits = [torch.zeros(len(feature.inputs["input_ids"]), 5) for feature in features]
    assert TASK.decode(record, features, logits)["entities"] == []


@given(st.text(max_size=60))
def test_any_text_can_be_read_and_its_words_are_where_they_are_said_to_be(text: str) -> None:
    record = TASK.read(text)
    assert [text[start:end] for start, end in record["spans"]] == record["tokens"]
    features = TASK.encode(record, Reading(tiny_tokenizer(), 16), labelled=False)
    words = [word for feature in features for word, _ in feature.alignment]
    assert len(words) == len(set(words))


@pytest.mark.parametrize("item", [None, 5, ["a"], {"txt": "a"}])
def test_an_input_that_is_no_text_is_refused(item: object) -> None:
    with pytest.raises(DataError, match="words are tagged in a text"):
        TASK.read(item)


@given(st.lists(st.tuples(ENTITIES, ENTITIES), min_size=1, max_size=5))
def test_scores_count_whole_entities(pairs: list) -> None:
    gold, found = [], []
    for one, other in pairs:
        a, b = tagged(one, "bio"), tagged(other, "bio")
        size = min(len(a), len(b))
        gold.append({"tags": a[:size]})
        found.append({"tags": b[:size]})
    scores = TASK.score(gold, found)
    right = sum(
        len({*get_entities(one["tags"])} & {*get_entities(other["tags"])})
        for one, other in zip(gold, found, strict=True)
    )
    total = sum(len(get_entities(one["tags"])) for one in gold)
    assert scores["recall"] == pytest.approx(100 * right / total if total else 0, abs=0.01)


def test_the_sample_corpus_is_sound_and_its_splits_share_no_sentence() -> None:
    from adaptdock.engine.data.sources import Source, load_splits

    splits, _ = load_splits(Source(), NER)
    assert {split: len(records) for split, records in splits.items()} == {"train": 595, "validation": 85, "test": 84}
    sentences = [" ".join(record["tokens"]).lower() for records in splits.values() for record in records]
    assert len(sentences) == len(set(sentences))
    task = NER(NEROptions())
    for split, records in splits.items():
        assert task.clean(records, split).notes == []
    assert task.fit(splits["train"]).options.labels == ("LOC", "MISC", "ORG", "PER")


@pytest.mark.parametrize("tags", [["B", "I"], ["0", "3"], ["O", "5"]])
def test_tags_without_a_type_are_refused(tags: list[str]) -> None:
    with pytest.raises(DataError, match=r"here:1: the tag '.' names no type"):
        NER(NEROptions()).clean([{"tokens": ["a", "b"], "tags": tags, "where": "here:1"}], "train")


@pytest.mark.parametrize(
    "record", [{"tokens": 5, "tags": []}, {"tokens": ["a"], "tags": [0]}, {"tokens": [None], "tags": ["O"]}]
)
def test_tokens_and_tags_that_are_no_texts_are_refused(record: dict) -> None:
    with pytest.raises(DataError, match="are a list of texts"):
        NER(NEROptions()).clean([record], "train")


def test_a_type_with_hyphens_is_read_whole() -> None:
    assert to_bio(["WORK-OF-ART", "WORK-OF-ART", "O"], "io", "here") == (["B-WORK-OF-ART", "I-WORK-OF-ART", "O"], 0)


def test_combining_marks_do_not_divide_a_word() -> None:
    import unicodedata

    for text in ("हिन्दी भाषा", unicodedata.normalize("NFD", "José García")):
        assert TASK.read(text)["tokens"] == text.split()


def test_tokens_given_as_one_text_are_divided_by_spaces() -> None:
    assert TASK.read({"tokens": "Ada Lovelace"})["tokens"] == ["Ada", "Lovelace"]
