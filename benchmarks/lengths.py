"""Batches of mixed lengths: their time over that of the padded batch, and of a batch of equal lengths.

    python benchmarks/lengths.py [--backbone minilm] [--rows 32,64] [--adapters 32] [--rounds 9] [--dtype float32]

Texts have 5 to 200 words, log-normal (median 40, sigma 0.8). Every round runs each side once, in turn: "padded" pads
all rows to the longest, "divided" is what ``Dock.run`` does, and "equal" has as many rows of the mean length, so the
same number of tokens. Adapters of lora alone, or of lora, bottleneck and prefix, take turns. A ratio is the median over
the rounds of the processor's seconds in the same round, which a busy machine hardly changes.
"""

import argparse
import logging
import os
import random
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
logging.disable(logging.WARNING)
warnings.simplefilter("ignore")

from machine import machine
from mixed import METHODS, Counter, adapter
from transformers.utils import logging as transformers_logging

from adaptdock.engine.core import docked_adapters
from adaptdock.engine.core.docked_adapters import Row
from adaptdock.engine.core.length_groups import length_groups
from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.plugins.contracts import Backbone, Feature, LoadOptions

SHORTEST, LONGEST, MEDIAN, SIGMA = 5, 200, 40, 0.8
"""Words of the texts."""
TOKENS_A_WORD = 1.3
Run = Callable[[], object]


def mixed_lengths(rows: int, seed: int) -> list[int]:
    """Return lengths of rows in tokens, with the two special tokens of a text."""
    draw = random.Random(seed)
    words = [min(LONGEST, max(SHORTEST, round(MEDIAN * draw.lognormvariate(0, SIGMA)))) for _ in range(rows)]
    return [round(TOKENS_A_WORD * count) + 2 for count in words]


def equal_lengths(lengths: Sequence[int]) -> list[int]:
    """Return as many lengths with the same sum, which differ by one at most."""
    low, longer = divmod(sum(lengths), len(lengths))
    return [low + 1] * longer + [low] * (len(lengths) - longer)


def features(lengths: Sequence[int], seed: int) -> list[Feature]:
    """Return rows of random tokens."""
    draw = random.Random(seed)
    return [
        Feature({"input_ids": [draw.randrange(1000, 20_000) for _ in range(count)], "attention_mask": [1] * count})
        for count in lengths
    ]


@contextmanager
def padded() -> Iterator[None]:
    """Pad every batch to its longest row, as if division never paid."""
    docked_adapters.length_groups = lambda backbone, rows: [list(range(len(rows)))]
    try:
        yield
    finally:
        docked_adapters.length_groups = length_groups


def seconds(run: Run) -> float:
    """Return the processor's seconds of a run, over all threads."""
    started = time.process_time()
    run()
    return time.process_time() - started


def operations(run: Run) -> int:
    """Return the operations of a run that reach aten."""
    with Counter() as counter:
        run()
    return counter.count


def sides(dock: Dock, aboard: Sequence[Row], mixed: Sequence[Feature], equal: Sequence[Feature]) -> dict[str, Run]:
    """Return what runs a batch of mixed lengths with padding and divided, and a batch of equal lengths."""

    def with_padding() -> None:
        with padded():
            dock.run(aboard, mixed)

    return {
        "padded": with_padding,
        "divided": lambda: dock.run(aboard, mixed),
        "equal": lambda: dock.run(aboard, equal),
    }


def compare(dock: Dock, names: Sequence[str], rows: int, rounds: int) -> str:
    """Return the line of a table for batches of so many rows."""
    measured: list[tuple[float, ...]] = []
    counts: dict[str, int] = {}
    for number in range(rounds + 1):
        lengths = mixed_lengths(rows, number)
        mixed, equal = features(lengths, number), features(equal_lengths(lengths), number)
        with dock.boarding([names[(number * rows + row) % len(names)] for row in range(rows)]) as aboard:
            runs = sides(dock, aboard, mixed, equal)
            if not number:  # a round to warm up
                counts = {side: operations(run) for side, run in runs.items()}
                continue
            times = {side: seconds(run) for side, run in runs.items()}
        share, passes = sum(lengths) / (rows * max(lengths)), len(length_groups(dock.backbone, mixed))
        measured.append((share, passes, times["divided"] / times["padded"], times["divided"] / times["equal"]))
    share, passes, over_padded, over_equal = (statistics.median(values) for values in zip(*measured, strict=True))
    counted = " / ".join(f"{counts[side]:,}" for side in ("padded", "divided", "equal"))
    return f"| {rows} | {share:.2f} | {passes:g} | {over_padded:.2f} | {over_equal:.2f} | {counted} |"


def tables(backbone: Backbone, row_counts: Sequence[int], adapters: int, rounds: int) -> Iterator[str]:
    """Yield the lines of a table for each kind of adapters."""
    for kind, methods in {"lora": ["lora"], "all three": [*METHODS]}.items():
        with Dock(backbone) as dock:
            names = [dock.dock(adapter(backbone, methods[n % len(methods)], n)) for n in range(adapters)]
            yield f"\n**{kind}, {adapters} adapters**\n"
            yield "| rows | tokens / padded tokens | passes | over padded | over equal | operations |"
            yield "|---|---|---|---|---|---|"
            for rows in row_counts:
                yield compare(dock, names, rows, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--rows", default="8,32,64")
    parser.add_argument("--adapters", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    print(machine())
    backbone = load_backbone(arguments.backbone, LoadOptions(device="cpu", dtype=arguments.dtype))
    for line in tables(backbone, [int(n) for n in arguments.rows.split(",")], arguments.adapters, arguments.rounds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
