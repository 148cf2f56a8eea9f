"""What the charts and profiles of a sync file bring; charts become artifacts in the spool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from syncer.api.contents import Contents, Supplies
from syncer.api.sources import Had, Unknown, plain_name
from syncer.api.spooled import ChartRegistries
from syncer.oci import Reference
from syncer.profiles.charts import Charts, FailedChart, expected_reference
from syncer.profiles.definition import ChartRequest
from syncer.profiles.gather import gather
from syncer.profiles.profile import Profile


class Charted:
    """Finds charts, fetching each index once."""

    def __init__(self, contents: Contents, supplies: Supplies) -> None:
        registries = contents.registries
        self._charts = Charts(
            registries.transport,
            contents.spool,
            ChartRegistries(registries),
            logins=supplies.chart_logins,
            cache=supplies.chart_cache,
        )

    async def had_by_profiles(self, profiles: list[Profile], say: Callable[[str], None]) -> Had:
        """The images and charts of ``profiles``; ``say`` is told what was odd in them."""
        gathered = gather("sync", profiles)
        for warning in (*gathered.warnings, *gathered.unlisted):
            say(str(warning))
        definition = gathered.definition
        charts = await self.had_by_charts([chart.request for chart in definition.charts])
        images = tuple(image.reference for image in definition.images)
        return replace(charts, references=(*images, *charts.references))

    async def had_by_charts(self, requests: list[ChartRequest]) -> Had:
        references: list[Reference] = []
        unknown: list[Unknown] = []
        for found in await self._charts.resolve_all(requests):
            if isinstance(found, FailedChart):
                unknown.append(Unknown(chart_name(found.request), found.error))
            else:
                references.append(replace(found.reference, digest=None))
        return Had(tuple(references), tuple(unknown))


def chart_name(request: ChartRequest) -> Reference:
    """What stands for a chart of which nothing could be learned."""
    return expected_reference(request) or Reference("charts.invalid", plain_name(request.name))
