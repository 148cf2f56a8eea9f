"""A report tells the course of its run in time, and what bounded it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator

from syncer import __version__
from syncer.content import Progress
from syncer.oci import Descriptor, Digest, Reference
from syncer.report.account import join_timelines
from syncer.report.timeline import (
    BUCKETS,
    MOST_BLOBS,
    MOST_BLOBS_OF_SITES,
    STALL,
    HostTime,
    Measured,
    Timeline,
    TimelineRecorder,
    find_bound,
)
from syncer.transfer.events import Copied, Paused, Retried, Started
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import syncer
from tests.support.fault_proxy import FaultProxy, Link, fault_proxy
from tests.support.faults import Reply
from tests.support.registries import Registry
from tests.test_report import Clock

SCHEMA = orjson.loads((Path(__file__).parent.parent / "docs" / "report.schema.json").read_bytes())
VALIDATOR = Draft202012Validator(SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER)
MADE = {f"app-{number}": images.image(f"app {number}", layers=[images.layer(f"{number}", 60_000)]) for number in (1, 2)}
APP = Reference.parse("quay.io/team/app:1")


async def bundle(source: Registry, home: Path, *words: str | Path) -> dict[str, Any]:
    """Build a bundle of two images of ``source``; returns the report."""
    references = [word for name in MADE for word in ("--image", f"{source.address}/{name}:1")]
    report = home / "build.json"
    built = await syncer(
        "build", *references, "--name", "edge", "--output", home, "--report", report, *words, home=home
    )
    assert built.code == 0, built.stderr
    return document(report)


def document(report: Path) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(report.read_bytes())
    VALIDATOR.validate(found)
    return found


async def push_through(
    upstream: OpenRegistry,
    home: Path,
    *words: str | Path,
    link: Link | None = None,
    broken: Callable[[FaultProxy], object] = id,
) -> tuple[dict[str, Any], str]:
    """Push a bundle of two images through a proxy; returns the report, and the summary."""
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(upstream("source"))
        for repository, image in MADE.items():
            await client.push(source, repository, image, "1")
        await bundle(source, home)
        target = await stack.enter_async_context(upstream("target"))
        proxy = await stack.enter_async_context(fault_proxy(target, link=link))
        broken(proxy)
        report, file = home / "push.json", home / "edge.tar.zst"
        pushed = await syncer(
            "push", "--file", file, "--registry", proxy.registry.address, "--report", report, *words, home=home
        )
    assert pushed.code == 0, pushed.stderr
    return document(report), pushed.stdout


async def test_a_report_says_which_run_it_is_of_and_what_was_in_flight_when(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.json"
    report, _ = await push_through(debian_registry, tmp_path, "--trace", trace, link=Link(round_trip=0.03))

    assert (report["version"], report["command"], report["name"]) == (__version__, "push", "edge")
    assert (report["exit_code"], report["targets"]) == (0, [report["registries"][0]["registry"]])
    timeline = report["timeline"]
    layers = {digest for image in MADE.values() for digest, blob in image.all_blobs().items() if len(blob) > 50_000}
    spans = {blob["digest"]: blob for blob in timeline["blobs"]}
    assert layers < spans.keys()
    for digest in layers:
        assert spans[digest]["outcome"] == "copied"
        assert spans[digest]["bytes"] > 60_000
        assert "/app-" in spans[digest]["image"]
        assert 0 < spans[digest]["at"] + spans[digest]["seconds"] <= report["totals"]["seconds"] + 1
    assert sum(timeline["bytes_sent"]) >= 120_000
    assert max(timeline["in_flight"]) > 0
    assert len(timeline["in_flight"]) * timeline["bucket_seconds"] < report["totals"]["seconds"] + 1
    bars = [event for event in orjson.loads(trace.read_bytes())["traceEvents"] if event["ph"] == "X"]
    assert {bar["args"]["digest"] for bar in bars} == spans.keys()
    for bar in bars:
        span = spans[bar["args"]["digest"]]
        assert (bar["name"], bar["ts"], bar["dur"]) == (span["image"], span["at"] * 1e6, span["seconds"] * 1e6)
    for row in {bar["tid"] for bar in bars}:  # no two bars of a row lie on each other
        times = sorted((bar["ts"], bar["ts"] + bar["dur"]) for bar in bars if bar["tid"] == row)
        assert all(ended <= began for (_, ended), (began, _) in itertools.pairwise(times))


async def test_a_failed_run_says_its_exit_code(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source:
        report = tmp_path / "build.json"
        built = await syncer(
            "build", "--image", f"{source.address}/none:1", "--output", tmp_path, "--report", report, home=tmp_path
        )

    assert built.code == document(report)["exit_code"] == 4


async def test_a_run_over_a_line_with_a_long_way_is_bounded_by_the_targets_answers(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    report, said = await push_through(debian_registry, tmp_path, "--concurrency", "2", link=Link(round_trip=0.1))

    bound = report["bound"]
    assert bound["by"] == "target_answers"
    assert bound["share"] > 0.8
    assert bound["hint"] == "--concurrency 4"
    share = round(100 * bound["share"])
    line = f"         bounded by the target's answers, {share} % of worker time; try --concurrency 4"
    assert line in said.splitlines()


async def test_a_build_over_such_a_line_is_bounded_by_the_sources_answers(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry("source") as source, fault_proxy(source, link=Link(round_trip=0.1)) as proxy:
        for repository, image in MADE.items():
            await client.push(source, repository, image, "1")

        report = await bundle(proxy.registry, tmp_path)

    assert report["bound"]["by"] == "source_answers"
    assert report["bound"]["hint"] is None  # two images never had all workers busy


async def test_a_run_with_a_limit_of_bytes_is_bounded_by_it(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    report, said = await push_through(debian_registry, tmp_path, "--limit-rate", "130k")

    assert report["kind"] == "fleet"
    assert report["bound"]["by"] == "bytes_cap"
    assert "bounded by the bandwidth cap, " in said
    assert said.rstrip().endswith("; try a higher --limit-rate")


async def test_a_run_against_a_registry_that_asks_to_wait_is_bounded_by_its_limit(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    def throttle(proxy: FaultProxy) -> None:
        proxy.on("POST", "/blobs/uploads/", Reply(429, {"Retry-After": "1"}), times=1)

    report, said = await push_through(debian_registry, tmp_path, broken=throttle)

    host = report["targets"][0]
    assert report["bound"]["by"] == "limit"
    assert f"bounded by the limit of {host}, which asked to wait for " in said
    (pause,) = [wait for wait in report["timeline"]["waits"] if wait["kind"] == "pause"]
    assert (pause["host"], pause["reason"]) == (host, "429 Too Many Requests")
    assert pause["seconds"] >= 1


async def test_what_holds_a_run_up_is_in_its_log(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry("source") as source, fault_proxy(source) as proxy:
        for repository, image in MADE.items():
            await client.push(source, repository, image, "1")
        proxy.on("GET", "/blobs/", Reply(500), times=1)
        proxy.on("GET", "/manifests/", Reply(429, {"Retry-After": "1"}), times=1)
        built = await syncer(
            "build",
            *("--image", f"{proxy.registry.address}/app-1:1", "--output", tmp_path, "--log-format", "json"),
            home=tmp_path,
        )

    lines = [orjson.loads(line) for line in built.stderr.splitlines()]
    (paused,) = [line for line in lines if line["event"] == "host_paused"]
    retries = [(line["retry"], line["of"], line["message"]) for line in lines if line["event"] == "retried"]
    assert built.code == 0
    assert (paused["host"], paused["seconds"], paused["message"]) == (
        proxy.registry.address,
        1.0,
        "429 Too Many Requests",
    )
    assert (1, 5, "500 Internal Server Error") in retries
    assert (1, 5, "429 Too Many Requests") in retries


async def test_what_holds_a_look_up_is_told_as_it_is_of_a_transfer(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """Plans and verifications, of one registry and of several, and a plan of a build."""
    async with debian_registry("source") as source, fault_proxy(source) as proxy:
        for repository, image in MADE.items():
            await client.push(source, repository, image, "1")
        await bundle(source, tmp_path)
        at, file = proxy.registry.address, tmp_path / "edge.tar.zst"
        looks: list[tuple[str | Path, ...]] = [
            ("plan", "--file", file, "--registry", at),
            ("plan", "--file", file, "--registry", f"{at}/a", "--registry", f"{at}/b"),
            ("plan", "--image", f"{at}/app-1:1"),
            ("plan", "--image", f"{at}/app-1:1", "--registry", f"{source.address}/there"),
            ("verify", file, at),
            ("verify", file, "-r", f"{at}/a", "-r", f"{at}/b", "-v"),
        ]
        said = []
        for look in looks:
            proxy.on(None, "/app-1/manifests/", Reply(500), times=2)
            said.append((await syncer(*look, home=tmp_path)).stderr)

    for look, told in zip(looks, said, strict=True):
        line = "retry=2" if "-v" in look else f"{at}: retry 2 of 5: 500 Internal Server Error"
        assert line in told, look


async def test_cron_hears_nothing_of_a_run_that_is_well_and_all_of_one_that_is_not(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry("source") as source:
        for repository, image in MADE.items():
            await client.push(source, repository, image, "1")
        to = ("--output", tmp_path, "--force")
        well = await syncer("build", "--image", f"{source.address}/app-1:1", *to, "-q", home=tmp_path)
        ill = await syncer("build", "--image", f"{source.address}/app-1:none", *to, "-q", home=tmp_path)
        both = await syncer("build", "--image", f"{source.address}/app-1:none", *to, "-q", "--json", home=tmp_path)
        printed = await syncer("build", "--image", f"{source.address}/app-1:1", *to, "--report=-", home=tmp_path)
        told = await syncer("build", "--image", f"{source.address}/app-2:1", *to, "-v", home=tmp_path)
        all_told = await syncer("build", "--image", f"{source.address}/app-2:1", *to, "-vv", home=tmp_path)

    assert (well.code, well.stdout, well.stderr) == (0, "", "")
    assert (ill.code, ill.stdout) == (4, "")
    assert "is not complete and was not published" in ill.stderr
    assert f"failed:  {source.address}/app-1 has no tag none" in ill.stderr
    assert (printed.json["exit_code"], printed.json["targets"]) == (0, [str(tmp_path / "bundle.tar.zst")])
    assert "Build Summary" in printed.stderr
    assert both.json["exit_code"] == 4  # a document that is asked for is there
    assert ill.stderr.splitlines()[-1] in both.stderr
    assert "image_copied" in told.stderr
    assert "blob_" not in told.stderr
    assert "blob_copied" in all_told.stderr


def measured(**figures: float) -> Measured:
    return Measured(**{"workers": 32, "elapsed": 10.0, "cores": 2, **figures})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("own", "waited", "by", "share"),
    [
        ({"loop": 9.5, "cpu": 10}, {"answers": 300}, "cpu", 0.95),
        ({"loop": 2, "cpu": 19}, {"answers": 300}, "cpu", 0.95),
        ({"disk": 80, "hashing": 10}, {"receiving": 10}, "disk", 0.8),
        ({"publishing": 6}, {"receiving": 40}, "disk", 0.6),
        ({}, {"sending": 30, "answers": 10}, "target_sending", 0.75),
        ({}, {"retries": 30, "answers": 10}, "target_retries", 0.75),
        ({}, {"requests_cap": 30, "answers": 10}, "requests_cap", 0.75),
        ({}, {"pauses": 6, "answers": 40}, "limit", 0.6),
    ],
)
def test_the_largest_share_of_the_time_bounds_a_run(
    own: dict[str, float], waited: dict[str, float], by: str, share: float
) -> None:
    bound = find_bound(measured(**own), [HostTime(host="t.io", role="target", waited=waited)])

    assert bound
    assert (bound.by, round(bound.share, 3)) == (by, share)


def test_a_run_that_asked_no_registry_may_be_bounded_by_its_disk() -> None:
    bound = find_bound(measured(publishing=7.0), [])

    assert bound
    assert (bound.by, bound.share) == ("disk", 0.7)


def test_nothing_is_claimed_of_a_run_of_which_too_little_is_known() -> None:
    assert find_bound(measured(cpu=5, loop=5), [HostTime(host="t.io", waited={"answers": 4.0})]) is None
    assert find_bound(measured(elapsed=0.0), []) is None


def blob(number: int, size: int) -> Descriptor:
    return Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", Digest.of(b"%d" % number), size)


def test_a_timeline_has_a_bounded_size_however_long_the_run_is() -> None:
    """A week, 10,000 blobs, and hosts that ask to wait all the time, with the longest names that there may be."""
    clock = Clock()
    recorder = TimelineRecorder(clock=clock)
    image = Reference("r.example.com:5000", "/".join(["x" * 80] * 3), "t" * 128)
    moved, began = 0, clock.seconds
    for number in range(10_000):
        descriptor = blob(number, 1_000 + number)
        recorder(Started(Progress(descriptor), image, image.repository))
        recorder(Paused(f"host-{number % 700}.example.com", 1.0, "because " * 100))
        recorder(Retried("r.example.com:5000", 1, 5, 0.5, "503 Service Unavailable"))
        clock.seconds += 60.0
        moved += descriptor.size
        recorder.look(moved, 2 * moved)
        recorder(Copied(descriptor, image.repository, 60.0))

    timeline = recorder.timeline()

    assert len(orjson.dumps(timeline.to_json(), option=orjson.OPT_INDENT_2)) < 1_000_000
    assert sum(timeline.bytes_received) == pytest.approx(moved, abs=BUCKETS)
    assert len(timeline.in_flight) * timeline.bucket_seconds >= clock.seconds - began
    assert timeline.in_flight[0] == pytest.approx(1, abs=0.01)
    assert [span.bytes for span in timeline.blobs] == list(range(11_000 - MOST_BLOBS, 11_000))
    assert timeline.blobs_left_out == 10_000 - MOST_BLOBS
    retries = [wait for wait in timeline.waits if wait.kind == "retry"]
    assert sum(wait.count for wait in retries) == 10_000
    assert Timeline.from_json(orjson.loads(orjson.dumps(timeline.to_json()))) == timeline


def test_a_timeline_of_many_sites_is_no_larger() -> None:
    """A day of 2,000 sites with long names, each of which has a wait, with one blob at all of them at the same time."""
    clock = Clock()
    recorder = TimelineRecorder(clock=clock, most_blobs=MOST_BLOBS_OF_SITES)
    image = Reference("r.example.com:5000", "/".join(["x" * 80] * 3), "t" * 128)
    layer = blob(1, 1_000)
    names = [f"{'very-long-' * 20}{number}" for number in range(2_000)]
    for name in names:
        recorder.at(name)(Started(Progress(layer), image, image.repository))
        recorder.at(name)(Retried(f"{name}.example.com", 1, 5, 0.5, "because " * 100))
        clock.seconds += 40.0
    recorder.look(0, 2_000_000)
    for name in names[:1_000]:
        recorder.at(name)(Copied(layer, image.repository, 60.0))
    for name in names:
        recorder.left(name, 0.0, 0)
    before = clock.seconds
    clock.seconds += before
    recorder.look(0, 2_000_000)

    timeline = recorder.timeline()

    assert len(orjson.dumps(timeline.to_json(), option=orjson.OPT_INDENT_2)) < 1_000_000
    assert (len(timeline.blobs), timeline.blobs_left_out) == (MOST_BLOBS_OF_SITES, 2_000 - MOST_BLOBS_OF_SITES)
    assert {span.at for span in timeline.blobs} <= {number * 40.0 for number in range(2_000)}  # each its own
    assert timeline.in_flight[-1] == 0  # nothing is under way where a visit was cut short
    assert Timeline.from_json(orjson.loads(orjson.dumps(timeline.to_json()))) == timeline


def test_bytes_that_nobody_saw_go_are_spread_over_the_time_of_their_visit() -> None:
    """Those of another machine, of which only the sum is told."""
    clock = Clock()
    recorder = TimelineRecorder(clock=clock, width=1.0)
    clock.seconds += 4.0

    recorder.left("a", 1.0, 300)

    assert recorder.timeline().bytes_sent == (0, 100, 100, 100)


def test_a_blob_that_stands_still_is_told_each_time_that_the_seconds_have_doubled() -> None:
    clock = Clock()
    recorder = TimelineRecorder(clock=clock)
    progress = Progress(blob(1, 100))
    recorder(Started(progress, APP, "team/app"))
    told = []
    for second in itertools.count(1):
        clock.seconds += 1
        if second == 30:
            progress.done = 50
        told += [(second, round(stalled.seconds)) for stalled in recorder.look(0, 0)]
        if second == 75:
            break

    assert told == [(10, STALL), (20, 2 * STALL), (40, STALL), (50, 2 * STALL), (70, 4 * STALL)]


def test_timelines_of_several_runs_are_one_on_one_axis() -> None:
    early = Timeline(bucket_seconds=1.0, bytes_received=(10, 20), bytes_sent=(0, 0), in_flight=(2.0, 4.0))
    late = Timeline(bucket_seconds=2.0, bytes_received=(8,), bytes_sent=(6,), in_flight=(1.0,))

    joined = join_timelines([(0.0, early), (1.0, late)])

    assert joined.bucket_seconds == 2.0
    assert joined.bytes_received == (34, 4)
    assert joined.bytes_sent == (3, 3)
    assert joined.in_flight == (3.5, 0.5)
