"""The component of examples/integrations/spacy in pipelines of the real spaCy."""

import importlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from adaptdock import Dock, train

spacy = pytest.importorskip("spacy", reason="spaCy is not installed: pip install spacy")
SOURCE = Path(__file__).parents[2] / "examples" / "integrations" / "spacy" / "src"
TEXTS = ["ada met bob in oslo", "rome saw eva lind", "nothing here at all"]


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch, backbone: Any) -> Iterator[None]:
    """Register the component from its source, on the tiny backbone."""
    monkeypatch.syspath_prepend(str(SOURCE))
    component = importlib.import_module("adaptdock_spacy.component")
    with ExitStack() as docks:
        monkeypatch.setattr(component, "shared_dock", lambda *_: docks.enter_context(Dock(backbone)))
        yield


@pytest.fixture(scope="module")
def adapters(backbone: Any, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters of three tasks on a tiny backbone."""
    folder = tmp_path_factory.mktemp("runs")
    classes = [{"text": f"{word} runs", "label": label} for word, label in [("ada", "a"), ("bob", "b")] * 6]
    few = {"backbone": backbone, "epochs": 1}
    return {
        "ner": train("ner", data=data, folder=folder / "ner", **{**few, "epochs": 4}, learning_rate=1e-2).file,
        "pos": train("pos", data=data, folder=folder / "pos", **few).file,
        "classification": train("classification", data=classes, folder=folder / "classes", **few).file,
    }


def test_documents_have_what_the_adapters_predict(backbone: Any, adapters: dict[str, Path], tmp_path: Path) -> None:
    nlp = spacy.blank("en")
    for name, file in adapters.items():
        nlp.add_pipe("adaptdock", name=name, config={"adapter": str(file)})
    with Dock(backbone) as dock:
        predictions = {name: dock.predict(dock.load(file), TEXTS) for name, file in adapters.items()}
    docs = list(nlp.pipe(TEXTS))
    entities = [[(e["text"], e["label"], e["start"]) for e in p["entities"]] for p in predictions["ner"]]
    assert any(entities)
    assert [[(ent.text, ent.label_, ent.start_char) for ent in doc.ents] for doc in docs] == entities
    assert [doc.cats for doc in docs] == [prediction["scores"] for prediction in predictions["classification"]]
    assert [[t.tag_ for t in doc] for doc in docs] == [[w["tag"] for w in p["words"]] for p in predictions["pos"]]
    assert [ent.text for ent in nlp(TEXTS[0]).ents] == [ent.text for ent in docs[0].ents]
    nlp.to_disk(tmp_path / "pipeline")
    for file in adapters.values():
        file.rename(file.with_suffix(".moved"))
    again = spacy.load(tmp_path / "pipeline")
    assert [[ent.text for ent in doc.ents] for doc in again.pipe(TEXTS)] == [[e[0] for e in row] for row in entities]
    for file in adapters.values():
        file.with_suffix(".moved").rename(file)


@pytest.mark.parametrize(("alignment", "expected"), [("expand", ["ada,"]), ("contract", []), ("strict", [])])
def test_an_entity_that_cuts_a_token_is_aligned(
    adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch, alignment: str, expected: list[str]
) -> None:
    entity = {"text": "ada", "label": "PER", "start": 0, "end": 3, "score": 1.0}
    monkeypatch.setattr(Dock, "predict", lambda *_: [{"text": "ada, runs", "entities": [entity]}])
    nlp = spacy.blank("en")
    nlp.tokenizer = spacy.tokenizer.Tokenizer(nlp.vocab)  # at spaces only
    nlp.add_pipe("adaptdock", config={"adapter": str(adapters["ner"]), "alignment": alignment})
    assert [ent.text for ent in nlp("ada, runs").ents] == expected


def test_the_adapter_is_required() -> None:
    with pytest.raises(spacy.schemas.ConfigValidationError, match="adapter"):
        spacy.blank("en").add_pipe("adaptdock")
