"""Bundles of imgpkg's are mirrored with all that they list, and land where imgpkg itself finds them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import Ran, syncer
from tests.support.programs import run
from tests.support.registries import Registry


def lock(*names: str) -> str:
    listed = "".join(f"- image: {name}\n" for name in names)
    return f"---\napiVersion: imgpkg.carvel.dev/v1alpha1\nkind: ImagesLock\nimages:\n{listed}"


def bundle(text: str, *, path: str = ".imgpkg/images.yml") -> images.Image:
    """An image as `imgpkg push -b` makes it: one layer with the lock, and imgpkg's label."""
    layer = images.layer_of(images.tar({"config/app.yml": b"{}", path: text.encode()}))
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Labels": {"dev.carvel.imgpkg.bundle": "true"}},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
    }
    return images.manifest(
        json.dumps(config).encode(),
        [layer],
        config_type=images.DOCKER_CONFIG,
        media_type=images.DOCKER_MANIFEST,
    )


async def mirror(file: Path, target: Registry, home: Path, *flags: str) -> Ran:
    """Import ``file``, and sync what comes out of it to ``target``, below ``m``."""
    imported = await syncer("import", file, "--registry", f"{target.address}/m", home=home)
    assert imported.code == 0, imported.stderr
    (home / "sync.yaml").write_text(imported.stdout)
    return await syncer("sync", "-c", home / "sync.yaml", *flags, home=home)


def at(registry: Registry, repository: str, image: images.Image) -> str:
    return f"{registry.address}/{repository}@{image.digest}"


def beneath(target: Sequence[str], source: Registry) -> set[str]:
    return {name.removeprefix(f"m/{source.address.replace(':', '_')}/") for name in target}


async def test_a_bundle_in_a_lock_comes_with_all_that_it_lists(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    app, tool, plain = images.image("app"), images.image("tool"), images.image("plain", layers=[images.layer("one")])
    async with debian_registry("source") as source, debian_registry("target") as target:
        await client.push(source, "team/app", app, "1")
        await client.push(source, "elsewhere/tool", tool, "1")
        await client.push(source, "team/plain", plain, "1")
        inner = bundle(lock(at(source, "elsewhere/tool", tool)))
        await client.push(source, "inner", inner, "1")
        outer = bundle(lock(at(source, "team/app", app), at(source, "inner", inner)))
        await client.push(source, "outer", outer, "1")
        (tmp_path / "images.yml").write_text(lock(at(source, "outer", outer), at(source, "team/plain", plain)))

        ran = await mirror(tmp_path / "images.yml", target, tmp_path)

        assert ran.code == 0, ran.stderr
        place = f"m/{source.address.replace(':', '_')}"
        for image in (outer, inner, app, tool):
            await client.assert_holds(target, f"{place}/outer", image)
        await client.assert_holds(target, f"{place}/team/plain", plain)
        assert beneath(await client.repositories(target), source) == {"outer", "team/plain"}
        again = await syncer("sync", "-c", tmp_path / "sync.yaml", "--json", home=tmp_path)
        assert (again.code, again.json["totals"]["images_skipped"]) == (0, 5), again.stderr


async def test_an_image_beside_its_bundle_is_taken_from_there(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """After `imgpkg copy` the images are beside their bundle, and the registry in their names may be out of reach."""
    app = images.image("app")
    async with debian_registry("source") as source, debian_registry("target") as target:
        outer = bundle(lock(f"registry.invalid/team/app@{app.digest}"))
        await client.push(source, "copied", app)
        await client.push(source, "copied", outer, "1")
        text = f"""\
apiVersion: imgpkg.carvel.dev/v1alpha1
kind: BundleLock
bundle:
  image: {at(source, "copied", outer)}
  tag: v1
"""
        (tmp_path / "bundle.lock.yml").write_text(text)

        ran = await mirror(tmp_path / "bundle.lock.yml", target, tmp_path)

        assert ran.code == 0, ran.stderr
        place = f"m/{source.address.replace(':', '_')}/copied"
        await client.assert_holds(target, place, outer, "v1")
        await client.assert_holds(target, place, app)


@pytest.mark.parametrize(
    ("text", "path", "problem"),
    [
        ("kind: ImagesLock\n", ".imgpkg/other.yml", "is a bundle of imgpkg's without .imgpkg/images.yml"),
        ("a: [\n", ".imgpkg/images.yml", ".imgpkg/images.yml:2: "),
        (lock("busybox:1"), ".imgpkg/images.yml", "images[0].image: a lock must name each image with its digest"),
    ],
)
async def test_a_bundle_that_cannot_be_read_is_a_failure(
    debian_registry: OpenRegistry, tmp_path: Path, text: str, path: str, problem: str
) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        outer = bundle(text, path=path)
        await client.push(source, "outer", outer, "1")
        (tmp_path / "images.yml").write_text(lock(at(source, "outer", outer)))

        ran = await mirror(tmp_path / "images.yml", target, tmp_path)

        assert ran.code == 6  # what could not be verified
        assert problem in ran.stderr


@pytest.mark.skipif(shutil.which("imgpkg") is None, reason="imgpkg is not here; the others say what it does")
async def test_imgpkg_finds_all_at_the_target(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    app = images.image("app")
    async with debian_registry("source") as source, debian_registry("target") as target:
        await client.push(source, "team/app", app, "1")
        (tmp_path / "b" / ".imgpkg").mkdir(parents=True)
        (tmp_path / "b" / ".imgpkg" / "images.yml").write_text(lock(at(source, "team/app", app)))
        made = tmp_path / "bundle.lock.yml"
        pushed = await run(
            "imgpkg", "push", "-b", f"{source.address}/bundle:v1", "-f", str(tmp_path / "b"), "--lock-output", str(made)
        )
        assert pushed.code == 0, pushed.stderr

        ran = await mirror(made, target, tmp_path)

        assert ran.code == 0, ran.stderr
        place = f"{target.address}/m/{source.address.replace(':', '_')}/bundle:v1"
        pulled = await run("imgpkg", "pull", "-b", place, "-o", str(tmp_path / "out"))
        assert pulled.code == 0, pulled.stderr
        found = (tmp_path / "out" / ".imgpkg" / "images.yml").read_text()
        assert f"image: {place.removesuffix(':v1')}@{app.digest}" in found  # as where all images are beside the bundle
        theirs = await run("imgpkg", "copy", "--lock", str(made), "--to-repo", f"{target.address}/theirs")
        assert theirs.code == 0, theirs.stderr
        document = (await client.manifest(source, "bundle", "v1")).content
        for repository in (place.partition("/")[2].rpartition(":")[0], "theirs"):
            for digest in (app.digest, images.digest_of(document)):
                assert await client.manifest(target, repository, digest)
