"""Gather the pages of the documentation site in build/pages: docs/, and the pages at the root of the repository.

The README is the first page. A link to a file that is not a page becomes the file's path in the repository.
"""

import posixpath
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "build" / "pages"
AT_ROOT = {
    "README.md": "index.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "RELEASING.md": "releasing.md",
    "SECURITY.md": "security.md",
}
"""The pages outside docs/ and their names on the site."""
LINK = re.compile(r"(!?)\[([^\[\]]*(?:\[[^\]]*\][^\[\]]*)*)\]\(([^()\s]+)\)")


def main() -> None:
    """Write the pages anew."""
    shutil.rmtree(TARGET, ignore_errors=True)
    shutil.copytree(ROOT / "docs", TARGET, ignore=shutil.ignore_patterns("*.md"))
    for page in sorted((ROOT / "docs").glob("*.md")):
        (TARGET / page.name).write_text(with_links(page.read_text("utf-8"), "docs"), "utf-8")
    for name, on_site in AT_ROOT.items():
        (TARGET / on_site).write_text(with_links((ROOT / name).read_text("utf-8"), ""), "utf-8")


def with_links(text: str, folder: str) -> str:
    """Return a page of a folder of the repository with its links as the site has them."""

    def replace(match: re.Match[str]) -> str:
        mark, label, link = match.groups()
        path, hash_, anchor = link.partition("#")
        if not path or "://" in link or link.startswith("mailto:"):
            return match[0]
        in_repository = posixpath.normpath(posixpath.join(folder, path))
        if in_repository in AT_ROOT:
            return f"{mark}[{label}]({AT_ROOT[in_repository]}{hash_}{anchor})"
        if in_repository.startswith("docs/"):
            return f"{mark}[{label}]({in_repository.removeprefix('docs/')}{hash_}{anchor})"
        return label if label.strip("`") == in_repository else f"{label} (`{in_repository}`)"

    return LINK.sub(replace, text)


if __name__ == "__main__":
    main()
