"""A bundle served straight off its file, alone and beneath a directory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import pytest

from syncer.bundle import Format, open_bundle
from syncer.errors import DigestMismatch, NotFound
from syncer.oci import Descriptor, Digest, Reference, parse_manifest
from syncer.oci.manifest import AnyManifest
from syncer.serve import Bundled, Layered, open_disk, serve
from syncer.serve.storage import OpenBundle
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.bundles import FORMATS, build
from tests.support.images import Image
from tests.support.memory import MemorySource
from tests.support.programs import run
from tests.support.registries import LOGIN, Registry
from tests.support.tls import Authority


@dataclass(frozen=True, slots=True)
class Named:
    reference: Reference
    descriptor: Descriptor


@dataclass(slots=True)
class Opened:
    """A bundle's content in memory, read as an open bundle is."""

    images: list[Named] = field(default_factory=list)
    content: dict[Digest, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, named: Mapping[str, Image]) -> Opened:
        opened = cls()
        for name, image in named.items():
            opened.images.append(Named(Reference.parse(name), Descriptor.from_json(image.descriptor())))
            held = {item.digest: item.content for item in image.manifests()} | image.all_blobs()
            opened.content |= {Digest.parse(digest): content for digest, content in held.items()}
        return opened

    def size(self, digest: Digest) -> int:
        return len(self.read(digest))

    def read(self, digest: Digest, offset: int = 0, length: int | None = None) -> bytes:
        if digest not in self.content:
            raise NotFound("GET", 404)
        return self.content[digest][offset:][:length]

    def manifest_by_digest(self, digest: Digest, media_type: str | None = None) -> AnyManifest:
        return parse_manifest(self.read(digest), media_type, expected=digest)


@asynccontextmanager
async def served(bundle: OpenBundle, disk: Path | None = None) -> AsyncIterator[Registry]:
    """The bundle alone, or beneath a directory."""
    bundled = Bundled.load(bundle)
    if disk is None:
        async with serve(bundled) as address:
            yield Registry(str(address), Path())
        return
    with open_disk(disk) as top:
        async with serve(Layered(top, bundled)) as address:
            yield Registry(str(address), disk)


async def test_images_lie_where_a_push_would_put_them() -> None:
    made = images.multi_platform("a", base=images.layer("base", 3_000_000))
    local = images.image("b", docker=True)
    bundle = Opened.of({"busybox:1.36": made, "registry.local:5000/team/app:v1": local})

    async with served(bundle) as registry:
        assert await client.repositories(registry) == ["docker.io/library/busybox", "registry.local_5000/team/app"]
        assert await client.tags(registry, "docker.io/library/busybox") == ["1.36"]
        await client.assert_holds(registry, "docker.io/library/busybox", made, "1.36")
        await client.assert_holds(registry, "registry.local_5000/team/app", local, "v1")


@pytest.mark.parametrize("form", FORMATS)
async def test_a_bundle_file_is_served_as_it_is(tmp_path: Path, form: Format) -> None:
    """Each blob is asked for whole and from the middle, in a file whose content lies in frames."""
    made = images.multi_platform("a", base=images.layer("base", 3_000_000), attested=True)
    source = MemorySource()
    source.add("busybox:1.36", made)
    await build(tmp_path / "bundle", source, form)

    with open_bundle(tmp_path / "bundle") as bundle:
        async with served(bundle) as registry:
            await client.assert_holds(registry, "docker.io/library/busybox", made, "1.36")
            for digest, content in made.all_blobs().items():
                path = f"/v2/docker.io/library/busybox/blobs/{digest}"
                middle = len(content) // 2
                rest = await client.ask(registry, "GET", path, headers={"Range": f"bytes={middle}-"})
                assert rest.content == content[middle:]


async def test_the_command_serves_a_bundle_beneath_a_directory(
    serve_process: OpenRegistry, authority: Authority, tmp_path: Path
) -> None:
    """With all its flags at once, stopped and started again."""
    held, pushed = images.image("a"), images.image("b")
    source = MemorySource()
    source.add("busybox:1.36", held)
    await build(tmp_path / "bundle", source)
    settings = {
        "bundle": tmp_path / "bundle",
        "login": LOGIN,
        "tls": authority.server(),
        "authority": authority.certificate,
    }

    async with serve_process(**settings) as registry:
        await client.push(registry, "app", pushed, "v1")
    async with serve_process(**settings) as registry:
        await client.assert_holds(registry, "docker.io/library/busybox", held, "1.36")
        await client.assert_holds(registry, "app", pushed, "v1")
        assert (await client.ask(registry, "GET", "/v2/", headers={"Authorization": ""})).status == 401


async def test_skopeo_copies_from_a_bundle(tmp_path: Path) -> None:
    made = images.multi_platform("a", base=images.layer("base", 3_000_000))

    async with served(Opened.of({"busybox:1.36": made})) as registry:
        source = f"docker://{registry.address}/docker.io/library/busybox:1.36"
        copied = await run("skopeo", "copy", "--all", "--src-tls-verify=false", source, f"dir:{tmp_path}/out")

    assert copied.code == 0, copied.stderr
    assert (tmp_path / "out/manifest.json").read_bytes() == made.content


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE"])
async def test_a_bundle_alone_cannot_be_written_to(method: str) -> None:
    """Threat of registries.md §4.5: whoever reaches the port changes what the fleet installs."""
    made = images.image("a")
    digest = next(iter(made.blobs))

    async with served(Opened.of({"busybox:1.36": made})) as registry:
        for path in ("manifests/1.36", f"blobs/{digest}", "blobs/uploads/", f"blobs/uploads/{'0' * 32}"):
            answer = await client.ask(registry, method, f"/v2/docker.io/library/busybox/{path}", data=b"x")

            assert answer.status == 405
            assert answer.headers["Allow"] == "GET, HEAD"
            assert b'"UNSUPPORTED"' in answer.content


async def test_referrers_of_a_bundles_images_are_listed() -> None:
    subject = images.image("a")
    sbom = images.referrer(subject, "application/sbom")

    async with served(Opened.of({"busybox:1": subject, "busybox:sbom": sbom})) as registry:
        path = f"/v2/docker.io/library/busybox/referrers/{subject.digest}"
        found = client.parsed(await client.ask(registry, "GET", path))
        assert [entry["digest"] for entry in found["manifests"]] == [sbom.digest]
        assert found["manifests"][0]["artifactType"] == "application/sbom"


async def test_a_missing_child_of_a_partial_bundle_is_not_found_and_the_rest_is_served() -> None:
    made = images.multi_platform("a")
    bundle = Opened.of({"busybox:1": made})
    del bundle.content[Digest.parse(made.children[1].digest)]

    async with served(bundle) as registry:
        assert (await client.manifest(registry, "docker.io/library/busybox", "1")).content == made.content
        lost = await client.manifest(registry, "docker.io/library/busybox", made.children[1].digest)
        assert lost.status == 404
        await client.assert_holds(registry, "docker.io/library/busybox", made.children[0])


def test_a_manifest_that_is_not_what_its_name_says_is_refused_at_once() -> None:
    made = images.image("a")
    bundle = Opened.of({"busybox:1": made})
    bundle.content[Digest.parse(made.digest)] = images.image("b").content

    with pytest.raises(DigestMismatch):
        Bundled.load(bundle)


@pytest.mark.parametrize("size", [100, 3_000_000])
async def test_a_blob_that_is_not_what_its_name_says_never_arrives_whole(size: int) -> None:
    """Threat of registries.md §4.1: a bundle whose blobs have other bytes than their digests say."""
    made = images.image("a", layers=[images.layer("big", size)])
    digest = made.document["layers"][0]["digest"]
    bundle = Opened.of({"busybox:1": made})
    altered = bytearray(bundle.content[Digest.parse(digest)])
    altered[0] ^= 1
    bundle.content[Digest.parse(digest)] = bytes(altered)

    async with served(bundle) as registry:
        for _ in range(2):
            try:
                answer = await client.blob(registry, "docker.io/library/busybox", digest)
            except client.Broken:
                continue
            assert answer.status == 500


async def test_what_is_pushed_beside_a_bundle_is_kept(tmp_path: Path) -> None:
    held, pushed = images.image("a"), images.image("b")
    bundle = Opened.of({"busybox:1": held})

    for _ in range(2):
        async with served(bundle, tmp_path / "disk") as registry:
            await client.push(registry, "docker.io/library/busybox", pushed, "2")
            await client.push(registry, "team/app", pushed, "v1")

            assert await client.repositories(registry) == ["docker.io/library/busybox", "team/app"]
            assert await client.tags(registry, "docker.io/library/busybox") == ["1", "2"]
            await client.assert_holds(registry, "docker.io/library/busybox", held, "1")
            await client.assert_holds(registry, "docker.io/library/busybox", pushed, "2")


async def test_a_blob_mounted_from_the_bundle_is_there_without_the_bundle(tmp_path: Path) -> None:
    made = images.image("a", layers=[images.layer("big", 3_000_000)])
    bundle = Opened.of({"busybox:1": made})

    async with served(bundle, tmp_path / "disk") as registry:
        for digest in made.blobs:
            path = f"/v2/copy/blobs/uploads/?mount={digest}&from=docker.io/library/busybox"
            assert (await client.ask(registry, "POST", path)).status == 201
        await client.push_manifest(registry, "copy", made, "v1")

    async with served(Opened(), tmp_path / "disk") as registry:
        await client.assert_holds(registry, "copy", made, "v1")


async def test_what_a_bundle_holds_is_there_after_a_delete_that_is_refused(tmp_path: Path) -> None:
    """Also when the directory has it as well, because it was pushed once more."""
    held = images.index(images.image("a"))
    repository = "docker.io/library/busybox"
    blob = next(iter(held.all_blobs()))

    async with served(Opened.of({"busybox:1": held}), tmp_path / "disk") as registry:
        for pushed in (False, True):
            if pushed:
                await client.push(registry, repository, held, "1")
            for path in (
                f"manifests/{held.digest}",
                f"manifests/{held.children[0].digest}",
                "manifests/1",
                f"blobs/{blob}",
            ):
                refused = await client.ask(registry, "DELETE", f"/v2/{repository}/{path}")

                assert refused.status == 405, (path, pushed)
                assert [error["code"] for error in client.parsed(refused)["errors"]] == ["UNSUPPORTED"]
                assert (await client.ask(registry, "HEAD", f"/v2/{repository}/{path}")).status == 200
        for path in ("manifests/none", f"manifests/sha256:{'0' * 64}", f"blobs/sha256:{'0' * 64}"):
            assert (await client.ask(registry, "DELETE", f"/v2/{repository}/{path}")).status == 404


async def test_a_bundle_alone_refuses_every_delete() -> None:
    held = images.image("a")
    async with served(Opened.of({"busybox:1": held})) as registry:
        for path in ("manifests/1", f"manifests/{held.digest}", f"blobs/{next(iter(held.blobs))}"):
            refused = await client.ask(registry, "DELETE", f"/v2/docker.io/library/busybox/{path}")
            assert refused.status == 405
            assert refused.headers["Allow"] == "GET, HEAD"


OpenMirror: TypeAlias = Callable[[], AbstractAsyncContextManager[tuple[Registry, str]]]

MIRRORED = {
    "docker.io/library/busybox": images.image("a"),
    "registry.local_5000/team/app": images.image("b"),
    "quay.io/app": images.image("c"),
}


@pytest.fixture(params=["bundle", "disk", "disk below a base path"])
def mirror(request: pytest.FixtureRequest, serve_disk: OpenRegistry) -> OpenMirror:
    """A registry that has ``MIRRORED`` under the names that a push gives them, and the path before those names."""

    @asynccontextmanager
    async def open_it() -> AsyncIterator[tuple[Registry, str]]:
        if request.param == "bundle":
            bundle = Opened.of({f"{name.replace('_', ':')}:1.37": image for name, image in MIRRORED.items()})
            async with served(bundle) as registry:
                yield registry, "/v2/"
            return
        base = "mirror/" if "base" in request.param else ""
        async with serve_disk() as registry:
            for name, image in MIRRORED.items():
                await client.push(registry, base + name, image, "1.37")
            yield registry, f"/v2/{base}"

    return open_it


@pytest.mark.parametrize(
    ("name", "host", "full"),
    [
        ("library/busybox", "docker.io", "docker.io/library/busybox"),
        ("busybox", "docker.io", "docker.io/library/busybox"),
        ("team/app", "registry.local:5000", "registry.local_5000/team/app"),
        ("app", "quay.io", "quay.io/app"),
    ],
)
async def test_a_mirror_is_asked_by_the_name_that_a_host_gives(
    mirror: OpenMirror, name: str, host: str, full: str
) -> None:
    """containerd leaves the host out of the path and names it as ``ns`` (distribution-spec, "Registry Proxying")."""
    image = MIRRORED[full]
    blob, content = next(iter(image.blobs.items()))
    expected = {
        "manifests/1.37": image.content,
        f"manifests/{image.digest}": image.content,
        f"blobs/{blob}": content,
        "tags/list": None,
        f"referrers/{image.digest}": None,
    }

    async with mirror() as (registry, base):
        for path, wanted in expected.items():
            answer = await client.ask(registry, "GET", f"{base}{name}/{path}?ns={host}")
            assert answer.status == 200, path
            assert answer.headers["OCI-Namespace"] == host
            assert wanted is None or answer.content == wanted
            assert (await client.ask(registry, "HEAD", f"{base}{name}/{path}?ns={host}")).status == 200
            whole = await client.ask(registry, "GET", f"{base}{full}/{path}?ns={host}")
            assert whole.status == 200, "the parameter disturbs the full name"
            assert "OCI-Namespace" not in whole.headers


async def test_a_mirror_has_no_image_of_a_host_that_it_does_not_know(mirror: OpenMirror) -> None:
    async with mirror() as (registry, base):
        for name, host in (("library/busybox", "quay.io"), ("team/app", "registry.local"), ("app", "docker.io")):
            assert (await client.ask(registry, "GET", f"{base}{name}/manifests/1.37?ns={host}")).status == 404, host
        for host in (
            "",
            "..",
            ".",
            "../docker.io",
            "docker.io/library",
            "docker",
            "docker.io%2f..",
            "a:b:c",
            "[::",
            "%00",
        ):
            assert (await client.ask(registry, "GET", f"{base}busybox/manifests/1.37?ns={host}")).status == 404, host


async def test_a_name_without_a_host_is_served_whatever_host_is_asked_for(serve_disk: OpenRegistry) -> None:
    """Such are the names of a mirror that is filled by other tools."""
    async with serve_disk() as registry:
        await client.push(registry, "library/alpine", MIRRORED["quay.io/app"], "1")

        answer = await client.ask(registry, "GET", "/v2/library/alpine/manifests/1?ns=docker.io")

        assert answer.content == MIRRORED["quay.io/app"].content
        assert "OCI-Namespace" not in answer.headers


async def test_a_push_takes_no_notice_of_a_host_in_its_query(serve_disk: OpenRegistry) -> None:
    made = images.image("a")
    async with serve_disk() as registry:
        await client.push(registry, "docker.io/library/busybox", made)
        await client.push(registry, "library/busybox", made)
        await client.push_manifest(registry, "library/busybox", made, "1?ns=docker.io")

        assert await client.tags(registry, "library/busybox") == ["1"]
        assert await client.tags(registry, "docker.io/library/busybox") == []


async def test_a_bundles_content_cannot_be_deleted_but_what_hides_it_can(tmp_path: Path) -> None:
    held, pushed = images.image("a"), images.image("b")
    tag = "/v2/docker.io/library/busybox/manifests/1"

    async with served(Opened.of({"busybox:1": held}), tmp_path / "disk") as registry:
        await client.push(registry, "docker.io/library/busybox", pushed, "1")
        assert (await client.manifest(registry, "docker.io/library/busybox", "1")).content == pushed.content

        assert (await client.ask(registry, "DELETE", tag)).status == 202
        assert (await client.manifest(registry, "docker.io/library/busybox", "1")).content == held.content
        assert (await client.ask(registry, "DELETE", tag)).status == 405
        await client.assert_holds(registry, "docker.io/library/busybox", held, "1")
