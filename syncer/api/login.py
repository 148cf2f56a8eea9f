"""Logging in to Palette: the key is checked before it is kept."""

from __future__ import annotations

from dataclasses import dataclass, replace

from syncer.profiles.palette_api import PaletteApi
from syncer.profiles.palette_http import PaletteAccount
from syncer.transport import TransportSettings, open_transport


@dataclass(frozen=True, slots=True, kw_only=True)
class PaletteAccess:
    """Whose API is asked, and how its console is spoken to."""

    account: PaletteAccount
    transport: TransportSettings


async def check_palette_login(access: PaletteAccess, project: str = "") -> tuple[PaletteAccount, str]:
    """The account within ``project``, a name or an id, and that project's name; nothing means the whole tenant.

    Raises ``Denied`` for a key that the console does not know, ``UsageError`` for a project that it does not see.
    """
    async with open_transport(access.transport) as transport:
        api = PaletteApi(transport, access.account)
        if not project:
            await api.projects()
            return access.account, ""
        found = await api.project(project)
    return replace(access.account, project_uid=found.uid), found.name
