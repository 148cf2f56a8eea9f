"""Palette's API, as far as its specification tells: a server with state that tests can look at."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from yarl import URL

from tests.support.tls import Identity

KEY = "k3y-of-the-test"


@dataclass(slots=True)
class Palette:
    """What the console holds, and what it was asked."""

    url: URL = field(default_factory=URL)
    key: str = KEY
    projects: list[tuple[str, str]] = field(default_factory=lambda: [("Default", "project-1")])
    profiles: dict[str, dict[str, Any]] = field(default_factory=dict)  # uid: as exported, with uids of packs
    packs: dict[str, dict[str, Any]] = field(default_factory=dict)  # uid: v1PackTagEntity
    helm_registries: dict[str, str] = field(default_factory=dict)  # uid: endpoint
    oci_registries: list[dict[str, Any]] = field(default_factory=list)
    macros: dict[str, str] = field(default_factory=dict)
    exports: bool = True  # whether this console has the export call
    page_size: int = 50
    stuck_at: str = ""  # every page of a list says that it goes on here
    failures: list[web.Response] = field(default_factory=list)  # answered to the next calls instead
    requests: list[str] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)  # of those requests
    definitions: list[dict[str, Any]] = field(default_factory=list)  # bodies of POST …/spc/download

    def asked(self, path: str) -> int:
        return sum(request.partition(" ")[2].partition("?")[0] == f"/v1/{path}" for request in self.requests)


@asynccontextmanager
async def palette_server(
    *, host: str = "127.0.0.1", tls: Identity | None = None, **state: Any
) -> AsyncIterator[Palette]:
    """A console on loopback for as long as the block lasts; with ``tls`` it is spoken to by HTTPS."""
    palette = Palette(**state)
    application = web.Application(middlewares=[_gate(palette)])
    application.add_routes(
        [
            web.get("/v1/dashboard/projects/metadata", _projects(palette)),
            web.get("/v1/clusterprofiles/macros", _macros(palette)),
            web.get("/v1/clusterprofiles/{uid}", _profile(palette)),
            web.get("/v1/clusterprofiles/{uid}/export", _export(palette)),
            web.get("/v1/clusterprofiles/{uid}/packs/manifests", _manifests(palette)),
            web.get("/v1/clusterprofiles/{uid}/variables", _variables(palette)),
            web.get("/v1/packs/{uid}", _pack(palette)),
            web.get("/v1/packs/{name}/registries/{registry}", _pack_by_name(palette)),
            web.get("/v1/registries/helm/{uid}", _helm_registry(palette)),
            web.get("/v1/registries/oci/summary", _oci_registries(palette)),
            web.post("/v1/spectroclusters/spc/download", _definition(palette)),
        ]
    )
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, 0, ssl_context=tls.server_context() if tls else None)
        await site.start()
        palette.url = URL(f"{'https' if tls else 'http'}://{host}:{runner.addresses[0][1]}")
        yield palette
    finally:
        await runner.cleanup()


def error(status: int, code: str, message: str, **headers: str) -> web.Response:
    """An error as Palette words it (v1Error)."""
    body = {"code": code, "message": message, "ref": "4711", "details": None}
    return web.json_response(body, status=status, headers=headers)


def _gate(palette: Palette) -> Any:
    @web.middleware
    async def gate(request: web.Request, handler: Any) -> web.StreamResponse:
        palette.requests.append(f"{request.method} {request.path_qs}")
        palette.headers.append(request.headers)
        if palette.failures:
            return palette.failures.pop(0)
        if request.headers.get("ApiKey") != palette.key:
            return error(401, "InvalidApiKey", f"the key {request.headers.get('ApiKey')} is not known")
        project = request.headers.get("ProjectUid")
        if project and project not in [uid for _, uid in palette.projects]:
            return error(403, "OperationForbidden", "no access to the project")
        answer: web.StreamResponse = await handler(request)
        return answer

    return gate


def _not_found(what: str) -> web.Response:
    return error(404, "ResourceNotFound", f"{what} is not found")


def _projects(palette: Palette) -> Any:
    async def answer(request: web.Request) -> web.Response:
        start = int(request.query.get("continue") or 0)
        end = start + palette.page_size
        items = [{"metadata": {"name": name, "uid": uid}} for name, uid in palette.projects[start:end]]
        token = palette.stuck_at or (str(end) if end < len(palette.projects) else "")
        listed = {"continue": token, "count": len(palette.projects), "limit": palette.page_size, "offset": start}
        return web.json_response({"items": items, "listmeta": listed})

    return answer


def _macros(palette: Palette) -> Any:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"macros": [{"name": name, "value": value} for name, value in palette.macros.items()]})

    return answer


def _known(palette: Palette, request: web.Request) -> dict[str, Any] | None:
    return palette.profiles.get(request.match_info["uid"])


def _export(palette: Palette) -> Any:
    async def answer(request: web.Request) -> web.Response:
        profile = _known(palette, request)
        if profile is None or not palette.exports:
            return _not_found("the profile" if palette.exports else "the path")
        return web.json_response(profile, headers={"Content-Disposition": "attachment; filename=profile.json"})

    return answer


def _profile(palette: Palette) -> Any:
    async def answer(request: web.Request) -> web.Response:
        profile = _known(palette, request)
        if profile is None:
            return _not_found("the profile")
        template = profile["spec"]["template"]
        packs = [_without_content(pack) for pack in template["packs"]]
        spec = {"version": profile["spec"].get("version"), "published": {**template, "packs": packs}, "draft": None}
        return web.json_response({"metadata": profile["metadata"], "spec": spec, "status": {}})

    return answer


def _without_content(pack: dict[str, Any]) -> dict[str, Any]:
    manifests = [{"kind": "manifest", "name": each["name"], "uid": "m1"} for each in pack.get("manifests", [])]
    return {**pack, "manifests": manifests}


def _manifests(palette: Palette) -> Any:
    async def answer(request: web.Request) -> web.Response:
        profile = _known(palette, request)
        if profile is None:
            return _not_found("the profile")
        packs = [{"metadata": {"name": each["name"]}, "spec": each} for each in profile["spec"]["template"]["packs"]]
        return web.json_response({"metadata": profile["metadata"], "spec": {"packs": packs}})

    return answer


def _variables(palette: Palette) -> Any:
    async def answer(request: web.Request) -> web.Response:
        profile = _known(palette, request)
        if profile is None:
            return _not_found("the profile")
        return web.json_response({"variables": profile["spec"].get("variables", [])})

    return answer


def _pack(palette: Palette) -> Any:
    async def answer(request: web.Request) -> web.Response:
        pack = palette.packs.get(request.match_info["uid"])
        return web.json_response(pack) if pack else _not_found("the pack")

    return answer


def _pack_by_name(palette: Palette) -> Any:
    async def answer(request: web.Request) -> web.Response:
        wanted = (request.match_info["name"], request.match_info["registry"])
        for pack in palette.packs.values():
            if (pack["name"], pack["registryUid"]) == wanted:
                return web.json_response(pack)
        return _not_found("the pack")

    return answer


def _helm_registry(palette: Palette) -> Any:
    async def answer(request: web.Request) -> web.Response:
        endpoint = palette.helm_registries.get(request.match_info["uid"])
        if endpoint is None:
            return _not_found("the registry")
        return web.json_response({"kind": "helm", "spec": {"endpoint": endpoint, "auth": {"type": "noAuth"}}})

    return answer


def _oci_registries(palette: Palette) -> Any:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"items": palette.oci_registries})

    return answer


def _definition(palette: Palette) -> Any:
    async def answer(request: web.Request) -> web.Response:
        body = await request.json()
        palette.definitions.append(body)
        if any(profile["uid"] not in palette.profiles for profile in body["spec"]["profiles"]):
            return _not_found("a profile")
        return web.Response(body=b"\x1f\x8b definition", headers={"Content-Disposition": "attachment"})

    return answer
