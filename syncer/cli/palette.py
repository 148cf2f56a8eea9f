"""Which Palette is asked and as whom: what was given, the environment, or the login that was kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from syncer.api.login import PaletteAccess
from syncer.cli.directories import config_directory
from syncer.errors import UsageError
from syncer.profiles.palette_http import PaletteAccount, console_url
from syncer.profiles.palette_login import PaletteLogin, load_login
from syncer.transport import HostSettings, TransportSettings
from syncer.transport.guard import authority

API_KEY = "SYNCER_API_KEY"
CONSOLE_URL = "SYNCER_CONSOLE_URL"
PROJECT_ID = "SYNCER_PROJECT_ID"
PASSPHRASE = "PALETTE_ENCRYPTION_PASSWORD"  # noqa: S105  the name of a variable

_HINT = f"log in with syncer login, or set {API_KEY} and {CONSOLE_URL}"


def palette_access(
    transport: TransportSettings,
    environ: Mapping[str, str] = os.environ,
    *,
    api_key: str | None = None,
    console: str | None = None,
    project_id: str | None = None,
    passphrase: str | None = None,
) -> PaletteAccess:
    """How to ask Palette; raises ``UsageError`` where no key or no console is known.

    The key that was kept is shown to no other console than the one that it was kept for.
    """
    api_key, console = api_key or environ.get(API_KEY), console or environ.get(CONSOLE_URL)
    is_given = api_key is not None and console is not None
    kept = None if is_given else load_login(config_directory(), passphrase or environ.get(PASSPHRASE))
    url = console_url(console) if console else kept.account.url if kept else None
    if url is None:
        raise UsageError("no Palette console is known", hint=_HINT)
    is_kept = kept is not None and kept.account.url == url
    if api_key is None and kept is not None and is_kept:
        api_key = kept.account.api_key
    if not api_key:
        raise UsageError(f"no API key is known for {url}", hint=_HINT)
    project = project_id or environ.get(PROJECT_ID) or (kept.account.project_uid if kept and is_kept else "")
    account = PaletteAccount(url=url, api_key=api_key, project_uid=project)
    return PaletteAccess(account=account, transport=_trusting(transport, kept) if kept and is_kept else transport)


def _trusting(transport: TransportSettings, login: PaletteLogin) -> TransportSettings:
    """``transport`` with what the login says about its console's certificate."""
    return with_console(transport, login.account, insecure=login.insecure, ca_cert=login.ca_cert)


def with_console(
    transport: TransportSettings, account: PaletteAccount, *, insecure: bool, ca_cert: Path | None
) -> TransportSettings:
    """``transport`` that speaks to the account's console in a way of its own."""
    host = authority(account.url)
    settings: HostSettings = transport.host(host)
    trusting = replace(settings, insecure=insecure or settings.insecure, ca_cert=ca_cert or settings.ca_cert)
    return replace(transport, hosts={**transport.hosts, host: trusting})
