"""OCI image layouts in a tar that other tools wrote are bundles too."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from syncer.bundle import Format, check_structure, open_bundle, open_writer, verify_bundle
from syncer.content import Progress
from syncer.errors import InvalidFile
from syncer.oci import Descriptor, Digest, Reference, parse_manifest
from tests.support import hostile_bundles as made
from tests.support import images
from tests.support.bundles import FORMATS, build
from tests.support.memory import MemoryBlob, MemorySource
from tests.support.programs import run

FILES = {
    "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
    **{made.blob_name(content): content for content in (made.MANIFEST, made.CONFIG, made.LAYER)},
}


def tar_of(files: Iterable[tuple[str, bytes | None]], *, form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar as Python writes it; a name without content is a directory."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as archive:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.pax_headers = {"mtime": "1700000000.5"}  # which makes an extended header, in that form
            entry.uname = "builder"
            if content is None:
                entry.type = tarfile.DIRTYPE
            else:
                entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content or b""))
    return packed.getvalue()


def index(**annotations: str) -> bytes:
    root = made.described(made.MANIFEST, made.OCI_MANIFEST)
    return json.dumps(made.index_of(root | {"annotations": annotations})).encode()


async def test_what_skopeo_wrote_is_a_bundle(tmp_path: Path) -> None:
    source = MemorySource()
    source.add("registry.example/app:v1", images.multi_platform("app", base=images.layer("base", 300_000)))
    await build(first := tmp_path / "first.tar.zst", source)
    name = "registry.example/app:v1"
    copied = await run(
        "skopeo", "copy", "--all", f"oci-archive:{first}:{name}", f"oci-archive:{tmp_path}/other.tar:{name}"
    )
    assert copied.code == 0, copied.stderr

    with open_bundle(tmp_path / "other.tar") as bundle:
        check = await verify_bundle(bundle)
        assert [image.name for image in bundle.images] == [name]
        assert (await bundle.resolve(Reference.parse(name))).digest == Digest.parse(source.names[name])

    assert (check.manifests, check.blobs) == (4, len(source.blobs))


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("prefix", ["", "./"])
async def test_directories_times_and_owners_do_not_matter(tmp_path: Path, form: int, prefix: str) -> None:
    """As podman, docker and tar itself write them."""
    directories: list[tuple[str, bytes | None]] = [(prefix + name, None) for name in ("blobs", "blobs/sha256")]
    files = [(prefix + name, content) for name, content in FILES.items()]
    named = (f"{prefix}index.json", index(**{made.REF_NAME: made.NAME}))
    (path := tmp_path / "bundle.tar").write_bytes(tar_of([*directories, *files, named], form=form))

    with open_bundle(path) as bundle:
        assert [image.name for image in bundle.images] == [made.NAME]
        assert (await verify_bundle(bundle)).unreferenced == ()


async def test_docker_save_names_its_images_in_its_own_way(tmp_path: Path) -> None:
    """``ref.name`` is the tag alone; the whole name stands in an annotation of containerd's."""
    named = index(**{"io.containerd.image.name": "docker.io/library/app:v1", made.REF_NAME: "v1"})
    extra = [("manifest.json", b"[]"), ("repositories", b"{}"), ("index.json", named)]
    (path := tmp_path / "bundle.tar").write_bytes(tar_of([*FILES.items(), *extra]))

    with open_bundle(path) as bundle:
        assert [str(image.reference) for image in bundle.images] == ["docker.io/library/app:v1"]
        assert check_structure(bundle).images == 1


async def test_an_image_without_a_whole_name_is_no_image_of_the_bundle(tmp_path: Path) -> None:
    """Nobody can tell where it would land; its content is counted as unreferenced."""
    (path := tmp_path / "bundle.tar").write_bytes(
        tar_of([*FILES.items(), ("index.json", index(**{made.REF_NAME: "v1"}))])
    )

    with open_bundle(path) as bundle:
        check = await verify_bundle(bundle)

    assert (check.images, len(check.unreferenced), len(check.nameless)) == (0, 3, 1)


def test_a_pipe_is_no_bundle(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(InvalidFile, match="no regular file"), open_bundle(tmp_path / "pipe"):
        pass


@pytest.mark.parametrize("form", FORMATS)
async def test_content_may_be_named_by_its_sha512(tmp_path: Path, form: Format) -> None:
    """A name of 141 characters does not fit a tar header: it has an extended one."""
    layer = images.noise("layer", 300_000)
    config = Descriptor(made.OCI_LAYER, Digest.of(made.CONFIG), len(made.CONFIG))
    long = Descriptor(made.OCI_LAYER, Digest.of(layer, "sha512"), len(layer))
    manifest = parse_manifest(made.encoded(made.manifest_of(config.to_json(), [long.to_json()])))
    final = tmp_path / "bundle"

    async with open_writer(final, format=form) as writer:
        await writer.reserve("", manifest.descriptor, manifest)
        for descriptor, content in ((config, made.CONFIG), (long, layer)):
            await writer.reserve("", descriptor, None)
            await writer.write("", MemoryBlob(descriptor, content), Progress(descriptor))
        await writer.commit("", manifest, [Reference.parse("app")])
        await writer.publish(b"")

    with open_bundle(final) as bundle:
        assert (await verify_bundle(bundle)).blobs == 2
        assert bundle.read(long.digest, 100_000) == layer[100_000:]
    listed = await run("tar", "tf", str(final))
    assert (listed.code, listed.stderr) == (0, "")
    assert f"blobs/sha512/{long.digest.hex}" in listed.stdout.split()
