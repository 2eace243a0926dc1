"""ELMo: equal to its equations in plain numpy, whatever its options; what cannot be loaded is refused with a reason."""

import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from recurrent import elmo_layers, elmo_options, elmo_weights, write_elmo

from adaptdock.backbones.elmo import ELMo, ELMoBackbone
from adaptdock.backbones.recurrent.character_tokenizer import CharacterTokenizer
from adaptdock.engine.core.batches import collate
from adaptdock.engine.core.loading import load_backbone
from adaptdock.errors import BackboneError
from adaptdock.plugins.contracts import Batch, Feature, LoadOptions, Reading
from adaptdock.plugins.toolkit.windowing import align, located_windows, windows

CASES: dict[str, dict[str, Any]] = {
    "skip connections": elmo_options(),
    "no skip connections": elmo_options({"use_skip_connections": False}),
    "no clips": elmo_options({"cell_clip": None, "proj_clip": None}),
    "one layer": elmo_options({"n_layers": 1}),
    "three layers": elmo_options({"n_layers": 3}),
    "no highway": elmo_options(cnn={"n_highway": 0}),
    "one highway, tanh": elmo_options(cnn={"n_highway": 1, "activation": "tanh"}),
    "a cell as wide as its output": elmo_options({"dim": 12}),
    "filters as many as the width": elmo_options({"projection_dim": 20, "dim": 32}),
    "short words, one filter": elmo_options(cnn={"max_characters_per_token": 8, "filters": [[3, 16]]}),
}
SENTENCES = [
    ["Ada", "met", "Bob", "in", "Göteborg", "."],
    ["rain"],
    ["an", "incomprehensibilities-of-incomprehensibilities-of-incomprehensibilities", "!"],
]
CPU = LoadOptions(device="cpu")


def loaded(folder: Path, options: dict[str, Any] | None = None) -> ELMoBackbone:
    return ELMo().load(str(write_elmo(folder, options)), CPU)


@pytest.mark.parametrize("case", CASES)
def test_every_layer_is_that_of_the_equations_and_the_state_is_carried_if_asked_for(case: str, tmp_path: Path) -> None:
    options = CASES[case]
    mine, weights = loaded(tmp_path / "elmo", options), elmo_weights(options)
    states, carried = mine.states(), [{} for _ in SENTENCES]
    for batch in (SENTENCES, SENTENCES[::-1]):
        found, fresh = mine.embed(batch, states).numpy(), mine.embed(batch).numpy()
        assert len(found) == options["lstm"]["n_layers"] + 1
        for row, sentence in enumerate(batch):
            expected = elmo_layers(sentence, options, weights, carried[row])
            np.testing.assert_allclose(found[:, row, : len(sentence)], expected, atol=1e-5, rtol=0)
            assert not found[:, row, len(sentence) :].any()
            expected = elmo_layers(sentence, options, weights, {})
            np.testing.assert_allclose(fresh[:, row, : len(sentence)], expected, atol=1e-5, rtol=0)
    assert np.abs(found - fresh).max() > 1e-3


def test_the_hidden_states_are_the_mean_of_the_layers(tmp_path: Path) -> None:
    mine = loaded(tmp_path / "elmo")
    features = [Feature(mine.tokenizer(" ".join(words), words=_spans(words))) for words in SENTENCES]
    names = mine.tokenizer.model_input_names
    features = [Feature({name: found.inputs[name] for name in names}) for found in features]
    inputs = collate(mine, features)
    assert inputs["characters"].shape == (3, 8, 50)
    layers = mine.embed(SENTENCES)
    with torch.no_grad():
        hidden = mine.forward(Batch(inputs))
    for row, words in enumerate(SENTENCES):
        torch.testing.assert_close(hidden[row, 1 : len(words) + 1], layers[:, row, : len(words)].mean(0))


def _spans(words: list[str]) -> list[tuple[int, int]]:
    starts = np.cumsum([0, *(len(word) + 1 for word in words)]).tolist()
    return [(start, start + len(word)) for start, word in zip(starts, words, strict=False)]


def test_the_published_fixture_of_the_original_program_gives_its_embeddings() -> None:
    folder = os.environ.get("ADAPTDOCK_ELMO_FIXTURE")
    if folder is None:
        pytest.skip("ADAPTDOCK_ELMO_FIXTURE names no folder (tests/fixtures/model of allenai/bilm-tf)")
    mine = ELMo().load(folder, CPU)
    sentences = json.loads((Path(folder) / "lm_embeddings_sentences.json").read_text())
    states = mine.states()
    with h5py.File(Path(folder) / "lm_embeddings_0.hdf5") as file:
        expected = {name: file[name][()] for name in file}
    for number in range(len(sentences[0])):
        batch = [row[number].split() for row in sentences]
        top = mine.embed(batch, states)[-1, 0, : len(batch[0])].numpy()
        np.testing.assert_allclose(top, np.concatenate(expected[str(number)], axis=-1), atol=2e-6, rtol=0)


# ------------------------------------------------------------------------------------ tokenizer


def test_a_word_is_its_bytes_between_marks_and_what_is_too_long_is_cut() -> None:
    read = CharacterTokenizer(8)
    begin, word, end = read.of_words(["né"])
    assert begin == [259, 257, 260, 261, 261, 261, 261, 261]
    assert word == [259, ord("n") + 1, 0xC3 + 1, 0xA9 + 1, 260, 261, 261, 261]
    assert end == [259, 258, 260, 261, 261, 261, 261, 261]
    assert read.of_words(["abcdefghij"])[1] == [259, *(ord(letter) + 1 for letter in "abcdef"), 260]


def test_words_that_are_known_are_read_as_they_are_and_each_has_its_position() -> None:
    text, words = "U.S.-based don't 1.5%", [(0, 10), (11, 16), (17, 21)]
    (feature,) = align(text, words, Reading(CharacterTokenizer(50), 20))
    assert feature.alignment == [(0, 1), (1, 2), (2, 3)]
    assert set(feature.inputs) == {"input_ids", "characters", "attention_mask"}
    assert len(feature.inputs["characters"]) == len(feature.inputs["input_ids"]) == 5


def test_long_texts_become_overlapping_windows_that_hold_every_word() -> None:
    text = " ".join(f"w{number}" for number in range(30))
    features = windows(text, None, Reading(CharacterTokenizer(50), 12))
    assert [len(feature.inputs["input_ids"]) for feature in features] == [12, 12, 12, 8]
    spans = _spans(text.split())
    aligned = align(text, spans, Reading(CharacterTokenizer(50), 12))
    assert sorted(word for feature in aligned for word, _ in feature.alignment) == list(range(30))


def test_a_pair_stands_in_one_row_each_between_its_marks() -> None:
    (feature,) = windows("ada met bob", "rain", Reading(CharacterTokenizer(50), 40))
    assert feature.inputs["input_ids"] == [2, 1, 1, 1, 3, 2, 1, 3]


def test_the_parts_of_a_second_text_are_found_in_each_of_its_windows() -> None:
    text = "it rains in oslo and it rains in rome"
    features = located_windows("who rains", text, Reading(CharacterTokenizer(50), 12), 2)
    assert len(features) > 1
    for feature in features:
        inner = [None if span is None else text[slice(*span)] for span in feature.alignment]
        assert inner[:5] == [None] * 5
        assert inner[-1] is None
        assert set(inner[5:-1]) <= set(text.split())


# -------------------------------------------------------------------------------------- loading


def test_a_folder_or_its_options_file_is_recognised_and_other_models_are_not(
    tmp_path: Path, model_folder: Path
) -> None:
    folder = write_elmo(tmp_path / "elmo")
    for name in (folder, folder / "options.json"):
        found = load_backbone(str(name), CPU)
        assert (found.architecture, found.width, found.causal) == ("elmo", 24, False)
    assert not ELMo().accepts(str(model_folder))
    assert not ELMo().accepts("minilm")
    assert not ELMo().accepts(str(tmp_path / "nowhere"))


def test_weights_are_found_by_the_name_of_their_options(tmp_path: Path) -> None:
    folder = write_elmo(tmp_path / "elmo")
    (folder / "options.json").rename(folder / "small_options.json")
    (folder / "weights.hdf5").rename(folder / "small_weights.hdf5")
    (folder / "other_weights.hdf5").write_bytes(b"nothing")
    assert ELMo().load(str(folder), CPU).width == 24


def test_the_fingerprint_tells_weights_and_options_apart(tmp_path: Path) -> None:
    options = elmo_options({"use_skip_connections": False})
    marks = [
        loaded(tmp_path / "a").fingerprint,
        loaded(tmp_path / "b", options).fingerprint,
        ELMo().load(str(write_elmo(tmp_path / "c", seed=1)), CPU).fingerprint,
    ]
    assert len(set(marks)) == 3
    assert loaded(tmp_path / "d").fingerprint == marks[0]
    wide = ELMo().load(str(tmp_path / "a"), LoadOptions(device="cpu", dtype="bfloat16"))
    assert (wide.fingerprint, wide.dtype) == (marks[0], torch.bfloat16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lstm": {"n_layers": 3}}, r"lacks 'RNN_0/RNN/MultiRNNCell/Cell2"),
        ({"lstm": {"n_layers": 1}}, r"holds 'RNN_0/RNN/MultiRNNCell/Cell1/LSTMCell/B' \(6 such\)"),
        ({"lstm": {"dim": 21}}, r"have the shape \(24, 80\); its options ask for 84 columns"),
        (
            {"cnn": {"filters": [[1, 4], [2, 7], [3, 10]]}},
            r"convolutions.1.weight has the shape \(6, 4, 2\).* ask for \(7,",
        ),
        ({"cnn": {"activation": "gelu"}}, "the activation of its character CNN is 'gelu'"),
        ({"cnn": {"embedding": {}}}, "it lacks 'dim'"),
    ],
)
def test_options_that_do_not_go_with_the_weights_are_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = write_elmo(tmp_path / "elmo")
    (folder / "options.json").write_text(json.dumps(elmo_options(**change)))
    with pytest.raises(BackboneError, match=message):
        ELMo().load(str(folder), CPU)


def test_missing_and_damaged_weights_are_refused(tmp_path: Path) -> None:
    folder = write_elmo(tmp_path / "elmo")
    (folder / "weights.hdf5").write_bytes(b"not a file of this kind")
    with pytest.raises(BackboneError, match=r"weights.hdf5 cannot be read as HDF5"):
        ELMo().load(str(folder), CPU)
    (folder / "weights.hdf5").unlink()
    with pytest.raises(BackboneError, match=r"the weights, an .hdf5 file, are missing"):
        ELMo().load(str(folder), CPU)


@pytest.mark.parametrize(
    ("options", "flag"),
    [({"quantize": "int8"}, "--quantize"), ({"drop_layers": 1}, "--drop-layers"), ({"revision": "x"}, "--revision")],
)
def test_options_of_loading_that_mean_nothing_here_are_refused(
    options: dict[str, Any], flag: str, tmp_path: Path
) -> None:
    folder = write_elmo(tmp_path / "elmo")
    with pytest.raises(BackboneError, match=f"{flag} does not go with the recurrent backbone"):
        ELMo().load(str(folder), LoadOptions(device="cpu", **options))
