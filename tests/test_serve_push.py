"""The pushing half of the distribution spec, as its conformance suite asks for it.

Where Debian's registry (distribution 2.8) differs, a test says how: clients must live with both.
"""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketStream

from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.client import Answer
from tests.support.images import Image, digest_of, noise
from tests.support.programs import run
from tests.support.registries import LOGIN, Registry

BLOB = noise("blob", 100_000)
DIGEST = digest_of(BLOB)


async def begin(registry: Registry, repository: str = "app") -> str:
    """The location of a new upload session."""
    answer = await client.ask(registry, "POST", f"/v2/{repository}/blobs/uploads/")
    assert answer.status == 202, answer
    return answer.headers["Location"]


async def patch(registry: Registry, location: str, chunk: bytes, start: int | None = None) -> Answer:
    """Send a chunk, which starts at byte ``start`` if it says so."""
    headers = {"Content-Type": "application/octet-stream"}
    if start is not None:
        headers["Content-Range"] = f"{start}-{start + len(chunk) - 1}"
    return await client.ask(registry, "PATCH", location, headers=headers, data=chunk)


async def commit(registry: Registry, location: str, chunk: bytes = b"", digest: str = DIGEST) -> Answer:
    """Send the last bytes."""
    mark = "&" if "?" in location else "?"
    headers = {"Content-Type": "application/octet-stream"}
    return await client.ask(registry, "PUT", f"{location}{mark}digest={digest}", headers=headers, data=chunk)


async def kept(registry: Registry, digest: str = DIGEST, repository: str = "app") -> bytes | None:
    """The blob, if the registry has it."""
    answer = await client.blob(registry, repository, digest)
    assert answer.status in (200, 404)
    return answer.content if answer else None


async def test_a_blob_in_one_put(any_registry: OpenRegistry) -> None:
    async with any_registry() as registry:
        stored = await commit(registry, await begin(registry), BLOB)

        assert stored.status == 201
        assert stored.headers["Docker-Content-Digest"] == DIGEST
        assert stored.headers["Location"].endswith(f"/v2/app/blobs/{DIGEST}")
        assert await kept(registry) == BLOB


async def test_a_blob_in_one_post(serve_disk: OpenRegistry) -> None:
    async with serve_disk() as registry:
        stored = await client.ask(registry, "POST", f"/v2/app/blobs/uploads/?digest={DIGEST}", data=BLOB)

        assert stored.status == 201
        assert await kept(registry) == BLOB


async def test_debians_registry_answers_one_post_with_a_session(debian_registry: OpenRegistry) -> None:
    """distribution 2.8 takes no blob by POST; a client must go on with PUT."""
    async with debian_registry() as registry:
        answer = await client.ask(registry, "POST", f"/v2/app/blobs/uploads/?digest={DIGEST}", data=BLOB)

        assert answer.status == 202
        assert (await commit(registry, answer.headers["Location"], BLOB)).status == 201


async def test_a_blob_as_a_stream(any_registry: OpenRegistry) -> None:
    async with any_registry() as registry:
        answer = await patch(registry, await begin(registry), BLOB)

        assert answer.status == 202
        assert answer.headers["Range"] == f"0-{len(BLOB) - 1}"
        assert (await commit(registry, answer.headers["Location"])).status == 201
        assert await kept(registry) == BLOB


@pytest.mark.parametrize("last_in_put", [False, True])
async def test_a_blob_in_chunks(any_registry: OpenRegistry, last_in_put: bool) -> None:
    async with any_registry() as registry:
        location = await begin(registry)
        for start in (0, 40_000):
            answer = await patch(registry, location, BLOB[start : start + 40_000], start)
            assert answer.status == 202
            assert answer.headers["Range"] == f"0-{start + 39_999}"
            location = answer.headers["Location"]
        if not last_in_put:
            location = (await patch(registry, location, BLOB[80_000:], 80_000)).headers["Location"]
        assert (await commit(registry, location, BLOB[80_000:] if last_in_put else b"")).status == 201

        assert await kept(registry) == BLOB


async def test_a_chunk_out_of_order_is_refused_and_the_session_goes_on(serve_disk: OpenRegistry) -> None:
    async with serve_disk() as registry:
        location = await begin(registry)
        await patch(registry, location, BLOB[:100], 0)
        for start in (0, 99, 101, 5000):
            refused = await patch(registry, location, BLOB[start : start + 100], start)
            assert refused.status == 416
            assert refused.headers["Range"] == "0-99"
            assert refused.headers["Location"] == location
        status = await client.ask(registry, "GET", location)

        assert status.status == 204
        assert status.headers["Range"] == "0-99"
        assert (await patch(registry, location, BLOB[100:], 100)).status == 202
        assert (await commit(registry, location)).status == 201
        assert await kept(registry) == BLOB


async def test_debians_registry_appends_a_chunk_wherever_it_says_it_belongs(debian_registry: OpenRegistry) -> None:
    """Fact 2 of registries.md: no 416 is a safety net; only the commit finds out."""
    async with debian_registry() as registry:
        location = (await patch(registry, await begin(registry), BLOB[:100], 0)).headers["Location"]

        misplaced = await patch(registry, location, BLOB[5000:], 5000)
        assert misplaced.status == 202
        assert (await commit(registry, misplaced.headers["Location"])).status == 400


@pytest.mark.parametrize(
    ("content_range", "status"), [("bytes 0-99/100", 400), ("0-", 400), ("x", 400), ("0-98", 400), ("99-0", 416)]
)
async def test_a_wrong_content_range_is_refused(serve_disk: OpenRegistry, content_range: str, status: int) -> None:
    async with serve_disk() as registry:
        location = await begin(registry)
        headers = {"Content-Range": content_range}
        refused = await client.ask(registry, "PATCH", location, headers=headers, data=BLOB[:100])

        assert refused.status == status
        assert (await client.ask(registry, "GET", location)).headers["Range"] == "0-0"


async def test_an_upload_can_be_cancelled(any_registry: OpenRegistry) -> None:
    async with any_registry() as registry:
        location = await begin(registry)
        location = (await patch(registry, location, BLOB[:100])).headers["Location"]

        assert (await client.ask(registry, "DELETE", location)).status == 204
        assert (await client.ask(registry, "GET", location)).status == 404
        assert (await commit(registry, location, BLOB)).status == 404


async def test_a_blob_with_a_wrong_digest_is_refused(any_registry: OpenRegistry) -> None:
    async with any_registry() as registry:
        refused = await commit(registry, await begin(registry), BLOB + b"!")

        assert refused.status == 400
        assert client.parsed(refused)["errors"][0]["code"] == "DIGEST_INVALID"
        assert await kept(registry) is None


@pytest.mark.parametrize(
    "query", ["", "?digest=", "?digest=sha256:bad", "?digest=md5:d41d8cd98f00b204e9800998ecf8427e"]
)
async def test_a_commit_needs_a_digest(any_registry: OpenRegistry, query: str) -> None:
    async with any_registry() as registry:
        location = await begin(registry)
        mark = query.replace("?", "&") if "?" in location else query

        assert (await client.ask(registry, "PUT", location + mark, data=BLOB)).status == 400


async def test_the_empty_blob_is_a_blob(any_registry: OpenRegistry) -> None:
    empty = digest_of(b"")

    async with any_registry() as registry:
        assert (await commit(registry, await begin(registry), b"", empty)).status == 201
        assert await kept(registry, empty) == b""


async def test_a_blob_may_be_named_by_sha512(any_registry: OpenRegistry) -> None:
    digest = digest_of(BLOB, "sha512")

    async with any_registry() as registry:
        location = (await patch(registry, await begin(registry), BLOB[:1000])).headers["Location"]
        assert (await commit(registry, location, BLOB[1000:], digest)).status == 201
        assert await kept(registry, digest) == BLOB


async def test_a_blob_is_mounted_from_another_repository(any_registry: OpenRegistry) -> None:
    async with any_registry() as registry:
        await client.push_blob(registry, "origin/app", BLOB)
        mounted = await client.ask(registry, "POST", f"/v2/app/blobs/uploads/?mount={DIGEST}&from=origin/app")

        assert mounted.status == 201
        assert mounted.headers["Location"].endswith(f"/v2/app/blobs/{DIGEST}")
        assert await kept(registry) == BLOB


@pytest.mark.parametrize(
    "query", [f"mount={DIGEST}&from=origin/app", f"mount={DIGEST}&from=..%2f..", f"mount={DIGEST}"]
)
async def test_a_mount_of_what_is_not_there_opens_a_session(any_registry: OpenRegistry, query: str) -> None:
    async with any_registry() as registry:
        answer = await client.ask(registry, "POST", f"/v2/app/blobs/uploads/?{query}")

        assert answer.status == 202
        assert (await commit(registry, answer.headers["Location"], BLOB)).status == 201
        assert await kept(registry) == BLOB


@pytest.mark.parametrize("session", ["0" * 32, "nonsense", "..%2f..%2fetc"])
async def test_an_unknown_session_is_not_found(serve_disk: OpenRegistry, session: str) -> None:
    async with serve_disk() as registry:
        for method in ("GET", "PATCH", "PUT", "DELETE"):
            answer = await client.ask(registry, method, f"/v2/app/blobs/uploads/{session}?digest={DIGEST}")
            assert answer.status in (400, 404)


async def test_a_session_belongs_to_its_repository(serve_disk: OpenRegistry) -> None:
    async with serve_disk() as registry:
        location = await begin(registry)

        assert (await commit(registry, location.replace("/app/", "/other/"), BLOB)).status == 404


async def test_a_session_survives_a_restart(any_registry: OpenRegistry) -> None:
    async with any_registry() as registry:
        location = (await patch(registry, await begin(registry), BLOB[:50_000])).headers["Location"]
        port = int(registry.address.rpartition(":")[2])

    async with any_registry(port=port) as registry:
        status = await client.ask(registry, "GET", location)
        assert status.status == 204
        assert status.headers["Range"] == "0-49999"
        answer = await patch(registry, status.headers["Location"], BLOB[50_000:], 50_000)
        assert (await commit(registry, answer.headers["Location"])).status == 201
        assert await kept(registry) == BLOB


async def test_a_post_whose_connection_broke_leaves_nothing(serve_disk: OpenRegistry) -> None:
    async with serve_disk() as registry:
        path = f"/v2/app/blobs/uploads/?digest={DIGEST}"
        async with await begin_body(registry, "POST", path, BLOB[:60_000], len(BLOB)) as stream:
            await stream.send_eof()
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
        await commit(registry, await begin(registry), BLOB)

        assert list((registry.directory / "content").glob("**/_uploads/*")) == []


async def begin_body(registry: Registry, method: str, path: str, sent: bytes, announced: int) -> SocketStream:
    """An open connection on which part of a request's body was sent."""
    host, _, port = registry.address.rpartition(":")
    stream = await anyio.connect_tcp(host, int(port))
    head = f"{method} {path} HTTP/1.1\r\nHost: {registry.address}\r\nContent-Length: {announced}\r\n\r\n"
    await stream.send(head.encode() + sent)
    return stream


async def test_what_arrived_before_a_connection_broke_is_kept(serve_disk: OpenRegistry) -> None:
    async with serve_disk() as registry:
        location = await begin(registry)
        async with await begin_body(registry, "PATCH", location, BLOB[:60_000], len(BLOB)) as stream:
            await stream.send_eof()
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
        status = await client.ask(registry, "GET", location)

        assert status.status == 204
        assert status.headers["Range"] == "0-59999"
        assert (await patch(registry, location, BLOB[60_000:], 60_000)).status == 202
        assert (await commit(registry, location)).status == 201
        assert await kept(registry) == BLOB


async def test_a_client_that_lost_its_connection_takes_the_session_over(serve_disk: OpenRegistry) -> None:
    """The server still waits for the rest of a chunk that will never come."""
    async with serve_disk() as registry:
        location = await begin(registry)
        async with await begin_body(registry, "PATCH", location, BLOB[:60_000], len(BLOB)) as stream:
            await client.ask(registry, "GET", "/v2/")  # answered after what was sent before is read
            status = await client.ask(registry, "GET", location)

            assert status.status == 204
            assert status.headers["Range"] == "0-59999"
            assert (await stream.receive()).startswith(b"HTTP/1.1 409 ")
        assert (await patch(registry, location, BLOB[60_000:], 60_000)).status == 202
        assert (await commit(registry, location)).status == 201
        assert await kept(registry) == BLOB


async def test_debians_registry_loses_a_session_whose_connection_broke(debian_registry: OpenRegistry) -> None:
    """Fact 1 of registries.md: the way out is a new session, from the first byte."""
    async with debian_registry() as registry:
        location = (await patch(registry, await begin(registry), BLOB[:100])).headers["Location"]
        path = location.removeprefix(registry.url)
        async with await begin_body(registry, "PATCH", path, BLOB[100:60_000], len(BLOB) - 100) as stream:
            await stream.send_eof()
            while await receive(stream):
                pass

        assert (await client.ask(registry, "GET", location)).status == 404
        assert (await commit(registry, await begin(registry), BLOB)).status == 201


async def receive(stream: SocketStream) -> bytes:
    try:
        return await stream.receive()
    except anyio.EndOfStream:
        return b""


async def test_two_uploads_of_one_digest_at_once_both_end_well(any_registry: OpenRegistry) -> None:
    async with any_registry() as registry:
        locations = [await begin(registry, repository) for repository in ("app", "app", "other")]
        answers: list[Answer] = []

        async def upload(location: str) -> None:
            answers.append(await commit(registry, location, BLOB))

        async with anyio.create_task_group() as tasks:
            for location in locations:
                tasks.start_soon(upload, location)

        assert [answer.status for answer in answers] == [201, 201, 201]
        assert await kept(registry) == await kept(registry, repository="other") == BLOB


async def test_a_manifest_is_stored_under_its_tag_and_digest(any_registry: OpenRegistry) -> None:
    made = images.image("a")

    async with any_registry() as registry:
        for content in made.blobs.values():
            await client.push_blob(registry, "app", content)
        stored = await client.push_manifest(registry, "app", made, "v1")

        assert stored.headers["Docker-Content-Digest"] == made.digest
        assert stored.headers["Location"].endswith(f"/v2/app/manifests/{made.digest}")
        await client.assert_holds(registry, "app", made, "v1")


async def put_manifest(registry: Registry, content: bytes, media_type: str, reference: str = "v1") -> Answer:
    headers = {"Content-Type": media_type}
    return await client.ask(registry, "PUT", f"/v2/app/manifests/{reference}", headers=headers, data=content)


@pytest.mark.parametrize("made", [images.image("a"), images.multi_platform("b")])
async def test_a_manifest_whose_children_are_missing_is_refused(any_registry: OpenRegistry, made: Image) -> None:
    children = {*made.blobs, *(child.digest for child in made.children)}

    async with any_registry() as registry:
        refused = await put_manifest(registry, made.content, made.media_type)

        assert refused.status in (400, 404)
        errors = client.parsed(refused)["errors"]
        assert {error["code"] for error in errors} <= {"MANIFEST_BLOB_UNKNOWN", "MANIFEST_UNKNOWN"}
        assert children == {error["detail"] for error in errors}
        assert await client.tags(registry, "app") == []


async def test_a_manifest_may_have_four_mebibytes_and_no_more(any_registry: OpenRegistry) -> None:
    made = images.image("a", annotations={"padding": "x"})
    room = 4 * 1024 * 1024 - len(made.content)
    largest = images.image("a", annotations={"padding": "x" * (room + 1)})
    larger = images.image("a", annotations={"padding": "x" * (room + 2)})

    async with any_registry() as registry:
        await client.push(registry, "app", largest, "v1")
        refused = await put_manifest(registry, larger.content, larger.media_type, "v2")

        assert refused.status in (400, 413)
        await client.assert_holds(registry, "app", largest, "v1")


async def test_what_is_no_manifest_is_refused(serve_disk: OpenRegistry) -> None:
    async with serve_disk() as registry:
        for content in (b"", b"{}", b"[]", b"null", b"{", b'{"schemaVersion": 2}', b"[" * 100_000):
            refused = await put_manifest(registry, content, images.OCI_MANIFEST)

            assert refused.status == 400, content[:100]
            assert client.parsed(refused)["errors"][0]["code"] == "MANIFEST_INVALID"


async def test_a_manifest_under_another_digest_is_refused(any_registry: OpenRegistry) -> None:
    made, other = images.image("a"), images.image("b")

    async with any_registry() as registry:
        await client.push(registry, "app", made)
        refused = await put_manifest(registry, made.content, made.media_type, other.digest)

        assert refused.status == 400
        assert client.parsed(refused)["errors"][0]["code"] == "DIGEST_INVALID"


async def test_a_manifest_may_be_named_by_sha512(serve_disk: OpenRegistry) -> None:
    made = images.image("a")
    digest = digest_of(made.content, "sha512")

    async with serve_disk() as registry:
        await client.push(registry, "app", made)
        stored = await put_manifest(registry, made.content, made.media_type, digest)

        assert stored.headers["Docker-Content-Digest"] == digest
        assert (await client.manifest(registry, "app", digest)).content == made.content


async def test_a_manifest_is_put_by_its_digest_and_named_in_one_request(serve_disk: OpenRegistry) -> None:
    """distribution-spec, "Pushing Manifests": a ``tag`` in the query for each name, ``OCI-Tag`` for each accepted."""
    first, second = images.image("a"), images.index(images.image("b"))

    async with serve_disk() as registry:
        for made, digest, tags in (
            (first, first.digest, ["1.2.3", "1.2", "latest"]),
            (second, digest_of(second.content, "sha512"), ["latest", "V_2-x.y", "t" * 128]),
        ):
            await client.push(registry, "app", made)
            query = "&".join(f"tag={tag}" for tag in [*tags, tags[0]])
            stored = await put_manifest(registry, made.content, made.media_type, f"{digest}?{query}")

            assert stored.status == 201
            assert stored.headers["Docker-Content-Digest"] == digest
            assert stored.headers["Location"] == f"/v2/app/manifests/{digest}"
            assert stored.all_of("OCI-Tag") == tags
            for tag in tags:
                answer = await client.manifest(registry, "app", tag)
                assert answer.content == made.content
                assert answer.headers["Docker-Content-Digest"] == digest
        assert (await client.manifest(registry, "app", "1.2")).content == first.content


async def test_names_of_a_put_by_digest_are_all_good_or_nothing_is_kept(serve_disk: OpenRegistry) -> None:
    made = images.image("a")
    many = "&".join(f"tag=v{number}" for number in range(101))

    async with serve_disk() as registry:
        for blob in made.all_blobs().values():
            await client.push_blob(registry, "app", blob)
        for query, status, code in (
            ("tag=good&tag=.bad", 400, "TAG_INVALID"),
            ("tag=", 400, "TAG_INVALID"),
            ("tag=..%2f..%2fsecret", 400, "TAG_INVALID"),
            (f"tag={'t' * 129}", 400, "TAG_INVALID"),
            (f"tag={DIGEST}", 400, "TAG_INVALID"),
            (many, 414, "UNSUPPORTED"),
        ):
            refused = await put_manifest(registry, made.content, made.media_type, f"{made.digest}?{query}")
            assert refused.status == status, query
            assert client.parsed(refused)["errors"][0]["code"] == code
        other = await put_manifest(registry, made.content + b" ", made.media_type, f"{made.digest}?tag=v1")

        assert other.status == 400
        assert await client.tags(registry, "app") == []
        assert (await client.manifest(registry, "app", made.digest)).status == 404


async def test_names_in_the_query_count_only_beside_a_digest(serve_disk: OpenRegistry) -> None:
    made = images.image("a")

    async with serve_disk() as registry:
        await client.push(registry, "app", made)
        stored = await put_manifest(registry, made.content, made.media_type, "v1?tag=v2")

        assert stored.status == 201
        assert "OCI-Tag" not in stored.headers
        assert await client.tags(registry, "app") == ["v1"]


async def test_deleting_a_manifest_removes_its_tags(any_registry: OpenRegistry) -> None:
    gone, stays = images.image("a"), images.image("b")

    async with any_registry() as registry:
        await client.push(registry, "app", gone, "v1", "latest")
        await client.push(registry, "app", stays, "v2")

        assert (await client.ask(registry, "DELETE", f"/v2/app/manifests/{gone.digest}")).status == 202
        for reference in ("v1", "latest", gone.digest):
            assert (await client.manifest(registry, "app", reference)).status == 404
        assert await client.tags(registry, "app") == ["v2"]
        assert (await client.ask(registry, "DELETE", f"/v2/app/manifests/{gone.digest}")).status == 404


async def test_deleting_a_tag_leaves_the_manifest(serve_disk: OpenRegistry) -> None:
    made = images.image("a")

    async with serve_disk() as registry:
        await client.push(registry, "app", made, "v1", "v2")

        assert (await client.ask(registry, "DELETE", "/v2/app/manifests/v1")).status == 202
        assert await client.tags(registry, "app") == ["v2"]
        await client.assert_holds(registry, "app", made, "v2")


async def test_deleting_a_blob_leaves_it_in_other_repositories(any_registry: OpenRegistry) -> None:
    async with any_registry() as registry:
        await client.push_blob(registry, "app", BLOB)
        await client.push_blob(registry, "other", BLOB)

        assert (await client.ask(registry, "DELETE", f"/v2/app/blobs/{DIGEST}")).status == 202
        assert await kept(registry) is None
        assert await kept(registry, repository="other") == BLOB
        assert (await client.ask(registry, "DELETE", f"/v2/app/blobs/{DIGEST}")).status == 404


async def test_referrers_are_listed_and_filtered(serve_disk: OpenRegistry) -> None:
    subject = images.image("subject")
    sbom = images.referrer(subject, "application/sbom", annotations={"org.example.by": "tests"})
    scan = images.referrer(subject, "application/scan")
    signature = images.manifest(b"{}", [], config_type="application/signature", subject=subject)
    listing = images.index(artifact_type="application/listing", subject=subject)

    async with serve_disk() as registry:
        for made in (sbom, scan, signature, listing):  # the subject itself may come later, or never
            await client.push(registry, "app", made)
        stored = await client.push_manifest(registry, "app", sbom, "sbom")
        path = f"/v2/app/referrers/{subject.digest}"
        answer = await client.ask(registry, "GET", path)
        found = {entry["digest"]: entry for entry in client.parsed(answer)["manifests"]}
        filtered = await client.ask(registry, "GET", f"{path}?artifactType=application/scan")
        await client.ask(registry, "DELETE", f"/v2/app/manifests/{sbom.digest}")
        left = client.parsed(await client.ask(registry, "GET", path))["manifests"]

    assert stored.headers["OCI-Subject"] == subject.digest
    assert answer.headers["Content-Type"] == images.OCI_INDEX
    assert "OCI-Filters-Applied" not in answer.headers
    assert {entry["artifactType"] for entry in found.values()} == {
        "application/sbom",
        "application/scan",
        "application/signature",
        "application/listing",
    }
    assert found[sbom.digest] == {
        "mediaType": images.OCI_MANIFEST,
        "digest": sbom.digest,
        "size": len(sbom.content),
        "annotations": {"org.example.by": "tests"},
        "artifactType": "application/sbom",
    }
    assert filtered.headers["OCI-Filters-Applied"] == "artifactType"
    assert [entry["digest"] for entry in client.parsed(filtered)["manifests"]] == [scan.digest]
    assert {entry["digest"] for entry in left} == {scan.digest, signature.digest, listing.digest}


async def test_debians_registry_has_no_referrers(debian_registry: OpenRegistry) -> None:
    """A client must fall back to the tag that the spec describes."""
    async with debian_registry() as registry:
        answer = await client.ask(registry, "GET", f"/v2/app/referrers/{DIGEST}")

        assert answer.status == 404


async def test_a_new_tag_replaces_the_old_one(any_registry: OpenRegistry) -> None:
    old, new = images.image("a"), images.image("b", docker=True)

    async with any_registry() as registry:
        await client.push(registry, "app", old, "v1")
        await client.push(registry, "app", new, "v1")

        await client.assert_holds(registry, "app", new, "v1")
        await client.assert_holds(registry, "app", old)


async def test_the_catalog_lists_repositories_in_pages(any_registry: OpenRegistry) -> None:
    made = images.image("a")

    async with any_registry() as registry:
        for repository in ("b/app", "a", "b"):
            await client.push(registry, repository, made, "v1")
        first = await client.ask(registry, "GET", "/v2/_catalog?n=2")
        second = await client.ask(registry, "GET", "/v2/_catalog?n=2&last=b")

        assert client.parsed(first)["repositories"] == ["a", "b"]
        assert 'rel="next"' in first.headers["Link"]
        assert client.parsed(second)["repositories"] == ["b/app"]
        assert "Link" not in second.headers


@pytest.mark.parametrize("docker", [False, True])
async def test_skopeo_copies_in_and_out(serve_disk: OpenRegistry, tmp_path: Path, docker: bool) -> None:
    made = images.multi_platform("a", base=images.layer("base", 3_000_000), docker=docker)

    async with serve_disk("source") as source, serve_disk("target", login=LOGIN) as target:
        await client.push(source, "app", made, "v1")
        copied = await run(
            "skopeo",
            "copy",
            "--all",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            f"--dest-creds={LOGIN.username}:{LOGIN.password}",
            f"docker://{source.address}/app:v1",
            f"docker://{target.address}/team/copy:v1",
        )

        assert copied.code == 0, copied.stderr
        await client.assert_holds(target, "team/copy", made, "v1")
