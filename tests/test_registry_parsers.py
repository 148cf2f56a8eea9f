"""Whatever a registry writes into a header or a body is read, or passed over, and never believed too much."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from syncer.errors import ChildrenUnknown, Denied, NotFound, RegistryError, UsageError
from syncer.registry import RegistryAddress
from syncer.registry.answers import least_chunk, next_link, problems_of, refusal, uploaded, with_parameters
from syncer.registry.registries import api_url
from syncer.transport import Answer
from syncer.transport.guard import Scope, origin
from syncer.transport.message import ContentRange, content_range, resolved

_HEADER = st.text(max_size=120)


def answered(content: bytes, status: int = 400, media_type: str = "application/json") -> Answer:
    return Answer(
        asked="PUT https://example.com/v2/app/manifests/v1",
        url=URL("https://example.com/v2/app/manifests/v1"),
        status=status,
        headers=CIMultiDictProxy(CIMultiDict({"Content-Type": media_type})),
        content=content,
        is_whole=True,
        scope=Scope.PUBLIC,
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("bytes 0-4/5", ContentRange(0, 4, 5)),
        ("bytes 10-19/*", ContentRange(10, 19, None)),
        (" BYTES  1-1/2 ", ContentRange(1, 1, 2)),
        ("bytes 5-4/10", None),
        ("bytes 0-5/5", None),
        ("bytes */5", None),
        ("bytes 0-4", None),
        ("0-4/5", None),
        ("bytes -1-4/5", None),
        ("bytes 0-99999999999999999999/*", None),
        ("items 0-4/5", None),
        ("", None),
        (None, None),
    ],
)
def test_content_range_is_what_the_rfc_says(text: str | None, found: ContentRange | None) -> None:
    assert content_range(text) == found


@given(st.one_of(_HEADER, st.from_regex(r"bytes [0-9]{1,25}-[0-9]{1,25}/([0-9]{1,25}|\*)", fullmatch=True)))
def test_any_content_range_makes_sense_or_is_none(text: str) -> None:
    found = content_range(text)

    assert found is None or (0 <= found.first <= found.last and (found.total is None or found.last < found.total))


@given(st.integers(0, 2**62), st.integers(0, 2**62))
def test_a_content_range_is_read_back(first: int, length: int) -> None:
    last = first + length

    assert content_range(f"bytes {first}-{last}/{last + 1}") == ContentRange(first, last, last + 1)


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("0-99", 100),
        ("bytes=0-99", 100),
        ("bytes 0-99", 100),
        ("Bytes=0-99", 100),
        ("0--1", 0),
        ("bytes=0--1", 0),
        ("0-0", 0),
        ("5-99", 0),
        ("0-", 0),
        ("", 0),
        (None, 0),
        ("0-99,200-300", 0),
        ("0-٣", 0),
    ],
)
def test_the_range_of_an_upload_is_read_in_all_its_forms(text: str | None, offset: int) -> None:
    """§3 row 18."""
    assert uploaded(text) == offset


@given(_HEADER)
def test_any_range_of_an_upload_is_a_number(text: str) -> None:
    assert uploaded(text) >= 0


@given(st.integers(1, 2**60), st.sampled_from(["{}", "bytes={}", "bytes {}"]))
def test_the_range_of_an_upload_is_read_back(last: int, form: str) -> None:
    assert uploaded(form.format(f"0-{last}")) == last + 1


@pytest.mark.parametrize(
    ("text", "least"),
    [("5242880", 5242880), ("0", 0), ("-1", 0), ("1e9", 0), ("9" * 13, 0), (str(1 << 30), 0), ("x", 0), (None, 0)],
)
def test_a_least_chunk_is_a_sane_number_of_bytes(text: str | None, least: int) -> None:
    """§4.2."""
    assert least_chunk(text) == least


@pytest.mark.parametrize(
    ("values", "target"),
    [
        (['</v2/app/tags/list?n=10&last=x>; rel="next"'], "/v2/app/tags/list?n=10&last=x"),
        (["<https://example.com/a,b>; rel=next"], "https://example.com/a,b"),
        (['<a>; rel="prev", <b>; title="x"; REL="start next"'], "b"),
        (['<a>; rel="prev"', '<b>; rel="next"'], "b"),
        (['<a>; rel="nextone"'], None),
        (["a; rel=next"], None),
        (["<a"], None),
        ([], None),
    ],
)
def test_the_next_page_is_the_link_that_says_so(values: list[str], target: str | None) -> None:
    assert next_link(values) == target


@given(st.lists(_HEADER, max_size=4))
def test_any_link_is_read_or_passed_over(values: list[str]) -> None:
    found = next_link(values)

    assert found is None or not set("<>") & set(found)


@given(st.text(max_size=200))
def test_any_location_is_an_address_or_refused(location: str) -> None:
    """§3 row 19."""
    try:
        found = resolved(URL("https://example.com/v2/app/blobs/uploads/"), location)
    except ValueError:
        return
    assert found.host
    assert found.absolute


_QUERY = st.text("abcXYZ019-._~%=&+/?:@!$'()*,;", max_size=40).filter(lambda text: "%" not in text)


@given(_QUERY)
def test_the_query_of_a_location_stays_as_it_is(query: str) -> None:
    """§1.7: it may be signed."""
    found = resolved(URL("https://example.com/v2/"), f"/upload?{query}") if query else None

    if found is not None:
        assert str(found).endswith(f"?{query}")
        more = with_parameters(found, ("digest", "sha256:ab"))
        assert str(more).endswith(f"?{query}&digest=sha256%3Aab")


@pytest.mark.parametrize(
    ("location", "found"),
    [
        ("/x?_state=a%3Db%2Fc", "https://example.com/x?_state=a%3Db%2Fc"),
        ("//other.example.com/x", "https://other.example.com/x"),
        ("http://other.example.com:80/x", "http://other.example.com:80/x"),
        ("uuid?x=y", "https://example.com/v2/app/blobs/uploads/uuid?x=y"),
        ("?x=y", "https://example.com/v2/app/blobs/uploads/?x=y"),
        ("../x", "https://example.com/v2/app/blobs/x"),
    ],
)
def test_a_location_is_resolved_as_the_rfc_says(location: str, found: str) -> None:
    """§3 row 19: RFC 3986 §5."""
    base = URL("https://example.com/v2/app/blobs/uploads/")

    assert origin(resolved(base, location)) == origin(URL(found))
    assert resolved(base, location).raw_path_qs == URL(found, encoded=True).raw_path_qs


@pytest.mark.parametrize(
    ("text", "host", "base", "plain_http"),
    [
        ("registry.example.com", "registry.example.com", "", None),
        ("registry.example.com:5000/images/", "registry.example.com:5000", "images", None),
        ("http://10.0.0.1:8000/spectro-images", "10.0.0.1:8000", "spectro-images", True),
        ("HTTPS://Registry.Example.com/a/b", "registry.example.com", "a/b", False),
        ("localhost:5000", "localhost:5000", "", None),
        ("[::1]:5000/x", "[::1]:5000", "x", None),
        ("docker.io/me", "docker.io", "me", None),
        ("https://index.docker.io/me", "docker.io", "me", False),
        ("http://registry/x", "registry:80", "x", True),
    ],
)
def test_a_registry_is_written_as_people_write_it(text: str, host: str, base: str, plain_http: bool | None) -> None:
    assert RegistryAddress.parse(text) == RegistryAddress(host, base, plain_http)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://",
        "ftp://example.com",
        "alice:canary@example.com",
        "https://alice:canary@example.com/x",
        "registry",
        "example.com/UPPER",
        "example.com/a//b",
        "example.com:99999",
        "example.com/a:tag",
        "example.com/a@sha256:1",
        "example.com/../etc",
        "exa mple.com",
        "example.com/x?y",
    ],
)
def test_what_is_no_registry_is_a_wrong_command(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        RegistryAddress.parse(text)

    assert "canary" not in str(caught.value)


@given(st.text(max_size=80))
def test_any_text_is_a_registry_or_a_wrong_command(text: str) -> None:
    try:
        address = RegistryAddress.parse(text)
    except UsageError:
        return
    assert api_url(address.host, plain_http=address.plain_http).host


@pytest.mark.parametrize(
    ("host", "plain_http", "url"),
    [
        ("docker.io", None, "https://registry-1.docker.io/v2/"),
        ("localhost:5000", None, "http://localhost:5000/v2/"),
        ("127.0.0.1", None, "http://127.0.0.1/v2/"),
        ("[::1]:5000", None, "http://[::1]:5000/v2/"),
        ("127.0.0.1:5000", False, "https://127.0.0.1:5000/v2/"),
        ("example.com", True, "http://example.com/v2/"),
        ("10.0.0.1", None, "https://10.0.0.1/v2/"),
    ],
)
def test_loopback_means_plain_http_unless_told(host: str, plain_http: bool | None, url: str) -> None:
    assert str(api_url(host, plain_http=plain_http)) == url


@pytest.mark.parametrize(
    ("status", "kind"), [(400, RegistryError), (401, Denied), (403, Denied), (404, NotFound), (500, RegistryError)]
)
def test_a_refusal_keeps_the_registrys_words(status: int, kind: type[RegistryError]) -> None:
    body = {"errors": [{"code": "NAME_INVALID", "message": "invalid\x1b[31m name", "detail": {"reason": "too long"}}]}

    error = refusal(answered(json.dumps(body).encode(), status), hint="shorten it")

    assert type(error) is kind
    assert str(error) == (
        f"PUT https://example.com/v2/app/manifests/v1: {status} NAME_INVALID: invalid [31m name (too long)"
    )
    assert (error.codes, error.hint) == (("NAME_INVALID",), "shorten it")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'{"errors": 5}',
        b'{"errors": [1, null, {}, {"code": [], "message": {}, "detail": 1}]}',
        b'{"errors": [{"message": "' + b"x" * 5000 + b'"}]}',
        b"\xff\xfe",
        b"[" * 60_000,
    ],
)
def test_an_answer_that_is_no_list_of_errors_is_a_refusal_all_the_same(body: bytes) -> None:
    assert len(str(refusal(answered(body, 418)))) < 2000


def test_a_web_page_is_not_shown() -> None:
    assert str(refusal(answered(b"<html>no</html>", 502, "text/html; charset=utf-8"))).endswith("502 Bad Gateway")


@given(st.binary(max_size=300))
def test_any_body_is_read_or_passed_over(body: bytes) -> None:
    for problem in problems_of(answered(body)):
        assert problem.code.isprintable()


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=20)),
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
        max_leaves=10,
    )
)
def test_any_detail_is_read(detail: object) -> None:
    body = json.dumps({"errors": [{"code": "X", "message": "m", "detail": detail}]}).encode()

    (problem,) = problems_of(answered(body))
    assert problem.message.isprintable()


def test_the_digests_that_a_registry_misses_are_read_from_any_detail() -> None:
    """§3 row 38: distribution writes them as text or in an object."""
    one, two = "sha256:" + "1" * 64, "sha512:" + "2" * 128
    body = {"errors": [{"code": "X", "detail": one}, {"code": "X", "detail": {"Digest": two, "again": [one]}}]}

    digests = [digest for problem in problems_of(answered(json.dumps(body).encode())) for digest in problem.digests]

    assert digests == [one, two, one]
    assert ChildrenUnknown("PUT x", 400, [], digests).digests == (one, two, one)
