"""Where one server may send us, and how addresses and words of others are shown."""

from __future__ import annotations

import pytest
from yarl import URL

from syncer.errors import Unsafe
from syncer.transport.guard import Scope, authority, check_hop, origin, readable, upgraded, without_secrets

FROM_FAR_TO_NEAR = {
    "PUBLIC": "http://8.8.8.8/",
    "PRIVATE": "http://10.0.0.1/",
    "LOOPBACK": "http://127.0.0.1/",
    "NEVER": "http://169.254.169.254/",
}


@pytest.mark.parametrize(
    ("host", "scope"),
    [
        ("localhost", Scope.LOOPBACK),
        ("registry.localhost", Scope.LOOPBACK),
        ("localhost.example.com", None),
        ("notlocalhost", None),
        ("example.com", None),
        ("8.8.8.8", Scope.PUBLIC),
        ("127.1", Scope.LOOPBACK),
        ("0x7f000001", Scope.LOOPBACK),
        ("2852039166", Scope.NEVER),
        ("fe80::1%eth0", Scope.NEVER),
        ("::1", Scope.LOOPBACK),
        ("fd00::1", Scope.PRIVATE),
        ("224.0.0.1", Scope.NEVER),
        ("ff02::1", Scope.NEVER),
        ("0.0.0.0", Scope.NEVER),
        ("::", Scope.NEVER),
        ("2606:4700::1111", Scope.PUBLIC),
        ("::ffff:127.0.0.1", Scope.LOOPBACK),  # IPv4 in IPv6: mapped, 6to4, NAT64
        ("::ffff:8.8.8.8", Scope.PUBLIC),
        ("2002:7f00:1::", Scope.LOOPBACK),
        ("2002:a9fe:a9fe::", Scope.NEVER),
        ("64:ff9b::127.0.0.1", Scope.LOOPBACK),
        ("64:ff9b::169.254.169.254", Scope.NEVER),
        ("64:ff9b::8.8.8.8", Scope.PUBLIC),
        ("64:ff9b::0.0.0.1", Scope.PRIVATE),
        ("bücher.example", None),
        ("", None),
    ],
)
def test_a_host_that_is_an_address_has_its_scope_and_a_name_has_none(host: str, scope: Scope | None) -> None:
    assert Scope.of_host(host) is scope


@pytest.mark.parametrize("reach", FROM_FAR_TO_NEAR)
@pytest.mark.parametrize("near", FROM_FAR_TO_NEAR)
def test_a_server_may_send_us_to_addresses_as_near_as_its_own(near: str, reach: str) -> None:
    start, target = URL("http://registry.example.com/"), URL(FROM_FAR_TO_NEAR[near])
    order = list(FROM_FAR_TO_NEAR)
    if order.index(near) <= order.index(reach):
        check_hop(start, target, Scope[reach], "a redirect")
    else:
        with pytest.raises(Unsafe, match=r"a redirect from registry\.example\.com leads to http://[0-9.]+/, a "):
            check_hop(start, target, Scope[reach], "a redirect")


def test_a_server_may_send_us_from_encrypted_to_encrypted_and_from_plain_to_either() -> None:
    for start, target in (("https", "https"), ("http", "http"), ("http", "https")):
        check_hop(URL(f"{start}://example.com/"), URL(f"{target}://example.org/"), None, "a redirect")
    with pytest.raises(Unsafe, match="from an encrypted connection to one that is not"):
        check_hop(URL("https://example.com/"), URL("http://example.org/"), None, "a redirect")


def test_a_server_may_send_us_to_itself_and_to_names() -> None:
    """The address of a name is looked at where the connection is made."""
    check_hop(URL("http://127.0.0.1:5000/a"), URL("http://127.0.0.1:5000/b"), Scope.PUBLIC, "a redirect")
    check_hop(URL("http://8.8.8.8/"), URL("http://example.com/"), Scope.PUBLIC, "a redirect")
    check_hop(URL("http://8.8.8.8/"), URL("http://127.0.0.1/"), None, "a redirect")
    with pytest.raises(Unsafe, match="a loopback address"):
        check_hop(URL("http://127.0.0.1:5000/"), URL("http://127.0.0.1:5001/"), Scope.PUBLIC, "a redirect")
    with pytest.raises(Unsafe, match="a link-local address"):
        check_hop(URL("http://8.8.8.8/"), URL("http://169.254.169.254/"), Scope.PUBLIC, "a redirect")


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("ftp://example.com/", "which is no HTTP address"),
        ("/v2/", "leads to :///v2/, which is no HTTP address"),
        ("http:///nowhere", "which is no HTTP address"),
        ("http://user@example.com/", "which holds a user name or password"),
        ("http://:secret@example.com/", "which holds a user name or password"),
        ("https://user:secret@example.com/", "which holds a user name or password"),
    ],
)
def test_a_hop_to_what_no_server_has_a_reason_to_name_is_refused(target: str, problem: str) -> None:
    with pytest.raises(Unsafe, match=problem) as refused:
        check_hop(URL("http://registry.example.com/"), URL(target), None, "a redirect")

    assert "secret" not in str(refused.value)


def test_words_of_others_are_cut_where_they_are_too_long_and_not_before() -> None:
    assert readable("a" * 1024) == "a" * 1024
    assert readable("a" * 1025) == "a" * 1023 + "…"
    assert readable("  two\n\t words \x1b[31m ") == "two words [31m"
    assert readable("one\x1btwo") == "one two"
    assert readable("\n" * 4095 + "ab") == "a"


@pytest.mark.parametrize(
    ("url", "shown", "named"),
    [
        ("https://example.com/v2/?", "https://example.com/v2/", "example.com"),
        ("https://example.com/a%2Fb?x", "https://example.com/a%2Fb?…", "example.com"),
        ("https://example.com:443/", "https://example.com:443/", "example.com"),
        ("http://example.com:80/", "http://example.com:80/", "example.com"),
        ("http://example.com:443/", "http://example.com:443/", "example.com:443"),
        ("http://[::1]/", "http://[::1]/", "[::1]"),
        ("http://user:secret@[::1]:5000/", "http://[::1]:5000/", "[::1]:5000"),
    ],
)
def test_an_address_is_shown_and_named_as_a_person_writes_it(url: str, shown: str, named: str) -> None:
    assert without_secrets(URL(url)) == shown
    assert authority(URL(url)) == named


def test_an_origin_is_scheme_host_and_port() -> None:
    assert origin(URL("https://example.com/a")) == origin(URL("https://example.com:443/b"))
    assert origin(URL("http://example.com/")) == ("http", "example.com", 80)
    assert origin(URL("http://example.com:81/")) != origin(URL("http://example.com/"))
    assert origin(URL("https://example.com/")) != origin(URL("http://example.com:443/"))


@pytest.mark.parametrize(
    ("start", "target", "followed"),
    [
        ("https://example.com/v2/", "http://example.com/a%2Fb?c=d%2F", "https://example.com/a%2Fb?c=d%2F"),
        ("https://example.com/v2/", "http://example.com:80/a", "https://example.com/a"),
        ("https://example.com/v2/", "http://example.com:443/a", "https://example.com/a"),
        ("https://example.com:5000/", "http://example.com:5000/a", "https://example.com:5000/a"),
        ("https://example.com:5000/", "http://example.com/a", "https://example.com:5000/a"),
        ("https://example.com/v2/", "http://example.com?a=b", "https://example.com/?a=b"),
        ("https://example.com/v2/", "http://example.com:81/a", "http://example.com:81/a"),
        ("https://example.com/v2/", "http://example.com:79/a", "http://example.com:79/a"),
        ("https://example.com/v2/", "http://example.org/a", "http://example.org/a"),
        ("https://example.com/v2/", "https://example.com:5000/a", "https://example.com:5000/a"),
        ("http://example.com/v2/", "http://example.com/a", "http://example.com/a"),
        ("http://example.com:5000/", "http://example.com/a", "http://example.com/a"),
    ],
)
def test_an_encrypted_host_that_names_itself_with_http_is_meant_by_https(
    start: str, target: str, followed: str
) -> None:
    """It lies behind a TLS proxy; another port but http's own is another server."""
    assert str(upgraded(URL(start), URL(target, encoded=True))) == followed
