"""The metrics of a run as Prometheus text, for node_exporter's textfile collector.

All of them are gauges about the last run, as Prometheus advises for batch jobs, in base units, with the unit at the
end of the name.  The label ``profile`` distinguishes several jobs on one machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from syncer.errors import Exit, without_secrets
from syncer.report.figures import RegistryAccount, Report
from syncer.report.summary import write_account

_SITE_SUCCESS = "syncer_site_last_success_timestamp_seconds"
_SUCCESS = "syncer_last_success_timestamp_seconds"

_PER_REGISTRY: Mapping[str, tuple[str, Callable[[RegistryAccount], float]]] = {
    "requests": ("Requests to a registry", lambda account: account.requests),
    "retries": ("Requests that were sent again", lambda account: account.retries),
    "too_many_requests": ("Answers with status 429", lambda account: account.too_many_requests),
    "pauses": ("Pauses that a registry asked for", lambda account: account.pauses),
    "paused_seconds": ("Time spent in those pauses", lambda account: account.paused_seconds),
    "errors": ("Requests that failed for good", lambda account: account.errors),
    "received_bytes": ("Bytes received from a registry", lambda account: account.bytes_received),
    "sent_bytes": ("Bytes sent to a registry", lambda account: account.bytes_sent),
}


def metrics(report: Report, *, profile: str, last_success: float | None = None) -> bytes:
    """The text for one run; ``last_success`` is the time of the last successful run (seconds since 1970)."""
    registry = CollectorRegistry()
    totals = report.totals

    def gauge(name: str, meaning: str, values: Mapping[tuple[str, ...], float], *labels: str) -> None:
        metric = Gauge(name, meaning, ["profile", *labels], registry=registry)
        for key, value in values.items():
            metric.labels(profile, *key).set(value)

    succeeded = report.exit is Exit.OK
    success = report.ended.timestamp() if succeeded else last_success
    gauge("syncer_last_run_start_timestamp_seconds", "When the last run began", {(): report.started.timestamp()})
    gauge("syncer_last_run_end_timestamp_seconds", "When the last run ended", {(): report.ended.timestamp()})
    gauge("syncer_last_run_duration_seconds", "How long the last run took", {(): totals.seconds})
    gauge("syncer_last_run_success", "Whether the last run did all that it was asked to", {(): succeeded})
    if success is not None:
        gauge(_SUCCESS, "When a run last did all that it was asked to", {(): success})
    gauge(
        "syncer_last_run_images",
        "Images by what became of them",
        {
            ("copied",): totals.images_copied,
            ("skipped",): totals.images_skipped,
            ("failed",): totals.images_failed,
            ("unfinished",): totals.images_unfinished,
        },
        "status",
    )
    gauge(
        "syncer_last_run_referrers",
        "Signatures and other referrers by what became of them",
        {
            ("copied",): totals.referrers_copied,
            ("failed",): totals.referrers_failed,
            ("skipped",): totals.referrers - totals.referrers_copied - totals.referrers_failed,
        },
        "status",
    )
    gauge(
        "syncer_last_run_blobs",
        "Blobs by what became of them",
        {
            ("copied",): totals.blobs_copied,
            ("mounted",): totals.blobs_mounted,
            ("skipped",): totals.blobs_skipped,
            ("failed",): totals.blobs_failed,
        },
        "status",
    )
    gauge(
        "syncer_last_run_content_bytes",
        "Bytes of blobs by how they were dealt with",
        {
            ("fetched",): totals.bytes_fetched,
            ("sent",): totals.bytes_sent,
            ("mounted",): totals.bytes_mounted,
            ("skipped",): totals.bytes_skipped,
            ("deduplicated",): totals.bytes_deduplicated,
        },
        "how",
    )
    for name, (meaning, figure) in _PER_REGISTRY.items():
        values: dict[tuple[str, ...], float] = {
            (without_secrets(each.registry),): figure(each) for each in report.registries
        }
        gauge(f"syncer_last_run_registry_{name}", meaning, values, "registry")
    return generate_latest(registry)


def site_metrics(document: Mapping[str, Any], last_successes: Mapping[str, float]) -> bytes:
    """The text for one run over many sites, whose report is ``document``.

    ``last_successes`` are the times at which sites last ended well before it (seconds since 1970), by their names.
    """
    registry = CollectorRegistry()
    command, ended = document["command"], datetime.fromisoformat(document["ended"]).timestamp()
    rows = {row["name"]: row for row in document["sites"]}
    succeeded = {name: row["state"] in ("done", "unchanged") for name, row in rows.items()}

    def gauge(name: str, meaning: str, values: Mapping[str, float]) -> None:
        metric = Gauge(name, meaning, ["site", "command"], registry=registry)
        for site, value in values.items():
            metric.labels(site, command).set(value)

    gauge("syncer_site_success", "Whether the site has what it should have", succeeded)
    gauge("syncer_site_images", "Images that the site is to have", {name: row["images"] for name, row in rows.items()})
    gauge(
        "syncer_site_images_failed",
        "Images that failed at the site",
        {name: row["images_failed"] for name, row in rows.items()},
    )
    gauge("syncer_site_sent_bytes", "Bytes sent to the site", {name: row["bytes_sent"] for name, row in rows.items()})
    gauge(
        "syncer_site_duration_seconds", "How long the site took", {name: row["seconds"] for name, row in rows.items()}
    )
    last = {name: time for name, time in last_successes.items() if name in rows}
    last |= {name: ended for name, good in succeeded.items() if good}
    gauge(_SITE_SUCCESS, "When the site last had what it should have", last)
    return generate_latest(registry)


def write_site_metrics(path: Path, document: Mapping[str, Any]) -> None:
    """Write the metrics of a run over many sites to ``path``; raises ``TargetError``.

    The time at which a site last ended well comes from the file that is replaced, unless it did so now.
    """
    before = {
        sample.labels["site"]: sample.value
        for sample in _samples(path, _SITE_SUCCESS)
        if sample.labels.get("command") == document["command"]
    }
    write_account(path, site_metrics(document, before))


def write_metrics(path: Path, report: Report, *, profile: str) -> None:
    """Write the metrics of ``report`` to ``path``; raises ``TargetError``.

    After a run that failed, the time of the last success comes from the file that is replaced.
    """
    write_account(path, metrics(report, profile=profile, last_success=_last_success(path, profile)))


def _last_success(path: Path, profile: str) -> float | None:
    samples = _samples(path, _SUCCESS)
    return next((sample.value for sample in samples if sample.labels.get("profile") == profile), None)


def _samples(path: Path, name: str) -> list[Sample]:
    """The samples of the metric ``name`` in the file at ``path``, if there is one."""
    try:
        families = list(text_string_to_metric_families(path.read_text("utf-8")))
    except (OSError, ValueError):  # absent, or another tool's: it is replaced
        return []
    return [sample for family in families if family.name == name for sample in family.samples]
