"""The summarization task: long texts, several summaries, ROUGE, and both kinds of language model."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from writers import CHAT, learn, learnt, writing_backbone, writing_tokenizer

from adaptdock.engine.data.sources import Source, load_splits
from adaptdock.engine.inference.dock import Dock
from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Feature, Reading
from adaptdock.tasks.summarization import Summarization, SummarizationOptions
from adaptdock.tasks.writing.rouge import rouge

TOKENIZER, CHATTING = writing_tokenizer(), writing_tokenizer(CHAT)
ENGLISH = st.text(alphabet="the catsing dogrunedly 12.,'-", max_size=40)
TEXT = "the cat sat on the mat and the dog ran"


def task(**options: Any) -> Summarization:
    return Summarization(SummarizationOptions(**options))


def one(record: dict[str, Any], reading: Reading, **options: Any) -> Feature:
    (cleaned,) = task(**options).clean([record], "train").records
    (feature,) = task(**options).encode(cleaned, reading, labelled=True)
    return feature


def both_halves(max_length: int = 128, tokenizer: Any = TOKENIZER) -> Reading:
    return Reading(tokenizer, max_length, causal=False, decoder_start=7)


# ----------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize(
    "names", [("source", "target"), ("document", "summary"), ("article", "highlights"), ("dialogue", "summary")]
)
def test_columns_of_known_data_sets_are_found(names: tuple[str, str], tmp_path: Path) -> None:
    source, target = names
    path = tmp_path / "a.jsonl"
    path.write_text(f"{json.dumps({source: TEXT, target: 'cat'})}\n" * 2)
    (record, _) = load_splits(Source(test=str(path)), Summarization)[0]["test"]
    assert (record["source"], record["target"]) == (TEXT, "cat")


def test_sentences_are_joined_and_of_several_summaries_the_first_is_learnt() -> None:
    record = {"source": ["The cat sat. ", "It ran."], "target": ["a cat", "an animal"], "where": "file:1"}
    cleaned = task().clean([record, {**record, "target": "a cat"}], "test")
    assert [found["source"] for found in cleaned.records] == ["The cat sat. It ran."] * 2
    assert [found["target"] for found in cleaned.records] == [["a cat", "an animal"], ["a cat"]]
    assert cleaned.notes == ["test: 1 records have several answers: the first is learnt, all are compared"]
    feature = one(record, both_halves())
    assert TOKENIZER.decode(feature.labels) == "a cat<end>"
    assert task().describe(cleaned.records) == {"records": 2, "words to write": 4}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"source": TEXT, "target": None}, "file:1: the target is a text, or a list of sentences; it is missing"),
        ({"source": TEXT, "target": ""}, "file:1: the target is empty"),
        ({"source": TEXT, "target": []}, "file:1: the target is missing"),
        ({"source": TEXT, "target": ["a", " "]}, "file:1: the target is empty"),
        ({"source": TEXT, "target": 3}, "file:1: the target is a text, or a list of sentences; found 3"),
        ({"source": " ", "target": "a"}, "file:1: the source is empty"),
        (
            {"source": ["a", 1], "target": "a"},
            r"file:1: the source is a text, or a list of sentences; found \['a', 1\]",
        ),
    ],
)
def test_faulty_records_are_refused_with_their_place(record: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        task().clean([{**record, "where": "file:1"}], "train")


def test_an_input_is_a_text_or_an_object_with_one() -> None:
    for item in (
        TEXT,
        {"text": TEXT},
        {"document": TEXT, "summary": "a"},
        {"source": ["the cat sat on the mat", TEXT[23:]]},
    ):
        assert task().read(item) == {"source": TEXT}
    assert task().read("") == {"source": ""}
    for item in (5, {"txt": TEXT}, None):
        with pytest.raises(DataError, match="an input: the source is a text"):
            task().read(item)


def test_texts_that_stand_several_times_stay_in_one_split(tmp_path: Path) -> None:
    rows = [{"source": f"text {number // 4}", "target": f"summary {number}"} for number in range(40)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    splits, _ = load_splits(Source(str(tmp_path)), Summarization)
    train, held = ({record["source"] for record in splits[name]} for name in ("train", "validation"))
    assert held
    assert not train & held


def test_the_sample_is_sound_and_its_splits_share_no_text() -> None:
    splits, _ = load_splits(Source(), Summarization)
    assert {split: len(records) for split, records in splits.items()} == {"train": 36, "validation": 8, "test": 8}
    texts = [record["source"] for records in splits.values() for record in records]
    assert len(texts) == len(set(texts))
    for split, records in splits.items():
        cleaned = task().clean(records, split)
        assert cleaned.notes == []
        assert all(len(record["target"][0]) < len(record["source"]) for record in cleaned.records)


# -------------------------------------------------------------------------------------------- windows


def test_a_decoder_reads_a_prompt_and_an_encoder_the_text_itself() -> None:
    causal = Reading(TOKENIZER, 128, causal=True)
    record = task().read(TEXT)
    found = {kind: task().prompt(record, read) for kind, read in (("causal", causal), ("halves", both_halves()))}
    decoded = {kind: TOKENIZER.decode(feature.inputs["input_ids"]) for kind, feature in found.items()}
    assert decoded == {"causal": f"Summarize:\n{TEXT}\n\nSummary:\n", "halves": TEXT}
    mine = task(prompt=r"{source}\nTL;DR: ", system="be short")
    for read in (causal, both_halves()):
        ids = mine.prompt(record, read).inputs["input_ids"]
        assert TOKENIZER.decode(ids) == f"be short\n\n{TEXT}\nTL;DR: "


def test_a_decoder_half_reads_what_it_has_written_and_learns_what_comes_next() -> None:
    feature = one({"source": TEXT, "target": "a cat"}, both_halves())
    answer = TOKENIZER("a cat")["input_ids"]
    assert feature.labels == [*answer, 2]
    assert feature.inputs["decoder_input_ids"] == [7, *answer]
    assert feature.inputs["decoder_attention_mask"] == [1] * len(feature.labels)
    assert feature.inputs["input_ids"] == TOKENIZER(TEXT)["input_ids"]


def test_special_tokens_that_the_tokenizer_adds_are_kept_and_the_end_stands_once() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = writing_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    feature = one({"source": TEXT, "target": "a cat"}, both_halves(12, tokenizer))
    ids = feature.inputs["input_ids"]
    assert (len(ids), ids[0], ids[-1]) == (12, 1, 2)
    assert TEXT.startswith(tokenizer.decode(ids[1:-1]))
    assert feature.cut == len(tokenizer(TEXT)["input_ids"]) - 12
    assert tokenizer.decode(feature.labels) == "<start>a cat<end>"
    causal = one({"source": TEXT, "target": "a cat"}, Reading(tokenizer, 128, causal=True))
    assert tokenizer.decode(causal.inputs["input_ids"]) == f"<start>Summarize:\n{TEXT}\n\nSummary:\na cat"


@settings(deadline=None)
@given(source=st.integers(1, 60), target=st.integers(1, 40), room=st.integers(40, 60))
def test_nothing_is_longer_than_a_window_and_the_answer_is_whole_where_it_can_be(
    source: int, target: int, room: int
) -> None:
    record = {"source": "n " * source, "target": "m " * target}
    for tokenizer in (TOKENIZER, CHATTING):
        for reading in (Reading(tokenizer, room, causal=True), both_halves(room, tokenizer)):
            feature, whole = (
                one(record, read) for read in (reading, Reading(tokenizer, 999, True, reading.decoder_start))
            )
            lengths = {name: len(ids) for name, ids in feature.inputs.items()}
            assert max(lengths.values()) <= room
            assert lengths["input_ids"] == lengths["attention_mask"]
            lost = sum(
                len(whole.inputs[name]) - len(feature.inputs[name]) for name in feature.inputs if name.endswith("ids")
            )
            assert feature.cut == lost
            if feature.labels[-1] == 2:
                assert learnt(feature) == learnt(whole)


# ---------------------------------------------------------------------------------------------- ROUGE


def test_rouge_counts_words_pairs_and_words_in_order() -> None:
    # 3 of 4 words are common, 1 of 3 pairs, and "the cat on" are in order
    found = rouge([["the cat sat on"]], ["the cat on it"])
    assert found == {"rouge1": 75.0, "rouge2": 33.33, "rougeL": 75.0}


@settings(deadline=None)
@given(ENGLISH, ENGLISH)
def test_rouge_of_english_is_the_librarys(reference: str, text: str) -> None:
    wanted = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True).score(reference, text)
    assert rouge([[reference]], [text]) == {kind: round(100 * found.fmeasure, 2) for kind, found in wanted.items()}


def test_a_summary_is_compared_with_the_reference_of_the_highest_rouge_1() -> None:
    near, pair = "a dog and the cat sat here", "cat sat"
    single = {text: rouge([[text]], ["the cat sat"]) for text in (near, pair)}
    assert single[pair]["rouge1"] > single[near]["rouge1"]
    assert single[pair]["rouge2"] > single[near]["rouge2"]
    assert rouge([[near, pair]], ["the cat sat"]) == single[pair]
    order = "sat cat the"  # the best by single words, though no pair of them is common
    assert rouge([[pair, order]], ["the cat sat"])["rouge2"] == 0


def test_letters_of_other_alphabets_are_letters() -> None:
    assert rouge([["på ön"]], ["på sjön"])["rouge1"] == 50.0
    assert rouge([["हिन्दी भाषा"]], ["हिन्दी"])["rouge1"] == 66.67
    assert rouge([["the sea"]], [""]) == {"rouge1": 0.0, "rouge2": 0.0, "rougeL": 0.0}


def test_written_summaries_are_compared_with_all_given_ones() -> None:
    records = task().clean([{"source": TEXT, "target": ["a mat", "the cat sat"]}], "test").records
    assert task().compare(records, [{"text": "the cat sat"}]) == {"rouge1": 100.0, "rouge2": 100.0, "rougeL": 100.0}


# ----------------------------------------------------------------------------------------- end to end


ROWS = [
    {"source": "the cat sat on the mat", "target": "a cat sits"},
    {"source": "the dog ran to the sea", "target": ["a dog runs", "it ran"]},
    {"source": ["the rain fell", "the roof held"], "target": "rain falls"},
    {"source": "a text about the sea", "target": "of water"},
]


@pytest.mark.parametrize("architecture", ["llama", pytest.param("t5", marks=pytest.mark.slow), "bart"])
def test_four_summaries_are_learnt_by_heart_and_written(architecture: str, tmp_path: Path) -> None:
    backbone = writing_backbone(architecture)
    beams, epochs = (2 if architecture == "bart" else 1), (160 if architecture == "t5" else 60)
    result = learn(backbone, "summarization", ROWS, tmp_path, epochs, num_beams=beams)
    assert result.adapter.card.metrics["test"]["rouge2"] == 100.0
    dock = Dock(backbone)
    name = dock.load(result.file)
    texts = [row["source"] for row in ROWS]
    together = dock.predict(name, texts)
    assert [found["text"] for found in together] == ["a cat sits", "a dog runs", "rain falls", "of water"]
    assert [dock.predict(name, [text])[0] for text in texts] == together
    dock.close()
