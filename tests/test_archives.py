"""Archives of other tools: images without a full name, members beside the layout, and files that hold nothing."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from syncer.bundle import open_bundle
from syncer.bundle.tar import parse_pax
from syncer.errors import InvalidBundle
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support import hostile_bundles as made
from tests.support.cli import Ran, syncer
from tests.support.programs import run
from tests.support.registries import Registry

CONTENT = [(made.blob_name(content), content) for content in (made.MANIFEST, made.CONFIG, made.LAYER)]
LAYOUT = ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
SECOND = made.encoded(made.manifest_of(annotations={"number": "two"}))


def archive(path: Path, *names: str | None, extra: Sequence[tuple[str, bytes | None]] = (), folder: str = "") -> Path:
    """An archive whose index.json lists one image under each of ``names``, and the second image from the second on."""
    entries: list[Any] = []
    for number, name in enumerate(names):
        entry = made.described(made.MANIFEST if number == 0 else SECOND, made.OCI_MANIFEST)
        entries.append(entry | {"annotations": {made.REF_NAME: name}} if name is not None else entry)
    more = [(made.blob_name(SECOND), SECOND)] if len(names) > 1 else []
    index = ("index.json", made.encoded(made.index_of(*entries)))
    with tarfile.open(path, "w") as tar:
        for name, content in [
            *extra,
            *((folder + name, content) for name, content in [LAYOUT, *CONTENT, *more, index]),
        ]:
            member = tarfile.TarInfo(name)
            if content is None:
                member.type = tarfile.DIRTYPE
            else:
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content or b""))
    return path


async def push(home: Path, path: Path, registry: Registry, *options: str) -> Ran:
    return await syncer("push", "--file", path, "--registry", f"{registry.address}/base", *options, home=home)


@pytest.mark.parametrize(
    ("skopeo_name", "given", "lands"),
    [
        ("", "registry.example:5000/team/app:2.0", ("base/registry.example_5000/team/app", "2.0")),
        ("", "busybox:1.37", ("base/docker.io/library/busybox", "1.37")),
        (":1.0", "busybox:1.37", ("base/docker.io/library/busybox", "1.37")),
        (":1.0", "quay.io/team/app", ("base/quay.io/team/app", "1.0")),
    ],
)
async def test_an_archive_of_skopeo_is_pushed_under_the_name_that_is_given(
    debian_registry: OpenRegistry, tmp_path: Path, skopeo_name: str, given: str, lands: tuple[str, str]
) -> None:
    """skopeo writes no name, or the bare tag that follows the file's: without --as that is an error that names --as."""
    image = images.image("app")
    path = tmp_path / "app.tar"
    async with debian_registry() as registry:
        await client.push(registry, "app", image, "v1")
        source = f"docker://{registry.address}/app:v1"
        copied = await run("skopeo", "copy", "--src-tls-verify=false", source, f"oci-archive:{path}{skopeo_name}")
        assert copied.code == 0, copied.stderr
        unnamed = await push(tmp_path, path, registry)
        before = await client.repositories(registry)
        foreseen = await syncer(
            "plan", "--file", path, "--registry", f"{registry.address}/base", "--as", given, "--json", home=tmp_path
        )
        named = await push(tmp_path, path, registry, "--as", given)
        verified = await syncer(
            "verify", "--file", path, "--registry", f"{registry.address}/base", "--as", given, home=tmp_path
        )

        assert (unnamed.code, before) == (2, ["app"])
        assert "holds an image without a full name" in unnamed.stderr
        assert "--as NAME:TAG" in unnamed.stderr
        assert (foreseen.code, named.code, verified.code) == (0, 0, 0), foreseen.stderr + named.stderr + verified.stderr
        assert foreseen.json["images"][0]["target"] == f"{registry.address}/{lands[0]}:{lands[1]}"
        await client.assert_holds(registry, lands[0], image, lands[1])


async def test_mapping_applies_to_the_name_that_is_given(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    path = archive(tmp_path / "app.tar", "1.0", "2.0")
    async with serve_disk() as registry:
        pushed = await push(tmp_path, path, registry, "--as", "busybox", "--map", "docker.io/library=mirror")

        assert pushed.code == 0, pushed.stderr
        assert "base/mirror/busybox" in await client.repositories(registry)
        assert sorted(await client.tags(registry, "base/mirror/busybox")) == ["1.0", "2.0"]


async def test_a_copy_gives_the_file_its_names_for_good(tmp_path: Path) -> None:
    path = archive(tmp_path / "app.tar", "1.0")

    copied = await syncer(
        "copy", "--source", path, "--destination", tmp_path / "named.tar.zst", "--as", "quay.io/app", home=tmp_path
    )

    assert copied.code == 0, copied.stderr
    with open_bundle(tmp_path / "named.tar.zst") as bundle:
        assert [image.name for image in bundle.images] == ["quay.io/app:1.0"]


@pytest.mark.parametrize("command", ["push", "verify", "plan", "copy"])
async def test_a_file_in_which_no_image_has_a_name_is_an_error(tmp_path: Path, command: str) -> None:
    """Nothing understood is not nothing to do: the entries are named, whatever the command."""
    path = archive(tmp_path / "app.tar", "1.0", None)
    arguments: dict[str, list[str | Path]] = {
        "push": ["--file", path, "--registry", "127.0.0.1:9"],
        "verify": ["--file", path],
        "plan": ["--file", path, "--registry", "127.0.0.1:9"],
        "copy": ["--source", path, "--destination", tmp_path / "copy.tar"],
    }

    ran = await syncer(command, *arguments[command], home=tmp_path)

    assert ran.code == 2
    assert "holds 2 images without a full name, and nothing else: 1.0 (sha256:" in ran.stderr
    assert "hint: push, verify, plan, copy and export take --as " in ran.stderr
    assert "one without any name (sha256:" in ran.stderr
    assert not (tmp_path / "copy.tar").exists()


@pytest.mark.parametrize(
    ("names", "given", "says"),
    [
        (("1.0", "2.0"), "quay.io/app:3.0", "names one image, and the file holds 1.0"),
        (("1.0", None), "quay.io/app", "there is no tag for one without any name"),
        (("quay.io/app:1.0",), "quay.io/app", "every image of this file has one"),
        (("quay.io/app:1.0", "1.0"), "quay.io/app", "the name of another one in the file: quay.io/app:1.0"),
        (("1.0",), f"quay.io/app@sha256:{'0' * 64}", "has a digest"),
        (("1.0",), "Quay/App", "is not an image reference"),
    ],
)
async def test_a_name_that_does_not_fit_is_an_error(
    tmp_path: Path, names: tuple[str | None, ...], given: str, says: str
) -> None:
    path = archive(tmp_path / "app.tar", *names)

    ran = await syncer("verify", "--file", path, "--as", given, home=tmp_path)

    assert ran.code == 2
    assert says in ran.stderr


async def test_images_without_a_name_beside_others_are_named_and_not_taken(
    serve_disk: OpenRegistry, tmp_path: Path
) -> None:
    path = archive(tmp_path / "app.tar", "quay.io/app:1.0", "2.0")
    async with serve_disk() as registry:
        pushed = await push(tmp_path, path, registry)
        verified = await syncer("verify", "--file", path, home=tmp_path)

        assert "base/quay.io/app" in await client.repositories(registry)
    assert (pushed.code, verified.code) == (0, 0)
    assert "holds 1 image that has no full name, not taken: 2.0 (sha256:" in pushed.stderr
    assert "unnamed: 1 images without a full name, not taken: 2.0 (sha256:" in verified.stdout


async def test_a_file_that_holds_nothing_says_so(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    """Nothing to do is exit 0, and neither `pushed` nor a definition."""
    path = archive(tmp_path / "empty.tar")
    async with serve_disk() as registry:
        pushed = await push(tmp_path, path, registry)
        verified = await syncer("verify", "--file", path, home=tmp_path)

        assert await client.repositories(registry) == []
    assert (pushed.code, verified.code) == (0, 0)
    assert "local bundle empty holds no image: there was nothing to push" in pushed.stdout
    assert "nothing: it holds no image" in verified.stdout


@pytest.mark.parametrize(
    "options", [["--dry-run"], ["--build-type", "remote", "--registry", "127.0.0.1:9"], ["--format", "tar"]]
)
async def test_a_list_or_a_definition_without_images_is_nothing_to_build_from(
    tmp_path: Path, options: list[str]
) -> None:
    """Whatever would have come of it."""
    (empty := tmp_path / "empty.txt").write_text("# nothing yet\n")
    (definition := tmp_path / "empty.yaml").write_text("apiVersion: syncer/v1\nkind: BundleDefinition\nname: empty\n")

    ran = [
        await syncer("build", "--output", tmp_path / "out", flag, path, *options, home=tmp_path)
        for flag, path in (("--images-file", empty), ("--metadata-file", definition))
    ]

    assert [each.code for each in ran] == [2, 2]
    assert ["it is empty, and names no image" in ran[0].stderr, "there is no image to build from" in ran[1].stderr] == [
        True,
        True,
    ]


async def test_a_mirror_of_nothing_says_so(tmp_path: Path) -> None:
    (empty := tmp_path / "empty.txt").write_text("# nothing yet\n")

    ran = await syncer("sync", "--images-file", empty, "--registry", "127.0.0.1:9", home=tmp_path)

    assert ran.code == 0
    assert "no source names an image for it, so there was nothing to do" in ran.stdout


EXTRA: Mapping[str, bytes | None] = {"README": b"read me", "logs/audit.log": b"", "etc/": None, "docs/": None}


@pytest.mark.parametrize("folder", ["", "layout/", "./some folder/layout/"])
async def test_members_beside_the_layout_are_named_and_not_read(
    serve_disk: OpenRegistry, tmp_path: Path, folder: str
) -> None:
    """Files and empty directories beside it, and a folder around it, as `tar c DIRECTORY` makes."""
    path = archive(tmp_path / "app.tar", "quay.io/app:1.0", extra=list(EXTRA.items()), folder=folder)
    async with serve_disk() as registry:
        pushed = await push(tmp_path, path, registry)
        verified = await syncer("verify", "--file", path, home=tmp_path)

        assert "base/quay.io/app" in await client.repositories(registry)
    assert (pushed.code, verified.code) == (0, 0), pushed.stderr + verified.stderr
    assert "2 members that are no part of an image layout, not read: README, logs/audit.log" in pushed.stderr
    assert "2 members beside the layout, not read: README, logs/audit.log" in verified.stdout


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_what_is_beside_the_layout_is_a_file_or_refused(tmp_path: Path, kind: bytes) -> None:
    path = archive(tmp_path / "app.tar", "quay.io/app:1.0")
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("README")
        link.type, link.linkname = kind, "index.json"
        tar.addfile(link)

    with pytest.raises(InvalidBundle, match="no regular file"), open_bundle(path):
        pass


def test_two_layouts_in_folders_are_refused(tmp_path: Path) -> None:
    """Which one is meant nobody knows."""
    with tarfile.open(path := tmp_path / "two.tar", "w") as tar:
        for folder in ("a", "b"):
            member = tarfile.TarInfo(f"{folder}/oci-layout")
            member.size = len(LAYOUT[1])
            tar.addfile(member, io.BytesIO(LAYOUT[1]))

    with pytest.raises(InvalidBundle, match="holds 2 image layouts"), open_bundle(path):
        pass


def test_an_extended_header_of_many_records_is_read() -> None:
    records = b"12 mtime=1.\n" * 5000 + b"10 path=x\n"

    assert parse_pax(records) == {"path": "x"}
