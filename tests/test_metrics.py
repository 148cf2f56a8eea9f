import re
from pathlib import Path

import orjson
from msgspec import structs
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from syncer.content import Item
from syncer.errors import Exit, SyncerError
from syncer.oci import Reference
from syncer.report import RegistryAccount, Report
from syncer.report.metrics import Job, metrics, site_metrics, write_metrics
from syncer.transfer.events import ImageFailed, ImageSkipped
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.bundles import build, some_images
from tests.support.cli import syncer
from tests.support.disks import file_size_limit
from tests.test_report import A_NIGHT, BETA, account, root

NIGHTLY = Job(profile="nightly", command="sync", targets=("t.io",))
SUCCESS = "syncer_last_success_timestamp_seconds"


def night(*, failed: bool) -> Report:
    collected = account(ImageSkipped(BETA, root("beta")))
    if failed:
        collected(ImageFailed(BETA, SyncerError("gone")))
    return collected.report()


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Values by name and labels, those of the job left out."""
    job = ("profile", "command", "target")
    return {
        (sample.name, *(value for label, value in sorted(sample.labels.items()) if label not in job)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def families(text: str) -> list[Metric]:
    return list(text_string_to_metric_families(text))


def test_the_figures_of_the_run_are_gauges() -> None:
    accounts = [RegistryAccount(registry="t.io:5000", requests=7, paused_seconds=1.5)]
    values = samples(metrics(account(*A_NIGHT).report(accounts), NIGHTLY).decode())

    assert values["syncer_last_run_images", "copied"] == 1
    assert values["syncer_last_run_images", "failed"] == 1
    assert values["syncer_last_run_content_bytes", "fetched"] == 1000
    assert values["syncer_last_run_registry_requests", "t.io:5000"] == 7
    assert values["syncer_last_run_registry_paused_seconds", "t.io:5000"] == 1.5
    assert values["syncer_last_run_start_timestamp_seconds",] == 100
    assert values["syncer_last_run_duration_seconds",] == 7
    assert values["syncer_last_run_success",] == 0


def test_names_and_units_are_as_prometheus_advises() -> None:
    """One prefix, base units at the end, no `total` on what is no counter, help for each."""
    text = metrics(account(*A_NIGHT).report([RegistryAccount(registry="t.io")]), NIGHTLY).decode()
    for family in families(text):
        assert re.fullmatch(r"syncer_[a-z_]+", family.name)
        assert family.type == "gauge"
        assert family.documentation
        assert not family.name.endswith(("_total", "_milliseconds", "_mb"))
        named = {"profile": "nightly", "command": "sync", "target": "t.io"}
        assert all(sample.labels.items() >= named.items() for sample in family.samples)


def test_the_metrics_of_sites_are_as_prometheus_advises_whatever_the_sites_are_called() -> None:
    names = ["edge 1", 'the "old" one', "C:\\edge\\3", "東京", "[2001:db8::1]:5000/base"]
    figures = {"images": 7, "images_failed": 1, "bytes_sent": 2_000_000_000, "seconds": 0.25}
    rows = [
        {"name": name, "state": state, **figures}
        for name, state in zip(names, ("done", "unchanged", "partial", "down", "not begun"), strict=True)
    ]
    document = {"command": "push", "bundle": "edge", "ended": "2026-01-01T00:00:10.000Z", "sites": rows}

    found = families(site_metrics(document, {"東京": 5.0, "gone": 1.0}).decode())

    assert len({family.name for family in found}) == len(found) == 6
    for family in found:
        assert re.fullmatch(r"syncer_site_[a-z_]+", family.name)
        assert (family.type, bool(family.documentation)) == ("gauge", True)
        assert not family.name.endswith(("_total", "_milliseconds", "_mb"))
        assert all(sample.labels.keys() == {"site", "command", "profile"} for sample in family.samples)
        sites = [sample.labels["site"] for sample in family.samples]
        assert len(sites) == len(set(sites))
    values = {(family.name, each.labels["site"]): each.value for family in found for each in family.samples}
    assert [values["syncer_site_success", name] for name in names] == [1, 1, 0, 0, 0]
    assert {name: value for (metric, name), value in values.items() if "last_success" in metric} == {
        "edge 1": 1767225610.0,
        'the "old" one': 1767225610.0,
        "東京": 5.0,
    }
    assert values["syncer_site_sent_bytes", names[2]] == 2e9


def test_the_time_of_the_last_success_outlives_failures(tmp_path: Path) -> None:
    path = tmp_path / "syncer.prom"
    name = (SUCCESS,)

    write_metrics(path, night(failed=True), NIGHTLY)
    assert name not in samples(path.read_text())

    good = night(failed=False)
    write_metrics(path, good, NIGHTLY)
    write_metrics(path, night(failed=True), NIGHTLY)

    values = samples(path.read_text())
    assert values[name] == good.ended.timestamp()
    assert values["syncer_last_run_success",] == 0


def test_a_broken_file_of_the_night_before_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "syncer.prom"
    path.write_bytes(b"{{{ no metrics \xff")
    write_metrics(path, night(failed=False), NIGHTLY)
    assert samples(path.read_text())["syncer_last_run_success",] == 1


def stale(path: Path) -> dict[str, float]:
    """The times of the last success in the file, by target."""
    found = [family for family in families(path.read_text()) if family.name == SUCCESS]
    return {sample.labels["target"]: sample.value for family in found for sample in family.samples}


def test_each_target_has_its_own_last_success(tmp_path: Path) -> None:
    """One that lacks an image keeps the time that the file of the run before has; one that is gone from it has none."""
    path, ended = tmp_path / "syncer.prom", night(failed=False).ended.timestamp()
    edges = structs.replace(NIGHTLY, targets=("edge1.example/base", "edge2.example", "edge3.example"))
    items = [Item(BETA.source, Reference.parse(f"{target}/beta:1")) for target in edges.targets]
    there = [ImageSkipped(item, root("beta")) for item in items]
    before = account(*there)
    before.now = lambda: night(failed=False).started
    write_metrics(path, before.report(), structs.replace(edges, targets=(*edges.targets, "edge4.example")))
    earlier = stale(path)

    write_metrics(path, account(*there[:2], ImageFailed(items[2], SyncerError("gone"))).report(), edges)
    assert stale(path) == {
        "edge1.example/base": ended + 2,
        "edge2.example": ended + 2,
        "edge3.example": earlier["edge3.example"],
    }

    write_metrics(path, account(*there).report(), edges, code=Exit.INTERRUPTED)
    assert stale(path)["edge1.example/base"] == ended + 2
    assert samples(path.read_text())["syncer_last_run_success",] == 0


def test_a_success_in_a_file_of_the_version_before_counts(tmp_path: Path) -> None:
    """Whoever upgrades is not told of stale targets; what another job did counts for nothing."""
    path = tmp_path / "syncer.prom"
    path.write_text(f'# TYPE {SUCCESS} gauge\n{SUCCESS}{{profile="nightly"}} 5.0\n{SUCCESS}{{profile="other"}} 7.0\n')
    write_metrics(path, night(failed=True), NIGHTLY)
    assert stale(path) == {"t.io": 5.0}

    write_metrics(path, night(failed=True), structs.replace(NIGHTLY, command="push"))
    assert stale(path) == {}


async def test_the_files_of_several_jobs_are_read_as_one(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """As node_exporter does, which refuses two values under one name with the same labels."""
    await build(bundle := tmp_path / "edge.tar.zst", some_images())
    (tmp_path / "broken.tar.zst").write_bytes(bundle.read_bytes()[:-100])
    async with debian_registry() as registry:
        await client.push(registry, "app", images.image("app"), "1")
        place, image = registry.address, f"{registry.address}/app:1"
        commands: list[list[str | Path]] = [
            ["push", "--file", bundle, "--registry", f"{place}/one"],
            ["push", "--file", bundle, "--registry", f"{place}/two"],
            ["verify", "--file", bundle, "--registry", f"{place}/one"],
            ["verify", "--file", tmp_path / "broken.tar.zst"],
            ["build", "--image", image, "--output", tmp_path / "out"],
            ["sync", "--image", image, "--registry", f"{place}/three"],
        ]
        for number, command in enumerate(commands):
            await syncer(*command, "--metrics-file", tmp_path / f"{number}.prom", home=tmp_path)

    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for number in range(len(commands)):
        for family in families((tmp_path / f"{number}.prom").read_text()):
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                assert key not in found
                found[key] = sample.value
    ended = {
        (dict(labels)["command"], dict(labels)["target"]): value
        for (name, labels), value in found.items()
        if name == "syncer_last_run_success"
    }
    assert ended == {
        ("push", f"{place}/one"): 1,
        ("push", f"{place}/two"): 1,
        ("verify", f"{place}/one"): 1,
        ("verify", ""): 0,
        ("build", f"{tmp_path}/out/bundle.tar.zst"): 1,
        ("sync", f"{place}/three"): 1,
    }
    good = {(dict(labels)["command"], dict(labels)["target"]) for name, labels in found if name == SUCCESS}
    assert good == ended.keys() - {("verify", "")}


async def test_a_run_that_an_error_ends_is_accounted_for(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """A disk that is full, and a bundle that is not sound: the time of the last success stays as it was."""
    out, prom, account = tmp_path / "out", tmp_path / "run.prom", tmp_path / "run.json"
    told = ("--metrics-file", prom, "--report", account)
    async with debian_registry() as registry:
        image = images.image("app", layers=[images.layer("large", 3_000_000)])
        await client.push(registry, "app", image, "1")
        command = ("build", f"{registry.address}/app:1", "--output", out, "--force", *told)
        good = await syncer(*command, home=tmp_path)
        before = stale(prom)
        with file_size_limit(1_000_000):
            full = await syncer(*command, home=tmp_path)
        after, document = stale(prom), orjson.loads(account.read_bytes())

        (broken := tmp_path / "broken.tar.zst").write_bytes((out / "bundle.tar.zst").read_bytes()[:-100])
        cut = await syncer("push", broken, f"{registry.address}/two", *told, home=tmp_path)

    assert (good.code, full.code) == (0, 5), full.stderr
    assert before == after != {}
    assert document["exit_code"] == 5
    assert [image["status"] for image in document["images"]] == ["unfinished"]
    assert document["warnings"][-1].startswith("the run ended early: ")
    document = orjson.loads(account.read_bytes())
    assert cut.code == document["exit_code"] == 6
    assert (document["command"], document["name"]) == ("push", "broken")
    labels = f'command="push",profile="broken",target="{registry.address}/two"'
    assert f"syncer_last_run_success{{{labels}}} 0.0" in prom.read_text()
