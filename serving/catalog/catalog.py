"""The catalog: the served adapters, their versions, and the version that answers a request.

A new version is verified, then written to the state, then switched in by one assignment. In-flight requests finish on
their assigned version, which is unloaded after the last of them.
"""

import random
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from adaptdock.engine.inference.residency import Residency, Tier
from adaptdock.errors import (
    AdaptError,
    FileError,
    MismatchError,
    TrustError,
    UnknownNameError,
    UsageError,
)
from adaptdock.serving.catalog.version_store import Store, hash_of
from adaptdock.serving.versions import VERSION, Selection, Served, Version, checked_name, parts_of

Result = TypeVar("Result")


class Catalog:
    """The adapters of one process. Changes are serialized and may come from any thread; :meth:`choose` never waits.

    ``keep`` is the number of earlier versions, ``largest`` that of a file's bytes. ``notify`` is called after changes.
    ``later`` runs a function that may wait for another change. :attr:`incomplete` is the error for an unknown name
    while some adapters are not loaded yet.
    """

    def __init__(
        self,
        residency: Residency,
        store: Store,
        keep: int = 3,
        notify: Callable[[str, Mapping[str, Any]], None] = lambda event, about: None,
        largest: int | None = None,
        later: Callable[[Callable[[], None]], object] = lambda leave: leave(),
    ) -> None:
        self.residency, self._store, self.keep, self._notify = residency, store, keep, notify
        self.largest, self._later = largest, later
        self.incomplete: type[AdaptError] | None = None
        self._served: dict[str, Served] = {}
        self._aliases: dict[str, str] = {}
        self._gone: dict[str, Served] = {}  # unloaded, but their file is still in the folder: `seen` has its hash
        self._leaving: set[Version] = set()
        self._change = threading.RLock()
        self._lock = threading.Lock()

    # ------------------------------------------------------------------------------------- asking

    @property
    def names(self) -> list[str]:
        """The names of the served adapters, sorted."""
        return sorted(self._served)

    def all(self) -> dict[str, Served]:
        """Return the served adapters by name, sorted."""
        with self._lock:
            return dict(sorted(self._served.items()))

    @property
    def aliases(self) -> dict[str, str]:
        """The target of each alias: an adapter's name, or ``name@2``."""
        return dict(self._aliases)

    def served(self, name: str) -> Served:
        """Return an adapter; raise :class:`UnknownNameError` with the nearest names."""
        with self._lock:
            return self._find(name)

    def version(self, name: str, number: int) -> Version:
        """Return a version of an adapter; raise :class:`UnknownNameError` with its versions."""
        with self._lock:
            return self._version(self._find(name), number)

    def of_folder(self) -> list[str]:
        """Return the names of the folder's adapters, unloaded adapters included."""
        return [name for name, served in [*self._served.items(), *self._gone.items()] if served.seen]

    def unchanged(self, name: str, path: Path) -> bool:
        """Return whether a file has the same content as at its last load; raise :class:`FileError` if unreadable."""
        served = self._served.get(name) or self._gone.get(name)
        return served is not None and served.seen == hash_of(path, self.largest)

    def tier(self, version: Version) -> Tier:
        """Return the tier that holds the weights of a version now."""
        try:
            return self.residency.tier(version.key)
        except UnknownNameError:
            return "disk"  # another thread has unloaded the version meanwhile

    def resident_bytes(self, version: Version) -> int:
        """Return the bytes of a version's docked weights."""
        return self.residency.docked_bytes(version.key)

    def choose(self, asked: str) -> Selection:
        """Return the versions for an input, and hold them until :meth:`release`.

        ``asked`` is an adapter's name, an alias, a version such as ``name@2``, or a stack ``lower+upper`` of these.
        """
        with self._lock:
            picks = [self._pick(part) for part in parts_of(asked)]
            if len({version for version, _ in picks}) < len(picks):
                raise UsageError(f"the stack {asked[:150]!r} has an adapter twice, under two names: each acts once")
            parts = tuple(version for version, _ in picks)
            mirror = picks[0][1] if len(picks) == 1 else None
            mirrored = () if mirror is None else (mirror,)
            for version in parts:
                version.users += 1
            return Selection("+".join(version.name for version in parts), parts, mirrored)

    def peek(self, asked: str) -> Version:
        """Return a version that would answer, without a hold on it; ``asked`` as in :meth:`choose`."""
        with self._lock:
            return [self._pick(part) for part in parts_of(asked)][-1][0]

    def hold(self, parts: tuple[Version, ...]) -> tuple[Version, ...]:
        """Add another hold on versions, until :meth:`release`."""
        with self._lock:
            for version in parts:
                version.users += 1
        return parts

    def release(self, parts: tuple[Version, ...]) -> None:
        """Release held versions. A leaving version is unloaded with its last hold."""
        with self._lock:
            for version in parts:
                version.users -= 1
            going = [version for version in parts if version.leaving and version.users == 0]
        for version in going:
            self._later(partial(self._forget, version))  # not here: unloading may wait for a change

    def _pick(self, asked: str) -> tuple[Version, Version | None]:
        target = self._aliases.get(asked, asked)
        fixed = VERSION.fullmatch(target)
        if fixed is not None:
            served, number = self._find(fixed["name"], asked), int(fixed["number"])
            return self._version(served, number), None
        served = self._find(target, asked)
        numbers = list(served.split)
        number = numbers[0] if len(numbers) == 1 else random.choices(numbers, list(served.split.values()))[0]
        # The answering version gets no shadow traffic.
        mirror = served.versions.get(served.mirror) if served.mirror not in (None, number) else None
        return served.versions[number], mirror

    def _find(self, name: str, asked: str | None = None) -> Served:
        try:
            return self._served[name]
        except KeyError:
            if self.incomplete is not None:
                raise self.incomplete from None
            known = [*self._served, *(alias for alias in self._aliases if alias != asked)]
            shown = name if asked in (None, name) else f"{name} (of the alias {asked})"
            raise UnknownNameError("adapter", shown, known) from None

    def _version(self, served: Served, number: int) -> Version:
        try:
            return served.versions[number]
        except KeyError:
            if self.incomplete is not None:
                raise self.incomplete from None
            known = [version.key for version in served.versions.values()]
            raise UnknownNameError("version", f"{served.name}@{number}", known) from None

    # ----------------------------------------------------------------------------------- changing

    def add(self, name: str, source: Path | bytes, activate: bool = True, of_folder: bool = False) -> Version:
        """Add a file as a new, verified version. The version answers at once unless ``activate`` is off.

        A file with the content of an earlier version reactivates that version. While several versions share the
        answers, a new version from the folder stays inactive until it is activated.

        Raises the errors of :meth:`Dock.load`, :class:`UsageError` for an invalid name, and :class:`StoreError` for a
        failed write. After an error nothing has changed.
        """
        checked_name(name)
        with self._change:
            if name in self._aliases:
                raise UsageError(f"{name!r} is an alias, so no adapter can have that name; delete the alias first")
            with _unlocated(name, source):
                sha256 = self._store.keep(source, self.largest)
            served = self._copy(name)
            served.seen = sha256 if of_folder else served.seen
            version = next((known for known in served.versions.values() if known.sha256 == sha256), None)
            try:
                if version is None:
                    version = self._verified(name, served.next_number, sha256)
                    served.next_number += 1
                    served.versions[version.number] = version
                # A new file in the folder must not end a split that a client has set up.
                if not served.split or (activate and not (of_folder and len(served.split) > 1)):
                    self._answers(served, version.number)
                self._bring(version)
                self._commit(served)
            except BaseException:
                self._undo(name, served.next_number - 1, sha256)
                raise
            self._notify(
                "added", {"adapter": name, "version": version.number, "answers": version.number in served.split}
            )
            return version

    def conditionally(self, check: Callable[[], None], change: Callable[[], Result]) -> Result:
        """Make a change unless ``check`` raises; no other change is made between the two."""
        with self._change:
            check()
            return change()

    def activate(self, name: str, number: int) -> None:
        """Make one version answer all inputs."""
        with self._change:
            served = self._copy(name, known=True)
            self._bring(self._version(served, number))
            self._answers(served, number)
            self._commit(served)
            self._notify("activated", {"adapter": name, "version": number})

    def split(self, name: str, weights: Mapping[int, float], mirror: int | None) -> None:
        """Divide the inputs among versions by weight; ``mirror`` is a version that receives shadow traffic."""
        with self._change:
            served = self._copy(name, known=True)
            if not weights or not all(0 <= weight < float("inf") for weight in weights.values()):
                raise UsageError("a split gives at least one version a weight, and none a negative one")
            if not any(weights.values()):
                raise UsageError("a split gives at least one version a weight above 0")
            for number in (*weights, *(() if mirror is None else (mirror,))):  # before any change, as docking may fail
                self._bring(self._version(served, number))
            positive = {number: weight for number, weight in weights.items() if weight > 0}
            if len(positive) == 1:
                self._answers(served, next(iter(positive)))
            else:
                self._retire_answers(served)
                served.split = positive
            served.mirror = mirror
            self._commit(served)
            self._notify("split", {"adapter": name, "split": positive, "mirror": mirror})

    def rollback(self, name: str) -> int:
        """Reactivate the previous version and return its number; raise :class:`UsageError` without one."""
        with self._change:
            served = self._copy(name, known=True)
            if not served.earlier:
                raise UsageError(f"the adapter {name!r} has no earlier version to go back to")
            number = served.earlier.pop()
            self._bring(served.versions[number])
            served.split = {number: 1.0}
            self._commit(served)
            self._notify("rolled back", {"adapter": name, "version": number})
            return number

    def pin(self, name: str, pinned: bool) -> None:
        """Keep the answering versions docked, or make them evictable again."""
        with self._change:
            served = self._copy(name, known=True)
            served.pinned = pinned
            self._commit(served)
            self._notify("pinned" if pinned else "unpinned", {"adapter": name})

    def remove(self, name: str, forget_file: bool = False) -> None:
        """Unload an adapter. In-flight requests still get their answers.

        A file of that name in the folder counts as seen, so that the adapter comes back only after the file changes.
        With ``forget_file`` the file itself is gone, so that its record is deleted as well.
        """
        with self._change:
            if forget_file and name in self._gone:
                self._store.write_adapter(name, None)
                del self._gone[name]
                return
            served = self.served(name)
            rest = Served(name, next_number=served.next_number, seen=served.seen)
            keep = bool(served.seen) and not forget_file
            self._store.write_adapter(name, rest.record() if keep else None)
            with self._lock:
                del self._served[name]
                if keep:
                    self._gone[name] = rest
            self._leave(list(served.versions.values()))
            self._notify("removed", {"adapter": name})

    def withdraw(self, reasons: Mapping[str, str]) -> None:
        """Unload every version whose content is revoked; ``reasons`` are by the hash of the content.

        An adapter is removed if a revoked version answers: no other version takes over without a request.
        """
        with self._change:
            for name, served in self.all().items():
                versions = [version for version in served.versions.values() if version.sha256 in reasons]
                for version in versions:
                    about = {"adapter": name, "version": version.number, "reason": reasons[version.sha256]}
                    self._notify("refused", about)
                if any(version.number in served.split for version in versions):
                    self.remove(name)
                elif versions:
                    self._drop(name, versions)

    def _drop(self, name: str, versions: list[Version]) -> None:
        """Remove versions that do not answer."""
        served, numbers = self._copy(name, known=True), {version.number for version in versions}
        served.versions = {number: version for number, version in served.versions.items() if number not in numbers}
        served.earlier = [number for number in served.earlier if number not in numbers]
        served.mirror = None if served.mirror in numbers else served.mirror
        self._commit(served)
        self._leave(versions)

    def set_alias(self, alias: str, target: str) -> None:
        """Point an alias at an adapter or at a version of it."""
        with self._change:
            checked_name(alias)
            if alias in self._served:
                raise UsageError(f"{alias!r} is an adapter; an alias needs a name of its own")
            fixed = VERSION.fullmatch(target)
            served = self._find(fixed["name"] if fixed else target)
            if fixed is not None:
                self._version(served, int(fixed["number"]))
            self._store.write_alias(alias, target)
            self._aliases = {**self._aliases, alias: target}
        self._notify("alias", {"alias": alias, "target": target})

    def delete_alias(self, alias: str) -> None:
        """Delete an alias; raise :class:`UnknownNameError` for an unknown alias."""
        with self._change:
            if alias not in self._aliases:
                raise UnknownNameError("alias", alias, self._aliases)
            self._store.write_alias(alias, None)
            self._aliases = {name: target for name, target in self._aliases.items() if name != alias}
        self._notify("alias deleted", {"alias": alias})

    def restore(self) -> None:
        """Continue from the last written state. Unusable versions are skipped and reported to ``notify``."""
        with self._change:
            for name, record in self._store.adapters().items():
                served = self._restored(name, record)
                with self._lock:
                    (self._served if served.split else self._gone)[name] = served
                for number in served.split if served.pinned else ():
                    self._pin(served.versions[number], True)
            self._aliases = self._store.aliases()
            self._store.sweep(self._used())

    def _restored(self, name: str, record: Mapping[str, Any]) -> Served:
        served = Served(name, next_number=record["next_number"], seen=record["seen"], pinned=record["pinned"])
        distrusted = set()
        for number, sha256 in record["versions"].items():
            try:
                version = self._known(name, int(number), sha256)
            except AdaptError as error:
                self._notify("refused", {"adapter": name, "version": int(number), "reason": str(error)})
                distrusted |= {int(number)} if isinstance(error, TrustError) else set()
                continue
            served.versions[version.number] = version
            self.residency.know(version.key, version.path)
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

    # ------------------------------------------------------------------------------------- inside

    def _known(self, name: str, number: int, sha256: str) -> Version:
        """Return a version from its card after a check of the hash. Docking repeats the check."""
        path, dock = self._store.path(sha256), self.residency.dock
        card = self._store.card(sha256)
        if card.backbone.fingerprint != dock.backbone.fingerprint:
            raise MismatchError(f"the adapter {name!r} was trained on {card.backbone.id!r}, which is not served here")
        return Version(name, number, sha256, path, card, dock.assembled(card))

    def _verified(self, name: str, number: int, sha256: str) -> Version:
        """Return a version after a check of its whole content: hash, card, backbone, shapes, numbers."""
        path, dock = self._store.path(sha256), self.residency.dock
        with _unlocated(name, path):
            adapter = self._store.read(path)
        prepared = dock.prepare(adapter)
        return Version(name, number, sha256, path, prepared.card, prepared.assembly)

    def _copy(self, name: str, known: bool = False) -> Served:
        """Return a copy of an adapter to change. :meth:`_commit` makes the change visible."""
        if known:
            self.served(name)
        return (self._served.get(name) or self._gone.get(name) or Served(name)).copy()

    def _answers(self, served: Served, number: int) -> None:
        if list(served.split) != [number]:
            self._retire_answers(served)
            served.split = {number: 1.0}
        if served.mirror == number:
            served.mirror = None

    def _retire_answers(self, served: Served) -> None:
        """Remember the answering version (of several, that with the largest weight) for :meth:`rollback`."""
        if served.split:
            number = served.current.number
            served.earlier = [*(earlier for earlier in served.earlier if earlier != number), number]

    def _bring(self, version: Version) -> None:
        """Dock a version before it answers, so that no request waits for the load."""
        try:
            self.residency.tier(version.key)
        except UnknownNameError:
            self.residency.know(version.key, version.path)
        with self.residency.present([version.key]):
            return

    def _commit(self, served: Served) -> None:
        """Write the state, then make it visible to requests, then unload versions out of use."""
        needed = {served.current.number, *served.split, *served.earlier[-self.keep :]}
        needed |= {served.mirror} if served.mirror is not None else set()
        needed |= {served.next_number - 1}  # the newest version may wait for its activation
        needed |= {int(alias["number"]) for alias in self._fixed_aliases(served.name)}
        leaving = [version for number, version in served.versions.items() if number not in needed]
        for version in leaving:
            del served.versions[version.number]
        served.earlier = [number for number in served.earlier if number in served.versions]
        for number in served.split if served.pinned else ():
            self._pin(served.versions[number], True)
        # The state goes to disk first, so that a restart after a crash knows every version that a client has seen.
        self._store.write_adapter(served.name, served.record())
        with self._lock:
            self._gone.pop(served.name, None)
            self._served[served.name] = served
        for version in served.versions.values():
            if not served.pinned or version.number not in served.split:
                self._pin(version, False)
        self._leave(leaving)

    def _fixed_aliases(self, name: str) -> Iterator[re.Match[str]]:
        for target in self._aliases.values():
            fixed = VERSION.fullmatch(target)
            if fixed is not None and fixed["name"] == name:
                yield fixed

    def _pin(self, version: Version, pinned: bool) -> None:
        (self.residency.pin if pinned else self.residency.unpin)(version.key)

    def _leave(self, versions: list[Version]) -> None:
        with self._lock:
            for version in versions:
                version.leaving = True
                self._leaving.add(version)
            going = [version for version in versions if version.users == 0]
        for version in going:
            self._forget(version)

    def _forget(self, version: Version) -> None:
        with self._lock:
            if version not in self._leaving:
                return  # another thread has unloaded it already
            self._leaving.discard(version)
        with suppress(UnknownNameError):  # never docked
            self.residency.forget(version.key)
        self._discard(version.sha256)
        self._notify("undocked", {"adapter": version.name, "version": version.number})

    def _undo(self, name: str, number: int, sha256: str) -> None:
        """Remove all traces of a version whose load failed."""
        known = self._served.get(name)
        if known is None or number not in known.versions:
            with suppress(UnknownNameError):
                self.residency.forget(f"{name}@{number}")
        self._discard(sha256)

    def _discard(self, sha256: str) -> None:
        with self._change:
            if sha256 not in self._used():
                self._store.path(sha256).unlink(missing_ok=True)

    def _used(self) -> set[str]:
        served = [version for adapter in list(self._served.values()) for version in adapter.versions.values()]
        return {version.sha256 for version in (*served, *self._leaving)}


@contextmanager
def _unlocated(name: str, file: Path | bytes) -> Iterator[None]:
    """Name the adapter instead of the path in a file error: clients must not learn paths of this machine."""
    try:
        yield
    except FileError as error:
        if error.path != str(file):  # another file, such as the trust policy
            raise
        raise FileError(f"the file of {name!r}", error.problem) from None
