"""Check the English of documents, docstrings, comments and messages for the commonest patterns that are not plain.

    python scripts/prose.py [--list]

Fenced code in Markdown is skipped, and so are strings without a space (names, keys and patterns).
"""

import argparse
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("adapters", "backbones", "cli", "docs", "engine", "hub", "plugins", "serving", "src", "tasks")
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "RELEASING.md", "AGENTS.md")
GENERATED = ("commands-help.md", "compatibility.md")
CEILING = 169
"""Most findings that are allowed; this number can only fall."""
PATTERNS = {
    r"\b(is|are) no (?!longer|more than)\w+": "say 'is not a', or name what is missing",
    r"\b(stands?|lies|stood)\b": "say 'is', or name the place",
    r"\bgo(es)? on\b": "say 'continues'",
    r"\bbeneath\b": "say 'below' or 'under'",
    r"\b(told|tells? (?!apart))\b": "say 'says', 'reports' or 'shows'",
    r"\b(those|that|ones?) (that|which) (?=\w)": "name the thing",
    r"\bwhat (is|are|was|were) (written|given|tried|asked|wanted|needed|done|read|kept|there|searched|trained)\b": (
        "name the thing instead of a what-clause"
    ),
    r"\blets? (it|them|a|an|the|each|all|every)\b": "say 'makes' or 'allows'",
}


def sentences(path: Path) -> Iterator[tuple[int, str]]:
    """Yield each line of prose in a file, with its number."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        fenced = False
        for number, line in enumerate(text.splitlines(), 1):
            fenced ^= line.lstrip().startswith("```")
            if not fenced:
                yield number, line
        return
    kinds = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}  # 3.12
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in kinds and " " in token.string:
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, line


def findings(root: Path) -> Iterator[tuple[Path, int, str, str]]:
    """Yield file, line, the words found and the advice for each finding under a folder."""
    files = [file for folder in FOLDERS for kind in ("*.py", "*.md") for file in sorted((root / folder).rglob(kind))]
    for path in [*files, *(root / page for page in PAGES)]:
        if path.name in GENERATED:
            continue
        for number, line in sentences(path):
            for pattern, advice in PATTERNS.items():
                for match in re.finditer(pattern, line, re.IGNORECASE):
                    yield path, number, match[0], advice


def main() -> int:
    """Print the findings, and return 1 if there are more than the ceiling allows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print every finding")
    arguments = parser.parse_args()
    found = list(findings(ROOT))
    if arguments.list or len(found) > CEILING:
        for path, number, words, advice in found:
            print(f"{path.relative_to(ROOT)}:{number}: {words!r}: {advice}")
    print(f"{len(found)} findings, at most {CEILING}")
    return int(len(found) > CEILING)


if __name__ == "__main__":
    sys.exit(main())
