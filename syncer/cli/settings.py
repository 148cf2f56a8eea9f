"""Settings, directories and places, made of options and the environment, and the defaults that options have."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote

import platformdirs

from syncer import __version__
from syncer.api.definitions import StoredBundle
from syncer.api.supplies import Supplies
from syncer.bundle import BundleUrl
from syncer.cli.options import ConnectionOptions, LoginOptions, UploadOptions
from syncer.cli.parser import is_default
from syncer.errors import InvalidFile, UsageError
from syncer.files import reading
from syncer.oci import Reference
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

Spoken: TypeAlias = RegistryAddress | StoredBundle | Reference | BundleUrl
"""Whatever names a server that is spoken to, by HTTP or by HTTPS."""


def registry_settings(
    connection: ConnectionOptions,
    login: LoginOptions | None = None,
    address: RegistryAddress | None = None,
    upload: UploadOptions | None = None,
    *,
    everyone: Sequence[Spoken] = (),
    include_foreign: bool = False,
) -> RegistrySettings:
    """The settings of all registries; ``login`` is for the registry at ``address`` alone.

    ``everyone`` are all whom the command speaks to, where that is known.  Raises ``UsageError`` for half a login, or
    a certificate where all of them and the proxy are spoken to by HTTP, and ``InvalidFile`` for an absent certificate.
    """
    proxies = Proxies.from_environ(os.environ)
    said = [connection.plain_http if each.plain_http is None else each.plain_http for each in everyone]
    if said and all(said) and not (proxies.http or "").startswith("https://"):  # the proxy has a certificate
        _refuse_certificates(connection)
    host = HostSettings(
        plain_http=connection.plain_http or None,
        insecure=connection.insecure,
        ca_cert=_require_pem(connection.ca_cert, "ca_cert"),
        client_cert=_require_pem(connection.tls_cert, "tls_cert"),
        client_key=_require_pem(connection.tls_key, "tls_key"),
        is_usual=is_default("ca_cert") or is_default("tls_cert"),
    )
    given = _require_file(connection.authfile, "authfile")
    files = (AuthFile(given, is_required=True),) if given else ()
    return RegistrySettings(
        transport=TransportSettings(
            limits=Limits(
                requests_per_host=connection.concurrency,
                max_wait=connection.max_wait,
                outage=connection.outage,
                stall=connection.stall,
                ranges=connection.ranges,
            ),
            default=host,
            proxies=proxies,
            user_agent=f"syncer/{__version__}",
        ),
        credentials=CredentialSettings(
            logins=_read_login(login, address) if login and address else {},
            files=files or _auth_files(os.environ),
        ),
        trusted_realms=frozenset(connection.allow_realm),
        include_foreign=include_foreign,
        chunk_size=upload.chunk_size if upload else CHUNK_SIZE,
    )


def everyone_of(file: Path | BundleUrl | None, registries: Sequence[Spoken]) -> list[Spoken]:
    """All whom a command speaks to that brings the bundle ``file`` to ``registries``."""
    return [*registries, file] if isinstance(file, BundleUrl) else list(registries)


def _refuse_certificates(connection: ConnectionOptions) -> None:
    """``--insecure`` passes: it verifies nothing, which is as true of HTTP, and scripts for Palette's CLI give it."""
    named = {"ca_cert": connection.ca_cert, "tls_cert": connection.tls_cert, "tls_key": connection.tls_key}
    for name in [name for name, given in named.items() if given and not is_default(name)]:
        raise UsageError(
            f"--{name.replace('_', '-')} is of no use: the registry is spoken to by HTTP",
            hint="leave it out, or write https:// instead",
        )


def state_directory(given: Path | None) -> Path:
    """The directory of hints and locks: the given one, else that of systemd, else the user's own."""
    if given is None and (named := os.environ.get("STATE_DIRECTORY")):
        return Path(named.partition(":")[0])
    return given or platformdirs.user_state_path("syncer")


def known_secrets(settings: RegistrySettings) -> list[str]:
    """Every password that is known before a registry asks, so that no log shows it."""
    return [secret for login in settings.credentials.logins.values() for secret in login.secrets]


def login_store() -> KeptLogins:
    """The logins that ``registry-login`` keeps."""
    docker = default_auth_files(os.environ)[-1].path
    return KeptLogins(config_directory() / "auth.json", docker)


def _auth_files(environ: Mapping[str, str]) -> tuple[AuthFile, ...]:
    """The file that ``$REGISTRY_AUTH_FILE`` names, that of ``registry-login``, then those of Podman and Docker."""
    files = default_auth_files(environ)
    named = tuple(file for file in files if file.is_required)
    return (*named, AuthFile(config_directory() / "auth.json"), *files[len(named) :])


def _read_login(login: LoginOptions, address: RegistryAddress) -> dict[str, Credential]:
    if login.username is None and not login.password_stdin:
        return {}
    if login.username is None or not login.password_stdin:
        raise UsageError(
            "--username and --password-stdin go together",
            hint='echo "$PASSWORD" | syncer push … --username NAME --password-stdin',
        )
    return {address.host: Credential(username=login.username, password=sys.stdin.readline().rstrip("\r\n"))}


def _require_pem(path: Path | None, name: str) -> Path | None:
    """Raise ``InvalidFile`` unless ``path``, of the option ``name``, is a file that certificates or keys can be in."""
    if _require_file(path, name) is not None:
        assert path is not None
        with reading(path):
            content = path.read_bytes()
        hint = "such a file has lines like -----BEGIN CERTIFICATE-----"
        if b"-----BEGIN " not in content:
            raise InvalidFile(path, "it is no PEM file", hint=hint)
        if name == "ca_cert" and b"CERTIFICATE-----" not in content:
            raise InvalidFile(path, "it holds no certificate", hint=hint)
    return path


def _require_file(path: Path | None, name: str) -> Path | None:
    if path is not None and path.is_dir():
        raise InvalidFile(path, "it is a directory, where a file is wanted")
    if path is not None and not path.is_file():
        option = name.replace("_", "-")
        hint = f"it is the default of --{option}; syncer config shows where that is set" if is_default(name) else None
        raise InvalidFile(path, "there is no such file", hint=hint)
    return path


def config_directory() -> Path:
    """The directory of logins."""
    return platformdirs.user_config_path("syncer", appauthor=False)


def cache_directory() -> Path:
    """The directory of files that may be deleted at any time."""
    return platformdirs.user_cache_path("syncer", appauthor=False)


def chart_supplies() -> Supplies:
    """Supplies that keep the indexes of chart repositories for the next run."""
    return Supplies(chart_cache=cache_directory() / "charts")


_SUFFIXES = (".tar", ".tar.zst", ".zst", ".yaml", ".yml")
_FILE = "file://"


def source_place(text: str) -> Path | StoredBundle:
    """The place that a bundle comes from; raises ``UsageError``."""
    path = _path(text)
    return path if path is not None else StoredBundle.parse(text)


def target_place(text: str) -> Path | RegistryAddress:
    """The place that a bundle goes to; raises ``UsageError``."""
    path = _path(text)
    if path is not None:
        return path
    try:
        return RegistryAddress.parse(text)
    except UsageError as error:
        hint = f"{error.hint}; the name of a file ends with .tar.zst or .tar" if error.hint else error.hint
        raise UsageError(str(error), hint=hint) from None


def is_bundle_name(path: Path) -> bool:
    """Tell whether ``path`` names a bundle's file, and not the directory for it."""
    return path.name.endswith((".tar", ".zst")) and not path.is_dir()


def _path(text: str) -> Path | None:
    """The path in ``text``; None for a registry.  A text that exists as a file, or looks like one, is a path."""
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


_NAMES = """
    allow-partial annotation-selector arch as at-once auth authfile build-type ca-cert chunk-size
    cluster-definition-name cluster-definition-profile-ids cluster-profile-ids compression-level concurrency
    config console-url cred-file-path custom-ui dask deep definition-only disk dry-run except exclude-profiles
    existing-bundles exit-code file format have host htpasswd image images-file images-only include-foreign
    include-packs json keep-going keep-unfinished limit-rate lock log-format map max-delete max-failed
    max-wait metadata-file metadata-only metrics-file missing missing-out name names-like only org outage
    output packs palette-endpoint plain-http port private-key profile-file profiles progress project
    project-id public-key push quiet ranges read-window recheck referrers registry repo report report-dir
    require-referrers resume scan set-var shard signature since spool-size stall state-dir strict tags
    targets-file timeout tls-cert tls-key trace trust-journal username verbose verify
"""
KEYS = frozenset(_NAMES.split())
"""The options that may have a default, of all commands; ``test_defaults`` compares them with those that there are."""
