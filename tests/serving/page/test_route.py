"""The files of the page: what is sent, with which policy, and to whom."""

import re
from pathlib import Path

import pytest
from served import Client, serving

import adaptdock.serving.page as package
from adaptdock.engine.core.assembly import make_task
from adaptdock.errors import DataError
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone
from adaptdock.serving.http.access_tokens import Token, Tokens
from adaptdock.serving.page.route import FILES

FOLDER = Path(str(package.__file__)).parent
SCRIPTS = [name for name in FILES if name.endswith(".js")]


def test_every_file_of_the_page_is_sent_as_what_it_is(client: Client) -> None:
    kinds = {name: client.get(f"/page/{name}").headers["content-type"].partition(";")[0] for name in FILES}
    assert {kind for name, kind in kinds.items() if name.endswith(".js")} == {"text/javascript"}
    assert (kinds["page.css"], kinds["icon.svg"]) == ("text/css", "image/svg+xml")
    assert client.get("/").headers["content-type"] == "text/html; charset=utf-8"
    assert client.head("/").status_code == 200
    assert client.get("/favicon.ico").content == (FOLDER / "icon.svg").read_bytes()
    assert client.get("/page/route.py").status_code == 404
    files = {path.name for path in FOLDER.iterdir() if path.suffix in (".js", ".css", ".svg", ".html")}
    assert files == {"index.html", "label.html", *FILES}


@pytest.mark.parametrize(("path", "name"), [("/", "index.html"), ("/label", "label.html")])
def test_the_policy_lets_nothing_in_that_is_inline_or_from_elsewhere(client: Client, path: str, name: str) -> None:
    policy = client.get(path).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    document = (FOLDER / name).read_text()
    assert not re.findall(r"<style|\sstyle=|\son[a-z]+=|javascript:", document)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", document))
    references = re.findall(r'(?:src|href)="([^"#]+)"', document)
    assert references
    assert all((FOLDER.parent / name).is_file() for name in references)


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_makes_markup_of_a_text(name: str) -> None:
    script = (FOLDER / name).read_text()
    assert not re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|https?://", script
    )


def test_the_page_is_open_where_what_it_shows_needs_a_token(backbone: Backbone, folder: Path) -> None:
    tokens = Tokens([Token("reader", frozenset(["predict"]), "0" * 64)])
    with serving(backbone, tokens, adapters=str(folder)) as client:
        assert client.get("/").status_code == client.get("/page/page.js").status_code == 200
        assert client.get("/v1/adapters").status_code == 401


def test_an_adapter_is_listed_with_the_fields_that_its_inputs_have(client: Client) -> None:
    assert client.get("/v1/adapters/red").json()["asks"] == ["text"]


@pytest.mark.parametrize("name", registry.names("task"))
def test_every_task_reads_the_fields_that_it_asks_for(name: str) -> None:
    task = make_task(name, {})
    text = "a text\nof two lines"  # a list has a line for each of its parts
    if task.files:
        with pytest.raises(DataError, match="cannot be read"):
            task.read(text)
        return
    assert task.read(text if len(task.asks) == 1 else dict.fromkeys(task.asks, text))


def test_predictions_come_as_text_for_a_person_where_that_is_wanted(client: Client) -> None:
    plain, shown = client.ask("red", "ada"), client.ask("red", "ada", render=True)
    assert "rendered" not in plain[0]
    assert shown[0]["rendered"] == "[ada|RED]"
    assert shown[0]["prediction"] == plain[0]["prediction"]
