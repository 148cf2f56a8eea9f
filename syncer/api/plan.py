"""What a transfer would do: the same discovery, with a consumer that only adds up."""

from __future__ import annotations

from collections.abc import Sequence

from syncer.content import Item, Mounting, Referring, Source, Target
from syncer.report.forecast import Forecast, ForecastReport
from syncer.transfer.discovery import Discovered, Discovery
from syncer.transfer.memory import Memory


async def foresee(
    items: Sequence[Item],
    source: Source,
    target: Target,
    *,
    fetches: bool,
    sends: bool,
    workers: int = 32,
    memory: Memory | None = None,
) -> ForecastReport:
    """What bringing ``items`` from ``source`` to ``target`` would fetch, send, mount and skip.

    ``fetches`` and ``sends`` say which of the two ends are registries.  Nothing is written.
    """
    forecast = Forecast(fetches=fetches, sends=sends, can_mount=isinstance(target, Mounting))
    await survey(items, source, target, forecast, workers=workers, memory=memory)
    return forecast.report()


async def survey(
    items: Sequence[Item],
    source: Source,
    target: Target,
    forecast: Forecast,
    *,
    workers: int,
    memory: Memory | None = None,
) -> None:
    """Add ``items`` to ``forecast``."""

    async def add(found: Discovered) -> None:
        item = found.item
        forecast.add(found, target.space(item.target))

    referring = source if isinstance(source, Referring) else None
    discovery = Discovery(source, target, memory or Memory(), referring, concurrency=min(16, workers))
    await discovery.run(items, add)
