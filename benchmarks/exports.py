"""From an export of an annotation tool to an answer: the wall time of ``adapt train`` and ``adapt predict`` on each.

    python benchmarks/exports.py WNUT17 [--sentences 600] [--tools doccano,prodigy,label-studio,docbin,brat]

Writes the first sentences of the WNUT-17 training data as texts with spans, in the form of each tool: Label Studio's by
the classes of ``label-studio-sdk``, DocBin by spaCy, the others as their documentation describes them. Then it runs one
command to train and one to predict, each a process of its own, and prints the seconds of both and the F1 of validation.
A tool whose library is not installed is left out, and named.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from machine import machine

Span = tuple[int, int, str]
Text = tuple[str, list[Span]]
QUESTION = "Serena Williams won in Melbourne ."
LIBRARIES = {"label-studio": "label_studio_sdk", "docbin": "spacy"}


def texts(path: Path, count: int) -> Iterator[Text]:
    """Yield sentences as texts of words divided by spaces, with the spans of their entities."""
    words: list[tuple[str, str]] = []
    for line in [*path.read_text().splitlines(), ""]:
        if line.strip():
            word, _, tag = line.partition("\t")
            words.append((word, tag.strip()))
            continue
        if words and count:
            count -= 1
            yield " ".join(word for word, _ in words), list(spans(words))
        words = []


def spans(words: Sequence[tuple[str, str]]) -> Iterator[Span]:
    """Yield the spans of tags in BIO."""
    start = end = position = 0
    label = ""
    for word, tag in [*words, ("", "O")]:
        if label and not tag.startswith("I-"):
            yield start, end, label
            label = ""
        if tag.startswith("B-"):
            start, label = position, tag[2:]
        end = position + len(word)
        position = end + 1


def doccano(folder: Path, annotated: Sequence[Text]) -> Path:
    """Write the JSON lines of doccano for sequence labelling."""
    rows = (
        {"id": number, "text": text, "label": [list(span) for span in marked], "Comments": []}
        for number, (text, marked) in enumerate(annotated, 1)
    )
    return lines(folder / "all.jsonl", rows)


def prodigy(folder: Path, annotated: Sequence[Text]) -> Path:
    """Write what ``prodigy db-out`` writes of ``ner.manual``."""
    return lines(folder / "annotations.jsonl", (prodigy_row(text, marked) for text, marked in annotated))


def prodigy_row(text: str, marked: Sequence[Span]) -> dict[str, Any]:
    """Return a row of Prodigy, with tokens, hashes and the answer."""
    tokens, position = [], 0
    for number, word in enumerate(text.split(" ")):
        tokens.append({"text": word, "start": position, "end": position + len(word), "id": number, "ws": True})
        position += len(word) + 1
    first = {token["start"]: token["id"] for token in tokens}
    last = {token["end"]: token["id"] for token in tokens}
    entities = [
        {"start": start, "end": end, "token_start": first[start], "token_end": last[end], "label": label}
        for start, end, label in marked
    ]
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], signed=True)
    hashes = {"_input_hash": number, "_task_hash": number ^ 1}
    view = {"_is_binary": False, "_view_id": "ner_manual", "answer": "accept", "_timestamp": 1700000000}
    return {"text": text, **hashes, "tokens": tokens, "spans": entities, **view}


def label_studio(folder: Path, annotated: Sequence[Text]) -> Path:
    """Write Label Studio's JSON, each result made and checked by the classes of its SDK."""
    from label_studio_sdk.label_interface import LabelInterface

    labels = sorted({label for _, marked in annotated for _, _, label in marked})
    choices = "".join(f'<Label value="{label}"/>' for label in labels)
    config = f'<View><Labels name="label" toName="text">{choices}</Labels><Text name="text" value="$text"/></View>'
    interface = LabelInterface(config)
    control = interface.get_control("label")
    tasks = []
    for number, (text, marked) in enumerate(annotated, 1):
        regions = [control.label(label=[label], start=start, end=end) for start, end, label in marked]
        results = [region._dict() for region in regions]  # the form of an export
        for result, (start, end, _) in zip(results, marked, strict=True):
            result["value"]["text"] = text[start:end]
        annotation = {"id": number, "result": results}
        if not interface.validate_annotation(annotation) or not interface.validate_task({"data": {"text": text}}):
            raise SystemExit(f"Label Studio refuses the annotation of {text!r}")
        tasks.append({"id": number, "data": {"text": text}, "annotations": [annotation]})
    path = folder / "project-1.json"
    path.write_text(json.dumps(tasks))
    return path


def docbin(folder: Path, annotated: Sequence[Text]) -> Path:
    """Write a DocBin by spaCy."""
    import spacy
    from spacy.tokens import DocBin

    pipeline = spacy.blank("en")
    store = DocBin()
    for text, marked in annotated:
        document = pipeline.make_doc(text)
        entities = [document.char_span(*span, alignment_mode="expand") for span in marked]
        document.ents = spacy.util.filter_spans([entity for entity in entities if entity is not None])
        store.add(document)
    path = folder / "train.spacy"
    store.to_disk(path)
    return path


def brat(folder: Path, annotated: Sequence[Text]) -> Path:
    """Write a folder of brat: ten sentences a document, with its annotations beside it."""
    for start in range(0, len(annotated), 10):
        content, notes = "", []
        for text, marked in annotated[start : start + 10]:
            for first, last, label in marked:
                place = f"{len(content) + first} {len(content) + last}"
                notes.append(f"T{len(notes) + 1}\t{label} {place}\t{text[first:last]}\n")
            content += f"{text}\n"
        (folder / f"doc-{start:05}.txt").write_text(content)
        (folder / f"doc-{start:05}.ann").write_text("".join(notes))
    return folder


TOOLS: dict[str, Callable[[Path, Sequence[Text]], Path]] = {
    "doccano": doccano,
    "prodigy": prodigy,
    "label-studio": label_studio,
    "docbin": docbin,
    "brat": brat,
}


def lines(path: Path, rows: Any) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def timed(*arguments: str) -> tuple[float, str]:
    """Return the seconds of a command of ``adapt``, and what it prints."""
    before = time.perf_counter()
    done = subprocess.run([str(Path(sys.executable).with_name("adapt")), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"adapt {' '.join(arguments)}: {done.stderr}")
    return time.perf_counter() - before, done.stdout


def main() -> None:
    """Train on each export and ask one question, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wnut17", type=Path, help="The folder of WNUT-17.")
    parser.add_argument("--sentences", type=int, default=600)
    parser.add_argument("--tools", default=",".join(TOOLS))
    arguments = parser.parse_args()
    annotated = list(texts(arguments.wnut17 / "wnut17train.conll", arguments.sentences))
    print(f"{machine()}; load {os.getloadavg()[0]:.1f}\n{len(annotated)} sentences\n", flush=True)
    print("| export | adapt train, s | adapt predict, s | validation F1 | answer |\n|---|---|---|---|---|")
    for tool in arguments.tools.split(","):
        if tool in LIBRARIES and find_spec(LIBRARIES[tool]) is None:
            print(f"| {tool} | left out: {LIBRARIES[tool]} is not installed | | | |", flush=True)
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "export").mkdir()
            export, file = TOOLS[tool](folder / "export", annotated), str(folder / "names.safetensors")
            trained, _ = timed("train", "--task", "ner", "--data", str(export), "--output", file)
            asked, answer = timed("predict", file, QUESTION)
            card = json.loads(timed("inspect", file, "--json")[1])
            f1 = card["card"]["metrics"]["validation"]["f1"]
            print(f"| {tool} | {trained:.0f} | {asked:.1f} | {f1:.2f} | `{answer.strip()}` |", flush=True)


if __name__ == "__main__":
    main()
