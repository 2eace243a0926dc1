"""Columns: which one of a file holds which field of a task. What is guessed is said."""

from collections.abc import Iterable, Mapping
from shlex import quote
from typing import Any

from adaptdock.engine.data.tables import Say, plain
from adaptdock.errors import DataError
from adaptdock.plugins.contracts import ColumnInspector, Task

INDEX = "Unnamed:"
"""How pandas begins the name of a column of row numbers that has none."""


class Columns:
    """Finds the column of each field in the rows of one file.

    A column is taken by the name that was given for the field, by the one that the task found by its values, or by
    those that the task accepts. A name that differs in upper case or white space around it is a guess, and said once.
    ``headed`` says that the names are those of a header.
    """

    def __init__(
        self,
        task: type[Task],
        fields: Iterable[str],
        named: Mapping[str, str],
        located: Mapping[str, str],
        say: Say,
        headed: bool = False,
    ) -> None:
        self.task, self.fields, self.say = task, list(fields), say
        self.named, self.located = named, located
        self.headed = headed
        self.derived: dict[str, str] = {}
        """Columns that are not in the file, by name: the columns that they were made of, comma-separated."""
        self._resolved: dict[tuple[str, ...], dict[str, str]] = {}
        self._said: set[str] = set()

    def of(self, row: Mapping[str, Any], place: str) -> dict[str, str]:
        """Return field -> column for the fields that a row has; raise :class:`DataError` where two could be one."""
        key = tuple(row)
        if key not in self._resolved:
            self._resolved[key] = self._resolve(row, place)
        return self._resolved[key]

    def accepted(self, field: str) -> tuple[str, ...]:
        """Return the names under which a field is looked for."""
        for names in (self.named, self.located):
            if field in names:
                return (names[field],)
        return self.task.columns.get(field, (field,))

    def _resolve(self, row: Mapping[str, Any], place: str) -> dict[str, str]:
        resolved: dict[str, str] = {}
        rivals: dict[str, list[str]] = {}
        numbered = is_numbered(row)
        for field in self.fields:
            accepted = self.accepted(field)
            if not numbered and field not in self.named:  # a number in a header is a cell of the first record
                accepted = tuple(name for name in accepted if not is_number(name))
            columns = [name for name in accepted if name in row and not self._is_taken(name, field, row)]
            if not columns:
                columns = self._alike(field, accepted, row, place)
            if columns:
                resolved[field], rivals[field] = columns[0], columns[1:]
        if isinstance(row, dict):  # the columns of CoNLL-U are the same in every file
            self._note_rivals(resolved, rivals, row, place)
        return resolved

    def _is_taken(self, column: str, field: str, row: Mapping[str, Any]) -> bool:
        """Tell a column that was named for another field and not for this one."""
        if field in self.named or not is_number(column):
            return field not in self.named and column in self.named.values()
        width = sum(not name.startswith("-") for name in row)
        numbers = [name for name in self.named.values() if is_number(name) and name in row]
        return any(position(name, width) == position(column, width) for name in numbers)

    def read_from(self, row: Mapping[str, Any], place: str) -> dict[str, str]:
        """Return field -> column as :meth:`of` does; for a derived column those that it was made of."""
        return {field: self.derived.get(column, column) for field, column in self.of(row, place).items()}

    def _alike(self, field: str, accepted: Iterable[str], row: Mapping[str, Any], place: str) -> list[str]:
        """Return the column whose name differs from an accepted one in upper case or white space alone."""
        for name in accepted:
            columns = [
                column for column in row if plain(column) == plain(name) and not self._is_taken(column, field, row)
            ]
            if len(columns) > 1:
                raise DataError(
                    f"{place}: the columns {' and '.join(map(repr, columns))} could both be {field}. Say which with "
                    f"--columns {quote(f'{field}={columns[0]}')}, or rename one of them."
                )
            if columns:
                self._note(place, f"{field} is read from the column {columns[0]!r}, taken for {name!r}")
                return columns
        return []

    def _note_rivals(
        self, resolved: Mapping[str, str], rivals: Mapping[str, list[str]], row: Mapping[str, Any], place: str
    ) -> None:
        """Say which other columns could have been a field: those of another accepted name, or of one alike."""
        used = set(resolved.values())
        for field, column in resolved.items():
            alike = [name for name in row if name != column and plain(name) == plain(column)]
            unused = [name for name in dict.fromkeys([*rivals[field], *alike]) if name not in used]
            unused = [name for name in unused if not name.lstrip("-").isdigit()]
            if unused and field not in self.named:
                listing, flag = " and ".join(map(repr, unused)), quote(f"{field}={unused[0]}")
                self._note(
                    place, f"{field} is read from the column {column!r}; there is {listing} too (--columns {flag})"
                )

    def _note(self, place: str, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self.say(f"{place.rpartition(':')[0] or place}: {message}")


def located(task: type[Task], rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return field -> column of sentences without a header, for the fields that a task tells by their values."""
    if not issubclass(task, ColumnInspector):
        return {}
    sentences = []
    for row in rows:
        width = sum(not name.startswith("-") for name in row)
        sentences.append([row[str(number)] for number in range(width)])
    return {field: str(number) for field, number in task.locate(sentences).items()}


def is_numbered(row: Mapping[str, Any]) -> bool:
    """Return whether columns are named by their numbers: without a header, or 0, 1, ... as pandas names them."""
    names = [name for name in row if name.strip() and not name.startswith(INDEX)]
    return "-1" in row or names == [str(number) for number in range(len(names))]


def is_number(column: str) -> bool:
    """Return whether a column is named by its number: from the first, or negative from the last."""
    return column.lstrip("-").isdigit()


def position(column: str, width: int) -> int:
    """Return the position, from the first of ``width`` columns, of a column that is named by its number."""
    return int(column) % width
