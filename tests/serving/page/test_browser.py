"""The page in a real browser, in front of a process of its own."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live import certain, fill, live, save_writer

from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins.contracts import Backbone
from adaptdock.serving.client.client import Client, RequestError
from adaptdock.serving.http.access_tokens import new_token

WANTED = "the page is tested in Debian's chromium by playwright, and checked by axe: make test-page installs them"
playwright = pytest.importorskip("playwright.sync_api", reason=WANTED)
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason=WANTED)
CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason=WANTED)]
expect = playwright.expect
QUIET = ("--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", *QUIET]
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
TEXT = "Ada 🚀 met <b>Bob</b>"
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return save_writer(tmp_path_factory.mktemp("writer"))


@pytest.fixture(scope="module")
def filled(writer: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("adapters"), writer)


@pytest.fixture(scope="module")
def url(writer: Backbone, filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("log") / "serve.log"
    with live("--backbone", writer.id, "--adapters", filled, "--max-tokens", 200, "--watch", 0.1, log=log) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any, url: str) -> Iterator[Open]:
    """Open the page; in the end, nothing was asked of another place, and no script complained."""
    complaints: list[str] = []
    contexts: list[Any] = []

    def open_page(address: str = url, **settings: Any) -> Any:
        context = browser.new_context(**{"viewport": DESKTOP, **settings})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: request.url.startswith(address) or complaints.append(request.url))
        page.goto(f"{address}/")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def choose(page: Any, first: str, second: str = "") -> None:
    expect(page.locator("#first")).to_be_enabled()
    page.get_by_label("Adapter", exact=True).select_option(first)
    page.get_by_label("Beside it").select_option(second)


def run(page: Any, answers: int = 1) -> Any:
    """Press the button and return the answers, when they are there."""
    page.get_by_role("button", name="Run").click()
    boxes = page.locator(".answer")
    expect(boxes).to_have_count(answers)
    expect(page.locator(".answer[aria-busy]")).to_have_count(0)
    return boxes


def row(page: Any, name: str) -> Any:
    return page.get_by_role("row").filter(has=page.get_by_role("button", name=name, exact=True))


def test_entities_stand_out_in_the_text_where_they_are(opened: Open) -> None:
    page = opened()
    choose(page, "people")
    page.get_by_label("Text").fill(TEXT)
    answer = run(page)
    marks = [mark.inner_text() for mark in answer.locator("mark").all()]
    assert [re.sub(r"\s*PER 100 %$", "", mark) for mark in marks][:3] == ["Ada", "🚀", "met"]
    assert all(mark.endswith("PER 100 %") for mark in marks)
    shown = answer.locator(".marked").inner_text()
    assert re.sub(r"\s*PER 100 %", "", shown) == TEXT
    expect(answer.locator(".hint")).to_have_text(re.compile(r"^version 1, \d+ ms$"))


def test_a_text_is_never_taken_for_markup(opened: Open) -> None:
    page = opened()
    evil = '<img src=x onerror=alert(1)><script>alert(2)</script> &amp; "quotes" \''
    for name in ("people", "topic", "writer"):
        choose(page, name)
        page.get_by_label("Text").fill(evil)
        answer = run(page)
        assert answer.locator("img, script").count() == 0
    choose(page, "people")
    assert re.sub(r"\s*PER 100 %", "", run(page).locator(".marked").inner_text()) == evil


def test_classes_have_bars_as_long_as_their_scores(opened: Open) -> None:
    page = opened()
    choose(page, "topic")
    page.get_by_label("Text").fill("the cat")
    answer = run(page)
    expect(answer.locator(".headline")).to_have_text("sport")
    bars = answer.locator(".bars li")
    assert [bar.inner_text().split("\n")[0] for bar in bars.all()] == ["sport", "food", "travel"]
    whole = bars.nth(0).locator(".track").bounding_box()["width"]
    page.wait_for_timeout(400)
    assert bars.nth(0).locator(".fill").bounding_box()["width"] == pytest.approx(whole, rel=0.01)
    assert bars.nth(1).locator(".fill").bounding_box()["width"] < 2


def test_an_adapter_that_reads_two_texts_has_two_fields_and_what_was_typed_stays(opened: Open) -> None:
    page = opened()
    choose(page, "people")
    page.get_by_label("Text").fill("a cat")
    choose(page, "entail")
    page.get_by_label("Second text").fill("a dog")
    expect(page.get_by_label("Text", exact=True)).to_have_value("a cat")
    expect(run(page).locator(".headline")).to_have_text("yes")


def test_an_answer_is_marked_in_its_context(opened: Open, url: str) -> None:
    context = "🚀 the cat sat on the mat 🚀 and the dog ran"
    with Client(url) as client:
        prediction = client.predict("asked", [{"question": "who sat?", "context": context}])[0].prediction
    page = opened()
    choose(page, "asked")
    page.get_by_label("Question").fill("who sat?")
    page.get_by_label("Context").fill(context)
    answer = run(page)
    expect(answer.locator(".headline")).to_have_text(prediction["answer"])
    expect(answer.locator("mark .label")).to_have_text(re.compile(r"^answer [\d.]+ %$"))
    texts = answer.locator(".marked").evaluate(
        "element => [...element.childNodes].map(one => (one.firstChild ?? one).textContent)"
    )
    start, end = prediction["start"], prediction["end"]
    assert texts == [piece for piece in (context[:start], context[start:end], context[end:]) if piece]
    choose(page, "silent")
    answer = run(page)
    expect(answer.locator(".headline")).to_have_text("No answer")
    assert answer.locator("mark").count() == 0
    expect(answer.locator(".marked")).to_have_text(context)


def test_a_text_appears_while_it_is_written(opened: Open, url: str) -> None:
    with Client(url) as client:
        expected = client.complete("writer", [{"role": "user", "content": "the cat sat"}])
        continued = client.complete("writer", "the cat sat")
    page = opened()
    choose(page, "writer")
    page.get_by_label("Text").fill("the cat sat")
    answer = run(page)
    written = answer.locator(".written")
    assert written.evaluate("element => element.textContent") == expected
    assert written.evaluate("element => element.childNodes.length") > 3  # it came in so many pieces
    page.get_by_label("continue it as it is").check()
    assert run(page).locator(".written").evaluate("element => element.textContent") == continued


def test_an_answer_that_does_not_come_can_be_stopped(opened: Open) -> None:
    page = opened()
    page.route("**/v1/chat/completions", lambda route: None)
    choose(page, "writer")
    page.get_by_label("Text").fill("the cat")
    page.get_by_role("button", name="Run").click()
    expect(page.locator(".answer[aria-busy]")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page.locator(".answer .body")).to_have_text("Stopped.")
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    page.get_by_role("button", name="Run").click()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".answer .body")).to_have_text("Stopped.")


def test_two_adapters_answer_side_by_side(opened: Open) -> None:
    page = opened()
    choose(page, "people", "places")
    page.get_by_label("Text").fill("ada")
    left, right = run(page, 2).all()
    expect(left.locator("mark")).to_have_text(re.compile("PER"))
    expect(right.locator("mark")).to_have_text(re.compile("LOC"))
    left_box, right_box = left.bounding_box(), right.bounding_box()
    assert left_box["y"] == right_box["y"]
    assert left_box["x"] + left_box["width"] <= right_box["x"]


def test_vectors_and_what_has_no_shape_of_its_own_are_shown(opened: Open) -> None:
    page = opened()
    choose(page, "near")
    page.get_by_label("Text").fill("the cat")
    expect(run(page).locator(".headline")).to_have_text("A vector of 32")


def test_errors_are_told_as_the_process_words_them(opened: Open, url: str) -> None:
    long = "the cat sat on the mat " * 90
    with Client(url) as client, pytest.raises(RequestError) as raised:
        client.predict("people", [long])
    page = opened()
    choose(page, "people", "topic")
    page.get_by_label("Text").fill(long)
    for answer in run(page, 2).all():
        problem = answer.locator(".problem")
        assert str(raised.value) in problem.inner_text()
        assert re.search(r"request [0-9a-f]{32}$", problem.inner_text())
    expect(page.locator("#said")).to_have_text(re.compile("tokens"))


def test_the_table_counts_along_and_takes_in_what_comes(opened: Open, url: str, writer: Backbone, filled: Path) -> None:
    page = opened()
    asked = row(page, "places").get_by_role("cell").nth(3)
    expect(asked).to_have_text(re.compile(r"^\d+$"))
    before = int(asked.inner_text())
    with Client(url) as client:
        client.predict("places", ["a", "b", "c"])
        expect(asked).to_have_text(str(before + 3))
        expect(row(page, "places").get_by_role("cell").nth(5)).to_have_text(re.compile(r"ms$"))
        expect(row(page, "places").get_by_role("cell").nth(6)).to_have_text(re.compile(r"^[\d.]+ KiB$"))
        write_file(filled / "late.safetensors", certain(writer, "ner", ("LATE",)))
        expect(row(page, "late")).to_be_visible()
        assert "late" in page.get_by_label("Beside it").locator("option").evaluate_all("all => all.map(o => o.value)")
        client.push("late", _content(writer, "LATER", filled.parent))
        expect(row(page, "late").get_by_role("cell").nth(2)).to_have_text("2")
        client.split("late", {1: 1, 2: 3})
        expect(row(page, "late").get_by_role("cell").nth(2)).to_have_text("1 (25 %), 2 (75 %)")
        choose(page, "late@1", "late@2")
        page.get_by_label("Text").fill("ada")
        assert [mark.inner_text().split()[1] for mark in run(page, 2).locator("mark").all()] == ["LATE", "LATER"]
        client.unload("late")
        expect(row(page, "late")).to_have_count(0)
    page.get_by_label("Find").fill("plac")
    expect(page.locator("#rows").get_by_role("row")).to_have_count(1)
    page.get_by_role("button", name="places").click()
    expect(page.locator("#first")).to_have_value("places")
    expect(page.get_by_label("Text")).to_be_focused()


def _content(writer: Backbone, label: str, folder: Path) -> bytes:
    path = folder / "sent"
    write_file(path, certain(writer, "ner", (label,)))
    return path.read_bytes()


def test_the_page_works_by_keyboard_alone(opened: Open) -> None:
    page = opened()
    expect(page.locator("#first")).to_be_enabled()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the form")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.locator("#first")).to_be_focused()
    assert page.locator("#first").evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
    page.keyboard.type("topic")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Text")).to_be_focused()
    page.keyboard.type("the cat")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".answer .headline")).to_have_text("sport")
    expect(page.get_by_role("status")).to_contain_text("topic has answered: sport")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Run")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Find")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Pause")).to_have_attribute("aria-pressed", "true")


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_is_wider_than_a_narrow_screen(opened: Open, width: int) -> None:
    page = opened(viewport={"width": width, "height": 800}, has_touch=True, is_mobile=True)
    choose(page, "people", "topic")
    page.get_by_label("Text").fill("averylongwordwithoutanybreak" * 2 + " and more")
    run(page, 2)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    for button in page.locator("#ask button:visible").all():
        assert button.bounding_box()["height"] >= 44


@pytest.mark.parametrize(
    "settings", [{}, {"color_scheme": "dark"}, {"viewport": PHONE}], ids=["desktop", "dark", "phone"]
)
def test_axe_finds_nothing_that_keeps_people_out(opened: Open, settings: dict[str, Any]) -> None:
    page = opened(bypass_csp=True, reduced_motion="reduce", **settings)
    choose(page, "people", "topic")
    page.get_by_label("Text").fill("ada met bob")
    run(page, 2)
    violations = axe.Axe().run(page, options=RULES).response["violations"]
    assert [(violation["id"], [node["html"] for node in violation["nodes"]]) for violation in violations] == []


def test_a_token_is_asked_for_kept_for_the_tab_and_forgotten(
    opened: Open, writer: Backbone, filled: Path, tmp_path: Path
) -> None:
    secret = new_token(tmp_path / "tokens", "predict")
    options = (
        "--backbone",
        writer.id,
        "--adapters",
        filled,
        "--tokens",
        tmp_path / "tokens",
        "--state",
        tmp_path / "s",
    )
    with live(*options, log=tmp_path / "log") as address:
        page = opened(address)
        field = page.locator("#token")
        expect(field).to_be_focused()
        assert field.get_attribute("type") == "password"
        field.fill("adapt_wrong")
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#access-problem")).to_have_text("the token is not known here")
        field.fill(secret)
        field.press("Enter")
        expect(field).to_be_hidden()
        choose(page, "people")
        page.get_by_label("Text").fill("ada")
        expect(run(page).locator("mark")).to_have_text(re.compile("PER"))
        page.reload()
        expect(page.locator("#first")).to_be_enabled()
        assert page.evaluate("() => [localStorage.length, document.cookie, location.href]") == [0, "", f"{address}/"]
        page.get_by_role("button", name="Forget the token").click()
        expect(field).to_be_visible()
        assert page.evaluate("() => sessionStorage.length") == 0


def draft(kind: str, text: str, answer: Any, **more: Any) -> dict[str, Any]:
    return {"text": text, "label": answer, "adapter": answer, "kind": kind, "confirmed": False, **more}


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE])
def test_a_label_is_confirmed_or_corrected_by_keyboard(
    opened: Open, writer: Backbone, filled: Path, tmp_path: Path, viewport: dict[str, int]
) -> None:
    evil = "<img src=x onerror=alert(1)>"
    path = tmp_path / "drafts.jsonl"
    rows = [draft("label", evil, "sport", teacher="travel"), draft("label", "b", "food"), draft("label", "c", None)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    arguments = ("--backbone", writer.id, "--adapters", filled, "--state", tmp_path, "--label-file", path)
    with live(*arguments, log=tmp_path / "serve.log") as address:
        page = opened(address, viewport=viewport)
        page.goto(f"{address}/label")
        expect(page.locator("#text")).to_have_text(evil)
        expect(page.locator("#facts")).to_have_text("adaptersportteachertravel")
        choice = page.get_by_label("Label", exact=True)
        expect(choice).to_be_focused()
        assert choice.locator("option").all_inner_texts() == ["food", "no", "sport", "travel", "yes"]
        violations = axe.Axe().run(page, options=RULES).response["violations"]
        assert [(violation["id"], [node["html"] for node in violation["nodes"]]) for violation in violations] == []
        page.keyboard.press("Enter")
        expect(page.locator("#text")).to_have_text("b")
        page.keyboard.press("Alt+ArrowDown")
        expect(page.locator("#text")).to_have_text("c")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("the label '' is not known")
        page.keyboard.type("tra")
        page.keyboard.press("Enter")
        expect(page.locator("#progress")).to_have_text("2 of 3 confirmed")
        expect(page.locator("#text")).to_have_text("b")
    stored = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["label"], row["confirmed"]) for row in stored] == [("sport", True), ("food", False), ("travel", True)]


def test_spans_are_marked_by_keyboard_in_characters(
    opened: Open, writer: Backbone, filled: Path, tmp_path: Path
) -> None:
    path = tmp_path / "drafts.jsonl"
    path.write_text(json.dumps(draft("spans", TEXT, [[0, 3, "PER"]])))
    arguments = ("--backbone", writer.id, "--adapters", filled, "--state", tmp_path, "--label-file", path)
    with live(*arguments, log=tmp_path / "serve.log") as address:
        page = opened(address)
        page.goto(f"{address}/label")
        field = page.get_by_label("Text: select a part, and press Enter to give it the label")
        expect(field).to_be_focused()
        page.get_by_label("Label", exact=True).select_option("PER")
        field.focus()
        field.evaluate("field => field.setSelectionRange(14, 14)")  # before Bob, in UTF-16 units
        page.keyboard.type("x")  # changes nothing
        for _ in range(3):
            page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Remove Bob: PER")).to_be_visible()
        page.get_by_role("button", name="Remove Ada: PER").click()
        page.keyboard.press("Enter")
        expect(page.locator("#progress")).to_have_text("1 of 1 confirmed")
    (stored,) = [json.loads(line) for line in path.read_text().splitlines()]
    start = TEXT.index("Bob")
    assert stored["label"] == [[start, start + 3, "PER"]]
