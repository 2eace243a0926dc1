"""Docstrings on the API pages of the site: examples are code, references are names, tables are tables."""

from pathlib import Path

import griffe

PATH = Path(__file__).parents[2] / "scripts" / "api_docstrings.py"
SOURCE = '''
def answer():
    """Return the answer of :class:`~adaptdock.Dock`.

    >>> answer()
    42

    >>> for name in {"a": ["text"]}["a"]:
    ...     name
    'text'

    Raises :class:`UsageError`.
    """
'''


def test_examples_become_code_and_the_text_around_them_stays(tmp_path: Path) -> None:
    (tmp_path / "answers.py").write_text(SOURCE)
    module = griffe.load("answers", search_paths=[tmp_path], extensions=griffe.load_extensions(str(PATH)))
    docstring = module["answer"].docstring
    assert docstring is not None
    session = """>>> answer()\n42\n\n>>> for name in {"a": ["text"]}["a"]:\n...     name\n'text'"""
    assert docstring.value == (
        f"Return the answer of `adaptdock.Dock`.\n\n```pycon\n{session}\n```\n\nRaises `UsageError`."
    )
