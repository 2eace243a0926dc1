"""What clients notice when another adapter answers under a name: another task, or other labels."""

from collections.abc import Mapping
from typing import Any

MOST_LABELS = 5
"""Labels that a sentence names."""


def answer_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each difference between the answers of two adapters, given by their cards as JSON."""
    old, new = before["task"], after["task"]
    if old["name"] != new["name"]:
        return [f"the task is {new['name']}, and was {old['name']}"]
    labels, known = _labels(new), _labels(old)
    missing = [label for label in known if label not in labels]
    added = [label for label in labels if label not in known]
    sentences = [f"labels that answers no longer have: {_listed(missing)}"] if missing else []
    return [*sentences, *([f"new labels: {_listed(added)}"] if added else [])]


def _labels(task: Mapping[str, Any]) -> list[str]:
    labels = (task.get("options") or {}).get("labels")
    return [str(label) for label in labels] if isinstance(labels, list | tuple) else []


def _listed(labels: list[str]) -> str:
    rest = len(labels) - MOST_LABELS
    return ", ".join(labels[:MOST_LABELS]) + (f" and {rest} more" if rest > 0 else "")
