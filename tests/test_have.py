"""The list of what a registry has, and the bundles that are built without that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from syncer.api.build import build
from syncer.api.delta import find_assumption
from syncer.api.have import Inventory, have
from syncer.api.push import push
from syncer.bundle import open_bundle
from syncer.errors import InvalidFile, Unreachable
from syncer.fleet import FleetOptions
from syncer.fleet.deploy import push_fleet
from syncer.naming import NameMapping
from syncer.oci import Digest
from syncer.oci.descriptor import OCI_MANIFEST
from syncer.profiles.definition.artifacts import CONTENTS, DEFINITION
from syncer.profiles.syncfile.site import Site
from syncer.transfer.memory import Have, have_schema
from tests.conftest import OpenRegistry
from tests.support import bundles, client, images
from tests.support.chart_repository import chart_repository
from tests.support.cli import syncer
from tests.support.fault_proxy import fault_proxy
from tests.support.faults import Reply
from tests.support.images import Image
from tests.support.memory import MemorySource
from tests.support.registries import LOGIN, Registry

BASE = images.layer("base", 300_000)
MAY = {
    "team/app:1": images.image("app", layers=[BASE, images.layer("app may", 40_000)]),
    "team/tool:1": images.multi_platform("tool", base=BASE),
    "other/site:1": images.image("site", layers=[images.layer("site", 60_000)]),
}
NEW = images.layer("app june", 1_000_000)
JUNE = MAY | {"team/app:2": images.image("app 2", layers=[BASE, NEW])}
OLD_BLOBS = {digest: blob for image in MAY.values() for digest, blob in image.all_blobs().items()}
NEW_BLOBS = {digest: blob for digest, blob in JUNE["team/app:2"].all_blobs().items() if digest not in OLD_BLOBS}
FORBIDDEN = Reply(403, body=b'{"errors": [{"code": "DENIED", "message": "ask mr-secret@example.com"}]}')


async def fill(source: Registry, content: Mapping[str, Image]) -> list[str]:
    """Put ``content`` into ``source``; returns the names of it all."""
    for name, image in content.items():
        repository, _, tag = name.partition(":")
        await client.push(source, repository, image, tag)
    return [f"{source.address}/{name}" for name in content]


async def bring(
    source: Registry,
    target: Registry,
    home: Path,
    content: Mapping[str, Image] = MAY,
    *,
    platform: str | None = None,
) -> None:
    """Build the bundle of ``content``, and push it to ``target``."""
    built = await build(await fill(source, content), name="may", output=home / "may", platform=platform)
    assert built.path
    assert (await push(built.path, f"{target.address}/base")).exit == 0


async def look(registry: Registry, **options: Any) -> Inventory:
    """List what is at the registry, and check that the file is what its schema says."""
    found = await have(f"{registry.address}/base", **options)
    document = json.loads(found.have.render())
    Draft202012Validator(have_schema()).validate(document)
    assert Have.from_json(document) == found.have
    return found


def write(path: Path, found: Inventory | Have) -> Path:
    path.write_bytes((found.have if isinstance(found, Inventory) else found).render())
    return path


def blobs_of(*content: Image) -> set[str]:
    return {digest for image in content for digest in image.all_blobs()}


def manifests_of(*content: Image) -> set[str]:
    return {manifest.digest for image in content for manifest in image.manifests()}


def blob_file(registry: Registry, digest: str) -> Path:
    """The file of a blob in the directory of Debian's registry, or of ours."""
    algorithm, _, hexadecimal = digest.partition(":")
    found = [path for path in registry.directory.rglob(f"*{hexadecimal}*") if f"blobs/{algorithm}" in str(path)]
    return next(path / "data" if path.is_dir() else path for path in found)


async def test_the_list_has_what_was_pushed_and_where(
    any_registry: OpenRegistry, debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """Below the base path alone; a line for each digest, in their order."""
    async with debian_registry("source") as source, any_registry("target") as target:
        await bring(source, target, tmp_path)
        await client.push(target, "elsewhere", images.image("not below the base path"), "1")
        file = tmp_path / "have.json"

        ran = await syncer("have", "--registry", f"{target.address}/base", "-o", file, home=tmp_path)
        printed = await syncer("content", "have", "--registry", f"{target.address}/base", home=tmp_path)

    assert (ran.code, ran.stdout, printed.code) == (0, "", 0)
    assert ran.stderr == f"3 images: 11 blobs and 6 manifests in 3 repositories, listed in {file}\n"
    document = json.loads(file.read_bytes())
    Draft202012Validator(have_schema()).validate(document)
    assert {**printed.json, "date": document["date"]} == document
    prefix = source.address.replace(":", "_")
    assert document["registry"] == target.address
    assert (document["base"], document["complete"], document["problems"]) == ("base", True, [])
    assert document["repositories"] == [f"{prefix}/{name}" for name in ("other/site", "team/app", "team/tool")]
    assert document["blobs"].keys() == blobs_of(*MAY.values())
    assert document["manifests"].keys() == manifests_of(*MAY.values())
    assert document["blobs"][images.digest_of(BASE.content)] == [f"{prefix}/team/app", f"{prefix}/team/tool"]
    assert document["mapping"] == NameMapping().fingerprint
    assert "tags" not in document
    lines = [line for line in file.read_text().splitlines() if line.startswith(' "sha256:')]
    assert len(lines) == 6 + 11
    assert lines == [*sorted(lines[:6]), *sorted(lines[6:])]


async def test_where_definitions_are_hardly_more_is_asked_than_one_head_an_image(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """The push has left a list of the content beside the definition: also of images with several platforms."""
    source = MemorySource()
    for number in range(200):
        name = f"registry.example/team-{number % 3}/app-{number}:1"
        layer = images.layer(f"{number % 10}", 300)
        make = images.multi_platform(f"app {number}", base=layer)
        source.add(name, make if number % 5 == 0 else images.image(f"app {number}", layers=[layer]))
    await bundles.build(tmp_path / "many.tar.zst", source)
    async with debian_registry() as target, fault_proxy(target) as proxy:
        assert (await push(tmp_path / "many.tar.zst", f"{target.address}/base")).exit == 0

        found = await look(proxy.registry)

    assert found.images == 200
    assert len(found.have.manifests) == 200 + 40 * 3
    assert len(found.have.blobs) == len(source.blobs)
    assert len(proxy.exchanges.log) <= 1.1 * 200
    asked = [exchange.path for exchange in proxy.exchanges.of("HEAD manifest")]
    assert len(set(asked)) == len(asked)


async def test_without_a_definition_the_catalog_and_the_tags_tell(any_registry: OpenRegistry) -> None:
    async with any_registry() as target, fault_proxy(target) as proxy:
        for name, image in MAY.items():
            repository, _, tag = name.partition(":")
            await client.push(target, f"base/{repository}", image, tag, "latest")

        found = await look(proxy.registry)

    assert found.have.problems == ()
    assert found.have.blobs.keys() == blobs_of(*MAY.values())
    assert found.have.manifests.keys() == manifests_of(*MAY.values())
    assert found.have.mapping is None
    asked = [exchange.path for exchange in proxy.exchanges.of("GET manifest")]
    assert len(set(asked)) == len(asked)


async def test_a_catalog_that_is_forbidden_or_shows_nothing_makes_the_list_incomplete(
    any_registry: OpenRegistry, tmp_path: Path
) -> None:
    """Which is not an error: whatever could not be seen travels.  The registry's own words stay on the site."""
    async with any_registry() as target, fault_proxy(target) as proxy:
        await client.push(target, "elsewhere", images.image("not below the base path"), "1")
        proxy.on("GET", "/_catalog", FORBIDDEN)
        place = f"{proxy.registry.address}/base"

        forbidden = await syncer("have", "-r", place, home=tmp_path)
        empty = await syncer("have", "-r", place, home=tmp_path)

    assert [ran.code for ran in (forbidden, empty)] == [0, 0]
    assert [ran.json["complete"] for ran in (forbidden, empty)] == [False, False]
    assert forbidden.json["problems"] == ["there is no definition, and the catalog is forbidden (status 403)"]
    assert "mr-secret" not in forbidden.stdout
    assert "403 DENIED: ask mr-secret" in forbidden.stderr
    assert empty.json["problems"] == ["there is no definition, and the catalog has nothing below base"]
    for ran in (forbidden, empty):
        assert (ran.json["blobs"], ran.json["manifests"], ran.json["repositories"]) == ({}, {}, [])
        assert "warning: the list is not complete" in ran.stderr


async def test_what_could_not_be_seen_is_not_in_the_list(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """An image that is gone is simply not there; a manifest that the registry does not give makes it incomplete."""
    gone, refused = MAY["team/app:1"], MAY["other/site:1"]
    async with (
        debian_registry("source") as source,
        debian_registry("target") as target,
        fault_proxy(target) as proxy,
    ):
        await bring(source, target, tmp_path)
        repository = f"{source.address.replace(':', '_')}/team/app"
        await client.ask(target, "DELETE", f"/v2/base/{repository}/manifests/{gone.digest}")

        lacking = await look(target)
        proxy.on(None, f"/manifests/{refused.digest}", FORBIDDEN, times=None)
        doubtful = await look(proxy.registry)

    left = [image for image in MAY.values() if image is not gone]
    assert (lacking.gone, lacking.have.problems) == (1, ())
    assert lacking.have.blobs.keys() == blobs_of(*left)
    assert gone.digest not in lacking.have.manifests
    assert lacking.have.blobs[images.digest_of(BASE.content)] == [repository.replace("app", "tool")]
    assert doubtful.have.blobs.keys() == blobs_of(MAY["team/tool:1"])
    site = repository.replace("team/app", "other/site")
    assert doubtful.have.problems == (f"not all manifests of base/{site} could be read (status 403)",)


async def replace_contents(target: Registry, content: bytes | None) -> None:
    """Put ``content`` in the place of the list that a push left beside the definition, or nothing at all."""
    repository = "base/bundle-definition"
    stored = await client.ask(target, "GET", f"/v2/{repository}/manifests/may", headers={"Accept": OCI_MANIFEST})
    document = json.loads(stored.content)
    *_, layer = document["layers"]
    assert layer["mediaType"] == CONTENTS
    if content is None:
        document["layers"].remove(layer)
    else:
        layer |= {"digest": await client.push_blob(target, repository, content), "size": len(content)}
    path = f"/v2/{repository}/manifests/may"
    put = await client.ask(
        target, "PUT", path, headers={"Content-Type": OCI_MANIFEST}, data=json.dumps(document).encode()
    )
    assert put.status == 201, put


@pytest.mark.parametrize(
    "content", [None, b"{", b"[]", b'{"kind": "another"}', b'{"kind": "syncer/contents@1", "manifests": {"x": ["y"]}}']
)
async def test_without_a_usable_list_of_contents_the_manifests_are_read(
    debian_registry: OpenRegistry, tmp_path: Path, content: bytes | None
) -> None:
    """A push by an earlier version left none."""
    async with debian_registry("source") as source, debian_registry("target") as target:
        await bring(source, target, tmp_path)
        listed = await look(target)
        await replace_contents(target, content)
        read = await look(target)

    assert (read.have.blobs, read.have.manifests) == (listed.have.blobs, listed.have.manifests)
    assert read.have.blobs.keys() == OLD_BLOBS.keys()
    assert not read.have.problems


async def test_each_way_of_a_push_leaves_the_same_definition(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """Else the next push by another way would find it changed."""
    async with debian_registry("source") as source, debian_registry("target") as target:
        built = await build(await fill(source, MAY), name="may", output=tmp_path)
        assert built.path
        sites = [Site(name=base, registry=f"{target.address}/{base}") for base in ("one", "two")]
        path = "/v2/one/bundle-definition/manifests/may"
        alone = await push(built.path, sites[0].registry)
        definition = await client.ask(target, "GET", path, headers={"Accept": OCI_MANIFEST})
        together = await push_fleet(built.path, sites, options=FleetOptions(read_window=1))
        after = await client.ask(target, "GET", path, headers={"Accept": OCI_MANIFEST})

    assert (alone.exit, together.exit) == (0, 0)
    assert [layer["mediaType"] for layer in json.loads(definition.content)["layers"]] == [DEFINITION, CONTENTS]
    assert after.content == definition.content


async def test_a_definition_that_is_none_makes_the_list_incomplete(
    any_registry: OpenRegistry, debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """The others count; its name, which says what a site has, stays on the site."""
    async with debian_registry("source") as source, any_registry("target") as target:
        await client.push(target, "base/bundle-definition", images.image("no definition"), "codename-odd")

        alone = await look(target)
        await bring(source, target, tmp_path)
        beside = await look(target)

    assert alone.have.problems == (
        "a definition could not be read",
        "there is no definition, and the catalog has nothing below base",
    )
    assert beside.have.problems == ("a definition could not be read",)
    assert beside.have.blobs.keys() == OLD_BLOBS.keys()
    assert b"codename" not in beside.have.render()
    assert "bundle-definition:codename-odd" in beside.troubles[0]


async def test_a_registry_that_falls_silent_leaves_no_list(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """Half a list would pass for a whole one."""
    async with (
        debian_registry("source") as source,
        debian_registry("target") as target,
        fault_proxy(target) as proxy,
    ):
        await bring(source, target, tmp_path)
        proxy.on(None, f"/manifests/{MAY['team/app:1'].digest}", Reply(429, {"Retry-After": "900"}), times=None)
        place = f"{proxy.registry.address}/base"

        ran = await syncer("have", "-r", place, "-o", tmp_path / "have.json", home=tmp_path)

    assert ran.code == 1
    assert "asks to wait 900 s" in ran.stderr
    assert not (tmp_path / "have.json").exists()


async def test_deep_asks_for_each_blob(
    any_registry: OpenRegistry, debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """A blob that was removed from the registry's disk is not in the list; else its manifest alone would tell of it."""
    lost = images.digest_of(images.layer("site", 60_000).content)
    async with debian_registry("source") as source, any_registry("target") as target, fault_proxy(target) as proxy:
        await bring(source, target, tmp_path)
        blob_file(target, lost).unlink()

        plain = await look(target)
        deep = await look(proxy.registry, deep=True)

    assert lost in plain.have.blobs
    assert deep.have.blobs.keys() == plain.have.blobs.keys() - {lost}
    assert (deep.lost, deep.have.problems) == (1, ())
    assert proxy.exchanges.kinds()["HEAD blob"] == sum(map(len, plain.have.blobs.values()))


async def test_tags_are_in_the_list_when_they_are_asked_for(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        await bring(source, target, tmp_path, JUNE)

        tagged = await look(target, tags=True)

    names = [name.rpartition("/")[2] for name in tagged.have.tags or ()]
    assert dict(zip(names, (tagged.have.tags or {}).values(), strict=True)) == {
        "app": ["1", "2"], "site": ["1"], "tool": ["1"],
    }  # fmt: skip


@pytest.mark.parametrize("by_catalog", [False, True])
async def test_signatures_count_by_tag_and_by_api(
    any_registry: OpenRegistry, *, by_catalog: bool, tmp_path: Path
) -> None:
    """Of all images of an origin, when the first one that is asked about has any."""
    app, tool = MAY["team/app:1"], MAY["team/tool:1"]
    tag, signature = images.cosign_signature(app)
    sbom = images.referrer(tool)
    about = images.referrer(sbom, "application/vnd.example.signature")
    async with (
        any_registry("source") as source,
        any_registry("target") as target,
        fault_proxy(target) as proxy,
    ):
        await fill(source, MAY)
        await client.push(source, "team/app", signature, tag)
        for each in (sbom, about):
            await client.push(source, "team/tool", each)
            await client.push(source, "team/tool", *fallback(source, each))
        built = await build([f"{source.address}/{name}" for name in MAY], name="may", output=tmp_path)
        assert built.path
        assert (await push(built.path, f"{target.address}/base")).exit == 0
        if by_catalog:
            await client.ask(target, "DELETE", f"/v2/base/bundle-definition/manifests/{await definition_at(target)}")

        found = await look(proxy.registry)

    assert found.have.blobs.keys() == blobs_of(*MAY.values(), signature, sbom, about)
    assert manifests_of(signature, sbom, about) <= found.have.manifests.keys()
    asked = [exchange.path for exchange in proxy.exchanges.of("GET manifest")]
    assert by_catalog or len(set(asked)) == len(asked)


def fallback(registry: Registry, referrer: Image) -> tuple[Image, str]:
    """The index that lists a referrer, and its tag, for a registry without the API."""
    subject = json.loads(referrer.content)["subject"]["digest"]
    return images.index(referrer), subject.replace(":", "-")


async def definition_at(target: Registry) -> str:
    answer = await client.ask(
        target, "HEAD", "/v2/base/bundle-definition/manifests/may", headers={"Accept": client.ACCEPT}
    )
    return answer.headers["Docker-Content-Digest"]


async def test_a_login_that_may_see_nothing_is_an_error(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry(login=LOGIN) as target:
        denied = await syncer("have", "-r", target.address, "-o", tmp_path / "have.json", home=tmp_path)
        let_in = await syncer(
            "have", "-r", target.address, "-u", LOGIN.username, "--password-stdin", home=tmp_path, stdin=LOGIN.password
        )

    assert (denied.code, let_in.code) == (3, 0)
    assert not (tmp_path / "have.json").exists()
    with pytest.raises(Unreachable):
        await have("127.0.0.1:1/base")


async def test_mapped_names_are_told_from_usual_ones(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """By the hash of the rules, where these are given; without them nobody knows by which rules names came about."""
    async with debian_registry("source") as source, debian_registry("target") as target:
        built = await build(await fill(source, MAY), output=tmp_path)
        mapping = NameMapping.parse([f"{source.address}/team=here"])
        assert built.path
        await push(built.path, f"{target.address}/base", mapping=mapping)

        plain = await look(target)
        told = await look(target, mapping=mapping)

    assert plain.have.mapping is None
    assert told.have.mapping == mapping.fingerprint != NameMapping().fingerprint
    assert told.have.repositories == [
        f"{source.address.replace(':', '_')}/other/site",
        "here/app",
        "here/tool",
    ]


def test_ten_thousand_blobs_take_less_than_one_and_a_half_megabytes() -> None:
    places = {
        str(Digest.of(str(number).encode())): [
            f"gcr.io/spectro-images-public/release/cluster-api/kubeadm-{number % 700}",
            *(f"quay.io/cilium/component-{other}" for other in range(number % 10 == 0)),
        ]
        for number in range(10_000)
    }
    found = Have(registry="10.10.254.254:8000", base="spectro-images", date="2026-06-01T22:00:00Z", blobs=places)

    content = found.render()

    assert len(content) < 1_500_000
    assert Have.from_json(json.loads(content)) == found


async def delta(home: Path, source: Registry, *, name: str = "june", force: bool = False, **options: Any) -> Path:
    """Build the bundle of ``JUNE`` without what ``options`` say into the directory ``name``."""
    built = await build(
        await fill(source, JUNE),
        name="june",
        output=home / name,
        force=force,
        assumption=await find_assumption(**options),
    )
    assert built.path, built.report
    assert built.exit == 0
    return built.path


def flags(source: Registry) -> list[str]:
    """The flags of ``build`` and ``plan`` that name the images of ``JUNE``."""
    return [word for name in JUNE for word in ("--image", f"{source.address}/{name}")]


def carried(path: Path) -> set[str]:
    """The digests of the blobs and manifests in a bundle."""
    with open_bundle(path, may_lack=True) as opened:
        return set(map(str, opened.digests))


def assumed(path: Path) -> dict[str, tuple[str, ...]]:
    """The digests that a delta lacks, with the repositories that have them."""
    with open_bundle(path, may_lack=True) as opened:
        assert opened.assumed
        return {str(digest): blob.repositories for digest, blob in opened.assumed.blobs.items()}


def lists_in(path: Path) -> list[tuple[str, str]]:
    """The digests of the files that a delta was built by, and the registries that these are about."""
    with open_bundle(path, may_lack=True) as opened:
        assert opened.assumed
        return [(witness.digest, witness.registry) for witness in opened.assumed.witnesses]


def all_but(*digests: str) -> set[str]:
    """What a delta of ``JUNE`` holds if its target has all of ``MAY`` but ``digests``."""
    return manifests_of(*JUNE.values()) | NEW_BLOBS.keys() | set(digests)


async def test_a_delta_holds_what_the_list_has_not(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """New content and 2 % for manifests and all that is said of the rest; built twice it is the same file."""
    async with debian_registry("source") as source, debian_registry("target") as target:
        await bring(source, target, tmp_path)
        file = write(tmp_path / "have.json", await look(target))

        first = await delta(tmp_path, source, lists=[file])
        again = await delta(tmp_path, source, lists=[file], name="again")

    assert first.name == "june.delta.tar.zst"
    assert first.read_bytes() == again.read_bytes()
    assert carried(first) == all_but()
    assert assumed(first).keys() == OLD_BLOBS.keys()
    prefix = f"base/{source.address.replace(':', '_')}"
    assert assumed(first)[images.digest_of(BASE.content)] == (f"{prefix}/team/app", f"{prefix}/team/tool")
    assert lists_in(first) == [(images.digest_of(file.read_bytes()), f"{target.address}/base")]
    assert first.stat().st_size <= 1.02 * sum(map(len, NEW_BLOBS.values()))


async def test_the_command_says_what_it_leaves_out_and_foresees_it(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        await bring(source, target, tmp_path)
        await fill(source, JUNE)
        file = write(tmp_path / "have.json", await look(target))

        planned = await syncer("plan", *flags(source), "--have", file, "--format", "tar", "--json", home=tmp_path)
        foreseen = await syncer("build", *flags(source), "--have", file, "--dry-run", home=tmp_path)
        built = await syncer("build", *flags(source), "--have", file, "--format", "tar", "-o", tmp_path, home=tmp_path)

    assert [ran.code for ran in (planned, foreseen, built)] == [0] * 3
    path = tmp_path / "bundle.delta.tar"
    assert (
        f"bundle bundle saved to {path}\nassumed at the target, and left out: {len(OLD_BLOBS)} pieces" in built.stdout
    )
    assert "no new content" not in built.stdout
    totals = planned.json["totals"]
    assert (totals["blobs_assumed"], totals["bytes_assumed"]) == (len(OLD_BLOBS), sum(map(len, OLD_BLOBS.values())))
    assert (totals["blobs_to_copy"], totals["bytes_to_fetch"]) == (len(NEW_BLOBS), sum(map(len, NEW_BLOBS.values())))
    assert totals["disk_bytes"] == pytest.approx(path.stat().st_size, abs=1024)
    assert f"in {len(OLD_BLOBS)} pieces at the target, left out" in foreseen.stdout


async def test_a_delta_of_nothing_new_is_a_bundle_of_manifests(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        await bring(source, target, tmp_path, JUNE)
        file = write(tmp_path / "have.json", await look(target))

        built = await syncer("build", *flags(source), "--have", file, "-o", tmp_path, home=tmp_path)

    assert (built.code, "it brings no new content, only manifests" in built.stdout) == (0, True)
    assert carried(tmp_path / "bundle.delta.tar.zst") == manifests_of(*JUNE.values())


async def test_of_an_index_the_platforms_that_are_there_are_left_out(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """The site took one platform out of it; the others, and the index, travel."""
    amd64, *others = MAY["team/tool:1"].children
    async with debian_registry("source") as source, debian_registry("target") as target:
        await bring(source, target, tmp_path, platform="linux/amd64")
        file = write(tmp_path / "have.json", await look(target))

        path = await delta(tmp_path, source, lists=[file])

    assert carried(path) == all_but(*blobs_of(*others) - blobs_of(amd64))
    assert amd64.blobs.keys() <= assumed(path).keys()


async def test_of_several_lists_what_all_of_them_have_is_left_out(
    any_registry: OpenRegistry, debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """One delta for two sites; an incomplete list is taken at its word, and warned of."""
    said: list[str] = []
    async with debian_registry("source") as source, any_registry("one") as one, any_registry("two") as two:
        await bring(source, one, tmp_path)
        some = {name: image for name, image in MAY.items() if name != "other/site:1"}
        built = await build(await fill(source, some), output=tmp_path / "some")
        assert built.path
        await push(built.path, f"{two.address}/other/path")
        first = write(tmp_path / "one.json", await look(one))
        second = write(tmp_path / "two.json", (await have(f"{two.address}/other/path")).have)

        path = await delta(tmp_path, source, lists=[first, second], warn=said.append)
        document = json.loads(second.read_bytes()) | {"complete": False, "problems": ["the catalog is forbidden"]}
        second.write_text(json.dumps(document))
        await delta(tmp_path, source, lists=[first, second], warn=said.append, name="again")

    lacking = MAY["other/site:1"].all_blobs()
    assert carried(path) == all_but(*lacking)
    prefix = source.address.replace(":", "_")
    assert assumed(path)[images.digest_of(BASE.content)] == tuple(
        f"{base}/{prefix}/team/{name}" for base in ("base", "other/path") for name in ("app", "tool")
    )
    assert len(lists_in(path)) == 2
    assert [text.partition(", ")[0] for text in said] == [f"{second} is not complete"]
    assert said[0].endswith(": the catalog is forbidden")


async def test_an_older_bundle_tells_what_its_target_has(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """The new bundle lacks what is in the old one, which no registry is asked about; a delta itself does not tell."""
    async with debian_registry("source") as source:
        built = await build(await fill(source, MAY), name="may", output=tmp_path)
        assert built.path

        path = await delta(tmp_path, source, since=built.path)
        refused = await syncer("build", *flags(source), "--since", path, "-o", tmp_path / "on", home=tmp_path)

    assert carried(path) == all_but()
    with open_bundle(built.path) as may, open_bundle(path, may_lack=True) as opened:
        assert opened.assumed
        assert lists_in(path) == [(str(may.index_digest), "")]
        assert opened.assumed.blobs[Digest.parse(images.digest_of(BASE.content))].names == (
            f"{source.address}/team/app",
            f"{source.address}/team/tool",
        )
    assert refused.code == 2
    assert "june.delta.tar.zst is a delta" in refused.stderr


async def test_an_older_definition_tells_what_its_target_has(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """By the manifests of its digests; what a source has lost counts as lacking, as does a chart of a web server."""
    async with debian_registry("source") as source, chart_repository() as charts:
        charts.add_chart("web", "1.2.0")
        charts.index()
        await fill(source, MAY)
        profile = tmp_path / "may.yaml"
        entries = [{"image": f"{source.address}/{name}"} for name in MAY]
        chart = [{"repo": str(charts.url), "name": "web", "version": "1.2.0"}]
        profile.write_text(yaml.safe_dump({"name": "may", "images": entries, "charts": chart}))
        unlocked = await syncer("build", *flags(source), "--since", profile, "-o", tmp_path / "on", home=tmp_path)
        locked = await syncer(
            "build", "-f", profile, "--metadata-only", "--lock", "-o", tmp_path / "lock", home=tmp_path
        )
        site = MAY["other/site:1"]
        await client.ask(source, "DELETE", f"/v2/other/site/manifests/{site.digest}")
        said: list[str] = []
        since = tmp_path / "lock" / "bundle-definition.yaml"

        assumption = await find_assumption(since=since, warn=said.append)

    assert (unlocked.code, locked.code) == (2, 0)
    assert "may.yaml: it has no digests" in unlocked.stderr
    assert assumption
    assert set(map(str, assumption.names)) == OLD_BLOBS.keys() - site.all_blobs().keys()
    assert assumption.names[Digest.parse(images.digest_of(BASE.content))] == (
        f"{source.address}/team/app",
        f"{source.address}/team/tool",
    )
    assert [witness.digest for witness in assumption.witnesses] == [images.digest_of(since.read_bytes())]
    (warning,) = said
    assert warning.startswith(f"2 of the 4 entries of {since} could not be read, and count as lacking: ")


def missing(path: Path, *digests: str) -> Path:
    """A list of ``push --missing-out``."""
    blobs = [{"digest": digest, "size": 1, "registries": ["t.io"]} for digest in digests]
    path.write_text(json.dumps({"kind": "syncer/missing@1", "bundle": "june", "date": "", "blobs": blobs}))
    return path


async def test_a_top_up_brings_what_was_missing(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """Beside a list it is taken out of what that has; alone it says that all else is there."""
    base = images.digest_of(BASE.content)
    file = missing(tmp_path / "missing.json", base)
    async with debian_registry("source") as source:
        built = await build(await fill(source, MAY), name="may", output=tmp_path)

        besides = await delta(tmp_path, source, since=built.path, missing=file)
        alone = await delta(tmp_path, source, missing=file, name="alone")

    assert carried(besides) == all_but(base)
    assert carried(alone) == manifests_of(*JUNE.values()) | {base}
    assert assumed(alone).keys() == (OLD_BLOBS | NEW_BLOBS).keys() - {base}
    assert lists_in(alone) == [(images.digest_of(file.read_bytes()), "")]


A = f"sha256:{'a' * 64}"
GOOD = Have(registry="t.io", date="2026-06-01T22:00:00Z", blobs={A: ["x/y"]}, manifests={A: ["x/y"]}).render().decode()


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"kind": "syncer/have@1"', '"kind": "syncer/have@2"', ":2: it is no list of syncer have"),
        ('{\n"kind"', '{\n"kind', ":2: column"),
        ('"complete": true', '"complete": false', ":7: complete must be true"),
        ('"date": "2026-06-01T22:00:00Z"', '"date": "yesterday"', ":5: 'yesterday' is not a time"),
        (f'"blobs": {{\n "{A}"', f'"blobs": {{\n "{A[:-1]}"', ":16: 'sha256:aaa"),
        ('["x/y"]\n}\n}', '["x/../y"]\n}\n}', ":16: 'x/../y' is not the name of a repository"),
        ('["x/y"]\n}\n}', '"x/y"\n}\n}', " must have a list of texts"),
        ('"problems": []', '"problems": {}', ":8: problems must be a list"),
        ('"base": ""', '"base": 7', ":4: base must be a text"),
    ],
)
async def test_a_bad_list_is_told_with_its_line(old: str, new: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "have.json"
    assert old in GOOD
    file.write_text(GOOD.replace(old, new))

    with pytest.raises(InvalidFile) as refused:
        await find_assumption(lists=[file])

    assert str(refused.value).startswith(f"{file}:")
    assert problem in str(refused.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", ": it is no list of push --missing-out"),
        ('{"kind": "syncer/missing@1",\n"blobs": 7}', ":2: blobs must be a list of objects"),
        ('{"kind": "syncer/missing@1",\n"blobs": [\n{"digest": "sha1:aa"}]}', ":3: 'sha1:aa' is not a digest"),
    ],
)
async def test_a_bad_list_of_what_is_missing_is_told_with_its_line(text: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "missing.json"
    file.write_text(text)

    with pytest.raises(InvalidFile) as refused:
        await find_assumption(missing=file)

    assert f"{file}{problem}" in str(refused.value)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["build", "--have", "have.json", "--since", "may.tar"], "say the same thing in two ways"),
        (["build", "--have", "absent.json"], "absent.json: it cannot be read: No such file"),
        (["build", "--since", "absent.tar"], "absent.tar: there is no such file"),
        (["build", "--have", "have.json", "--metadata-only"], "and none is made"),
        (["build", "--have", "have.json", "--build-type", "remote", "-r", "t.io"], "a remote build sends what"),
        (["plan", "--have", "have.json", "-r", "t.io"], "for a bundle that would be built"),
        (["edge", "build", "--have", "have.json"], "error: syncer edge build has no option --have"),
        (["have"], "error: REGISTRY (or --registry) is missing"),
        (["have", "-r", "t.io", "-o", "absent/have.json"], "the directory absent does not exist"),
    ],
)
async def test_flags_that_make_no_sense_are_refused(words: list[str], problem: str, tmp_path: Path) -> None:
    (tmp_path / "have.json").write_text(GOOD)
    images_of = [] if words[0] in ("have", "edge") else ["--image", "localhost:1/app:1"]

    ran = await syncer(
        *(tmp_path / word if word == "have.json" else word for word in [*words, *images_of]), home=tmp_path
    )

    assert (ran.code, ran.stdout) == (2, "")
    assert problem in ran.stderr
