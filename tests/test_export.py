"""Images leave a bundle as files that docker, podman, skopeo and containerd load: tried with those that are here."""

from __future__ import annotations

import json
import os
import tarfile
import tempfile
from pathlib import Path

import pytest
from anyio import create_task_group, to_thread

from syncer.bundle import open_bundle
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import Ran, syncer
from tests.support.images import Image
from tests.support.programs import containerd, run
from tests.support.registries import Registry
from tests.test_saved_archives import optional

PLAIN = images.image("plain", docker=True)
MULTI = images.multi_platform("multi", base=images.layer("base", 300_000))
SIGNATURE = images.cosign_signature(MULTI)
CHART = images.chart("chart")


async def built(registry: Registry, home: Path, *options: str) -> Path:
    """A bundle of two images, a signature and a chart."""
    await client.push(registry, "plain", PLAIN, "1")
    await client.push(registry, "multi", MULTI, "1")
    await client.push(registry, "multi", SIGNATURE[1], SIGNATURE[0])
    await client.push(registry, "chart", CHART, "1.0.0")
    names = [f"--image={registry.address}/{name}" for name in ("plain:1", "multi:1", "chart:1.0.0")]
    ran = await syncer("build", *names, "--name", "made", "--output", home, *options, home=home)
    assert ran.code == 0, ran.stderr
    return home / ("made.tar" if "tar" in options else "made.tar.zst")


async def export(bundle: Path, form: str, output: Path, *options: str | Path, home: Path) -> Ran:
    return await syncer("export", "--bundle", bundle, "--format", form, "--output", output, *options, home=home)


async def pushed(source: str, registry: Registry, name: str, *options: str) -> None:
    target = f"docker://{registry.address}/{name}"
    copied = await run("skopeo", "copy", "--dest-tls-verify=false", *options, source, target)
    assert copied.code == 0, copied.stderr


@pytest.mark.parametrize(("form", "transport"), [("oci-archive", "oci-archive"), ("oci-dir", "oci")])
async def test_skopeo_takes_a_layout_with_every_platform(
    debian_registry: OpenRegistry, tmp_path: Path, form: str, transport: str
) -> None:
    async with debian_registry() as registry:
        bundle = await built(registry, tmp_path)
        ran = await export(bundle, form, tmp_path / "out", home=tmp_path)
        name = f"{registry.address}/multi:1"
        await pushed(f"{transport}:{tmp_path}/out:{name}", registry, "again", "--all")

        assert ran.code == 0, ran.stderr
        assert "2 images exported to" in ran.stdout
        assert "2 charts, signatures and other artifacts beside its images, not exported" in ran.stderr
        await client.assert_holds(registry, "again", MULTI, "latest")


async def test_skopeo_and_podman_load_docker_s_archive(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """One platform of each image, with its original config."""
    async with debian_registry() as registry:
        bundle = await built(registry, tmp_path)
        ran = await export(bundle, "docker-archive", out := tmp_path / "out.tar", "--arch", "arm64", home=tmp_path)
        for name in ("plain", "multi"):
            await pushed(f"docker-archive:{out}:{registry.address}/{name}:1", registry, f"again/{name}")
        held = client.parsed(await client.manifest(registry, "again/multi", "latest"))

        assert ran.code == 0, ran.stderr
        assert held["config"]["digest"] == MULTI.children[1].document["config"]["digest"]
        plain = client.parsed(await client.manifest(registry, "again/plain", "latest"))
        assert plain["config"]["digest"] == PLAIN.document["config"]["digest"]

        optional("podman")
        with tempfile.TemporaryDirectory(dir="/tmp") as short:  # podman takes no path of more than 50 characters
            storage = ["--root", f"{tmp_path}/storage", "--runroot", short, "--storage-driver", "vfs"]
            loaded = await run("podman", *storage, "load", "--input", str(out))
        assert loaded.code == 0, loaded.stderr
        assert f"{registry.address}/plain:1" in loaded.stdout
        assert f"{registry.address}/multi:1" in loaded.stdout


async def test_docker_s_archive_is_a_layout_too(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """As newer versions of `docker save` write it: what reads that keeps digest and platforms."""
    async with debian_registry() as registry:
        bundle = await built(registry, tmp_path)
        await export(bundle, "docker-archive", out := tmp_path / "out.tar", home=tmp_path)
        ran = await syncer("push", "--file", out, "--registry", f"{registry.address}/base", home=tmp_path)

        assert ran.code == 0, ran.stderr
        await client.assert_holds(registry, f"base/{registry.address.replace(':', '_')}/multi", MULTI, "1")
    with tarfile.open(out) as archive:
        (listed,) = [each for each in json.load(archive.extractfile("manifest.json")) if len(each["Layers"]) == 2][:1]  # type: ignore[arg-type]
        assert {listed["Config"], *listed["Layers"]} <= set(archive.getnames())


async def imported(ctr: list[str], path: Path) -> dict[str, str]:
    """The names and digests that containerd has after it imported ``path``, and unpacked it for this machine."""
    ended = await run("ctr", *ctr, "images", "import", "--snapshotter", "native", str(path))
    assert ended.code == 0, ended.stderr
    listed = await run("ctr", *ctr, "images", "list")
    rows = [line.split() for line in listed.stdout.splitlines()[1:]]
    return {row[0]: row[2] for row in rows}


async def test_containerd_imports_an_export(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """Under the names that a kubelet asks for: by tag, and by digest where a reference has both."""
    async with debian_registry() as registry, containerd() as ctr:
        pinned = f"{registry.address}/multi:1@{MULTI.digest}"
        bundle = await built(registry, tmp_path, f"--image={pinned}")
        ran = await export(bundle, "oci-archive", out := tmp_path / "out.tar", home=tmp_path)
        assert ran.code == 0, ran.stderr

        assert await imported(ctr, out) == {
            f"{registry.address}/plain:1": PLAIN.digest,
            f"{registry.address}/multi:1": MULTI.digest,
            f"{registry.address}/multi@{MULTI.digest}": MULTI.digest,
        }


async def test_containerd_imports_a_bundle(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """As k3s and RKE2 do with what lies in their directory of images, here without charts and signatures."""
    async with debian_registry() as registry, containerd() as ctr:
        await client.push(registry, "multi", MULTI, "1")
        arguments = ("--image", f"{registry.address}/multi:1", "--name", "made", "--output", tmp_path)
        assert (await syncer("build", *arguments, "--format", "tar", home=tmp_path)).code == 0

        assert await imported(ctr, tmp_path / "made.tar") == {f"{registry.address}/multi:1": MULTI.digest}


async def test_only_what_is_named_is_exported(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """A chart is no image, and goes where it is asked for."""
    async with debian_registry() as registry:
        bundle = await built(registry, tmp_path)
        name = f"{registry.address}/chart:1.0.0"
        ran = await export(bundle, "oci-dir", tmp_path / "out", "--image", name, "--json", home=tmp_path)
        refused = await export(bundle, "docker-archive", tmp_path / "out.tar", "--image", name, home=tmp_path)

    assert (ran.code, ran.stderr) == (0, "")
    assert ran.json["images"] == [name]
    assert ran.json["bytes"] == len(CHART.content) + CHART.size
    with open_bundle(tmp_path / "out") as found:
        assert [image.name for image in found.images] == [name]
    assert refused.code == 2
    assert "docker's archive holds images only" in refused.stderr


async def test_all_that_cannot_be_exported_is_named_at_once(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry() as registry:
        bundle = await built(registry, tmp_path)
        options = ["--image", "busybox:9", "--image", f"{registry.address}/plain:1", "--image", "other:9"]
        unknown = await export(bundle, "oci-archive", tmp_path / "out.tar", *options, home=tmp_path)
        other = await export(bundle, "oci-archive", tmp_path / "out.tar", "--arch", "riscv64", home=tmp_path)

    assert (unknown.code, other.code) == (2, 4)
    assert "holds no docker.io/library/busybox:9, docker.io/library/other:9" in unknown.stderr
    assert f"these have no such platform: {registry.address}/multi:1" in other.stderr
    assert not (tmp_path / "out.tar").exists()


async def test_what_is_there_is_replaced_only_by_force(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry() as registry:
        bundle = await built(registry, tmp_path)
        (out := tmp_path / "out.tar").write_bytes(b"mine")
        refused = await export(bundle, "oci-archive", out, home=tmp_path)
        kept = out.read_bytes()
        replaced = await export(bundle, "oci-archive", out, "--force", home=tmp_path)
        again = await export(bundle, "oci-archive", tmp_path / "again.tar", home=tmp_path)
        (full := tmp_path / "full").mkdir()
        (full / "mine").write_bytes(b"")
        directory = await export(bundle, "oci-dir", full, "--force", home=tmp_path)

    assert (refused.code, replaced.code, again.code, directory.code) == (2, 0, 0, 2)
    assert kept == b"mine"
    assert out.read_bytes() == (tmp_path / "again.tar").read_bytes()
    assert [path.name for path in full.iterdir()] == ["mine"]


async def test_a_pipe_and_standard_output_get_an_archive(
    debian_registry: OpenRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with debian_registry() as registry:
        bundle = await built(registry, tmp_path)
    await export(bundle, "oci-archive", out := tmp_path / "out.tar", home=tmp_path)
    os.mkfifo(pipe := tmp_path / "pipe")
    reader, writer = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), os.open(pipe, os.O_WRONLY)
    os.set_blocking(reader, True)
    received = bytearray()

    def receive() -> None:
        with open(reader, "rb", buffering=0) as pipe:  # noqa: PTH123 - a descriptor
            while piece := pipe.read(1_000_000):
                received.extend(piece)

    async with create_task_group() as tasks:
        tasks.start_soon(to_thread.run_sync, receive)
        ran = await export(bundle, "oci-archive", pipe, home=tmp_path)
        os.close(writer)
    printed = await export(bundle, "oci-archive", Path("-"), home=tmp_path)

    assert (ran.code, ran.stdout) == (0, f"2 images exported to {pipe}\n")
    assert received == out.read_bytes()
    assert pipe.is_fifo()
    assert printed.stdout.encode(errors="surrogateescape") == out.read_bytes()
    assert printed.stderr.endswith("2 images exported to /dev/stdout\n")
    assert not Path("-").exists()


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "oci-dir"])
async def test_altered_content_is_not_exported(debian_registry: OpenRegistry, tmp_path: Path, form: str) -> None:
    """Every byte is hashed on its way; nothing is left where it would have been."""
    async with debian_registry() as registry:
        bundle = await built(registry, tmp_path, "--format", "tar")
    base = bytearray(bundle.read_bytes())
    place = base.index(_base(MULTI)) + 100_000
    base[place] ^= 1
    bundle.write_bytes(base)
    (out := tmp_path / "out").mkdir()

    ran = await export(bundle, form, out / "exported", "--arch", "amd64", home=tmp_path)

    assert ran.code == 6
    assert "is not what its digest names" in ran.stderr
    assert list(out.iterdir()) == []


def _base(image: Image) -> bytes:
    content: bytes = image.children[0].blobs[image.children[0].document["layers"][0]["digest"]]
    return content


async def test_an_export_that_is_killed_leaves_no_file_of_that_name(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry() as registry:
        bundle = await built(registry, tmp_path)
    (out := tmp_path / "out.tar").write_bytes(b"mine")

    arguments = ("--bundle", bundle, "--format", "oci-archive", "--output", out, "--force")
    ran = await syncer("export", *arguments, home=tmp_path, SYNCER_FAILPOINT="files.written=kill")

    assert ran.code == -9
    assert out.read_bytes() == b"mine"
