"""An account at Palette, and its saved login: a file with the API key, which can be encrypted under a passphrase.

scrypt derives a key from the passphrase, and AES-GCM encrypts with it.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import os
from pathlib import Path
from typing import Any

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from msgspec import Struct, field
from yarl import URL

from syncer.errors import InvalidFile, TargetError, UsageError, redacted
from syncer.files import remove_file, saving, write_whole
from syncer.formats.text import object_field, text_field

_FILE = "palette.json"
_HINT = "log in again with syncer login"

_COST = 2**15  # scrypt's N: some 50 ms and 32 MiB
_FIELDS = ("salt", "nonce", "sealed")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PaletteAccount:
    """An account at Palette: the address, the API key, and the uid of a project (empty: the whole tenant)."""

    url: URL
    api_key: str = dataclasses.field(repr=False)
    project_uid: str = ""

    def __post_init__(self) -> None:
        if not self.api_key or not self.api_key.isascii() or not self.api_key.isprintable() or " " in self.api_key:
            raise UsageError("the API key must be one word of ASCII characters")


def console_url(text: str) -> URL:
    """Parse the address of a console, such as ``https://console.spectrocloud.com`` or ``api.spectrocloud.com``.

    A path that ends in ``/v1`` is the API's own, and is left out.  Raises ``UsageError``.
    """
    spelt = text.strip() if "://" in text else f"https://{text.strip()}"
    try:
        url = URL(spelt)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise UsageError(
            f"{redacted(text)[:160]!r} is not the URL of a console", hint="write it like https://console.example.com"
        )
    if url.user or url.password:
        raise UsageError("the console's URL must not hold a user name or password")
    return url.with_query(None).with_fragment(None).with_path(url.path.rstrip("/").removesuffix("/v1"))


class PaletteLogin(Struct, frozen=True, kw_only=True):
    """A saved login to Palette.  ``organisation`` is only shown: the key implies it."""

    account: PaletteAccount
    project: str = ""  # its name
    organisation: str = ""
    insecure: bool = False  # the console's certificate is not verified
    ca_cert: Path | None = field(default=None)


def save_login(login: PaletteLogin, directory: Path, passphrase: str | None = None) -> Path:
    """Save ``login`` to a file in ``directory``, with mode 0600, whole or not at all; returns the path of the file.

    With a passphrase the key is encrypted.  Raises ``TargetError``.
    """
    key = login.account.api_key
    document = {
        "console_url": str(login.account.url),
        "api_key": seal(key, passphrase) if passphrase else key,
        "project_uid": login.account.project_uid,
        "project": login.project,
        "organisation": login.organisation,
        "insecure": login.insecure,
        "ca_cert": str(login.ca_cert.absolute()) if login.ca_cert else "",
    }
    path = directory / _FILE
    content = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    with saving(path):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(path, content, mode=0o600)
    return path


def load_login(directory: Path, passphrase: str | None = None) -> PaletteLogin | None:
    """Load the login from ``directory``; None when there is none.

    Raises ``InvalidFile``, and ``UsageError`` when the key is encrypted and ``passphrase`` does not decrypt it.
    """
    path = directory / _FILE
    try:
        document = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidFile(path, f"it cannot be read: {error.strerror or error}") from None
    except orjson.JSONDecodeError:
        raise InvalidFile(path, "it is not a saved login", hint=_HINT) from None
    url, key = text_field(document, "console_url"), _key(document, passphrase)
    if not url or not key:
        raise InvalidFile(path, "it lacks the console's address or the key", hint=_HINT)
    ca_cert = text_field(document, "ca_cert")
    return PaletteLogin(
        account=PaletteAccount(url=console_url(url), api_key=key, project_uid=text_field(document, "project_uid")),
        project=text_field(document, "project"),
        organisation=text_field(document, "organisation"),
        insecure=document.get("insecure") is True,
        ca_cert=Path(ca_cert) if ca_cert else None,
    )


def _key(document: Any, passphrase: str | None) -> str:
    sealed = object_field(document, "api_key")
    if not sealed:
        return text_field(document, "api_key")
    if not passphrase:
        raise UsageError(
            "the saved API key is encrypted under a passphrase",
            hint="give it with --encryption-passphrase or $PALETTE_ENCRYPTION_PASSWORD",
        )
    return unseal(sealed, passphrase)


def forget_login(directory: Path) -> bool:
    """Remove the login from ``directory``; returns False when there was none.  Raises ``TargetError``."""
    path = directory / _FILE
    try:
        return remove_file(path)
    except OSError as error:
        raise TargetError(f"{path} cannot be removed: {error.strerror or error}") from None


def seal(secret: str, passphrase: str) -> dict[str, str]:
    """Encrypt ``secret`` under ``passphrase``; returns an object for ``unseal``."""
    salt, nonce = os.urandom(16), os.urandom(12)
    sealed = AESGCM(_derive_key(passphrase, salt)).encrypt(nonce, secret.encode(), None)
    return {name: base64.b64encode(value).decode() for name, value in zip(_FIELDS, (salt, nonce, sealed), strict=True)}


def unseal(document: dict[str, Any], passphrase: str) -> str:
    """Decrypt the secret in ``document``, an object of ``seal``; raises ``UsageError`` for another passphrase."""
    try:
        salt, nonce, sealed = (base64.b64decode(str(document.get(name, "")), validate=True) for name in _FIELDS)
        return AESGCM(_derive_key(passphrase, salt)).decrypt(nonce, sealed, None).decode()
    except (InvalidTag, ValueError, binascii.Error):
        raise UsageError("the passphrase does not decrypt the saved API key") from None


def _derive_key(passphrase: str, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, n=_COST, r=8, p=1).derive(passphrase.encode())
