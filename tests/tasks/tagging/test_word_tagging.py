"""Parts of speech and chunks: CoNLL-U, rare tags, metrics, samples."""

from pathlib import Path

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from adaptdock.engine.data.sources import Reader, Source
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.loop.run import train_plan
from adaptdock.engine.training.planning.plan import plan
from adaptdock.errors import DataError
from adaptdock.hub.artefact.file import read_file
from adaptdock.plugins.contracts import Backbone
from adaptdock.tasks.chunking import Chunking
from adaptdock.tasks.pos import POS

TREE = """# sent_id = 1
# text = I don't know
1\tI\tI\tPRON\tPRP\t_\t4\tnsubj\t_\t_
2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
2\tdo\tdo\tAUX\tVBP\t_\t4\taux\t_\t_
3\tn't\tnot\tPART\tRB\t_\t4\tadvmod\t_\t_
3.1\tghost\t_\tVERB\t_\t_\t_\t_\t_\t_
4\tknow\tknow\tVERB\tVB\t_\t0\troot\t_\t_
"""


def test_multiword_tokens_and_empty_nodes_are_no_words(tmp_path: Path) -> None:
    (tmp_path / "a.conllu").write_text(TREE)
    (record,) = Reader(POS, Source()).file(tmp_path / "a.conllu")
    assert record.keys() == {"where", "tokens", "tags"}
    assert record["tokens"] == ["I", "do", "n't", "know"]
    assert record["tags"] == ["PRON", "AUX", "PART", "VERB"]
    fine = Reader(POS, Source(columns={"tags": "xpos"})).file(tmp_path / "a.conllu")[0]
    assert fine["tags"] == ["PRP", "VBP", "RB", "VB"]


@pytest.mark.parametrize("name", ["pos", "chunking"])
def test_a_sample_is_learnt_saved_and_used(name: str, backbone: Backbone, dock: Dock, tmp_path: Path) -> None:
    made = plan(backbone, name, "lora", Source(), {"epochs": 3, "learning_rate": 1e-2})
    result = train_plan(made, tmp_path)
    losses = [entry["eval_loss"] for entry in result.history if "eval_loss" in entry]
    assert losses[-1] < losses[0]
    docked = dock.dock(read_file(result.file))
    text = "The old baker sees a river ."
    (answer,) = dock.predict(docked, [text])
    found = answer["words"] if name == "pos" else answer["entities"]
    assert all(text[part["start"] : part["end"]] == part["text"] for part in found)
    tokens = dock.predict(docked, [{"tokens": text.split()}])[0]
    assert tokens["text"] == text


def test_a_tag_that_training_has_not_seen_counts_as_wrong_and_is_counted() -> None:
    task = POS(POS.Options(labels=("NOUN", "VERB")))
    gold = [{"tokens": ["a", "b", "c"], "tags": ["NOUN", "VERB", "INTJ"]}]
    task.check(gold, "test")
    words = [{"tag": tag} for tag in ("NOUN", "NOUN", "VERB")]
    scores = task.score(gold, [{"words": words}])
    assert scores["unknown_tags"] == 1
    wanted, found = gold[0]["tags"], [word["tag"] for word in words]
    assert scores["accuracy"] == pytest.approx(100 * accuracy_score(wanted, found), abs=0.01)
    labels = sorted(set(wanted))
    macro = f1_score(wanted, found, average="macro", labels=labels, zero_division=0)
    assert scores["macro_f1"] == pytest.approx(100 * macro, abs=0.01)


def test_words_and_tags_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(DataError, match="x:1: 2 tokens but 1 tags"):
        POS(POS.Options()).clean([{"where": "x:1", "tokens": ["a", "b"], "tags": ["X"]}], "train")
    with pytest.raises(DataError, match="x:1: a word has no tag"):
        POS(POS.Options()).clean([{"where": "x:1", "tokens": ["a", "b"], "tags": ["X", ""]}], "train")
    with pytest.raises(DataError, match="one tag only"):
        POS(POS.Options()).fit([{"tokens": ["a"], "tags": ["X"]}])


def test_the_words_of_a_text_are_shown_with_their_tags() -> None:
    task = POS(POS.Options(labels=("NOUN", "VERB")))
    record = task.read("Ada sings")
    answer = task.decode(record, [], [])
    assert task.render(answer) == "Ada/NOUN sings/NOUN"  # words without a token have the first tag
    assert torch.equal(task.scores(2, [], [])[:, 0], torch.ones(2))


def test_chunks_are_spans_of_conll_2000s_columns(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("He PRP B-NP\nreckons VBZ B-VP\nthe DT B-NP\ndeficit NN I-NP\n")
    records = Chunking(Chunking.Options()).clean(Reader(Chunking, Source()).file(tmp_path / "a.conll"), "train").records
    assert records[0]["tags"] == ["B-NP", "B-VP", "B-NP", "I-NP"]
    assert Chunking(Chunking.Options()).fit(records).options.labels == ("NP", "VP")
