"""One bundle for many registries in one run: each is a site with an end of its own, and the run has one account."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterable
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import orjson
import pytest
from jsonschema import Draft202012Validator

from syncer.bundle import Bundle, BundleCheck, verify_bundle
from syncer.errors import Interrupted, OutOfFiles, RegistryError, SyncerError, TargetError, Unreachable
from syncer.fleet import FleetOptions
from syncer.fleet.deploy import plan_fleet, push_fleet, verify_fleet
from syncer.fleet.queue import SiteQueue
from syncer.fleet.result import FleetResult, SiteResult, SiteState, cause_of, outcome
from syncer.fleet.visits import share_of_workers
from syncer.formats.windows import Window
from syncer.profiles.syncfile.site import LimitGroup, Site
from syncer.report.summary import Reported
from syncer.transfer.events import Emit
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.bundles import build, some_images
from tests.support.cli import Ran, environment, syncer
from tests.support.fault_proxy import fault_proxy
from tests.support.faults import Reply, Stall
from tests.support.registries import LOGIN, Registry
from tests.support.registry_end import QUICK, settings_for
from tests.support.terminal import Terminal

SCHEMA = Path(__file__).parent.parent / "docs" / "report.schema.json"
NOBODY = "127.0.0.1:9"  # the discard port: nothing listens
MADE = {
    f"app-{number}": images.image(f"app {number}", layers=[images.layer(f"{number}", 100_000)]) for number in (1, 2)
}


async def bundle(source: Registry, home: Path) -> Path:
    """A bundle of two images of ``source``."""
    for repository, image in MADE.items():
        await client.push(source, repository, image, "1")
    references = [word for name in MADE for word in ("--image", f"{source.address}/{name}:1")]
    built = await syncer("build", *references, "--name", "edge", "--output", home, home=home)
    assert built.code == 0, built.stderr
    return home / "edge.tar.zst"


async def push(file: Path, sites: Iterable[str], *words: str | Path, home: Path, command: str = "push") -> Ran:
    named = [word for site in sites for word in ("--registry", site)]
    return await syncer(command, "--file", file, *named, *words, home=home)


async def assert_whole(registry: Registry, source: Registry, base: str = "") -> None:
    for repository, image in MADE.items():
        landed = f"{base}{source.address.replace(':', '_')}/{repository}"
        await client.assert_holds(registry, landed, image, "1")


def rows(report: Path) -> dict[str, dict[str, Any]]:
    """The rows of a report, by the names of their sites."""
    return {row["name"]: row for row in orjson.loads(report.read_bytes())["sites"]}


def assert_has_course(document: dict[str, Any], trace: list[dict[str, Any]]) -> None:
    """Each blob is in the timeline with its site, each visit in the row of the site, and all bytes are seen."""
    sites, timeline = document["sites"], document["timeline"]
    large = {digest for image in MADE.values() for digest, blob in image.all_blobs().items() if len(blob) > 50_000}
    spans = {(blob["site"], blob["digest"]) for blob in timeline["blobs"]}
    assert {(row["name"], digest) for row in sites for digest in large} <= spans
    assert {blob["outcome"] for blob in timeline["blobs"]} == {"copied"}
    assert sum(timeline["bytes_sent"]) >= document["totals"]["bytes_sent"]
    assert len(timeline["in_flight"]) == len(timeline["bytes_sent"])  # how much depends on how quick a machine is
    seconds = document["totals"]["seconds"]
    assert all(visit["at"] + visit["seconds"] <= seconds + 1 for row in sites for visit in row["visits"])
    bars = [(bar["args"]["site"], bar["ts"], bar["name"]) for bar in trace if bar.get("cat") == "site"]
    assert bars == [
        (row["name"], pytest.approx(visit["at"] * 1e6, abs=1000), row["state"])
        for row in sites
        for visit in row["visits"]
    ]
    assert {bar["args"]["site"] for bar in trace if bar.get("cat") == "blob"} == {row["name"] for row in sites}


async def test_one_run_brings_a_bundle_to_several_registries(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        source, one, two = [await stack.enter_async_context(debian_registry(name)) for name in ("source", "one", "two")]
        file = await bundle(source, tmp_path)
        sites = [f"{one.address}/mirror", f"http://{two.address}"]
        report = tmp_path / "fleet.json"

        trace = tmp_path / "trace.json"
        pushed = await push(file, sites, "--report", report, "--trace", trace, home=tmp_path)

        assert pushed.code == 0, pushed.stderr
        assert "bundle edge is at 2 of 2 sites" in pushed.stdout
        assert_has_course(orjson.loads(report.read_bytes()), orjson.loads(trace.read_bytes())["traceEvents"])
        await assert_whole(one, source, "mirror/")
        await assert_whole(two, source)
        Draft202012Validator(orjson.loads(SCHEMA.read_bytes())).validate(orjson.loads(report.read_bytes()))
        found = rows(report)
        assert {row["state"] for row in found.values()} == {"done"}
        assert all(row["images"] == 2 and row["bytes_sent"] > 200_000 for row in found.values())

        again = await push(file, sites, "--json", home=tmp_path)

        document = orjson.loads(again.stdout)
        assert (again.code, document["totals"]["sites_unchanged"]) == (0, 2)
        assert [row["requests"] for row in document["sites"]] == [3, 3]  # a HEAD for each image and for the definition


async def test_a_site_that_fails_stops_no_other(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """Each has an end of its own; what failed for one cause is said once."""
    async with AsyncExitStack() as stack:
        source, good = [await stack.enter_async_context(debian_registry(name)) for name in ("source", "good")]
        shut = await stack.enter_async_context(debian_registry("shut", login=LOGIN))
        file = await bundle(source, tmp_path)
        full = await stack.enter_async_context(fault_proxy(good))
        full.on("PUT", "/manifests/", Reply(507, {}, b"no space left"), times=None)
        sites = [NOBODY, "127.0.0.2:9", shut.address, full.registry.address, f"{good.address}/mirror"]
        report = tmp_path / "fleet.json"

        pushed = await push(file, sites, "--report", report, "--report-dir", tmp_path, home=tmp_path)

        assert pushed.code == 1
        await assert_whole(good, source, "mirror/")
        states = {name: row["state"] for name, row in rows(report).items()}
        assert states == dict(
            zip(map(_without_scheme, sites), ("down", "down", "refused", "partial", "done"), strict=True)
        )
        assert f"failed:  refused the connection: 2 sites: {NOBODY}, 127.0.0.2:9\n" in pushed.stdout
        assert "it is tried again at the end" in pushed.stderr
        assert [pushed.stderr.count(f" of 5: {row['name']}: ") for row in rows(report).values()] == [1] * 5
        own = orjson.loads((tmp_path / rows(report)[f"{good.address}/mirror"]["report"]).read_bytes())
        Draft202012Validator(orjson.loads(SCHEMA.read_bytes())).validate(own)
        assert own["totals"]["images_copied"] == 2
        assert [each["registry"] for each in own["registries"]] == [good.address]


async def test_when_all_fail_for_one_reason_the_exit_code_says_which(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry("source") as source, debian_registry("shut", login=LOGIN) as shut:
        file = await bundle(source, tmp_path)

        pushed = await push(file, [f"{shut.address}/a", f"{shut.address}/b"], home=tmp_path)

        assert pushed.code == 3, pushed.stderr


async def test_a_site_that_was_down_is_tried_again_at_the_end(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        file = await bundle(source, tmp_path)
        async with fault_proxy(target) as proxy:
            proxy.on(None, "", Reply(502), times=None)
            heard: list[tuple[str, SiteState, bool]] = []

            class Mending:
                """Mends the site when it has failed for the first time."""

                def begin(self, site: Site) -> Emit | None:
                    return None

                def end(self, result: SiteResult, report: Reported | None, *, is_last: bool) -> None:
                    heard.append((result.name, result.state, is_last))
                    proxy.rules.clear()

            named = sites(proxy.registry.address, f"{target.address}/other")
            options = FleetOptions(at_once=1, watcher=Mending())
            settings = settings_for(limits=QUICK)

            pushed = await push_fleet(file, named, settings=settings, options=options)

            first, other = (site.name for site in named)
            assert heard == [
                (first, SiteState.DOWN, False),
                (other, SiteState.DONE, True),
                (first, SiteState.DONE, True),
            ]
            assert (pushed.exit, pushed.sites[0].bytes_sent > 0) == (0, True)
            await assert_whole(target, source)


async def test_after_too_many_failures_no_site_is_begun(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        file = await bundle(source, tmp_path)
        sites = [NOBODY, "127.0.0.1:10", target.address]

        pushed = await push(file, sites, "--max-failed", "1", "--at-once", "1", "--json", home=tmp_path)

        document = orjson.loads(pushed.stdout)
        assert pushed.code == 1
        assert [row["state"] for row in document["sites"]] == ["down", "down", "not begun"]
        assert document["sites"][2]["error"] == "too many others had failed"
        assert await client.repositories(target) == []


async def test_a_site_that_takes_too_long_is_ended_and_goes_on_next_time(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        file = await bundle(source, tmp_path)
        async with fault_proxy(target) as proxy:
            proxy.on("PUT", "/blobs/", Stall("answer"), times=None)
            sites = [proxy.registry.address, f"{target.address}/other"]

            late = await push(file, sites, "--timeout", "4s", "--json", home=tmp_path)

            document = orjson.loads(late.stdout)
            assert late.code == 1
            assert [row["state"] for row in document["sites"]] == ["partial", "done"]
            assert "its time was over" in document["sites"][0]["error"]
        assert (await push(file, [target.address, f"{target.address}/other"], home=tmp_path)).code == 0
        await assert_whole(target, source)


async def test_the_metrics_tell_since_when_a_site_is_stale(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    def value(metric: str, site: str) -> float | None:
        line = rf'^{metric}{{command="push",profile="edge",site="{re.escape(site)}"}} (\S+)$'
        found = re.search(line, path.read_text(), re.MULTILINE)
        return float(found[1]) if found else None

    path = tmp_path / "syncer.prom"
    async with debian_registry("source") as source, debian_registry("target") as target:
        file = await bundle(source, tmp_path)
        names = f"{target.address}/a", f"{target.address}/b"
        assert (await push(file, names, "--metrics-file", path, home=tmp_path)).code == 0
        last = value("syncer_site_last_success_timestamp_seconds", names[0])
        assert (value("syncer_site_success", names[0]), value("syncer_site_images", names[1])) == (1, 2)
    assert last is not None

    pushed = await push(file, [*names, NOBODY], "--metrics-file", path, home=tmp_path)

    assert pushed.code == 5
    assert value("syncer_site_success", names[0]) == 0
    assert value("syncer_site_last_success_timestamp_seconds", names[0]) == last
    assert value("syncer_site_last_success_timestamp_seconds", NOBODY) is None


async def test_a_bundle_that_is_not_sound_is_accounted_for_at_every_site(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry() as source:
        file = await bundle(source, tmp_path)
    file.write_bytes(file.read_bytes()[:-100])
    files = ("--metrics-file", tmp_path / "x.prom", "--report", tmp_path / "x.json")

    pushed = await push(file, [NOBODY, "127.0.0.2:9"], *files, home=tmp_path)

    document = orjson.loads((tmp_path / "x.json").read_bytes())
    Draft202012Validator(orjson.loads(SCHEMA.read_bytes())).validate(document)
    assert (pushed.code, document["exit_code"]) == (6, 6)
    assert [(row["state"], "cut short" in row["error"]) for row in document["sites"]] == [("not begun", True)] * 2
    line = f'syncer_site_success{{command="push",profile="edge",site="{NOBODY}"}} 0.0'
    assert line in (tmp_path / "x.prom").read_text()


async def on_a_terminal(columns: int, lines: int, *arguments: str | Path, home: Path) -> tuple[str, str]:
    """Run ``syncer`` with its standard error on a terminal: what it wrote there, and its standard output."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def everything() -> bytes:
        pieces = []
        with suppress(OSError):  # how Linux says that the other end is closed
            while piece := os.read(ours, 65536):
                pieces.append(piece)
        return b"".join(pieces)

    try:
        async with await anyio.open_process(
            [sys.executable, "-m", "syncer", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stderr=theirs,
            env=environment(home) | {"TERM": "xterm-256color"},
        ) as process:
            os.close(theirs)
            seen = await anyio.to_thread.run_sync(everything)
            assert process.stdout is not None
            printed = b"".join([piece async for piece in process.stdout])
    finally:
        os.close(ours)
    return seen.decode(), printed.decode()


async def test_on_a_terminal_the_sites_under_way_are_a_table_of_which_nothing_is_left(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        file = await bundle(source, tmp_path)
        named = [word for site in (f"{target.address}/a", NOBODY, "127.0.0.2:9") for word in ("--registry", site)]

        seen, printed = await on_a_terminal(
            80, 24, "push", "--file", file, *named, "--limit-rate", "150k", home=tmp_path
        )

    terminal = Terminal(80)
    terminal.feed(seen)
    assert terminal.lines == ["hint: is a registry running there?"]
    frames = seen.split("\x1b[J")
    assert any("2 of 3 sites (2 failed)" in frame for frame in frames)
    assert any(f"{target.address}/a" in frame and "06 kB" in frame and " %" in frame for frame in frames)
    assert re.search(r"refused the connection: 2 sites: 127\.0\.0\.[12]:9(, 127\.0\.0\.[12]:9| and 1 more)", seen)
    assert "is tried again" not in seen
    assert "is at 1 of 3 sites" in printed


async def test_a_log_says_of_which_site_each_event_is(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        file = await bundle(source, tmp_path)
        good = [f"{target.address}/a", f"{target.address}/b"]

        pushed = await push(file, [*good, NOBODY], "--log-format", "json", home=tmp_path)
        verified = await push(file, good, "--log-format", "text", home=tmp_path, command="verify")

    lines = [orjson.loads(line) for line in pushed.stderr.splitlines()[: -pushed.stderr.count("hint: ") or None]]
    assert len({line["run_id"] for line in lines}) == 1
    for site in good:
        assert [line["event"] for line in lines if line.get("site") == site] == [
            "site_begun", "image_copied", "image_copied", "site_ended",
        ]  # fmt: skip
    ended = [line for line in lines if line["event"] == "site_ended" and line["site"] == NOBODY]
    assert [(line["level"], line["state"], line["is_last"]) for line in ended] == [
        ("warning", "down", False),
        ("error", "down", True),
    ]
    assert "refused the connection" in ended[0]["error"]
    assert (verified.code, verified.stderr.count("site_ended")) == (0, 2)


async def test_sites_whose_names_make_one_name_of_a_file_have_a_report_each(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        file = await bundle(source, tmp_path)
        targets = tmp_path / "sites.yaml"
        named = (
            (f"{target.address}/{base}", name) for base, name in (("a", "edge 1"), ("b", "Edge/1"), ("c", "edge_1"))
        )
        targets.write_text("targets:\n" + "".join(f"- {{registry: '{at}', name: '{name}'}}\n" for at, name in named))

        await syncer(
            *("push", "--file", file, "--targets-file", targets, "--report-dir", tmp_path),
            *("--report", tmp_path / "fleet.json"),
            home=tmp_path,
        )

    found = rows(tmp_path / "fleet.json")
    assert [row["report"] for row in found.values()] == ["edge_1.json", "Edge_1-2.json", "edge_1-3.json"]
    for row in found.values():
        own = orjson.loads((tmp_path / row["report"]).read_bytes())
        assert all(image["target"].startswith(row["registry"]) for image in own["images"])


async def test_a_fleet_is_verified_in_one_run(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        file = await bundle(source, tmp_path)
        assert (await push(file, [f"{target.address}/a"], home=tmp_path)).code == 0
        sites = [f"{target.address}/a", f"{target.address}/b"]

        verified = await push(file, sites, "--json", "--report-dir", tmp_path, home=tmp_path, command="verify")
        quiet = await push(file, sites, "--json", "-q", home=tmp_path, command="verify")
        printed = await push(file, sites, "--report", "-", home=tmp_path, command="verify")

        document = orjson.loads(verified.stdout)
        assert verified.code == 1
        assert [row["state"] for row in document["sites"]] == ["unchanged", "partial"]
        assert "it lacks" in document["sites"][1]["error"]
        whole, lacking = [orjson.loads((tmp_path / row["report"]).read_bytes()) for row in document["sites"]]
        assert (whole["registry"], whole["exit_code"], whole["lacking"]) == (sites[0], 0, [])
        assert (lacking["exit_code"], len(lacking["lacking"])) == (6, lacking["checked"])
        assert [row["state"] for row in orjson.loads(quiet.stdout)["sites"]] == ["unchanged", "partial"]
        assert "it lacks" in quiet.stderr
        assert [row["state"] for row in orjson.loads(printed.stdout)["sites"]] == ["unchanged", "partial"]
        assert "Verify Summary" in printed.stderr


@pytest.mark.parametrize("visit", [push_fleet, verify_fleet])
async def test_a_run_that_is_stopped_while_the_bundle_is_hashed_has_begun_no_site(
    visit: Any, debian_registry: OpenRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stopped(bundle: Bundle) -> BundleCheck:
        scope.cancel()
        return await verify_bundle(bundle)

    monkeypatch.setattr("syncer.fleet.deploy.verify_bundle", stopped)
    async with debian_registry("source") as source:
        file = await bundle(source, tmp_path)
        told: list[FleetResult] = []
        with anyio.CancelScope() as scope:
            await visit(file, sites("a.io", "b.io"), options=FleetOptions(rehash=True, on_cut=told.append))

    (result,) = told
    assert [(site.name, site.state) for site in result.sites] == [
        ("a.io", SiteState.NOT_BEGUN),
        ("b.io", SiteState.NOT_BEGUN),
    ]
    assert (result.bundle, result.exit) == ("edge", 1)


@pytest.mark.parametrize("visit", [push_fleet, plan_fleet, verify_fleet])
async def test_a_run_that_is_stopped_before_its_bundle_is_open_tells_where_it_stands(
    visit: Any, tmp_path: Path
) -> None:
    await build(file := tmp_path / "edge.tar.zst", some_images())
    told: list[FleetResult] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        await visit(file, sites("a.io", "b.io"), options=FleetOptions(on_cut=told.append))

    (result,) = told
    assert (result.bundle, result.states, result.exit) == ("edge", {SiteState.NOT_BEGUN: 2}, 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("-r a.io/x -r A.io/x/", "named twice"),
        ("-r a.io -r b.io --username me --password-stdin", "are for one registry"),
        ("-r a.io -r b.io --max-failed 5x", "neither a number nor a share"),
        ("-r a.io -r b.io --timeout soon", "is not a duration"),
        ("-r a.io -r b.io:latest", "--registry: 'b.io:latest' has a tag, and a registry takes no tag"),
        ("", "no registry is named"),
        ("-r a.io --only x", "choose from a --targets-file"),
        ("-r a.io -r b.io --shard 17/16", "there is no shard 17/16"),
        ("-r a.io -r b.io --report-dir absent", "no report can be written: the directory absent does not exist"),
        ("--targets-file absent.yaml", "absent.yaml"),
        ("--targets-file absent.yaml -r a.io", "are given both"),
    ],
)
async def test_what_makes_no_sense_is_told_before_anything_is_sent(words: str, said: str, tmp_path: Path) -> None:
    ran = await syncer("push", "--file", tmp_path / "absent.tar.zst", *words.split(), home=tmp_path)

    assert (ran.code, ran.stdout) == (2, "")
    assert said in ran.stderr


def _without_scheme(registry: str) -> str:
    return registry.rpartition("://")[2]


async def test_a_targets_file_names_the_sites(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """With ranges, labels, a group that takes turns, and names of images of its own."""
    async with debian_registry("source") as source, debian_registry("target") as target:
        file = await bundle(source, tmp_path)
        port = target.address.rpartition(":")[2]
        targets = tmp_path / "sites.yaml"
        targets.write_text(
            f"targets:\n"
            f"  - registry: 127.0.0.1:{port}/edge-{{1..3}}\n"
            f"    name: edge {{1..3}}\n"
            f"    labels: {{region: eu}}\n"
            f"    map: {{'{source.address}': mine}}\n"
            f"  - registry: 127.0.0.1:{port}/lab\n"
            f"    labels: {{region: us}}\n"
        )

        pushed = await syncer(
            *("push", "--file", file, "--targets-file", targets, "--only", "region=eu", "--except", "edge 2", "--json"),
            home=tmp_path,
        )

        document = orjson.loads(pushed.stdout)
        assert pushed.code == 0, pushed.stderr
        assert [(row["name"], row["state"]) for row in document["sites"]] == [("edge 1", "done"), ("edge 3", "done")]
        assert {name.partition("/")[0] for name in await client.repositories(target)} == {"edge-1", "edge-3"}
        await client.assert_holds(target, "edge-1/mine/app-1", MADE["app-1"], "1")


async def test_the_shards_of_a_targets_file_are_all_of_it(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        file = await bundle(source, tmp_path)
        targets = tmp_path / "sites.yaml"
        targets.write_text(f"targets: [{{registry: '{target.address}/edge-{{1..6}}'}}]\n")
        pushed = []
        for shard in ("1/2", "2/2"):
            ran = await syncer(
                "push", "--file", file, "--targets-file", targets, "--shard", shard, "--json", home=tmp_path
            )
            assert ran.code == 0, ran.stderr
            pushed.append({row["name"] for row in orjson.loads(ran.stdout)["sites"]})

        assert not pushed[0] & pushed[1]
        assert {name.rpartition("/")[2] for name in pushed[0] | pushed[1]} == {f"edge-{n}" for n in range(1, 7)}


async def test_a_share_may_have_no_site(tmp_path: Path) -> None:
    await build(file := tmp_path / "edge.tar.zst", some_images())
    said = [(await push(file, [NOBODY], "--shard", f"{share}/2", home=tmp_path)) for share in (1, 2)]

    (nothing,) = (ran for ran in said if ran.code == 0)
    assert "bundle edge is at 0 of 0 sites\nsites:   none\n" in nothing.stdout


async def test_a_site_whose_window_is_shut_is_not_begun(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        file = await bundle(source, tmp_path)
        now = datetime.now(UTC)
        shut = f"{now + timedelta(hours=6):%H:%M}-{now + timedelta(hours=7):%H:%M} UTC"
        targets = tmp_path / "sites.yaml"
        targets.write_text(
            f"targets:\n"
            f"  - {{registry: '{target.address}/shut', windows: '{shut}'}}\n"
            f"  - {{registry: '{target.address}/open'}}\n"
        )

        pushed = await syncer("push", "--file", file, "--targets-file", targets, home=tmp_path)

        assert pushed.code == 1
        assert "sites:   1 done, 1 not begun\n" in pushed.stdout
        assert f"failed:  its window did not open in time: 1 site: {target.address}/shut\n" in pushed.stdout
        assert "hint: run the same command while it is open" in pushed.stderr


async def test_a_site_is_ended_when_its_window_closes(
    debian_registry: OpenRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the next request, so that another run goes on; and one that waits for its turn is told when time is over."""
    monkeypatch.setattr(
        "syncer.fleet.queue.closes_after", lambda windows, now: now + timedelta(seconds=2) if windows else None
    )
    async with debian_registry("source") as source, debian_registry("target") as target:
        file = await bundle(source, tmp_path)
        async with fault_proxy(target) as proxy:
            proxy.on("PUT", "/blobs/", Stall("answer"), times=None)
            always = (Window.parse("00:00-24:00 UTC"),)
            named = [*sites(f"{proxy.registry.address}/a", windows=always), *sites(f"{proxy.registry.address}/b")]

            pushed = await push_fleet(file, named, options=FleetOptions(timeout=4))
            last = await push_fleet(file, named, options=FleetOptions(timeout=1))

    assert [site.state for site in pushed.sites] == [SiteState.PARTIAL] * 2
    assert pushed.sites[0].seconds == pytest.approx(2, abs=1)
    assert [site.state for site in last.sites] == [SiteState.PARTIAL, SiteState.NOT_BEGUN]
    assert [str(site.error) for site in last.sites] == [
        "its time was over before all was there",
        "the time of the run was over",
    ]


def sites(*words: str, **more: Any) -> list[Site]:
    return [Site(name=word, registry=word, place="here", **more) for word in words]


def names(queue: SiteQueue, now: datetime) -> list[str]:
    """The names of all sites that may begin now, which are taken."""
    return [site.name for site, _ in iter(lambda: queue.take(now), None)]


def test_sites_of_one_host_follow_each_other() -> None:
    now = datetime.now(UTC)
    given = sites("a.io/1", "a.io/2", "b.io")
    queue = SiteQueue(given, now)

    assert names(queue, now) == ["a.io/1", "b.io"]
    queue.give_back(given[0])
    assert names(queue, now) == ["a.io/2"]


def test_a_group_runs_so_many_sites_at_a_time() -> None:
    now = datetime.now(UTC)
    given = [*sites("a.io", "b.io", "c.io", group=LimitGroup("gateway", at_once=2)), *sites("d.io")]
    queue = SiteQueue(given, now)

    assert names(queue, now) == ["a.io", "b.io", "d.io"]
    queue.give_back(given[0])
    assert names(queue, now) == ["c.io"]


async def test_the_sites_of_a_group_share_its_bytes_a_second(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        source, one, two = [await stack.enter_async_context(debian_registry(name)) for name in ("source", "one", "two")]
        file = await bundle(source, tmp_path)
        group = LimitGroup("gateway", bytes_per_second=(each_second := 400_000))

        pushed = await push_fleet(file, sites(one.address, two.address, group=group))

    assert [site.state for site in pushed.sites] == [SiteState.DONE] * 2
    sent = sum(site.bytes_sent for site in pushed.sites)
    assert pushed.seconds >= 0.8 * sent / each_second > 0.6  # each alone would need half of that


@pytest.mark.parametrize(("together", "share"), [(1, 128), (2, 128), (8, 32), (64, 4), (1000, 4)])
def test_connections_are_shared_out_among_the_sites_that_run_together(together: int, share: int) -> None:
    assert share_of_workers(2000, FleetOptions(at_once=together)) == share
    assert share_of_workers(together, FleetOptions(at_once=1024)) == share
    assert share_of_workers(2000, FleetOptions(at_once=together, concurrency=2)) == 2


def test_a_site_is_passed_over_until_its_window_opens_and_ended_when_it_closes() -> None:
    noon = datetime(2024, 1, 15, 12, tzinfo=UTC)
    queue = SiteQueue([*sites("night.io", windows=(Window.parse("22:00-05:00 UTC"),)), *sites("day.io")], noon)

    assert names(queue, noon) == ["day.io"]
    assert queue.opens() == noon.replace(hour=22)
    taken = queue.take(noon.replace(hour=23))
    assert taken is not None
    assert (taken[0].name, taken[1]) == ("night.io", noon.replace(day=16, hour=5))


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (Unreachable("10.0.0.1:5000 refused the connection"), "refused the connection"),
        (Interrupted("PUT http://10.0.0.1:5000/v2/x: no answer came in time"), "no answer came in time"),
        (RegistryError("GET http://10.0.0.1:5000/v2/", 503, ["busy"]), "503 busy"),
        (TargetError("10.0.0.1:5000 is full"), "the site is full"),
    ],
)
def test_one_cause_has_one_text_at_all_sites(error: SyncerError, cause: str) -> None:
    assert cause_of(error, "http://10.0.0.1:5000/base") == cause


def test_a_site_is_not_down_because_this_machine_may_open_no_more_files() -> None:
    assert outcome([Unreachable("x refused the connection")], has_changed=False) is SiteState.DOWN
    assert outcome([OutOfFiles()], has_changed=False) is SiteState.PARTIAL


async def test_what_an_earlier_run_brought_is_counted_apart(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    layer = images.layer("large", 3_000_000)
    async with debian_registry("source") as source, debian_registry("target") as target:
        await client.push(source, "large", images.image("large", layers=[layer]), "1")
        image = f"{source.address}/large:1"
        built = await syncer("build", "--image", image, "--name", "large", "--output", tmp_path, home=tmp_path)
        assert built.code == 0, built.stderr
        async with fault_proxy(target) as proxy:
            proxy.on("PATCH", "/blobs/uploads/", Stall("request"), first=2)
            to_it = ("push", "--file", tmp_path / "large.tar.zst", "-r", proxy.registry.address, "--chunk-size", "1MiB")
            ended = await syncer(*to_it, "--timeout", "5s", "--json", home=tmp_path)
            assert orjson.loads(ended.stdout)["sites"][0]["state"] == "partial"

            went_on = await syncer(*to_it, "--timeout", "5m", "--report", tmp_path / "fleet.json", home=tmp_path)

        document = orjson.loads((tmp_path / "fleet.json").read_bytes())
        totals = document["totals"]
        assert (went_on.code, document["kind"], totals["bytes_resumed"]) == (0, "fleet", 2**20)
        assert "saved:   1.05 MB brought by an earlier run\n" in went_on.stdout
        assert totals["bytes_sent"] < len(layer.content) - 2**20 + 10_000
