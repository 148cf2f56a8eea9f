"""What other tools save is pushed as it is where the archive has it, and made again where it has not."""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from syncer.bundle import check_structure, open_bundle, verify_bundle
from syncer.errors import InvalidArchive, InvalidBundle
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support import saved_archives as saved
from tests.support.cli import Ran, environment, syncer
from tests.support.images import Image
from tests.support.programs import containerd, run
from tests.support.registries import Registry

NAME = "registry.example/team/app:v1"
LANDS = ("base/registry.example/team/app", "v1")


def optional(program: str) -> str:
    """The path of a program that no package of Debian has; without it the test is skipped, in CI too."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"needs {program}")
    return path


async def push(home: Path, path: Path, registry: Registry, *options: str, **variables: str) -> Ran:
    target = f"{registry.address}/base"
    return await syncer("push", "--file", path, "--registry", target, *options, home=home, **variables)


async def pulled(registry: Registry, repository: str, tag: str, home: Path) -> Path:
    """The image as skopeo pulls it, in a layout."""
    target = home / f"pulled-{repository.replace('/', '-')}-{tag}"
    ended = await run(
        "skopeo",
        "copy",
        "--all",
        "--src-tls-verify=false",
        f"docker://{registry.address}/{repository}:{tag}",
        f"oci:{target}:v1",
    )
    assert ended.code == 0, ended.stderr
    return target


async def assert_same_content(registry: Registry, repository: str, tag: str, image: Image) -> None:
    """The config is the same, and so is each layer once it is unpacked: what a container of it would see."""
    answer = await client.manifest(registry, repository, tag)
    document = client.parsed(answer)
    config = (await client.blob(registry, repository, document["config"]["digest"])).content
    layers = [(await client.blob(registry, repository, each["digest"])).content for each in document["layers"]]

    assert json.loads(config)["rootfs"] == json.loads(saved.config_of(image))["rootfs"]
    assert [gzip.decompress(layer) for layer in layers] == [gzip.decompress(each) for each in saved.layers_of(image)]


Save = Callable[[Registry, Path], Awaitable[Path]]


async def _skopeo(registry: Registry, target: str) -> None:
    source = f"docker://{registry.address}/app:v1"
    copied = await run("skopeo", "copy", "--all", "--src-tls-verify=false", source, target)
    assert copied.code == 0, copied.stderr


async def skopeo_oci_archive(registry: Registry, home: Path) -> Path:
    await _skopeo(registry, f"oci-archive:{home}/saved.tar:{NAME}")
    return home / "saved.tar"


async def skopeo_oci_directory(registry: Registry, home: Path) -> Path:
    await _skopeo(registry, f"oci:{home}/saved:{NAME}")
    return home / "saved"


async def skopeo_docker_archive(registry: Registry, home: Path) -> Path:
    await _skopeo(registry, f"docker-archive:{home}/saved.tar:{NAME}")
    return home / "saved.tar"


def _storage(home: Path) -> list[str]:
    return ["--root", str(home / "storage"), "--runroot", str(home / "run"), "--storage-driver", "vfs"]


async def buildah_docker_archive(registry: Registry, home: Path) -> Path:
    await _skopeo(registry, f"oci:{home}/layout:app")
    got = await run("buildah", *_storage(home), "pull", f"oci:{home}/layout:app")
    assert got.code == 0, got.stderr
    image = got.stdout.split()[-1]
    put = await run("buildah", *_storage(home), "push", image, f"docker-archive:{home}/saved.tar:{NAME}")
    assert put.code == 0, put.stderr
    return home / "saved.tar"


async def podman_save(registry: Registry, home: Path) -> Path:
    optional("podman")
    name = f"{registry.address}/app:v1"
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # podman takes no path of more than 50 characters
        for arguments in (
            ["pull", "--tls-verify=false", name],
            ["tag", name, NAME],
            ["save", "--output", f"{home}/saved.tar", NAME],
        ):
            ended = await run("podman", *_storage(home), "--runroot", short, *arguments)
            assert ended.code == 0, ended.stderr
    return home / "saved.tar"


async def crane_pull(registry: Registry, home: Path) -> Path:
    optional("crane")
    ended = await run("crane", "pull", "--insecure", f"{registry.address}/app:v1", f"{home}/saved.tar")
    assert ended.code == 0, ended.stderr
    return home / "saved.tar"


async def oras_backup(registry: Registry, home: Path) -> Path:
    optional("oras")
    ended = await run("oras", "backup", "--plain-http", "--output", f"{home}/saved.tar", f"{registry.address}/app:v1")
    assert ended.code == 0, ended.stderr
    return home / "saved.tar"


async def oras_layout(registry: Registry, home: Path) -> Path:
    optional("oras")
    source, target = f"{registry.address}/app:v1", f"{home}/saved:v1"
    ended = await run("oras", "cp", "--from-plain-http", "--to-oci-layout", source, target)
    assert ended.code == 0, ended.stderr
    return home / "saved"


async def imgpkg_copy(registry: Registry, home: Path) -> Path:
    optional("imgpkg")
    ended = await run("imgpkg", "copy", "--image", f"{registry.address}/app:v1", "--to-tar", f"{home}/saved.tar")
    assert ended.code == 0, ended.stderr
    return home / "saved.tar"


AS = ("--as", "registry.example/team/app")


@pytest.mark.parametrize(
    ("save", "options"),
    [
        (skopeo_oci_archive, ()),
        (skopeo_oci_directory, ()),
        (oras_backup, AS),
        (oras_layout, AS),
    ],
)
async def test_what_holds_the_original_blobs_is_pushed_as_it_is(
    debian_registry: OpenRegistry, tmp_path: Path, save: Save, options: tuple[str, ...]
) -> None:
    """Every platform, under the digest that the image has always had."""
    image = images.multi_platform("app")
    async with debian_registry() as registry:
        await client.push(registry, "app", image, "v1")
        path = await save(registry, tmp_path)
        pushed = await push(tmp_path, path, registry, *options)
        verified = await syncer(
            "verify", "--file", path, "--registry", f"{registry.address}/base", *options, home=tmp_path
        )

        assert (pushed.code, verified.code) == (0, 0), pushed.stderr + verified.stderr
        await client.assert_holds(registry, LANDS[0], image, LANDS[1])
        assert (await pulled(registry, *LANDS, tmp_path) / "index.json").exists()


async def test_what_imgpkg_saves_keeps_its_digest(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """It keeps manifests and configs as texts, and names the repository that it copied from."""
    image = images.multi_platform("app")
    async with debian_registry() as registry:
        await client.push(registry, "app", image, "v1")
        path = await imgpkg_copy(registry, tmp_path)
        pushed = await push(tmp_path, path, registry)
        lands = f"base/{registry.address.replace(':', '_')}/app"

        assert pushed.code == 0, pushed.stderr
        await client.assert_holds(registry, lands, image)


@pytest.mark.parametrize("save", [skopeo_docker_archive, buildah_docker_archive, podman_save])
async def test_what_a_docker_archive_holds_is_packed_again_the_same_every_time(
    debian_registry: OpenRegistry, tmp_path: Path, save: Save
) -> None:
    image = images.image("app", layers=[images.layer("base", 3_000_000), images.layer("top")])
    async with debian_registry() as registry:
        await client.push(registry, "app", image, "v1")
        path = await save(registry, tmp_path)
        pushed = await push(tmp_path, path, registry)
        again = await push(tmp_path, path, registry)
        verified = await syncer("verify", "--file", path, "--registry", f"{registry.address}/base", home=tmp_path)

        assert (pushed.code, again.code, verified.code) == (0, 0, 0), pushed.stderr + verified.stderr
        assert "the digests of its images are new, and 2 layers were compressed again" in pushed.stderr
        assert "the digests of its images are new" in verified.stdout
        assert "1 (1 unchanged)" in again.stdout
        await assert_same_content(registry, *LANDS, image)
        await pulled(registry, *LANDS, tmp_path)


async def test_what_crane_pulls_keeps_its_layers(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    image = images.image("app", docker=True)
    async with debian_registry() as registry:
        await client.push(registry, "app", image, "v1")
        path = await crane_pull(registry, tmp_path)
        pushed = await push(tmp_path, path, registry)
        lands = f"base/{registry.address.replace(':', '_')}/app"
        document = client.parsed(await client.manifest(registry, lands, "v1"))

        assert pushed.code == 0, pushed.stderr
        assert document["layers"] == image.document["layers"]
        assert document["config"] == image.document["config"]
        assert "the digests of its images are new" in pushed.stderr
        assert "compressed again" not in pushed.stderr


@pytest.mark.parametrize("links", [True, False])
async def test_docker_save_of_old_is_read_with_its_links_and_names(
    debian_registry: OpenRegistry, tmp_path: Path, links: bool
) -> None:
    """Two images on one base, one of them with two names; the base comes again in the second, and is packed once."""
    base = images.layer("base", 200_000)
    one = images.image("one", layers=[base, images.layer("one")])
    two = images.image("two", layers=[base, images.layer("two")])
    named = ((["busybox:1.37", "quay.io/a/one:1"], one), (["two:2"], two))
    path = saved.docker_archive(tmp_path / "images.tar", *named, links=links)
    async with debian_registry() as registry:
        pushed = await push(tmp_path, path, registry)
        defined = await syncer("definition", path, home=tmp_path)

        assert pushed.code == 0, pushed.stderr
        assert "3 layers were compressed again" in pushed.stderr
        await assert_same_content(registry, "base/docker.io/library/busybox", "1.37", one)
        await assert_same_content(registry, "base/quay.io/a/one", "1", one)
        await assert_same_content(registry, "base/docker.io/library/two", "2", two)
    assert defined.code == 0, defined.stderr
    assert "the digests of its images are new" in defined.stderr
    assert "quay.io/a/one:1" in defined.stdout


async def test_an_image_without_a_name_gets_the_one_that_is_given(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    """`docker save ID` names nothing."""
    image = images.image("app")
    path = saved.docker_archive(tmp_path / "images.tar", (None, image))
    async with serve_disk() as registry:
        unnamed = [
            await push(tmp_path, path, registry),
            await syncer("definition", path, home=tmp_path),
            await syncer("build", "--image", NAME, "--existing-bundles", path, "--output", tmp_path, home=tmp_path),
        ]
        named = await push(tmp_path, path, registry, "--as", NAME)

        assert ([each.code for each in unnamed], named.code) == ([2, 2, 2], 0), named.stderr
        assert all("holds an image without a full name" in each.stderr for each in unnamed)
        await assert_same_content(registry, *LANDS, image)


@pytest.mark.parametrize("compression", saved.COMPRESSIONS)
@pytest.mark.parametrize("kind", ["docker", "layout"])
async def test_an_archive_may_be_compressed_as_a_whole(
    serve_disk: OpenRegistry, tmp_path: Path, compression: str, kind: str
) -> None:
    """It is unpacked where temporary files are, and nothing of that is left."""
    image = images.image("app", layers=[images.layer("base", 3_000_000), images.layer("top")])
    named = {"org.opencontainers.image.ref.name": NAME}
    files = saved.layout_files((named, image)) if kind == "layout" else saved.docker_files(([NAME], image))
    (path := tmp_path / "images.tar.packed").write_bytes(saved.COMPRESSIONS[compression](saved.tar_of(files)))
    (temporary := tmp_path / "temporary").mkdir()
    async with serve_disk() as registry:
        pushed = await push(tmp_path, path, registry, TMPDIR=str(temporary))

        assert pushed.code == 0, pushed.stderr
        if kind == "layout":
            await client.assert_holds(registry, LANDS[0], image, LANDS[1])
        else:
            await assert_same_content(registry, *LANDS, image)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("tool", ["zstd", "pzstd", "xz", "gzip", "bzip2"])
async def test_the_programs_compress_in_their_own_ways(tmp_path: Path, tool: str) -> None:
    """pzstd begins with a skippable frame; all are fed twice, which makes two streams."""
    optional(tool)
    files = saved.layout_files(({"org.opencontainers.image.ref.name": NAME}, images.image("app")))
    content = saved.tar_of(files)
    parts = []
    for number, part in enumerate((content[:5_000], content[5_000:])):
        (path := tmp_path / f"part{number}").write_bytes(part)
        ended = await run(tool, "-k", str(path))
        assert ended.code == 0, ended.stderr
        parts += [found.read_bytes() for found in tmp_path.glob(f"part{number}.*")]
    (packed := tmp_path / "images").write_bytes(b"".join(parts))

    with open_bundle(packed) as bundle:
        assert (await verify_bundle(bundle)).images == 1


async def test_a_haul_is_pushed_with_its_signatures(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    """hauler calls a signature by the name of what is signed; it lands where cosign looks for it."""
    image = images.multi_platform("app")
    tag, signature = images.cosign_signature(image)
    sbom = images.referrer(image)
    name = "index.docker.io/team/app:v1"
    files = saved.haul_files(
        ("imageIndex", name, image),
        ("sigs", name, signature),
        (f"referrers/{sbom.digest.partition(':')[2]}", name, sbom),
    )
    (path := tmp_path / "haul.tar.zst").write_bytes(saved.COMPRESSIONS["zstd"](saved.tar_of(files)))
    async with serve_disk() as registry:
        pushed = await push(tmp_path, path, registry)
        verified = await syncer("verify", "--file", path, "--registry", f"{registry.address}/base", home=tmp_path)

        assert (pushed.code, verified.code) == (0, 0), pushed.stderr + verified.stderr
        assert "not read" not in pushed.stderr
        await client.assert_holds(registry, "base/docker.io/team/app", image, "v1")
        await client.assert_holds(registry, "base/docker.io/team/app", signature, tag)
        await client.assert_holds(registry, "base/docker.io/team/app", sbom)


async def test_a_build_draws_on_an_archive_at_hand(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """Its image is not asked of the network; what was made anew is said."""
    image = images.image("app")
    path = saved.docker_archive(tmp_path / "images.tar", (["unreachable.invalid/app:v1"], image))

    built = await syncer(
        *("build", "--image", "unreachable.invalid/app:v1", "--existing-bundles", path),
        *("--output", tmp_path, "--name", "made"),
        home=tmp_path,
    )

    assert built.code == 0, built.stderr
    assert "the digests of its images are new" in built.stderr
    with open_bundle(tmp_path / "made.tar.zst") as bundle:
        assert check_structure(bundle).blobs == 3


async def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    """A tag without a repository, two images of one name, a layer that is not there."""
    one, two = images.image("one"), images.image("two")
    files = saved.docker_files(([":1.0", "app:v1"], one), (["app:v1", "latest"], two))
    lacking = next(name for name in files if name.endswith("layer.tar"))
    del files[lacking]
    (path := tmp_path / "images.tar").write_bytes(saved.tar_of(files))

    ran = await syncer("verify", "--file", path, home=tmp_path)

    assert ran.code == 2
    assert "names an image ':1.0', which is no REPOSITORY:TAG" in ran.stderr
    assert "names an image 'latest', which is no REPOSITORY:TAG" in ran.stderr
    assert f"it lacks '{lacking}' of docker.io/library/app:v1" in ran.stderr


async def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    one, two = images.image("one"), images.image("two")
    path = saved.docker_archive(tmp_path / "images.tar", (["app:v1"], one), (["app:v1"], two))

    ran = await syncer("verify", "--file", path, home=tmp_path)

    assert ran.code == 2
    assert "docker.io/library/app:v1 is the name of two images" in ran.stderr


async def test_a_layer_that_was_altered_is_found(tmp_path: Path) -> None:
    files = saved.docker_files((["app:v1"], images.image("app")))
    name = next(name for name in files if name.endswith("layer.tar"))
    files[name] = saved.tar_of({"evil": b"content"})
    (path := tmp_path / "images.tar").write_bytes(saved.tar_of(files))

    ran = await syncer("verify", "--file", path, home=tmp_path)

    assert ran.code == 2
    assert f"{name} is not the layer sha256:" in ran.stderr


async def test_the_names_of_two_images_in_a_layout_are_told(tmp_path: Path) -> None:
    other = {"org.opencontainers.image.ref.name": "quay.io/team/other:v1"}
    files = saved.layout_files(*((name, images.image(seed)) for name in (NAMED, other) for seed in ("one", "two")))
    (path := tmp_path / "images.tar").write_bytes(saved.tar_of(files))

    ran = await syncer("push", "--file", path, "--registry", "127.0.0.1:9", home=tmp_path)

    assert ran.code == 2
    assert f"index.json gives two images one name: {NAME}, quay.io/team/other:v1\n" in ran.stderr


@pytest.mark.parametrize("rest", [None, 1023])
@pytest.mark.parametrize("compression", [None, *saved.COMPRESSIONS])
async def test_an_archive_that_is_cut_short_says_so(tmp_path: Path, compression: str | None, rest: int | None) -> None:
    """In the middle, or in the zeros at the end, of which a tar has two blocks at least."""
    content = saved.tar_of(saved.docker_files((["app:v1"], images.image("app"))))
    if rest:
        content = content.rstrip(b"\0")
        content += bytes(-len(content) % 512 + rest)
    packed = saved.COMPRESSIONS[compression](content) if compression else content
    (path := tmp_path / "images.tar").write_bytes(packed if rest else packed[: len(packed) // 2])

    ran = await syncer("push", "--file", path, "--registry", "127.0.0.1:9", home=tmp_path)

    assert ran.code == 2
    assert "cut short" in ran.stderr
    assert "hint: copy or save it again" in ran.stderr


SOMETHING: Mapping[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "it is empty"),
    "a text": (lambda: b"apiVersion: v1\nkind: List\n" * 30, "it is a text"),
    "a zip file": (lambda: b"PK\x03\x04" + bytes(600), "it is a zip file"),
    "a compressed text": (lambda: gzip.compress(b"busybox\n" * 300), "what is in it is no tar"),
    "a compressed nothing": (lambda: gzip.compress(b""), "there is nothing in it"),
    "an empty tar": (lambda: saved.tar_of({}), "there is nothing in it"),
    "a chart": (lambda: gzip.compress(saved.tar_of({"app/Chart.yaml": b""})), "it is a Helm chart"),
    "a pack": (lambda: saved.tar_of({"app/pack.json": b"{}"}), "it is a pack of Palette's"),
    "a container": (lambda: saved.tar_of({"etc/passwd": b"", "usr/bin/x": b""}), "docker export"),
    "Docker of 2015": (lambda: saved.tar_of({"repositories": b"{}", "ab/json": b"{}"}), "of a Docker before 1.10"),
    "a manifest of nothing": (lambda: saved.tar_of({"manifest.json": b"[]"}), "lists no image"),
    "a manifest of another kind": (lambda: saved.tar_of({"manifest.json": b"{}"}), "neither an image layout"),
    "a layout without its version": (lambda: saved.tar_of({"index.json": b"{}"}), "it has no oci-layout"),
}


@pytest.mark.parametrize("what", SOMETHING)
async def test_a_file_of_something_else_is_named(tmp_path: Path, what: str) -> None:
    make, says = SOMETHING[what]
    (path := tmp_path / "images.tar").write_bytes(make())

    ran = await syncer("verify", "--file", path, home=tmp_path)

    assert ran.code == 2
    assert says in ran.stderr
    assert ran.stderr.count("\n") == 2  # the sentence and the hint


def hostile_archives() -> dict[str, Callable[[], bytes]]:
    """What no honest tool writes, each refused in one sentence."""
    image = images.image("app")
    files = saved.docker_files((["app:v1"], image))
    config = next(name for name in files if name.endswith(".json") and name != "manifest.json")
    layer = next(name for name in files if name.endswith("layer.tar"))

    def but(**changes: Any) -> bytes:
        (entry,) = json.loads(files["manifest.json"])
        return saved.tar_of(files | {"manifest.json": saved.encoded([entry | changes])})

    def with_files(**changes: bytes | str) -> bytes:
        return saved.tar_of(files | changes)

    return {
        "a layer that is a link out of the archive": lambda: with_files(**{layer: "../../../../etc/passwd"}),
        "a layer that is a link to a device": lambda: with_files(**{layer: "/dev/zero"}),
        "a layer that is a link to itself": lambda: with_files(**{layer: "layer.tar"}),
        "a config that is a link to a link": lambda: with_files(**{config: "a", "a": "b", "b": "manifest.json"}),
        "a layer whose path climbs": lambda: but(Layers=["../../etc/passwd", layer]),
        "layers that are no list": lambda: but(Layers="layer.tar"),
        "a layer that is a number": lambda: but(Layers=[7, 8]),
        "a config that is a list": lambda: but(Config=["a"]),
        "names that are a text": lambda: but(RepoTags="app:v1"),
        "a name that is an object": lambda: but(RepoTags=[{}]),
        "a name with a login": lambda: but(RepoTags=["user:password@evil.example/app:v1"]),
        "too few layers": lambda: but(Layers=[layer]),
        "a config that is no JSON": lambda: with_files(**{config: b"{"}),
        "a config without layers": lambda: with_files(**{config: b"{}"}),
        "a config whose layers are no digests": lambda: with_files(**{config: b'{"rootfs":{"diff_ids":[1,2]}}'}),
        "a manifest.json with a key twice": lambda: with_files(**{"manifest.json": b'[{"Layers":[],"Layers":[]}]'}),
        "a manifest.json as deep as a well": lambda: with_files(**{"manifest.json": b"[" * 100_000}),
        "a file whose name climbs": lambda: with_files(**{"../../evil": b"x"}),
        "an image of imgpkg's that is nothing": lambda: saved.tar_of({"manifest.json": b'[{"Image":null}]'}),
        "an image of imgpkg's that is a text": lambda: saved.tar_of({"manifest.json": b'[{"Image":"x"}]'}),
        "an image of imgpkg's of another digest": lambda: saved.tar_of(
            {
                "manifest.json": saved.encoded(
                    [{"Image": {"Manifest": {"Raw": "{}", "Digest": f"sha256:{'0' * 64}"}, "Config": {"Raw": "{}"}}}]
                )
            }
        ),
        "an xz that needs a gigabyte": _xz_of_a_large_dictionary,
        "garbage after gzip": lambda: gzip.compress(saved.tar_of(files)) + b"garbage",
        "a second tar after the first": lambda: gzip.compress(saved.tar_of(files) * 2),
    }


def _xz_of_a_large_dictionary() -> bytes:
    import lzma  # noqa: PLC0415

    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    return lzma.compress(saved.tar_of(saved.docker_files((["app:v1"], images.image("app")))), filters=filters)


HOSTILE = hostile_archives()


@pytest.mark.parametrize("threat", HOSTILE)
async def test_a_hostile_archive_is_refused_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threat: str
) -> None:
    (path := tmp_path / "images.tar").write_bytes(HOSTILE[threat]())
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))

    with pytest.raises(InvalidBundle) as refused, open_bundle(path) as bundle:
        check_structure(bundle)

    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 1200
    assert list(temporary.iterdir()) == []


def unpack(path: Path, files: saved.Files) -> Path:
    """The files in a directory."""
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        assert isinstance(content, bytes)
        (path / name).write_bytes(content)
    return path


NAMED = {"org.opencontainers.image.ref.name": NAME}


async def test_a_directory_is_read_as_it_lies(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    """With what tools leave in it: an empty folder for what comes in, a lock."""
    image = images.multi_platform("app")
    store = unpack(tmp_path / "store", saved.layout_files((NAMED, image)) | {"index.json.lock": b""})
    (store / "ingest").mkdir()
    async with serve_disk() as registry:
        pushed = await push(tmp_path, store, registry)
        verified = await syncer("verify", "--file", store, home=tmp_path)

        assert (pushed.code, verified.code) == (0, 0), pushed.stderr + verified.stderr
        assert "1 member that is no part of an image layout, not read: index.json.lock" in pushed.stderr
        await client.assert_holds(registry, LANDS[0], image, LANDS[1])


def test_a_directory_holds_files_and_nothing_that_leads_elsewhere(tmp_path: Path) -> None:
    image = images.image("app")
    files = saved.layout_files((NAMED, image))
    for number, name in enumerate(["index.json", f"blobs/{image.digest.replace(':', '/')}", "blobs/sha256", "blobs"]):
        store = unpack(tmp_path / f"store{number}", files)
        (store / name).rename(elsewhere := tmp_path / f"elsewhere{number}")
        (store / name).symlink_to(elsewhere)

        with pytest.raises(InvalidArchive, match="which is no regular file"), open_bundle(store):
            pass


def test_a_file_of_a_directory_that_becomes_a_link_is_not_followed(tmp_path: Path) -> None:
    image = images.image("app")
    store = unpack(tmp_path / "store", saved.layout_files((NAMED, image)))
    blob = store / f"blobs/{image.digest.replace(':', '/')}"

    with open_bundle(store) as bundle:
        blob.rename(tmp_path / "elsewhere")
        blob.symlink_to(tmp_path / "elsewhere")

        with pytest.raises(InvalidBundle, match="cannot be read"):
            check_structure(bundle)


@pytest.mark.parametrize("flag", [False, True])
async def test_what_oras_lists_beside_an_image_is_its_own(serve_disk: OpenRegistry, tmp_path: Path, flag: bool) -> None:
    """It lists every manifest of its store: the platforms of an index, which are no images, and referrers."""
    image = images.multi_platform("app")
    sbom = images.referrer(image)
    about_one = images.referrer(image.children[0])
    tagged: Mapping[str, str] = NAMED if flag else {"org.opencontainers.image.ref.name": "v1"}
    others: list[tuple[Mapping[str, str], Image]] = [({}, each) for each in (*image.children, sbom, about_one)]
    (path := tmp_path / "saved.tar").write_bytes(saved.tar_of(saved.layout_files((tagged, image), *others)))
    async with serve_disk() as registry:
        pushed = await push(tmp_path, path, registry, *(() if flag else AS))

        assert pushed.code == 0, pushed.stderr
        assert "no full name" not in pushed.stderr
        await client.assert_holds(registry, LANDS[0], image, LANDS[1])
        await client.assert_holds(registry, LANDS[0], sbom)
        await client.assert_holds(registry, LANDS[0], about_one)
        assert await client.tags(registry, LANDS[0]) == ["v1"]


async def test_room_is_asked_for_before_a_layer_is_unpacked(tmp_path: Path) -> None:
    """A kilobyte of gzip may announce a layer of a terabyte: nothing of it is written."""
    layer = tarfile.TarInfo("blobs/sha256/" + "0" * 64)
    layer.size = 2**44
    (path := tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(layer.tobuf(tarfile.GNU_FORMAT) + bytes(100_000)))

    ran = await syncer("verify", "--file", path, home=tmp_path)

    assert ran.code == 5
    assert "must be unpacked, which needs at least 17.6 TB, and " in ran.stderr
    assert "hint: set TMPDIR" in ran.stderr


def with_zeros(content: bytes, count: int) -> bytes:
    """``content`` and so many zeros (whole MiB), by gzip; its checksum at the end is that of fewer."""
    packer = zlib.compressobj(wbits=31)
    head = packer.compress(content) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)  # the same bytes each time
    return head + block * (count // 2**20) + packer.flush()


def test_zeros_without_end_are_given_up(tmp_path: Path) -> None:
    """Behind the end of a tar there may be a megabyte of them, and not four gigabytes."""
    (path := tmp_path / "bomb.tar.gz").write_bytes(
        with_zeros(saved.tar_of(saved.layout_files((NAMED, images.image("app")))), 2**32)
    )
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.bundle_inspector", str(path)], capture_output=True, text=True, check=True
    )
    said, peak = ended.stdout.splitlines()

    assert "more than 1,048,576 bytes follow the end of its tar" in said
    assert int(peak) < 150, said  # megabytes


def test_memory_does_not_grow_with_a_layer_that_is_packed(tmp_path: Path) -> None:
    plain = b"".join(images.noise(str(number), 2**20) for number in range(180))
    image = images.image("app", layers=[images.layer_of(saved.tar_of({"large": plain}))])
    (path := tmp_path / "images.tar.zst").write_bytes(
        saved.COMPRESSIONS["zstd"](saved.tar_of(saved.docker_files((["app:v1"], image))))
    )
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.bundle_inspector", str(path)], capture_output=True, text=True, check=True
    )

    assert int(ended.stdout.splitlines()[-1]) < 150, ended.stdout  # megabytes


async def test_a_signal_ends_the_unpacking(tmp_path: Path) -> None:
    """At once, with nothing left."""
    large = tarfile.TarInfo("blobs/sha256/" + "0" * 64)
    large.size = 2**31
    (path := tmp_path / "images.tar.gz").write_bytes(with_zeros(large.tobuf(tarfile.GNU_FORMAT), large.size))
    (temporary := tmp_path / "temporary").mkdir()
    process = await anyio.open_process(
        [sys.executable, "-m", "syncer", "verify", "--file", str(path)],
        env=environment(tmp_path) | {"TMPDIR": str(temporary)},
    )
    async with process:
        while not any(target.startswith(str(temporary)) for target in open_files(process.pid)):  # noqa: ASYNC110
            await anyio.sleep(0.01)  # no event tells
        process.send_signal(signal.SIGINT)
        with anyio.fail_after(10):
            assert await process.wait() == 130
        assert process.stderr is not None
        assert b"stopped;" in await process.stderr.receive()  # by itself: it was not killed for taking too long
    assert list(temporary.iterdir()) == []


def open_files(pid: int) -> list[str]:
    """The files that a process has open, as far as they are still open when one looks."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found.append(str(link.readlink()))
    return found


async def test_an_image_of_which_one_platform_was_pulled_is_that_platform(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """containerd, and so docker since version 29, saves the index of all with the platforms that it has."""
    image = images.multi_platform("app", attested=True)
    async with debian_registry() as registry, containerd() as ctr:
        await client.push(registry, "app", image, "v1")
        name = f"{registry.address}/app:v1"
        for arguments in (
            ["pull", "--plain-http", "--snapshotter", "native", "--platform", "linux/arm64", name],
            ["export", "--platform", "linux/arm64", f"{tmp_path}/saved.tar", name],
        ):
            ended = await run("ctr", *ctr, "images", *arguments)
            assert ended.code == 0, ended.stderr
        pushed = await push(tmp_path, tmp_path / "saved.tar", registry)
        lands = f"base/{registry.address.replace(':', '_')}/app"

        assert pushed.code == 0, pushed.stderr
        assert f"it holds not every platform of {name}" in pushed.stderr
        await client.assert_holds(registry, lands, image.children[1], "v1")


async def test_an_image_keeps_the_platforms_that_are_there(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    """Of two or more an index is made, the same every time; without docker's manifest.json what lacks is damage."""
    image = images.multi_platform("app")
    files = saved.layout_files(({"io.containerd.image.name": NAME}, image))
    del files[f"blobs/{image.children[0].document['layers'][0]['digest'].replace(':', '/')}"]
    del files[f"blobs/{image.children[0].digest.replace(':', '/')}"]
    (path := tmp_path / "saved.tar").write_bytes(saved.tar_of(files | {"manifest.json": b"[]"}))
    (damaged := tmp_path / "damaged.tar").write_bytes(saved.tar_of(files))
    async with serve_disk() as registry:
        pushed = await push(tmp_path, path, registry)
        again = await push(tmp_path, path, registry)
        refused = await push(tmp_path, damaged, registry)
        held = client.parsed(await client.manifest(registry, *LANDS))

        assert (pushed.code, again.code, refused.code) == (0, 0, 6), pushed.stderr
        assert [each["digest"] for each in held["manifests"]] == [each.digest for each in image.children[1:]]
        assert "1 (1 unchanged)" in again.stdout
        assert "it lacks sha256:" in refused.stderr


def imgpkg_files(image: Image) -> dict[str, bytes | str]:
    """What imgpkg keeps of one image (imgpkg, imagedesc/types.go)."""
    entry = {
        "Refs": [f"registry.example/app@{image.digest}"],
        "Config": {"Raw": saved.config_of(image).decode()},
        "Manifest": {"MediaType": image.media_type, "Digest": image.digest, "Raw": image.content.decode()},
    }
    layers = {f"sha256-{hashlib.sha256(each).hexdigest()}.tar.gz": each for each in saved.layers_of(image)}
    return {"manifest.json": saved.encoded([{"Image": entry}]), **layers}


SOUND = {
    "docker": saved.docker_files(([NAME], images.image("app")), (["b:1", "c:2"], images.image("other"))),
    "haul": saved.haul_files(
        ("image", "index.docker.io/a/b:1", images.image("app")),
        ("sigs", "index.docker.io/a/b:1", images.cosign_signature(images.image("app"))[1]),
    ),
    "imgpkg": imgpkg_files(images.image("app")),
    "one platform": {
        name: content
        for name, content in saved.layout_files(
            ({"io.containerd.image.name": NAME}, images.multi_platform("app"))
        ).items()
        if name != f"blobs/{images.multi_platform('app').children[0].digest.replace(':', '/')}"
    }
    | {"manifest.json": b"[]"},
}


def spots(document: Any) -> list[tuple[Any, Any]]:
    """Every place in a JSON document, as what it is in and its key there."""
    keys = list(document) if isinstance(document, dict) else list(range(len(document)))
    inner = [document[key] for key in keys]
    below = [spot for value in inner if isinstance(value, dict | list) for spot in spots(value)]
    return [(document, key) for key in keys] + below


VALUES: list[Any] = [None, True, 7, -1, 1.5, 10**30, "", "x", ":", "a:b", "..", "/", f"sha256:{'0' * 64}", [], {}, [[]]]


@pytest.mark.parametrize("kind", SOUND)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_an_archive_says_is_understood_or_refused(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    """Any value in any place of its documents."""
    files = dict(SOUND[kind])
    documents = [name for name, content in files.items() if isinstance(content, bytes) and content[:1] in (b"{", b"[")]
    name = data.draw(st.sampled_from(documents))
    content = files[name]
    assert isinstance(content, bytes)
    document = json.loads(content)
    for _ in range(data.draw(st.integers(0, 2))):
        if found := spots(document):
            inside, key = data.draw(st.sampled_from(found))
            inside[key] = copy.deepcopy(data.draw(st.sampled_from(VALUES)))
    files[name] = saved.encoded(document)
    (path := tmp_path / "images.tar").write_bytes(saved.tar_of(files))

    with suppress(InvalidBundle), open_bundle(path) as bundle:
        check_structure(bundle)


async def test_one_platform_with_its_attestation_is_that_platform(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    """Under the digest that it has always had, which an index of the two would not have."""
    image = images.multi_platform("app", attested=True)
    kept = (image.children[1], image.children[4])
    files = saved.layout_files(({"io.containerd.image.name": NAME}, image))
    there = {"oci-layout", "index.json", *(f"blobs/{each.digest.replace(':', '/')}" for each in (image, *kept))}
    there |= {f"blobs/{digest.replace(':', '/')}" for each in kept for digest in each.blobs}
    content = {name: content for name, content in files.items() if name in there} | {"manifest.json": b"[]"}
    (path := tmp_path / "saved.tar").write_bytes(saved.tar_of(content))
    async with serve_disk() as registry:
        pushed = await push(tmp_path, path, registry)

        assert pushed.code == 0, pushed.stderr
        await client.assert_holds(registry, LANDS[0], image.children[1], LANDS[1])


async def test_an_archive_of_imgpkg_keeps_its_digest_also_where_imgpkg_is_not_here(
    serve_disk: OpenRegistry, tmp_path: Path
) -> None:
    image = images.image("app")
    (path := tmp_path / "saved.tar").write_bytes(saved.tar_of(imgpkg_files(image)))
    async with serve_disk() as registry:
        pushed = await push(tmp_path, path, registry)

        assert (pushed.code, pushed.stderr) == (0, "")
        await client.assert_holds(registry, "base/registry.example/app", image)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
async def test_layers_that_are_compressed_stay_as_they_are(
    serve_disk: OpenRegistry, tmp_path: Path, compression: images.Compression
) -> None:
    """As crane writes them; Docker has no media type for zstd, so the manifest is OCI's then."""
    image = images.image("app", layers=[images.layer("base", compression=compression)])
    config, (layer,) = saved.config_of(image), saved.layers_of(image)
    manifest = [{"Config": "sha256:config", "RepoTags": [NAME], "Layers": ["layer.tar.gz"]}]
    files = {"sha256:config": config, "layer.tar.gz": layer, "manifest.json": saved.encoded(manifest)}
    (path := tmp_path / "saved.tar").write_bytes(saved.tar_of(files))
    async with serve_disk() as registry:
        pushed = await push(tmp_path, path, registry)
        held = client.parsed(await client.manifest(registry, *LANDS))

        assert pushed.code == 0, pushed.stderr
        assert "the digests of its images are new" in pushed.stderr
        assert "compressed again" not in pushed.stderr
        assert [each["digest"] for each in held["layers"]] == [images.digest_of(layer)]
        assert held["config"]["digest"] == images.digest_of(config)
        assert held["mediaType"] == (images.DOCKER_MANIFEST if compression == "gzip" else images.OCI_MANIFEST)
        assert held["layers"][0]["mediaType"] == (
            images.DOCKER_LAYER if compression == "gzip" else f"{images.OCI_LAYER}+zstd"
        )


async def test_a_name_of_the_file_is_the_name_of_the_bundle(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    """For a directory too; of a link it is the link's."""
    files = saved.layout_files((NAMED, images.image("app")))
    (tmp_path / "one.tgz").write_bytes(gzip.compress(saved.tar_of(files)))
    unpack(tmp_path / "two", files)
    (tmp_path / "three.tar.gz").symlink_to("one.tgz")
    async with serve_disk() as registry:
        for name in ("one.tgz", "two", "three.tar.gz"):
            assert (await push(tmp_path, tmp_path / name, registry)).code == 0

        assert sorted(await client.tags(registry, "base/bundle-definition")) == ["one", "three", "two"]


async def test_without_a_place_for_temporary_files_only_what_is_unpacked_fails(tmp_path: Path) -> None:
    """As on a disk that is full; an archive that is read in place needs none."""
    content = saved.tar_of(saved.layout_files((NAMED, images.image("app"))))
    (tmp_path / "plain.tar").write_bytes(content)
    (tmp_path / "packed.tar.gz").write_bytes(gzip.compress(content))
    program = 'ulimit -f 0; exec "$0" -W error -m syncer verify --file "$1"'
    ended = [
        subprocess.run(  # noqa: ASYNC221
            ["bash", "-c", program, sys.executable, path],
            check=False,
            capture_output=True,
            text=True,
            env=environment(tmp_path),
        )
        for path in (tmp_path / "plain.tar", tmp_path / "packed.tar.gz")
    ]

    assert [each.returncode for each in ended] == [0, 5], ended
    assert "no temporary file can be made" in ended[1].stderr
    assert "hint: set TMPDIR" in ended[1].stderr
