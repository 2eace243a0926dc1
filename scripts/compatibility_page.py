"""The document that `compatibility.py` writes: what was found out of each model type, counted, and why what fails."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

METHODS = ("lora", "dora", "ia3", "bottleneck", "prefix", "prompt")


@dataclass
class Found:
    """What was found out about one model type; reasons are empty where all is well."""

    model_type: str
    kind: str = ""
    """``encoder``, ``decoder`` or ``encoder-decoder``."""
    writes: bool = False
    """Whether it was tried as a language model, which writes."""
    closed: str = ""
    """Why no port is open."""
    linear: str = ""
    """Linear roles that are open, by half of the model."""
    attention: int = 0
    padding: bool = False
    """Whether its own hidden states depend on how a row is padded: then rows are compared at equal padding."""
    methods: dict[str, dict[str, str]] = field(default_factory=dict)
    """By method what failed: ``refused`` or a check, with the reason."""
    options: dict[str, str] = field(default_factory=dict)
    """By method the options with which it works, where it does not work with those tried first."""

    @property
    def opened(self) -> bool:
        """Return whether it has open ports."""
        return not self.closed


def cell(found: Found, method: str) -> str:
    """Return what stands in the table for a method: ``yes``, ``no``, or what fails."""
    if not found.opened:
        return "–"
    failed = found.methods[method]
    if "refused" in failed:
        return "no"
    if failed:
        return f"not: {', '.join(failed)}"
    return f"yes, {found.options[method]}" if found.options[method] else "yes"


def works(found: Found, method: str) -> bool:
    """Return whether a method passes every check that is asked."""
    return found.opened and not found.methods[method]


def counts(rows: Sequence[Found]) -> list[str]:
    """Return the lines that count what the table holds."""
    opened = [row for row in rows if row.opened]
    writing = [row for row in opened if row.writes]
    all_methods = sum(all(works(row, method) for method in METHODS) for row in opened)
    lines = [
        f"- model types tried: {len(rows)}",
        f"- ports open: {len(opened)}",
        f"- every method works: {all_methods}",
        f"- language models, which also write: {len(writing)}",
    ]
    lines += [f"- {method} works: {sum(works(row, method) for row in opened)}" for method in METHODS]
    return lines


def reasons(rows: Sequence[Found]) -> list[str]:
    """Return a line for each reason, with the model types and methods it stands for."""
    told: list[tuple[str, str, str]] = []
    for row in rows:
        if row.closed:
            told.append((_general(row.closed, row), "no port", row.model_type))
        for method, failed in row.methods.items():
            told += [
                (_general(why, row), method if check == "refused" else f"{method} {check}", row.model_type)
                for check, why in failed.items()
            ]
    lines = []
    for why, group in groupby(sorted(told), key=lambda entry: entry[0]):
        listed = list(group)
        what = ", ".join(dict.fromkeys(entry[1] for entry in listed))
        who = ", ".join(f"`{name}`" for name in dict.fromkeys(sorted(entry[2] for entry in listed)))
        lines.append(f"- {what}: {why} — {who}")
    return sorted(lines)


def _general(why: str, row: Found) -> str:
    return why.replace(f"{row.model_type!r}", "TYPE").replace("|", "/")


def page(rows: Sequence[Found], versions: str) -> str:
    """Return the document."""
    head = ["model type", "kind", "linear roles", "attention ports", *METHODS]
    table = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        kind = f"{row.kind}{', writes' if row.writes else ''}{', padding matters' if row.padding else ''}"
        cells = [row.model_type, kind or "–", row.linear or "none", str(row.attention)]
        table.append(f"| {' | '.join([*cells, *(cell(row, method) for method in METHODS)])} |")
    parts = [
        INTRODUCTION.format(versions=versions),
        *("## Counts", "", *counts(rows), ""),
        *("## The table", "", *table, ""),
        *("## What does not work, and why", "", *reasons(rows), ""),
    ]
    return "\n".join(parts)


INTRODUCTION = """# Compatibility

Written by `make compatibility` (`scripts/compatibility.py`), with {versions}.

Every model type of transformers' auto mappings whose class takes `input_ids` and neither images nor sound is built
from a configuration that is its default with small sizes (32 wide, 4 heads, two layers or a few more), with random
weights. [Backbones](backbones.md) tells how ports are found; no model type has code of its own here. `yes` means that
all of this holds, with `--roles all` or, where that does not work, with the method's default roles (a model of masked
words is not asked to write):

- *trains*: four steps with the head of `ner`; every gradient is there and finite, every weight moves, and the
  backbone does not;
- *mixes*: in a batch of a bare row, two adapters of the method and a LoRA adapter, with texts of unequal length, each
  row's hidden states are those it has alone, within 1e-5 (of the largest value where that is above 1), and each
  adapter acts;
- *saves*: written to a file and read, it gives the same bits;
- *writes*, where transformers has a language model of the type: each row of such a batch writes what it writes alone.

The methods of an encoder-decoder act on its encoder here; both halves are tested for those of
[Backbones](backbones.md). `no` is a refusal before any work is done. `not: ...` names what fails. `yes, roles=all` and
the like: with that option, and not without it. *Padding matters* where the bare model's own rows depend on how far
they are padded; there texts of equal length are mixed.

A reason that begins with the name of a Python error is what transformers raises for this small configuration; some
of them may be the configuration's, and not the model type's. Encoders of images and sound open no port: what is sent
through a model to find ports is tokens.
"""
