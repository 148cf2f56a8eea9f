"""``syncer report``: what several runs wrote is told as of one."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator
from msgspec import structs

from syncer.content import Item
from syncer.errors import Denied, NotFound, TargetError, Unreachable
from syncer.fleet.result import FleetResult, SiteResult, SiteState, Stopped
from syncer.report import RegistryAccount, Report
from syncer.report.account import join_reports
from syncer.report.figures import PrunedTag, PruneStatus, UnknownReferrers
from syncer.report.summary import write_report
from syncer.transfer.events import ImageCopied, ImageFailed, ImageSkipped
from tests.conftest import OpenRegistry
from tests.support.bundles import build, some_images
from tests.support.cli import syncer
from tests.test_fleet import NOBODY, bundle
from tests.test_report import A_NIGHT, ALPHA, BETA, GAMMA, account, missing, root

SCHEMA = orjson.loads((Path(__file__).parent.parent / "docs" / "report.schema.json").read_bytes())
VALIDATOR = Draft202012Validator(SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def site(name: str, state: SiteState = SiteState.DONE, **figures: Any) -> SiteResult:
    return SiteResult(name=name, registry=f"{name}.example.com/base", state=state, **figures)


def fleet(*sites: SiteResult, minutes: int = 0, command: str = "push", bundle: str = "edge") -> FleetResult:
    """A run of ten minutes that began so many after noon."""
    return FleetResult(
        run_id=f"run-{minutes}",
        command=command,
        bundle=bundle,
        started=NOON + timedelta(minutes=minutes),
        ended=NOON + timedelta(minutes=minutes + 10),
        sites=sites,
    )


def refused(host: str) -> Unreachable:
    return Unreachable(f"{host}.example.com refused the connection")


async def joined(tmp_path: Path, *reports: FleetResult | Report, code: int = 0) -> tuple[dict[str, Any], str]:
    """The document that ``report --json`` makes of ``reports``, and what it says beside it."""
    paths = [tmp_path / f"part-{number}.json" for number in range(len(reports))]
    for path, report in zip(paths, reports, strict=True):
        write_report(path, report)
    ran = await syncer("report", *paths, "--json", "--exit-code", home=tmp_path)
    assert ran.code == code, ran.stderr
    VALIDATOR.validate(ran.json)
    return ran.json, ran.stderr


async def test_the_shards_of_a_fleet_are_one_account(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    parts = [tmp_path / f"part-{number}.json" for number in (1, 2)]
    async with debian_registry("source") as source, debian_registry("target") as target:
        file = await bundle(source, tmp_path)
        targets = tmp_path / "sites.yaml"
        targets.write_text(f"targets: [{{registry: '{target.address}/edge-{{1..4}}'}}, {{registry: '{NOBODY}'}}]\n")
        to_all = ("push", "--file", file, "--targets-file", targets)
        codes = {
            (await syncer(*to_all, "--shard", f"{number}/2", "--report", part, home=tmp_path)).code
            for number, part in enumerate(parts, 1)
        }

    told = await syncer("report", *parts, home=tmp_path)
    document = (await syncer("report", *parts, "--json", home=tmp_path)).json

    VALIDATOR.validate(document)
    own = [orjson.loads(part.read_bytes()) for part in parts]
    assert codes in ({0, 1}, {0, 5})  # the shard of the one that is not there may have no other
    assert (told.code, told.stderr) == (0, "")
    assert {row["name"]: row["state"] for row in document["sites"]} == {
        **{f"{target.address}/edge-{number}": "done" for number in range(1, 5)},
        NOBODY: "down",
    }
    assert document["totals"]["sites_done"] == 4
    for figure in ("bytes_sent", "requests", "images"):
        assert document["totals"][figure] == sum(part["totals"][figure] for part in own) > 0
    assert document["causes"] == [{"cause": "refused the connection", "sites": [NOBODY]}]
    assert [part["run_id"] for part in document["parts"]] == [part["run_id"] for part in own]
    assert "2 runs from" in told.stdout
    assert "bundle edge is at 4 of 5 sites" in told.stdout
    assert "sites:   4 done, 1 down" in told.stdout
    assert f"failed:  refused the connection: 1 site: {NOBODY}" in told.stdout


async def test_the_later_run_at_a_site_counts_if_it_came_to_it(tmp_path: Path) -> None:
    first = fleet(
        site("a", SiteState.DOWN, error=refused("a")),
        site("b", bytes_sent=5),
        site("c", SiteState.DOWN, error=refused("c")),
    )
    later = fleet(site("c", bytes_sent=7, images=2), site("b", SiteState.NOT_BEGUN), minutes=5)

    document, said = await joined(tmp_path, later, first, code=1)

    assert [(row["name"], row["state"], row["bytes_sent"]) for row in document["sites"]] == [
        ("c", "done", 7),
        ("b", "done", 5),
        ("a", "down", 0),
    ]
    assert document["causes"] == [{"cause": "refused the connection", "sites": ["a"]}]
    assert document["totals"]["bytes_sent"] == 12
    assert document["run_id"] == "run-5"
    assert said == "note: of 2 sites in more than one report the later entry counts: c, b\n"


async def test_what_a_run_that_was_stopped_brought_is_added_to_what_the_next_one_did(tmp_path: Path) -> None:
    """And where all is well in the end, so is the code of both."""
    half = {"bytes_sent": 5, "bytes_mounted": 1, "requests": 3, "seconds": 20.0}
    stopped = fleet(site("a", SiteState.PARTIAL, error=Stopped(), **half), site("b", SiteState.NOT_BEGUN))
    later = fleet(site("a", bytes_sent=7, requests=4, seconds=10.0), site("b", bytes_sent=12, requests=9), minutes=20)
    noon_after = fleet(site("a", SiteState.UNCHANGED, requests=2), minutes=60)
    runs = [structs.replace(run, exit_code=code) for run, code in ((stopped, 130), (later, 0), (noon_after, 0))]

    document, _ = await joined(tmp_path, *runs)

    totals = document["totals"]
    assert document["exit_code"] == 0
    assert (totals["bytes_sent"], totals["bytes_mounted"], totals["requests"]) == (24, 1, 18)
    assert totals["seconds"] == 30 * 60
    first, _ = document["sites"]
    assert (first["state"], first["bytes_sent"], first["seconds"]) == ("done", 12, 30.0)


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        ((ImageFailed(ALPHA, missing()), 4), (ImageCopied(ALPHA, root("alpha")), 0), 0),
        ((ImageFailed(ALPHA, missing()), 4), (ImageCopied(BETA, root("beta")), 0), 4),
        ((ImageCopied(ALPHA, root("alpha")), 130), (ImageCopied(BETA, root("beta")), 0), 0),
        ((ImageCopied(ALPHA, root("alpha")), 0), (ImageCopied(BETA, root("beta")), 130), 130),
        ((ImageCopied(ALPHA, root("alpha")), 3), (ImageCopied(ALPHA, root("alpha")), 0), 3),  # it has another cause
    ],
)
def test_the_code_of_several_runs_is_that_of_what_is_not_well_in_the_end(
    first: tuple[Any, int], second: tuple[Any, int], code: int
) -> None:
    runs = [
        structs.replace(night(event), exit_code=own, ended=NOON + timedelta(minutes=number))
        for number, (event, own) in enumerate((first, second))
    ]

    joined, _ = join_reports(runs)

    assert joined.exit_code == code


async def test_the_time_of_several_runs_is_that_during_which_one_was_going_on(tmp_path: Path) -> None:
    at_once = fleet(site("a"), minutes=0), fleet(site("b"), minutes=5)

    document, _ = await joined(tmp_path, *at_once, fleet(site("c"), minutes=600))

    assert document["totals"]["seconds"] == 25 * 60
    assert (document["started"], document["ended"]) == ("2026-01-01T12:00:00.000Z", "2026-01-01T22:10:00.000Z")
    again = tmp_path / "joined.json"
    again.write_bytes(orjson.dumps(document))
    more = tmp_path / "more.json"
    write_report(more, fleet(site("d"), minutes=1200))
    ran = await syncer("report", again, more, "--json", home=tmp_path)
    assert ran.json["totals"]["seconds"] == 35 * 60
    assert [part["run_id"] for part in ran.json["parts"]] == ["run-0", "run-5", "run-600", "run-1200"]


DENIED = Denied("GET https://a.example.com/v2/", 401)


@pytest.mark.parametrize(
    ("sites", "code"),
    [
        ((site("a"), site("b", SiteState.UNCHANGED)), 0),
        ((site("a", SiteState.REFUSED, error=DENIED), site("b", SiteState.REFUSED, error=DENIED)), 3),
        ((site("a", SiteState.REFUSED, error=DENIED), site("b")), 1),
        ((site("a", SiteState.PARTIAL, error=TargetError("full")), site("b", SiteState.NOT_BEGUN)), 1),
    ],
)
async def test_on_demand_the_exit_code_is_that_of_one_run(
    tmp_path: Path, sites: tuple[SiteResult, ...], code: int
) -> None:
    assert fleet(*sites).exit == code
    document, _ = await joined(tmp_path, *map(fleet, sites), code=code)
    assert len(document["sites"]) == 2


def night(*events: Any, registry: str = "t.io", expected: Iterable[Item] = ()) -> Report:
    collected = account(*events)
    collected.expect(expected)
    accounts = [RegistryAccount(registry=registry, requests=3, requests_by_method={"GET": 2, "PUT": 1})]
    return collected.report(accounts, warnings=["odd"])


async def test_runs_are_joined_image_by_image(tmp_path: Path) -> None:
    nights = (
        night(*A_NIGHT),
        night(ImageSkipped(ALPHA, root("alpha")), ImageCopied(GAMMA, root("gamma"))),
        night(ImageFailed(BETA, missing()), registry="other.io", expected=[ALPHA]),  # it did not come to this one
    )
    reports = [structs.replace(report, ended=NOON + timedelta(minutes=number)) for number, report in enumerate(nights)]

    document, said = await joined(tmp_path, *reports, code=4)

    assert [(image["source"], image["status"]) for image in document["images"]] == [
        ("quay.io/alpha:1", "skipped"),
        ("quay.io/beta:1", "failed"),
        ("quay.io/gamma:1", "copied"),
    ]
    totals = document["totals"]
    assert (totals["images"], totals["images_copied"], totals["images_skipped"], totals["images_failed"]) == (
        3,
        1,
        1,
        1,
    )
    assert (totals["bytes_sent"], totals["requests"]) == (1000, 9)
    assert [(each["registry"], each["requests"], each["requests_by_method"]) for each in document["registries"]] == [
        ("other.io", 3, {"GET": 2, "PUT": 1}),
        ("t.io", 6, {"GET": 4, "PUT": 2}),
    ]
    assert document["warnings"] == ["odd"]
    assert "of 3 images in more than one report" in said
    told = await syncer("report", *sorted(tmp_path.glob("part-*.json")), home=tmp_path)
    assert "images:  3 (1 copied, 1 unchanged, 1 failed)" in told.stdout
    assert "failed:  quay.io/beta:1: GET quay.io/v2/a/manifests/1: 404" in told.stdout


@pytest.mark.parametrize(
    ("figures", "title"),
    [
        ({}, "Summary"),
        ({"command": "build", "name": "edge"}, "Build of edge"),
        ({"command": "push", "name": "ed\x1bge", "targets": ("a.io/x",)}, "Push of ed ge to a.io/x"),
        (
            {"command": "sync", "name": "nightly", "targets": ("a.io", "b.io", "c.io")},
            "Sync of nightly to a.io and 2 more",
        ),
    ],
)
async def test_a_summary_says_first_what_run_it_is_of(tmp_path: Path, figures: dict[str, Any], title: str) -> None:
    report = structs.replace(night(*A_NIGHT), **figures)
    write_report(path := tmp_path / "run.json", report)

    ran = await syncer("report", path, "--html", tmp_path / "page.html", home=tmp_path)

    assert ran.stdout.splitlines()[1] == title
    assert ran.stdout.splitlines()[3].startswith(f"run {report.run_id} from {report.started:%Y-%m-%d %H:%M:%S} to ")
    assert f"<h1>{title}</h1>" in (tmp_path / "page.html").read_text()


async def test_a_report_comes_through_as_it_is(tmp_path: Path) -> None:
    """Of every kind, with all that it may have, and of the version before as well."""
    pruned = [
        PrunedTag(name=ALPHA.target, digest=root("alpha").digest, status=PruneStatus.FAILED, error=TargetError("no")),
        PrunedTag(name=BETA.target, digest=root("beta").digest, status=PruneStatus.KEPT),
    ]
    unknown = UnknownReferrers(repository="quay.io/alpha", error=NotFound("GET x", 404), is_required=True)
    whole = structs.replace(
        night(*A_NIGHT),
        referrers_unknown=(unknown,),
        pruned=tuple(pruned),
        prune_refused=(TargetError("too many"),),
    )
    for kept in (whole, fleet(site("a", SiteState.DOWN, error=refused("a"), report="a.json"), site("b"))):
        document, said = await joined(tmp_path, kept, code=1)
        assert (document, said) == (kept.to_json(), "")
    old = night(*A_NIGHT).to_json()
    del old["kind"], old["warnings"], old["referrers_unknown"]
    for key in ("bytes_copied", "bytes_resumed", "foreign_layers", "bytes_foreign"):
        del old["totals"][key]
    path = tmp_path / "old.json"
    path.write_bytes(orjson.dumps(old))
    VALIDATOR.validate(old)

    ran = await syncer("report", path, "--json", home=tmp_path)

    assert (ran.code, ran.json["totals"]["images"], ran.json["totals"]["bytes_resumed"]) == (0, 3, 0)
    VALIDATOR.validate(ran.json)


GOOD = fleet(site("a")).to_json()
RUN = night(*A_NIGHT).to_json()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no report of a run: it is no JSON document"),
        (b"\xff\x00", "is no report of a run: it is no JSON document"),
        (b"[]", "is no report of a run: it is no JSON object"),
        (b"{}", "is no report of a run: it has no 'run_id'"),
        (b'{"kind": "plan"}', "is no report of a run: it has another kind"),
        (b'{"kind": ["run"]}', "is no report of a run: it has another kind"),
        (orjson.dumps({key: value for key, value in GOOD.items() if key != "sites"}), "it has no 'sites'"),
        *(
            (orjson.dumps(document), "is no report of a run: some of it is no figure or no name where one belongs")
            for document in (
                {**GOOD, "sites": [1]},
                {**GOOD, "sites": [{**GOOD["sites"][0], "state": "happy"}]},
                {**GOOD, "sites": [{**GOOD["sites"][0], "requests": "7"}]},
                {**GOOD, "started": "2026-01-01T12:00:00"},
                {**GOOD, "causes": None},
                {**RUN, "totals": []},
                {**RUN, "totals": {**RUN["totals"], "images": -1}},
                {**RUN, "images": [{**RUN["images"][0], "source": "a b"}]},
                {**RUN, "registries": [{**RUN["registries"][0], "requests_by_method": [1]}]},
            )
        ),
    ],
)
async def test_what_is_no_report_is_refused_in_one_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "part.json"
    path.write_bytes(content)

    ran = await syncer("report", path, home=tmp_path)

    assert (ran.code, ran.stdout) == (2, "")
    assert said in ran.stderr
    assert ran.stderr.count("\n") == 2  # with a hint


async def test_what_cannot_be_one_account_is_refused(tmp_path: Path) -> None:
    parts: dict[str, FleetResult | Report] = {
        "push": fleet(site("a")),
        "verify": fleet(site("a"), command="verify"),
        "other": fleet(site("a"), bundle="other"),
        "run": night(*A_NIGHT),
    }
    paths = {name: tmp_path / f"{name}.json" for name in (*parts, "absent")}
    for name, report in parts.items():
        write_report(paths[name], report)

    for names, said in (
        (("push", "verify"), "the reports are of more than one command: push, verify"),
        (("push", "other"), "the reports are of more than one bundle: edge, other"),
        (
            ("push", "run"),
            f"{paths['run']} is the report of a run, and {paths['push']} that of a run over several sites",
        ),
        (("push", "absent"), f"{paths['absent']} cannot be read: No such file or directory"),
        ((), "is missing"),
    ):
        ran = await syncer("report", *(paths[name] for name in names), home=tmp_path)
        assert (ran.code, ran.stdout) == (2, "")
        assert said in ran.stderr


async def test_the_report_of_a_verification_is_called_that(tmp_path: Path) -> None:
    await build(file := tmp_path / "edge.tar.zst", some_images())
    assert (await syncer("verify", file, "--report", tmp_path / "v.json", home=tmp_path)).code == 0

    ran = await syncer("report", tmp_path / "v.json", home=tmp_path)

    assert ran.code == 2
    assert "v.json is the report of a verification, which is neither shown nor joined" in ran.stderr
    assert "--report wrote" not in ran.stderr
