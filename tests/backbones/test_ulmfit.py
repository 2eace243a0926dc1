"""ULMFiT: equal to fastai's own AWD_LSTM, from the files that fastai writes; no pickle is loaded on the way."""

import json
import pickle
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from recurrent import WORDS, awd_state, write_ulmfit
from safetensors.torch import save_file
from torch import Tensor

from adaptdock.backbones.recurrent.awd_lstm import AWDLSTM, Dropout, Embeddings, Variational
from adaptdock.backbones.recurrent.fastai_vocabulary import VocabularyTokenizer, read_vocabulary
from adaptdock.backbones.ulmfit import ULMFiT, ULMFiTBackbone
from adaptdock.engine.core.loading import load_backbone
from adaptdock.errors import BackboneError
from adaptdock.plugins.contracts import Batch, LoadOptions

CPU = LoadOptions(device="cpu")
IDS = torch.tensor([[2, 7, 8, 9, 10, 11, 13], [2, 12, 8, 7, 13, 9, 4]])


def loaded(folder: Path, state: Any = None, **named: Any) -> ULMFiTBackbone:
    return ULMFiT().load(str(write_ulmfit(folder, state=state, **named)), CPU)


def batch(ids: Tensor = IDS) -> dict[str, Tensor]:
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def of_fastai(layers: int = 3, hidden: int = 20) -> Any:
    """fastai's own language model with random weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("fastai", reason="fastai is not installed: the Makefile has the line")
        from fastai.text.models.awdlstm import AWD_LSTM
        from fastai.text.models.core import LinearDecoder, SequentialRNN
    torch.manual_seed(layers)
    encoder = AWD_LSTM(len(WORDS), 12, hidden, layers)
    decoder = LinearDecoder(len(WORDS), 12, 0.1, tie_encoder=encoder.encoder, bias=True)
    model = SequentialRNN(encoder, decoder).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


# --------------------------------------------------------------------------------------- parity


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_states_and_logits_are_those_of_fastai_itself_from_the_file_that_it_would_save(
    layers: int, tmp_path: Path
) -> None:
    model = of_fastai(layers)
    mine = loaded(tmp_path / "lm", model.state_dict())
    model.reset()
    logits, states, _ = model(IDS)
    found = mine.forward(Batch(batch()))
    torch.testing.assert_close(found, states, atol=1e-5, rtol=0)
    torch.testing.assert_close(mine.vocabulary_logits(found), logits, atol=1e-5, rtol=0)
    assert (found - states).abs().max() < 1e-5


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_an_encoder_saved_alone_gives_the_same_states_and_says_that_it_has_no_vocabulary(tmp_path: Path) -> None:
    model = of_fastai()
    mine = loaded(tmp_path / "encoder", model[0].state_dict())
    model.reset()
    found = mine.forward(Batch(batch()))
    torch.testing.assert_close(found, model[0](IDS), atol=1e-5, rtol=0)
    with pytest.raises(BackboneError, match="holds an encoder only"):
        mine.vocabulary_logits(found)


@pytest.mark.filterwarnings("ignore")
def test_what_is_dropped_in_training_has_the_distribution_that_fastai_gives_it() -> None:
    of_fastai()
    from fastai.text.models.awdlstm import EmbeddingDropout, RNNDropout

    table = Embeddings(len(WORDS), 12, padding_idx=1)
    table.share = 0.3
    theirs = EmbeddingDropout(torch.nn.Embedding(len(WORDS), 12, padding_idx=1, _weight=table.weight.detach()), 0.3)
    x = torch.ones(4, 6, 5)
    for mine, other, given in ((Variational(0.3), RNNDropout(0.3), x), (table, theirs, IDS)):
        draws = []
        for module in (mine, other):
            module.train()
            draws.append(torch.stack([module(given).detach() for _ in range(3000)]))
            module.eval()
        for statistic in (lambda draw: draw.mean(0), lambda draw: (draw == 0).float().mean(0)):
            torch.testing.assert_close(statistic(draws[0]), statistic(draws[1]), atol=0.11, rtol=0.1)
    dropped = Variational(0.5).train()(x)
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert set(dropped.unique().tolist()) == {0.0, 2.0}


# --------------------------------------------------------------------------------------- formats


@torch.no_grad()
def test_every_way_in_which_fastai_has_named_its_weights_gives_the_same_model(tmp_path: Path) -> None:
    state = awd_state()
    expected = loaded(tmp_path / "now", state).forward(Batch(batch()))
    older = {
        key.replace(".weight_hh_l0_raw", ".module.weight_hh_l0_raw").replace(
            "encoder_dp.emb", "encoder_with_dropout.embed"
        ): tensor
        for key, tensor in state.items()
    }
    plain = {key.replace(".weight_hh_l0_raw", ".module.weight_hh_l0"): tensor for key, tensor in state.items()}
    dropped = {
        f"0.rnns.{n}.module.weight_hh_l0": torch.zeros_like(state[f"0.rnns.{n}.weight_hh_l0_raw"]) for n in range(3)
    }
    classifier = {key.replace("0.", "0.module.", 1): tensor for key, tensor in state.items() if key.startswith("0.")}
    classifier["1.layers.0.0.weight"] = torch.ones(36)
    for number, given in enumerate(
        (
            older,
            plain,
            {**dropped, **state},
            {**state, **dropped},
            classifier,
            {"model": OrderedDict(state), "opt": {"lr": 0.1}},
        )
    ):
        found = loaded(tmp_path / str(number), given)
        assert torch.equal(found.forward(Batch(batch())), expected), number


def test_safetensors_are_read_too_and_the_words_from_json_text_or_a_plain_pickled_list(tmp_path: Path) -> None:
    folder = write_ulmfit(tmp_path / "lm")
    expected = ULMFiT().load(str(folder), CPU)
    state = {key: tensor.clone() for key, tensor in awd_state().items()}
    for suffix, text in (
        ("txt", "\n".join(WORDS) + "\n"),
        ("pkl", pickle.dumps(WORDS)),
        ("pkl", pickle.dumps(WORDS, protocol=0)),
        ("pkl", pickle.dumps(WORDS, protocol=2)),
    ):
        other = tmp_path / f"other-{suffix}"
        other.mkdir(exist_ok=True)
        save_file(state, other / "model.safetensors")
        (other / f"itos.{suffix}").write_bytes(text if isinstance(text, bytes) else text.encode())
        found = ULMFiT().load(str(other), CPU)
        assert found.tokenizer.words == WORDS
        assert found.vocabulary == expected.vocabulary
        with torch.no_grad():
            assert torch.equal(found.forward(Batch(batch())), expected.forward(Batch(batch())))


def test_equal_words_in_a_pickle_are_one_string_that_it_recalls(tmp_path: Path) -> None:
    fake = "xxfake"
    (tmp_path / "itos.pkl").write_bytes(pickle.dumps(["a", fake, fake, "b"]))
    assert read_vocabulary(tmp_path / "itos.pkl") == ["a", fake, fake, "b"]


executed: list[str] = []


class Harm:
    """An object whose pickle does something when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return executed.append, ("loaded",)


@pytest.mark.parametrize("thing", [Harm(), {"a": 1}, [["a"], "b"], ["a", 1], ("a", "b"), [Harm()]])
def test_any_other_pickle_is_refused_and_not_executed(thing: Any, tmp_path: Path) -> None:
    (tmp_path / "itos.pkl").write_bytes(pickle.dumps(thing))
    with pytest.raises(BackboneError, match=r"but not of a plain list of strings .* pickles are never loaded"):
        read_vocabulary(tmp_path / "itos.pkl")
    assert executed == []


def test_a_weight_file_that_is_more_than_tensors_is_refused_and_not_executed(tmp_path: Path) -> None:
    folder = write_ulmfit(tmp_path / "lm")
    torch.save({"model": Harm()}, folder / "weights.pth")
    with pytest.raises(BackboneError, match="cannot be read as weights alone"):
        ULMFiT().load(str(folder), CPU)
    torch.save(["a"], folder / "weights.pth")
    with pytest.raises(BackboneError, match="does not hold a table of tensors"):
        ULMFiT().load(str(folder), CPU)
    assert executed == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("0.rnns.1.module.bias_ih_l0"), r"lacks the weights of layers.1.ahead.input.bias"),
        (lambda state: state.pop("0.encoder.weight"), r"has no 'encoder.weight': it is not an AWD-LSTM"),
        (
            lambda state: state.update({"0.rnns.0.module.weight_ih_l0_reverse": torch.ones(1)}),
            "not a one-directional LSTM",
        ),
        (lambda state: state.update({"0.rnns.0.layers.0.linear.weight": torch.ones(1)}), "not a one-directional LSTM"),
        (lambda state: state.update({"0.transformer.h.0": torch.ones(1)}), "is not a weight of an AWD-LSTM"),
        (lambda state: state.update({"0.encoder.weight": torch.ones(9, 12)}), "decoder.* has the shape"),
    ],
)
def test_the_weights_of_another_network_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    state = awd_state()
    change(state)
    with pytest.raises(BackboneError, match=message):
        loaded(tmp_path / "lm", state)


def test_a_vocabulary_of_another_size_is_refused(tmp_path: Path) -> None:
    folder = write_ulmfit(tmp_path / "lm")
    (folder / "itos.json").write_text(json.dumps(WORDS[:-1]))
    with pytest.raises(BackboneError, match=r"has 13 words.* has 14 embeddings: they do not belong together"):
        ULMFiT().load(str(folder), CPU)


def test_a_folder_or_its_weight_file_is_recognised_and_other_models_are_not(tmp_path: Path, model_folder: Path) -> None:
    folder = write_ulmfit(tmp_path / "lm")
    for name in (folder, folder / "weights.pth"):
        found = load_backbone(str(name), CPU)
        assert (found.architecture, found.width, found.causal) == ("awd_lstm", 12, True)
    assert not ULMFiT().accepts(str(model_folder))
    assert not ULMFiT().accepts("minilm")
    (folder / "itos.json").unlink()
    assert not ULMFiT().accepts(str(folder))


# ------------------------------------------------------------------------------------- tokenizer


def tokens(text: str, words: list[str] = WORDS) -> list[str]:
    read = VocabularyTokenizer(words)
    return [words[number] for number in read(text)["input_ids"]]


def test_capitals_and_runs_are_written_as_marks() -> None:
    words = [*WORDS, "!", "4", "do", "n't", "'s"]
    assert tokens("Ada met BOB.", words) == ["xxbos", "xxmaj", "ada", "met", "xxup", "bob", "."]
    assert tokens("rain !!!!", words) == ["xxbos", "rain", "xxrep", "4", "!"]
    assert tokens("rain rain rain rain in", words) == ["xxbos", "xxwrep", "4", "rain", "in"]
    assert tokens("rain rain in", words) == ["xxbos", "rain", "rain", "in"]
    assert tokens("Ada's rain don't zebra", words) == ["xxbos", "xxmaj", "ada", "'s", "rain", "do", "n't", "xxunk"]


def test_marks_stand_for_no_character_and_words_for_their_own() -> None:
    found = VocabularyTokenizer(WORDS)("Ada met BOB.")
    assert found["offset_mapping"] == [(0, 0), (0, 0), (0, 3), (4, 7), (8, 8), (8, 11), (11, 12)]


def test_a_vocabulary_without_marks_is_read_as_it_is() -> None:
    plain = ["_unk_", "_pad_", "Ada", "met"]
    assert tokens("Ada met ada", plain) == ["Ada", "met", "_unk_"]
    with pytest.raises(BackboneError, match="has no xxunk"):
        VocabularyTokenizer(["a"])


def test_dropout_shares_are_multiplied_together_and_tied_weights_are_one() -> None:
    assert Dropout().times(0.5) == Dropout(0.01, 0.125, 0.1, 0.075, 0.05)
    model = AWDLSTM(20, 8, 10, 2)
    model.start()
    model.tie()
    assert model.decoder is not None
    assert model.decoder.weight is model.embeddings.weight
    assert model.embeddings.weight.abs().max() <= 0.1
