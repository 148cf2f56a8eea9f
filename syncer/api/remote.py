"""From registries straight into a registry: a build without a file between."""

from __future__ import annotations

from dataclasses import replace

from syncer.api.build import check_name, open_contents
from syncer.api.contents import Supplies
from syncer.api.defined import Wanted, wanted_by, without_paths
from syncer.api.landing import as_landed, land, land_definition, landing
from syncer.api.push import Delivery
from syncer.api.result import PushResult, accounts, new_run_id, to_all
from syncer.api.target import open_target
from syncer.errors import SyncerError
from syncer.profiles.definition import Definition
from syncer.registry import RegistrySettings
from syncer.report import Account


async def build_remote(
    definition: Definition,
    delivery: Delivery,
    *,
    referrers: bool = True,
    supplies: Supplies | None = None,
    settings: RegistrySettings | None = None,
) -> PushResult:
    """Bring all that ``definition`` wants to where a push of its bundle would, and its definition after it."""
    check_name(definition.name)
    address = delivery.address
    account = Account(run_id=delivery.run_id or new_run_id(), fetches=True, sends=True)
    tell = to_all(account, delivery.emit)
    place, problem = None, None
    async with open_contents(settings, supplies) as contents:
        found = await wanted_by(
            definition, contents, supplies or Supplies(), platform=delivery.platform, referrers=referrers
        )
        for failure in found.failures:
            tell(failure)
        targets = [item.target for item in found.items]
        named = landing(delivery.mapping, address.base).targets(targets, registry=address.host, base=address.base)
        with open_target(contents.registries, address, delivery.state) as opened:
            await land(found.items, named, contents, opened, workers=delivery.workers, emit=tell)
            report = account.report(accounts(contents.registries.traffic))
            if not report.failures:
                opened.finished()
                document = as_landed(_resolved(definition, found), named, report.images)
                try:
                    place = await land_definition(_plain(document), address, opened, workers=delivery.workers)
                except SyncerError as error:
                    problem = error
            report = account.report(accounts(contents.registries.traffic))
    return PushResult(bundle=definition.name, registry=str(address), report=report, definition=place, problem=problem)


def _resolved(definition: Definition, found: Wanted) -> Definition:
    """``definition`` with the names of its charts, and without the places of files on this machine."""
    charts = (replace(chart, artifact=found.charts.get(chart.request)) for chart in definition.charts)
    return without_paths(replace(definition, charts=tuple(charts)))


def _plain(definition: Definition) -> Definition:
    """``definition`` without what only a run that copied an image knows of it, so that it is the same every time."""
    images = (replace(image, platforms=(), size=None) for image in definition.images)
    return replace(definition, images=tuple(images))
