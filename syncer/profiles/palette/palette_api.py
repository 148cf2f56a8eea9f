"""Reading projects, profiles, packs and cluster definitions from Palette's API."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import anyio
import orjson
from msgspec import Struct, structs

from syncer.errors import Denied, ListIncomplete, NotFound, RegistryError, UsageError
from syncer.files import saving, write_whole
from syncer.formats.text import object_field, objects_field, text_field
from syncer.profiles.palette.console import ConsoleClient
from syncer.profiles.palette.key import PaletteAccount
from syncer.profiles.palette.profile import (
    UID,
    Pack,
    Profile,
    is_profile,
    parse_pack,
    parse_profile,
    parse_variables,
    require_uid,
    with_content_of,
    with_endpoint,
)
from syncer.transport import Answer, Request, TransportSettings
from syncer.transport.guard import readable

MAX_ANSWER = 64 * 1024 * 1024
"""Bytes.  A profile with all its values has less than 2 MiB."""

_MAX_PAGES = 1000
_NO_QUERY: Mapping[str, str] = MappingProxyType({})
_FAST = ("clusterprofiles", "spectroclusters")
_BURST_SECONDS = 5

_GZIP_MAGIC = b"\x1f\x8b"
_MAX_DEFINITION = 256 * 1024 * 1024  # bytes of a cluster definition


class CallLimit:
    """The documented limit of one parent resource: a number of calls a second, and five times as many at once.

    ``take`` decides and does not wait, so that it can be tested without a clock.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._burst = per_second * _BURST_SECONDS
        self._left = self._burst
        self._seen: float | None = None

    def take(self, now: float) -> float:
        """Count one call, and return the seconds to wait before it; ``now`` is in seconds of a monotonic clock."""
        if self._seen is not None:
            self._left = min(self._burst, self._left + (now - self._seen) * self._per_second)
        self._seen = now
        self._left -= 1
        return max(0.0, -self._left / self._per_second)


class PaletteCalls:
    """Calls of the API with the account's key, within Palette's limits."""

    def __init__(self, client: ConsoleClient, account: PaletteAccount) -> None:
        self._client = client
        self.account = account
        self._call_limits: dict[str, CallLimit] = {}

    async def get(self, path: str, query: Mapping[str, str] = _NO_QUERY) -> dict[str, Any]:
        """Fetch the JSON object of ``/v1/{path}``.

        Raises ``Denied``, ``NotFound`` or another ``RegistryError``; the key is in none of them.
        """
        answer = await self.ask(self.request("GET", path, query))
        try:
            document = orjson.loads(answer.content)
        except orjson.JSONDecodeError:
            document = None
        if not isinstance(document, dict) or not answer.is_whole:
            hint = f"is {self.account.url} the address of a Palette console or API?"
            raise RegistryError(answer.request, answer.status, [_kind_of_answer(answer)], hint=hint)
        return document

    async def pages(self, path: str, query: Mapping[str, str] = _NO_QUERY) -> AsyncIterator[dict[str, Any]]:
        """Fetch all pages of a list, and yield their ``items``.

        Raises as ``get``, also for what is no list, and ``ListIncomplete`` where that may not be all.
        """
        token, seen = "", set[str]()
        while True:
            page = await self.get(path, {**query, "continue": token} if token else query)
            items = page.get("items", {})
            if not isinstance(items, list | None):
                # any server may answer {}, and a list of nothing would be taken for an answer to the key
                hint = f"is {self.account.url} the address of a Palette console or API?"
                raise RegistryError(f"GET {path}", 200, ["the answer is no list of Palette's API"], hint=hint)
            for item in items or ():
                if isinstance(item, dict):
                    yield item
            listed = page.get("listmeta")
            token = str(listed.get("continue") or "") if isinstance(listed, dict) else ""
            if not token:
                return
            if token in seen or len(seen) >= _MAX_PAGES:
                problem = "its pages lead in a circle" if token in seen else f"it has more than {_MAX_PAGES} pages"
                raise ListIncomplete(f"GET {self.account.url.host}/v1/{path}: the list is not whole: {problem}")
            seen.add(token)

    def request(self, method: str, path: str, query: Mapping[str, str] = _NO_QUERY, body: Any = None) -> Request:
        """Make a request to ``/v1/{path}``; all requests of this module only read, so all of them may be repeated."""
        headers = {"ApiKey": self.account.api_key, "Accept": "application/json"}
        if self.account.project_uid:
            headers["ProjectUid"] = self.account.project_uid
        if body is not None:
            headers["Content-Type"] = "application/json"
        url = self.account.url.joinpath("v1", *path.split("/")).with_query(dict(query))
        return Request(method=method, url=url, headers=headers, body=None if body is None else orjson.dumps(body))

    async def ask(self, request: Request, limit: int = MAX_ANSWER) -> Answer:
        """The answer, with at most ``limit`` bytes of its body, when the limit of its parent resource allows it.

        Raises as ``get``.
        """
        resource = request.url.path.partition("/v1/")[2].partition("/")[0]
        call_limit = self._call_limits.setdefault(resource, CallLimit(50 if resource in _FAST else 10))
        if seconds := call_limit.take(time.monotonic()):
            await anyio.sleep(seconds)
        answer = await self._client.ask(request, limit)
        if answer.status >= 300:
            raise self._refusal(answer)
        return answer

    def _refusal(self, answer: Answer) -> RegistryError:
        """Make the error for an answer with an error status, in the server's words without the key."""
        code, message = _problem(answer)
        words = [readable(message).replace(self.account.api_key, "…")] if message else [_kind_of_answer(answer)]
        codes = [code] if code else []
        match answer.status:
            case 401:
                hint = "check the API key, and log in again with syncer login"
                return Denied(answer.request, answer.status, words, codes=codes, hint=hint)
            case 403:
                hint = "the user of this key has no access: check --project-id, and the user's roles in that project"
                return Denied(answer.request, answer.status, words, codes=codes, hint=hint)
            case 404:
                hint = "check the id, and that --project-id is the project it belongs to"
                return NotFound(answer.request, answer.status, words, codes=codes, hint=hint)
            case _:
                return RegistryError(answer.request, answer.status, words, codes=codes)


def _problem(answer: Answer) -> tuple[str, str]:
    """The code and the message of the API's error document; empty for any other body, such as a proxy's page."""
    try:
        document = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        return "", ""
    if not isinstance(document, dict):
        return "", ""
    code, message = document.get("code"), document.get("message")
    return code if isinstance(code, str) else "", message if isinstance(message, str) else ""


def _kind_of_answer(answer: Answer) -> str:
    start = answer.content[:512].lstrip().lower()
    kind = "a web page" if answer.media_type == "text/html" or start.startswith(b"<") else "no JSON object"
    return f"the answer is {kind}, not one of Palette's API"


class Project(Struct, frozen=True, order=True):
    """A project that the key can see."""

    name: str
    uid: str


class PaletteApi:
    """The calls of Palette's API that a build needs."""

    def __init__(self, calls: PaletteCalls) -> None:
        self._calls = calls

    async def projects(self) -> list[Project]:
        """Fetch the projects that the key can see, which is the cheapest check of a key.

        Raises ``Denied`` for a wrong key.
        """
        pages = self._calls.pages("dashboard/projects/metadata")
        metadata = [object_field(item, "metadata") async for item in pages]
        return sorted(Project(text_field(each, "name"), text_field(each, "uid")) for each in metadata)

    async def project(self, name_or_uid: str) -> Project:
        """Find the project of that name or uid; raises ``UsageError``, whose hint names the known projects."""
        projects = await self.projects()
        for project in projects:
            if name_or_uid in (project.uid, project.name):
                return project
        known = ", ".join(project.name for project in projects[:20]) or "none"
        raise UsageError(f"the key sees no project {name_or_uid!r}", hint=f"it sees: {known}")

    async def profile(self, uid: str) -> Profile:
        """Fetch the profile with its packs, values, manifests, variables and macros.

        The export has nearly all of them in one answer; a console that refuses or does not know it is asked for
        them one by one.  Raises ``UsageError`` for a wrong uid, and a ``RegistryError``.
        """
        require_uid(uid)
        document = await self._export(uid)
        profile = await self._assemble(uid) if document is None else parse_profile(document, self._origin(uid))
        profile = structs.replace(profile, uid=uid, project_uid=profile.project_uid or self._calls.account.project_uid)
        packs = tuple([await self._complete(pack) for pack in profile.packs])
        return structs.replace(profile, packs=packs, macros=await self._macros(packs))

    async def download_definition(
        self, name: str, profile_uids: list[str], path: Path, *, cloud_type: str = "edge-native"
    ) -> None:
        """Save the cluster definition called ``name``, a gzipped tar, at ``path``.

        Raises ``RegistryError`` when the answer is anything else, ``TargetError`` when the file cannot be written.
        """
        profiles = [{"uid": require_uid(uid)} for uid in profile_uids]
        body = {"metadata": {"name": name}, "spec": {"cloudType": cloud_type, "profiles": profiles}}
        request = self._calls.request("POST", "spectroclusters/spc/download", body=body)
        answer = await self._calls.ask(request, _MAX_DEFINITION)
        if not answer.is_whole or not answer.content.startswith(_GZIP_MAGIC):
            raise RegistryError(answer.request, answer.status, ["the answer is not a cluster definition"])
        with saving(path):
            write_whole(path, answer.content)

    def _origin(self, uid: str) -> str:
        return f"profile {uid} of {self._calls.account.url.host}"

    async def _export(self, uid: str) -> dict[str, Any] | None:
        """Fetch the exported profile; None when this console has no such call, or this key may not use it."""
        try:
            document = await self._calls.get(f"clusterprofiles/{uid}/export", {"format": "json"})
        except RegistryError as error:
            if error.status == 401:
                raise
            return None  # the other calls tell whether it is the profile that is missing
        return document if is_profile(document) else None

    async def _assemble(self, uid: str) -> Profile:
        origin = self._origin(uid)
        document = await self._calls.get(f"clusterprofiles/{uid}")
        profile = parse_profile(document, origin)
        with_manifests = await self._optional(f"clusterprofiles/{uid}/packs/manifests")
        entries = objects_field(object_field(with_manifests, "spec"), "packs")
        fuller = {pack.name: pack for pack in (parse_pack(entry, origin) for entry in entries)}
        packs = [with_content_of(pack, fuller.get(pack.name)) for pack in profile.packs]
        warnings = list(profile.warnings)
        if with_manifests is None:
            warnings.append(f"the manifests of profile {profile.name} cannot be read with this key")
        variables: Mapping[str, str | None] = profile.variables
        listed = await self._optional(f"clusterprofiles/{uid}/variables")
        if listed is not None:
            variables = parse_variables(listed, origin)
        return structs.replace(profile, packs=tuple(packs), variables=variables, warnings=tuple(warnings))

    async def _complete(self, pack: Pack) -> Pack:
        """``pack`` with its default values where it has none of its own, and with its registry's address."""
        if pack.values is None and pack.type not in ("helm", "manifest"):
            pack = replace(pack, values=await self._default_values(pack))
        if pack.type == "helm" and pack.registry and pack.registry.uid:
            pack = with_endpoint(pack, await self._endpoint(pack.registry.uid))
        return pack

    async def _default_values(self, pack: Pack) -> str | None:
        """Fetch the default values of a pack, which its registry has; None when they are not available."""
        uid, registry = pack.uid, pack.registry.uid if pack.registry else ""
        if uid:
            entity = await self._optional(f"packs/{require_uid(uid)}")
        elif registry and UID.fullmatch(pack.name):
            entity = await self._optional(f"packs/{pack.name}/registries/{require_uid(registry)}", {"cloudType": "all"})
        else:
            return None
        fitting = [
            tag
            for tag in objects_field(entity, "tags")
            if pack.version in (text_field(tag, "version"), text_field(tag, "tag"))
        ]
        uids = {uid} if uid else {text_field(tag, "packUid") for tag in fitting}
        for entry in objects_field(entity, "packValues"):
            if text_field(entry, "packUid") in uids and isinstance(entry.get("values"), str):
                return str(entry["values"])
        return None

    async def _endpoint(self, registry_uid: str) -> str | None:
        """Fetch the address of a Helm registry: an HTTP repository, or a path of an OCI registry."""
        found = await self._optional(f"registries/helm/{require_uid(registry_uid)}")
        if found is not None:
            return text_field(object_field(found, "spec"), "endpoint") or None
        async for item in self._calls.pages("registries/oci/summary"):
            spec = object_field(item, "spec")
            if text_field(object_field(item, "metadata"), "uid") == registry_uid and text_field(spec, "endpoint"):
                host = text_field(spec, "endpoint").removeprefix("https://").removeprefix("http://").rstrip("/")
                base = text_field(spec, "baseContentPath").strip("/")
                return f"oci://{host}/{base}".rstrip("/")
        return None

    async def _macros(self, packs: tuple[Pack, ...]) -> dict[str, str]:
        """Fetch all macros that the key can see, if a pack refers to one."""
        if not any("spectro.macro." in (pack.values or "") for pack in packs):
            return {}
        entries = objects_field(await self._optional("clusterprofiles/macros"), "macros")
        return {text_field(entry, "name"): text_field(entry, "value") for entry in entries}

    async def _optional(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any] | None:
        """Fetch like ``get``; None when the key may not read it, or when it does not exist."""
        try:
            return await self._calls.get(path, query or {})
        except (Denied, NotFound) as error:
            if error.status == 401:
                raise
            return None


@asynccontextmanager
async def open_palette(account: PaletteAccount, settings: TransportSettings) -> AsyncIterator[PaletteApi]:
    """The console of ``account``; connections to it live exactly as long as the ``async with`` block."""
    async with AsyncExitStack() as sessions:
        yield PaletteApi(PaletteCalls(ConsoleClient(account.url, settings, sessions), account))
