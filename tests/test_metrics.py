import re
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from syncer.errors import SyncerError
from syncer.report import RegistryAccount, Report
from syncer.report.metrics import metrics, site_metrics, write_metrics
from syncer.transfer.events import ImageFailed, ImageSkipped
from tests.test_report import A_NIGHT, BETA, account, root


def night(*, failed: bool) -> Report:
    collected = account(ImageSkipped(BETA, root("beta")))
    if failed:
        collected(ImageFailed(BETA, SyncerError("gone")))
    return collected.report()


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Values by name and labels, the profile's left out."""
    return {
        (sample.name, *(value for label, value in sorted(sample.labels.items()) if label != "profile")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def families(text: str) -> list[Metric]:
    return list(text_string_to_metric_families(text))


def test_the_figures_of_the_run_are_gauges() -> None:
    accounts = [RegistryAccount(registry="t.io:5000", requests=7, paused_seconds=1.5)]
    values = samples(metrics(account(*A_NIGHT).report(accounts), profile="nightly").decode())

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
    text = metrics(account(*A_NIGHT).report([RegistryAccount(registry="t.io")]), profile="nightly").decode()
    for family in families(text):
        assert re.fullmatch(r"syncer_[a-z_]+", family.name)
        assert family.type == "gauge"
        assert family.documentation
        assert not family.name.endswith(("_total", "_milliseconds", "_mb"))
        assert all(sample.labels["profile"] == "nightly" for sample in family.samples)


def test_the_metrics_of_sites_are_as_prometheus_advises_whatever_the_sites_are_called() -> None:
    names = ["edge 1", 'the "old" one', "C:\\edge\\3", "東京", "[2001:db8::1]:5000/base"]
    figures = {"images": 7, "images_failed": 1, "bytes_sent": 2_000_000_000, "seconds": 0.25}
    rows = [
        {"name": name, "state": state, **figures}
        for name, state in zip(names, ("done", "unchanged", "partial", "down", "not begun"), strict=True)
    ]
    document = {"command": "push", "ended": "2026-01-01T00:00:10.000Z", "sites": rows}

    found = families(site_metrics(document, {"東京": 5.0, "gone": 1.0}).decode())

    assert len({family.name for family in found}) == len(found) == 6
    for family in found:
        assert re.fullmatch(r"syncer_site_[a-z_]+", family.name)
        assert (family.type, bool(family.documentation)) == ("gauge", True)
        assert not family.name.endswith(("_total", "_milliseconds", "_mb"))
        assert all(sample.labels.keys() == {"site", "command"} for sample in family.samples)
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
    name = ("syncer_last_success_timestamp_seconds",)

    write_metrics(path, night(failed=True), profile="nightly")
    assert name not in samples(path.read_text())

    good = night(failed=False)
    write_metrics(path, good, profile="nightly")
    write_metrics(path, night(failed=True), profile="nightly")

    values = samples(path.read_text())
    assert values[name] == good.ended.timestamp()
    assert values["syncer_last_run_success",] == 0


def test_a_broken_file_of_the_night_before_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "syncer.prom"
    path.write_bytes(b"{{{ no metrics \xff")
    write_metrics(path, night(failed=False), profile="nightly")
    assert samples(path.read_text())["syncer_last_run_success",] == 1
