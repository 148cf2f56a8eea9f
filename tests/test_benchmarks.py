"""The benchmarks themselves: the same work everywhere, counted and judged right."""

from __future__ import annotations

import http.server
import json
import re
import subprocess
import sys
import tarfile
import threading
import time
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import lean, works
from benchmarks.__main__ import app, main
from benchmarks.bounds import bounds_of
from benchmarks.certificates import make_certificates
from benchmarks.compare import changes
from benchmarks.document import merge, to_text
from benchmarks.generate import prepare
from benchmarks.goals import verdicts
from benchmarks.heat_map import headline, heat_map
from benchmarks.jobs import Job, Step
from benchmarks.layers import write_layer
from benchmarks.link import Link, Traffic, run_relay
from benchmarks.outputs import problem_with
from benchmarks.page_cache import forget
from benchmarks.peers import TOOLS
from benchmarks.plots import plots
from benchmarks.recipes import RECIPES, Layer, fleet
from benchmarks.report import markdown
from benchmarks.requests import RequestTap
from benchmarks.resources import Command, CommandFailed, measure
from benchmarks.results import rows_of
from benchmarks.rounds import Bench, Refusal, Sample
from benchmarks.running import Places, Plan
from benchmarks.servers import PROGRAMS, Program, run_server
from benchmarks.sweep import FOUND_OUT, Trial, best, joined, sweep, to_json
from benchmarks.throttle import Throttle
from benchmarks.tools import Syncer, Tool
from benchmarks.works import THROTTLED, Work


def test_a_corpus_is_the_same_wherever_it_is_made(tmp_path: Path) -> None:
    first, second = prepare("tiny", tmp_path / "a"), prepare("tiny", tmp_path / "b")

    assert first.images == second.images
    assert first.images[0].digest == "sha256:f5435803bd39bf0510eb6ecba73e45b7baacaccdddc1beb6ecc1fae281fc5a41"


def test_a_corpus_is_found_again_by_the_next_run(tmp_path: Path) -> None:
    made = prepare("tiny", tmp_path)
    blob = made.store.blob(made.images[0].digest)
    before = blob.stat()

    found = prepare("tiny", tmp_path)

    assert found.images == made.images
    assert blob.stat().st_mtime_ns == before.st_mtime_ns


def test_a_corpus_that_was_cut_short_is_made_again(tmp_path: Path) -> None:
    made = prepare("tiny", tmp_path)
    (made.directory / "corpus.json").unlink()
    made.store.blob(made.images[0].digest).unlink()

    again = prepare("tiny", tmp_path)

    assert again.store.blob(again.images[0].digest).exists()


def test_the_fleet_is_as_large_as_the_figures_that_it_is_compared_with() -> None:
    images = list(fleet())
    layers = {layer for image in images for content in image.platforms.values() for layer in content}
    referenced = sum(layer.size for image in images for content in image.platforms.values() for layer in content)
    sizes = sorted(layer.size for layer in layers)

    assert len(images) == 200
    assert len({image.repository for image in images}) == 60
    assert sum(len(image.platforms) == 2 for image in images) == 40
    assert 1.7e9 < sum(sizes) < 2.0e9
    assert 7.5e9 < referenced < 9e9
    assert 0.4e6 < sizes[len(sizes) // 2] < 0.6e6
    assert sizes[-1] <= 80 * 1024 * 1024


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_no_two_images_of_a_corpus_have_the_same_name(name: str) -> None:
    names = Counter((image.repository, image.tag) for image in RECIPES[name]())

    assert names.most_common(1)[0][1] == 1


@pytest.mark.parametrize("size", [0, 1, 511, 65535, 1_100_000])
def test_a_layer_is_a_gzip_of_a_tar_that_does_not_shrink(tmp_path: Path, size: int) -> None:
    written = write_layer(Layer("layer", size), "corpus", tmp_path / "layer")

    with tarfile.open(tmp_path / "layer", "r:gz") as archive:
        member = archive.getmember("data")
        assert member.size == size
        assert archive.extractfile(member)
    assert written.size == (tmp_path / "layer").stat().st_size
    assert written.size > size


def test_requests_are_counted_by_kind_however_their_bytes_are_cut() -> None:
    sent = (
        b"GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n"
        b"POST /v2/a/b/blobs/uploads/ HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
        b"PATCH /v2/a/b/blobs/uploads/x?_state=y HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n10;x=y\r\n0123456789abcdef\r\n0\r\n\r\n"
        b"PUT /v2/a/b/blobs/uploads/x?digest=sha256:00 HTTP/1.1\r\ncontent-length: 27\r\n\r\n"
        b"GET /v2/ HTTP/1.1 is no req"
        b"HEAD /v2/a/b/manifests/v1 HTTP/1.1\r\n\r\n"
        b"POST /v2/a/b/blobs/uploads/?mount=sha256:00&from=c HTTP/1.1\r\n\r\n"
    )
    expected = Counter(
        ["GET ping", "POST upload", "PATCH upload", "PUT upload", "HEAD manifest", "POST mount"],
    )

    for size in (1, 7, 50, len(sent)):
        counts: Counter[str] = Counter()
        tap = RequestTap(counts)
        for start in range(0, len(sent), size):
            tap.feed(sent[start : start + size])

        assert counts == expected, f"in pieces of {size}"


def test_a_relay_counts_what_goes_through_it() -> None:
    traffic = Traffic()

    with _server() as address, run_relay(address, traffic) as relayed:
        for _ in range(3):
            with urllib.request.urlopen(f"http://{relayed}/v2/a/manifests/v1") as answer:
                assert len(answer.read()) == 100_000

    assert traffic.requests == {"GET manifest": 3}
    assert traffic.connections == 3
    assert traffic.down > 300_000
    assert 0 < traffic.up < 1000


def test_a_slow_link_takes_the_time_that_it_says() -> None:
    link = Link(round_trip=0.1, bits_per_second=8e6)  # 100 kB take 0.1 s

    with _server() as address, run_relay(address, Traffic(), link) as relayed:
        began = time.monotonic()
        with urllib.request.urlopen(f"http://{relayed}/v2/a/manifests/v1") as answer:
            answer.read()
        seconds = time.monotonic() - began

    assert seconds >= 0.3  # the handshake, the request's round trip, the body


def test_a_link_can_cap_each_connection_for_itself() -> None:
    link = Link(round_trip=0.0, bits_per_second=4e6, for_each=True)  # 100 kB take 0.2 s
    ends: list[float] = []

    with _server() as address, run_relay(address, Traffic(), link) as relayed:

        def fetch() -> None:
            with urllib.request.urlopen(f"http://{relayed}/v2/a/manifests/v1") as answer:
                answer.read()
            ends.append(time.monotonic() - began)

        connections = [threading.Thread(target=fetch) for _ in range(20)]
        began = time.monotonic()
        for connection in connections:
            connection.start()
        for connection in connections:
            connection.join()

    assert len(ends) == 20
    assert min(ends) >= 0.2
    assert str(link) == "0 ms, 4 Mbit/s a connection"


@pytest.mark.parametrize("told", [False, True])
def test_a_throttle_takes_so_many_requests_a_second_and_counts_the_others(told: bool) -> None:
    traffic, refusals = Traffic(), []

    with _server() as address, run_relay(address, traffic, Throttle(3, told=told)) as relayed:
        began = time.monotonic()
        for _ in range(15):
            try:
                with urllib.request.urlopen(f"http://{relayed}/v2/a/manifests/v1") as answer:
                    assert len(answer.read()) == 100_000
                    assert answer.headers.get("RateLimit-Policy") == ('"second";q=3;w=1' if told else None)
            except urllib.error.HTTPError as error:
                refusals.append((error.code, error.headers["Retry-After"], error.headers["RateLimit"]))
        seconds = time.monotonic() - began

    assert set(refusals) <= {(429, "1", '"second";r=0;t=1' if told else None)}
    assert 3 <= 15 - len(refusals) <= 3 * (seconds + 2)
    assert (traffic.refused, traffic.requests) == (len(refusals), {"GET manifest": 15})


def test_a_layout_that_lacks_a_blob_or_has_it_wrong_is_not_taken(tmp_path: Path) -> None:
    corpus = prepare("tiny", tmp_path / "cache")
    blobs = tmp_path / "layout" / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for digest in corpus.blobs:
        (blobs / digest.removeprefix("sha256:")).write_bytes(corpus.store.blob(digest).read_bytes())
    assert problem_with(tmp_path / "layout", corpus.blobs, hashed=True) is None

    some = blobs / next(iter(corpus.blobs)).removeprefix("sha256:")
    content = some.read_bytes()
    some.write_bytes(bytes(len(content)))
    assert problem_with(tmp_path / "layout", corpus.blobs, hashed=False) is None
    assert problem_with(tmp_path / "layout", corpus.blobs, hashed=True)

    some.unlink()
    assert problem_with(tmp_path / "layout", corpus.blobs, hashed=False)


def test_a_ratio_is_taken_round_by_round() -> None:
    rows = rows_of(_document({"syncer": [1.0, 10.0, 2.0], "imgpkg": [2.0, 20.0, 4.0]}))

    ratio = rows[0].ratio_to(rows[1], "wall")

    assert ratio
    assert (ratio.low, ratio.median, ratio.high) == (0.5, 0.5, 0.5)


def test_a_goal_says_whether_it_is_met() -> None:
    met = _document({"syncer": [1.0, 1.0, 1.0], "imgpkg": [2.0, 2.0, 2.0]})
    missed = _document({"syncer": [1.9, 1.9, 1.9], "imgpkg": [2.0, 2.0, 2.0]})

    for document, is_met in ((met, True), (missed, False)):
        judged = {verdict.goal.name: verdict.is_met for verdict in verdicts(document, rows_of(document))}
        assert judged["fleet build: wall time"] is is_met


def test_a_goal_in_seconds_has_nobody_to_divide_by() -> None:
    document = _document({"syncer": [0.1, 0.3, 0.2]}, corpus="night")
    (work,) = document["works"].values()
    work["tls"] = True
    for sample in document["samples"]:
        sample["step"] = "no-op sync"

    found = {verdict.goal.name: verdict for verdict in verdicts(document, rows_of(document))}

    assert found["night no-op sync, TLS: CPU seconds"].found.median == 0.2
    assert found["night no-op sync, TLS: CPU seconds"].is_met
    assert "night no-op sync, TLS: wall time" not in found  # without ocync


def test_goals_judge_what_a_throttle_refused_and_what_no_flag_costs() -> None:
    document = _document({"syncer": [21.0, 22.0, 23.0]}, corpus="small")
    (work,) = document["works"].values()
    work["link"] = str(THROTTLED[1])
    for sample in document["samples"]:
        sample |= {"requests": {"GET blob": 1010}, "refused": 10, "bytes_up": 1, "bytes_down": 1}
    trials = [Trial(0, 16, 5.5, 1.0, 1.0), Trial(16, 16, 6.0, 1.0, 1.0), Trial(64, 16, 5.0, 1.0, 1.0)]
    document["sweeps"] = [{"corpus": "small", "title": "", "trials": to_json(trials)}]

    found = {verdict.goal.name: verdict.found.median for verdict in verdicts(document, rows_of(document))}

    assert found["small build, 50 requests a second, told: answers of 429 ÷ requests"] == pytest.approx(10 / 1010)
    assert found["small build, 50 requests a second, told: wall time ÷ what the limit allows"] == pytest.approx(1.1)
    assert found["small push, 40 ms, 200 Mbit/s: seconds without flags ÷ with the best"] == pytest.approx(1.1)


def test_a_slower_machine_is_no_regression() -> None:
    old = _document({"syncer": [1.0, 1.1, 1.0], "imgpkg": [2.0, 2.1, 2.0]})
    new = _document({"syncer": [3.0, 3.3, 3.0], "imgpkg": [6.0, 6.3, 6.0]})

    assert [change.is_regression for change in changes(old, new)] == [False]


def test_a_worse_ratio_is_a_regression() -> None:
    old = _document({"syncer": [1.0, 1.1, 1.0], "imgpkg": [2.0, 2.1, 2.0]})
    new = _document({"syncer": [1.5, 1.5, 1.6], "imgpkg": [2.0, 2.0, 2.0]})

    (change,) = changes(old, new)

    assert change.is_regression
    assert "REGRESSION" in str(change)


def test_a_report_has_a_row_for_each_tool_and_says_who_could_not() -> None:
    text = markdown(_document({"syncer": [1.0, 1.1, 1.0], "imgpkg": [2.0, 2.1, 2.0]}))

    assert "| syncer | 1.00 (1.00–1.10) |" in text
    assert "| **imgpkg** (fastest peer) | 2.00 (2.00–2.10) |" in text
    assert "| fleet build: wall time | docker-registry | ≤ 0.8 × imgpkg | 0.50 (0.50–0.52) | – | met |" in text
    assert "| syncer version: seconds | – | ≤ 0.2 | 0.10 (0.09–0.30) | 0.02 | met |" in text
    assert "Not measured in this run:" in text
    assert "fleet push: wall time ≤ 1.2 × floor" in text
    assert "- skopeo makes no bundle" in text


def test_a_terminal_shows_each_goal_with_what_bounds_it_and_the_missed_ones_last(tmp_path: Path) -> None:
    document = _document({"syncer": [1.9, 1.9, 1.9], "imgpkg": [2.0, 2.0, 2.0]})
    (tmp_path / "results.json").write_text(to_text(document))

    shown = CliRunner().invoke(app, ["report", str(tmp_path / "results.json")]).output

    *_, missed, _, met = (line.strip() for line in shown.strip().splitlines() if line.strip())
    assert missed.startswith("fleet build: wall time")
    assert "≤ 0.8 × imgpkg" in missed
    assert "not met: cores 50% busy" in missed
    assert met == "2 of 3 met"
    assert (tmp_path / "costs.svg").exists()


def test_a_goal_that_even_the_floor_misses_says_how_far_that_is() -> None:
    text = markdown(_document({"syncer": [1.9, 1.9, 1.9], "imgpkg": [2.0, 2.0, 2.0], "floor": [1.7, 1.7, 1.7]}))

    assert "≤ 0.8 × imgpkg | 0.95 | 0.85 | **not met**: the floor itself is at 0.85; cores 50% busy (syncer 50%" in text
    assert "| build: fleet, docker-registry | 1.70 | 1.90 | 1.12 | 1.12 | 50% | 50% |" in text


@pytest.mark.parametrize(("wall", "is_met"), [(30.0, True), (36.0, False)])
def test_time_is_linear_when_an_image_among_many_costs_what_it_costs_among_few(wall: float, is_met: bool) -> None:
    few, many = (
        _document({"syncer": [seconds]}, corpus=corpus, images=images)
        for seconds, corpus, images in ((9.0, "many-3000", 3000), (wall, "many", 10_000))
    )
    document = merge(few, many)

    judged = {verdict.goal.name: verdict.is_met for verdict in verdicts(document, rows_of(document))}

    assert judged["many build: wall time per image"] is is_met


def test_a_cold_work_is_judged_by_goals_about_cold_works() -> None:
    document = _document({"syncer": [1.0], "imgpkg": [2.0]})
    document["works"]["fleet, docker-registry"]["cold"] = True

    found = [verdict.goal.name for verdict in verdicts(document, rows_of(document))]

    assert found == ["fleet build, cold: wall time", "syncer version: seconds"]


def test_what_is_measured_again_takes_the_place_of_what_was_there() -> None:
    earlier = _document({"syncer": [1.0], "imgpkg": [2.0]})
    other = _document({"syncer": [5.0]}, corpus="small")
    again = _document({"syncer": [3.0], "crane": [4.0]})

    walls = {
        (row.corpus, row.tool): spread.median
        for row in rows_of(merge(merge(earlier, other), again))
        if (spread := row.spread("wall"))
    }

    assert walls == {("fleet", "syncer"): 3.0, ("fleet", "crane"): 4.0, ("small", "syncer"): 5.0}


def test_a_sweep_that_is_made_again_takes_the_place_of_that_sweep_alone() -> None:
    def swept(**trials: int) -> dict[str, Any]:
        made = [{"corpus": title, "title": title, "trials": count} for title, count in trials.items()]
        return {**_document({}), "sweeps": made}

    found = merge(merge(swept(fleet=1, small=2), swept(small=3)), swept())["sweeps"]

    assert {sweep["title"]: sweep["trials"] for sweep in found} == {"fleet": 1, "small": 3}


@pytest.mark.parametrize(
    ("work", "found"),
    [("", ["fleet", "small"]), ("sweep", ["fleet", "small"]), ("sweep, small", ["small"]), ("small", [])],
)
def test_a_sweep_is_asked_for_by_its_own_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, work: str, found: list[str]
) -> None:
    plans: list[Plan] = []

    def planned(plan: Plan, places: Places, _: object) -> Path:
        plans.append(plan)
        (places.output / "results.json").write_text(to_text(_document({})))
        return Path(__file__)

    monkeypatch.setattr("benchmarks.__main__.run_plan", planned)
    assert main(["run", "--full", "--work", work, "--output", str(tmp_path)]) == 0

    assert [sweep.corpus for sweep in plans[0].sweeps] == found


def test_results_are_json_with_a_line_for_each_sample() -> None:
    document = _document({"syncer": [1.0, 1.1, 1.0]})

    text = to_text(document)

    assert json.loads(text) == document
    assert sum('"round"' in line for line in text.splitlines()) == 3


def test_a_run_can_be_of_one_work_and_step() -> None:
    chosen = works.only(works.full(["a", "b"]), named="TLS", steps=[Step.PUSH])

    assert [(work.name, work.steps) for work in chosen] == [("big, a, TLS", (Step.PUSH,))]


def test_a_build_over_a_link_is_a_work_of_its_own() -> None:
    """Beside a push the link leads to the target, and the build would be one without it."""
    over_links = [work for work in works.full(["a"]) if work.link is not None and Step.BUILD in work.steps]

    assert over_links
    assert not any(step.needs_target for work in over_links for step in work.steps)


def test_a_work_that_is_named_whole_is_not_one_of_many() -> None:
    full = works.full(["a", "b"])

    assert {work.name for work in works.only(full, named="fleet, a", steps=[])} == {"fleet, a"}
    assert len({work.name for work in works.only(full, named="fleet, ", steps=[])}) > 2


def test_a_quick_run_leaves_out_whom_no_goal_names_where_it_can() -> None:
    assert works.quick_tools(["syncer", "floor", "crane", "skopeo"]) == ["syncer", "floor", "crane"]
    assert works.quick_tools(["syncer", "floor", "skopeo"]) == ["syncer", "floor", "skopeo"]


def test_a_measured_command_is_run_as_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    program = "import os, sys; sys.exit('PYTHONDONTWRITEBYTECODE' in os.environ or os.environ['OWN'] != 'x')"

    measure(Command((sys.executable, "-c", program), {"OWN": "x"}), [], tmp_path / "log")


def test_what_is_forgotten_is_read_again_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "file").write_bytes(b"content")
    (tmp_path / "dangling").symlink_to("nowhere")

    forget(tmp_path)

    assert (tmp_path / "directory" / "file").read_bytes() == b"content"


@pytest.mark.parametrize("tls", [False, True])
def test_the_floor_moves_a_whole_corpus(tmp_path: Path, tls: bool) -> None:
    corpus = prepare("tiny", tmp_path / "cache")
    certificates = make_certificates(tmp_path / "tls") if tls else None
    authority = certificates.authority if certificates else None

    with run_server(_registry(), corpus.store.root, certificates) as source:
        lean.pull(corpus, source.address, tmp_path / "pulled", authority)
        assert (tmp_path / "pulled").stat().st_size > sum(corpus.blobs.values())  # and the manifests
    with run_server(_registry(), tmp_path / "target", certificates) as target:
        with pytest.raises(lean.LeanFailed):
            lean.ask(corpus, target.address, authority)
        lean.push(corpus, target.address, authority)
        lean.ask(corpus, target.address, authority)


class _Liar(Tool):
    """Says that all is well, and does nothing."""

    name = "liar"
    pushes_layouts = True

    def push(self, job: Job) -> Command:
        return Command((sys.executable, "-c", "pass"))

    def sync(self, job: Job) -> Command:
        return self.push(job)


@pytest.mark.parametrize("step", [Step.PUSH, Step.NOOP_PUSH, Step.SYNC, Step.NOOP_SYNC])
def test_a_tool_that_brought_nothing_to_the_target_is_out(tmp_path: Path, step: Step) -> None:
    bench = _bench(tmp_path)

    (outcome,) = bench.run(Work("tiny", (step,), _registry().name), [_Liar()])

    assert isinstance(outcome, Refusal)
    assert "12 images are not at the target" in outcome.reason


def test_a_step_that_must_come_between_two_others_is_taken_there(tmp_path: Path) -> None:
    work = Work("tiny", (Step.BUILD, Step.NOOP_PUSH), _registry().name)

    outcomes = list(_bench(tmp_path, rounds=0).run(work, [Syncer()]))

    assert [(type(outcome), outcome.step) for outcome in outcomes] == [(Sample, Step.BUILD), (Sample, Step.NOOP_PUSH)]


def test_steps_that_come_before_are_taken_and_not_measured(tmp_path: Path) -> None:
    bench = _bench(tmp_path)

    outcomes = list(bench.run(Work("tiny", (Step.NOOP_PUSH,), _registry().name, cold=True), [Syncer()]))

    assert [(type(outcome), outcome.step) for outcome in outcomes] == [(Sample, Step.NOOP_PUSH)]
    assert not list((tmp_path / "disk").iterdir())


def test_a_cold_build_is_not_done_before_its_bundle_is_on_the_disk(tmp_path: Path) -> None:
    tool, job = TOOLS["imgpkg"], Job(prepare("tiny", tmp_path / "cache"), tmp_path, "")
    made = Command(("sh", "-c", f"cat > {tool.bundled(job)}"), {}, "fed to it")

    measure(tool.flushed(made, job), [], tmp_path / "log")
    assert tool.bundled(job).read_text() == "fed to it"
    with pytest.raises(CommandFailed, match="ended with 3"):
        measure(tool.flushed(Command(("sh", "-c", "exit 3")), job), [], tmp_path / "log")
    tool.bundled(job).unlink()
    with pytest.raises(CommandFailed, match=r"images\.tar"):  # there is nothing to bring to a disk
        measure(tool.flushed(Command(("true",)), job), [], tmp_path / "log")
    assert TOOLS["syncer"].flushed(made, job) is made  # which does it itself


def test_what_syncer_measured_about_itself_is_kept(tmp_path: Path) -> None:
    work = Work("tiny", (Step.BUILD,), _registry().name, variants=(works.ONE_RANGE,))
    tools = [TOOLS["syncer"], TOOLS[works.ONE_RANGE], TOOLS["floor"]]

    outcomes = list(_bench(tmp_path, rounds=0).run(work, tools))

    accounts = {outcome.tool: outcome.account for outcome in outcomes if isinstance(outcome, Sample)}
    for name in ("syncer", works.ONE_RANGE):
        account = accounts[name]
        assert account
        assert account["elapsed"] > 0
        assert account["waited"]["answers"] > 0
    assert accounts["floor"] is None


@pytest.mark.parametrize("name", [name for name, tool in TOOLS.items() if not tool.is_variant])
def test_each_tool_that_is_here_does_what_it_says_that_it_can(tmp_path: Path, name: str) -> None:
    """Only that shows that a peer's command is right: its result is looked at after each step."""
    tool = TOOLS[name]
    if not tool.found:
        pytest.skip(f"{name} is not here")
    bundle = Work("tiny", (Step.BUILD, Step.PUSH), _registry().name)
    bench = _bench(tmp_path, rounds=0)

    outcomes = [
        outcome
        for work in (bundle, replace(bundle, steps=(Step.SYNC, Step.NOOP_SYNC), tls=True))
        for outcome in bench.run(work, [tool])
    ]

    assert not [outcome.reason for outcome in outcomes if isinstance(outcome, Refusal) and "failed" in outcome.reason]
    assert any(isinstance(outcome, Sample) for outcome in outcomes)


def test_a_variant_takes_part_where_a_work_names_it() -> None:
    named = {work.name for work in works.full(["a"]) if work.admits(TOOLS[works.ONE_RANGE])}

    assert named == {"huge, a"}


def test_every_push_of_a_sweep_sends_everything(tmp_path: Path) -> None:
    corpus = prepare("tiny", tmp_path / "cache")
    traffic = Traffic()
    sent, tried = [], []

    with run_server(_registry(), tmp_path / "target") as target, run_relay(target.address, traffic) as address:
        for trial in sweep(
            corpus,
            address,
            concurrency=[FOUND_OUT, 8],
            chunk_mib=[16],
            rounds=range(2),
            options=["--no-progress"],
            directory=tmp_path,
        ):
            tried.append(trial.flags)
            sent.append(traffic.up)
            traffic.clear()

    assert tried == ["", "--concurrency 8", "--concurrency 8", ""]
    assert all(corpus.size < count < 1.5 * corpus.size for count in sent)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compare", "absent.json", "absent.json"], "absent.json cannot be read: No such file or directory"),
        (["compare", "other.json", "other.json"], "other.json holds no results of a run"),
        (["report", "text.json"], "text.json cannot be read: it is not JSON: "),
        (["compare", "other.json"], "NEW is missing"),
        (["run", "--rounds", "0"], "--rounds: it must be a number from 1 on"),
        (["run", "--nonsense"], "python -m benchmarks run has no option --nonsense"),
        (["nonsense"], "python -m benchmarks has no command nonsense"),
        (["sweep", "--registry", "127.0.0.1:1", "--corpus", "giant"], "no corpus giant"),
        (["sweep", "--registry", "127.0.0.1:1", "--concurrency", "8,"], "not a list of numbers"),
        (["sweep", "--registry", "127.0.0.1:1", "--concurrency", "0"], "below 1"),
        (["run", "--work", "giant"], "no work with"),
        (["run", "--tool", "giant"], "giant is not here"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.json").write_text("{}")
    Path("text.json").write_text("text")
    made = ["--cache", "made"] if arguments[0] in ("run", "sweep") else []

    code = main([*arguments, *made])

    first, *rest = capsys.readouterr().err.splitlines()
    assert code == 2
    assert first.startswith("error: ")
    assert said in first
    assert [line.partition(": ")[0] for line in rest] in ([], ["hint"])
    assert not Path("made").exists()


@pytest.mark.parametrize("option", ["--cache", "--output"])
@pytest.mark.parametrize("command", ["run --smoke", "sweep --registry 127.0.0.1:1"])
def test_a_directory_that_cannot_be_written_to_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, option: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    other = {"--cache": "--output", "--output": "--cache"}[option]

    for place in ("file", "file/below", "/proc/x", "/proc"):
        code = main([*command.split(), option, place, other, "made"])

        assert code == 2
        assert re.fullmatch(f"error: {option}: nothing can be written to {place}: .+\n", capsys.readouterr().err)
    assert not list(tmp_path.glob("made/*"))


def test_help_names_both_flags_of_a_pair_of_which_neither_is_on_by_default() -> None:
    shown = CliRunner().invoke(app, ["run", "--help"], terminal_width=100).output

    for line in ("--full / --quick Everything, or only what takes", "--cache DIR Where", "--output DIR Where"):
        assert line in " ".join(shown.split())


@pytest.mark.parametrize("command", [[], *([name] for name in app.commands)], ids=" ".join)
@pytest.mark.parametrize("columns", [60, 80, 200])
def test_every_help_is_shown_as_it_was_written(command: list[str], columns: int) -> None:
    """Square brackets are no markup, and there is none left in the text of a terminal."""
    ended = CliRunner().invoke(app, [*command, "--help"], terminal_width=columns)

    shown = " ".join(ended.output.split())
    assert ended.exit_code == 0, ended.output
    assert "`" not in shown
    if command == ["sweep"]:
        assert "HOST[:PORT][/BASE]; what" in shown


def test_each_plot_says_what_it_shows_and_is_the_same_when_drawn_again() -> None:
    document = _document({"syncer": [1.0, 1.1, 1.0], "imgpkg": [2.0, 2.2, 2.0], "floor": [0.9, 0.9, 0.9]})
    for corpus, images in (("many-1000", 1000), ("many", 10_000)):
        document = merge(document, _document({"syncer": [images / 1000]}, corpus=corpus, images=images))
    trials = [Trial(0, 16, 5.5, 1.0, 1.1), Trial(16, 16, 6.0, 1.0, 1.0), Trial(64, 16, 5.0, 1.0, 1.2)]
    document["sweeps"] = [{"corpus": "small", "title": "Push of small & more", "trials": to_json(trials)}]

    drawn = dict(plots(document))

    assert list(drawn) == ["costs.svg", "ratios.svg", "bounds.svg", "growth.svg", "sweep-small.svg"]
    headlines = {
        "costs.svg": "Where the fastest peer takes 1 s, syncer takes 0.50 to build",
        "ratios.svg": "No other tool is faster than syncer in 1 of 1 works",
        "bounds.svg": "Of 3 works the CPU bounds 3",
        "growth.svg": "Where an image among 1,000 costs 1, one among 10,000 costs 1.00 to build",
        "sweep-small.svg": "--concurrency 64 pushes 1.09 times as fast as no flag",
    }
    for name, svg in drawn.items():
        said = "".join(ET.fromstring(svg).itertext())
        assert headlines[name] in said, name
    assert "Push of small & more: MB/s of one push each" in "".join(ET.fromstring(drawn["sweep-small.svg"]).itertext())
    assert dict(plots(document)) == drawn


def test_a_run_that_measured_nothing_to_compare_has_no_plots() -> None:
    assert not dict(plots({**_document({}), "sweeps": []}))


def test_nothing_that_draws_is_loaded_before_something_is_drawn() -> None:
    said = "import sys, benchmarks.__main__; sys.exit(' '.join({'matplotlib', 'numpy'} & set(sys.modules)) or 0)"

    subprocess.run([sys.executable, "-c", said], check=True)


def test_what_was_idle_is_divided_by_what_syncer_waited_for() -> None:
    document = _document({"syncer": [10.0]})
    (sample,) = document["samples"]
    sample |= {"client_cpu": 4.0, "server_cpu": 6.0, "other_cpu": 1.0, "own_cpu": 1.0}
    (row,) = rows_of(document)
    untold = bounds_of(row, 2)
    waited = {"answers": 30.0, "receiving": 10.0, "retries": 0.0, "pauses": 0.0}
    sample["account"] = {"elapsed": 9.0, "publishing": 0.9, "disk": 20.0, "waited": waited, "loop": 2.0, "cpu": 3.5}
    (row,) = rows_of(document)
    told = bounds_of(row, 2)

    assert untold
    assert untold.busy == pytest.approx(0.6)
    assert untold.shares["idle, nothing told"] == pytest.approx(0.4)
    assert told
    assert told.shares["waiting for answers"] == pytest.approx(0.15)  # half of what is left beside the tenth
    assert told.shares["bytes on their way"] == pytest.approx(0.05)
    assert told.shares["the disk"] == pytest.approx(0.1 + 0.1)
    assert sum(told.shares.values()) == pytest.approx(1)
    assert told.shares["idle beside one busy thread"] == 0  # of 10 seconds it was busy for 2.5, and 4 were idle
    assert told.most == "the CPU"
    sample["account"] |= {"loop": 7.5, "cpu": 3.0}  # of 10 seconds 8.5 had work for one thread
    alone = bounds_of(rows_of(document)[0], 2)
    assert alone
    assert alone.shares["idle beside one busy thread"] == pytest.approx(0.4 - 0.15)
    assert alone.shares["the disk"] == pytest.approx(0.1 + 0.05 / 3)
    assert str(told) == (
        "cores 60% busy (syncer 20%, registries 30%), the disk 20%, waiting for answers 15%, bytes on their way 5%"
    )


def test_a_sweep_advises_the_gentlest_of_the_quick_settings() -> None:
    trials = [_trial(4, 11), _trial(16, 50), _trial(64, 51), _trial(128, 52)]

    assert best(trials).flags == "--concurrency 16"
    assert best([*trials, _trial(FOUND_OUT, 50)]).flags == ""
    assert headline(trials) == "--concurrency 16 pushes 4.55 times as fast as --concurrency 4, the slowest setting"


def test_a_sweep_claims_no_gain_within_the_spread_of_its_rounds() -> None:
    rounds = [_trial(FOUND_OUT, 40), _trial(64, 45), _trial(FOUND_OUT, 46), _trial(64, 50), _trial(FOUND_OUT, 42)]

    default, other = joined(rounds)

    assert (default.rates.median, other.rates.median) == pytest.approx((42, 47.4), abs=0.2)
    assert default.rates.spread == pytest.approx((40, 46))
    assert best([default, other]) is default
    assert headline([default, other]).startswith("No flag is needed")


def test_a_heat_map_marks_the_best_cell_and_that_of_no_flag() -> None:
    trials = [_trial(parallel, 10 + parallel, chunk) for parallel in (FOUND_OUT, 8, 64) for chunk in (4, 16)]

    said = list(ET.fromstring(heat_map(trials, "")).itertext())

    assert headline(trials) == "--concurrency 64 pushes 7.40 times as fast as no flag"
    assert [said.count(text) for text in ("best", "no flag", "4 MiB", "16 MiB", "74", "18")] == [1, 2, 1, 1, 2, 2]


def test_sweeps_of_earlier_runs_are_drawn_still() -> None:
    """They have no rounds, and no push without a flag."""
    trials = [Trial(**each) for each in json.loads(_EARLIER)]

    assert "the slowest setting" in heat_map(trials, "Push of fleet")


_EARLIER = """[
    {"concurrency": 4, "chunk_mib": 16, "seconds": 9.0, "cpu": 3.0, "megabytes_per_second": 200.0},
    {"concurrency": 8, "chunk_mib": 16, "seconds": 6.0, "cpu": 3.0, "megabytes_per_second": 300.0}
]"""


def _trial(concurrency: int, rate: float, chunk_mib: int = 16) -> Trial:
    return Trial(concurrency, chunk_mib, 1000 / rate, 1.0, rate)


def _registry() -> Program:
    program = next((program for program in PROGRAMS.values() if program.found and program.distribution_store), None)
    return program or pytest.skip("docker-registry is not here")


def _bench(directory: Path, rounds: int = 1) -> Bench:
    scratch, disk = directory / "scratch", directory / "disk"
    scratch.mkdir()
    disk.mkdir()
    return Bench(directory / "cache", scratch, disk, make_certificates(directory / "tls"), rounds, lambda _: None)


def _document(walls: dict[str, list[float]], *, corpus: str = "fleet", images: int = 200) -> dict[str, Any]:
    work = f"{corpus}, docker-registry"
    samples = [
        {
            "work": work,
            "step": "build",
            "tool": tool,
            "round": number,
            "wall": wall,
            "client_cpu": wall,
            "server_cpu": None,
            "other_cpu": None,
            "peak_memory": 50_000_000,
        }
        for tool, times in walls.items()
        for number, wall in enumerate(times, 1)
    ]
    figures = {"images": images, "repositories": 60, "blobs": 1000, "bytes": 10**9, "referenced_bytes": 8 * 10**9}
    rates = {"sha256": 1e9, "loopback": 1e9, "write": 1e9}
    return {
        "set": "quick",
        "rounds": 3,
        "started": "2026-01-01T00:00:00+00:00",
        "load": 0.1,
        "machine": {"system": "Linux", "processor": "x", "cores": 2, "memory_bytes": 10**9, "python": "3.11"},
        "floors": {
            **{f"{name}_bytes_per_second": rate for name, rate in rates.items()},
            "python_start_seconds": [0.02],
            "syncer_version_seconds": [0.09, 0.1, 0.3],
            "floor_start_seconds": [0.2],
        },
        "storage": {"work": "tmpfs", "corpora": "ext4"},
        "servers": {},
        "tools": {},
        "corpora": {corpus: figures},
        "works": {
            work: {"corpus": corpus, "server": "docker-registry", "tls": False, "link": None, "cold": False},
        },
        "samples": samples,
        "refusals": [{"work": work, "step": "build", "tool": "skopeo", "reason": "makes no bundle"}],
        "sweeps": [],
    }


@contextmanager
def _server() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(bytes(100_000))

        def log_message(self, *_: object) -> None:
            """Nothing: the test says what is wrong."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
