"""The translation task: languages by column or by name, parallel files, BLEU and chrF."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from builders import build_adapter
from writers import learn, untrained, writing_backbone, writing_tokenizer

from adaptdock.engine.data.sources import Source, load_splits
from adaptdock.engine.inference.dock import Dock
from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Reading
from adaptdock.tasks.translation import Translation, TranslationOptions

TOKENIZER = writing_tokenizer()
PAIR = {"translation": {"en": "the cat", "sv": "katten"}}


def task(**options: Any) -> Translation:
    return Translation(TranslationOptions(**options))


def cleaned(mine: Translation, row: dict[str, Any], folder: Path) -> dict[str, Any]:
    (folder / "a.jsonl").write_text(f"{json.dumps(row)}\n" * 2)
    splits, _ = load_splits(Source(test=str(folder / "a.jsonl")), Translation)
    return mine.clean(splits["test"], "test").records[0]


# ----------------------------------------------------------------------------------------------- data


def test_the_languages_are_columns_or_stand_under_their_names(tmp_path: Path) -> None:
    rows = [{"source": "the cat", "target": "katten"}, {"src": "the cat", "tgt": ["katten"]}, PAIR]
    for row in rows:
        record = cleaned(task(source_lang="en", target_lang="sv"), row, tmp_path)
        assert (record["source"], record["target"]) == ("the cat", ["katten"])
    record = cleaned(task(source_lang="sv", target_lang="en"), PAIR, tmp_path)
    assert (record["source"], record["target"]) == ("katten", ["the cat"])


def test_a_language_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"jsonl:1: there are translations in en, sv; --source-lang says which, not ''"):
        cleaned(task(), PAIR, tmp_path)
    with pytest.raises(DataError, match="in en, sv; --target-lang says which, not 'de'"):
        cleaned(task(source_lang="en", target_lang="de"), PAIR, tmp_path)


def test_a_table_without_a_header_is_read_and_one_text_stays_in_one_split(tmp_path: Path) -> None:
    lines = [f"sentence {number // 3}.\tmening {number}.\tsomebody" for number in range(60)]
    (tmp_path / "swe.txt").write_text("\n".join(lines))
    source = Source(str(tmp_path / "swe.txt"), format="tsv", columns={"source": "0", "target": "1"})
    splits, _ = load_splits(source, Translation)
    assert sum(map(len, splits.values())) == 60
    assert splits["train"][0].keys() == {"where", "source", "target"}
    train, held = ({record["source"] for record in splits[name]} for name in ("train", "validation"))
    assert held
    assert not train & held


def test_texts_by_language_are_kept_together_by_the_first() -> None:
    again = {"source": {"en": "the cat", "sv": "missen"}}
    assert Translation.group({"source": PAIR["translation"]}) == Translation.group(again) == "the cat"


def test_parallel_files_are_read_line_by_line_and_must_be_of_one_length(tmp_path: Path) -> None:
    english, swedish = tmp_path / "a.en", tmp_path / "a.sv"
    english.write_text("the cat\nthe dog\n")
    swedish.write_text("katten\nhunden\n")
    both = Source(train=f"{english},{swedish}")
    splits, _ = load_splits(both, Translation)
    records = sorted((found["source"], found["target"]) for records in splits.values() for found in records)
    assert records == [("the cat", "katten"), ("the dog", "hunden")]
    swedish.write_text("katten\n")
    with pytest.raises(DataError, match=r"a\.en has 2, .*a\.sv has 1"):
        load_splits(both, Translation)


def test_a_line_without_a_translation_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.en").write_text("the cat\nthe dog\n")
    (tmp_path / "a.sv").write_text("katten\n\n")
    splits, _ = load_splits(Source(test=f"{tmp_path}/a.en,{tmp_path}/a.sv"), Translation)
    with pytest.raises(DataError, match=r"a\.en:2: the target is empty"):
        task().clean(splits["test"], "test")


def test_an_input_is_a_text_or_an_object_with_one() -> None:
    mine = task(source_lang="en", target_lang="sv")
    for item in ("the cat", {"source": "the cat"}, PAIR):
        assert mine.read(item) == {"source": "the cat"}
    with pytest.raises(DataError, match="an input: the source is a text"):
        mine.read({"target": "katten"})
    with pytest.raises(DataError, match="an input: there are translations in de; --source-lang says which, not 'en'"):
        mine.read({"translation": {"de": "die Katze"}})


def test_the_sample_is_sound_and_its_splits_share_no_sentence() -> None:
    splits, _ = load_splits(Source(), Translation)
    assert {split: len(records) for split, records in splits.items()} == {"train": 89, "validation": 12, "test": 12}
    texts = [record["source"] for records in splits.values() for record in records]
    assert len(texts) == len(set(texts))
    assert all(task().clean(records, split).notes == [] for split, records in splits.items())


# ------------------------------------------------------------------------------------------- prompts


def test_the_prompt_of_a_decoder_names_the_languages_and_an_encoder_reads_the_text() -> None:
    def asked(mine: Translation, decoder_start: int | None = None) -> str:
        reading = Reading(TOKENIZER, 128, causal=decoder_start is None, decoder_start=decoder_start)
        return str(TOKENIZER.decode(mine.prompt(mine.read("the cat"), reading).inputs["input_ids"]))

    named = task(source_lang="English", target_lang="{Swedish}")
    assert asked(task()) == "Translate:\nthe cat\n\nTranslation:\n"
    assert asked(named) == "Translate from English to {Swedish}:\nthe cat\n\nTranslation:\n"
    assert asked(named, decoder_start=0) == "the cat"
    assert asked(task(prompt="to Swedish: {source}"), decoder_start=0) == "to Swedish: the cat"


# -------------------------------------------------------------------------------------------- metrics


def bleu(references: list[list[str]], texts: list[str]) -> float:
    """BLEU as Papineni et al. wrote it down, for texts that are words alone."""
    total = length = nearest = 0.0
    for size in range(1, 5):
        right = count = 0
        for given, text in zip(references, texts, strict=True):
            found = ngrams(text, size)
            most = Counter[tuple[str, ...]]()
            for reference in given:
                most |= ngrams(reference, size)
            right += sum((found & most).values())
            count += sum(found.values())
        total += math.log(right / count) / 4
    for given, text in zip(references, texts, strict=True):
        words = len(text.split())
        length += words
        nearest += min((abs(len(other.split()) - words), len(other.split())) for other in given)[1]
    return round(100 * math.exp(total + min(0.0, 1 - nearest / length)), 2)


def ngrams(text: str, size: int) -> Counter[tuple[str, ...]]:
    words = text.split()
    return Counter(tuple(words[start : start + size]) for start in range(len(words) - size + 1))


def test_bleu_is_that_of_the_formula_with_any_number_of_references() -> None:
    references = [
        ["katten sitter på den gamla mattan", "katten satt på mattan i går"],
        ["hunden sprang hem till sin matte i går"],
    ]
    texts = ["katten satt på den gamla mattan", "hunden sprang hem till sin husse"]
    records = task().clean([{"source": "x", "target": given} for given in references], "test").records
    found = task().compare(records, [{"text": text} for text in texts])
    assert found["bleu"] == pytest.approx(bleu(references, texts), abs=0.01)


def test_chrf_is_that_of_the_formula() -> None:
    # chrF2 of "ab" against "abc": precision 1, 1; recall 2/3, 1/2; F2 of the means over orders that both have
    (record,) = task().clean([{"source": "x", "target": "abc"}], "test").records
    precision, recall = 1.0, (2 / 3 + 1 / 2) / 2
    wanted = 100 * 5 * precision * recall / (4 * precision + recall)
    assert task().compare([record], [{"text": "ab"}])["chrf"] == pytest.approx(wanted, abs=0.01)


def test_a_right_translation_scores_a_hundred_and_none_at_all_nothing() -> None:
    (record,) = task().clean([{"source": "x", "target": ["katten satt på mattan i går", "a"]}], "test").records
    assert task().compare([record], [{"text": "katten satt på mattan i går"}]) == {"bleu": 100.0, "chrf": 100.0}
    assert task().compare([record], [{"text": ""}]) == {"bleu": 0.0, "chrf": 0.0}


# ----------------------------------------------------------------------------------------- end to end


ROWS = [("the cat sat", "katten satt"), ("the dog ran", "hunden sprang"), ("the sea", "havet"), ("a mat", "en matta")]


@pytest.mark.parametrize("architecture", ["llama", "bart"])
def test_four_translations_are_learnt_by_heart_and_written(architecture: str, tmp_path: Path) -> None:
    backbone = writing_backbone(architecture)
    rows = [{"translation": {"en": source, "sv": target}} for source, target in ROWS]
    result = learn(backbone, "translation", rows, tmp_path, source_lang="en", target_lang="sv", written=3)
    metrics = result.adapter.card.metrics["test"]
    assert (metrics["written"], metrics["chrf"]) == (3, 100.0)
    dock = Dock(backbone)
    name = dock.load(result.file)
    found = dock.predict(name, [source for source, _ in ROWS])
    assert [prediction["text"] for prediction in found] == [target for _, target in ROWS]
    dock.close()


def test_writers_and_readers_share_a_call() -> None:
    backbone = writing_backbone("llama")
    dock = Dock(backbone)
    writer = dock.dock(untrained(backbone, "translation", max_new_tokens=6))
    names = [writer, dock.dock(build_adapter(backbone, "lora", name="ner"))] * 2
    texts = ["the cat sat", "the cat sat", "the sea", "the sea"]
    together = dock.predict(names, texts)
    assert together == [dock.predict(name, [text])[0] for name, text in zip(names, texts, strict=True)]
    assert ["entities" in found for found in together] == [False, True] * 2
    dock.close()
