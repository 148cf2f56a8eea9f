"""The first line of a summary says what happened, and nobody takes a part for the whole."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path

import orjson
import pytest
from msgspec.structs import replace

from syncer.bundle import open_writer
from syncer.content import Item
from syncer.errors import NotFound, SyncerError, TargetError, Unreachable
from syncer.oci import Reference
from syncer.profiles.definition.definition import Definition, Missing, render_definition
from syncer.report.summary import failure_lines
from syncer.transfer.events import ImageFailed
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.bundles import build, some_images
from tests.support.cli import syncer
from tests.support.fault_proxy import fault_proxy
from tests.support.faults import Reply
from tests.test_report import account


def closed_port() -> str:
    with closing(socket.socket()) as listening:
        listening.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("command", ["push", "copy"])
async def test_what_failed_altogether_was_not_brought_anywhere(tmp_path: Path, command: str) -> None:
    await build(bundle := tmp_path / "edge.tar.zst", some_images())
    place = closed_port()
    ends = ("--source", "--destination") if command == "copy" else ("--file", "--registry")

    ran = await syncer(command, ends[0], bundle, ends[1], place, home=tmp_path)

    what, done = (f"bundle {bundle}", "copied") if command == "copy" else ("local bundle edge", "pushed")
    assert ran.code == 5
    assert ran.stdout.splitlines()[3] == f"{what} was not {done} to {place}: all of its 4 images failed"


async def test_what_failed_in_part_was_brought_but_for_that(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    await build(bundle := tmp_path / "edge.tar.zst", some_images())
    async with debian_registry() as registry, fault_proxy(registry) as proxy:
        proxy.on("PUT", "/app1/manifests/", Reply(400), times=None)
        ran = await syncer("push", "--file", bundle, "--registry", proxy.registry.address, home=tmp_path)

    place = proxy.registry.address
    assert ran.stdout.splitlines()[3] == f"local bundle edge pushed to {place}, but for 1 of its 4 images, which failed"


async def test_a_bundle_that_lacks_images_is_never_taken_for_a_whole_one(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """The build, verify, push and plan say what it lacks, once, in words and in JSON, and also who is to be quiet."""
    bundle = tmp_path / "edge.tar.zst"
    async with debian_registry("source") as source, debian_registry("target") as target:
        await client.push(source, "team/app", images.image("app"), "1")
        wanted = [f"--image={source.address}/team/{name}:1" for name in ("app", "gone")]
        gone, place = f"{source.address}/team/gone:1", target.address

        built = await syncer("build", *wanted, "--name", "edge", "--output", tmp_path, "--allow-partial", home=tmp_path)
        verified = await syncer("verify", "--file", bundle, home=tmp_path)
        written = ("--report", tmp_path / "verify.json")
        told = await syncer("verify", "--file", bundle, "--registry", place, "--json", *written, home=tmp_path)
        planned = await syncer("plan", "--file", bundle, "--registry", place, home=tmp_path)
        pushed = await syncer("push", "--file", bundle, "--registry", place, home=tmp_path)
        again = await syncer("push", "--file", bundle, "--registry", place, "--json", home=tmp_path)
        quiet = await syncer("push", "--file", bundle, "--registry", place, "-q", home=tmp_path)
        calm = await syncer("verify", "--file", bundle, "-q", home=tmp_path)

    lacks = f"lacks 1 of 2 images, which could not be had when it was built: {gone}"
    assert f"bundle edge saved to {bundle}, without 1 of its 2 images, which failed\n" in built.stdout
    assert "hint: correct the name\n" in built.stderr
    assert f"missing: the bundle {lacks}\n" in verified.stdout
    assert "hint: build the bundle again with --force" in verified.stderr
    assert [each["name"] for each in told.json["missing"]] == [gone]
    assert orjson.loads((tmp_path / "verify.json").read_bytes()) == told.json
    assert "has no repository team/gone" in told.json["missing"][0]["reason"]
    assert f"warning: {bundle} {lacks}; to have them, build it again with --force\n" in planned.stderr
    warning = f"warning: {bundle} {lacks}; to have them, build it again with --force\n"
    assert pushed.stderr.count(warning) == 1
    assert "lacks" not in pushed.stdout
    assert [lacks in warning for warning in again.json["warnings"]] == [True]
    assert (quiet.code, quiet.stdout, quiet.stderr) == (0, "", warning)
    assert (calm.code, calm.stdout, calm.stderr) == (0, "", f"warning: {bundle} {lacks}\n")
    assert (verified.code, planned.code, pushed.code) == (0, 0, 0)


async def test_a_build_of_which_nothing_arrived_publishes_no_bundle(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """A script that pushes what a build left behind would bring nothing, and call it well done."""
    async with debian_registry() as registry:
        wanted = [f"{registry.address}/team/{name}:1" for name in ("app", "gone")]
        built = await syncer("build", *wanted, "--output", tmp_path / "out", "--allow-partial", home=tmp_path)

    assert built.code == 4
    assert "bundle bundle was not published, not even in part, since nothing of it could be had\n" in built.stdout
    assert not (tmp_path / "out" / "bundle.tar.zst").exists()


async def test_a_bundle_that_was_to_hold_images_and_holds_none_is_good_for_nothing(tmp_path: Path) -> None:
    """Versions before this one published such bundles."""
    missing = tuple(Missing(name=f"quay.io/team/{name}:1", reason="it is not there") for name in ("app", "web"))
    async with open_writer(bundle := tmp_path / "edge.tar.zst") as writer:
        await writer.publish(render_definition(Definition(name="edge", missing=missing)).encode())
    place = closed_port()

    for command, *words in (["push", place], ["push", "-r", place, "-r", f"{place}/b"], ["verify"]):
        ran = await syncer(command, bundle, *words, home=tmp_path)

        assert ran.code == 6
        lacks = f"error: {bundle} lacks 2 of 2 images, which could not be had when it was built: quay.io/team/app:1"
        assert lacks in ran.stderr
        assert "build it again with --force" in ran.stderr


async def test_a_whole_bundle_lacks_nothing(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry() as registry:
        await client.push(registry, "team/app", images.image("app"), "1")
        image = f"{registry.address}/team/app:1"
        await syncer("build", "--image", image, "--output", tmp_path, home=tmp_path)
        told = await syncer("verify", "--file", tmp_path / "bundle.tar.zst", "--json", home=tmp_path)
        pushed = await syncer(
            "push", "--file", tmp_path / "bundle.tar.zst", "--registry", registry.address, home=tmp_path
        )

    assert told.json["missing"] == []
    assert "lacks" not in pushed.stdout + pushed.stderr
    assert pushed.stdout.splitlines()[3] == f"local bundle bundle pushed to {registry.address}"


async def test_a_forecast_says_once_what_was_not_compared(tmp_path: Path) -> None:
    """Images are not missing because their target cannot be reached."""
    await build(bundle := tmp_path / "edge.tar.zst", some_images())
    place = closed_port()

    planned = await syncer("plan", "--file", bundle, "--registry", f"{place}/x", home=tmp_path)
    dry = await syncer("push", "--dry-run", bundle, f"{place}/x", home=tmp_path)

    for told in (planned, dry):
        assert told.code == 5
        assert "images:  4 (4 not compared)\n" in told.stdout
        failed = [line for line in told.stdout.splitlines() if line.startswith("failed:")]
        assert failed == [f"failed:  {place} refused the connection: 4 images not compared"]
        assert "not found" not in told.stdout
        assert "hint: is a registry running there?" in told.stderr


async def test_a_forecast_calls_missing_what_is_missing(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry() as registry:
        await client.push(registry, "team/app", images.image("app"), "1")
        names = [f"{registry.address}/team/{name}:1" for name in ("app", "gone")]
        dry = await syncer("build", "--dry-run", *names, home=tmp_path)

    assert "images:  2 (1 to copy, 1 not found)\n" in dry.stdout
    assert f"failed:  {registry.address} has no repository team/gone\n" in dry.stdout
    assert "hint: correct the name\n" in dry.stderr


async def test_a_quiet_verification_tells_of_failures_alone(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    await build(bundle := tmp_path / "edge.tar.zst", some_images())
    async with debian_registry() as registry:
        for form in ([], ["--json"]):
            well = await syncer("verify", bundle, "-q", *form, home=tmp_path)
            ill = await syncer("verify", bundle, registry.address, "-q", *form, home=tmp_path)

            assert (well.code, well.stderr, ill.code) == (0, "", 6)
            if form:  # a document that is asked for is there
                assert (well.json["exit_code"], ill.json["exit_code"]) == (0, 6)
            else:
                assert (well.stdout, ill.stdout) == ("", "")
            assert f"registry {registry.address} lacks " in ill.stderr
    printed = await syncer("verify", bundle, "--report", "-", home=tmp_path)
    assert printed.json["exit_code"] == 0
    assert "Verify Summary" in printed.stderr


def test_what_cannot_be_had_is_named_once_however_many_targets_want_it() -> None:
    def wanted(name: str, error: SyncerError) -> list[ImageFailed]:
        source = Reference.parse(f"quay.io/{name}:1")
        return [ImageFailed(Item(source, replace(source, registry=target)), error) for target in ("a.io", "b.io")]

    gone = NotFound("GET https://quay.io/v2/team/app/manifests/1", 404)
    down = Unreachable("quay.io refused the connection")
    other = TargetError("the disk is full")

    told = account(*wanted("team/app", gone), *wanted("x", down), *wanted("y", down), *wanted("z", other)).report()

    assert failure_lines(told) == [
        "failed:  quay.io refused the connection: 2 images not fetched",
        f"failed:  quay.io/team/app:1: {gone}",
        "failed:  quay.io/z:1: the disk is full",
    ]
