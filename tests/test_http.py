"""HTTP/1.1 as it comes over the wire: in any pieces, and from servers that do not keep to it."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.transport.http import AnswerParser, CutOff, Head, NotHTTP, request_head


def answer(content: bytes, cuts: list[int], method: str = "GET") -> tuple[Head, bytes, AnswerParser]:
    """What is read of ``content`` when it comes cut at ``cuts``."""
    places = sorted({cut % (len(content) + 1) for cut in cuts} | {0, len(content)})
    parser = AnswerParser(method)
    read = b""
    for start, end in pairwise(places):
        parser.feed(content[start:end])
        while parser.pieces:
            read += parser.take()
    assert parser.head is not None
    assert parser.held == 0
    return parser.head, read, parser


CUTS = st.lists(st.integers(min_value=0, max_value=400), max_size=12)


@given(CUTS)
def test_a_body_of_a_known_length_is_read_however_it_comes(cuts: list[int]) -> None:
    head, read, body = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b \r\n\r\nhello", cuts)

    assert (head.status, head.headers["x-a"], read) == (200, "b", b"hello")
    assert (body.is_done, body.has_overrun, head.keeps_connection) == (True, False, True)


@given(CUTS)
def test_chunks_are_put_together_however_they_come(cuts: list[int]) -> None:
    chunked = b"5\r\nhello\r\n6;name=value\r\n world\r\n0\r\nTrailer: x\r\n\r\n"
    head, read, body = answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked, cuts)

    assert (read, body.is_done, body.has_overrun, head.keeps_connection) == (b"hello world", True, False, True)


@given(CUTS)
def test_an_answer_before_the_answer_is_passed_over(cuts: list[int]) -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    head, read, _ = answer(early + b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", cuts)

    assert (head.status, read, "Link" in head.headers) == (404, b"no", False)


@given(CUTS)
def test_more_than_the_answer_has_is_none_of_it(cuts: list[int]) -> None:
    _, read, body = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n", cuts)

    assert read == b"ok"
    assert body.is_done


@pytest.mark.parametrize(
    ("method", "content"),
    [
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
    ],
)
@given(cuts=CUTS)
def test_a_connection_on_which_more_came_is_known_to_be_of_no_use(method: str, content: bytes, cuts: list[int]) -> None:
    _, read, body = answer(content, cuts, method)

    assert read == (b"ok" if method == "GET" and b"ok" in content else b"")
    assert (body.is_done, body.has_overrun) == (True, True)


def test_chunks_that_come_together_are_one_piece() -> None:
    parser = AnswerParser("GET")
    parser.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
    parser.feed(b"1\r\nb\r\n1\r\nc\r\n")

    assert list(parser.pieces) == [b"a", b"bc"]
    assert parser.held == 3


def test_a_body_without_a_length_ends_with_its_connection() -> None:
    head, read, body = answer(b"HTTP/1.1 200 OK\r\n\r\nall there is", [])
    assert (read, body.is_done, head.keeps_connection) == (b"all there is", False, False)
    body.end()
    assert body.is_done


@pytest.mark.parametrize(
    "cut_off",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ],
)
def test_a_body_that_ends_early_is_cut_off(cut_off: bytes) -> None:
    *_, body = answer(cut_off, [])
    with pytest.raises(CutOff):
        body.end()


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("CONNECT", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
    ],
)
def test_some_answers_have_no_body_whatever_their_head_says(method: str, head: bytes) -> None:
    found, read, body = answer(head, [], method)
    assert (read, body.is_done, found.keeps_connection) == (b"", True, True)


@pytest.mark.parametrize(
    ("head", "keeps"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Keep-Alive, Close\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", False),
        (b"HTTP/1.1 200\nContent-Length: 0\n\n", True),  # lines may end like this (RFC 9112 §2.2)
    ],
)
def test_a_connection_is_kept_where_both_ends_keep_it(head: bytes, keeps: bool) -> None:
    assert answer(head, [])[0].keeps_connection is keeps


def test_a_field_may_go_on_in_the_next_line() -> None:
    head, *_ = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Long: one\r\n  two\r\n\r\n", [])
    assert head.headers["X-Long"].split() == ["one", "two"]


@pytest.mark.parametrize(
    "content",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 99 Low\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nNo colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nName : value\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n goes on from nothing\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 100_000,
    ],
)
def test_what_is_no_answer_is_refused(content: bytes) -> None:
    with pytest.raises(NotHTTP):
        answer(content, [])


@given(st.binary(max_size=600), CUTS)
def test_nothing_that_comes_is_a_surprise(content: bytes, cuts: list[int]) -> None:
    for start in (b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"):
        with suppress(NotHTTP, AssertionError):  # an AssertionError: no whole head came
            answer(start + content, cuts)


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b"])
def test_no_header_breaks_out_of_its_line(value: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        request_head("GET", "/v2/", {"Authorization": value}, None)
    with pytest.raises(ValueError, match="line break"):
        request_head("GET", f"/v2/{value}", {}, None)


def test_a_request_says_how_long_its_body_is() -> None:
    assert (
        request_head("PUT", "/a?b=c", {"Host": "h"}, 3)
        == b"PUT /a?b=c HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n"
    )
    assert b"Content-Length: 0\r\n" in request_head("POST", "/", {}, None)
    assert b"Content-Length" not in request_head("GET", "/", {}, None)
