"""A bundle's way out of a registry again, and from anywhere to anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from syncer.errors import human_bytes
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.bundles import build, some_images
from tests.support.cli import syncer
from tests.support.images import Image
from tests.support.registries import LOGIN, Registry

UNUSED = "127.0.0.1:9"  # the discard port: nothing listens


def some() -> dict[str, Image]:
    several = images.multi_platform("several")
    tag, signature = images.cosign_signature(several)
    return {
        "several:1": several,
        f"several:{tag}": signature,
        "plain:2": images.image("plain", annotations={"tier": "edge"}),
        "charts/app:0.1.0": images.chart("app"),
    }


async def made(source: Registry, home: Path, made: dict[str, Image]) -> Path:
    """A bundle of those images; signatures come along by themselves."""
    for name, image in made.items():
        repository, _, tag = name.partition(":")
        await client.push(source, repository, image, tag)
    named = [f"--image={source.address}/{name}" for name in made if ".sig" not in name]
    ran = await syncer("build", *named, "--name", "edge", "--output", home / "first", home=home)
    assert ran.code == 0, ran.stderr
    return home / "first/edge.tar.zst"


def place(source: Registry, name: str, base: str) -> str:
    return f"{base}/{source.address.replace(':', '_')}/{name.partition(':')[0]}"


async def test_a_bundle_comes_out_of_a_registry_as_it_went_in(any_registry: OpenRegistry, tmp_path: Path) -> None:
    async with any_registry("source") as source, any_registry("target") as target:
        bundle = await made(source, tmp_path, some())
        pushed = await syncer("push", "-f", bundle, "-r", f"{target.address}/docs", home=tmp_path)
        repository = f"{target.address}/docs/bundle-definition"

        listed = await syncer("content", "list", "--repo", repository, home=tmp_path)
        printed = await syncer("definition", f"{repository}:edge", home=tmp_path)
        in_bundle = await syncer("definition", bundle, "--json", home=tmp_path)
        saved = await syncer("save", "--source", f"{repository}:edge", "-o", tmp_path / "second", home=tmp_path)

    assert (pushed.code, listed.code, printed.code, in_bundle.code, saved.code) == (0, 0, 0, 0, 0), saved.stderr
    assert f"definition pushed to {repository}:edge" in pushed.stdout
    assert listed.stdout == f"{repository}:edge\n"
    stored = yaml.safe_load(printed.stdout)
    assert stored["images"][0]["stored"] == f"{target.address}/{place(source, 'several', 'docs')}:1"
    assert [entry["image"] for entry in in_bundle.json["images"]] == [entry["image"] for entry in stored["images"]]
    assert "stored" not in in_bundle.json["images"][0]
    assert f"saved to {tmp_path}/second/edge.tar.zst" in saved.stdout
    assert (tmp_path / "second/edge.tar.zst").read_bytes() == bundle.read_bytes()


async def test_a_bundle_goes_from_anywhere_to_anywhere(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    content = some()
    async with debian_registry("source") as source, debian_registry("target") as target:
        bundle = await made(source, tmp_path, content)
        out = await syncer("copy", "-s", f"file://{bundle}", "-d", f"http://{target.address}/one", home=tmp_path)
        across = await syncer(
            "copy", "-s", f"http://{target.address}/one/bundle-definition:edge", "-d", f"{target.address}/two",
            home=tmp_path,
        )  # fmt: skip
        back = await syncer(
            "copy", "-s", f"{target.address}/two/bundle-definition:edge", "-d", f"file://{tmp_path}/back/edge.tar.zst",
            home=tmp_path,
        )  # fmt: skip
        again = await syncer("copy", "-s", bundle, "-d", tmp_path / "again", home=tmp_path)
        plain = await syncer("copy", "-s", bundle, "-d", tmp_path / "again/plain.tar", home=tmp_path)
        verified = await syncer("verify", "-f", tmp_path / "again/plain.tar", home=tmp_path)

        codes = [ran.code for ran in (out, across, back, again, plain, verified)]
        assert codes == [0] * 6, back.stderr + again.stderr
        for base in ("one", "two"):
            for name, image in content.items():
                await client.assert_holds(target, place(source, name, base), image, name.partition(":")[2])
    assert "Copy Summary" in across.stdout
    every = [part for image in content.values() for part in (image, *image.children)]
    blobs = {digest: len(blob) for image in every for digest, blob in image.blobs.items()}
    moved = [line.partition(": ")[2].strip() for line in plain.stdout.splitlines() if line.startswith("moved:")]
    assert moved == [f"{human_bytes(sum(blobs.values()))} in {len(blobs)} blobs"]
    for copied in ("back/edge.tar.zst", "again/edge.tar.zst"):
        assert (tmp_path / copied).read_bytes() == bundle.read_bytes()


async def test_annotations_select_what_is_pushed_copied_and_listed(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        bundle = await made(source, tmp_path, some())
        selector = ("--annotation-selector", "tier=edge")
        pushed = await syncer("push", "-f", bundle, "-r", f"{target.address}/some", *selector, home=tmp_path)
        whole = await syncer("push", "-f", bundle, "-r", f"{target.address}/all", home=tmp_path)
        copied = await syncer(
            "copy", "-s", f"{target.address}/all/bundle-definition:edge", "-d", tmp_path / "copy.tar", *selector,
            home=tmp_path,
        )  # fmt: skip
        held = await syncer("definition", tmp_path / "copy.tar", "--json", home=tmp_path)
        none = await syncer(
            "push", "-f", bundle, "-r", target.address, "--annotation-selector", "tier=core", home=tmp_path
        )
        nonsense = await syncer("push", "-f", bundle, "-r", target.address, "--annotation-selector", "x", home=tmp_path)
        places = await client.repositories(target)

    assert (pushed.code, whole.code, copied.code) == (0, 0, 0), pushed.stderr + copied.stderr
    assert (none.code, nonsense.code) == (2, 2)
    assert [name for name in places if name.startswith("some/")] == [
        place(source, "plain", "some"),
        "some/bundle-definition",
    ]
    assert [entry["image"] for entry in held.json["images"]] == [f"{source.address}/plain:2"]


async def test_a_platform_can_be_taken_out_on_the_way(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    several = images.multi_platform("several")
    async with debian_registry("source") as source, debian_registry("target") as target:
        bundle = await made(source, tmp_path, {"several:1": several})
        pushed = await syncer("push", "-f", bundle, "-r", f"{target.address}/arm", "-a", "arm64", home=tmp_path)
        saved = await syncer(
            "save", "-s", f"{target.address}/arm/bundle-definition:edge", "-o", tmp_path / "second", home=tmp_path
        )
        held = await syncer("definition", tmp_path / "second/edge.tar.zst", "--json", home=tmp_path)

        assert (pushed.code, saved.code) == (0, 0), saved.stderr
        await client.assert_holds(target, place(source, "several", "arm"), several.children[1], "1")
    assert held.json["images"][0]["digest"] == several.children[1].digest


async def test_only_the_definition_can_be_saved_and_built_from(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        bundle = await made(source, tmp_path, {"plain:1": images.image("plain")})
        await syncer("push", "-f", bundle, "-r", target.address, home=tmp_path)

        saved = await syncer(
            "save", "-s", f"{target.address}/bundle-definition:edge", "--definition-only", "-o", tmp_path / "out",
            home=tmp_path,
        )  # fmt: skip
        built = await syncer(
            "build", "-f", tmp_path / "out/bundle-definition.yaml", "-o", tmp_path / "out", home=tmp_path
        )

    assert (saved.code, built.code) == (0, 0), saved.stderr + built.stderr
    assert (tmp_path / "out/edge.tar.zst").read_bytes() == bundle.read_bytes()


async def test_what_is_lost_at_the_registry_is_named(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    plain = images.image("plain")
    async with debian_registry("source") as source, debian_registry("target") as target:
        bundle = await made(source, tmp_path, {"plain:1": plain, "other:1": images.image("other")})
        await syncer("push", "-f", bundle, "-r", target.address, home=tmp_path)
        where = place(source, "plain", "").lstrip("/")
        await client.ask(target, "DELETE", f"/v2/{where}/manifests/{plain.digest}")
        arguments = ("save", "-s", f"{target.address}/bundle-definition:edge", "-o", tmp_path / "out")
        refused = await syncer(*arguments, home=tmp_path)
        partial = await syncer(*arguments, "--allow-partial", home=tmp_path)
        held = await syncer("definition", tmp_path / "out/edge.tar.zst", "--json", home=tmp_path)

    assert (refused.code, partial.code) == (4, 1)
    assert where in refused.stdout
    assert [entry["image"] for entry in held.json["images"]] == [f"{source.address}/other:1"]
    assert len(held.json["missing"]) == 1


async def test_a_registry_that_asks_who_we_are_gets_a_login(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source, debian_registry("target", login=LOGIN) as target:
        bundle = await made(source, tmp_path, {"plain:1": images.image("plain")})
        where = f"{target.address}/bundle-definition"
        options: dict[str, Any] = {"home": tmp_path, "stdin": f"{LOGIN.password}\n"}
        login = ("-u", LOGIN.username, "--password-stdin")
        codes = [
            (await syncer("copy", "-s", bundle, "-d", target.address, *login, **options)).code,
            (await syncer("list", "-r", where, *login, **options)).code,
            (await syncer("definition", f"{where}:edge", *login, **options)).code,
            (await syncer("save", "-s", f"{where}:edge", "-o", tmp_path / "out", *login, **options)).code,
            (await syncer("list", "-r", where, home=tmp_path)).code,
        ]

    assert codes == [0, 0, 0, 0, 3]


@pytest.mark.parametrize("base", ["", "/images"])
async def test_a_list_takes_the_registry_of_a_push(debian_registry: OpenRegistry, tmp_path: Path, base: str) -> None:
    await build(bundle := tmp_path / "edge.tar.zst", some_images())
    async with debian_registry() as registry:
        where = f"{registry.address}{base}"
        pushed = await syncer("push", bundle, where, home=tmp_path)
        ran = await syncer("list", where, home=tmp_path)
        named = await syncer("list", f"{where}/bundle-definition", home=tmp_path)

    assert (pushed.code, ran.code, named.code) == (0, 0, 0), pushed.stderr + ran.stderr
    assert ran.stdout == named.stdout == f"{where}/bundle-definition:edge\n"
    assert f"note: the bundles that were pushed to {where} are at {where}/bundle-definition\n" in ran.stderr
    assert "note:" not in named.stderr


async def test_an_image_is_no_definition(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry() as registry:
        await client.push(registry, "app", images.image("a"), "1")
        ran = await syncer("save", "-s", f"{registry.address}/app:1", "-o", tmp_path, home=tmp_path)
        missing = await syncer("save", "-s", f"{registry.address}/bundle-definition:x", "-o", tmp_path, home=tmp_path)
        nothing = await syncer("list", "-r", f"{registry.address}/bundle-definition", "--json", home=tmp_path)

    assert (ran.code, missing.code, nothing.code) == (6, 4, 4)
    assert "/app:1 is an image, not a bundle definition\nhint: " in ran.stderr
    assert f"error: there are no bundles at {registry.address}/bundle-definition\n" in nothing.stderr


async def test_a_definition_at_a_registry_cannot_name_a_place_on_this_machine(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry() as registry:
        bundle = await made(registry, tmp_path, {"plain:1": images.image("plain")})
        await syncer("push", "-f", bundle, "-r", registry.address, home=tmp_path)
        manifest = await client.manifest(registry, "bundle-definition", "edge")
        layer = client.parsed(manifest)["layers"][0]
        text = (await client.blob(registry, "bundle-definition", layer["digest"])).content
        hostile = text.replace(b"name: edge", b"name: ../../edge", 1)
        hostile += b"archives:\n  - {name: a, version: '1', path: /etc/hostname}\n"
        document = client.parsed(manifest)
        document["layers"][0] |= {
            "digest": await client.push_blob(registry, "bundle-definition", hostile),
            "size": len(hostile),
        }
        image = Image(orjson.dumps(document), document["mediaType"])
        await client.push_manifest(registry, "bundle-definition", image, "evil")

        evil = f"{registry.address}/bundle-definition:evil"
        ran = await syncer("save", "-s", evil, "-o", tmp_path / "a/b", home=tmp_path)
        only = await syncer("save", "-s", evil, "--definition-only", "-o", tmp_path / "only", home=tmp_path)

    assert (ran.code, only.code) == (2, 0)
    assert "/etc/hostname" not in (tmp_path / "only/bundle-definition.yaml").read_text()
    assert "is not a name for a bundle" in ran.stderr
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["copy", "-s", "none.tar.zst", "-d", UNUSED], "none.tar.zst"),
        (["copy", "-s", "file://none", "-d", UNUSED], "three slashes"),
        (["copy", "-s", f"{UNUSED}/bundle-definition:x", "-d", "/tmp", "--map", "a.b=c"], "--map says where"),
        (["definition", "none.yaml"], "none.yaml"),
        (["save", "-s", "quay.io/A/b:x"], "is not an image reference"),
        (["list", "-r", "http://"], "is not a registry"),
    ],
)
async def test_places_that_make_no_sense(tmp_path: Path, arguments: list[str], said: str) -> None:
    ran = await syncer(*arguments, home=tmp_path)

    assert ran.code == 2
    assert said in ran.stderr
