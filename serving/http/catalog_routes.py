"""``/v1/adapters`` and ``/v1/aliases``: the served adapters, their versions and their shares of the inputs."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response

from adaptdock.errors import UsageError
from adaptdock.hub.artefact.card import Card
from adaptdock.serving.answer_changes import answer_changes
from adaptdock.serving.http.authorization import covered, require
from adaptdock.serving.http.fleet_view import FleetView
from adaptdock.serving.http.openai_routes import abilities
from adaptdock.serving.http.preconditions import etag_of, preconditions
from adaptdock.serving.http.predict_routes import ERRORS
from adaptdock.serving.http.request_bodies import BINARY
from adaptdock.serving.http.service import Service
from adaptdock.serving.schemas import (
    AdapterDetail,
    Adapters,
    AdapterState,
    AliasRequest,
    Changed,
    Counters,
    LoadRequest,
    ProcessState,
    Refusal,
    RefusedFile,
    SplitRequest,
    VersionState,
)
from adaptdock.serving.versions import Served, Version

Name = Annotated[str, Path(max_length=128)]
FILE_BODY = {"requestBody": {"required": True, "content": {BINARY: {"schema": {"type": "string", "format": "binary"}}}}}


def catalog_routes(service: Service, view: FleetView) -> APIRouter:
    """Return the routes. They accept names and version numbers, but never a path of the server."""

    async def allow(request: Request) -> None:
        require(request, service.catalog, *request.path_params.values())

    router = APIRouter(tags=["adapters"], responses=ERRORS, dependencies=[Depends(allow)])  # type: ignore[arg-type]
    changes = APIRouter(dependencies=[Depends(preconditions)], responses={412: {"model": Refusal}})
    _add_listing(router, service, view)
    _add_version_changes(changes, service)
    _add_residency_and_shares(changes, service)
    _add_aliases(changes, service)
    router.include_router(changes)
    return router


def _add_listing(router: APIRouter, service: Service, view: FleetView) -> None:
    """Add the routes that show adapters."""
    catalog = service.catalog

    @router.get("/v1/adapters")
    async def adapters(request: Request) -> Adapters:
        """List the adapters that the token is for, with their versions and counters."""
        is_covered = covered(request, catalog)
        states = [
            AdapterState(**state(service, view, served)) for name, served in catalog.all().items() if is_covered(name)
        ]
        aliases = {alias: target for alias, target in catalog.aliases.items() if is_covered(alias)}
        refused = [
            RefusedFile(name=name, reason=reason)
            for name, reason in sorted(service.refused.items())
            if is_covered(name)
        ]
        processes = [
            ProcessState(process=report.process, waiting=report.waiting, docked=report.docked)
            for report in view.reports
        ]
        return Adapters(
            backbone=service.dock.backbone.id, adapters=states, aliases=aliases, refused=refused, processes=processes
        )

    @router.get("/v1/adapters/{name}")
    async def adapter(name: Name, response: Response) -> AdapterDetail:
        """Return an adapter with its card. The header ETag identifies its state without the counters."""
        served = catalog.served(name)
        detail = AdapterDetail(**state(service, view, served), card=served.current.card.model_dump(mode="json"))
        response.headers["etag"] = detail.etag
        return detail


def _add_version_changes(router: APIRouter, service: Service) -> None:
    """Add the routes that load, send, unload and reactivate versions."""
    catalog, administer = service.catalog, service.administer

    @router.put("/v1/adapters/{name}")
    async def load(name: Name, body: LoadRequest, request: Request, response: Response) -> Changed:
        """Activate a kept version, or read the adapter's file in the watched folder again."""
        before = _card(service, name)
        if body.version is not None:
            if body.activate:
                await administer(request, "activate", [name], catalog.activate, name, body.version)
            else:
                catalog.version(name, body.version)
        elif service.watcher is None:
            raise UsageError("no folder is watched from which the file could be read; send the file, or name a version")
        else:
            path = service.watcher.file(name)
            await administer(request, "add", [name], catalog.add, name, path, body.activate, True)
        return _changed(service, response, name, before)

    @router.put("/v1/adapters/{name}/file", openapi_extra=FILE_BODY)
    async def send(name: Name, request: Request, response: Response, activate: bool = True) -> Changed:
        """Add the adapter file in the body as a new version. The file is verified before any change."""
        before = _card(service, name)
        await administer(request, "add", [name], catalog.add, name, await request.body(), activate)
        return _changed(service, response, name, before)

    @router.delete("/v1/adapters/{name}", status_code=204)
    async def unload(name: Name, request: Request) -> None:
        """Unload an adapter. In-flight requests still get their answers. The file in the folder is not deleted."""
        await administer(request, "remove", [name], catalog.remove, name)

    @router.post("/v1/adapters/{name}/rollback")
    async def rollback(name: Name, request: Request, response: Response) -> Changed:
        """Reactivate the previous version."""
        before = _card(service, name)
        await administer(request, "rollback", [name], catalog.rollback, name)
        return _changed(service, response, name, before)


def _add_residency_and_shares(router: APIRouter, service: Service) -> None:
    """Add the routes that keep adapters docked and divide inputs among versions."""
    catalog, administer = service.catalog, service.administer

    @router.post("/v1/adapters/{name}/pin")
    async def pin(name: Name, request: Request, response: Response) -> Changed:
        """Keep an adapter docked, even if it is rarely used."""
        await administer(request, "pin", [name], catalog.pin, name, True)
        return _changed(service, response, name)

    @router.post("/v1/adapters/{name}/unpin")
    async def unpin(name: Name, request: Request, response: Response) -> Changed:
        """Make an adapter evictable again."""
        await administer(request, "unpin", [name], catalog.pin, name, False)
        return _changed(service, response, name)

    @router.put("/v1/adapters/{name}/split")
    async def split(name: Name, body: SplitRequest, request: Request, response: Response) -> Changed:
        """Divide the inputs among versions by weight, and optionally send them to another version as shadow traffic."""
        await administer(request, "split", [name], catalog.split, name, body.weights, body.mirror)
        return _changed(service, response, name)


def _add_aliases(router: APIRouter, service: Service) -> None:
    """Add the routes that set and delete aliases."""
    catalog, administer = service.catalog, service.administer

    @router.put("/v1/aliases/{alias}")
    async def set_alias(alias: Name, body: AliasRequest, request: Request) -> AliasRequest:
        """Point an alias at an adapter or at a version of it."""
        require(request, catalog, body.target)
        await administer(request, "set alias", [alias], catalog.set_alias, alias, body.target)
        return body

    @router.delete("/v1/aliases/{alias}", status_code=204)
    async def delete_alias(alias: Name, request: Request) -> None:
        """Delete an alias."""
        await administer(request, "delete alias", [alias], catalog.delete_alias, alias)


def state(service: Service, view: FleetView, served: Served) -> dict[str, Any]:
    """Return the fields of :class:`AdapterState` for an adapter."""
    current, tally = served.current, view.tally(served.name)
    return {
        "name": served.name,
        "task": current.card.task.name,
        "asks": list(current.assembly.task.asks),
        "methods": [method.name for method in current.card.methods],
        "abilities": abilities(current),
        "description": current.card.description,
        "version": current.number,
        "versions": [_version(service, served, version) for version in served.versions.values()],
        "mirror": served.mirror,
        "pinned": served.pinned,
        "etag": etag_of(served.public_record()),
        "probes": current.card.proof,
        "counters": Counters(
            requests=tally.requests,
            errors=tally.errors,
            mean_seconds=round(tally.seconds / tally.answered, 6) if tally.answered else None,
        ),
        "docked_in": view.docked_in(served),
    }


def _version(service: Service, served: Served, version: Version) -> VersionState:
    total = sum(served.split.values())
    return VersionState(
        version=version.number,
        sha256=version.sha256,
        weight=served.split.get(version.number, 0.0) / total,
        tier=service.catalog.tier(version),
        users=version.users,
        resident_bytes=service.catalog.resident_bytes(version),
    )


def _card(service: Service, name: str) -> Card | None:
    """Return the card of the answering version, or None for an unknown name."""
    served = service.catalog.all().get(name)
    return None if served is None else served.current.card


def _changed(service: Service, response: Response, name: str, before: Card | None = None) -> Changed:
    """Return the new state; ``before`` is the card of the version that answered before."""
    served = service.catalog.served(name)
    current, etag = served.current, etag_of(served.public_record())
    cards = [card.model_dump(mode="json") for card in (before, current.card) if card is not None]
    response.headers["etag"] = etag
    warnings = answer_changes(*cards) if len(cards) == 2 else []
    return Changed(adapter=name, version=current.number, etag=etag, warnings=warnings)
