from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from syncer.bundle.signature import sign_file, verify_file
from syncer.errors import InvalidFile, TargetError, VerificationError
from tests.support.programs import needs

_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
_needs_openssl = pytest.mark.usefixtures("openssl")


@pytest.fixture
def openssl() -> str:
    return needs("openssl")


def _keys(
    folder: Path,
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = _KEY,
    encryption: KeySerializationEncryption | None = None,
) -> tuple[Path, Path]:
    private, public = folder / "private.pem", folder / "public.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def _bundle(folder: Path) -> Path:
    path = folder / "edge.tar.zst"
    path.write_bytes(os.urandom(100_000))
    return path


@_needs_openssl
def test_openssl_accepts_our_signature(tmp_path: Path) -> None:
    private, public = _keys(tmp_path)
    bundle = _bundle(tmp_path)

    signature = sign_file(bundle, private)

    assert signature == tmp_path / "edge.tar.zst.sig.bin"
    command: list[str | Path] = ["openssl", "dgst", "-sha256", "-verify", public, "-signature", signature, bundle]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "Verified OK\n"


@_needs_openssl
def test_we_accept_openssls_signature(tmp_path: Path) -> None:
    private, public = _keys(tmp_path)
    bundle = _bundle(tmp_path)
    elsewhere = tmp_path / "signature"
    subprocess.run(["openssl", "dgst", "-sha256", "-sign", private, "-out", elsewhere, bundle], check=True)

    verify_file(bundle, public, elsewhere)


@_needs_openssl
def test_the_public_key_may_be_in_a_certificate(tmp_path: Path) -> None:
    private, _ = _keys(tmp_path)
    certificate = tmp_path / "certificate.pem"
    options: list[str | Path] = ["-x509", "-key", private, "-subj", "/CN=me", "-out", certificate]
    subprocess.run(["openssl", "req", *options], check=True, capture_output=True)
    bundle = _bundle(tmp_path)
    sign_file(bundle, private)

    verify_file(bundle, certificate)


def test_a_changed_file_does_not_pass(tmp_path: Path) -> None:
    private, public = _keys(tmp_path)
    bundle = _bundle(tmp_path)
    sign_file(bundle, private)
    verify_file(bundle, public)

    with bundle.open("r+b") as file:
        file.write(b"changed")

    with pytest.raises(VerificationError, match=r"is not the signature of .*edge\.tar\.zst"):
        verify_file(bundle, public)


def test_another_key_does_not_pass(tmp_path: Path) -> None:
    private, _ = _keys(tmp_path)
    bundle = _bundle(tmp_path)
    sign_file(bundle, private)
    _, other = _keys(tmp_path, rsa.generate_private_key(public_exponent=65537, key_size=2048))

    with pytest.raises(VerificationError):
        verify_file(bundle, other)


def test_signing_again_replaces_the_signature_and_leaves_nothing_else(tmp_path: Path) -> None:
    private, public = _keys(tmp_path)
    bundle = _bundle(tmp_path)
    sign_file(bundle, private)
    bundle.write_bytes(b"other content")

    sign_file(bundle, private)

    verify_file(bundle, public)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "edge.tar.zst",
        "edge.tar.zst.sig.bin",
        "private.pem",
        "public.pem",
    ]


def test_what_is_no_usable_key_is_named(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path)
    private, public = _keys(tmp_path)
    sign_file(bundle, private)

    with pytest.raises(InvalidFile, match="no private key in PEM"):
        sign_file(bundle, public)
    with pytest.raises(InvalidFile, match="no public key in PEM"):
        verify_file(bundle, private)
    with pytest.raises(InvalidFile, match="cannot be read"):
        sign_file(bundle, tmp_path / "absent.pem")
    private, public = _keys(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(InvalidFile, match="not an RSA key"):
        sign_file(bundle, private)
    with pytest.raises(InvalidFile, match="not an RSA key"):
        verify_file(bundle, public)
    private, _ = _keys(tmp_path, encryption=BestAvailableEncryption(b"passphrase"))
    with pytest.raises(InvalidFile, match="the key is encrypted"):
        sign_file(bundle, private)


def test_a_missing_signature_is_named(tmp_path: Path) -> None:
    _, public = _keys(tmp_path)

    with pytest.raises(InvalidFile, match=r"edge\.tar\.zst\.sig\.bin: it cannot be read"):
        verify_file(_bundle(tmp_path), public)


def test_a_signature_that_cannot_be_written_is_the_targets_fault(tmp_path: Path) -> None:
    private, _ = _keys(tmp_path)
    bundle = _bundle(tmp_path)
    bundle.with_name(f"{bundle.name}.sig.bin").mkdir()

    with pytest.raises(TargetError, match="cannot be written"):
        sign_file(bundle, private)
