"""Palette on the command line: the login, the content of profiles, and files that travel along."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from anyio import to_thread
from msgspec import structs

from syncer.api.build import Selection, check_name
from syncer.api.palette import PaletteAccess, PaletteConsole, define
from syncer.api.supplies import Supplies
from syncer.bundle.signature import sign_file
from syncer.cli.settings import config_directory
from syncer.errors import InvalidFile, TargetError, UsageError
from syncer.files import reading
from syncer.profiles.definition.definition import DefinedFile, Definition
from syncer.profiles.definition.local import define_file
from syncer.profiles.palette.key import PaletteAccount, PaletteLogin, console_url, load_login
from syncer.profiles.palette.profile_definition import ProfileDefinition
from syncer.registry import RegistrySettings
from syncer.report.summary import quantity
from syncer.transport import HostSettings, TransportSettings
from syncer.transport.guard import authority

API_KEY = "SYNCER_API_KEY"
CONSOLE_URL = "SYNCER_CONSOLE_URL"
PROJECT_ID = "SYNCER_PROJECT_ID"
PASSPHRASE = "PALETTE_ENCRYPTION_PASSWORD"  # noqa: S105  the name of a variable

_HINT = f"log in with syncer login, or set {API_KEY} and {CONSOLE_URL}"


def open_console(
    transport: TransportSettings,
    environ: Mapping[str, str] = os.environ,
    *,
    api_key: str | None = None,
    console: str | None = None,
    project_id: str | None = None,
    passphrase: str | None = None,
) -> PaletteConsole:
    """The console of Palette, with the key and the URL of the options, of the environment, or of the saved login.

    The saved key is sent only to the console that it was saved for.  Raises ``UsageError`` when no key or no console
    is known.
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
    if kept and is_kept:
        transport = _trusting(transport, kept)
    return PaletteConsole(PaletteAccess(account=account, transport=transport))


def _trusting(transport: TransportSettings, login: PaletteLogin) -> TransportSettings:
    """``transport`` with the login's settings for its console's certificate."""
    return with_console(transport, login.account, insecure=login.insecure, ca_cert=login.ca_cert)


def with_console(
    transport: TransportSettings, account: PaletteAccount, *, insecure: bool, ca_cert: Path | None
) -> TransportSettings:
    """``transport`` with settings of their own for the account's console."""
    host = authority(account.url)
    settings: HostSettings = transport.host(host)
    trusting = structs.replace(settings, insecure=insecure or settings.insecure, ca_cert=ca_cert or settings.ca_cert)
    return structs.replace(transport, hosts={**transport.hosts, host: trusting})


async def define_bundle(
    selection: Selection,
    console: PaletteConsole | None,
    warn: Callable[[str], None],
    *,
    supplies: Supplies,
    settings: RegistrySettings,
) -> tuple[Definition, list[str]]:
    """Make the definition of ``selection``, and lines for the summary; raises the errors of ``define``."""
    result = await define("bundle", selection, console, supplies=supplies, settings=settings)
    return result.definition, _warn_of(result, warn, scan=selection.scan)


def _warn_of(result: ProfileDefinition, warn: Callable[[str], None], *, scan: bool) -> list[str]:
    """Warn of odd input, and of images that packs name and do not list; returns lines for the summary."""
    for warning in result.warnings:
        warn(warning)
    silent = [unlisted for unlisted in result.unlisted if unlisted.lists_nothing]
    for unlisted in result.unlisted:
        if scan or not unlisted.lists_nothing:
            done = "which --scan has added" if scan else "which are NOT in the bundle; --scan adds them"
            warn(f"{unlisted.name} names {quantity(len(unlisted.images), 'image')} that it does not list, {done}")
        else:
            warn(f"{unlisted}; they are NOT in the bundle, and --scan adds them")
    if silent and not scan:
        count = len({image.reference for unlisted in silent for image in unlisted.images})
        packs = ", ".join(unlisted.pack for unlisted in silent)
        return [f"NOT INCLUDED: {count} images that are named in {packs}, which list none; --scan adds them"]
    return []


_PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")  # gzip, zstd; a plain tar says so at its byte 257


async def download_definition(
    console: PaletteConsole | None, *, name: str | None, uids: Sequence[str], directory: Path, private_key: Path | None
) -> Path:
    """Save the cluster definition ``name`` of the profiles ``uids``, and its signature if there is a key.

    Raises ``UsageError`` for a missing name or missing profiles, ``TargetError``, and errors of the console.
    """
    if not name or console is None:
        raise UsageError("the cluster definition has no name", hint="give one with --cluster-definition-name")
    check_name(name)
    if not uids:
        raise UsageError(
            "a cluster definition needs its profiles",
            hint="name them with --cluster-definition-profile-ids",
        )
    path = directory / f"{name}.tgz"
    try:
        await to_thread.run_sync(lambda: directory.mkdir(parents=True, exist_ok=True))
    except OSError as error:
        raise TargetError(f"{directory} cannot be made: {error.strerror or error}") from None
    await console.download_definition(name, list(uids), path)
    if private_key:
        await to_thread.run_sync(sign_file, path, private_key)
    return path


def read_widgets(path: Path) -> DefinedFile:
    """Read the widget archive at ``path``; raises ``InvalidFile`` unless it is a tar, plain or compressed."""
    with reading(path), path.open("rb") as file:
        start = file.read(512)
    if not start.startswith(_PACKED) and start[257:262] != b"ustar":
        raise InvalidFile(path, "it is no widget archive", hint="make a .tar, .tar.gz or .tar.zst of the widgets")
    return define_file(path, "custom-ui")
