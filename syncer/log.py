"""The log: one event a line, with the id of the run and without secrets, for people or as JSON for machines."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, TextIO, assert_never

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from syncer.errors import HIDDEN, redacted
from syncer.report.figures import reason
from syncer.transfer.events import (
    CameBack,
    Committed,
    Compacted,
    Compacting,
    Copied,
    Emit,
    Event,
    Failed,
    Fetched,
    Found,
    ImageCopied,
    ImageFailed,
    ImageSkipped,
    Mounted,
    Paused,
    Postponed,
    ReferrersUnknown,
    Retried,
    Skipped,
    Stalled,
    Started,
    WentAway,
)

_SECRET_KEYS = re.compile(r"passw|secret|token|authorization|cookie|api_?key|credential", re.IGNORECASE)
_SECRET_TEXTS = (
    (re.compile(r"\b(Basic|Bearer)\s+[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(r"(\w+://[^\s?#\"']*\?)[^\s\"']+"), rf"\1{HIDDEN}"),  # signatures travel in queries
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a server's words may not steer a terminal
_SHORTEST_SECRET = 4  # a shorter one would hide half of every line


class LogFormat(StrEnum):
    """The format of a line."""

    TEXT = "text"
    JSON = "json"


def open_log(
    stream: TextIO,
    *,
    run_id: str,
    format: LogFormat = LogFormat.TEXT,  # noqa: A002 - what the flag is called
    level: int = logging.INFO,
    secrets: Iterable[str] = (),
) -> FilteringBoundLogger:
    """Make a logger that writes to ``stream``; ``secrets`` are passwords that it hides wherever they occur."""
    processors: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        hide_secrets(secrets),
        _renderer(format),
    ]
    return structlog.wrap_logger(  # type: ignore[no-any-return]  # the wrapper class decides
        structlog.WriteLogger(stream),
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        context_class=dict,
        run_id=run_id,
    )


def hide_secrets(secrets: Iterable[str] = ()) -> Processor:
    """Make a processor that hides ``secrets``, credentials in headers and URLs, and fields named like ``token``."""
    known = sorted({secret for secret in secrets if len(secret) >= _SHORTEST_SECRET}, key=len, reverse=True)

    def text(value: str) -> str:
        for secret in known:
            value = value.replace(secret, HIDDEN)
        for pattern, replacement in _SECRET_TEXTS:
            value = pattern.sub(replacement, value)
        value = redacted(value)
        return _CONTROL.sub(" ", value)

    def clean(value: Any) -> Any:
        match value:
            case bool() | int() | float() | None:
                return value
            case dict():
                return {key: HIDDEN if _SECRET_KEYS.search(str(key)) else clean(inner) for key, inner in value.items()}
            case list() | tuple():
                return [clean(inner) for inner in value]
            case _:
                return text(str(value))

    def hide(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        cleaned: EventDict = clean(dict(event))
        return cleaned

    return hide


def log_events(logger: FilteringBoundLogger) -> Emit:
    """Make an ``Emit`` that writes a line for the result of each image, and, at the level DEBUG, of each blob."""

    def emit(event: Event) -> None:
        match event:
            case ReferrersUnknown(item, error):
                logger.warning("referrers_unknown", source=item.source, target=item.target, message=str(error))
            case Found() | ImageCopied() | ImageSkipped() | ImageFailed() | Postponed():
                _tell_image(logger, event)
            case Fetched(descriptor):
                logger.debug("blob_fetched", digest=descriptor.digest, bytes=descriptor.size)
            case Copied() | Mounted() | Skipped() | Failed() | Committed():
                _tell_content(logger, event)
            case Paused() | Retried() | WentAway() | CameBack() | Stalled():
                _tell_wait(logger, event)
            case Compacting(path, progress):
                logger.info("file_compacting", file=path, bytes=progress.size)
            case Compacted(path, seconds):
                logger.info("file_compacted", file=path, seconds=round(seconds, 3))
            case Started():
                pass
            case _:
                assert_never(event)

    return emit


def _tell_image(
    logger: FilteringBoundLogger, event: Found | ImageCopied | ImageSkipped | ImageFailed | Postponed
) -> None:
    names = {"source": event.item.source, "target": event.item.target}
    match event:
        case ImageCopied(root=root):
            logger.info("image_copied", **names, digest=root.digest)
        case ImageSkipped(root=root):
            logger.info("image_unchanged", **names, digest=root.digest)
        case ImageFailed(error=error):
            logger.error("image_failed", **names, reason=reason(error), message=str(error))
        case Postponed(error=error):
            logger.warning("image_postponed", **names, reason=reason(error), message=str(error))
        case Found(root=root, bytes=size):
            logger.debug("image_found", **names, digest=root.digest, bytes=size)


def _tell_content(logger: FilteringBoundLogger, event: Copied | Mounted | Skipped | Failed | Committed) -> None:
    what = {"digest": event.descriptor.digest, "bytes": event.descriptor.size, "space": event.space}
    match event:
        case Copied(seconds=seconds):
            logger.debug("blob_copied", **what, seconds=round(seconds, 3))
        case Mounted(origin=origin):
            logger.debug("blob_mounted", **what, origin=origin)
        case Skipped():
            logger.debug("blob_there_already", **what)
        case Failed(error=error):
            logger.warning("content_failed", **what, reason=reason(error), message=str(error))
        case Committed():
            logger.debug("manifest_committed", **what)


def _tell_wait(logger: FilteringBoundLogger, event: Paused | Retried | WentAway | CameBack | Stalled) -> None:
    match event:
        case Paused(host, seconds, why):
            logger.warning("host_paused", host=host, seconds=round(seconds, 1), message=why)
        case Retried(host, number, most, seconds, why):
            logger.info("retried", host=host, retry=number, of=most, seconds=round(seconds, 1), message=why)
        case WentAway(host, why):
            logger.warning("host_away", host=host, message=why)
        case CameBack(host):
            logger.info("host_back", host=host)
        case Stalled(descriptor, image, seconds):
            logger.warning("blob_stalled", digest=descriptor.digest, source=image, seconds=round(seconds))


def _renderer(format: LogFormat) -> Processor:  # noqa: A002 - what the flag is called
    if format is LogFormat.TEXT:
        return structlog.dev.ConsoleRenderer(colors=False)
    return structlog.processors.JSONRenderer(serializer=lambda event, **_: orjson.dumps(event).decode())
