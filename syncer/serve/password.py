"""Basic authentication against a file that ``htpasswd -B`` writes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from pathlib import Path
from typing import Self

import anyio
import bcrypt
from anyio import to_thread
from msgspec import Struct, field

from syncer.errors import InvalidFile

_BCRYPT = re.compile(r"\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}")
_BCRYPT_BYTES = 72  # of a password; the rest never counted
_CHECKS = 2  # at once: each is made to be slow


class Passwords(Struct):
    """User names and bcrypt hashes.

    A correct password is remembered as a keyed hash in memory, since every request of a push
    has it, and bcrypt is slow on purpose.
    """

    hashes: dict[str, bytes]
    _remembered: dict[str, bytes] = field(default_factory=dict)
    _key: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    _limiter: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(_CHECKS))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the users of an htpasswd file; raises ``InvalidFile``, also for hashes other than bcrypt."""
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidFile(path, f"cannot be read: {getattr(error, 'strerror', None) or 'not text'}") from None
        hashes = {}
        for number, line in enumerate(lines, 1):
            if line.strip() and not line.startswith("#"):
                name, _, hashed = line.strip().partition(":")
                if not (name and _BCRYPT.fullmatch(hashed)):
                    raise InvalidFile(
                        path,
                        "a line must be a user name, a colon and a bcrypt hash",
                        line=number,
                        hint="write the file with: htpasswd -B",
                    )
                hashes[name] = hashed.encode()
        if not hashes:
            raise InvalidFile(path, "it names no user", hint="add one with: htpasswd -B")
        return cls(hashes)

    async def admit(self, authorization: str | None) -> bool:
        """Tell whether the value of an ``Authorization`` header has the name and the password of a user."""
        given = _basic(authorization)
        if given is None:
            return False
        name, password = given
        known = self.hashes.get(name)
        keyed = hmac.digest(self._key, password, hashlib.sha256)
        if hmac.compare_digest(keyed, self._remembered.get(name, b"")):
            return True
        # an unknown user costs as much time as a wrong password
        against = known or next(iter(self.hashes.values()))
        right = await to_thread.run_sync(bcrypt.checkpw, password[:_BCRYPT_BYTES], against, limiter=self._limiter)
        if right and known:
            self._remembered[name] = keyed
        return right and known is not None


def _basic(authorization: str | None) -> tuple[str, bytes] | None:
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        return (name.decode(), password) if colon and b"\0" not in password else None
    except (binascii.Error, UnicodeDecodeError):
        return None
