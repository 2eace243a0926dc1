"""Damaged adapter files, made at random: each is read, or refused with an error of ours; nothing else happens.

``make fuzz`` tries this for ten minutes ($ADAPTDOCK_FUZZ_SECONDS).
"""

import faulthandler
import json
import logging
import math
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from adaptdock.engine.inference.dock import Dock
from adaptdock.errors import AdaptError
from adaptdock.hub.artefact.file import _checksum, read_file, read_header, write_file
from adaptdock.plugins.contracts import Backbone

EXAMPLES, HANGS_AFTER = 120, 60
ODD = (
    *(None, True, -1, 0, 2**70, 1e308, "", "x" * 300, "\u202e\x1b[2J", [], {}, [[]], {"a": {}}),
    *("lora", "F16", ["all"], [0, 2**60], [-5, 3], [1e9], [2**40, 2**40]),
    *(math.inf, math.nan, [math.inf], "\ud800", ["\ud800"], "\0", 10**400, [["x"] * 2] * 40),
)
ENTRIES = ("card", "probes", "responses", "format", "format_version", "sha256", "another")
TEXTS: dict[str, Any] = {
    **{text: text for text in ("", "null", "[]", "{}", "NaN", "-Infinity", '"\\ud800"', "\ud800")},
    **{"deep list": "[" * 100_000, "deep table": '{"a":' * 5_000, "long number": "9" * 5_000, "number": 7, "list": [7]},
}
Edit = tuple[str, float, Any]
EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), st.floats(0, 1), st.integers(0, 7)),
        st.tuples(st.just("cut"), st.floats(0, 1), st.just(0)),
        st.tuples(st.just("insert"), st.floats(0, 1), st.binary(max_size=20)),
        st.tuples(st.just("header"), st.floats(0, 1), st.sampled_from(ODD)),
        st.tuples(st.just("card"), st.floats(0, 1), st.sampled_from(ODD)),
        st.tuples(st.just("remove"), st.floats(0, 1), st.just(0)),
        st.tuples(st.just("entry"), st.floats(0, 1), st.sampled_from(sorted(TEXTS))),
    ),
    min_size=1,
    max_size=3,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in a JSON document."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [below for key, child in children for below in places(child, (*path, key))]


def changed(document: Any, at: float, value: Any, remove: bool = False) -> Any:
    """Return a document with one value replaced or removed."""
    document = json.loads(json.dumps(document))
    paths = places(document)
    *path, last = paths[min(len(paths) - 1, int(at * len(paths)))]
    container = document
    for key in path:
        container = container[key]
    if remove:
        del container[last]
    else:
        container[last] = value
    return document


def edited(blob: bytes, edit: Edit) -> bytes:
    """Return a file after one edit; a changed header or card has a valid length and checksum again."""
    kind, at, value = edit
    place = int(at * max(0, len(blob) - 1))
    if kind == "flip":
        return blob[:place] + bytes([blob[place] ^ 1 << value]) + blob[place + 1 :] if blob else blob
    if kind == "cut":
        return blob[:place]
    if kind == "insert":
        return blob[:place] + value + blob[place:]
    length = int.from_bytes(blob[:8], "little")
    try:
        head = json.loads(blob[8 : 8 + length])
        metadata = head["__metadata__"]
        entry = ENTRIES[int(at * 997) % (3 if kind == "card" else len(ENTRIES))]
        if kind == "header":
            head = changed(head, at, value)
        elif kind == "entry":
            metadata[entry] = TEXTS[value]
        else:
            document = json.loads(metadata[entry])
            metadata[entry] = json.dumps(changed(document, at, value, kind == "remove"))
        if (kind, entry) != ("entry", "sha256"):
            head["__metadata__"]["sha256"] = _checksum(head, blob[8 + length :])
        table = json.dumps(head).encode()
        return len(table).to_bytes(8, "little") + table + blob[8 + length :]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return blob  # an earlier edit has left nothing to change


def test_a_damaged_file_is_refused_in_words(backbone: Backbone, adapters: Any, tmp_path: Path) -> None:
    from adaptdock.engine.inference.golden_probes import recorded

    path, dock = tmp_path / "a.safetensors", Dock(backbone)
    write_file(path, recorded(dock, adapters["lora"], ["ada met bob in oslo"], "sample"))
    sound = path.read_bytes()
    assert dock.proved(read_file(path))
    ends = time.monotonic() + float(os.environ.get("ADAPTDOCK_FUZZ_SECONDS", 0))
    tried = refused = number = 0

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(EDITS)
    def attempt(edits: list[Edit]) -> None:
        nonlocal tried, refused
        blob = sound
        for edit in edits:
            blob = edited(blob, edit)
        path.write_bytes(blob)
        tried += 1
        faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
        try:
            for read in (read_header, read_file):
                with suppress(AdaptError):
                    read(path)
            dock.proved(read_file(path))
        except AdaptError:
            refused += 1
        finally:
            faulthandler.cancel_dump_traceback_later()

    while number == 0 or time.monotonic() < ends:
        seed(number)(attempt)()
        number += 1
    logging.getLogger(__name__).warning("%s damaged files, %s of them refused", tried, refused)
    assert refused > tried / 2
