"""Reading the credential file of Palette's Edge CLI (``--cred-file-path``)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from syncer.errors import InvalidFile
from syncer.formats.text import parse_json, read_text
from syncer.oci.docker_hub import canonical_host, login_place

_MAX_SIZE = 4 * 1024 * 1024  # bytes


class Login(Struct, frozen=True):
    """A user name and a password; neither is ever shown."""

    username: str
    password: str

    def __repr__(self) -> str:
        return "Login()"


class EdgeCredentials(Struct, frozen=True, kw_only=True):
    """The logins for images and the logins for charts, by ``host[:port][/path]``."""

    images: Mapping[str, Login]
    charts: Mapping[str, Login]


def read_cred_file(path: Path) -> EdgeCredentials:
    """Read the logins in the JSON file at ``path``; raises ``InvalidFile``, which never shows a value.

    One of its lists, ``helm`` and ``image``, may be absent.  A password that is an object (the key of a cloud
    account) becomes its compact JSON text, which such registries accept as a password.
    """
    document = parse_json(read_text(path, limit=_MAX_SIZE), path)
    if not isinstance(document, dict) or document.keys().isdisjoint(("helm", "image")):
        raise InvalidFile(path, 'it must be an object with the lists "helm" or "image"')
    return EdgeCredentials(images=_logins(document, "image", path), charts=_logins(document, "helm", path))


def find_login(logins: Mapping[str, Login], host: str, path: str = "") -> Login | None:
    """The login for ``path`` at ``host``: the one with the longest path that ``path`` begins with; None without one."""
    place = f"{canonical_host(host)}/{path.strip('/')}".rstrip("/")
    fitting = [key for key in logins if place == key or place.startswith(f"{key}/")]
    return logins[max(fitting, key=len)] if fitting else None


def _logins(document: dict[str, Any], kind: str, path: Path) -> dict[str, Login]:
    entries = document.get(kind)
    if entries is not None and not isinstance(entries, list):
        raise InvalidFile(path, f"{kind}: it must be a list")
    logins: dict[str, Login] = {}
    for number, entry in enumerate(entries or ()):
        where = f"{kind}[{number}]"
        if not isinstance(entry, dict):
            raise InvalidFile(path, f"{where}: it must be an object with endpoint, username and password")
        endpoint, username, password = (entry.get(key) for key in ("endpoint", "username", "password"))
        if not isinstance(endpoint, str) or not _place(endpoint):
            raise InvalidFile(path, f"{where}.endpoint: it must be the name of a host")
        if not isinstance(username, str):
            raise InvalidFile(path, f"{where}.username: it must be a text")
        if isinstance(password, dict):
            password = json.dumps(password, separators=(",", ":"), ensure_ascii=False)
        if not isinstance(password, str):
            raise InvalidFile(path, f"{where}.password: it must be a text or an object")
        logins[_place(endpoint)] = Login(username, password)
    return logins


def _place(endpoint: str) -> str:
    """``endpoint`` without its scheme, in the spelling of references."""
    host, slash, path = endpoint.strip().rpartition("://")[2].strip("/").partition("/")
    return login_place(f"{host.lower()}{slash}{path}")
