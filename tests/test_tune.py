"""``syncer tune``: what it proves, what it says about registries that are odd, and that it leaves nothing behind."""

from __future__ import annotations

import itertools
import random
import re
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import anyio
import orjson
import pytest
from jsonschema import Draft202012Validator
from msgspec import structs

from syncer.api.trials import DEFAULT, Mix, Rates, Search, Setting, Trial, Tuning, Way, candidates, in_turn, lines_of
from syncer.api.tune import Growth, Limits
from syncer.api.tune import tune as tune_there
from syncer.registry import RegistryAddress, RegistrySettings
from syncer.transport import Limits as TransportLimits
from syncer.transport import TransportSettings
from tests.conftest import OpenRegistry
from tests.support import client
from tests.support.cli import Ran, syncer
from tests.support.exchanges import Exchanges
from tests.support.fault_proxy import fault_proxy
from tests.support.faults import Reply, Reset, Stall
from tests.support.images import OCI_MANIFEST
from tests.support.registries import LOGIN, Registry
from tests.test_signals import signalled

SCHEMA = orjson.loads((Path(__file__).parent.parent / "docs" / "report.schema.json").read_bytes())
FEW = ("--time", "1h", "--max-bytes", "64KiB")
"""Some thirty trials, however long they take: two images each, with five blobs."""
MIB = 1024 * 1024
MANY = 300  # blobs
ONE_AT_A_TIME = RegistrySettings(transport=TransportSettings(limits=TransportLimits(requests_per_host=1)))


async def tune(home: Path, *words: str | Path, stdin: str = "") -> Ran:
    return await syncer("tune", *words, *FEW, home=home, stdin=stdin)


def pushed(exchanges: Exchanges) -> list[str]:
    """The paths of the manifests that a registry has been given, so far as it may know them."""
    return [one.path for one in exchanges.log if one.method == "PUT" and "/manifests/" in one.path]


async def still_there(registry: Registry, paths: list[str]) -> list[str]:
    """Those of ``paths`` that the registry still has."""
    found = [path for path in paths if await client.ask(registry, "GET", path, headers={"Accept": OCI_MANIFEST})]
    assert paths
    return found


def last_line(ran: Ran) -> str:
    return ran.stdout.splitlines()[-1]


async def test_every_push_is_new_is_pulled_and_is_removed(any_registry: OpenRegistry, tmp_path: Path) -> None:
    async with any_registry() as registry, fault_proxy(registry) as proxy:
        report = tmp_path / "tuning.json"
        ran = await tune(tmp_path, f"{proxy.registry.address}/scratch", "--json", "--report", report)

        exchanges = proxy.exchanges
        manifests = pushed(exchanges)
        left = await still_there(registry, manifests)

    assert (ran.code, ran.stderr) == (0, "")
    assert ran.json == orjson.loads(report.read_bytes())
    Draft202012Validator(SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(ran.json)
    assert not left
    assert ran.json["left"] is None
    assert len(manifests) == len(set(manifests)), "nothing is sent that was there before"
    repository = ran.json["repository"].removeprefix(proxy.registry.address)
    assert re.fullmatch(r"/scratch/syncer-tune-[0-9a-f]{8}", repository)
    assert {one.path.split(repository)[0] for one in exchanges.log if one.path != "/v2/"} == {"/v2"}
    blobs = [one.path for one in exchanges.log if one.kind == "GET blob"]
    uploads = [one for one in exchanges.log if one.kind == "PUT upload"]
    assert len(blobs) == len(set(blobs)) == len(uploads)
    assert sum(one.sent for one in uploads) >= 0.98 * ran.json["bytes_sent"] > 0


async def test_a_login_is_used_and_shown_to_nobody(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry(login=LOGIN) as registry:
        login = ("--username", LOGIN.username, "--password-stdin")
        let_in = await tune(tmp_path, f"{registry.address}/scratch", *login, stdin=LOGIN.password)
        nobody = await tune(tmp_path, f"{registry.address}/scratch")
        wrong = await tune(tmp_path, f"{registry.address}/scratch", *login, stdin="wrong")

    assert (let_in.code, nobody.code, wrong.code) == (0, 3, 3)
    for ran in (let_in, nobody, wrong):
        assert LOGIN.password not in ran.stdout + ran.stderr
    assert nobody.stdout == wrong.stdout == ""
    assert nobody.stderr.startswith("error: ")


async def test_a_registry_that_deletes_nothing_is_told_of_first_and_where_it_all_stays(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry(delete=False) as registry, fault_proxy(registry) as proxy:
        ran = await tune(tmp_path, f"{proxy.registry.address}/scratch")
        deleted = [one.status for one in proxy.exchanges.log if one.method == "DELETE"]

    place = re.search(r"(\S+/scratch/syncer-tune-[0-9a-f]{8})", ran.stderr)
    assert ran.code == 0
    assert place
    assert ran.stderr.startswith("warning: the registry deletes nothing (status 405): what is sent stays in ")
    assert "removed:" not in ran.stdout
    assert f"stay in {place[1]}, since the registry deletes nothing (status 405)" in ran.stdout
    assert 0 < len(deleted) <= 8
    assert set(deleted) == {405}


async def test_nothing_stays_where_nothing_could_be_written(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry() as registry, fault_proxy(registry) as proxy:
        proxy.on("POST", "/uploads/", Reply(405), times=None)
        proxy.on("DELETE", "/manifests/", Reply(405), times=None)
        ran = await tune(tmp_path, f"{proxy.registry.address}/scratch")

    assert ran.code == 5
    assert ran.stderr.startswith("error: ")
    assert " stay in " not in ran.stderr


async def test_a_registry_that_throttles_ends_it_with_what_is_known(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry() as registry, fault_proxy(registry) as proxy:
        proxy.on("POST", "/uploads/", Reply(429, {"Retry-After": "100"}), first=12, times=None)
        ran = await tune(tmp_path, f"{proxy.registry.address}/scratch")
        left = await still_there(registry, pushed(proxy.exchanges))

    assert ran.code == 0, ran.stderr
    assert not left
    assert re.search(r"^no flag +[0-9.]+ +", ran.stdout, re.MULTILINE)
    host = proxy.registry.address
    told = f"no flag is needed: {host} limits requests (429 Too Many Requests), and without one syncer keeps to "
    assert told in last_line(ran)


async def test_a_registry_that_throttles_from_the_start_needs_no_flag(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    async with serve_disk() as registry, fault_proxy(registry) as proxy:
        proxy.on("GET", "/blobs/", Reply(429, {"Retry-After": "100"}), times=None)
        ran = await tune(tmp_path, f"{proxy.registry.address}/scratch", "--json")
        left = await still_there(registry, pushed(proxy.exchanges))

    assert (ran.code, ran.json["flags"]) == (0, {"push": "", "pull": ""})
    assert ran.json["advice"].startswith("no flag is needed: ")
    assert "429 Too Many Requests" in ran.json["ended_early"]
    assert not left


@pytest.mark.parametrize(("fault", "code"), [(Reply(403), 3), (Reply(507), 5), (Reset("request"), 1)])
async def test_a_registry_that_fails_in_the_middle_ends_it_with_what_is_known(
    debian_registry: OpenRegistry, tmp_path: Path, fault: Reply | Reset, code: int
) -> None:
    async with debian_registry() as registry, fault_proxy(registry) as proxy:
        proxy.on("POST", "/uploads/", fault, first=12, times=None)
        ran = await tune(tmp_path, f"{proxy.registry.address}/scratch", "--outage", "0")
        left = await still_there(registry, pushed(proxy.exchanges))

    assert ran.code == code, ran.stderr
    assert not left
    assert ran.stderr.count("error: ") == 1
    assert re.search(r"^no flag +[0-9.]+ +", ran.stdout, re.MULTILINE)
    assert last_line(ran) == "advice:    the trials ended early, so no flag is advised"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_ctrl_c_leaves_nothing_behind(
    any_registry: OpenRegistry, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """The registry has a manifest, and syncer was not told so yet."""
    async with any_registry() as registry, fault_proxy(registry) as proxy:
        rule = proxy.on("PUT", "/manifests/", Stall("head"), first=4)
        report = tmp_path / "tuning.json"
        words = ("tune", f"{proxy.registry.address}/scratch", *FEW, "--report", report)
        ended, stderr, _ = await signalled(tmp_path, rule, number, *words)
        left = await still_there(registry, pushed(proxy.exchanges))

    assert (ended, stderr) == (code, "stopped; what was sent is removed\n")
    assert not left
    document = orjson.loads(report.read_bytes())
    Draft202012Validator(SCHEMA).validate(document)
    assert document["left"] is None
    assert document["exit_code"] == code
    assert document["ended_early"] == "it was stopped"
    assert document["advice"] == "the trials ended early, so no flag is advised"


@pytest.mark.parametrize("is_answered", [True, False])
async def test_an_upload_that_is_being_opened_as_it_is_stopped_is_cancelled_or_told_of(
    any_registry: OpenRegistry, monkeypatch: pytest.MonkeyPatch, is_answered: bool
) -> None:
    """The registry has opened an upload, and syncer does not know yet where it could be cancelled."""
    monkeypatch.setattr("syncer.api.tune._SECONDS_TO_ANSWER", 60 if is_answered else 0.2)
    found: list[Tuning] = []
    opened, answered = anyio.Event(), anyio.Event()
    async with any_registry() as registry, fault_proxy(registry) as proxy:
        proxy.on("POST", "/uploads/", Stall("head", until=answered, reached=opened), first=8)
        place = RegistryAddress.parse(f"{proxy.registry.address}/scratch")

        async with anyio.create_task_group() as tasks:
            limits = Limits(size=5000, kept=("--concurrency", "--ranges"))
            tasks.start_soon(partial(tune_there, place, settings=ONE_AT_A_TIME, limits=limits, on_cut=found.append))
            await opened.wait()
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.wait_all_tasks_blocked()
                if is_answered:
                    answered.set()
        left_open = list(registry.directory.rglob("_uploads/*"))

    assert len(left_open) == (not is_answered)
    place_left = f"{proxy.registry.address}/scratch/syncer-tune-[0-9a-f]{{8}}"
    said = f"1 upload may stay open in {place_left} for some days, since the registry did not answer in time"
    assert re.fullmatch("None" if is_answered else said, str(found[0].left))


async def test_no_large_layer_is_made_to_its_end_once_it_is_stopped(
    serve_disk: OpenRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of some gigabytes takes longer than a process has after Ctrl-C, which would leave it on the disk."""
    monkeypatch.setattr("syncer.api.tune._FIRST", 64 * MIB)
    begun, stopped = anyio.Event(), threading.Event()
    made = 0

    def urandom(size: int) -> bytes:
        nonlocal made
        made += size
        if size == MIB and not stopped.is_set():
            anyio.from_thread.run_sync(begun.set)
            stopped.wait()
        return bytes(size)

    async with serve_disk() as registry, anyio.create_task_group() as tasks:
        monkeypatch.setattr("syncer.api.tune.os.urandom", urandom)
        tasks.start_soon(tune_there, RegistryAddress.parse(registry.address))
        await begun.wait()
        tasks.cancel_scope.cancel()
        before = made
        stopped.set()

    assert made == before


@pytest.mark.parametrize("form", ["--json", "--no-progress"])
async def test_ctrl_c_prints_what_was_measured_until_then(serve_disk: OpenRegistry, tmp_path: Path, form: str) -> None:
    async with serve_disk() as registry, fault_proxy(registry) as proxy:
        rule = proxy.on("PUT", "/manifests/", Stall("head"), first=6)
        words = ("tune", f"{proxy.registry.address}/scratch", *FEW, form)
        with (tmp_path / "stdout").open("wb") as stdout:
            ended, stderr, _ = await signalled(tmp_path, rule, signal.SIGINT, *words, stdout=stdout)

    printed = (tmp_path / "stdout").read_text()
    assert (ended, stderr) == (130, "stopped; what was sent is removed\n")
    if form == "--json":
        document = orjson.loads(printed)
        Draft202012Validator(SCHEMA).validate(document)
        assert (document["exit_code"], document["settings"][0]["push"]["trials"]) == (130, 1)
    else:
        assert re.search(r"^no flag +[0-9.]+ +[0-9.]+ +1$", printed, re.MULTILINE)
        assert printed.splitlines()[-1] == "advice:    the trials ended early, so no flag is advised"


@pytest.mark.parametrize(("fault", "code"), [(Reply(401), 3), (Reply(403), 3), (Reply(507), 5)])
async def test_a_first_push_that_fails_is_in_the_report(
    serve_disk: OpenRegistry, tmp_path: Path, fault: Reply, code: int
) -> None:
    report = tmp_path / "tuning.json"
    async with serve_disk() as registry, fault_proxy(registry) as proxy:
        proxy.on("POST", "/uploads/", fault, times=None)
        ran = await tune(tmp_path, f"{proxy.registry.address}/scratch", "--report", report)

    document = orjson.loads(report.read_bytes())
    assert (ran.code, ran.stdout) == (code, "")
    assert ran.stderr.startswith(f"error: {document['ended_early']}\n")
    Draft202012Validator(SCHEMA).validate(document)
    assert (document["exit_code"], document["flags"]) == (code, {"push": "", "pull": ""})
    assert "push" not in document["settings"][0]


async def test_what_is_given_is_kept_and_not_tried(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry() as registry:
        ran = await tune(tmp_path, registry.address, "--concurrency", "3", "--ranges", "2")

    assert ran.stderr == "note: --concurrency 3 and --ranges 2 are given, so that no other number is tried\n"
    told = "none to try but --chunk-size, for which a layer must have more than 8.39 MB"
    assert last_line(ran) == f"advice:    no flag is advised, since there was {told}"


async def test_no_more_connections_are_tried_than_there_are_blobs(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    """A push of one byte has three layers and the configs of two images; one of a small layer has it and its config."""
    async with serve_disk() as registry:
        few = await tune(tmp_path, f"{registry.address}/scratch", "--size", "1", "--json")
        two = await tune(tmp_path, f"{registry.address}/scratch", "--size", "1", "--content", "small")

    assert [each["concurrency"] for each in few.json["settings"]] == [None, 4]
    assert few.json["untried"].startswith(
        "--concurrency 8 and more, for which a push must have as many blobs, and not 5;"
    )
    told = (
        "--concurrency 4 and more, for which a push must have as many blobs, and not 2; --chunk-size and --ranges, for "
    )
    assert last_line(two).startswith(f"advice:    no flag is advised, since there was none to try but {told}")


async def test_a_report_that_cannot_be_written_does_not_cost_the_results(
    serve_disk: OpenRegistry, tmp_path: Path
) -> None:
    async with serve_disk() as registry:
        ran = await tune(tmp_path, registry.address, "--size", "1", "--content", "small", "--report", "/dev/full")

    assert ran.code == 5
    assert ran.stderr == "error: /dev/full cannot be written: No space left on device\n"
    assert last_line(ran).startswith("advice:    no flag is advised")


async def test_no_more_is_sent_than_may_be(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    async with serve_disk() as registry:
        ran = await syncer("tune", registry.address, "--max-bytes", "1", "--json", home=tmp_path)

    assert (ran.code, ran.json["bytes_sent"]) == (0, 1)
    assert ran.json["advice"].startswith("too few bytes might be sent ")


async def test_nothing_is_said_of_a_registry_that_is_not_there(tmp_path: Path) -> None:
    report = tmp_path / "tuning.json"
    ran = await tune(tmp_path, "127.0.0.1:9/scratch", "--report", report)

    assert (ran.code, ran.stdout) == (1, "")
    assert ran.stderr.startswith("error: 127.0.0.1:9 refused the connection")
    document = orjson.loads(report.read_bytes())
    assert (document["exit_code"], document["bytes_sent"], document["left"]) == (1, 0, None)
    assert document["ended_early"].startswith("127.0.0.1:9 refused the connection")


class Link:
    """A link on which each setting is as fast as ``rate`` says for its number of the trial."""

    def __init__(self, rate: Callable[[Setting, int], float], trials: int = 200) -> None:
        self.tried: list[Setting] = []
        self._rate = rate
        self._trials = trials

    async def attempt(self, push: Setting, pull: Setting) -> Trial:
        number = len(self.tried)
        self.tried.append(push)
        return Trial(self._rate(push, number), self._rate(pull, number))

    def spent(self) -> float:
        return len(self.tried) / self._trials

    async def search(self) -> Search:
        search = Search(candidates(40 * MIB, MANY), self.attempt, self.spent)
        await search.run()
        return search


def noise(number: int) -> float:
    """A few percent up and down, the same in every run of the test."""
    return 1 + 0.04 * ((number * 7919) % 13 - 6) / 6


def tuned(search: Search, *, size: int, sent: int) -> Tuning:
    return Tuning(
        registry="a.io",
        repository="a.io/syncer-tune-1",
        started=datetime.now(UTC),
        seconds=1,
        mix=Mix.MIXED,
        size=size,
        sent=sent,
        search=search,
        ended=None,
        left=None,
    )


async def test_a_setting_that_is_faster_by_more_than_the_spread_is_advised() -> None:
    link = Link(lambda setting, number: (140 if setting.concurrency == 64 else 100) * noise(number))

    search = await link.search()

    assert search.advice(Way.PUSH) == search.advice(Way.PULL) == Setting(concurrency=64)
    assert search.is_whole


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (lambda setting, _: 140 if setting.concurrency == 64 else 100, "use --concurrency 64 to push, 1.40 times as "),
        (lambda setting, _: 140 if setting.chunk_size else 100, "use --chunk-size 64MiB to push, 1.40 times as fast "),
        (lambda *_: 100, "no flag is needed: the default is as fast as anything tried (within the spread)"),
        (
            lambda setting, number: (120 if setting.concurrency == 64 else 100) * (1.3 if number % 5 == 0 else 1),
            "no flag is proven to help: --concurrency 64 to push and --concurrency 64 to pull seemed faster, but",
        ),
    ],
)
async def test_the_advice_is_a_sentence(rate: Callable[[Setting, int], float], said: str) -> None:
    tuning = tuned(await Link(rate).search(), size=64 * MIB, sent=MIB)

    assert tuning.advice.startswith(said)
    assert tuning.advice.endswith("to pull, no flag is needed") == ("--chunk-size" in said)
    Draft202012Validator(SCHEMA).validate(tuning.to_json())


@pytest.mark.parametrize(("gain", "swing"), [(1.0, 1), (1.04, 0), (1.1, 2.5)])
async def test_no_gain_is_claimed_that_is_small_or_within_the_spread(gain: float, swing: float) -> None:
    def rate(setting: Setting, number: int) -> float:
        return 100 * (gain if setting.concurrency == 64 else 1) * (1 + swing * (noise(number) - 1))

    search = await Link(rate).search()

    assert search.advice(Way.PUSH) == search.advice(Way.PULL) == DEFAULT
    assert search.is_whole


async def test_a_setting_that_was_lucky_is_not_advised() -> None:
    """It is quick as long as many are tried, and as quick as the default when only the two are."""

    def rate(setting: Setting, _: int) -> float:
        return 130 if setting.concurrency == 32 and len(set(link.tried[-3:])) == 3 else 100

    link = Link(rate)

    search = await link.search()

    finalist = search.finalists[Way.PUSH]
    assert finalist == Setting(concurrency=32)
    assert link.tried[-16:] == 4 * [finalist, DEFAULT, DEFAULT, finalist]
    assert search.advice(Way.PUSH) == DEFAULT


@pytest.mark.parametrize("swing", [0.05, 0.2])
@pytest.mark.parametrize("trials", range(4, 9))
def test_chance_alone_is_rarely_taken_for_a_gain(trials: int, swing: float) -> None:
    """Of two settings that are the same, one in sixty seems faster, by as few trials as may decide, or more."""
    chance = random.Random(7)

    def drawn() -> Rates:
        return Rates(tuple(chance.lognormvariate(0, swing) for _ in range(trials)))

    assert sum(drawn().is_above(drawn()) for _ in range(1500)) <= 1500 / 60


async def test_three_pairs_of_trials_decide_nothing() -> None:
    """Three of one setting are by chance all faster than three of another one in one of twenty cases."""
    searches = [
        await Link(lambda setting, _: 200.0 if setting.concurrency else 100.0, trials=trials).search()
        for trials in range(20, 60)
    ]

    pairs = {len(default.values) for search in searches for default, _ in search.decided.values()}
    assert min(pairs) == 4


async def test_a_link_that_drifts_favours_no_setting() -> None:
    search = await Link(lambda _, number: 100.0 - 0.3 * number).search()

    assert {search.advice(way) for way in Way} == {DEFAULT}


async def test_the_table_fits_into_80_columns_and_has_one_unit_for_each_way() -> None:
    def rate(setting: Setting, number: int) -> float:
        gain = (1.3 if setting.concurrency == 128 else 1) * (1.2 if setting.chunk_size == 64 * MIB else 1)
        return 10e6 * gain * noise(number) / (900 if setting.concurrency == 4 else 1)

    found = tuned(await Link(rate).search(), size=64 * MIB, sent=64 * MIB)
    lines = list(lines_of(found))
    table = [re.split(" {2,}", line) for line in lines[lines.index("") + 1 : -4]]

    assert len(max(lines[: lines.index("", 5)], key=len)) <= 80
    assert table[0] == ["median (from-to)", "push, MB/s", "pull, MB/s", "trials"]
    cells = {row[0]: row[1:] for row in table[1:]}
    assert cells["--concurrency 4"] == ["0.01", "0.01", "1"]
    assert cells["--concurrency 128 --chunk-size 64MiB"][1:] == ["-", "8"]
    default = found.search.rates(Way.PUSH, DEFAULT)
    assert default is not None
    assert cells["no flag"][0] == "10.0 (9.60-10.3)"
    assert default.spread == pytest.approx((9.6e6, 10.3e6), rel=0.005)


async def test_what_helps_is_tried_together_before_it_is_advised() -> None:
    def rate(setting: Setting, number: int) -> float:
        return 100 * (1.3 if setting.concurrency == 128 else 1) * (1.2 if setting.chunk_size else 1) * noise(number)

    link = Link(rate)
    search = await link.search()

    advised = search.advice(Way.PUSH)
    assert (advised.concurrency, search.advice(Way.PULL)) == (128, Setting(concurrency=128))
    assert advised.chunk_size in (4 * MIB, 64 * MIB)
    assert link.tried.count(advised) >= 3


async def test_too_little_time_proves_nothing() -> None:
    search = await Link(lambda setting, _: 200.0 if setting.concurrency else 100.0, trials=12).search()

    assert not search.is_whole
    assert search.advice(Way.PUSH) == DEFAULT


async def test_the_limit_that_ended_it_too_soon_is_named() -> None:
    tuning = tuned(await Link(lambda *_: 100.0, trials=12).search(), size=MIB, sent=12 * MIB)

    told = "there was too little time to tell whether a flag helps; give more with --time, such as --time"
    assert tuning.advice == f"{told} 1m"
    assert structs.replace(tuning, seconds=60).advice == f"{told} 4m", "12 trials were made, of the 26 that it takes"
    tuning = structs.replace(tuning, is_short_of_bytes=True)
    assert tuning.advice == "too few bytes might be sent to tell whether a flag helps; allow more with --max-bytes"


def test_trials_that_never_began_are_not_said_to_have_had_nothing_to_try() -> None:
    link = Link(lambda *_: 100.0)

    tuning = tuned(Search((), link.attempt, link.spent), size=MIB, sent=MIB)

    assert tuning.advice.startswith("there was too little time to tell whether a flag helps; ")


async def test_what_is_much_slower_is_not_tried_again() -> None:
    link = Link(lambda setting, _: 40.0 if setting.concurrency == 4 else 100.0)

    await link.search()

    assert link.tried.count(Setting(concurrency=4)) == 1
    assert link.tried.count(DEFAULT) > 3


def test_each_setting_is_the_first_and_the_last_of_a_round_as_often_as_any_other() -> None:
    settings = [Setting(number) for number in range(1, 5)]
    rounds = [in_turn(settings, number) for number in range(8)]

    assert all(sorted(order, key=str) == sorted(settings, key=str) for order in rounds)
    for place in (0, -1):
        assert {order[place] for order in rounds} == set(settings)


def test_of_many_results_the_lowest_and_the_highest_are_left_out_of_the_spread() -> None:
    assert Rates((1, 5, 6, 7, 9)).spread == (1, 9)
    assert Rates((1, 5, 6, 7, 9, 30)).spread == (1, 30)
    assert Rates((1, 5, 6, 7, 8, 9, 30)).spread == (5, 9)
    assert not Rates((105.0, 106.0)).is_above(Rates((100.0, 105.0)))
    assert not Rates((103.0, 104.0)).is_above(Rates((100.0, 101.0)))
    assert Rates((110.0, 112.0)).is_above(Rates((100.0, 105.0)))


SHARE = 1.0  # seconds of a trial


@pytest.mark.parametrize(
    ("requests", "mib", "fits"),
    [
        (1.2, 0.015, (12, 24)),  # loopback with little time: bytes take a quarter of what requests take
        (0.1, 0.015, (50, 64)),
        (0.1, 0.1, (8, 10)),
        (0.0, 0.5, (1.9, 2.1)),  # a link that is slow
        (0.5, 0.5, (1, 1)),
        (2.0, 1.0, (1, 1.5)),  # and one for which there is too little time anyway
        (0.0, 9.0, (1, 1)),
        (9.0, 0.0, (1, 1)),
    ],
)
def test_pushes_grow_as_far_as_bytes_and_not_requests_take_the_time(
    requests: float, mib: float, fits: tuple[float, float]
) -> None:
    growth = Growth(MIB, 64 * MIB, SHARE)

    trials = [requests + mib]
    while growth.goes_on(trials[-1]):
        trials.append(requests + mib * growth.size / MIB)

    assert fits[0] <= growth.size / MIB <= fits[1]
    assert len(trials) <= 4
    assert max(trials) <= max(4.1 * SHARE, trials[0]), "what it takes to find out"


def layer_sizes(mix: Mix, size: int) -> Iterator[int]:
    return itertools.chain.from_iterable(mix.layers(size))


@pytest.mark.parametrize("mix", Mix)
@pytest.mark.parametrize("size", [1, 5000, MIB, 64 * MIB, 4096 * MIB])
def test_the_layers_of_a_push_have_its_size(mix: Mix, size: int) -> None:
    sizes = list(layer_sizes(mix, size))

    assert min(sizes) >= 1
    assert sum(sizes) == pytest.approx(size, rel=0.02, abs=16)
    assert len(sizes) <= 1024


def test_options_are_tried_where_layers_are_large_enough_for_them() -> None:
    assert {setting.flags.split()[0] for setting in candidates(8 * MIB, MANY)} == {"--concurrency"}
    assert Setting(chunk_size=4 * MIB) in candidates(9 * MIB, MANY)
    assert Setting(chunk_size=64 * MIB) not in candidates(32 * MIB, MANY)
    assert Setting(chunk_size=64 * MIB) in candidates(33 * MIB, MANY)
    assert Setting(ranges=1) in candidates(65 * MIB, MANY)
    assert {setting.concurrency for setting in candidates(MIB, 32)} == {4, 8, 16, 32}
    assert not candidates(MIB, MANY, kept=["--concurrency"])
