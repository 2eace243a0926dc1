"""The page as a reader's browser gets it: its content, its markup, and text of data that stays text."""

from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from builders import build_adapter

from adaptdock.engine.core.assembly import make_task
from adaptdock.engine.data.checks import Problem
from adaptdock.engine.evaluation.label_errors import LabelError
from adaptdock.engine.evaluation.measurement import Evaluation
from adaptdock.engine.evaluation.reporting.page import TEMPLATES, Subject, render, write_page
from adaptdock.plugins.contracts import Backbone

EVIL = '<script>alert(1)</script><img src=x onerror=alert(2)> & "it\'s"'
VOID = {"meta", "line", "circle", "rect", "polyline", "wbr", "br", "img", "link"}


class Page(HTMLParser):
    """The elements of a page with their attributes, the text in each kind of element, and unclosed elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.append((self.open[-1], data))

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)

    @property
    def text(self) -> str:
        return "".join(data for tag, data in self.texts if tag != "style")


def predicted(label: str, score: float = 0.9) -> dict[str, Any]:
    return {"label": label, "score": score, "scores": {label: score}}


def subject(backbone: Backbone, labels: tuple[str, str], text: str = "a text", **more: Any) -> Subject:
    task = make_task("classification", {"labels": labels})
    records = [{"where": f"{text}:{n}", "text": f"{text} {n}", "label": labels[n % 2]} for n in range(40)]
    predictions = [predicted(labels[0 if n < 30 else n % 2]) for n in range(40)]
    evaluation = Evaluation(task.score(records, predictions), 0.5, predictions, [], predictions)
    card = build_adapter(backbone, "lora", labels=labels, task="classification", name=text).card
    points = [
        {"epoch": float(n), "train_loss": 1 / n, "validation_loss": 1 / n, "accuracy": 20.0 * n} for n in (1, 2, 3)
    ]
    problem = Problem(f"train: {text}", 3, (text,))
    defaults: dict[str, Any] = {"training": records[:4], "points": points, "problems": [problem], "notes": [text]}
    return Subject(card, task, text, "test", records, evaluation, **{**defaults, **more})


def test_the_page_has_every_part_and_its_figures(backbone: Backbone) -> None:
    page = Page(render(subject(backbone, ("left", "right"))))
    assert page.open == []
    titles = [text for tag, text in page.texts if tag == "h2"]
    for title in (
        "Result",
        "What would help",
        "Each label",
        "Confusions",
        "Slices",
        "Calibration",
        "Learning curves",
        "The worst errors",
        "Data warnings",
    ):
        assert any(title in text for text in titles), title
    assert "accuracy 62.5" in page.text
    assert "15 of 40 answers are wrong" in page.text
    assert "40 records, of which 15 are not" in page.text
    assert page.count("article") == 15
    assert page.count("svg") == 3


def test_a_text_of_the_data_is_never_markup(backbone: Backbone) -> None:
    page = Page(render(subject(backbone, (EVIL, f"other {EVIL}"), EVIL)))
    assert page.open == []
    assert page.count("script") == page.count("img") == 0
    assert page.text.count(EVIL) > 50
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)


def test_repeated_texts_and_labels_that_may_be_wrong_are_listed_with_their_places(backbone: Backbone) -> None:
    repeated = Problem("train: 9 of 40 records repeat the text of another", 9, ("a:1 and a:2",), (EVIL,))
    error = LabelError("a.csv:7", f"lost card {EVIL}", "card_arrival", EVIL, 0.014, 0.961)
    page = Page(
        render(subject(backbone, ("x", "y"), problems=[repeated], label_errors=[error] * 25, labels_checked=40))
    )
    assert page.open == []
    for part in (f"“{EVIL}”", "a:1 and a:2", "and more", "25 labels in 40 training records", "a.csv:7", "lost card"):
        assert part in page.text, part
    assert page.text.count("card_arrival") == 20
    assert ("td", "96") in page.texts
    assert page.count("script") == 0


def test_places_are_shown_without_the_folder_that_all_files_share(backbone: Backbone) -> None:
    whole = subject(backbone, ("x", "y"))
    records = [{**record, "where": f"/home/ada/data/{record['where']}"} for record in whole.records]
    problem = Problem("train: 1 labels have one example only", 1, ("'x' at /home/ada/data/b.csv:7",))
    training = [{**record, "where": f"/home/ada/data/b.csv:{number}"} for number, record in enumerate(records)]
    error = LabelError("/home/ada/data/b.csv:9", "Ada", "B-PER", "O", 0.0, 1.0, "met Ada in Rome")
    changed = replace(whole, records=records, training=training, problems=[problem], label_errors=[error])
    page = Page(render(changed))
    assert "/home/ada" not in page.text
    assert "'x' at b.csv:7" in page.text
    assert ("td", "b.csv:9") in page.texts
    assert "in “met Ada in Rome”" in page.text


def test_numbers_of_the_result_have_two_decimals(backbone: Backbone) -> None:
    page = Page(render(subject(backbone, ("x", "y"))))
    assert "accuracy 62.50" in page.text
    assert ("td", "62.50") in page.texts


def test_the_page_loads_nothing(backbone: Backbone) -> None:
    page = Page(render(subject(backbone, ("http://a.example/x.png", "b"), "url(http://a.example)")))
    for tag, attributes in page.elements:
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#"), tag
    assert "http" not in "".join(text for tag, text in page.texts if tag == "style")
    policy = next(attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_tables_have_captions_charts_have_texts_and_links_lead_to_parts(backbone: Backbone) -> None:
    page = Page(render(subject(backbone, ("left", "right"))))
    assert page.count("table") == page.count("caption") > 5
    assert page.count("svg") == page.count("desc")
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(identifiers)) == len(identifiers)
    for tag, attributes in page.elements:
        if tag == "a":
            assert str(attributes["href"])[1:] in identifiers
        for name in str(attributes.get("aria-labelledby") or "").split():
            assert name in identifiers
    assert ("html", {"lang": "en"}) in page.elements
    headings = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3")]
    assert headings[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(headings))


def test_a_perfect_adapter_without_training_data_has_a_page(backbone: Backbone) -> None:
    whole = subject(backbone, ("left", "right"), training=None, points=(), problems=(), notes=())
    predictions = [predicted(record["label"], 1.0) for record in whole.records]
    evaluation = Evaluation(whole.task.score(whole.records, predictions), 0.0, predictions, [], predictions)
    perfect = Subject(whole.card, whole.task, "x", "test", whole.records, evaluation)
    page = Page(render(perfect))
    assert "Every answer is as expected." in page.text
    assert "No problems were found." in page.text
    assert "No rule found a clear weakness" in page.text
    assert "unseen" not in page.text
    assert page.count("article") == 0


def test_a_single_record_has_a_page_without_an_interval(backbone: Backbone) -> None:
    whole = subject(backbone, ("left", "right"))
    predictions = whole.evaluation.predictions[:1]
    evaluation = Evaluation(whole.task.score(whole.records[:1], predictions), 0.0, predictions, [], predictions)
    page = Page(render(Subject(whole.card, whole.task, "x", "test", whole.records[:1], evaluation)))
    assert "95 % confidence" not in page.text


def test_entities_are_marked_and_a_wrong_one_has_a_cross(backbone: Backbone) -> None:
    task = make_task("ner", {"labels": ("LOC", "PER")})
    record = {"where": "a:1", "tokens": ["Ada", "met", "Bob"], "tags": ["B-PER", "O", "B-PER"]}
    entity = {"text": "Ada", "label": "PER", "start": 0, "end": 3, "score": 0.9}
    wrong = {"text": "met", "label": "LOC", "start": 4, "end": 7, "score": 0.6}
    prediction = {"text": "Ada met Bob", "entities": [entity, wrong], "tags": ["B-PER", "B-LOC", "O"]}
    evaluation = Evaluation(task.score([record], [prediction]), 0.1, [prediction], [], [prediction])
    card = build_adapter(backbone, "lora").card
    html = render(Subject(card, task, "x", "test", [record], evaluation))
    marks = [attributes["class"] for tag, attributes in Page(html).elements if tag == "mark"]
    assert marks == ["hue-1", "hue-1 wrong", "hue-1", "hue-0 wrong"]  # expected: Ada, Bob; predicted: Ada, met
    assert html.count("PER ✗") == html.count("LOC ✗") == 1


def test_a_page_that_cannot_be_written_leaves_the_old_one(backbone: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    broken = subject(backbone, ("left", "right"), problems=[None])
    with pytest.raises(AttributeError):
        write_page(path, broken)
    assert path.read_text() == "old"
    write_page(path, subject(backbone, ("left", "right")))
    assert path.read_text().startswith("<!DOCTYPE html>")


def test_the_templates_are_package_data() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text())
    data = project["tool"]["setuptools"]["package-data"]["adaptdock.engine.evaluation.reporting"]
    listed = {file for pattern in data for file in TEMPLATES.parent.glob(pattern)}
    assert set(TEMPLATES.iterdir()) == listed
