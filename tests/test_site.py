"""The documentation as a whole: links and anchors, the menu of the site, names and options that exist."""

import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from pages import PAGES, ROOT, anchors, blocks, links, prose

import adaptdock

NAV = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
HELP = (ROOT / "docs" / "commands-help.md").read_text()


def pages_of(nav: object) -> list[str]:
    """The pages that a menu names, in order."""
    if isinstance(nav, str):
        return [nav]
    parts = nav if isinstance(nav, list) else list(nav.values())  # type: ignore[attr-defined]
    return [page for part in parts for page in pages_of(part)]


@pytest.fixture(scope="module")
def site_pages():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import site_pages
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    return site_pages


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_an_anchor(page: Path) -> None:
    text = page.read_text()
    for link in links(text):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_in_a_table_has_an_escaped_bar_which_the_site_would_show(page: Path) -> None:
    rows = [line for line in prose(page.read_text()).splitlines() if line.startswith("|")]
    assert not [row for row in rows if re.search(r"`[^`|]*\\\|[^`]*`", row)]


def test_anchors_are_those_of_github() -> None:
    text = "# A *b*: `c_d`, e!\n\n## Again\n\n## Again\n\n```text\n# no heading\n```\n\n### [A link](x.md) of it\n"
    assert anchors(text) == {"a-b-c_d-e", "again", "again-1", "a-link-of-it"}


def test_the_menu_of_the_site_has_every_page_once(site_pages) -> None:
    of_docs = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert sorted(pages_of(NAV)) == sorted({*of_docs, *site_pages.AT_ROOT.values()})
    for name in site_pages.AT_ROOT:
        assert (ROOT / name).is_file()


def test_links_have_the_places_of_the_site(site_pages) -> None:
    with_links = site_pages.with_links
    assert with_links("[a](docs/ner.md#data) ![b](docs/images/x.png)", "") == "[a](ner.md#data) ![b](images/x.png)"
    assert with_links("[a](../README.md#install), [b](#c)", "docs") == "[a](index.md#install), [b](#c)"
    assert with_links("[a](https://x.example/b.md)", "docs") == "[a](https://x.example/b.md)"
    assert with_links("[examples](../examples/serving)", "docs") == "examples (`examples/serving`)"
    assert with_links("[`LICENSE`](LICENSE)", "") == "`LICENSE`"


def test_the_dependencies_of_the_site_are_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    wanted = {re.split(r"[>=<]", requirement)[0] for requirement in project["optional-dependencies"]["docs"]}
    assert wanted
    assert wanted <= pinned


def test_the_pages_about_python_have_every_public_name() -> None:
    documented = {
        name
        for page in ("api.md", "api-plugins.md")
        for name in re.findall(r"^::: (\S+)$", (ROOT / "docs" / page).read_text(), flags=re.MULTILINE)
    }
    modules = {"adaptdock.errors", "adaptdock.plugins.contracts", "adaptdock.plugins.toolkit"}
    public = {f"adaptdock.{name}" for name in adaptdock.__all__} - {"adaptdock.__version__", "adaptdock.AdaptError"}
    assert documented == {*public, *modules, "adaptdock.engine.conformance"}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_commands_and_options_of_the_examples_exist(page: Path) -> None:
    known = set(re.findall(r"(?<![\w-])--[a-z][\w-]*|(?<![\w-])-[a-z]\b", HELP))
    commands = set(re.findall(r"^##+ (adapt \S+)$", HELP, flags=re.MULTILINE))
    for block in blocks(page.read_text(), "bash", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.match(r"(?:\$ )?(adapt [a-z]+)\b(.*)", line)
            if command:
                assert command[1] in commands, line
                options = set(re.findall(r"(?<=\s)(--[a-z][\w-]*|-[a-z]\b)", command[2]))
                assert options <= known, (line, options - known)
