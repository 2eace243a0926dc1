"""The forms in which data has queries with passages: lists, lists by relevance, rows with one passage, triplets.

In the form of this project a record has a ``query`` and ``candidates``: objects with ``text``, an ``id`` and a
``title`` if there are any, and in labelled data ``relevance``, a whole number from 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Record
from adaptdock.plugins.toolkit.groups import connected
from adaptdock.plugins.toolkit.hashes import hash_of, hashes_of
from adaptdock.plugins.toolkit.stored import picked, stored
from adaptdock.tasks.labels.printed_lists import printed

TEXTS = ("text", "passage", "passage_text", "contents", "content", "body", "document", "doc")
IDS = ("id", "docid", "doc_id", "pid", "passage_id", "corpus_id")
RELEVANCES = ("relevance", "label", "is_selected", "relevant", "score")
LISTS = ("positive", "negative")
EXPECTED = (
    "a query has candidates (a list, or one text a row) with their relevance, or a list of positive texts and one of "
    "negative texts"
)

Candidate = dict[str, Any]


def query_of(record: Mapping[str, Any], where: str) -> str:
    """Return the query; raise :class:`DataError` without one."""
    query = record.get("query")
    if not isinstance(query, str) or not query.strip():
        raise DataError(f"{where}: the query is a text; found {query!r:.60}")
    return query


def read_candidates(value: Any, where: str) -> list[Candidate]:
    """Return candidates without labels from a list of texts or objects, one text, or an object of lists."""
    value = printed(value) or value if isinstance(value, str) else value
    if isinstance(value, Mapping) and any(isinstance(part, list | tuple) for part in value.values()):
        value = _by_row(value, where)
    parts = list(value) if isinstance(value, list | tuple) else [value]
    if not parts:
        raise DataError(f"{where}: the list of candidates is empty")
    return [_candidate(part, where) for part in parts]


def labelled_candidates(record: Record, where: str) -> list[Candidate]:
    """Return the candidates of a raw record with their relevance; raise :class:`DataError` for any other form.

    Positive and negative texts are put in an order that does not depend on their relevance.
    """
    if record.get("candidates") is not None:
        candidates = read_candidates(record["candidates"], where)
        _take_relevance(candidates, record.get("relevance"), where)
        return candidates
    if record.get("positive") is None:
        raise DataError(f"{where}: {EXPECTED}; found {', '.join(sorted(record.keys() - {'where'})) or 'nothing'}")
    candidates = []
    for name, relevance in zip(LISTS, (1, 0), strict=True):
        value = record.get(name)
        texts = [] if value is None or value == [] else read_candidates(value, where)
        candidates += [{**candidate, "relevance": relevance} for candidate in texts]
    return sorted(candidates, key=lambda candidate: sha256(candidate["text"].encode()).digest())


def grouped(records: Iterable[Record], split: str) -> tuple[Sequence[Record], list[str]]:
    """Return a record for each query of raw records, in the order of the first ones, and notes.

    Records of one query are joined. A candidate that a query has several times has its greatest relevance.
    """
    rows = stored(_with_candidates(record, str(record.get("where", split))) for record in records)
    queries = connected(hashes_of(hash_of([row["query"]]) for row in rows))
    repeated = 0

    def joined(places: Sequence[int]) -> Record:
        nonlocal repeated
        same_query = picked(rows, places)
        by_text: dict[tuple[str, str], Candidate] = {}
        for candidate in (candidate for row in same_query for candidate in row["candidates"]):
            before = by_text.setdefault(_key(candidate), candidate)
            repeated += before is not candidate
            before["relevance"] = max(before["relevance"], candidate["relevance"])
        return {**same_query[0], "candidates": list(by_text.values())}

    cleaned = stored(map(joined, queries)) if len(rows) else rows
    notes = []
    if len(cleaned) < len(rows):
        notes.append(f"{split}: {len(rows)} rows joined by their query, of which there are {len(cleaned)}")
    if repeated:
        notes.append(
            f"{split}: {repeated} candidates are there more than once for their query, and are read once, with their "
            f"greatest relevance"
        )
    return cleaned, notes


def passage(candidate: Mapping[str, Any]) -> str:
    """Return the text of a candidate for the model, behind its title if it has one."""
    return f"{candidate['title']} {candidate['text']}" if candidate.get("title") else str(candidate["text"])


def _with_candidates(record: Record, where: str) -> Record:
    """Return a raw record with its candidates in place of other fields for them."""
    rest = {name: value for name, value in record.items() if name not in ("relevance", *LISTS)}
    return {**rest, "query": query_of(record, where), "candidates": labelled_candidates(record, where)}


def _key(candidate: Candidate) -> tuple[str, str]:
    return candidate.get("title", ""), candidate["text"]


def _by_row(value: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    """Return a list of objects for an object of lists, which is how the datasets library keeps such a list."""
    lists = {name: list(part) for name, part in value.items() if isinstance(part, list | tuple)}
    sizes = {name: len(part) for name, part in lists.items()}
    if len(set(sizes.values())) > 1:
        raise DataError(f"{where}: the lists of the candidates differ in length: {sizes}")
    return [dict(zip(lists, parts, strict=True)) for parts in zip(*lists.values(), strict=True)]


def _candidate(part: Any, where: str) -> Candidate:
    if isinstance(part, str):
        part = {"text": part}
    if not isinstance(part, Mapping):
        raise DataError(f"{where}: a candidate is a text, or an object with 'text'; found {part!r:.60}")
    text = _first(part, TEXTS)
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: a candidate has no text: {dict(part)!r:.80}")
    candidate: Candidate = {"text": text}
    identifier, relevance, title = _first(part, IDS), _first(part, RELEVANCES), part.get("title")
    if identifier is not None:
        candidate["id"] = identifier
    if isinstance(title, str) and title.strip():
        candidate["title"] = title
    if relevance is not None:
        candidate["relevance"] = relevance
    return candidate


def _first(part: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((part[name] for name in names if part.get(name) is not None), None)


def _take_relevance(candidates: Sequence[Candidate], value: Any, where: str) -> None:
    """Write the relevance of each candidate into it, from a list beside the candidates or from themselves."""
    value = printed(value) or value if isinstance(value, str) else value
    if value is not None:
        values = list(value) if isinstance(value, list | tuple) else [value]
        if len(values) != len(candidates):
            raise DataError(f"{where}: {len(candidates)} candidates have {len(values)} numbers of relevance")
        for candidate, number in zip(candidates, values, strict=True):
            candidate["relevance"] = number
    for candidate in candidates:
        candidate["relevance"] = relevance_of(candidate.get("relevance"), where)


def relevance_of(value: Any, where: str) -> int:
    """Return a relevance as a whole number from 0; negative ones (not judged, spam) are 0, as in trec_eval.

    Raises :class:`DataError` for anything else.
    """
    number: float | None = None
    if isinstance(value, bool | int | float):
        number = float(value)
    elif isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            number = {"true": 1.0, "false": 0.0}.get(value.strip().casefold())
    if number is None or not number.is_integer():
        raise DataError(
            f"{where}: the relevance of a candidate is a whole number, 0 if it does not answer the query; found "
            f"{value!r:.60}"
        )
    return max(0, int(number))
