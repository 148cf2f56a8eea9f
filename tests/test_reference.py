"""References follow Docker's rules, and a bad one is told which part is wrong."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.errors import InvalidContent, InvalidReference
from syncer.oci import Digest, Platform, Reference

SHA256 = "sha256:" + "a1" * 32
SHA512 = "sha512:" + "b2" * 64


@pytest.mark.parametrize(
    ("text", "spelt_out"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("grafana/grafana", "docker.io/grafana/grafana:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/grafana/grafana:1", "docker.io/grafana/grafana:1"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:1", "localhost:5000/app:1"),
        ("quay.io/kairos/core:v1", "quay.io/kairos/core:v1"),
        (f"quay.io/a/b@{SHA256}", f"quay.io/a/b@{SHA256}"),
        (f"host:5000/a/b:1@{SHA256}", f"host:5000/a/b:1@{SHA256}"),
        (f"host:5000/a/b@{SHA512}", f"host:5000/a/b@{SHA512}"),
        ("[::1]:5000/a:1", "[::1]:5000/a:1"),
        ("ghcr.io/a/b__c/d-e.f:x_Y-1.2", "ghcr.io/a/b__c/d-e.f:x_Y-1.2"),
    ],
)
def test_a_reference_is_spelt_out(text: str, spelt_out: str) -> None:
    assert str(Reference.parse(text)) == spelt_out
    assert Reference.parse(spelt_out) == Reference.parse(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "names no repository"),
        ("quay.io/", "names no repository"),
        ("a:", "the tag after the colon is empty"),
        ("a:.b", "the tag '.b'"),
        ("a:" + "x" * 129, "longer than 128"),
        ("Busybox", "must be lower case"),
        ("quay.io/A/b", "must be lower case"),
        ("quay.io/a//b", "an empty part"),
        ("quay.io/a/-b", "'-b'"),
        ("quay.io/a/../b", "'..'"),
        ("quay.io/a b", "'a b'"),
        ("quay.io:port/a", "the port 'port'"),
        ("quay.io:99999/a", "the port '99999'"),
        ("-host.com/a", "'-host.com' is not a host name"),
        ("[::zz]:1/a", "not an IPv6 address"),
        ("a@sha256:12", "sha256 has 64 hexadecimal digits"),
        ("a@md5:" + "a" * 32, "must start with sha256: or sha512:"),
        ("a@sha256:" + "A" * 64, "0-9 and a-f"),
        ("a@" + SHA256 + "@" + SHA256, "sha256 has 64"),
        ("a@", "must start with sha256: or sha512:"),
        ("quay.io/" + "a" * 256, "longer than 255"),
        ("{{.spectro.pack.x}}", "is not letters and digits"),
    ],
)
def test_a_bad_reference_is_told_what_is_wrong(text: str, problem: str) -> None:
    with pytest.raises(InvalidReference) as raised:
        Reference.parse(text)

    assert problem in str(raised.value)


@given(st.text(max_size=300))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidReference:
        return
    assert Reference.parse(str(reference)) == reference


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("busybox", "docker.io/library/busybox"),
        ("registry.local:5000/app", "registry.local_5000/app"),
        ("Registry.Local/app", "registry.local/app"),
        ("[::1]:5000/app", "0000-0000-0000-0000-0000-0000-0000-0001_5000/app"),
    ],
)
def test_a_reference_has_a_path_that_any_registry_takes(text: str, path: str) -> None:
    assert Reference.parse(text).path == path
    assert Reference.parse(f"example.com/{path}").repository == path


def test_digests_name_content_strictly() -> None:
    assert Digest.of(b"hello") == Digest.parse(
        "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    )
    assert str(Digest.parse(SHA512)) == SHA512
    hasher = Digest.parse(SHA256).hasher()
    hasher.update(b"hello")
    assert Digest.of(b"hello").matches(hasher)
    assert not Digest.parse(SHA256).matches(hasher)


@given(st.text(max_size=200))
def test_any_text_is_a_digest_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidContent):
        assert str(Digest.parse(text)) == text


@pytest.mark.parametrize(
    ("offered", "wanted", "satisfied"),
    [
        ("linux/amd64", "amd64", True),
        ("linux/arm64", "linux/arm64/v8", True),
        ("linux/arm64/v8", "arm64", True),
        ("linux/arm/v6", "linux/arm", False),
        ("linux/arm/v7", "linux/arm", True),
        ("windows/amd64", "amd64", False),
    ],
)
def test_a_platform_without_a_variant_means_the_usual_one(offered: str, wanted: str, *, satisfied: bool) -> None:
    assert Platform.parse(offered).satisfies(Platform.parse(wanted)) is satisfied
