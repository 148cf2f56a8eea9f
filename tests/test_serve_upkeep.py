"""What ``serve --disk`` removes while it runs, what it never removes, and what it does with files that are damaged."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import orjson
import pytest

from syncer.errors import DigestMismatch
from syncer.oci import Digest, parse_manifest
from syncer.serve import Disk, open_disk, serve
from syncer.serve.directory import Arrivals, Layout, Sweep
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import syncer
from tests.support.images import Image, digest_of, noise
from tests.support.registries import Registry

KEPT = 0.4  # seconds that uploads and blobs without a manifest are kept here
DAY = 24 * 3600.0
BASE = images.layer("base", 200_000)
GONE = images.image("gone", layers=[BASE, images.layer("gone", 200_000)])
STAYS = images.index(images.image("stays", layers=[BASE, images.layer("stays", 200_000)]))
BLOB = noise("blob", 3_000_000)
DIGEST = digest_of(BLOB)
SMALL = noise("small", 1000)


@asynccontextmanager
async def served(directory: Path, keep_seconds: float = KEPT) -> AsyncIterator[Registry]:
    """A registry in ``directory``, whose log is not watched."""
    with open_disk(directory, keep_seconds=keep_seconds) as disk:
        async with serve(disk) as address:
            yield Registry(str(address), directory)


def content(registry: Registry) -> set[str]:
    """The digests of all that takes room in the registry's directory."""
    found = (registry.directory / "blobs").glob("*/*")
    return {f"{path.parent.name}:{path.name}" for path in found}


def file_of(registry: Registry, digest: str) -> Path:
    return registry.directory / "blobs" / digest.replace(":", "/")


def age(directory: Path, seconds: float = 2 * DAY) -> None:
    """Let all that is in a registry's directory be older."""
    then = time.time() - seconds
    for path in directory.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


def all_of(made: Image) -> set[str]:
    return {*made.all_blobs(), *(manifest.digest for manifest in made.manifests())}


async def until(holds: Callable[[], bool]) -> None:
    """Wait until the registry has done something that no answer tells."""
    with anyio.fail_after(20):
        while not holds():  # noqa: ASYNC110  # no event tells
            await anyio.sleep(0.02)


async def test_an_abandoned_upload_is_removed_while_the_registry_runs(tmp_path: Path) -> None:
    async with served(tmp_path) as registry:
        location = (await client.ask(registry, "POST", "/v2/app/blobs/uploads/")).headers["Location"]
        await client.ask(registry, "PATCH", location, data=SMALL)
        assert list(tmp_path.glob("**/_uploads/*"))

        await until(lambda: not list(tmp_path.glob("**/_uploads/*")))

        assert (await client.ask(registry, "GET", location)).status == 404
        late = await client.ask(registry, "PATCH", location, data=SMALL)
        assert client.parsed(late)["errors"][0]["code"] == "BLOB_UPLOAD_UNKNOWN"
        assert not list(tmp_path.glob("**/_uploads/*"))


async def test_an_upload_that_gets_bytes_is_kept_however_long_it_takes(tmp_path: Path) -> None:
    """Its body comes in small pieces, for three times as long as an upload without a byte is kept."""

    async def slowly() -> AsyncIterator[bytes]:
        for start in range(0, len(SMALL), 100):
            yield SMALL[start : start + 100]
            await anyio.sleep(3 * KEPT / 10)

    async with served(tmp_path) as registry:
        path = f"/v2/app/blobs/uploads/?digest={digest_of(SMALL)}"
        assert (await client.ask(registry, "POST", path, data=slowly())).status == 201
        assert (await client.blob(registry, "app", digest_of(SMALL))).content == SMALL
        location = (await client.ask(registry, "POST", "/v2/app/blobs/uploads/")).headers["Location"]
        stored = await client.ask(registry, "PUT", f"{location}?digest={digest_of(SMALL)}", data=slowly())

        assert stored.status == 201
        assert (await client.blob(registry, "app", digest_of(SMALL))).content == SMALL


async def test_an_upload_whose_file_somebody_removed_ends_in_no_blob(tmp_path: Path) -> None:
    """Threat: the rest of the bytes under a digest that was reckoned over all of them."""
    with open_disk(tmp_path) as disk:
        for removed_then_made in (False, True):
            upload = disk.begin("app")
            upload.append([SMALL[:500]])
            upload.path.unlink()
            if removed_then_made:
                upload.path.touch()
                upload.append([SMALL[500:]])
                with pytest.raises(DigestMismatch):
                    upload.commit(Digest.of(SMALL))
            else:
                with pytest.raises(FileNotFoundError):
                    upload.append([SMALL[500:]])
        assert disk.blob("app", Digest.of(SMALL)) is None


async def test_what_is_deleted_gives_its_room_back(tmp_path: Path) -> None:
    """And nothing else does: layers that another image has, what other repositories have, and all that is pushed."""
    async with served(tmp_path, DAY) as registry:
        await client.push(registry, "app", GONE, "gone")
        await client.push(registry, "app", STAYS, "stays")
        await client.push(registry, "other", GONE, "v1")
        assert content(registry) == all_of(GONE) | all_of(STAYS)
    age(tmp_path)

    async with served(tmp_path) as registry:
        await client.ask(registry, "DELETE", f"/v2/app/manifests/{GONE.digest}")
        only_here = GONE.document["layers"][1]["digest"]
        await until(lambda: not (tmp_path / "repositories/app/_blobs" / only_here.replace(":", "/")).exists())

        await client.assert_holds(registry, "app", STAYS, "stays")
        await client.assert_holds(registry, "other", GONE, "v1")

        await client.ask(registry, "DELETE", f"/v2/other/manifests/{GONE.digest}")
        await until(lambda: content(registry) == all_of(STAYS))
        await client.assert_holds(registry, "app", STAYS, "stays")


async def test_a_deleted_blob_gives_its_room_back(tmp_path: Path) -> None:
    async with served(tmp_path) as registry:
        await client.push_blob(registry, "app", BLOB)
        await client.ask(registry, "DELETE", f"/v2/app/blobs/{DIGEST}")

        await until(lambda: not content(registry))


async def test_a_tag_that_moves_on_or_goes_leaves_its_manifest(tmp_path: Path) -> None:
    """A manifest is removed by nobody but DELETE: others pull it by its digest."""
    async with served(tmp_path, DAY) as registry:
        await client.push(registry, "app", GONE, "v1")
        await client.push(registry, "app", STAYS, "v1")
        await client.ask(registry, "DELETE", "/v2/app/manifests/v1")
    age(tmp_path)

    async with served(tmp_path) as registry:
        await client.push_blob(registry, "app", BLOB)
        await until(lambda: DIGEST not in content(registry))  # a sweep has gone by
        await client.assert_holds(registry, "app", GONE)
        await client.assert_holds(registry, "app", STAYS)


async def test_a_repository_whose_manifest_cannot_be_read_keeps_its_blobs(tmp_path: Path) -> None:
    """Nobody knows then what the manifest needs."""
    async with served(tmp_path, DAY) as registry:
        await client.push(registry, "app", GONE, "v1")
        await client.push_blob(registry, "other", BLOB)
        file_of(registry, GONE.digest).unlink()
    age(tmp_path)

    async with served(tmp_path) as registry:
        await until(lambda: DIGEST not in content(registry))  # a sweep has gone by
        assert content(registry) == set(GONE.all_blobs())
        await client.push_manifest(registry, "app", GONE, "v1")
        await client.assert_holds(registry, "app", GONE, "v1")


async def test_a_foreign_layer_that_was_pushed_is_kept(tmp_path: Path) -> None:
    foreign = images.layer("foreign", 10_000)
    made = images.image("windows", layers=[images.layer("base")])
    document = made.document | {
        "layers": [
            *made.document["layers"],
            {
                "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
                "digest": digest_of(foreign.content),
                "size": len(foreign.content),
                "urls": ["https://example.com/layer"],
            },
        ]
    }
    async with served(tmp_path, DAY) as registry:
        await client.push(registry, "app", made)
        await client.push_blob(registry, "app", foreign.content)
        put = await client.ask(
            registry,
            "PUT",
            "/v2/app/manifests/v1",
            headers={"Content-Type": made.media_type},
            data=orjson.dumps(document),
        )
        assert put.status == 201
        await client.ask(registry, "DELETE", f"/v2/app/manifests/{made.digest}")
        await client.push_blob(registry, "app", BLOB)
    age(tmp_path)

    async with served(tmp_path) as registry:
        await until(lambda: DIGEST not in content(registry))
        assert (await client.blob(registry, "app", digest_of(foreign.content))).content == foreign.content


async def test_a_blob_that_a_client_has_asked_for_is_kept_for_its_push(tmp_path: Path) -> None:
    """The client hears that what lies around from before is there, and pushes only the manifest."""
    made = images.image("a", layers=[BASE, images.layer("top")])
    async with served(tmp_path, DAY) as registry:
        for blob in [*made.all_blobs().values(), BLOB]:
            await client.push_blob(registry, "app", blob)
        age(tmp_path)
        for digest in made.blobs:
            assert (await client.ask(registry, "HEAD", f"/v2/app/blobs/{digest}")).status == 200
    with open_disk(tmp_path) as disk:
        disk.sweep(lambda: True)

    async with served(tmp_path, DAY) as registry:
        assert content(registry) == set(made.blobs)
        await client.push_manifest(registry, "app", made, "v1")
        await client.assert_holds(registry, "app", made, "v1")


def test_what_was_deleted_a_moment_ago_is_kept_for_a_while(tmp_path: Path) -> None:
    with open_disk(tmp_path, keep_seconds=3600) as disk:
        fill(disk)
        disk.delete_blob("zoo", Digest.parse(DIGEST))
        disk.sweep(lambda: True)
        assert Layout(tmp_path).content(Digest.parse(DIGEST)).exists()
        age(tmp_path)
        disk.sweep(lambda: True)
        assert not Layout(tmp_path).content(Digest.parse(DIGEST)).exists()


OLD = [images.image(f"old {number}", layers=[BASE, images.layer(f"old {number}")]) for number in range(2)]


def mount(disk: Disk) -> Iterator[None]:
    """Each blob that is mounted is there at the end."""
    mounted = [digest for digest in map(Digest.parse, OLD[1].blobs) if disk.mount("copy", digest, "app")]
    yield
    assert all(disk.blob("copy", digest) for digest in mounted)


def upload(disk: Disk) -> Iterator[None]:
    """What is uploaded is there at the end, also if it lay around before."""
    for digest, blob in OLD[1].all_blobs().items():
        session = disk.begin("app")
        session.append([blob])
        os.utime(session.path, (0, 0))  # it got its last byte long ago
        session.commit(Digest.parse(digest))
    yield
    assert all(disk.blob("app", Digest.parse(digest)) for digest in OLD[1].blobs)


def put_manifest(disk: Disk) -> Iterator[None]:
    """A manifest whose children were there is whole at the end."""
    children = [*map(Digest.parse, OLD[1].blobs)]
    manifest = parse_manifest(OLD[1].content, OLD[1].media_type)
    with disk.expecting(children):
        were_there = all(disk.blob("app", digest) for digest in children)
        if were_there:
            disk.put_manifest("app", manifest, ["v1"])
    yield
    if were_there:
        assert disk.manifest("app", manifest.descriptor.digest)
        assert all(disk.blob("app", digest) for digest in children)


def ask(disk: Disk) -> Iterator[None]:
    """A blob of which a client has heard that it is there is there at the end."""
    told = []
    for digest in map(Digest.parse, OLD[1].blobs):
        disk.asked_for("app", digest)
        if disk.blob("app", digest):
            told.append(digest)
    yield
    assert all(disk.blob("app", digest) for digest in told)


@pytest.mark.parametrize("request_of", [mount, upload, put_manifest, ask])
def test_no_request_is_undone_by_a_sweep_that_it_meets(
    tmp_path: Path, request_of: Callable[[Disk], Iterator[None]]
) -> None:
    """The sweep is stopped at each of its steps in turn, and the request is served there."""
    lengths = []
    for step in range(40):
        directory = tmp_path / str(step)
        with open_disk(directory, keep_seconds=3600) as disk:
            fill(disk)
            age(directory)
            steps = 0
            served_there = request_of(disk)

            def serve_at_step() -> bool:
                nonlocal steps
                if steps == step:  # noqa: B023  # called in this turn only
                    next(served_there)  # noqa: B023
                steps += 1
                return True

            disk.sweep(serve_at_step)
            lengths.append(steps)
            if steps <= step:
                break
            assert next(served_there, None) is None
    assert 5 < min(lengths) <= max(lengths) < 40


def fill(disk: Disk) -> None:
    """Two images whose blobs lie around, of one of them also the manifest; and a blob of another repository."""
    for repository, blobs in (("app", OLD[0].all_blobs() | OLD[1].all_blobs()), ("zoo", {DIGEST: BLOB})):
        for digest, blob in blobs.items():
            session = disk.begin(repository)
            session.append([blob])
            session.commit(Digest.parse(digest))
    disk.put_manifest("app", parse_manifest(OLD[0].content, OLD[0].media_type), [])


def test_a_sweep_ends_when_the_server_does(tmp_path: Path) -> None:
    with open_disk(tmp_path):
        pass
    layout = Layout(tmp_path)
    layout.content(Digest.of(BLOB)).write_bytes(b"")

    assert Sweep(layout, Arrivals(), time.time() + 1, lambda: False).run() == 0

    assert layout.content(Digest.of(BLOB)).exists()


@pytest.mark.parametrize("size", [1000, 500_000, 3_000_000])
@pytest.mark.parametrize("damage", ["altered", "cut", "longer", "link", "pipe", "directory"])
async def test_a_damaged_blob_never_arrives_whole_and_is_mended_by_a_push(
    tmp_path: Path, size: int, damage: str
) -> None:
    blob = noise("blob", size)
    digest = digest_of(blob)
    (tmp_path / "secret").write_bytes(noise("secret", size))

    async with served(tmp_path / "disk", DAY) as registry:
        await client.push_blob(registry, "app", blob)
        assert (await client.blob(registry, "app", digest)).content == blob
        spoil(file_of(registry, digest), damage, tmp_path / "secret")
        answers = [await received(registry, digest) for _ in range(3)]

        assert not any(answer is not None and answer.status == 200 for answer in answers)
        assert answers[-1] is not None
        assert answers[-1].status == 404
        assert (await client.ask(registry, "HEAD", f"/v2/app/blobs/{digest}")).status == 404
        if damage != "directory":
            await client.push_blob(registry, "app", blob)
            assert (await client.blob(registry, "app", digest)).content == blob

    assert (tmp_path / "secret").read_bytes() == noise("secret", size)


def spoil(path: Path, damage: str, other: Path) -> None:
    """Damage a file; its size and its time are kept where that can be."""
    before = path.stat()
    match damage:
        case "altered":
            with path.open("r+b") as file:
                file.seek(before.st_size // 2)
                byte = file.read(1)
                file.seek(before.st_size // 2)
                file.write(bytes([byte[0] ^ 1]))
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        case "cut":
            os.truncate(path, before.st_size // 2)
        case "longer":
            with path.open("ab") as file:
                file.write(b"!")
        case "link":
            path.unlink()
            path.symlink_to(other)
        case "pipe":
            path.unlink()
            os.mkfifo(path)
        case "directory":
            path.unlink()
            path.mkdir()


async def received(registry: Registry, digest: str) -> client.Answer | None:
    """The blob as it arrives; None when it breaks off."""
    try:
        return await client.blob(registry, "app", digest)
    except client.Broken:
        return None


async def test_a_blob_that_was_damaged_while_nothing_ran_is_found_out(tmp_path: Path) -> None:
    async with served(tmp_path, DAY) as registry:
        await client.push_blob(registry, "app", BLOB)
        await client.push_blob(registry, "app", SMALL)
    for digest in (DIGEST, digest_of(SMALL)):
        spoil(file_of(registry, digest), "altered", tmp_path)

    async with served(tmp_path, DAY) as registry:
        assert (await client.ask(registry, "HEAD", f"/v2/app/blobs/{digest_of(SMALL)}")).status == 404
        for digest in (DIGEST, digest_of(SMALL)):
            answer = await received(registry, digest)
            assert answer is None or answer.status == 404


@pytest.mark.parametrize("headers", [None, {"Range": "bytes=0-9"}], ids=["HEAD", "a range"])
async def test_nothing_is_said_of_a_large_blob_before_it_was_hashed(
    tmp_path: Path, headers: dict[str, str] | None
) -> None:
    """A client that is told that it is there does not push it again, and cannot check a part."""
    async with served(tmp_path, DAY) as registry:
        await client.push_blob(registry, "app", BLOB)
    spoil(file_of(registry, DIGEST), "altered", tmp_path)
    method = "GET" if headers else "HEAD"

    async with served(tmp_path, DAY) as registry:
        answers = [await client.ask(registry, method, f"/v2/app/blobs/{DIGEST}", headers=headers) for _ in range(2)]
        mounted = await client.ask(registry, "POST", f"/v2/other/blobs/uploads/?mount={DIGEST}&from=app")
        await client.push_blob(registry, "app", BLOB)
        mended = await client.ask(registry, method, f"/v2/app/blobs/{DIGEST}", headers=headers)

    assert [answer.status for answer in answers] == [404, 404]
    assert mounted.status == 202
    assert mended.status == (206 if headers else 200)


async def test_a_blob_that_many_ask_for_is_hashed_once(tmp_path: Path) -> None:
    async with served(tmp_path, DAY) as registry:
        await client.push_blob(registry, "app", BLOB)
    looked: list[int] = []

    async def look() -> None:
        looked.append((await client.ask(registry, "HEAD", f"/v2/app/blobs/{DIGEST}")).status)

    before = bytes_read()
    async with served(tmp_path, DAY) as registry, anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(look)

    assert looked == [200] * 20
    assert bytes_read() - before < 2 * len(BLOB)


def bytes_read() -> int:
    """The bytes that this process has read from files so far."""
    return int(Path("/proc/self/io").read_text().partition("rchar: ")[2].split()[0])


async def test_a_link_to_the_right_content_is_not_followed_either(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(BLOB)
    async with served(tmp_path / "disk", DAY) as registry:
        await client.push_blob(registry, "app", BLOB)
        file_of(registry, DIGEST).unlink()
        file_of(registry, DIGEST).symlink_to(tmp_path / "elsewhere")

        assert (await client.blob(registry, "app", DIGEST)).status == 404

        await client.push(registry, "app", GONE, "v1")
        (tmp_path / "manifest").write_bytes(GONE.content)
        file_of(registry, GONE.digest).unlink()
        file_of(registry, GONE.digest).symlink_to(tmp_path / "manifest")
        assert (await client.manifest(registry, "app", "v1")).status == 404


@pytest.mark.parametrize("damage", ["altered", "cut", "link", "pipe"])
async def test_a_damaged_manifest_is_not_served_and_is_mended_by_a_push(tmp_path: Path, damage: str) -> None:
    async with served(tmp_path / "disk", DAY) as registry:
        await client.push(registry, "app", GONE, "v1")
        (tmp_path / "other").write_bytes(STAYS.content)
        spoil(file_of(registry, GONE.digest), damage, tmp_path / "other")

        for reference in ("v1", GONE.digest):
            assert (await client.manifest(registry, "app", reference)).status == 404
        await client.push_manifest(registry, "app", GONE, GONE.digest)
        await client.assert_holds(registry, "app", GONE, "v1")


async def test_a_damaged_manifest_can_be_deleted(tmp_path: Path) -> None:
    async with served(tmp_path, DAY) as registry:
        await client.push(registry, "app", GONE, "v1")
        spoil(file_of(registry, GONE.digest), "altered", tmp_path)

        assert (await client.ask(registry, "DELETE", f"/v2/app/manifests/{GONE.digest}")).status == 202
        assert await client.tags(registry, "app") == []


async def test_the_operator_is_told_once_of_what_is_damaged(serve_process: OpenRegistry) -> None:
    async with serve_process() as registry:
        await client.push_blob(registry, "app", SMALL)
        path = registry.directory / "content/blobs" / digest_of(SMALL).replace(":", "/")
        spoil(path, "altered", path)
        for _ in range(3):
            assert (await client.blob(registry, "app", digest_of(SMALL))).status == 404
        assert registry.log
        lines = registry.log.read_text().splitlines()

    assert len([line for line in lines if f"{path} is damaged" in line]) == 1


@pytest.mark.parametrize(
    ("duration", "problem"), [("10", "a minute at least"), ("soon", "not a duration"), ("", "not a duration")]
)
async def test_too_short_a_time_to_keep_uploads_is_refused(tmp_path: Path, duration: str, problem: str) -> None:
    ran = await syncer("serve", "--disk", tmp_path / "disk", "--keep-unfinished", duration, home=tmp_path)

    assert ran.code == 2
    assert problem in ran.stderr
    assert not (tmp_path / "disk").exists()
