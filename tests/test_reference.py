"""References follow Docker's rules, and a bad one is told which part is wrong."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.errors import InvalidContent, InvalidPlatform, InvalidReference
from syncer.oci import Digest, Platform, Reference
from syncer.oci.reference import split_port

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
        ("Registry/app", "Registry/app:latest"),
        ("host:1/a", "host:1/a:latest"),
        ("host:65535/a", "host:65535/a:latest"),
        ("quay.io/" + "a" * 255, "quay.io/" + "a" * 255 + ":latest"),
        ("quay.io/a:" + "x" * 128, "quay.io/a:" + "x" * 128),
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
        ("a:" + "-" * 128, "may hold letters"),
        ("Busybox", "must be lower case"),
        ("quay.io/A/b", "must be lower case"),
        ("quay.io/a//b", "an empty part"),
        ("quay.io/a/-b", "'-b'"),
        ("quay.io/a/../b", "'..'"),
        ("quay.io/a b", "'a b'"),
        ("quay.io:port/a", "the port 'port'"),
        ("quay.io:99999/a", "the port '99999'"),
        ("quay.io:65536/a", "the port '65536'"),
        ("quay.io:0/a", "the port '0'"),
        ("quay.io:000080/a", "the port '000080'"),
        ("quay.io:/a", "the port ''"),
        ("[::1:1/a", "'[::1' is not a host name"),
        ("::1]/a", "'::1]' is not a host name"),
        ("docker.io/", "names no repository"),
        ("quay.io/:1", "names no repository"),
        ("-host.com/a", "'-host.com' is not a host name"),
        ("[::zz]:1/a", "not an IPv6 address"),
        ("[::1z]/a", "not an IPv6 address"),
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

    assert raised.value.text == text
    assert problem in raised.value.problem


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("user:secret@quay.io/a", "quay.io/a"),
        ("https://secret@quay.io", "quay.io"),
        ("user:secret@word@quay.io/a", "quay.io/a"),
        ("user:secret@word@quay.io", "quay.io"),
        (f"user:secret@quay.io/a@{SHA256}", "quay.io/a"),
        ("user:secret@quay.io/a@sha256:12", "quay.io/a"),
        ("user:secret@quay.io/a@md5:12", "quay.io/a"),
    ],
)
def test_a_login_in_a_reference_is_refused_and_not_shown(text: str, shown: str) -> None:
    with pytest.raises(InvalidReference, match="holds a login") as raised:
        Reference.parse(text)

    assert raised.value.text.endswith(f"@{shown}")
    assert "holds a login" in raised.value.problem
    assert "secret" not in str(raised.value)
    assert "word" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "name", "plain_http"),
    [
        ("http://10.0.0.1:5000/app", "10.0.0.1:5000/app:latest", True),
        ("HTTP://10.0.0.1:5000/app", "10.0.0.1:5000/app:latest", True),
        ("https://10.0.0.1:5000/app:1", "10.0.0.1:5000/app:1", False),
        ("HTTPS://quay.io/a/b", "quay.io/a/b:latest", False),
        ("docker://quay.io/a/b", "quay.io/a/b:latest", None),
        ("oci://quay.io/charts/a:1", "quay.io/charts/a:1", None),
        ("Docker://busybox", "docker.io/library/busybox:latest", None),
        ("quay.io/a/b:2", "quay.io/a/b:2", None),
        ("docker", "docker.io/library/docker:latest", None),
    ],
)
def test_a_reference_that_a_person_types_may_begin_with_a_protocol(
    text: str, name: str, *, plain_http: bool | None
) -> None:
    """It is no part of the name."""
    typed = Reference.parse_address(text)

    assert typed.plain_http is plain_http
    assert (typed, repr(typed)) == (Reference.parse(name), repr(Reference.parse(name)))


@pytest.mark.parametrize("text", ["ftp://quay.io/a", "oci:quay.io/a", "://quay.io/a", "http://http://quay.io/a"])
def test_another_protocol_before_a_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference):
        Reference.parse_address(text)


def test_a_long_wrong_reference_is_not_repeated_without_end() -> None:
    for text in (f"a:{'-' * 128}", f"{'x' * 300}:port/a", f"a/{'-' * 200}", f"[{'z' * 300}]/a", f"{'-' * 300}.com/a"):
        with pytest.raises(InvalidReference) as raised:
            Reference.parse(text)

        assert len(raised.value.args[0]) < len(text) + 200


def test_the_same_repository_at_another_tag_or_digest() -> None:
    reference = Reference.parse(f"quay.io/a/b:1@{SHA256}")

    assert str(reference.tagged("2")) == "quay.io/a/b:2"
    assert str(reference.at(Digest.parse(SHA512))) == f"quay.io/a/b@{SHA512}"
    assert reference.name == "quay.io/a/b"
    with pytest.raises(InvalidReference, match=r"quay\.io/a/b:-2.*the tag '-2' may hold letters"):
        reference.tagged("-2")


@pytest.mark.parametrize(
    ("registry", "host", "port"),
    [("quay.io", "quay.io", None), ("quay.io:1", "quay.io", "1"), ("[::1]:1", "[::1]", "1"), ("[::1]", "[::1]", None)],
)
def test_a_registry_is_a_host_and_perhaps_a_port(registry: str, host: str, port: str | None) -> None:
    assert split_port(registry) == (host, port)


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
    assert Digest.of(b"hello").short == "sha256:2cf24dba5fb0"


def test_a_digest_of_another_algorithm_is_another_digest() -> None:
    long = Digest.of(b"hello", "sha512")
    hasher = long.hasher()
    hasher.update(b"hello")

    assert long.matches(hasher)
    assert str(long).startswith("sha512:9b71d224bd62f378")
    assert not Digest("sha256", long.hex).matches(hasher)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "must start with"),
        ("sha256", "must start with"),
        ("sha384:" + "a" * 96, "must start with"),
        ("SHA256:" + "a" * 64, "must start with"),
        ("sha256:" + "a" * 63, "has 64 hexadecimal digits"),
        ("sha256:" + "a" * 65, "has 64 hexadecimal digits"),
        ("sha512:" + "a" * 64, "has 128 hexadecimal digits"),
        ("sha256:" + "g" * 64, "must be 0-9 and a-f"),
    ],
)
def test_what_is_no_digest_is_told_why(text: str, problem: str) -> None:
    with pytest.raises(InvalidContent, match=problem):
        Digest.parse(text)


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


@pytest.mark.parametrize(
    ("text", "spelt_out"),
    [
        ("amd64", Platform("linux", "amd64")),
        ("386", Platform("linux", "386")),
        ("linux/386", Platform("linux", "386")),
        ("windows/amd64", Platform("windows", "amd64")),
        ("linux/arm/v7", Platform("linux", "arm", "v7")),
        ("my-os/risc_v", Platform("my-os", "risc_v")),
    ],
)
def test_a_platform_is_an_architecture_or_more(text: str, spelt_out: Platform) -> None:
    assert Platform.parse(text) == spelt_out
    assert Platform.parse(str(spelt_out)) == spelt_out
    assert str(spelt_out).endswith(text)


@pytest.mark.parametrize("text", ["", "/", "linux/", "/amd64", "linux/arm/v7/x", "linux amd64", "linux/am.d64", "-"])
def test_what_is_no_platform_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(InvalidPlatform, match="is not a platform") as refused:
        Platform.parse(text)

    assert "linux/amd64" in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        ("linux", "'linux' is not an architecture", "it is a system: write it with its architecture, like linux/amd64"),
        ("5", "'5' is not an architecture", "known: amd64, arm64, "),
        ("amd46", "'amd46' is not an architecture", "any other is written with its system, linux/ARCHITECTURE"),
        ("x86_64", "'x86_64' is not an architecture", "images call it amd64"),
        ("linux/5", "'linux/5' is not a platform", "the system comes first, then the architecture"),
        ("amd64/linux", "'amd64/linux' is not a platform", "the system comes first, then the architecture"),
        ("5/amd64", "'5/amd64' is not a platform", "the system comes first, then the architecture"),
    ],
)
def test_a_word_that_is_no_platform_is_told_what_is_one(text: str, problem: str, hint: str) -> None:
    with pytest.raises(InvalidPlatform) as refused:
        Platform.parse(text)

    assert str(refused.value) == problem
    assert hint in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("document", "found"),
    [
        (None, None),
        ({}, None),
        ({"os": "linux"}, None),
        ({"architecture": "amd64"}, None),
        ({"os": 1, "architecture": "amd64"}, None),
        ({"os": "linux", "architecture": 1}, None),
        ({"os": "unknown", "architecture": "amd64"}, None),
        ({"os": "linux", "architecture": "unknown"}, None),
        ({"os": "linux", "architecture": "amd64"}, Platform("linux", "amd64")),
        ({"os": "linux", "architecture": "arm", "variant": "v7"}, Platform("linux", "arm", "v7")),
        ({"os": "linux", "architecture": "arm", "variant": ""}, Platform("linux", "arm")),
        ({"os": "linux", "architecture": "arm", "variant": 7}, Platform("linux", "arm")),
    ],
)
def test_the_platform_of_a_descriptor_is_read_or_there_is_none(document: object, found: Platform | None) -> None:
    assert Platform.from_json(document) == found


@pytest.mark.parametrize("document", ["linux/amd64", [], 1, False])
def test_the_platform_of_a_descriptor_is_an_object(document: object) -> None:
    with pytest.raises(InvalidContent, match="must be an object"):
        Platform.from_json(document)
