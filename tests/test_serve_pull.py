"""The pulling half of the distribution spec, as its conformance suite asks for it.

Run against Debian's registry, syncer's own in a directory, and a bundle served off its file.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

import pytest

from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.images import OCI_INDEX, digest_of
from tests.support.registries import Registry
from tests.test_serve_bundled import Opened, served

REPOSITORY = "localhost_1/team/app"
BIG = images.layer("big", 10_000)
IMAGE = images.image("a", layers=[BIG, images.layer("top")])
INDEX = images.index(images.multi_platform("b", attested=True), images.image("c", docker=True))
SIZE = len(BIG.content)
BIG_PATH = f"/v2/{REPOSITORY}/blobs/{digest_of(BIG.content)}"
TAGGED = {"v1": IMAGE, "v2": INDEX, "v10": INDEX, "A": IMAGE}

OpenFilled: TypeAlias = Callable[[], AbstractAsyncContextManager[Registry]]


@pytest.fixture
def open_filled(debian_registry: OpenRegistry, serve_disk: OpenRegistry) -> Callable[[str], OpenFilled]:
    """A registry of each kind that has ``TAGGED`` in ``REPOSITORY``."""

    def filled(kind: str) -> OpenFilled:
        @asynccontextmanager
        async def open_it() -> AsyncIterator[Registry]:
            if kind == "bundle":
                bundle = Opened.of({f"localhost:1/team/app:{tag}": made for tag, made in TAGGED.items()})
                async with served(bundle) as registry:
                    yield registry
                return
            async with (debian_registry if kind == "debian" else serve_disk)() as registry:
                for tag, made in TAGGED.items():
                    await client.push(registry, REPOSITORY, made, tag)
                yield registry

        return open_it

    return filled


@pytest.fixture(params=["debian", "disk", "bundle"])
def filled(request: pytest.FixtureRequest, open_filled: Callable[[str], OpenFilled]) -> OpenFilled:
    return open_filled(request.param)


@pytest.fixture(params=["disk", "bundle"])
def ours(request: pytest.FixtureRequest, open_filled: Callable[[str], OpenFilled]) -> OpenFilled:
    """For what distribution 2.8 does not do: the referrers API, pages of tags, one form of error."""
    return open_filled(request.param)


async def test_the_base_endpoint_answers(filled: OpenFilled) -> None:
    async with filled() as registry:
        answer = await client.ask(registry, "GET", "/v2/")

        assert answer.status == 200
        assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"


async def test_a_manifest_is_served_by_tag_and_digest(filled: OpenFilled) -> None:
    async with filled() as registry:
        for method in ("GET", "HEAD"):
            for reference, made in (("v1", IMAGE), (IMAGE.digest, IMAGE), ("v2", INDEX), (INDEX.digest, INDEX)):
                path = f"/v2/{REPOSITORY}/manifests/{reference}"
                answer = await client.ask(registry, method, path, headers={"Accept": client.ACCEPT})

                assert answer.status == 200
                assert answer.content == (made.content if method == "GET" else b"")
                assert answer.headers["Content-Type"] == made.media_type
                assert answer.headers["Content-Length"] == str(len(made.content))
                assert answer.headers["Docker-Content-Digest"] == made.digest


async def test_a_blob_is_served(filled: OpenFilled) -> None:
    async with filled() as registry:
        for method in ("GET", "HEAD"):
            answer = await client.ask(registry, method, BIG_PATH)

            assert answer.status == 200
            assert answer.content == (BIG.content if method == "GET" else b"")
            assert answer.headers["Content-Length"] == str(SIZE)
            assert answer.headers["Docker-Content-Digest"] == digest_of(BIG.content)


async def test_what_is_not_there_is_not_found(filled: OpenFilled) -> None:
    async with filled() as registry:
        for path in (
            f"{REPOSITORY}/manifests/none",
            f"{REPOSITORY}/manifests/.INVALID_MANIFEST_NAME",
            f"{REPOSITORY}/manifests/sha256:{'0' * 64}",
            f"{REPOSITORY}/blobs/sha256:{'0' * 64}",
            f"nobody/nothing/manifests/{IMAGE.digest}",
            f"nobody/nothing/blobs/{digest_of(BIG.content)}",
        ):
            for method in ("GET", "HEAD"):
                assert (await client.ask(registry, method, f"/v2/{path}")).status == 404, (method, path)
        assert (await client.ask(registry, "GET", "/v2/nobody/nothing/tags/list")).status == 404


async def test_a_malformed_digest_is_the_clients_fault(ours: OpenFilled) -> None:
    async with ours() as registry:
        for kind in ("manifests", "blobs"):
            answer = await client.ask(registry, "GET", f"/v2/{REPOSITORY}/{kind}/sha256:baddigeststring")

            assert answer.status == 400


async def test_debians_registry_blames_itself_for_a_malformed_digest(
    open_filled: Callable[[str], OpenFilled],
) -> None:
    """A client must not take every 500 for a reason to try again."""
    async with open_filled("debian")() as registry:
        answer = await client.ask(registry, "GET", f"/v2/{REPOSITORY}/manifests/sha256:baddigeststring")

        assert answer.status == 500


async def test_one_range_of_a_blob_is_served(filled: OpenFilled) -> None:
    async with filled() as registry:
        for asked, first, last in (
            ("bytes=0-0", 0, 0),
            ("bytes=500-1499", 500, 1499),
            ("bytes=500-", 500, SIZE - 1),
            ("bytes=-500", SIZE - 500, SIZE - 1),
            (f"bytes={SIZE - 1}-", SIZE - 1, SIZE - 1),
            (f"bytes=500-{SIZE + 1000}", 500, SIZE - 1),
            (f"bytes=-{SIZE + 1000}", 0, SIZE - 1),
        ):
            answer = await client.ask(registry, "GET", BIG_PATH, headers={"Range": asked})

            assert answer.status == 206, asked
            assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{SIZE}"
            assert answer.headers["Content-Length"] == str(last - first + 1)
            assert answer.content == BIG.content[first : last + 1]


async def test_a_range_outside_a_blob_is_refused(ours: OpenFilled) -> None:
    async with ours() as registry:
        for asked in ("bytes=500-0", f"bytes={SIZE}-", f"bytes={SIZE}-{SIZE + 10}", "bytes=-0"):
            answer = await client.ask(registry, "GET", BIG_PATH, headers={"Range": asked})

            assert answer.status == 416, asked
            assert answer.headers["Content-Range"] == f"bytes */{SIZE}"


async def test_a_range_that_is_not_supported_is_ignored(ours: OpenFilled) -> None:
    async with ours() as registry:
        for asked in ("bytes=0-1,5-6", "items=0-5", "bytes=", "bytes=-", "bytes=a-b", f"bytes=0-{'9' * 50}"):
            answer = await client.ask(registry, "GET", BIG_PATH, headers={"Range": asked})

            assert answer.status == 200, asked
            assert answer.content == BIG.content


async def test_content_that_a_client_has_is_not_sent_again(filled: OpenFilled) -> None:
    async with filled() as registry:
        for path, digest in ((f"/v2/{REPOSITORY}/manifests/v1", IMAGE.digest), (BIG_PATH, digest_of(BIG.content))):
            known = {"If-None-Match": f'"{digest}"', "Accept": client.ACCEPT}
            answer = await client.ask(registry, "GET", path, headers=known)

            assert answer.status == 304
            assert answer.content == b""


async def test_a_range_is_of_the_content_that_the_client_has_a_part_of(ours: OpenFilled) -> None:
    """RFC 9110, If-Range: with any other tag, and with a date, since no content has one, all of it is sent."""
    tag = f'"{digest_of(BIG.content)}"'

    async with ours() as registry:
        for condition, asked, status in (
            (tag, "bytes=500-1499", 206),
            (tag, f"bytes={SIZE}-", 416),
            ('"other"', "bytes=500-1499", 200),
            (f"W/{tag}", "bytes=500-1499", 200),
            (tag.strip('"'), "bytes=500-1499", 200),
            ("*", "bytes=500-1499", 200),
            ("Wed, 21 Oct 2015 07:28:00 GMT", "bytes=500-1499", 200),
            ("Wed, 21 Oct 2115 07:28:00 GMT", "bytes=500-1499", 200),
            ('"other"', f"bytes={SIZE}-", 200),
        ):
            answer = await client.ask(registry, "GET", BIG_PATH, headers={"Range": asked, "If-Range": condition})

            assert answer.status == status, condition
            assert answer.headers["ETag"] == tag if status < 400 else True
            if status == 200:
                assert answer.content == BIG.content
                assert "Content-Range" not in answer.headers
            if status == 206:
                assert answer.content == BIG.content[500:1500]


async def test_conditions_are_judged_by_the_tag_of_the_content(ours: OpenFilled) -> None:
    """RFC 9110, 13.2.2: If-Match first, then If-None-Match; dates count nothing, since no content has one."""
    async with ours() as registry:
        for path, digest in ((f"/v2/{REPOSITORY}/manifests/v1", IMAGE.digest), (BIG_PATH, digest_of(BIG.content))):
            tag, past = f'"{digest}"', "Wed, 21 Oct 2015 07:28:00 GMT"
            for headers, status in (
                ({"If-None-Match": tag}, 304),
                ({"If-None-Match": f'"other", W/{tag}'}, 304),
                ({"If-None-Match": "*"}, 304),
                ({"If-None-Match": '"other"'}, 200),
                ({"If-Match": tag}, 200),
                ({"If-Match": f'"other", {tag}'}, 200),
                ({"If-Match": "*"}, 200),
                ({"If-Match": f"W/{tag}"}, 412),
                ({"If-Match": '"other"'}, 412),
                ({"If-Match": '"other"', "If-None-Match": tag}, 412),
                ({"If-Modified-Since": "Wed, 21 Oct 2115 07:28:00 GMT"}, 200),
                ({"If-Unmodified-Since": past}, 200),
            ):
                for method in ("GET", "HEAD"):
                    answer = await client.ask(registry, method, path, headers=headers)
                    assert answer.status == status, (method, headers)
                    assert answer.headers.get("ETag", tag) == tag
                    assert "Last-Modified" not in answer.headers
                    if status == 304:
                        assert answer.headers["ETag"] == tag
                        assert answer.headers.get("Content-Length", "0") != "0" or not answer.content


async def test_all_tags_are_listed(filled: OpenFilled) -> None:
    async with filled() as registry:
        assert await client.tags(registry, REPOSITORY) == ["A", "v1", "v10", "v2"]


async def test_tags_come_in_pages(ours: OpenFilled) -> None:
    path = f"/v2/{REPOSITORY}/tags/list"

    async with ours() as registry:
        for query, tags, link in (
            ("", ["A", "v1", "v10", "v2"], None),
            ("?n=2", ["A", "v1"], f'<{path}?n=2&last=v1>; rel="next"'),
            ("?n=2&last=v1", ["v10", "v2"], None),
            ("?last=v10", ["v2"], None),
            ("?last=zzz", [], None),
            ("?n=0", [], None),
            ("?n=4", ["A", "v1", "v10", "v2"], None),
        ):
            answer = await client.ask(registry, "GET", path + query)

            assert client.parsed(answer) == {"name": REPOSITORY, "tags": tags}
            assert answer.headers.get("Link") == link, query


async def test_a_page_of_no_number_is_refused(ours: OpenFilled) -> None:
    async with ours() as registry:
        for n in ("-1", "x", "1.5", "", "%D9%A3"):
            answer = await client.ask(registry, "GET", f"/v2/{REPOSITORY}/tags/list?n={n}")

            assert answer.status == 400, n


async def test_an_unknown_digest_has_no_referrers(ours: OpenFilled) -> None:
    async with ours() as registry:
        answer = await client.ask(registry, "GET", f"/v2/{REPOSITORY}/referrers/sha256:{'0' * 64}")

        assert answer.status == 200
        assert answer.headers["Content-Type"] == OCI_INDEX
        assert client.parsed(answer) == {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}


async def test_errors_have_the_specs_form(ours: OpenFilled) -> None:
    async with ours() as registry:
        for path, status, code in (
            (f"/v2/{REPOSITORY}/manifests/none", 404, "MANIFEST_UNKNOWN"),
            ("/v2/nobody/manifests/none", 404, "NAME_UNKNOWN"),
            ("/v2/nobody/tags/list", 404, "NAME_UNKNOWN"),
            (f"/v2/{REPOSITORY}/blobs/sha256:{'0' * 64}", 404, "BLOB_UNKNOWN"),
            (f"/v2/{REPOSITORY}/blobs/sha256:bad", 400, "DIGEST_INVALID"),
            ("/v2/Upper/tags/list", 400, "NAME_INVALID"),
            ("/v2/nothing", 404, "UNSUPPORTED"),
            ("/", 404, "UNSUPPORTED"),
        ):
            answer = await client.ask(registry, "GET", path)

            assert answer.status == status
            assert answer.headers["Content-Type"] == "application/json"
            assert [error["code"] for error in client.parsed(answer)["errors"]] == [code], path
