"""The main job as a user does it: list of images → one file → another registry, with the real command."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest

import syncer as api
from syncer.errors import Exit
from syncer.transfer.events import Copied, Event
from syncer.transport import Limits
from tests.conftest import OpenRegistry, OpenTokenServer
from tests.support import client, images
from tests.support.cli import Ran, environment, syncer
from tests.support.fault_proxy import fault_proxy
from tests.support.faults import Reply
from tests.support.images import Image
from tests.support.programs import needs
from tests.support.quirky import quirky_registry
from tests.support.registries import LOGIN, Registry
from tests.support.registry_end import settings_for


async def publish(registry: Registry, made: dict[str, Image]) -> list[str]:
    """Push each image under ``repository:tag``; returns the references."""
    for name, image in made.items():
        repository, _, tag = name.partition(":")
        await client.push(registry, repository, image, tag)
    return [f"{registry.address}/{name}" for name in made]


def some_images() -> dict[str, Image]:
    base = images.layer("base", 300_000)
    return {
        "team/plain:1": images.image("plain", layers=[base, images.layer("plain")]),
        "team/other:1": images.image("other", layers=[base, images.layer("other", 2_000_000)]),
        "team/docker:v1": images.image("docker", layers=[base], docker=True),
        "several:latest": images.multi_platform("several", base=base, attested=True),
        "listed:1.0": images.multi_platform("listed", docker=True),
        "charts/app:0.1.0": images.chart("app"),
    }


async def build(home: Path, references: Sequence[str], *options: str | Path, name: str = "demo", **env: str) -> Ran:
    listing = home / "images.txt"
    listing.write_text("".join(f"{reference}\n" for reference in references))
    out = home / "out"
    return await syncer("build", "--images-file", listing, "--name", name, "--output", out, *options, home=home, **env)


def landed(registry: Registry, source: Registry, name: str, base: str = "") -> str:
    return f"{base}{source.address.replace(':', '_')}/{name.partition(':')[0]}"


@pytest.mark.parametrize("form", ["tar.zst", "tar"])
async def test_images_go_from_a_registry_through_one_file_into_another(
    debian_registry: OpenRegistry, tmp_path: Path, form: str
) -> None:
    made = some_images()
    bundle = tmp_path / "out" / f"demo.{form}"
    async with debian_registry("source") as source, debian_registry("target") as target:
        references = await publish(source, made)

        built = await build(tmp_path, references, "--format", form)
        pushed = await syncer("push", "--file", bundle, "--registry", f"{target.address}/mirror", home=tmp_path)
        verified = await syncer(
            "verify", "--file", bundle, "--registry", f"http://{target.address}/mirror", home=tmp_path
        )

        assert (built.code, pushed.code, verified.code) == (0, 0, 0), built.stderr + pushed.stderr + verified.stderr
        assert list((tmp_path / "out").iterdir()) == [bundle]
        for name, image in made.items():
            await client.assert_holds(target, landed(target, source, name, "mirror/"), image, name.partition(":")[2])
        assert "Build Summary" in built.stdout
        assert f"bundle demo saved to {bundle}" in built.stdout
        assert "Push Summary" in pushed.stdout
        assert f"local bundle demo pushed to {target.address}/mirror" in pushed.stdout


async def test_pushing_again_asks_once_an_image_and_moves_nothing(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    made = some_images()
    bundle = tmp_path / "out/demo.tar.zst"
    async with debian_registry("source") as source, debian_registry("target") as target:
        await build(tmp_path, await publish(source, made))
        first = await syncer("push", "--file", bundle, "--registry", target.address, "--json", home=tmp_path)

        again = await syncer("push", "--file", bundle, "--registry", target.address, "--json", home=tmp_path)

    assert first.json["totals"]["images_copied"] == len(made)
    assert first.json["totals"]["blobs_mounted"] > 0
    assert again.code == 0
    assert again.json["totals"]["images_skipped"] == len(made)
    assert again.json["totals"]["requests"] == len(made) + 1  # one more for the definition, which is an artifact too
    assert again.json["totals"]["bytes_sent"] == 0


@pytest.mark.parametrize("command", ["build", "push"])
async def test_what_failed_for_trouble_that_passed_is_tried_once_more_at_the_end(
    debian_registry: OpenRegistry, tmp_path: Path, command: str
) -> None:
    """The registry is in trouble for as long as one request is tried; what it does not have is asked for once."""
    made = some_images()
    async with (
        debian_registry("source") as source,
        fault_proxy(source) as before,
        debian_registry("target") as target,
        fault_proxy(target) as behind,
    ):
        references = await publish(source, made)
        missing = f"{source.address}/team/missing:1"
        if command == "build":
            references = [reference.replace(source.address, before.registry.address) for reference in references]
            missing = missing.replace(source.address, before.registry.address)
            before.on("GET", "/charts/app/manifests/", Reply(500), times=6)
            references.append(missing)
        built = await api.build(references, output=tmp_path, settings=settings_for(before.registry, source),
                                allow_partial=True)  # fmt: skip
        failed = [str(image.source) for image in built.report.failures]
        if command == "push":
            behind.on("PUT", "/charts/app/manifests/", Reply(500), times=6)
            address = behind.registry.address
            pushed = await api.push(tmp_path / "bundle.tar.zst", address, settings=settings_for(behind.registry))
            assert pushed.exit == 0
            assert pushed.definition
        else:
            assert failed == [missing]
            assert sum("missing" in exchange.path for exchange in before.exchanges.of("HEAD manifest")) <= 1
            assert sum("missing" in exchange.path for exchange in before.exchanges.of("GET manifest")) == 1


@pytest.mark.parametrize("command", ["build", "push"])
async def test_a_registry_that_restarts_in_mid_run_fails_nothing(
    debian_registry: OpenRegistry, tmp_path: Path, command: str
) -> None:
    """§3 row 32: an upgrade, a rollout."""
    made = {f"app{n}:1": images.image(f"app {n}", layers=[images.layer(f"app {n}", 20_000)]) for n in range(60)}
    limits = Limits(backoff=0.05, longest_backoff=0.2, outage=20, idle=5.0)
    ended = anyio.Event()
    count = 0

    def note(event: Event) -> None:
        nonlocal count
        count += isinstance(event, Copied)
        if count == 20:
            ended.set()

    async with debian_registry("other") as other, AsyncExitStack() as stack:
        running = await stack.enter_async_context(debian_registry("restarts"))
        port = int(running.address.rpartition(":")[2])
        references = await publish(running if command == "build" else other, made)
        settings = settings_for(running, other, limits=limits)
        ran: list[Exit] = []

        async def run() -> None:
            if command == "build":
                built = await api.build(references, output=tmp_path, settings=settings, concurrency=4, emit=note)
                ran.append(built.exit)
            else:
                to = running.address
                pushed = await api.push(tmp_path / "bundle.tar.zst", to, settings=settings, concurrency=4, emit=note)
                ran.append(pushed.exit)

        if command == "push":
            await api.build(references, output=tmp_path, settings=settings)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await ended.wait()
            await stack.aclose()
            await anyio.sleep(1)  # longer than all attempts of a request take
            async with debian_registry("restarts", port=port):
                with anyio.fail_after(30):
                    while not ran:  # noqa: ASYNC110
                        await anyio.sleep(0.01)

        assert ran == [0]


@pytest.mark.parametrize("command", ["build", "push"])
async def test_a_registry_that_restarts_behind_a_proxy_fails_nothing(
    debian_registry: OpenRegistry, tmp_path: Path, command: str
) -> None:
    """§3 row 6: the proxy says 502 meanwhile, to uploads as well."""
    made = {f"app{n}:1": images.image(f"app {n}", layers=[images.layer(f"app {n}", 200_000)]) for n in range(30)}
    limits = Limits(attempts=2, backoff=0.02, longest_backoff=0.1, outage=20)
    async with debian_registry("other") as other, debian_registry("behind") as behind, fault_proxy(behind) as proxy:
        settings = settings_for(proxy.registry, other, limits=limits)
        references = await publish(proxy.registry if command == "build" else other, made)
        if command == "push":
            await api.build(references, output=tmp_path, settings=settings)
        ended = anyio.Event()
        count = 0

        def note(event: Event) -> None:
            nonlocal count
            count += isinstance(event, Copied)
            if count == 10 and not ended.is_set():
                proxy.on(None, "", Reply(502), times=None)
                ended.set()

        ran: list[Exit] = []

        async def run() -> None:
            if command == "build":
                built = await api.build(references, output=tmp_path, settings=settings, concurrency=4, emit=note)
                ran.append(built.exit)
            else:
                to, bundle = proxy.registry.address, tmp_path / "bundle.tar.zst"
                ran.append((await api.push(bundle, to, settings=settings, concurrency=4, emit=note)).exit)

        with anyio.fail_after(40):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                await ended.wait()
                await anyio.sleep(1)  # longer than all attempts of a request take
                proxy.rules.clear()

    assert ran == [0]


async def test_the_same_input_twice_gives_the_same_bytes(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """Whatever order the sets of a process have, and however much it does at a time."""
    made = []
    async with debian_registry() as source:
        named = [word for image in await publish(source, some_images()) for word in ("--image", image)]
        for seed, concurrency in (("1", "16"), ("2", "16"), ("3", "1")):
            command = [sys.executable, "-m", "syncer", "build", *named, "--output", tmp_path, "--force"]
            variables = environment(tmp_path) | {"PYTHONHASHSEED": seed}
            await anyio.run_process([*map(str, command), "--concurrency", concurrency], env=variables)
            made.append((tmp_path / "bundle.tar.zst").read_bytes())

    assert made[0] == made[1] == made[2]


async def test_a_build_asks_for_each_digest_once(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    made = some_images()
    async with debian_registry() as source:
        built = await build(tmp_path, await publish(source, made), "--json", "--no-referrers")

    manifests = {manifest.digest for image in made.values() for manifest in image.manifests()}
    blobs = {digest for image in made.values() for digest in image.all_blobs()}
    assert built.json["totals"]["blobs_copied"] == len(blobs)
    assert built.json["totals"]["requests"] == len(manifests) + len(blobs)


@pytest.mark.parametrize("form", ["tar.zst", "tar"])
async def test_skopeo_and_tar_read_the_bundle(debian_registry: OpenRegistry, tmp_path: Path, form: str) -> None:
    skopeo = needs("skopeo")
    made = some_images()
    bundle = tmp_path / "out" / f"demo.{form}"
    async with debian_registry() as source:
        references = await publish(source, made)
        await build(tmp_path, references, "--format", form)

    listed = subprocess.run([needs("tar"), "-tf", bundle], check=True, capture_output=True, text=True)  # noqa: ASYNC221
    copied = subprocess.run(  # noqa: ASYNC221
        [skopeo, "copy", "--all", f"oci-archive:{bundle}:{references[3]}", f"dir:{tmp_path / 'copied'}"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert {"oci-layout", "index.json", "bundle-definition.yaml"} < set(listed.stdout.split())
    assert copied.returncode == 0, copied.stderr
    assert (tmp_path / "copied/manifest.json").read_bytes() == made["several:latest"].content
    if form == "tar.zst":
        subprocess.run([needs("zstd"), "-tq", bundle], check=True)  # noqa: ASYNC221


async def test_a_platform_is_taken_out_of_every_index(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    several = images.multi_platform("several")
    async with debian_registry("source") as source, debian_registry("target") as target:
        references = await publish(source, {"several:1": several, "single:1": images.image("s", architecture="arm64")})
        built = await build(tmp_path, references, "--arch", "arm64")
        await syncer("push", "--file", tmp_path / "out/demo.tar.zst", "--registry", target.address, home=tmp_path)

        assert built.code == 0
        await client.assert_holds(target, landed(target, source, "several"), several.children[1], "1")


async def test_an_image_without_the_platform_is_an_error_that_names_what_it_has(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry() as source:
        references = await publish(source, {"single:1": images.image("s"), "several:1": images.multi_platform("m")})
        built = await build(tmp_path, references, "--arch", "arm64")

    assert built.code == 4
    assert "/single:1 has no linux/arm64, only linux/amd64\n" in built.stdout
    assert not (tmp_path / "out/demo.tar.zst").exists()


async def test_a_missing_image_keeps_the_bundle_back_until_it_is_there(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    late = images.image("late")
    async with debian_registry() as source:
        references = await publish(source, some_images())
        first = await build(tmp_path, [*references, f"{source.address}/late:1"], "--json")
        waiting = sorted(path.name for path in (tmp_path / "out").iterdir())
        await client.push(source, "late", late, "1")
        second = await build(tmp_path, [*references, f"{source.address}/late:1"], "--json")

    assert first.code == 4
    assert [image["source"] for image in first.json["images"] if image["status"] == "failed"] == [
        f"{source.address}/late:1"
    ]
    assert waiting == ["demo.tar.zst.journal", "demo.tar.zst.partial"]
    assert second.code == 0
    assert second.json["totals"]["blobs_copied"] == len(late.blobs)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["demo.tar.zst"]


async def test_a_partial_bundle_is_published_on_demand_and_says_what_it_lacks(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    lost = images.layer("lost", 50_000)
    broken = images.image("broken", layers=[images.layer("kept"), lost])
    bundle = tmp_path / "out/demo.tar.zst"
    async with debian_registry("source") as source, debian_registry("target") as target:
        references = await publish(source, {"good:1": images.image("good"), "broken:1": broken})
        for stored in source.directory.rglob(images.digest_of(lost.content).removeprefix("sha256:")):
            for data in stored.rglob("data"):
                data.unlink()
        built = await build(tmp_path, references, "--allow-partial")
        verified = await syncer("verify", "--file", bundle, home=tmp_path)
        pushed = await syncer("push", "--file", bundle, "--registry", target.address, "--json", home=tmp_path)

    assert built.code == 1
    assert verified.code == 0, verified.stderr
    assert [image["source"] for image in pushed.json["images"]] == [f"{source.address}/good:1"]
    definition = subprocess.run(  # noqa: ASYNC221
        [needs("tar"), "-xOf", bundle, "bundle-definition.yaml"], check=True, capture_output=True, text=True
    )
    assert f"{source.address}/broken:1" in definition.stdout


@pytest.mark.parametrize("kind", ["basic", "bearer"])
async def test_registries_that_ask_who_we_are(
    debian_registry: OpenRegistry, token_server: OpenTokenServer, tmp_path: Path, kind: str
) -> None:
    made = some_images()
    bundle = tmp_path / "out/demo.tar.zst"
    async with token_server(login=LOGIN) as tokens:
        settings: dict[str, Any] = {"tokens": tokens} if kind == "bearer" else {"login": LOGIN}
        async with debian_registry("source", **settings) as source, debian_registry("target", **settings) as target:
            references = await publish(source, made)
            config = tmp_path / ".docker/config.json"
            config.parent.mkdir()
            config.write_text(f'{{"auths": {{"{source.address}": {{"auth": "{LOGIN.header.split()[1]}"}}}}}}')

            built = await build(tmp_path, references)
            anonymous = await syncer("push", "--file", bundle, "--registry", target.address, home=tmp_path)
            refused = await syncer(
                "push", "--file", bundle, "--registry", target.address, "--username", LOGIN.username,
                "--password-stdin", home=tmp_path, stdin="wrong\n",
            )  # fmt: skip
            pushed = await syncer(
                "push", "--file", bundle, "--registry", target.address, "--username", LOGIN.username,
                "--password-stdin", home=tmp_path, stdin=f"{LOGIN.password}\n",
            )  # fmt: skip

            assert (built.code, anonymous.code, refused.code, pushed.code) == (0, 3, 3, 0), pushed.stderr
            for name, image in made.items():
                await client.assert_holds(target, landed(target, source, name), image, name.partition(":")[2])
            for ran in (built, anonymous, refused, pushed):
                assert LOGIN.password not in ran.stdout + ran.stderr


async def test_a_digest_is_binding_and_a_reference_with_both_keeps_its_tag(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    old, new = images.image("old"), images.image("new")
    async with debian_registry("source") as source, debian_registry("target") as target:
        await publish(source, {"app:1": old})
        await publish(source, {"app:1": new})
        built = await build(tmp_path, [f"{source.address}/app:1@{old.digest}", f"{source.address}/app@{new.digest}"])
        pushed = await syncer(
            "push", "--file", tmp_path / "out/demo.tar.zst", "--registry", target.address, home=tmp_path
        )

        assert (built.code, pushed.code) == (0, 0), pushed.stderr
        repository = landed(target, source, "app")
        await client.assert_holds(target, repository, old, "1")
        await client.assert_holds(target, repository, new)
        assert await client.tags(target, repository) == ["1"]


async def test_names_are_mapped_on_the_way(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    image = images.image("a")
    async with debian_registry("source") as source, debian_registry("target") as target:
        await build(tmp_path, await publish(source, {"team/app:1": image}))
        pushed = await syncer(
            "push", "--file", tmp_path / "out/demo.tar.zst", "--registry", target.address,
            "--map", f"{source.address}/team=mirrored/by", home=tmp_path,
        )  # fmt: skip

        assert pushed.code == 0, pushed.stderr
        await client.assert_holds(target, "mirrored/by/app", image, "1")


async def test_signatures_and_sboms_travel_along(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    several = images.multi_platform("several")
    tag, signature = images.cosign_signature(several.children[0])
    sbom = images.referrer(several)
    async with debian_registry("source") as source, debian_registry("target") as target:
        references = await publish(source, {"several:1": several, f"several:{tag}": signature})
        await client.push(source, "several", sbom)
        await client.push(source, "several", images.index(sbom), several.digest.replace(":", "-"))  # the fallback tag
        built = await build(tmp_path, references[:1], "--json")
        pushed = await syncer(
            "push", "--file", tmp_path / "out/demo.tar.zst", "--registry", target.address, home=tmp_path
        )

        assert (built.code, pushed.code) == (0, 0), pushed.stderr
        repository = landed(target, source, "several")
        await client.assert_holds(target, repository, signature, tag)
        await client.assert_holds(target, repository, sbom)
        assert several.digest.replace(":", "-") in await client.tags(target, repository)


async def pushed_bundle(home: Path, source: Registry, target: Registry) -> Path:
    """A bundle of one image, all of which ``target`` has."""
    built = await build(home, await publish(source, {"team/app:1": images.image("app")}))
    pushed = await syncer("push", "--file", home / "out/demo.tar.zst", "--registry", target.address, home=home)
    assert (built.code, pushed.code) == (0, 0), built.stderr + pushed.stderr
    return home / "out/demo.tar.zst"


@pytest.mark.parametrize(
    ("path", "fault", "code", "told"),
    [
        ("", Reply(401, {"WWW-Authenticate": 'Basic realm="x"'}), 3, "401 Unauthorized"),
        ("", Reply(403), 3, "403 Forbidden"),
        ("/blobs/", Reply(501), 1, "501 Not Implemented"),
        ("/manifests/", Reply(200, {"Content-Type": "text/html"}, b"<html>log in</html>"), 1, "a web page came"),
        ("/blobs/", Reply(200, {"Content-Type": "text/html"}, b"<html>log in</html>"), 1, "a web page came"),
    ],
)
async def test_a_registry_that_does_not_tell_lacks_nothing(
    path: str, fault: Reply, code: int, told: str, *, debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """What it answered keeps its exit code, and is told once however many questions it was the answer to."""
    async with debian_registry("source") as source, debian_registry("target") as target, fault_proxy(target) as proxy:
        bundle = await pushed_bundle(tmp_path, source, target)
        proxy.on(None, path, fault, times=None)
        verify = ("verify", "--file", bundle, "--registry", proxy.registry.address)

        ran = await syncer(*verify, home=tmp_path)
        as_json = await syncer(*verify, "--json", home=tmp_path)

    assert ran.code == as_json.code == code, ran.stdout
    assert [line for line in ran.stdout.splitlines() if told in line] == [ran.stdout.splitlines()[-2]]
    assert "did not tell of" in ran.stdout
    assert "lack" not in ran.stdout
    assert as_json.json["lacking"] == []
    assert [told in doubt["problem"] for doubt in as_json.json["unknown"]] == [True]


async def test_a_registry_that_is_not_there_lacks_nothing(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        bundle = await pushed_bundle(tmp_path, source, target)

    ran = await syncer("verify", "--file", bundle, "--registry", target.address, home=tmp_path)

    assert ran.code == 1
    [unknown] = [line for line in ran.stdout.splitlines() if line.startswith("unknown: ")]
    assert unknown.endswith(f"more: {target.address} refused the connection"), "who refused it is said once"
    assert "lack" not in ran.stdout


async def test_what_is_not_there_is_told_beside_what_is_not_known(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """That something is missing is certain, so the exit code is 6."""
    async with debian_registry("source") as source, debian_registry("target") as target, fault_proxy(target) as proxy:
        bundle = await pushed_bundle(tmp_path, source, target)
        proxy.on("HEAD", "/blobs/", Reply(404))
        proxy.on(None, "/manifests/", Reply(403), times=None)

        ran = await syncer("verify", "--file", bundle, "--registry", proxy.registry.address, home=tmp_path)

    assert ran.code == 6
    assert ran.stdout.count("lacking: ") == ran.stdout.count("unknown: ") == 1


@pytest.mark.parametrize("command", ["push", "sync"])
@pytest.mark.parametrize("lost", ["a blob", "a manifest of the index", "the index", "nothing"])
async def test_what_a_registry_lost_is_found_and_sent_again(
    lost: str, command: str, debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """Garbage collection or a bad disk took it, and the tag is right.  Nothing else is sent a second time."""
    several = images.multi_platform("several")
    made = {"team/app:1": images.image("app"), "several:latest": several, "several:again": several}
    bundle = tmp_path / "out/demo.tar.zst"
    async with debian_registry("source") as source, quirky_registry() as target:
        references = await publish(source, made)
        await build(tmp_path, references)
        bring: list[str | Path] = ["push", "--file", bundle]
        if command == "sync":
            bring = ["sync", *[word for reference in references for word in ("--image", reference)]]
        bring += ["--registry", target.address, "--json"]
        verify = ("verify", "--file", bundle, "--registry", target.address)
        first = await syncer(*bring, home=tmp_path)
        repository = f"{source.address.replace(':', '_')}/several"
        assert first.code == 0
        match lost:
            case "a blob":
                del target.blobs[repository][next(iter(several.children[0].blobs))]
            case "a manifest of the index":
                del target.manifests[repository][several.children[1].digest]
            case "the index":
                del target.manifests[repository][several.digest]

        blind = await syncer(*bring, home=tmp_path)
        found = await syncer(*verify, home=tmp_path)
        del target.seen[:]
        mended = await syncer(*bring, "--recheck", home=tmp_path)
        sent = [f"{seen.method} {seen.kind}" for seen in target.seen if seen.method not in ("GET", "HEAD")]
        whole = await syncer(*verify, home=tmp_path)

    is_lost = lost != "nothing"
    assert (blind.code, found.code) == (0, 6 if is_lost and lost != "the index" else 0)
    assert (f"push --file {bundle} --registry {target.address} --recheck" in found.stderr) == (found.code == 6)
    assert (mended.code, whole.code) == (0, 0), mended.stderr + whole.stdout
    assert mended.json["totals"]["images_copied"] == (2 if is_lost else 0)
    assert mended.json["totals"]["images_skipped"] == (1 if is_lost else 3)
    blob = ["POST start", "PUT session"] if lost == "a blob" else []
    child = ["PUT manifest"] if lost in ("a blob", "a manifest of the index") else []
    assert sent == blob + child + (["PUT manifest"] * 2 if is_lost else [])


async def test_a_dry_run_looks_at_tags_only(tmp_path: Path) -> None:
    ran = await syncer("sync", "--image", "a/b:1", "-r", "127.0.0.1:1", "--dry-run", "--recheck", home=tmp_path)

    assert ran.code == 2
    assert "none with --recheck" in ran.stderr


async def test_a_cache_of_buildkit_is_an_index_of_blobs_and_travels_as_one(tmp_path: Path) -> None:
    """Through a bundle and straight, whole and for a platform, which a cache has not."""
    layers, config = [images.noise(f"cached {number}", 3000) for number in range(2)], b'{"layers": [], "records": []}'
    async with quirky_registry() as source, quirky_registry() as target, quirky_registry() as mirror:
        kind = "application/vnd.oci.image.layer.v1.tar+gzip"
        entries = [{"mediaType": kind, "digest": source.add("ci", layer), "size": len(layer)} for layer in layers]
        kind = "application/vnd.buildkit.cacheconfig.v0"
        entries.append({"mediaType": kind, "digest": source.add("ci", config), "size": len(config)})
        cache = orjson.dumps({"schemaVersion": 2, "mediaType": images.OCI_INDEX, "manifests": entries})
        source.manifests["ci"] = {"cache": (images.OCI_INDEX, cache)}
        image = f"{source.address}/ci:cache"
        place = f"{source.address.replace(':', '_')}/ci"

        built = await build(tmp_path, [image])
        to = ("--registry", target.address)
        pushed = await syncer("push", "--file", tmp_path / "out/demo.tar.zst", *to, home=tmp_path)
        verified = await syncer("verify", "--file", tmp_path / "out/demo.tar.zst", *to, home=tmp_path)
        synced = await syncer("sync", "--image", image, "-r", mirror.address, "-a", "amd64", home=tmp_path)

    runs = (built, pushed, verified, synced)
    assert [run.code for run in runs] == [0] * 4, [run.stderr for run in runs]
    for registry in (target, mirror):
        assert registry.manifests[place]["cache"] == (images.OCI_INDEX, cache)
        assert registry.blobs[place] == source.blobs["ci"]
