"""The detached signature of a bundle: RSA, PKCS #1 v1.5, SHA-256 over the whole file.

It is what ``openssl dgst -sha256 -sign KEY -out NAME.tar.zst.sig.bin NAME.tar.zst`` makes, and what Palette's
appliances check.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from syncer.errors import InvalidFile, VerificationError
from syncer.files import reading, saving, write_whole

SUFFIX = ".sig.bin"
"""What follows the bundle's whole name in its signature's."""

_MAX_SMALL = 1024 * 1024  # bytes of a key or a signature
_PREHASHED = utils.Prehashed(hashes.SHA256())


def sign_file(path: Path, private_key: Path) -> Path:
    """Write the signature of the file at ``path`` beside it; the file of the signature is whole or absent.

    Raises ``InvalidFile`` for a key that is no RSA key in PEM without a passphrase, or a file that cannot be
    read, and ``TargetError`` when the signature cannot be written.
    """
    key = _private_key(private_key)
    signature = key.sign(_digest(path), padding.PKCS1v15(), _PREHASHED)
    target = path.with_name(path.name + SUFFIX)
    with saving(target):
        write_whole(target, signature, mode=0o644)  # a signature is no secret
    return target


def check_private_key(path: Path) -> None:
    """Raise as ``sign_file`` would for its key, before there is anything to sign."""
    _private_key(path)


def verify_file(path: Path, public_key: Path, signature: Path | None = None) -> None:
    """Check the file at ``path`` against ``signature`` (``PATH.sig.bin`` if not given).

    Raises ``VerificationError`` when the signature is not that of this file and key, and ``InvalidFile`` for
    a file that cannot be read, or is no key.
    """
    key = _public_key(public_key)
    place = signature or path.with_name(path.name + SUFFIX)
    content = _small(place, "sign the bundle with --private-key, or name its signature")
    try:
        key.verify(content, _digest(path), padding.PKCS1v15(), _PREHASHED)
    except InvalidSignature:
        raise VerificationError(
            f"{place} is not the signature of {path} by the key in {public_key}",
            hint="the file was changed after it was signed, or signed with another key",
        ) from None


def _private_key(path: Path) -> rsa.RSAPrivateKey:
    content = _small(path)
    try:
        key = load_pem_private_key(content, password=None)
    except TypeError:
        raise InvalidFile(path, "the key is encrypted", hint="take the passphrase off with openssl rsa") from None
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidFile(path, "it is no private key in PEM") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise InvalidFile(path, "its key is not an RSA key, and Palette checks RSA signatures only")
    return key


def _public_key(path: Path) -> rsa.RSAPublicKey:
    """The public key in PEM, or that of a certificate."""
    content = _small(path)
    try:
        is_certificate = b"BEGIN CERTIFICATE" in content
        key = load_pem_x509_certificate(content).public_key() if is_certificate else load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidFile(path, "it is no public key in PEM") from None
    if not isinstance(key, rsa.RSAPublicKey):
        raise InvalidFile(path, "its key is not an RSA key")
    return key


def _small(path: Path, hint: str | None = None) -> bytes:
    with reading(path, hint=hint), path.open("rb") as file:
        return file.read(_MAX_SMALL)


def _digest(path: Path) -> bytes:
    """SHA-256 of the file, read as a stream."""
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
