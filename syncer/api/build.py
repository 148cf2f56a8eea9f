"""A build: from references or a definition to one bundle file, or straight into a registry."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from syncer.api.definitions import Wanted, as_landed, described, without_paths
from syncer.api.push import Delivery, land, land_definition, open_target
from syncer.api.result import BuildResult, PushResult, accounts, new_run_id, to_all
from syncer.api.supplies import Contents, Supplies
from syncer.bundle import Format, open_bundle, open_writer
from syncer.content import Blob, Item, Progress
from syncer.errors import SyncerError, TargetError, UsageError
from syncer.naming import names_at
from syncer.oci import Descriptor, Digest, Platform, Reference
from syncer.oci.manifest import AnyManifest
from syncer.profiles.definition.definition import (
    DefinedImage,
    Definition,
    render_definition,
)
from syncer.profiles.definition.spool import Spool, open_spool
from syncer.registry import RegistrySettings, open_registries
from syncer.report import Account, Report
from syncer.transfer.events import Emit, Event, Found
from syncer.transfer.run import WORKERS, Options, transfer

DEFAULT_OUTPUT = Path("output/content-bundle")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


async def build(
    images: Iterable[str | Reference] | Definition,
    *,
    name: str = "bundle",
    output: str | Path = DEFAULT_OUTPUT,
    file_name: str | None = None,
    platform: str | Platform | None = None,
    format: Format = "tar.zst",  # noqa: A002  the word of the command line
    compression_level: int = 3,
    force: bool = False,
    allow_partial: bool = False,
    resume: bool = True,
    referrers: bool = True,
    supplies: Supplies | None = None,
    settings: RegistrySettings | None = None,
    workers: int = WORKERS,
    run_id: str | None = None,
    emit: Emit | None = None,
) -> BuildResult:
    """Download ``images``, or all that a definition wants, into ``OUTPUT/NAME.tar.zst`` (or ``OUTPUT/file_name``).

    The file appears when all is there; otherwise what is there stays in ``….partial``, and the same call
    goes on with it.  ``allow_partial`` publishes without the images that failed.  With ``platform`` every
    index is resolved to its manifest for that platform.  ``referrers`` brings signatures, attestations and
    SBOMs along.  Raises ``UsageError`` for wrong arguments, ``AlreadyThere``, ``Locked`` and ``TargetFull``;
    an image that fails is an entry in the report.
    """
    definition = images if isinstance(images, Definition) else named_definition(name, images)
    check_name(name)
    if not definition.entries:
        raise UsageError("there is no image to build from", hint="name some with --image or --images-file")
    wanted = Platform.parse(platform) if isinstance(platform, str) else platform
    path = Path(output) / (file_name or f"{name}.{format}")
    account = Account(run_id=run_id or new_run_id(), fetches=True, sends=False)
    sizes = Sizes()
    tell = to_all(account, sizes, emit)
    async with (
        open_writer(path, format=format, compression_level=compression_level, resume=resume, force=force) as writer,
        open_contents(settings, supplies) as contents,
    ):
        found = await wanted_by(definition, contents, supplies or Supplies(), platform=wanted, referrers=referrers)
        for failure in found.failures:
            tell(failure)
        await transfer(found.items, contents, writer, options=Options(workers=workers), emit=tell)
        report = account.report(accounts(contents.registries.traffic))
        is_complete = not report.failures
        if is_complete or allow_partial:
            document = described(replace(definition, name=name), found, report, sizes.known)
            # what an image left behind when its tag moved on is not needed, and is padding
            await writer.publish(render_definition(without_paths(document)).encode(), allow_partial=True)
    published = is_complete or allow_partial
    return BuildResult(path=path if published else None, partial=None if published else path, report=report)


def check_name(name: str) -> None:
    """Raise ``UsageError`` unless ``name`` can be a bundle's."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not a name for a bundle", hint="use letters, digits, dots, dashes, underscores")


@asynccontextmanager
async def open_contents(settings: RegistrySettings | None, supplies: Supplies | None) -> AsyncIterator[Contents]:
    """All that a build draws on, open as long as the block lasts."""
    async with AsyncExitStack() as stack:
        bundles = [stack.enter_context(open_bundle(path)) for path in (supplies.bundles if supplies else ())]
        kept = supplies.spool if supplies else None
        spool = stack.enter_context(open_spool()) if kept is None else _kept_spool(kept)
        registries = await stack.enter_async_context(open_registries(settings or RegistrySettings()))
        yield Contents(spool, tuple(bundles), registries)


def _kept_spool(directory: Path) -> Spool:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TargetError(f"{directory} cannot be made: {error.strerror or error}") from None
    return Spool(directory)


def named_definition(name: str, images: Iterable[str | Reference]) -> Definition:
    parsed = (Reference.parse(image) if isinstance(image, str) else image for image in images)
    return Definition(name=name, images=tuple(DefinedImage(image=image) for image in dict.fromkeys(parsed)))


class Sizes:
    """Bytes of the blobs of each image, shared ones included."""

    def __init__(self) -> None:
        self.known: dict[Reference, int] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, Found):
            self.known[event.item.target] = event.bytes + event.deduplicated


async def wanted_by(
    definition: Definition, contents: Contents, supplies: Supplies, *, platform: Platform | None, referrers: bool
) -> Wanted:
    """The items of ``definition``; charts and packs are put into the spool of ``contents`` first."""
    platforms = (platform,) if platform else ()
    wanted = Wanted(
        [
            Item(image.reference, image.image, image.packs, platforms=platforms, referrers=referrers)
            for image in definition.images
        ]
    )
    if definition.charts or definition.archives or definition.files:
        from syncer.api.charts import add_spooled  # noqa: PLC0415  slow to import, and images need none of it

        await add_spooled(wanted, definition, contents, supplies, referrers=referrers)
    return wanted


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
        named = names_at(address.host, address.base, targets, delivery.mapping)
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


@dataclass(frozen=True, slots=True)
class Locked:
    """A definition with what it resolved to; images that failed are ``missing`` in it, and in the report."""

    definition: Definition
    report: Report


async def lock(
    definition: Definition,
    *,
    platform: Platform | None = None,
    supplies: Supplies | None = None,
    settings: RegistrySettings | None = None,
    workers: int = WORKERS,
    emit: Emit | None = None,
) -> Locked:
    """``definition`` with digests, platforms and sizes.  Charts are fetched, since nothing else tells theirs."""
    account, sizes = Account(run_id=new_run_id(), fetches=True, sends=False), Sizes()
    async with open_contents(settings, supplies) as contents:
        found = await wanted_by(definition, contents, supplies or Supplies(), platform=platform, referrers=False)
        tell = to_all(account, sizes, emit)
        for failure in found.failures:
            tell(failure)
        await transfer(found.items, contents, _Nowhere(), options=Options(workers=workers), emit=tell)
        report = account.report(accounts(contents.registries.traffic))
    return Locked(described(definition, found, report, sizes.known), report)


class _Nowhere:
    """A target that claims to have every blob: whatever is brought there is found, and none of it fetched."""

    def space(self, name: Reference) -> str:  # noqa: ARG002  there is one space
        return ""

    async def current(self, name: Reference) -> Digest | None:  # noqa: ARG002  and nothing in it
        return None

    async def reserve(self, space: str, descriptor: Descriptor, manifest: AnyManifest | None) -> None:
        pass

    async def write(self, space: str, blob: Blob, progress: Progress, *, force: bool = False) -> bool:  # noqa: ARG002
        return False

    async def commit(self, space: str, manifest: AnyManifest, names: Sequence[Reference]) -> None:
        pass
