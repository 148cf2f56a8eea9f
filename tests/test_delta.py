"""A delta: what the other side lacks and nothing else, checked there before anything is sent, and made whole again."""

from __future__ import annotations

import hashlib
from contextlib import AsyncExitStack
from pathlib import Path

import orjson
import pytest

from syncer.api.build import BundleFile, build_file, make_definition
from syncer.bundle import Assumed, Assumption, Format, Witness, open_bundle
from syncer.errors import Exit, InvalidBundle, InvalidContent
from syncer.oci import Digest
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import syncer
from tests.support.fault_proxy import fault_proxy
from tests.support.faults import Reply
from tests.support.images import Image
from tests.support.quirky import quirky_registry
from tests.support.registries import Registry
from tests.support.registry_end import settings_for

BASE = images.layer("base", 300_000)
MODEL = images.layer("model", 5_000_000)  # of a size that a target is asked for
NEW = images.layer("june", 200_000)


def may() -> dict[str, Image]:
    return {
        "team/app:1": images.image("app", layers=[BASE, MODEL]),
        "team/old:1": images.image("old", layers=[BASE]),
        "several:1": images.multi_platform("several", base=BASE, attested=True),
        "charts/app:0.1.0": images.chart("app"),
    }


def june() -> dict[str, Image]:
    """One image is new, one moved to another repository, and a signature came."""
    app = images.image("app june", layers=[BASE, MODEL, NEW])
    tag, signature = images.cosign_signature(app)
    return {
        **may(),
        "team/app:2": app,
        f"team/app:{tag}": signature,
        "elsewhere/model:1": images.image("model", layers=[MODEL]),
    }


async def publish(registry: Registry, made: dict[str, Image]) -> list[str]:
    for name, image in made.items():
        repository, _, tag = name.partition(":")
        await client.push(registry, repository, image, tag)
    return [f"{registry.address}/{name}" for name in made if "sha256-" not in name]


def blobs_in(bundle: Path) -> dict[Digest, tuple[str, ...]]:
    """The blobs of a bundle, as one that its target is said to have, in no repository that is known."""
    with open_bundle(bundle) as opened:
        manifests = {image.descriptor.digest for image in opened.images}
        return {digest: () for digest in opened.digests if digest not in manifests}


async def built(
    home: Path, references: list[str], name: str, assumption: Assumption | None = None, form: Format = "tar.zst"
) -> Path:
    definition = make_definition(name, references)
    file = BundleFile(output=home, assumption=assumption, force=True, format=form)
    result = await build_file(definition, file, settings=settings_for())
    assert result.path, result.report.failures
    return result.path


class Months:
    """Two months: the images of each in one bundle, and the delta between them."""

    def __init__(self, may: Path, june: Path, delta: Path) -> None:
        self.may = may
        self.june = june
        self.delta = delta


async def months(registry: Registry, home: Path, *, lacking: frozenset[Digest] = frozenset()) -> Months:
    old = await built(home / "may", await publish(registry, may()), "edge")
    references = await publish(registry, june())
    full = await built(home / "june", references, "edge")
    assumption = Assumption(blobs_in(old), {}, (Witness("sha256:1", "2026-05-01T00:00:00Z"),), lacking)
    return Months(old, full, await built(home / "delta", references, "edge", assumption))


def place(source: Registry, name: str) -> str:
    return f"base/{source.address.replace(':', '_')}/{name.partition(':')[0]}"


async def assert_whole(source: Registry, target: Registry) -> None:
    for name, image in june().items():
        await client.assert_holds(target, place(source, name), image, name.partition(":")[2])


async def test_a_delta_holds_what_is_new_and_brings_a_registry_to_where_a_full_push_does(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        made = await months(source, tmp_path)
        registry = f"{target.address}/base"
        first = await syncer("push", "--file", made.may, "--registry", registry, home=tmp_path)
        foreseen = await syncer("plan", "--file", made.delta, "--registry", registry, "--json", home=tmp_path)
        pushed = await syncer("push", "--file", made.delta, "--registry", registry, "--json", home=tmp_path)
        again = await syncer("push", "--file", made.delta, "--registry", registry, "--json", home=tmp_path)
        verified = await syncer("verify", "--file", made.june, "--registry", registry, home=tmp_path)

        assert (first.code, pushed.code, again.code, verified.code) == (0, 0, 0, 0), pushed.stderr + verified.stderr
        await assert_whole(source, target)
        assert made.delta.name == "edge.delta.tar.zst"
        assert made.delta.stat().st_size < len(NEW.content) * 1.02 + 40_000
        sent = orjson.loads(pushed.stdout)["totals"]["bytes_sent"]
        assert orjson.loads(foreseen.stdout)["totals"]["bytes_to_send"] == sent
        assert len(NEW.content) <= sent < len(NEW.content) * 1.02 + 20_000
        assert orjson.loads(again.stdout)["totals"]["bytes_sent"] == 0


async def test_a_registry_that_lost_a_blob_is_told_so_before_anything_is_sent(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    missing = tmp_path / "missing.json"
    async with debian_registry("source") as source, debian_registry("target") as target:
        made = await months(source, tmp_path)
        registry = f"{target.address}/base"
        ran = await syncer("push", "--file", made.delta, "-r", registry, "--missing-out", missing, home=tmp_path)

        foreseen = await syncer("plan", "--file", made.delta, "-r", registry, home=tmp_path)

        assert (ran.code, foreseen.code) == (Exit.UNVERIFIED, Exit.UNVERIFIED)
        assert "that the delta takes to be there" in foreseen.stderr
        assert "that the delta takes to be there" in ran.stderr
        assert "nothing was sent" in ran.stderr
        assert await client.repositories(target) == []
        listed = orjson.loads(missing.read_bytes())
        assert listed["kind"] == "syncer/missing@1"
        assert images.digest_of(MODEL.content) in [each["digest"] for each in listed["blobs"]]
        assert all(each["registries"] == [registry] for each in listed["blobs"])

        lacking = frozenset(Digest.parse(each["digest"]) for each in listed["blobs"])
        top_up = await months(source, tmp_path, lacking=lacking)
        mended = await syncer("push", "--file", top_up.delta, "-r", registry, home=tmp_path)
        assert mended.code == 0, mended.stderr
        await assert_whole(source, target)


async def test_what_lies_in_another_repository_of_the_target_is_not_sent(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        references = await publish(source, june())
        await client.push(target, "somewhere/else", images.image("app", layers=[BASE, MODEL]), "1")
        there = {Digest.parse(images.digest_of(layer.content)): ("somewhere/else",) for layer in (BASE, MODEL)}
        assumption = Assumption(there, {}, (Witness("sha256:1", registry=f"{target.address}/somewhere"),))
        delta = await built(tmp_path, references, "edge", assumption)
        ran = await syncer("push", "--file", delta, "-r", f"{target.address}/base", "--json", home=tmp_path)

        assert ran.code == 0, ran.stderr
        assert f"the delta was made for {target.address}/somewhere, and goes to {target.address}/base" in ran.stderr
        await assert_whole(source, target)
        assert orjson.loads(ran.stdout)["totals"]["bytes_sent"] < len(MODEL.content)


@pytest.mark.parametrize("form", ["tar.zst", "tar"])
async def test_a_delta_and_the_older_bundle_make_the_whole_one_byte_for_byte(
    debian_registry: OpenRegistry, tmp_path: Path, form: Format
) -> None:
    merged = tmp_path / f"merged.{form}"
    async with debian_registry("source") as source:
        made = await months(source, tmp_path)
        full = await built(tmp_path / "full", await publish(source, june()), "edge", form=form)
    ran = await syncer("merge", "--base", made.may, "--delta", made.delta, "--output", merged, home=tmp_path)

    assert ran.code == 0, ran.stderr
    assert digest(merged) == digest(full)
    said = ran.stdout.splitlines()
    assert said[3] == f"bundle edge saved to {merged}"
    assert not any(line.startswith("moved:   0 B") for line in said)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def test_a_merge_needs_a_base_that_has_the_rest(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source:
        made = await months(source, tmp_path)
        other = await built(tmp_path / "other", [f"{source.address}/charts/app:0.1.0"], "other")
    output = tmp_path / "merged.tar.zst"
    lacking = await syncer("merge", "--base", other, "--delta", made.delta, "-o", output, home=tmp_path)
    no_delta = await syncer("merge", "--base", made.may, "--delta", made.june, "-o", output, home=tmp_path)
    unnamed = await syncer("merge", "--base", made.may, "--delta", made.delta, "-o", tmp_path, home=tmp_path)

    assert lacking.code == Exit.UNVERIFIED
    assert f"{other} lacks sha256:" in lacking.stderr
    assert (no_delta.code, unnamed.code) == (Exit.USAGE, Exit.USAGE)
    assert "is no delta" in no_delta.stderr
    assert not output.exists()


async def test_what_cannot_do_with_less_than_a_whole_bundle_says_so(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry("source") as source:
        made = await months(source, tmp_path)
    served = await syncer("serve", "--bundle", made.delta, "--port", "0", home=tmp_path)
    copied = await syncer("copy", "-s", made.delta, "-d", tmp_path / "copy.tar.zst", home=tmp_path)
    verified = await syncer("verify", "--file", made.delta, home=tmp_path)
    shown = await syncer("definition", made.delta, home=tmp_path)

    for ran in (served, copied):
        assert ran.code == Exit.USAGE
        assert "is a delta: it lacks" in ran.stderr
    assert (verified.code, shown.code) == (0, 0)
    assert "assumed at the target" in verified.stdout
    assert shown.stdout == (await syncer("definition", made.june, home=tmp_path)).stdout


async def test_a_delta_is_served_with_its_base(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source, AsyncExitStack() as stack:
        made = await months(source, tmp_path)
        from syncer.cli.serve import open_storage  # noqa: PLC0415  the command's own
        from syncer.serve import serve  # noqa: PLC0415  likewise

        storage = await stack.enter_async_context(open_storage(made.delta, None, base=made.may))
        address = await stack.enter_async_context(serve(storage, port=0))
        here = Registry(str(address), tmp_path)
        for name, image in june().items():
            repository = f"{source.address.replace(':', '_')}/{name.partition(':')[0]}"
            await client.assert_holds(here, repository, image, name.partition(":")[2])


async def test_an_altered_list_of_what_is_left_out_is_no_bundle(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    there: dict[Digest, tuple[str, ...]] = {Digest.parse(images.digest_of(MODEL.content)): ("team/app",)}
    async with debian_registry("source") as source:
        delta = await built(tmp_path, await publish(source, may()), "edge", Assumption(there, {}, ()), form="tar")
    content = delta.read_bytes()
    delta.write_bytes(content.replace(b'team/app"', b'team/bad"', 1))

    with pytest.raises(InvalidBundle, match=r"assumed\.json is not the one"), open_bundle(delta, may_lack=True):
        pass


async def test_a_registry_that_mounts_nothing_gets_the_blob_from_itself(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry("source") as source, quirky_registry() as target:
        target.mounts = False
        made = june()
        references = await publish(source, made)
        for number, layer in enumerate((BASE, MODEL)):
            target.blobs.setdefault(f"old/{number}", {})[images.digest_of(layer.content)] = layer.content
        there: dict[Digest, tuple[str, ...]] = {Digest.parse(images.digest_of(BASE.content)): ("old/0",)}
        there[Digest.parse(images.digest_of(MODEL.content))] = ("nowhere", "old/1")
        delta = await built(tmp_path, references, "edge", Assumption(there, {}, ()))
        ran = await syncer("push", "--file", delta, "-r", f"{target.address}/base", home=tmp_path)

        assert ran.code == 0, ran.stderr
        for name, image in made.items():
            held = target.blobs[place(source, name)]
            assert all(held[digest] == content for digest, content in image.all_blobs().items())


async def test_a_platform_of_a_delta_asks_for_its_own_blobs_only(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    several = images.multi_platform("several", base=BASE)
    async with debian_registry("source") as source, debian_registry("target") as target:
        references = await publish(source, {"several:1": several})
        arm = next(image for image in several.children if image.platform and image.platform["architecture"] == "arm64")
        amd = next(image for image in several.children if image.platform and image.platform["architecture"] == "amd64")
        await client.push(target, place(source, "several:1"), arm, "old")
        own = [Digest.parse(digest) for image in (arm, amd) for digest in image.blobs]
        delta = await built(tmp_path, references, "edge", Assumption(dict.fromkeys(own, ()), {}, ()))
        registry = f"{target.address}/base"
        one = await syncer("push", "--file", delta, "-r", registry, "--arch", "arm64", home=tmp_path)
        both = await syncer("push", "--file", delta, "-r", registry, home=tmp_path)

        assert one.code == 0, one.stderr
        assert both.code == Exit.UNVERIFIED
        await client.assert_holds(target, place(source, "several:1"), arm, "1")


async def test_a_registry_that_does_not_tell_is_no_registry_that_lacks(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        made = await months(source, tmp_path)
        async with fault_proxy(target) as proxy:
            proxy.on("HEAD", "/blobs/", Reply(403, body=b"{}"))
            proxy.on("GET", "/blobs/", Reply(403, body=b"{}"))
            ran = await syncer("push", "--file", made.delta, "-r", f"{proxy.registry.address}/base", home=tmp_path)

        assert ran.code == Exit.DENIED
        assert "403" in ran.stderr
        assert await client.repositories(target) == []


async def test_a_list_that_was_altered_is_not_the_one_of_the_delta(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    have, other = tmp_path / "have.json", tmp_path / "other.json"
    have.write_text("{}")
    other.write_text("{ }")
    lists = tuple(Witness(str(Digest.of(file.read_bytes()))) for file in (have, other))
    async with debian_registry("source") as source:
        references = await publish(source, {"team/app:1": images.image("app", layers=[BASE])})
        delta = await built(tmp_path, references, "edge", Assumption({}, {}, lists))
    good = await syncer("verify", "--file", delta, "--have", have, "--have", other, home=tmp_path)
    fewer = await syncer("verify", "--file", delta, "--have", have, home=tmp_path)
    have.write_text("{}\n")
    altered = await syncer("verify", "--file", delta, "--have", have, "--have", other, home=tmp_path)
    absent = await syncer("verify", "--file", delta, "--have", tmp_path / "absent", home=tmp_path)

    assert good.code == 0, good.stderr
    assert (fewer.code, altered.code, absent.code) == (Exit.UNVERIFIED, Exit.UNVERIFIED, Exit.USAGE)
    assert f"was not made with {have}, or the list was altered since" in altered.stderr


@pytest.mark.parametrize("name", ["../v2/other", "team/app?x=1", "Team/App", "team/app:1", 5])
def test_what_a_delta_calls_a_repository_is_one(name: object) -> None:
    blob = {"digest": f"sha256:{'a' * 64}", "size": 1, "repositories": ["team/app", name], "names": []}
    document = orjson.dumps({"kind": "syncer/assumed@1", "lists": [], "blobs": [blob]})

    with pytest.raises(InvalidContent, match=r"assumed\.json is not usable"):
        Assumed.parse(document)


async def test_a_site_that_lost_something_is_listed_and_the_others_get_theirs(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    missing = tmp_path / "missing.json"
    async with (
        debian_registry("source") as source,
        debian_registry("whole") as whole,
        debian_registry("empty") as empty,
    ):
        made = await months(source, tmp_path)
        first = await syncer("push", "--file", made.may, "-r", f"{whole.address}/base", home=tmp_path)
        sites = ["-r", f"{whole.address}/base", "-r", f"{empty.address}/base"]
        ran = await syncer(
            "push", "--file", made.delta, *sites, "--missing-out", missing, "--json", "--no-progress", home=tmp_path
        )

        assert (first.code, ran.code) == (0, 1), ran.stderr
        states = {site["registry"]: site["state"] for site in orjson.loads(ran.stdout)["sites"]}
        assert states == {f"{whole.address}/base": "done", f"{empty.address}/base": "partial"}
        await assert_whole(source, whole)
        assert await client.repositories(empty) == []
        listed = orjson.loads(missing.read_bytes())
        assert listed["bundle"] == "edge.delta.tar.zst"
        assert {tuple(each["registries"]) for each in listed["blobs"]} == {(f"{empty.address}/base",)}


async def test_what_was_found_is_neither_asked_for_nor_sent_again(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """Also where no image of a repository is known to be there, so that a small blob would be sent unasked."""
    async with debian_registry("source") as source, debian_registry("target") as target:
        references = await publish(source, {"team/app:2": images.image("app june", layers=[BASE, NEW])})
        await client.push(target, place(source, "team/app:2"), images.image("app", layers=[BASE]), "1")
        there: dict[Digest, tuple[str, ...]] = {Digest.parse(images.digest_of(BASE.content)): ()}
        delta = await built(tmp_path, references, "edge", Assumption(there, {}, ()))
        async with fault_proxy(target) as proxy:
            ran = await syncer("push", "--file", delta, "-r", f"{proxy.registry.address}/base", home=tmp_path)

        assert ran.code == 0, ran.stderr
        asked = [each for each in proxy.exchanges.of("HEAD blob") if each.path.endswith(images.digest_of(BASE.content))]
        assert len(asked) == 1
        assert len(NEW.content) <= proxy.exchanges.uploaded < len(NEW.content) + len(BASE.content)
