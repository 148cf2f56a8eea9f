"""``syncer sync`` as a user does it: registry to registry, with the real command and real registries."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml
from jsonschema import validate

from syncer.api.state import hold_lock
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.chart_repository import chart_repository
from tests.support.cli import Ran, environment, syncer
from tests.support.fault_proxy import fault_proxy
from tests.support.faults import Stall
from tests.support.images import Image
from tests.support.palette import KEY, palette_server
from tests.support.registries import LOGIN, Registry

DOCS = Path(__file__).parent.parent / "docs"
UID = "66b1f0c2a1b2c3d4e5f60718"


async def publish(registry: Registry, made: dict[str, Image]) -> list[str]:
    """Push each image under ``repository:tag``; returns the references."""
    for name, image in made.items():
        repository, _, tag = name.partition(":")
        await client.push(registry, repository, image, tag)
    return [f"{registry.address}/{name}" for name in made]


def write_file(home: Path, **document: Any) -> Path:
    path = home / "sync.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def landed(source: Registry, repository: str, base: str = "mirror") -> str:
    return f"{base}/{source.address.replace(':', '_')}/{repository}"


async def sync(home: Path, *options: str | Path, **environment: str) -> Ran:
    return await syncer("sync", *options, home=home, **environment)


async def test_images_named_by_flags_go_from_registry_to_registry(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    made = {"a:1": images.image("a"), "team/b:2": images.multi_platform("b", attested=True), "c:3": images.chart("c")}
    async with debian_registry("source") as source, debian_registry("target") as target:
        references = await publish(source, made)
        (tmp_path / "images.txt").write_text(f"{references[1]}\n{references[2]}  # the chart\n")

        ran = await sync(
            tmp_path, "--image", references[0], "--images-file", tmp_path / "images.txt",
            "--registry", f"{target.address}/mirror",
        )  # fmt: skip

        assert ran.code == 0, ran.stderr
        assert "Sync Summary" in ran.stdout
        assert f"{target.address}/mirror has 3 of 3 images" in ran.stdout
        assert "images:  3 (3 copied)" in ran.stdout
        for name, image in made.items():
            repository, _, tag = name.partition(":")
            await client.assert_holds(target, landed(source, repository), image, tag)


async def test_a_file_says_what_goes_where(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    app = {f"app:1.{minor}.0": images.image(f"app{minor}") for minor in range(5)}
    several = images.multi_platform("several")
    async with (
        debian_registry("source") as source,
        debian_registry("office") as office,
        debian_registry("edge") as edge,
    ):
        await publish(source, {**app, "app:dev": images.image("dev"), "tool:1": several})
        file = write_file(
            tmp_path,
            sources=[
                {"repository": f"{source.address}/app", "tags": {"semver": ">=1.1", "newest": "2"}},
                {
                    "image": f"{source.address}/tool:1",
                    "targets": ["edge"],
                    "platforms": ["linux/arm64"],
                    "as": "tools/t",
                },
            ],
            targets=[
                {"registry": f"{office.address}/mirror", "name": "office"},
                {"registry": f"http://{edge.address}/base", "name": "edge", "map": {f"{source.address}/app": "apps"}},
            ],
        )

        ran = await sync(tmp_path, "-c", file, "--json")

        assert ran.code == 0, ran.stderr
        assert ran.json["totals"]["images_copied"] == 5
        assert await client.tags(office, landed(source, "app")) == ["1.3.0", "1.4.0"]
        assert await client.tags(edge, "base/apps") == ["1.3.0", "1.4.0"]
        await client.assert_holds(edge, "base/tools/t", several.children[1], "1")
        assert await client.repositories(office) == [landed(source, "app")]


async def test_profiles_and_charts_are_mirrored_too(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    app, tool = images.image("app"), images.image("tool")
    async with (
        debian_registry("source") as source,
        debian_registry("target") as target,
        palette_server() as palette,
        chart_repository() as repository,
    ):
        await publish(source, {"app:1": app, "tool:1": tool})
        repository.add_chart("web", "1.2.0")
        repository.index()
        values = yaml.safe_dump({"pack": {"content": {"images": [{"image": f"{source.address}/app:1"}]}}})
        pack = {"name": "p", "type": "spectro", "layer": "addon", "version": "1.0.0", "values": values}
        palette.profiles[UID] = {
            "metadata": {"name": "edge", "uid": UID},
            "spec": {"version": "1.0.0", "template": {"type": "add-on", "cloudType": "all", "packs": [pack]}},
        }
        listed = {"content": {"images": [{"image": f"{source.address}/tool:1"}]}}
        (tmp_path / "values.yaml").write_text(yaml.safe_dump({"pack": listed}))
        file = write_file(
            tmp_path,
            sources=[
                {"profiles": UID, "project_id": "project-1"},
                {"profile_file": "values.yaml"},
                {"chart": {"repository": str(repository.url), "name": "web", "version": "^1.0"}},
            ],
            targets=[{"registry": f"{target.address}/m"}],
        )
        login = {"SYNCER_API_KEY": KEY, "SYNCER_CONSOLE_URL": str(palette.url)}

        ran = await sync(tmp_path, "-c", file, "--json", **login)
        again = await sync(tmp_path, "-c", file, "--json", **login)
        nobody = await sync(tmp_path, "-c", file)

        assert (ran.code, again.code, nobody.code) == (0, 0, 2), ran.stderr + again.stderr
        assert again.json["totals"]["images_skipped"] == 3
        assert "log in with syncer login" in nobody.stderr
        await client.assert_holds(target, landed(source, "app", "m"), app, "1")
        await client.assert_holds(target, landed(source, "tool", "m"), tool, "1")
        place = f"m/{repository.url.host}_{repository.url.port}/web"
        chart = client.parsed(await client.manifest(target, place, "1.2.0"))
        assert chart["config"]["mediaType"] == "application/vnd.cncf.helm.config.v1+json"
        assert KEY not in ran.stdout + ran.stderr


async def test_credentials_come_from_where_the_file_says(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    helpers = tmp_path / "bin"
    helpers.mkdir()
    helper = helpers / "docker-credential-nightly"
    helper.write_text(f"""#!/bin/sh\necho '{{"Username": "{LOGIN.username}", "Secret": "{LOGIN.password}"}}'\n""")
    helper.chmod(0o755)
    (tmp_path / "secret").write_text(f"{LOGIN.password}\n")
    async with (
        debian_registry("source", login=LOGIN) as source,
        debian_registry("one", login=LOGIN) as one,
        debian_registry("two", login=LOGIN) as two,
    ):
        await publish(source, {"app:1": images.image("app")})
        registries: dict[str, Any] = {
            source.address: {"credentials": {"username": LOGIN.username, "password_env": "SOURCE_PASSWORD"}},
            one.address: {"credentials": {"username_env": "ONE_USER", "password_file": "secret"}},
            two.address: {"credentials": {"helper": "nightly"}},
        }
        wanted: dict[str, Any] = {
            "sources": [{"image": f"{source.address}/app:1"}],
            "targets": [{"registry": one.address}, {"registry": two.address}],
            "registries": registries,
        }
        file = write_file(tmp_path, **wanted)
        variables = {
            "SOURCE_PASSWORD": LOGIN.password,
            "ONE_USER": LOGIN.username,
            "PATH": f"{helpers}:{os.environ['PATH']}",
        }

        ran = await sync(tmp_path, "-c", file, "--json", "--log-format", "json", **variables)
        unset = await sync(tmp_path, "-c", file, **(variables | {"SOURCE_PASSWORD": ""}))
        wanted["registries"][source.address] = {"credentials": {"username": LOGIN.username, "password": LOGIN.password}}
        inline = await sync(tmp_path, "-c", write_file(tmp_path, **wanted), "--json", **variables)

    assert ran.code == 0, ran.stderr
    assert ran.json["totals"]["images_copied"] == 2
    assert unset.code == 2
    assert f"the credentials of {source.address} are in the variable SOURCE_PASSWORD, which is not set" in unset.stderr
    assert inline.code == 0
    assert "warning: " in inline.stderr
    assert "stands in the file" in inline.stderr
    for each in (ran, unset, inline):
        assert LOGIN.password not in each.stdout + each.stderr


async def test_the_account_is_written_in_all_its_forms(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        await publish(source, {"app:1": images.image("app")})
        file = write_file(
            tmp_path,
            sources=[{"repository": f"{source.address}/app", "tags": {"names": ["1", "lost"], "glob": "none-*"}}],
            targets=[{"registry": target.address}],
        )

        ran = await sync(
            tmp_path, "-c", file, "--json", "--report", tmp_path / "report.json",
            "--metrics-file", tmp_path / "syncer.prom", "--log-format", "json",
        )  # fmt: skip

    report = json.loads((tmp_path / "report.json").read_bytes())
    validate(report, json.loads((DOCS / "report.schema.json").read_bytes()))
    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    assert ran.code == 4
    assert ran.json == report
    assert [image["status"] for image in report["images"]] == ["copied", "failed"]
    assert {registry["registry"] for registry in report["registries"]} == {source.address, target.address}
    assert {line["run_id"] for line in lines} == {report["run_id"]}
    assert {"image_copied", "image_failed", "warning"} <= {line["event"] for line in lines}
    metrics = (tmp_path / "syncer.prom").read_text()
    labels = 'command="sync",profile="sync",'
    at = f'target="{target.address}"'
    assert f'syncer_last_run_images{{{labels}status="failed",{at}}} 1.0' in metrics
    assert f"syncer_last_run_success{{{labels}{at}}} 0.0" in metrics


async def test_a_second_run_of_the_same_file_does_not_begin(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source:
        await publish(source, {"app:1": images.image("app")})
        file = write_file(
            tmp_path, sources=[{"image": f"{source.address}/app:1"}], targets=[{"registry": "localhost:9"}]
        )
        with hold_lock(tmp_path / "state", str(file), pytest.fail):
            ran = await sync(tmp_path, "-c", file, "--state-dir", tmp_path / "state")
            (tmp_path / "link.yaml").symlink_to(file)
            same = await sync(tmp_path, "-c", tmp_path / "link.yaml", "--state-dir", tmp_path / "state")
            plan = await sync(tmp_path, "-c", file, "--state-dir", tmp_path / "state", "--dry-run")

    assert (ran.code, same.code) == (75, 75)
    assert re.search(rf"another run \(process {os.getpid()}, begun [0-9:]+\) is using {file}\n", ran.stderr)
    assert plan.code != 75


async def test_a_killed_sync_goes_on_where_it_was(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """What arrived before the kill is not sent again, nor asked of the source."""
    layers = [images.layer(f"layer {n}", 1_000_000) for n in range(8)]
    image = images.image("large", layers=layers)
    async with (
        debian_registry("source") as source,
        debian_registry("target") as target,
        fault_proxy(source) as from_source,
        fault_proxy(target) as to_target,
    ):
        await client.push(source, "app", image, "1")
        file = write_file(
            tmp_path,
            sources=[{"image": f"{from_source.registry.address}/app:1"}],
            targets=[{"registry": to_target.registry.address}],
        )
        to_target.on("PUT", "/blobs/uploads/", Stall("head"), first=6, times=None)
        command = [sys.executable, "-m", "syncer", "sync", "-c", str(file), "--concurrency", "2"]
        process = await anyio.open_process(command, env=environment(tmp_path), stdout=None, stderr=None)
        with anyio.fail_after(30):
            while len([one for one in to_target.exchanges.of("PUT upload") if one.status]) < 5:  # noqa: ASYNC110
                await anyio.sleep(0.02)
        process.kill()
        await process.wait()
        await process.aclose()
        to_target.rules.clear()
        fetched = len(from_source.exchanges.of("GET blob"))

        ran = await sync(tmp_path, "-c", file, "--json")

        assert ran.code == 0, ran.stderr
        assert ran.json["totals"]["blobs_skipped"] >= 5
        assert len(from_source.exchanges.of("GET blob")) - fetched <= 9 - 5
        await client.assert_holds(target, landed(from_source.registry, "app", "").strip("/"), image, "1")


async def test_a_timeout_ends_the_run_in_good_order(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with (
        debian_registry("source") as source,
        debian_registry("target") as target,
        fault_proxy(target) as proxy,
    ):
        references = await publish(source, {"quick:1": images.image("quick"), "slow:1": images.image("slow")})
        proxy.on("PUT", "/slow/manifests/1", Stall("request"), times=None)
        options = [word for reference in references for word in ("--image", reference)]
        where = ["--registry", f"{proxy.registry.address}/m"]

        cut = await sync(tmp_path, *options, *where, "--timeout", "4s", "--json")
        proxy.rules.clear()
        went_on = await sync(tmp_path, *options, *where, "--timeout", "1m", "--json")

    assert cut.code == 1
    assert [image["status"] for image in cut.json["images"]] == ["copied", "unfinished"]
    assert went_on.code == 0
    assert [image["status"] for image in went_on.json["images"]] == ["skipped", "copied"]
    assert went_on.json["totals"]["bytes_sent"] == 0


async def test_a_timeout_while_tags_are_listed_is_no_success(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source, fault_proxy(source) as proxy:
        proxy.on("GET", "/tags/list", Stall("head"), times=None)
        file = write_file(
            tmp_path,
            sources=[{"repository": f"{proxy.registry.address}/app", "tags": "all"}],
            targets=[{"registry": "localhost:9"}],
        )
        ran = await sync(tmp_path, "-c", file, "--timeout", "3", "--json")

    assert ran.code == 1
    assert [(image["source"], image["status"]) for image in ran.json["images"]] == [
        (f"{proxy.registry.address}/app", "unfinished")
    ]


async def test_fail_fast_ends_at_the_first_failure(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        (reference,) = await publish(source, {"app:1": images.image("app")})
        await client.push(source, "late", images.image("late"), "1")
        names = [f"{source.address}/lost:1", reference, *[f"{source.address}/late:{n}" for n in range(1, 30)]]
        (tmp_path / "images.txt").write_text("\n".join(names))
        ran = await sync(
            tmp_path, "--images-file", tmp_path / "images.txt", "--registry", target.address, "--fail-fast", "--json",
            "--concurrency", "1",
        )  # fmt: skip

    assert ran.code != 0
    totals = ran.json["totals"]
    assert totals["images"] == 31
    assert totals["images_failed"] >= 1
    assert totals["images_unfinished"] > 20


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sources: [{image: a, tag: b}]", "sources[0].tag: there is no such field; did you mean tags?"),
        ("sources: [{repository: a, tags: {regex: '['}}]", "sources[0].tags.regex[0]: '[' is not a regular expression"),
        ("sources: [{image: a, targets: [x]}]", "no target is called 'x'; known: localhost:9"),
        ("sources: [{images_file: none.txt}]", "none.txt is not there"),
        ("registries: {q.io: {ca_cert: none.pem}}\nsources: [{image: a}]", "none.pem is not there"),
        ("sources: [{image: a, platforms: amd64}, {image: a}]", "sync.yaml:1: docker.io/library/a:latest is asked for"),
        (
            f"map: {{docker.io: {'x/' * 124}x}}\nsources: [{{image: a}}]",
            "sync.yaml:2: sources[0]: docker.io/library/a would land at localhost:9/x/",
        ),
    ],
)
async def test_a_wrong_file_is_refused_before_anything_is_done(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "sync.yaml"
    file.write_text(f"{text}\ntargets: [{{registry: localhost:9}}]\n")

    ran = await sync(tmp_path, "-c", file)

    assert (ran.code, ran.stdout) == (2, "")
    assert said in ran.stderr


async def test_all_files_that_are_not_there_are_told_with_the_lines_that_name_them(tmp_path: Path) -> None:
    """Beside all other mistakes of the file, and before anything is asked."""
    (tmp_path / "there.txt").write_text("busybox\n")
    (tmp_path / "manifests").mkdir()
    (file := tmp_path / "sync.yaml").write_text("""\
sources:
- images_file: none.txt
  tgas: all
- profile_file:
    gone.json
- {profile_file: manifests}
- {images_file: manifests}
- images_file: ${ABSENT}/x
- {images_file: there.txt}
- chart:
    {repository: 'https://charts.example.com', name: a, scan: true, values_files: [there.txt, values.yaml]}
targets: [{registry: localhost:9}]
""")
    ran = await sync(tmp_path, "-c", file)

    assert ran.code == 2
    told = [line.replace(f"{tmp_path}/", "") for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert [line for line in told if "tgas" not in line and "tags" not in line] == [
        "error: sync.yaml:2: sources[0].images_file: none.txt is not there",
        "error: sync.yaml:5: sources[1].profile_file: gone.json is not there",
        "error: sync.yaml:7: sources[3].images_file: manifests is a directory, where a file is wanted",
        "error: sync.yaml:8: sources[4].images_file: the variable ABSENT is not set, and has no default",
        "error: sync.yaml:11: sources[6].chart.values_files[1]: values.yaml is not there",
    ]


async def test_nobody_is_asked_before_lists_and_profiles_are_right(tmp_path: Path) -> None:
    (tmp_path / "images.txt").write_text("localhost:9/a\nB//c\n")
    (tmp_path / "profile.yaml").write_text("kind: Nothing\n")
    (file := tmp_path / "sync.yaml").write_text("""\
sources:
- {repository: localhost:9/app, tags: all}
- images_file: images.txt
- profile_file: profile.yaml
targets: [{registry: localhost:9}]
""")
    ran = await sync(tmp_path, "-c", file)

    told = [line.replace(f"{tmp_path}/", "").partition(": it")[0] for line in ran.stderr.splitlines()]
    assert ran.code == 2
    assert [line for line in told if not line.startswith("hint: ")] == [
        "error: images.txt:2: 'B//c' is not an image reference",
        "error: profile.yaml",
    ]


async def test_logins_that_are_not_there_are_told_beside_other_mistakes(tmp_path: Path) -> None:
    """But not where a login of the command takes their place."""
    (file := tmp_path / "sync.yaml").write_text("""\
sources: [{image: A//b}]
targets: [{registry: localhost:9}]
registries:
  localhost:9:
    credentials: {username: me, password_env: ABSENT}
    ca_cert: ca.pem
    concurency: 2
  a.io: {credentials: {username: me}}
""")
    ran = await sync(tmp_path, "-c", file)
    given = await sync(tmp_path, "-c", file, "--username", "me", "--password-stdin", stdin="word\n")

    told = [line.replace(f"{tmp_path}/", "") for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert (ran.code, given.code) == (2, 2)
    start = "error: sync.yaml:5: registries.localhost:9.credentials: the credentials of localhost:9 are in the variable"
    assert told[1].startswith(start)
    assert told[2:] == [
        "error: sync.yaml:6: registries.localhost:9.ca_cert: ca.pem is not there",
        "error: sync.yaml:7: registries.localhost:9.concurency: there is no such field; did you mean concurrency?",
        "error: sync.yaml:8: registries.a.io.credentials: it needs one user and one password",
    ]
    assert "ABSENT" not in given.stderr


async def test_flags_that_say_how_beat_the_top_of_the_file_and_no_source(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """And no target's own rules either; the file's other rules go on."""
    app, own = images.multi_platform("app"), images.multi_platform("own")
    async with debian_registry("source") as source, debian_registry("target") as target:
        await publish(source, {"a/app:1": app, "b/own:1": own})
        for signed in (app.children[0], own.children[1]):
            tag, signature = images.cosign_signature(signed)
            await client.push(source, "a/app" if signed is app.children[0] else "b/own", signature, tag)
        file = write_file(
            tmp_path,
            platforms=["linux/arm/v7"],
            referrers=False,
            map={f"{source.address}/a": "file", f"{source.address}/b": "kept"},
            sources=[
                {"image": f"{source.address}/a/app:1"},
                {"image": f"{source.address}/b/own:1", "platforms": ["linux/arm64"], "referrers": False},
            ],
            targets=[
                {"registry": f"{target.address}/m"},
                {"registry": f"{target.address}/n", "map": {f"{source.address}/a": "own"}},
            ],
        )
        flags = ["--arch", "amd64", "--referrers", "--map", f"{source.address}/a=flag"]

        plan = await syncer("plan", "-c", file, *flags, "--json", home=tmp_path)
        ran = await sync(tmp_path, "-c", file, *flags)

        assert (plan.code, ran.code) == (0, 0), ran.stderr
        assert plan.json["images"]
        assert sorted(await client.repositories(target)) == ["m/flag/app", "m/kept/own", "n/kept/own", "n/own/app"]
        for place in ("m/flag/app", "n/own/app"):
            await client.assert_holds(target, place, app.children[0], "1")
            assert len(await client.tags(target, place)) == 2
        for place in ("m/kept/own", "n/kept/own"):
            await client.assert_holds(target, place, own.children[1], "1")
            assert await client.tags(target, place) == ["1"]


async def test_what_the_top_of_a_file_says_holds_without_flags(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """A flag that is not given says nothing; one that takes referrers away does."""
    async with debian_registry("source") as source, debian_registry("target") as target:
        made = images.image("app")
        tag, signature = images.cosign_signature(made)
        await publish(source, {"app:1": made, f"app:{tag}": signature})
        place = landed(source, "app")
        wanted: dict[str, Any] = {
            "sources": [{"image": f"{source.address}/app:1"}],
            "targets": [{"registry": f"{target.address}/mirror"}],
        }

        await sync(tmp_path, "-c", write_file(tmp_path, **wanted, referrers=False))
        assert await client.tags(target, place) == ["1"]
        await sync(tmp_path, "-c", write_file(tmp_path, **wanted), "--no-referrers")
        assert await client.tags(target, place) == ["1"]
        required = write_file(tmp_path, **wanted, referrers=False)
        await sync(tmp_path, "-c", required, "--require-referrers")
        assert len(await client.tags(target, place)) == 2


async def test_wrong_flags_are_told_with_what_to_do(tmp_path: Path) -> None:
    file = write_file(tmp_path, sources=[{"image": "a"}], targets=[{"registry": "localhost:9"}])
    for options, said in (
        ([], "there is nothing to mirror"),
        (["--image", "busybox"], "a sync needs a target"),
        (["-c", file, "--registry", "localhost:9"], "not by both"),
        (["-c", file, "--image", "busybox"], "not by both"),
        (["-c", file, "--no-referrers", "--require-referrers"], "contradict each other"),
        (["-c", file, "--timeout", "soon"], "'soon' is not a duration"),
        (["--image", "BusyBox", "--registry", "localhost:9"], "is not an image reference"),
    ):
        ran = await sync(tmp_path, *options)
        assert ran.code == 2
        assert said in ran.stderr
        assert "hint: " in ran.stderr or "reference" in said


async def test_a_target_that_cannot_be_reached(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source:
        (reference,) = await publish(source, {"app:1": images.image("app")})
        ran = await sync(tmp_path, "--image", reference, "--registry", "localhost:9/m", "--max-wait", "1", "--json")

    assert ran.code == 5
    (image,) = ran.json["images"]
    assert "localhost:9 refused the connection" in image["message"]
    errors = {registry["registry"]: registry["errors"] for registry in ran.json["registries"]}
    assert errors["localhost:9"] >= 1


async def test_a_rule_that_fits_nothing_is_a_warning_or_with_strict_an_error(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        await publish(source, {"app:1": images.image("app")})
        file = write_file(
            tmp_path,
            sources=[{"repository": f"{source.address}/app", "tags": {"names": "1", "semver": ">=2"}}],
            targets=[{"registry": target.address}],
        )
        lax = await sync(tmp_path, "-c", file)
        strict = await sync(tmp_path, "-c", file, "--strict")

    warning = f"{file}:2: semver '>=2' fits no tag of {source.address}/app"
    assert (lax.code, strict.code) == (0, 2)
    assert f"warning: {warning}" in lax.stderr
    assert f"error: {warning}" in strict.stderr


async def test_a_signal_ends_the_run_and_the_report_says_what_is_unfinished(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target, fault_proxy(target) as proxy:
        references = await publish(source, {"quick:1": images.image("quick"), "slow:1": images.image("slow")})
        proxy.on("PUT", "/slow/manifests/1", Stall("request"), times=None)
        named = [word for reference in references for word in ("--image", reference)]
        command = [sys.executable, "-m", "syncer", "sync", *named, "--registry", f"{proxy.registry.address}/m"]
        process = await anyio.open_process(
            [*command, "--report", str(tmp_path / "report.json")], env=environment(tmp_path), stdout=None, stderr=None
        )
        with anyio.fail_after(30):
            while len(proxy.exchanges.of("PUT manifest")) < 2:  # noqa: ASYNC110
                await anyio.sleep(0.02)
        process.terminate()
        code = await process.wait()
        await process.aclose()

    report = json.loads((tmp_path / "report.json").read_bytes())
    assert code == 143
    assert {image["source"]: image["status"] for image in report["images"]}[references[1]] == "unfinished"


async def test_flags_may_name_several_targets(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """What is right at one of them is sent to the other alone, and the plan says so."""
    several = images.multi_platform("b")
    async with (
        debian_registry("source") as source,
        debian_registry("one") as one,
        debian_registry("two") as two,
    ):
        first, second = await publish(source, {"a:1": images.image("a"), "team/b:2": several})
        targets = [f"{one.address}/mirror", f"http://{two.address}"]
        to_both = [word for target in targets for word in ("--registry", target)]
        assert (await sync(tmp_path, "--image", first, "--registry", targets[0])).code == 0

        planned = await syncer("plan", "--image", first, "--image", second, *to_both, "--json", home=tmp_path)
        ran = await sync(tmp_path, "--image", first, "--image", second, *to_both)

        assert (planned.code, ran.code) == (0, 0), ran.stderr
        assert (planned.json["totals"]["images_to_copy"], planned.json["totals"]["images_to_skip"]) == (3, 1)
        assert f"{one.address}/mirror has 2 of 2 images" in ran.stdout
        assert f"http://{two.address} has 2 of 2 images" in ran.stdout
        assert "images:  4 (3 copied, 1 unchanged)" in ran.stdout
        for registry, base in ((one, "mirror/"), (two, "")):
            landed = f"{base}{source.address.replace(':', '_')}"
            await client.assert_holds(registry, f"{landed}/team/b", several, "2")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--image a/b:1 -r a.io/x -r https://A.io/x/", "the registry a.io/x is named twice"),
        ("--image a/b:1 -r a.io -r b.io --username me --password-stdin", "are for one registry"),
        ("--config several.yaml --username me --password-stdin", "are for one registry"),
        ("--config several.yaml -r a.io", "not by both"),
        ("--image a/b:1 -r a.io -r b.io:latest", "--registry: 'b.io:latest' has a tag, and a registry takes no tag"),
    ],
)
@pytest.mark.parametrize("command", ["sync", "plan"])
async def test_targets_that_make_no_sense_are_refused(command: str, words: str, said: str, tmp_path: Path) -> None:
    targets = [{"registry": "127.0.0.1:9"}, {"registry": "127.0.0.2:9"}]
    write_file(tmp_path, sources=[{"image": "a/b:1"}], targets=targets).rename(tmp_path / "several.yaml")

    ran = await syncer(command, *words.replace("several", f"{tmp_path}/several").split(), home=tmp_path)

    assert (ran.code, ran.stdout) == (2, "")
    assert said in ran.stderr


async def test_a_login_of_the_command_line_is_for_the_one_target_of_a_file(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry("source") as source, debian_registry("target", login=LOGIN) as target:
        await publish(source, {"a:1": images.image("a")})
        file = write_file(
            tmp_path, sources=[{"image": f"{source.address}/a:1"}], targets=[{"registry": f"{target.address}/m"}]
        )
        login = ["--username", LOGIN.username, "--password-stdin"]

        ran = await syncer("sync", "-c", file, *login, home=tmp_path, stdin=f"{LOGIN.password}\n")

        assert ran.code == 0, ran.stderr
        await client.assert_holds(target, landed(source, "a", "m"), images.image("a"), "1")


async def test_a_repository_that_is_not_there_is_named_once(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """However many rules and targets it has, and also where only failures are told."""
    async with debian_registry("source") as source, debian_registry("target") as target:
        await publish(source, {"prometheus/node-exporter:1": images.image("exporter")})
        wrong = {"repository": f"{source.address}/promtheus/node-exporter"}
        file = write_file(
            tmp_path,
            version=1,
            targets=[{"registry": f"{target.address}/{base}"} for base in ("one", "two")],
            sources=[wrong | {"tags": "all"}, wrong | {"tags": {"regex": ["^v"]}}],
        )
        lines = [number for number, line in enumerate(file.read_text().splitlines(), 1) if "promtheus" in line]
        ran = await sync(tmp_path, "-c", file, "-q")

    assert ran.code == 4
    said = [line for line in ran.stderr.splitlines() if line.startswith(("failed:", "hint:"))]
    assert said == [
        f"failed:  {source.address} has no repository promtheus/node-exporter",
        f"hint: correct {', '.join(f'{file}:{line}' for line in lines)}",
    ]
