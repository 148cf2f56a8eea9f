"""The metrics of a run as Prometheus text, for node_exporter's textfile collector.

All of them are gauges about the last run, as Prometheus advises for batch jobs, in base units, with the unit at the
end of the name.  The labels ``profile``, ``command`` and ``target`` distinguish the jobs of one machine, whose files
the collector reads as one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from msgspec import Struct, structs
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from syncer.errors import Exit, without_secrets
from syncer.files import is_stream
from syncer.report.figures import ImageAccount, RegistryAccount, Report, Status
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


class Job(Struct, frozen=True, kw_only=True):
    """The job of a run, as the labels of its metrics name it."""

    profile: str  # the name of the bundle or of the sync file
    command: str
    targets: tuple[str, ...] = ()  # registries, or the file that is written
    shard: str | None = None  # the share of a sync, such as 3/16

    @property
    def labels(self) -> dict[str, str]:
        """The labels of what is told of the whole run; ``target`` is empty where there are several."""
        return self.labels_at(self.targets[0] if len(self.targets) == 1 else "")

    def labels_at(self, target: str) -> dict[str, str]:
        """The labels of what is told of one target."""
        shard = {} if self.shard is None else {"shard": self.shard}
        named = {"profile": self.profile, "command": self.command, "target": target}
        return {name: without_secrets(value) for name, value in (named | shard).items()}


class _Gauges:
    """The gauges of a run, each of which has the labels of its job."""

    def __init__(self, job: Job) -> None:
        self.registry = CollectorRegistry()
        self._job = job

    def add(self, name: str, meaning: str, values: Mapping[tuple[str, ...], float], *labels: str) -> None:
        """Add a metric of the whole run, whose values differ by ``labels``."""
        own = self._job.labels
        metric = Gauge(name, meaning, [*own, *labels], registry=self.registry)
        for key, value in values.items():
            metric.labels(*own.values(), *key).set(value)

    def add_outcome(self, span: _Span, successes: Mapping[str, float], *, succeeded: bool) -> None:
        """Add when the run was, and how it ended; ``successes`` are the last times of success, by target."""
        self.add("syncer_last_run_start_timestamp_seconds", "When the last run began", {(): span.began})
        self.add("syncer_last_run_end_timestamp_seconds", "When the last run ended", {(): span.ended})
        self.add("syncer_last_run_duration_seconds", "How long the last run took", {(): span.seconds})
        self.add("syncer_last_run_success", "Whether the last run did all that it was asked to", {(): succeeded})
        if successes:
            meaning = "When a run last did for the target all that it was asked to"
            metric = Gauge(_SUCCESS, meaning, list(self._job.labels), registry=self.registry)
            for target, ended in successes.items():
                metric.labels(*self._job.labels_at(target).values()).set(ended)


class _Span(Struct, frozen=True):
    """The time of a run: two times since 1970, and how long it took, all in seconds."""

    began: float
    ended: float
    seconds: float


def metrics(
    report: Report, job: Job, *, code: Exit | None = None, last_successes: Mapping[str, float] | None = None
) -> bytes:
    """The text for one run, which ended with the exit code ``code``, if not with the one of its report.

    ``last_successes`` are the times at which runs before it ended well (seconds since 1970), by their targets.
    """
    code = report.exit if code is None else code
    gauges = _Gauges(job)
    gauge, totals = gauges.add, report.totals
    span = _Span(report.started.timestamp(), report.ended.timestamp(), totals.seconds)
    successes = {**(last_successes or {}), **dict.fromkeys(_good_targets(report, job, code), span.ended)}
    gauges.add_outcome(span, successes, succeeded=code is Exit.OK)
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
    return generate_latest(gauges.registry)


def _good_targets(report: Report, job: Job, code: Exit) -> list[str]:
    """The targets that have all that the run was to bring them; a run that has none has one without a name."""
    targets = list(job.targets) or [""]
    if code is Exit.OK:
        return targets
    is_about_images = code == report.exit == structs.replace(report, pruned=None, prune_refused=()).exit
    if len(targets) == 1 or not is_about_images or any(unknown.is_required for unknown in report.referrers_unknown):
        return []
    images = {target: [image for image in report.images if _is_at(image, target)] for target in targets}
    good = (Status.COPIED, Status.SKIPPED)
    return [target for target, own in images.items() if own and all(image.status in good for image in own)]


def _is_at(image: ImageAccount, target: str) -> bool:
    """Tell whether ``target``, a registry and perhaps a path in it, is where ``image`` goes."""
    return f"{image.target.registry}/{image.target.repository}".startswith(f"{target}/")


def check_metrics(job: Job, *, seconds: float, succeeded: bool, last_successes: Mapping[str, float]) -> bytes:
    """The text for a run that only looked, and ended now."""
    ended = time.time()
    successes = {**last_successes, **(dict.fromkeys(job.targets or ("",), ended) if succeeded else {})}
    gauges = _Gauges(job)
    gauges.add_outcome(_Span(ended - seconds, ended, seconds), successes, succeeded=succeeded)
    return generate_latest(gauges.registry)


def site_metrics(document: Mapping[str, Any], last_successes: Mapping[str, float]) -> bytes:
    """The text for one run over many sites, whose report is ``document``.

    ``last_successes`` are the times at which sites last ended well before it (seconds since 1970), by their names.
    """
    registry = CollectorRegistry()
    command, ended = document["command"], datetime.fromisoformat(document["ended"]).timestamp()
    rows = {row["name"]: row for row in document["sites"]}
    succeeded = {name: row["state"] in ("done", "unchanged") for name, row in rows.items()}

    def gauge(name: str, meaning: str, values: Mapping[str, float]) -> None:
        metric = Gauge(name, meaning, ["site", "command", "profile"], registry=registry)
        for site, value in values.items():
            metric.labels(site, command, document["bundle"]).set(value)

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
        and sample.labels.get("profile", document["bundle"]) == document["bundle"]
    }
    write_account(path, site_metrics(document, before))


def write_metrics(path: Path, report: Report, job: Job, *, code: Exit | None = None) -> None:
    """Write the metrics of ``report`` to ``path``; raises ``TargetError``.

    For targets that it did not bring everything, the time of the last success comes from the file that is replaced.
    """
    write_account(path, metrics(report, job, code=code, last_successes=_last_successes(path, job)))


def write_check_metrics(path: Path, job: Job, *, seconds: float, succeeded: bool) -> None:
    """Write the metrics of a run that only looked, likewise."""
    before = _last_successes(path, job)
    write_account(path, check_metrics(job, seconds=seconds, succeeded=succeeded, last_successes=before))


def _last_successes(path: Path, job: Job) -> dict[str, float]:
    """The times of the last success of the same job in the file at ``path``, by the targets that it still has.

    A file of the version before knows no command and no targets: what it says counts for all.
    """
    times: dict[str, float] = {}
    for target in job.targets or ("",):
        own = {name: value for name, value in job.labels_at(target).items() if value}
        for sample in _samples(path, _SUCCESS):
            labels = {name: value for name, value in sample.labels.items() if value}
            if labels in (own, {"profile": own.get("profile")}):
                times[target] = sample.value
    return times


def _samples(path: Path, name: str) -> list[Sample]:
    """The samples of the metric ``name`` in the file at ``path``, if there is one."""
    if is_stream(path):  # to read from a pipe, or from a terminal, would wait for ever
        return []
    try:
        families = list(text_string_to_metric_families(path.read_text("utf-8")))
    except (OSError, ValueError):  # absent, or another tool's: it is replaced
        return []
    return [sample for family in families if family.name == name for sample in family.samples]
