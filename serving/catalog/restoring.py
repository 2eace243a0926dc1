"""Restoring: served adapters from their written records."""

from collections.abc import Callable, Mapping
from typing import Any

from adaptdock.engine.inference.residency import Residency
from adaptdock.errors import AdaptError, MismatchError, TrustError
from adaptdock.serving.catalog.version_store import Store
from adaptdock.serving.versions import Served, Version


class Restorer:
    """Restores adapters. Unusable versions are skipped and reported to ``notify``."""

    def __init__(self, residency: Residency, store: Store, notify: Callable[[str, Mapping[str, Any]], None]) -> None:
        self._residency, self._store, self._notify = residency, store, notify

    def served(self, name: str, record: Mapping[str, Any], before: Served | None = None) -> Served:
        """Return an adapter from a record of :meth:`Served.record`; unchanged versions are those of ``before``."""
        served = Served(name, next_number=record["next_number"], seen=record["seen"], pinned=record["pinned"])
        distrusted = set()
        for number, sha256 in record["versions"].items():
            same = None if before is None else before.versions.get(int(number))
            if same is not None and same.sha256 == sha256:
                served.versions[same.number] = same
                continue
            try:
                version = self._version(name, int(number), sha256)
            except AdaptError as error:
                self._notify("refused", {"adapter": name, "version": int(number), "reason": str(error)})
                distrusted |= {int(number)} if isinstance(error, TrustError) else set()
                continue
            served.versions[version.number] = version
            self._residency.know(version.key, version.path)
        split = {int(number): weight for number, weight in record["split"].items()}
        served.split = {number: weight for number, weight in split.items() if number in served.versions}
        if not served.split and distrusted & split.keys():
            served.versions.clear()  # as in withdraw: no other version takes over from a distrusted version
        if not served.split and served.versions:
            served.split = {max(served.versions): 1.0}
        served.mirror = record["mirror"] if record["mirror"] in served.versions else None
        served.earlier = [number for number in record["earlier"] if number in served.versions]
        if not served.split:
            served.seen = "" if record["versions"] else served.seen
        return served

    def _version(self, name: str, number: int, sha256: str) -> Version:
        """Return a version from its card after a check of the hash. Docking repeats the check."""
        path, dock = self._store.path(sha256), self._residency.dock
        card = self._store.card(sha256)
        if card.backbone.fingerprint != dock.backbone.fingerprint:
            raise MismatchError(f"the adapter {name!r} was trained on {card.backbone.id!r}, which is not served here")
        return Version(name, number, sha256, path, card, dock.assembled(card))
