"""The metrics of a run as Prometheus text, for node_exporter's textfile collector.

All of them are gauges about the last run, as Prometheus advises for batch jobs, in base units, with the unit at the
end of the name.  The label ``profile`` distinguishes several jobs on one machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from syncer.errors import Exit, without_secrets
from syncer.report.figures import RegistryAccount, Report
from syncer.report.output import write_account

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


def write_metrics(path: Path, report: Report, *, profile: str) -> None:
    """Write the metrics of ``report`` to ``path``; raises ``TargetError``.

    After a run that failed, the time of the last success comes from the file that is replaced.
    """
    write_account(path, metrics(report, profile=profile, last_success=_last_success(path, profile)))


def _last_success(path: Path, profile: str) -> float | None:
    try:
        families = list(text_string_to_metric_families(path.read_text("utf-8")))
    except (OSError, ValueError):  # absent, or another tool's: it is replaced
        return None
    samples = (sample for family in families if family.name == _SUCCESS for sample in family.samples)
    return next((sample.value for sample in samples if sample.labels.get("profile") == profile), None)
