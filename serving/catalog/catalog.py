"""The catalogue: which adapters are served, in which versions, and which of them answers.

A version is verified before anything changes; then the state is written; then, in one step, it answers. Requests
that were taken before finish on the version that was chosen for them, and a version leaves when none uses it.
"""

import random
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

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
from adaptdock.serving.versions import VERSION, Chosen, Served, Version, checked_name, parts_of


class Catalog:
    """The adapters of one process. Changes are made one after the other, by any thread; choosing never waits for them.

    ``told`` hears of every change: what happened, and to which version. ``largest`` is the limit of a file, in bytes.
    ``later`` runs a function that may wait for a change to be made. ``incomplete`` is the error for a name that is not
    known while not all adapters are loaded.
    """

    def __init__(
        self,
        residency: Residency,
        store: Store,
        keep: int = 3,
        told: Callable[[str, Mapping[str, Any]], None] = lambda event, about: None,
        largest: int | None = None,
        later: Callable[[Callable[[], None]], object] = lambda leave: leave(),
    ) -> None:
        self.residency, self._store, self._keep, self._told = residency, store, keep, told
        self._largest, self._later = largest, later
        self.incomplete: type[AdaptError] | None = None
        self._served: dict[str, Served] = {}
        self._aliases: dict[str, str] = {}
        self._gone: dict[str, Served] = {}  # unloaded, with the hash of the file that lies in the folder still
        self._leaving: set[Version] = set()
        self._change = threading.RLock()
        self._lock = threading.Lock()

    # ------------------------------------------------------------------------------------- asking

    @property
    def names(self) -> list[str]:
        """The names of the adapters that are served."""
        return sorted(self._served)

    def all(self) -> dict[str, Served]:
        """Return the adapters that are served, by name."""
        with self._lock:
            return dict(sorted(self._served.items()))

    @property
    def aliases(self) -> dict[str, str]:
        """The target of each alias."""
        return dict(self._aliases)

    def served(self, name: str) -> Served:
        """Return an adapter; raise :class:`UnknownNameError` with the nearest names."""
        with self._lock:
            return self._find(name)

    def version(self, name: str, number: int) -> Version:
        """Return a version of an adapter; raise :class:`UnknownNameError` with those there are."""
        with self._lock:
            return self._version(self._find(name), number)

    def of_folder(self) -> list[str]:
        """Return the names of the adapters whose file was last seen in the folder, unloaded ones included."""
        return [name for name, served in [*self._served.items(), *self._gone.items()] if served.seen]

    def unchanged(self, name: str, path: Path) -> bool:
        """Tell whether a file of the folder is the one that was last seen there.

        Raises :class:`FileError` where it cannot be read.
        """
        found = self._served.get(name) or self._gone.get(name)
        return found is not None and found.seen == hash_of(path, self._largest)

    def tier(self, version: Version) -> Tier:
        """Tell where the weights of a version are now."""
        try:
            return self.residency.tier(version.key)
        except UnknownNameError:
            return "disk"  # it has left meanwhile

    def resident_bytes(self, version: Version) -> int:
        """Return the bytes of a version's weights that are docked."""
        return self.residency.docked_bytes(version.key)

    def choose(self, asked: str) -> Chosen:
        """Return the versions for an input, and hold them until :meth:`release`.

        ``asked`` is an adapter's name, an alias, a version such as ``name@2``, or a stack ``lower+upper`` of those.
        """
        with self._lock:
            found = [self._pick(part) for part in parts_of(asked)]
            if len({version for version, _ in found}) < len(found):
                raise UsageError(f"the stack {asked[:150]!r} has an adapter twice, under two names: each acts once")
            parts = tuple(version for version, _ in found)
            mirror = found[0][1] if len(found) == 1 else None
            mirrored = () if mirror is None else (mirror,)
            for version in parts:
                version.users += 1
            return Chosen("+".join(version.name for version in parts), parts, mirrored)

    def peek(self, asked: str) -> Version:
        """Return a version that would answer, without holding it; ``asked`` as in :meth:`choose`."""
        with self._lock:
            return [self._pick(part) for part in parts_of(asked)][-1][0]

    def hold(self, parts: tuple[Version, ...]) -> tuple[Version, ...]:
        """Hold versions once more, until :meth:`release`."""
        with self._lock:
            for version in parts:
                version.users += 1
        return parts

    def release(self, parts: tuple[Version, ...]) -> None:
        """Let go of versions that were held; those that had to leave do so when nobody holds them."""
        with self._lock:
            for version in parts:
                version.users -= 1
            going = [version for version in parts if version.leaving and version.users == 0]
        for version in going:
            self._later(partial(self._forget, version))

    def _pick(self, asked: str) -> tuple[Version, Version | None]:
        target = self._aliases.get(asked, asked)
        fixed = VERSION.fullmatch(target)
        if fixed is not None:
            served, number = self._find(fixed["name"], asked), int(fixed["number"])
            return self._version(served, number), None
        served = self._find(target, asked)
        numbers = list(served.split)
        number = numbers[0] if len(numbers) == 1 else random.choices(numbers, list(served.split.values()))[0]
        mirror = served.versions.get(served.mirror) if served.mirror not in (None, number) else None
        return served.versions[number], mirror

    def _find(self, name: str, asked: str | None = None) -> Served:
        try:
            return self._served[name]
        except KeyError:
            if self.incomplete is not None:
                raise self.incomplete from None
            raise UnknownNameError("adapter", asked or name, [*self._served, *self._aliases]) from None

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
        """Take a file as a new version of an adapter, verified; it answers at once unless ``activate`` is off.

        A file that an earlier version has been is that version again. While several versions share the answers, a
        new one from the folder waits until it is chosen. Raises what :meth:`Dock.load` raises, :class:`UsageError`
        for a name that cannot be used, and :class:`StoreError` where it cannot be kept; then nothing has changed.
        """
        checked_name(name)
        with self._change:
            if name in self._aliases:
                raise UsageError(f"{name!r} is an alias, so no adapter can have that name; delete the alias first")
            with _unlocated(name, source):
                sha256 = self._store.keep(source, self._largest)
            served = self._copy(name)
            served.seen = sha256 if of_folder else served.seen
            version = next((one for one in served.versions.values() if one.sha256 == sha256), None)
            try:
                if version is None:
                    version = self._verified(name, served.next_number, sha256)
                    served.next_number += 1
                    served.versions[version.number] = version
                if not served.split or (activate and not (of_folder and len(served.split) > 1)):
                    self._answers(served, version.number)
                self._bring(version)
                self._commit(served)
            except BaseException:
                self._undo(name, served.next_number - 1, sha256)
                raise
            self._told("added", {"adapter": name, "version": version.number, "answers": version.number in served.split})
            return version

    def activate(self, name: str, number: int) -> None:
        """Let one version answer alone."""
        with self._change:
            served = self._copy(name, known=True)
            self._bring(self._version(served, number))
            self._answers(served, number)
            self._commit(served)
            self._told("activated", {"adapter": name, "version": number})

    def split(self, name: str, weights: Mapping[int, float], mirror: int | None) -> None:
        """Divide the answers among versions by weight, and let another version hear what is asked."""
        with self._change:
            served = self._copy(name, known=True)
            if not weights or not all(0 <= weight < float("inf") for weight in weights.values()):
                raise UsageError("a split gives at least one version a weight, and none a negative one")
            if not any(weights.values()):
                raise UsageError("a split gives at least one version a weight above 0")
            for number in (*weights, *(() if mirror is None else (mirror,))):
                self._bring(self._version(served, number))
            chosen = {number: weight for number, weight in weights.items() if weight > 0}
            if len(chosen) == 1:
                self._answers(served, next(iter(chosen)))
            else:
                self._retire_answers(served)
                served.split = chosen
            served.mirror = mirror
            self._commit(served)
            self._told("split", {"adapter": name, "split": chosen, "mirror": mirror})

    def rollback(self, name: str) -> int:
        """Let the version answer that did before, and return its number; raise :class:`UsageError` if there is none."""
        with self._change:
            served = self._copy(name, known=True)
            if not served.earlier:
                raise UsageError(f"the adapter {name!r} has no earlier version to go back to")
            number = served.earlier.pop()
            self._bring(served.versions[number])
            served.split = {number: 1.0}
            self._commit(served)
            self._told("rolled back", {"adapter": name, "version": number})
            return number

    def pin(self, name: str, pinned: bool) -> None:
        """Keep the versions that answer docked, or let them make room again."""
        with self._change:
            served = self._copy(name, known=True)
            served.pinned = pinned
            self._commit(served)
            self._told("pinned" if pinned else "unpinned", {"adapter": name})

    def remove(self, name: str, forget_file: bool = False) -> None:
        """Serve an adapter no more; what has been asked of it is answered yet.

        A file of that name in the folder counts as seen, so that it comes back only when it changes; with
        ``forget_file`` it is gone itself.
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
            self._told("removed", {"adapter": name})

    def withdraw(self, reasons: Mapping[str, str]) -> None:
        """Serve no version any more whose content may not be used now; ``reasons`` are by its hash.

        An adapter that such a version answers for is removed: no other version takes its place unasked.
        """
        with self._change:
            for name, served in self.all().items():
                versions = [version for version in served.versions.values() if version.sha256 in reasons]
                for version in versions:
                    about = {"adapter": name, "version": version.number, "reason": reasons[version.sha256]}
                    self._told("refused", about)
                if any(version.number in served.split for version in versions):
                    self.remove(name)
                elif versions:
                    self._drop(name, versions)

    def _drop(self, name: str, versions: list[Version]) -> None:
        """Forget versions that do not answer."""
        served, numbers = self._copy(name, known=True), {version.number for version in versions}
        served.versions = {number: one for number, one in served.versions.items() if number not in numbers}
        served.earlier = [number for number in served.earlier if number not in numbers]
        served.mirror = None if served.mirror in numbers else served.mirror
        self._commit(served)
        self._leave(versions)

    def set_alias(self, alias: str, target: str) -> None:
        """Let a name stand for an adapter or one of its versions."""
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
        self._told("alias", {"alias": alias, "target": target})

    def delete_alias(self, alias: str) -> None:
        """Delete an alias; raise :class:`UnknownNameError` if there is none of that name."""
        with self._change:
            if alias not in self._aliases:
                raise UnknownNameError("alias", alias, self._aliases)
            self._store.write_alias(alias, None)
            self._aliases = {name: target for name, target in self._aliases.items() if name != alias}
        self._told("alias deleted", {"alias": alias})

    def restore(self) -> None:
        """Go on with the state that was written last; what cannot be used any more is left out, and told."""
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
                self._told("refused", {"adapter": name, "version": int(number), "reason": str(error)})
                distrusted |= {int(number)} if isinstance(error, TrustError) else set()
                continue
            served.versions[version.number] = version
            self.residency.know(version.key, version.path)
        split = {int(number): weight for number, weight in record["split"].items()}
        served.split = {number: weight for number, weight in split.items() if number in served.versions}
        if not served.split and distrusted & split.keys():
            served.versions.clear()  # as with withdraw
        if not served.split and served.versions:
            served.split = {max(served.versions): 1.0}
        served.mirror = record["mirror"] if record["mirror"] in served.versions else None
        served.earlier = [number for number in record["earlier"] if number in served.versions]
        if not served.split:
            served.seen = "" if record["versions"] else served.seen
        return served

    # ------------------------------------------------------------------------------------- inside

    def _known(self, name: str, number: int, sha256: str) -> Version:
        """Return a version from its card, if its content is that of its hash; it is checked whenever it is docked."""
        path, dock = self._store.path(sha256), self.residency.dock
        card = self._store.card(sha256)
        if card.backbone.fingerprint != dock.backbone.fingerprint:
            raise MismatchError(f"the adapter {name!r} was trained on {card.backbone.id!r}, which is not served here")
        return Version(name, number, sha256, path, card, dock.assembled(card))

    def _verified(self, name: str, number: int, sha256: str) -> Version:
        """Return a version whose whole content has been checked: hash, card, backbone, shapes, numbers."""
        path, dock = self._store.path(sha256), self.residency.dock
        with _unlocated(name, path):
            adapter = self._store.read(path)
        prepared = dock.prepare(adapter)
        return Version(name, number, sha256, path, prepared.card, prepared.assembly)

    def _copy(self, name: str, known: bool = False) -> Served:
        """Return an adapter to be changed; nothing sees the change until it is committed."""
        if known:
            self.served(name)
        old = self._served.get(name) or self._gone.get(name) or Served(name)
        return Served(
            name,
            dict(old.versions),
            dict(old.split),
            old.mirror,
            list(old.earlier),
            old.pinned,
            old.next_number,
            old.seen,
        )

    def _answers(self, served: Served, number: int) -> None:
        if list(served.split) != [number]:
            self._retire_answers(served)
            served.split = {number: 1.0}
        if served.mirror == number:
            served.mirror = None

    def _retire_answers(self, served: Served) -> None:
        """Remember the version that has answered (of several that with the largest weight), to go back to."""
        if served.split:
            number = served.current.number
            served.earlier = [*(one for one in served.earlier if one != number), number]

    def _bring(self, version: Version) -> None:
        """Dock a version beside those that answer, so that no request waits for it."""
        try:
            self.residency.tier(version.key)
        except UnknownNameError:
            self.residency.know(version.key, version.path)
        with self.residency.present([version.key]):
            return

    def _commit(self, served: Served) -> None:
        """Write the state, then let it answer; versions that nothing needs any more leave."""
        number_of = {served.current.number, *served.split, *served.earlier[-self._keep :]}
        number_of |= {served.mirror} if served.mirror is not None else set()
        number_of |= {served.next_number - 1}  # one that waits to be chosen
        number_of |= {int(found["number"]) for found in self._fixed_aliases(served.name)}
        leaving = [version for number, version in served.versions.items() if number not in number_of]
        for version in leaving:
            del served.versions[version.number]
        served.earlier = [number for number in served.earlier if number in served.versions]
        for number in served.split if served.pinned else ():
            self._pin(served.versions[number], True)
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
                return  # another thread was faster
            self._leaving.discard(version)
        with suppress(UnknownNameError):  # one that was never docked
            self.residency.forget(version.key)
        self._discard(version.sha256)
        self._told("undocked", {"adapter": version.name, "version": version.number})

    def _undo(self, name: str, number: int, sha256: str) -> None:
        """Leave nothing of a version that could not be taken."""
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
        served = [version for one in list(self._served.values()) for version in one.versions.values()]
        return {version.sha256 for version in (*served, *self._leaving)}


@contextmanager
def _unlocated(name: str, file: Path | bytes) -> Iterator[None]:
    """Say of a file that it is that of an adapter: its place on this machine is nothing for a client to know."""
    try:
        yield
    except FileError as error:
        if error.path != str(file):  # such as a policy
            raise
        raise FileError(f"the file of {name!r}", error.problem) from None
