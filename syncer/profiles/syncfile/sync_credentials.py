"""Looking up the credentials that a sync file refers to: variables, files and helpers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from syncer.errors import UsageError
from syncer.formats.text import read_text
from syncer.profiles.syncfile.document import Credentials

_MAX_SECRET = 64 * 1024  # bytes; a registry's token has a few KiB


@dataclass(frozen=True, slots=True)
class Login:
    """A user name and a password."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Helper:
    """A credential helper of Docker, the program ``docker-credential-NAME``, which knows the credentials."""

    name: str


def find_login(
    credentials: Credentials, *, host: str, environment: Mapping[str, str], directory: Path
) -> Login | Helper:
    """Look up the ``credentials`` of ``host``; a file's path is relative to ``directory``.

    Raises ``UsageError`` when a variable or a file is missing or empty.
    """
    if credentials.helper is not None:
        return Helper(credentials.helper)
    username = credentials.username or _variable(credentials.username_env, host, environment)
    if credentials.password is not None:
        return Login(username, credentials.password.get_secret_value())
    if credentials.password_file is not None:
        return Login(username, _content(directory / credentials.password_file.expanduser(), host))
    return Login(username, _variable(credentials.password_env, host, environment))


def _variable(name: str | None, host: str, environment: Mapping[str, str]) -> str:
    value = environment.get(name or "")
    if not value:
        raise UsageError(f"the credentials of {host} are in the variable {name}, which is not set")
    return value


def _content(path: Path, host: str) -> str:
    secret = read_text(path, limit=_MAX_SECRET).rstrip("\r\n")
    if not secret:
        raise UsageError(f"the credentials of {host} are in the file {path}, which is empty")
    return secret
