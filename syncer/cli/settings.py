"""Settings, directories and places, made from options and the environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

import platformdirs

from syncer import __version__
from syncer.api.bundles import StoredBundle
from syncer.cli.options import ConnectionOptions, LoginOptions, UploadOptions
from syncer.errors import InvalidFile, UsageError
from syncer.formats.units import byte_count
from syncer.registry import (
    CHUNK_SIZE,
    AuthFile,
    Credential,
    CredentialSettings,
    KeptLogins,
    RegistryAddress,
    RegistrySettings,
    default_auth_files,
)
from syncer.transport import HostSettings, Limits, Proxies, TransportSettings


def registry_settings(
    connection: ConnectionOptions,
    login: LoginOptions | None = None,
    address: RegistryAddress | None = None,
    uploading: UploadOptions | None = None,
    *,
    include_foreign: bool = False,
) -> RegistrySettings:
    """What the registry end is told; ``login`` is for the registry at ``address`` alone."""
    host = HostSettings(
        plain_http=connection.plain_http or None,
        insecure=connection.insecure,
        ca_cert=_existing(connection.ca_cert),
        client_cert=_existing(connection.tls_cert),
        client_key=_existing(connection.tls_key),
    )
    files = (AuthFile(connection.authfile, is_required=True),) if connection.authfile else ()
    return RegistrySettings(
        transport=TransportSettings(
            limits=Limits(requests_per_host=connection.concurrency, max_wait=connection.max_wait),
            default=host,
            proxies=Proxies.from_environ(os.environ),
            user_agent=f"syncer/{__version__}",
        ),
        credentials=CredentialSettings(
            logins=_explicit(login, address) if login and address else {},
            files=files or _auth_files(os.environ),
        ),
        trusted_realms=frozenset(connection.allow_realm or ()),
        include_foreign=include_foreign,
        chunk_size=byte_count(uploading.chunk_size) if uploading else CHUNK_SIZE,
    )


def state_directory(given: Path | None) -> Path:
    """Where hints and locks are kept between runs: as given, else where systemd says, else the user's own place."""
    if given is None and (named := os.environ.get("STATE_DIRECTORY")):
        return Path(named.partition(":")[0])
    return given or platformdirs.user_state_path("syncer")


def secrets_of(settings: RegistrySettings) -> list[str]:
    """Every password that is known before anybody asks, so that no log shows it."""
    return [secret for login in settings.credentials.logins.values() for secret in login.secrets]


def kept_logins() -> KeptLogins:
    """Where ``registry-login`` keeps logins."""
    docker = default_auth_files(os.environ)[-1].path
    return KeptLogins(config_directory() / "auth.json", docker)


def _auth_files(environ: Mapping[str, str]) -> tuple[AuthFile, ...]:
    """What ``$REGISTRY_AUTH_FILE`` names, what ``registry-login`` kept, then the files of Podman and Docker."""
    files = default_auth_files(environ)
    named = tuple(file for file in files if file.is_required)
    return (*named, AuthFile(config_directory() / "auth.json"), *files[len(named) :])


def _explicit(login: LoginOptions, address: RegistryAddress) -> dict[str, Credential]:
    if login.username is None and not login.password_stdin:
        return {}
    if login.username is None or not login.password_stdin:
        raise UsageError(
            "--username and --password-stdin go together",
            hint='echo "$PASSWORD" | syncer push … --username NAME --password-stdin',
        )
    return {address.host: Credential(username=login.username, password=sys.stdin.readline().rstrip("\r\n"))}


def _existing(path: Path | None) -> Path | None:
    if path is not None and not path.is_file():
        raise InvalidFile(path, "there is no such file")
    return path


def config_directory() -> Path:
    """Where logins are kept."""
    return platformdirs.user_config_path("syncer", appauthor=False)


def cache_directory() -> Path:
    """What may be deleted at any time."""
    return platformdirs.user_cache_path("syncer", appauthor=False)


_SUFFIXES = (".tar", ".tar.zst", ".zst", ".yaml", ".yml")
_FILE = "file://"


def source_place(text: str) -> Path | StoredBundle:
    """Where a bundle is to come from; raises ``UsageError``."""
    path = _path(text)
    return path if path is not None else StoredBundle.parse(text)


def target_place(text: str) -> Path | RegistryAddress:
    """Where a bundle is to go; raises ``UsageError``."""
    path = _path(text)
    return path if path is not None else RegistryAddress.parse(text)


def is_bundle_name(path: Path) -> bool:
    """Whether ``path`` names a bundle's file, and not the directory that it is to be put into."""
    return path.name.endswith((".tar", ".zst")) and not path.is_dir()


def _path(text: str) -> Path | None:
    """The path that ``text`` is; None for a registry.  What exists, or looks like a file, is a path."""
    if text.startswith(_FILE):
        path = unquote(text.removeprefix(_FILE))
        if not path.startswith("/"):
            raise UsageError(
                f"{text!r} is not a file's URL", hint="it has three slashes: file:///path/to/bundle.tar.zst"
            )
        return Path(path)
    looks_like_one = text.startswith(("/", "./", "../", "~")) or text in (".", "..") or text.endswith(_SUFFIXES)
    if "://" not in text and (looks_like_one or Path(text).exists()):
        return Path(text).expanduser()
    return None
