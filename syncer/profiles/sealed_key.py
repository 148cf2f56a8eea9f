"""A key that is kept under a passphrase: scrypt makes a key of the passphrase, AES-GCM seals with it."""

from __future__ import annotations

import base64
import binascii
import os
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from syncer.errors import UsageError

_COST = 2**15  # scrypt's N: some 50 ms and 32 MiB
_FIELDS = ("salt", "nonce", "sealed")


def seal(secret: str, passphrase: str) -> dict[str, str]:
    """``secret`` as an object that only ``passphrase`` opens."""
    salt, nonce = os.urandom(16), os.urandom(12)
    sealed = AESGCM(_derived(passphrase, salt)).encrypt(nonce, secret.encode(), None)
    return {name: base64.b64encode(value).decode() for name, value in zip(_FIELDS, (salt, nonce, sealed), strict=True)}


def unseal(document: dict[str, Any], passphrase: str) -> str:
    """What ``seal`` made ``document`` of; raises ``UsageError`` for another passphrase."""
    try:
        salt, nonce, sealed = (base64.b64decode(str(document.get(name, "")), validate=True) for name in _FIELDS)
        return AESGCM(_derived(passphrase, salt)).decrypt(nonce, sealed, None).decode()
    except (InvalidTag, ValueError, binascii.Error):
        raise UsageError("the passphrase does not open the API key that was kept") from None


def _derived(passphrase: str, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, n=_COST, r=8, p=1).derive(passphrase.encode())
