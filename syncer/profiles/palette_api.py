"""Profiles, and what goes with them, from Palette's API."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from syncer.errors import Denied, NotFound, RegistryError, TargetError, UsageError
from syncer.profiles.json_fields import object_field, objects_field, text_field
from syncer.profiles.palette_http import PaletteAccount, PaletteCalls
from syncer.profiles.profile import Pack, PackFile, Profile
from syncer.profiles.profile_document import is_profile, parse_pack, parse_profile, parse_variables, with_endpoint
from syncer.transport import Transport
from syncer.transport.message import SMALL, Answer

_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_GZIP_MAGIC = b"\x1f\x8b"
_MAX_DEFINITION = 256 * 1024 * 1024  # bytes of a cluster definition


@dataclass(frozen=True, slots=True, order=True)
class Project:
    """A project that the key can see."""

    name: str
    uid: str


class PaletteApi:
    """What a build asks Palette."""

    def __init__(self, transport: Transport, account: PaletteAccount) -> None:
        self._calls = PaletteCalls(transport, account)
        self._transport = transport

    async def projects(self) -> list[Project]:
        """The projects that the key can see: the cheapest check of a key.  Raises ``Denied`` for a wrong one."""
        pages = self._calls.pages("dashboard/projects/metadata")
        metadata = [object_field(item, "metadata") async for item in pages]
        return sorted(Project(text_field(each, "name"), text_field(each, "uid")) for each in metadata)

    async def project(self, name_or_uid: str) -> Project:
        """The project of that name or uid; raises ``UsageError``, which names those that there are."""
        projects = await self.projects()
        for project in projects:
            if name_or_uid in (project.uid, project.name):
                return project
        known = ", ".join(project.name for project in projects[:20]) or "none"
        raise UsageError(f"the key sees no project {name_or_uid!r}", hint=f"it sees: {known}")

    async def profile(self, uid: str) -> Profile:
        """The profile with all that a build needs of it.

        The export has packs, values, manifests and variables in one answer; where it is refused or unknown,
        the calls that it is made of are asked one by one.
        """
        checked_uid(uid)
        document = await self._export(uid)
        profile = await self._pieced_together(uid) if document is None else parse_profile(document, self._origin(uid))
        profile = replace(profile, uid=uid, project_uid=profile.project_uid or self._calls.account.project_uid)
        packs = tuple([await self._completed(pack) for pack in profile.packs])
        return replace(profile, packs=packs, macros=await self._macros(packs))

    async def download_definition(
        self, name: str, profile_uids: list[str], path: Path, *, cloud_type: str = "edge-native"
    ) -> None:
        """Save the cluster definition called ``name``, a gzipped tar, at ``path``.

        Raises ``RegistryError`` when the answer is anything else, ``TargetError`` when it cannot be written.
        """
        profiles = [{"uid": checked_uid(uid)} for uid in profile_uids]
        body = {"metadata": {"name": name}, "spec": {"cloudType": cloud_type, "profiles": profiles}}
        request = self._calls.request("POST", "spectroclusters/spc/download", body=body)
        await self._calls.wait_for_turn(request)
        async with self._transport.open(request) as response:
            if response.status >= 300:
                content, is_whole = await response.read(SMALL)
                raise self._calls.refusal(
                    Answer(
                        request=str(request),
                        url=request.url,
                        status=response.status,
                        headers=response.headers,
                        content=content,
                        is_whole=is_whole,
                        scope=response.scope,
                    )
                )
            content, is_whole = await response.read(_MAX_DEFINITION)
        if not is_whole or not content.startswith(_GZIP_MAGIC):
            raise RegistryError(str(request), response.status, ["the answer is no cluster definition"])
        partial = path.with_name(f"{path.name}.partial")
        try:
            partial.write_bytes(content)
            partial.replace(path)
        except OSError as error:
            raise TargetError(f"{path} cannot be written: {error.strerror or error}") from None

    def _origin(self, uid: str) -> str:
        return f"profile {uid} of {self._calls.account.url.host}"

    async def _export(self, uid: str) -> dict[str, Any] | None:
        """The exported profile; None where this console has no such call, or this key may not use it."""
        try:
            document = await self._calls.get(f"clusterprofiles/{uid}/export", {"format": "json"})
        except RegistryError as error:
            if error.status == 401:
                raise
            return None  # the other calls tell whether it is the profile that is missing
        return document if is_profile(document) else None

    async def _pieced_together(self, uid: str) -> Profile:
        origin = self._origin(uid)
        document = await self._calls.get(f"clusterprofiles/{uid}")
        profile = parse_profile(document, origin)
        with_manifests = await self._optional(f"clusterprofiles/{uid}/packs/manifests")
        told = objects_field(object_field(with_manifests, "spec"), "packs")
        fuller = {pack.name: pack for pack in (parse_pack(entry, origin) for entry in told)}
        packs = [_filled(pack, fuller.get(pack.name)) for pack in profile.packs]
        warnings = list(profile.warnings)
        if with_manifests is None:
            warnings.append(f"the manifests of profile {profile.name} cannot be read with this key")
        variables: Mapping[str, str | None] = profile.variables
        listed = await self._optional(f"clusterprofiles/{uid}/variables")
        if listed is not None:
            variables = parse_variables(listed, origin)
        return replace(profile, packs=tuple(packs), variables=variables, warnings=tuple(warnings))

    async def _completed(self, pack: Pack) -> Pack:
        """``pack`` with its default values where it has none of its own, and with its registry's address."""
        if pack.values is None and pack.type not in ("helm", "manifest"):
            pack = replace(pack, values=await self._default_values(pack))
        if pack.type == "helm" and pack.registry and pack.registry.uid:
            pack = with_endpoint(pack, await self._endpoint(pack.registry.uid))
        return pack

    async def _default_values(self, pack: Pack) -> str | None:
        """What the pack's registry gives for values that a profile did not change; None when it does not tell."""
        uid, registry = pack.uid, pack.registry.uid if pack.registry else ""
        if uid:
            entity = await self._optional(f"packs/{checked_uid(uid)}")
        elif registry and _UID.fullmatch(pack.name):
            entity = await self._optional(f"packs/{pack.name}/registries/{checked_uid(registry)}", {"cloudType": "all"})
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
        """Where a Helm registry is: an HTTP repository, or charts in an OCI registry."""
        found = await self._optional(f"registries/helm/{checked_uid(registry_uid)}")
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
        """All macros that the key can see, asked for only where a pack refers to one."""
        if not any("spectro.macro." in (pack.values or "") for pack in packs):
            return {}
        entries = objects_field(await self._optional("clusterprofiles/macros"), "macros")
        return {text_field(entry, "name"): text_field(entry, "value") for entry in entries}

    async def _optional(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any] | None:
        """As ``get``; None where the key may not ask, or nothing is there."""
        try:
            return await self._calls.get(path, query or {})
        except (Denied, NotFound) as error:
            if error.status == 401:
                raise
            return None


def checked_uid(text: str) -> str:
    """``text`` if it can be an id of Palette; raises ``UsageError``, so that no id leads to another path."""
    if not _UID.fullmatch(text):
        raise UsageError(
            f"{text[:80]!r} is not an id of Palette", hint="it is the hexadecimal word in the console's URL"
        )
    return text


def _filled(pack: Pack, fuller: Pack | None) -> Pack:
    """``pack`` with the manifests' content, and with values where only the other call told them."""
    if fuller is None:
        return pack
    manifests: tuple[PackFile, ...] = fuller.manifests or pack.manifests
    return replace(pack, manifests=manifests, values=fuller.values if pack.values is None else pack.values)
