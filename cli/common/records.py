"""Records as a task reads them, drawn for a person."""

import json
from collections.abc import Sequence

from adaptdock.cli.common.output import say
from adaptdock.plugins.contracts import Record, Shown, Task

WIDTH = 200
"""Characters of a record that are shown."""


def first_records(records: Sequence[Record], task: Task, number: int) -> list[dict[str, str]]:
    """Return the places and contents of the first cleaned records."""
    return [{"place": str(record.get("where", "?")), "record": _drawn(record, task)} for record in records[:number]]


def show_records(split: str, drawn: Sequence[dict[str, str]]) -> None:
    """Print the first records of a split, one a line."""
    if drawn:
        say()
        say(f"First records of {split}, as they are read:")
    for record in drawn:
        content = " ".join(record["record"].split())
        say(f"  {record['place']}: {content[:WIDTH]}{'...' if len(content) > WIDTH else ''}")


def _drawn(record: Record, task: Task) -> str:
    if isinstance(task, Shown):
        return task.shown(record)
    fields = {name: value for name, value in record.items() if name in type(task).columns}
    return json.dumps(fields, ensure_ascii=False, default=str)
