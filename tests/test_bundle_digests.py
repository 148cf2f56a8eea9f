"""A bundle carries a digest of each member that no digest names, and is held to it before anything is sent."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from pathlib import Path

import pytest

from syncer.bundle import Format, open_bundle, open_writer, verify_bundle
from syncer.content import Item
from syncer.errors import InvalidBundle
from syncer.oci import Digest, Reference
from syncer.profiles.definition.definition import DefinedImage, Definition, render_definition
from syncer.transfer.events import Copied, Event
from syncer.transfer.run import Options, transfer
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.bundles import FORMATS
from tests.support.cli import syncer
from tests.support.memory import MemorySource
from tests.support.programs import run

EARLIER = Path(__file__).parent / "data/earlier"


def earlier_images() -> MemorySource:
    source = MemorySource()
    layers = [images.layer("one", 3000), images.layer("two", 3000)]
    source.add("registry.example/app:v1", images.image("app", layers=layers))
    source.add("registry.example/base:v1", images.image("base", layers=[images.layer("three", 3000)]))
    return source


def definition_of(source: MemorySource, name: str = "made") -> bytes:
    defined = (
        DefinedImage(image=Reference.parse(reference), digest=Digest.parse(digest))
        for reference, digest in source.names.items()
    )
    return render_definition(Definition(name=name, images=tuple(defined))).encode()


async def make(final: Path, form: Format, definition: bytes | None = None) -> None:
    """A bundle of ``earlier_images``, with a definition that tells of them unless another one is given."""
    source = earlier_images()
    async with open_writer(final, format=form) as writer:
        items = [Item(name, name) for name in map(Reference.parse, source.names)]
        await transfer(items, source, writer, options=Options(), emit=lambda _: None)
        await writer.publish(definition_of(source) if definition is None else definition)


def replaced(path: Path, old: bytes, new: bytes) -> None:
    """Another text of the same length in place of one that is there."""
    content = path.read_bytes()
    assert old in content
    assert len(old) == len(new)
    path.write_bytes(content.replace(old, new))


@pytest.mark.parametrize("form", FORMATS)
async def test_the_last_member_lists_the_digests_of_those_that_none_names(tmp_path: Path, form: Format) -> None:
    """In the form that sha256sum reads, under the name of its own digest."""
    await make(final := tmp_path / f"made.{form}", form)
    assert (await run("tar", "xf", str(final), "-C", str(tmp_path))).code == 0
    listed = await run("tar", "tf", str(final))

    last = tmp_path / listed.stdout.split()[-1]
    checked = await run("sh", "-c", f"cd {tmp_path} && sha256sum --check {last}")

    assert last.name == hashlib.sha256(last.read_bytes()).hexdigest()
    assert checked.stdout.split() == ["oci-layout:", "OK", "bundle-definition.yaml:", "OK", "index.json:", "OK"]
    with open_bundle(final) as bundle:
        check = await verify_bundle(bundle)
    assert (check.has_digests, check.unreferenced) == (True, ())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"registry.example/app:v1"', b'"registry.example/apq:v1"'),
        (b"image: registry.example/app:v1", b"image: registry.example/apq:v1"),
        (b"name: made", b"name: mode"),
        (b"imageLayoutVersion", b"imageLayoutversion"),
    ],
)
async def test_an_altered_member_is_refused_before_anything_is_sent(
    serve_disk: OpenRegistry, tmp_path: Path, old: bytes, new: bytes
) -> None:
    await make(final := tmp_path / "made.tar", "tar")
    replaced(final, old, new)

    async with serve_disk() as registry:
        verified = await syncer("verify", "--file", final, home=tmp_path)
        pushed = await syncer("push", "--file", final, "--registry", registry.address, home=tmp_path)

        assert await client.repositories(registry) == []
    assert (verified.code, pushed.code) == (6, 6)
    assert "is not the one that was written" in verified.stderr
    assert "is not the one that was written" in pushed.stderr


async def test_an_altered_list_of_digests_is_refused(tmp_path: Path) -> None:
    await make(final := tmp_path / "made.tar", "tar")
    replaced(final, b"  oci-layout\n", b"  oci_layout\n")

    with pytest.raises(InvalidBundle, match="list of digests was altered"), open_bundle(final):
        pass


async def test_a_small_blob_at_the_end_of_another_tools_tar_is_no_list(tmp_path: Path) -> None:
    """Other tools write their members in any order."""
    await make(made := tmp_path / "made.tar", "tar")
    with tarfile.open(made) as archive, tarfile.open(tmp_path / "other.tar", "w") as other:
        members = archive.getmembers()[:-1]
        for member in sorted(members, key=lambda member: (member.name.startswith("blobs"), member.size != 428)):
            other.addfile(member, archive.extractfile(member))

    with open_bundle(tmp_path / "other.tar") as bundle:
        check = await verify_bundle(bundle)

    assert (check.has_digests, check.images, check.unreferenced) == (False, 2, ())


@pytest.mark.parametrize("form", FORMATS)
async def test_a_bundle_of_the_version_before_is_read_and_said_to_carry_none(
    serve_disk: OpenRegistry, tmp_path: Path, form: Format
) -> None:
    async with serve_disk() as registry:
        verified = await syncer("verify", "--file", EARLIER / f"earlier.{form}", home=tmp_path)
        pushed = await syncer(
            "push", "--file", EARLIER / f"earlier.{form}", "--registry", registry.address, home=tmp_path
        )

        assert "registry.example/app" in await client.repositories(registry)
    assert (verified.code, pushed.code) == (0, 0), verified.stderr + pushed.stderr
    assert "it carries none of index.json and bundle-definition.yaml" in verified.stdout


@pytest.mark.parametrize("form", FORMATS)
async def test_a_build_of_the_version_before_is_gone_on_with(tmp_path: Path, form: Format) -> None:
    """Only the one layer that it lacks is asked for, and the bundle is that of an undisturbed build."""
    for suffix in ("partial", "journal"):
        shutil.copy(EARLIER / f"unfinished.{form}.{suffix}", tmp_path)
    source, events = earlier_images(), list[Event]()
    async with open_writer(final := tmp_path / f"unfinished.{form}", format=form) as writer:
        items = [Item(name, name) for name in map(Reference.parse, source.names)]
        await transfer(items, source, writer, options=Options(), emit=events.append)
        await writer.publish(definition_of(source))
    await make(undisturbed := tmp_path / "undisturbed", form)

    second = Digest.of(images.layer("two", 3000).content)
    assert [event.descriptor.digest for event in events if isinstance(event, Copied)] == [second]
    assert final.read_bytes() == undisturbed.read_bytes()


async def test_a_name_that_was_altered_in_a_bundle_without_digests_is_told_by_its_definition(
    serve_disk: OpenRegistry, tmp_path: Path
) -> None:
    shutil.copy(EARLIER / "earlier.tar", final := tmp_path / "earlier.tar")
    replaced(final, b'"registry.example/app:v1"', b'"registry.example/apq:v1"')

    async with serve_disk() as registry:
        verified = await syncer("verify", "--file", final, home=tmp_path)
        pushed = await syncer("push", "--file", final, "--registry", registry.address, home=tmp_path)

        assert await client.repositories(registry) == []
    assert (verified.code, pushed.code) == (6, 6)
    for said in (verified.stderr, pushed.stderr):
        assert "its definition names registry.example/app:v1, and its index.json does not" in said


async def test_a_definition_that_tells_of_another_digest_is_found(tmp_path: Path) -> None:
    """Both members are as they were written, and cannot both be right."""
    source = earlier_images()
    names = list(source.names)
    source.names[names[0]], source.names[names[1]] = source.names[names[1]], source.names[names[0]]
    await make(final := tmp_path / "made.tar.zst", "tar.zst", definition_of(source))

    for sites in ([], ["-r", "127.0.0.1:9", "-r", "127.0.0.2:9"]):
        verified = await syncer("verify", "--file", final, *sites, home=tmp_path)

        assert verified.code == 6, sites
        assert "in its definition, and" in verified.stderr


async def test_signatures_are_in_the_index_alone(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """What a definition never lists is no contradiction."""
    image = images.image("signed")
    tag, signature = images.cosign_signature(image)
    async with debian_registry() as registry:
        await client.push(registry, "app", image, "v1")
        await client.push(registry, "app", signature, tag)
        built = await syncer("build", "--image", f"{registry.address}/app:v1", "--output", tmp_path, home=tmp_path)
    verified = await syncer("verify", "--file", tmp_path / "bundle.tar.zst", "--json", home=tmp_path)

    assert (built.code, verified.code) == (0, 0), verified.stderr
    assert (verified.json["images"], verified.json["digests"]) == (2, True)
