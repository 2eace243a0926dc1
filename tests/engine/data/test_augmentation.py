"""Augmentation: what each alteration does, that labels stay with their words, that other data is untouched."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import build_adapter
from hypothesis import given, settings
from hypothesis import strategies as some
from writers import learn, untrained, writing_backbone

from adaptdock.engine.core.assembly import make_task
from adaptdock.engine.data.augmentation import RATES, AugmentationSettings, Augmented, augment, parse
from adaptdock.engine.data.perturbations import swap, wordnet
from adaptdock.engine.data.sources import Source
from adaptdock.engine.inference.back_translation import Translator, back_translated
from adaptdock.engine.training.loop.run import train_plan
from adaptdock.engine.training.planning.hyperparameters import TrainingOptions
from adaptdock.engine.training.planning.plan import plan
from adaptdock.engine.training.planning.shared_data import augmentation_settings
from adaptdock.errors import AdaptError, DataError, UnknownNameError, UsageError
from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins.contracts import Backbone, Record, Task
from adaptdock.tasks.ner import to_bio

NER = make_task("ner", {"labels": ["LOC", "PER"]})
POS = make_task("pos", {"labels": ["ADV", "NOUN", "VERB"]})
TEXTS = make_task("classification", {"labels": ["a", "b"]})
PAIR = make_task("pair", {"labels": ["a", "b"]})
LINE = "The quick children were running home, and Paris was far."
BY_LETTERS = ["swap", "delete", "typos", "case"]


def augmentation(backbone: Any = None, **options: Any) -> AugmentationSettings:
    return augmentation_settings(TrainingOptions(**options), backbone)


def augmented(records: list[Record], task: Task, *names: str, **options: Any) -> Augmented:
    return augment(records, task, augmentation(augment=names, **options))


def one(name: str, text: str = LINE, **options: Any) -> str:
    (copy,) = augmented([{"text": text, "label": "a"}], TEXTS, name, **options).records
    assert copy["label"] == "a"
    return str(copy["text"])


@pytest.fixture
def synonyms(tmp_path: Path) -> str:
    path = tmp_path / "synonyms.txt"
    path.write_text("# by hand\nquick, fast, in a hurry\nhome\tdwelling\n\n")
    return str(path)


# ------------------------------------------------------------------------------------------- by name


def test_dictionary_forms_and_stems_are_those_of_the_libraries() -> None:
    assert one("lemmatize") == "The quick child be run home, and Paris be far."
    assert one("stem", "Cities were running") == "Citi were run"
    assert one("lemmatize", "Häuser liefen", augment_language="de") == "Haus laufen"
    assert one("stem", "die häuser", augment_language="de") == "die haus"


def test_synonyms_come_from_the_file_and_keep_the_capital(synonyms: str) -> None:
    assert one("synonyms:1", "Quick at home!", synonyms=synonyms) in ("Fast at dwelling!", "In a hurry at dwelling!")
    record = {"tokens": ["Quick"], "tags": ["O"]}
    (copy,) = augmented([record], NER, "synonyms:1", synonyms=synonyms).records
    assert copy["tokens"] == ["Fast"]  # a tag is one word's


def test_swapped_words_are_the_same_words_and_marks_stay_where_they_are() -> None:
    altered = one("swap:0.3")
    assert altered != LINE
    assert Counter(altered.strip(".").replace(",", "").split()) == Counter(LINE.strip(".").replace(",", "").split())
    assert [altered.index(mark) > 0 for mark in ",."] == [True, True]
    assert altered[-1] == "."


def test_deleted_words_are_gone_in_proportion_to_the_rate_and_one_is_left() -> None:
    assert len(one("delete:0.3").split()) == len(LINE.split()) - 3
    assert len(one("delete:1").replace(",", "").replace(".", "").split()) == 1
    assert augmented([{"text": "alone", "label": "a"}], TEXTS, "delete:1").records == []


def test_a_typo_changes_a_letter_and_case_nothing_but_case() -> None:
    changed = [(a, b) for a, b in zip(LINE.split(), one("typos:0.1").split(), strict=True) if a != b]
    assert len(changed) == 1
    assert abs(len(changed[0][0]) - len(changed[0][1])) <= 1
    altered = one("case:0.5")
    assert altered != LINE
    assert altered.lower() == LINE.lower()


def test_a_rate_says_how_much_changes_and_copies_how_many_there_are() -> None:
    def changes(rate: float) -> int:
        return sum(a != b for a, b in zip(LINE.split(), one(f"typos:{rate}").split(), strict=True))

    assert changes(0.1) < changes(0.5) < changes(1.0)
    records = [{"text": LINE, "label": "a"}]
    made = augmented(records, TEXTS, "swap", "lemmatize", augment_copies=3)
    assert made.added == {"swap": 3, "lemmatize": 1}  # equal copies are left out
    assert len({record["text"] for record in made.records}) == 4
    assert [record["copy"] for record in made.records] == [1, 2, 3, 4]
    assert made.notes == [
        "augmentation swap:0.1: 3 records added to 1",
        "augmentation lemmatize:1: 1 records added to 1",
    ]


def test_both_texts_of_a_pair_are_altered() -> None:
    (copy,) = augmented([{"text": LINE, "second": "Two mice ran", "label": "a"}], PAIR, "lemmatize").records
    assert (copy["second"], copy["text"][:15]) == ("Two mouse run", "The quick child")


class _WordNet:
    """The part of nltk's corpus reader that is asked for, over two meanings of one word."""

    def __init__(self, there: bool) -> None:
        self.there = there

    def synsets(self, word: str) -> list[Any]:
        if not self.there:
            raise LookupError("Resource wordnet not found.")
        return [self, self] if word == "car" else []

    def lemma_names(self) -> list[str]:
        return ["car", "auto", "motor_car"]


def test_wordnet_gives_the_synonyms_of_all_meanings_and_says_how_its_corpus_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import nltk.corpus

    monkeypatch.setattr(nltk.corpus, "wordnet", _WordNet(there=True))
    assert one("wordnet:1", "my Car") in ("my Auto", "my Motor car")
    assert wordnet("en", single=True)("car") == ["car", "auto"]
    with pytest.raises(UsageError, match="wordnet knows English, not 'sv'"):
        wordnet("sv", single=True)
    monkeypatch.setattr(nltk.corpus, "wordnet", _WordNet(there=False))
    with pytest.raises(UsageError, match=r"python -m nltk\.downloader wordnet"):
        wordnet("en", single=True)


# ------------------------------------------------------------------------------------- tags and words

tokens = some.lists(some.text("abcXYZ1.é", min_size=1, max_size=4), min_size=1, max_size=12)


@some.composite
def sentences(draw: some.DrawFn, tags: tuple[str, ...], bio: bool) -> Record:
    words = draw(tokens)
    found = draw(some.lists(some.sampled_from(tags), min_size=len(words), max_size=len(words)))
    return {"tokens": words, "tags": to_bio(found, "bio", "here")[0] if bio else found}


ENTITIES = sentences(("O", "B-PER", "I-PER", "B-LOC", "I-LOC"), bio=True)
PARTS = sentences(("NOUN", "VERB", "ADV"), bio=False)
seeds = some.integers(0, 1000)
rates = some.sampled_from(["", ":0.5", ":1"])


@pytest.mark.parametrize("name", BY_LETTERS)
@settings(deadline=None, max_examples=60)
@given(record=ENTITIES, rate=rates, seed=seeds)
def test_each_word_has_one_tag_and_tags_stay_legal(name: str, record: Record, rate: str, seed: int) -> None:
    for copy in augmented([record], NER, name + rate, seed=seed).records:
        assert len(copy["tokens"]) == len(copy["tags"]) > 0
        assert all(copy["tokens"])
        assert to_bio(copy["tags"], "bio", "here") == (copy["tags"], 0)


@settings(deadline=None, max_examples=100)
@given(record=ENTITIES, seed=seeds)
def test_swapped_words_take_a_place_of_their_own_tag(record: Record, seed: int) -> None:
    for copy in augmented([record], NER, "swap:1", seed=seed).records:
        assert copy["tags"] == record["tags"]
        pairs = [Counter(zip(kept["tokens"], kept["tags"], strict=True)) for kept in (record, copy)]
        assert pairs[0] == pairs[1]


@settings(deadline=None, max_examples=100)
@given(record=PARTS, seed=seeds)
def test_what_deletion_leaves_has_its_own_tags_in_the_same_order(record: Record, seed: int) -> None:
    for copy in augmented([record], POS, "delete:0.5", seed=seed).records:
        left = iter(zip(record["tokens"], record["tags"], strict=True))
        assert all(pair in left for pair in zip(copy["tokens"], copy["tags"], strict=True))


@settings(deadline=None, max_examples=100)
@given(record=ENTITIES, seed=seeds)
def test_deletion_keeps_the_type_of_each_word_and_joins_no_entities(record: Record, seed: int) -> None:
    numbered = {"tokens": [f"w{number}" for number in range(len(record["tokens"]))], "tags": record["tags"]}
    entity, number = {}, 0
    for word, tag in zip(numbered["tokens"], record["tags"], strict=True):
        number += tag.startswith("B-")
        entity[word] = (number if tag != "O" else 0, tag[2:])
    for copy in augmented([numbered], NER, "delete:0.4", seed=seed).records:
        before = (0, "")
        for word, tag in zip(copy["tokens"], copy["tags"], strict=True):
            assert tag[2:] == entity[word][1]
            if tag != "O":
                assert tag.startswith("I-") == (entity[word] == before)
            before = entity[word]


@settings(deadline=None, max_examples=60)
@given(record=ENTITIES, name=some.sampled_from(["typos:1", "case:1", "lemmatize", "stem"]), seed=seeds)
def test_what_changes_words_in_their_place_leaves_the_tags_alone(record: Record, name: str, seed: int) -> None:
    for copy in augmented([record], NER, name, seed=seed).records:
        assert copy["tags"] == record["tags"]
        assert copy["tokens"] != record["tokens"]


@settings(deadline=None, max_examples=40)
@given(texts=some.lists(some.text(max_size=40), min_size=1, max_size=4), seed=seeds, name=some.sampled_from(BY_LETTERS))
def test_the_same_seed_gives_the_same_copies_and_the_originals_stay(texts: list[str], seed: int, name: str) -> None:
    records = [{"text": text, "label": "b"} for text in texts]
    first, again = (augmented(records, TEXTS, name, seed=seed).records for _ in range(2))
    assert first == again
    assert [record["text"] for record in records] == texts
    assert all(copy["label"] == "b" and copy["text"] not in ("",) for copy in first)


@pytest.mark.parametrize("name", BY_LETTERS)
def test_another_seed_gives_other_copies(name: str) -> None:
    found = {one(name, LINE * 3, seed=seed) for seed in range(5)}
    assert len(found) > 1


def test_swap_has_no_partner_where_each_tag_is_alone() -> None:
    from random import Random

    assert swap(["a", "b"], ["NOUN", "VERB"], 1.0, Random(0)) == ["a", "b"]
    assert augmented([{"tokens": ["a", "b"], "tags": ["NOUN", "VERB"]}], POS, "swap").records == []


class Questions(type(TEXTS)):  # type: ignore[misc]
    """A task whose answers are offsets into ``context``: it names the question alone."""

    texts = ("question",)


def test_a_text_that_labels_point_into_is_not_altered_because_its_task_does_not_name_it() -> None:
    record = {"question": "Where were children running?", "context": LINE, "answers": [4, 9]}
    copies = augmented([record], Questions(TEXTS.options), *BY_LETTERS, "lemmatize").records
    assert copies
    assert all(copy["context"] == LINE and copy["answers"] == [4, 9] for copy in copies)
    assert all(copy["question"] != record["question"] for copy in copies)


# ---------------------------------------------------------------------------------------- in training


def test_validation_and_test_data_are_untouched_and_the_plan_and_card_tell(
    backbone: Backbone, data: Path, tmp_path: Path
) -> None:
    source, options = Source(data=str(data)), {"augment": ["swap:0.4", "delete"], "epochs": 1, "batch_size": 8}
    plain = plan(backbone, "ner", "lora", source, {"epochs": 1})
    made = plan(backbone, "ner", "lora", source, options)
    assert {split: made.records[split] for split in ("validation", "test")} == {
        split: plain.records[split] for split in ("validation", "test")
    }
    assert made.records["train"][:60] == plain.records["train"]
    assert len(made.records["train"]) == 60 + sum(made.added.values())
    assert made.added["delete"] > 50
    assert any("augmentation delete:0.1" in note for note in made.notes)
    assert made.summary()["added"] == made.added
    card = train_plan(made, tmp_path).adapter.card
    assert card.training["added"] == made.added
    assert card.training["options"]["augment"] == ["swap:0.4", "delete"]
    assert card.training["splits"]["validation"] == 20


def test_a_run_that_was_begun_with_other_augmentations_is_not_resumed(
    backbone: Backbone, data: Path, tmp_path: Path
) -> None:
    source = Source(data=str(data))
    identities = [
        plan(backbone, "ner", "lora", source, options).identity()
        for options in ({}, {"augment": ["case"]}, {"augment": ["case"], "augment_copies": 2}, {"augment": ["case"]})
    ]
    assert identities[1] == identities[3]
    assert len({found["data"] for found in identities}) == 3


def test_embeddings_of_altered_pairs_are_trained_as_pairs_of_their_own(backbone: Backbone, tmp_path: Path) -> None:
    made = plan(backbone, "embedding", "lora", Source(), {"augment": ["swap"], "epochs": 1})
    units = [unit[0].labels[2] for unit in made.units]
    assert len(units) == len(set(units)) == len(made.records["train"])


# ---------------------------------------------------------------------------------- back-translation


def test_back_translation_goes_through_two_adapters_of_any_backbone(tmp_path: Path) -> None:
    writer = writing_backbone("bart")
    for name in "ab":
        (tmp_path / name).mkdir()
    there = learn(writer, "translation", [{"source": "a dog", "target": "en hund"}], tmp_path / "a")
    back = learn(writer, "translation", [{"source": "en hund", "target": "the dog"}], tmp_path / "b")
    options = {"back_translation": [str(there.file), str(back.file)]}
    records = [{"text": "a dog", "label": "a"}]
    made = augment(records, TEXTS, augmentation(writer, augment=["back_translate"], **options))
    assert [(copy["text"], copy["label"]) for copy in made.records] == [("the dog", "a")]
    assert made.added == {"back_translate": 1}


def test_texts_that_are_too_long_are_left_out_and_others_stay_beside_their_records() -> None:
    writer = writing_backbone("bart")
    texts = ["a dog", "the cat sat on the mat " * 40, "a cat"]
    found = Translator(writer, None)(texts)
    assert found[1] is None
    assert [found[0], found[2]] == [Translator(writer, None)([text])[0] for text in (texts[0], texts[2])]
    adapted = Translator(writer, untrained(writer, "translation", max_new_tokens=8))(texts)
    assert adapted[1] is None
    assert isinstance(adapted[0], str)


def test_what_does_not_write_does_not_translate(backbone: Backbone, model_folder: Path, tmp_path: Path) -> None:
    write_file(tmp_path / "ner.safetensors", build_adapter(backbone, "lora", {"rank": 2}))
    with pytest.raises(UsageError, match="writes nothing: it is for ner"):
        back_translated(["a"], [str(tmp_path / "ner.safetensors")], backbone)
    with pytest.raises(UsageError, match="is not an encoder-decoder"):
        back_translated(["a"], [str(model_folder)], backbone)


def test_a_rate_of_back_translation_is_a_share_of_the_records() -> None:
    asked: list[str] = []

    def turned(texts: Sequence[str]) -> list[str | None]:
        asked.extend(texts)
        return [text[::-1] for text in texts]

    records = [{"text": f"text {number}", "label": "a"} for number in range(10)]
    options = {"back_translation": ["there", "back"], "augment_copies": 4}
    reversing = replace(augmentation(augment=["back_translate:0.3"], **options), translate=turned)
    made = augment(records, TEXTS, reversing)
    assert len(asked) == len(made.records) == 3


# ------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"augment": ["swop"]}, "unknown augmentation 'swop': did you mean swap"),
        ({"augment": ["swap:2"]}, "a rate is a share above 0 and up to 1, such as swap:0.1"),
        ({"augment": ["swap:much"]}, "a rate is a share"),
        ({"augment": ["swap", "swap:0.3"]}, "names 'swap' twice"),
    ],
)
def test_a_wrong_name_or_rate_is_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(AdaptError, match=words):
        parse(options["augment"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"augment": ["synonyms"]}, "augment synonyms and synonyms FILE go together"),
        ({"synonyms": "a.txt"}, "augment synonyms and synonyms FILE go together"),
        ({"augment": ["back_translate"]}, "back_translation THERE,BACK go together"),
        ({"augment": ["back_translate"], "back_translation": ["a"]}, "back_translation THERE,BACK go together"),
        ({"back_translation": ["a", "b"]}, "back_translation THERE,BACK go together"),
    ],
)
def test_options_that_need_each_other_are_given_together(
    backbone: Backbone, data: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        plan(backbone, "ner", "lora", Source(data=str(data)), options)


def test_tasks_without_words_that_may_change_and_translated_tags_are_refused() -> None:
    with pytest.raises(UsageError, match="CLM names no text or words that may be altered"):
        augmented([{"texts": ["a"]}], make_task("clm", {}), "swap")
    with pytest.raises(UsageError, match="nothing says which tag is whose"):
        augmented([], NER, "back_translate", back_translation=["a", "b"])


def test_languages_and_files_that_are_not_there_are_told(tmp_path: Path, synonyms: str) -> None:
    with pytest.raises(UsageError, match="simplemma has no dictionary of the language 'xx'"):
        one("lemmatize", augment_language="xx")
    with pytest.raises(UnknownNameError, match="unknown language of stems 'xx'"):
        one("stem", augment_language="xx")
    with pytest.raises(DataError, match="there is no such file"):
        one("synonyms", synonyms=str(tmp_path / "none.txt"))
    (tmp_path / "one.txt").write_text("fast, quick\nalone\n")
    with pytest.raises(DataError, match=r"one.txt:2: .* this one 'alone'"):
        one("synonyms", synonyms=str(tmp_path / "one.txt"))
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(DataError, match="there are no synonyms in it"):
        one("synonyms", synonyms=str(tmp_path / "empty.txt"))


@pytest.mark.parametrize(
    ("name", "library"), [("lemmatize", "simplemma"), ("stem", "snowballstemmer"), ("wordnet", "nltk")]
)
def test_a_library_that_is_missing_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, name: str, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"{library}.corpus", raising=False)
    with pytest.raises(UsageError, match=rf"--augment {name} needs {library}.*pip install 'adaptdock\[augment\]'"):
        one(name)


def test_every_augmentation_is_named_in_the_help() -> None:
    described = TrainingOptions.model_fields["augment"].description or ""
    assert all(name in described for name in RATES)
