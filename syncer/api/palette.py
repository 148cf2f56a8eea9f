"""Palette's console: profiles and logins."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from syncer.api.build import Selection
from syncer.api.supplies import Supplies, open_supplies
from syncer.errors import UsageError
from syncer.profiles.palette.key import PaletteAccount
from syncer.profiles.palette.profile import Profile
from syncer.profiles.palette.profile_definition import ProfileDefinition, define_profiles
from syncer.profiles.palette.profile_files import is_pack_archive, read_packs, read_profile_file
from syncer.registry import RegistrySettings
from syncer.transport import TransportSettings

if TYPE_CHECKING:
    from syncer.profiles.palette.palette_api import PaletteApi


class PaletteAccess(Struct, frozen=True, kw_only=True):
    """The account at Palette, and the transport to its console."""

    account: PaletteAccount
    transport: TransportSettings

    def open(self) -> AbstractAsyncContextManager[PaletteApi]:
        """The API, for as long as the ``async with`` block lasts."""
        from syncer.profiles.palette.palette_api import open_palette  # noqa: PLC0415  aiohttp is slow to import

        return open_palette(self.account, self.transport)


async def check_palette_login(access: PaletteAccess, project: str = "") -> tuple[PaletteAccount, str]:
    """The account within ``project``, a name or an id, and that project's name; nothing means the whole tenant.

    Raises ``Denied`` for a key that the console does not know, ``UsageError`` for a project that it does not see.
    """
    async with access.open() as api:
        if not project:
            await api.projects()
            return access.account, ""
        found = await api.project(project)
    return replace(access.account, project_uid=found.uid), found.name


class PaletteConsole(Struct, frozen=True):
    """Palette, as far as profiles are concerned."""

    access: PaletteAccess

    @property
    def secrets(self) -> tuple[str, ...]:
        return (self.access.account.api_key,)

    async def profiles(self, uids: Iterable[str], project_uid: str = "") -> list[Profile]:
        """The profiles with those uids; ``project_uid`` is empty for the project of the login.

        Raises ``Denied``, ``NotFound``, or ``UsageError`` for what is no uid.
        """
        access = self.access
        if project_uid:
            access = structs.replace(access, account=replace(access.account, project_uid=project_uid))
        async with access.open() as api:
            return [await api.profile(uid) for uid in uids]

    async def download_definition(self, name: str, profile_uids: list[str], path: Path) -> None:
        """Save the cluster definition called ``name`` at ``path``; raises as ``PaletteApi`` does."""
        async with self.access.open() as api:
            await api.download_definition(name, profile_uids, path)


async def define(
    name: str,
    selection: Selection,
    console: PaletteConsole | None,
    *,
    supplies: Supplies | None = None,
    settings: RegistrySettings | None = None,
) -> ProfileDefinition:
    """Make a definition, called ``name``, of all that ``selection`` wants.

    A scan fetches the charts that packs list, by ``supplies`` and ``settings``, and looks into them too.
    Raises ``UsageError`` where ids are to be asked for and no ``console`` is given, ``InvalidFile``, and what the
    console answers.
    """
    from_files = [read_profile_file(path, selection.environment) for path in selection.files]
    local = [read_packs(selection.packs)] if selection.packs else []
    excluded = [read_profile_file(path, selection.environment) for path in selection.excluded_files]
    asked = list[Profile]()
    if console is not None:
        asked = await console.profiles(selection.uids)
        excluded += await console.profiles(selection.excluded)
    elif selection.needs_palette:
        raise UsageError("profiles are named by their ids, and no Palette is known to ask for them")
    if selection.include_packs:
        _require_local(asked)
    profiles = [
        *asked,
        *(_drop_pack_paths(each, keep_archives=selection.include_packs) for each in from_files),
        *local,
    ]
    make = partial(
        define_profiles,
        name,
        profiles,
        images=selection.images,
        excluded=excluded,
        overrides=selection.overrides,
        scan=selection.scan,
        with_charts=not selection.images_only,
        with_archives=not selection.images_only,
    )
    made = make()
    if not (selection.scan and made.unread):
        return made
    from syncer.api.charts import fetch_charts  # noqa: PLC0415  only a scan of packs that list charts needs it

    async with open_supplies(settings, structs.replace(supplies, spool=None) if supplies else None) as opened:
        return make(fetched=await fetch_charts(made.unread, opened))


def _require_local(profiles: Iterable[Profile]) -> None:
    names = ", ".join(dict.fromkeys(str(pack) for profile in profiles for pack in profile.packs))
    if names:
        raise UsageError(
            f"the archives of {names} cannot be fetched: how Palette's pack registries serve them is not public",
            hint="name the archives or directories of packs with --packs PATH,PATH",
        )


def _drop_pack_paths(profile: Profile, *, keep_archives: bool) -> Profile:
    """``profile`` without the places of its packs; with ``keep_archives`` those of archives and directories stay."""
    packs = [
        pack
        if keep_archives and pack.path and (pack.path.is_dir() or is_pack_archive(pack.path))
        else replace(pack, path=None)
        for pack in profile.packs
    ]
    return structs.replace(profile, packs=tuple(packs))
