"""The Markdown pages of the project: their links, anchors and blocks of code."""

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md"))
    if "build" not in path.relative_to(ROOT).parts
)
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", flags=re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#+ +(.*?) *#*$", flags=re.MULTILINE)


def blocks(text: str, *languages: str) -> list[str]:
    """The code in fenced blocks of these languages."""
    return [code for _, language, code in FENCE.findall(text) if language in languages]


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", text)


def anchors(text: str) -> set[str]:
    """The anchors of the headings, as GitHub makes them: a title that comes again has a number."""
    slugs: Counter[str] = Counter()
    for title in HEADING.findall(prose(text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "")
        slugs[re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")] += 1
    return {slug if number == 0 else f"{slug}-{number}" for slug, count in slugs.items() for number in range(count)}


def links(text: str) -> list[str]:
    """The links and pictures of a page that lead into the repository."""
    return [link for link in LINK.findall(prose(text)) if "://" not in link and not link.startswith("mailto:")]
