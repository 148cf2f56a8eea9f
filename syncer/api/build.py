"""From references, or a whole definition, to one bundle file."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from syncer.api.contents import Contents, Supplies
from syncer.api.defined import described, wanted_by, without_paths
from syncer.api.result import BuildResult, accounts, new_run_id, to_all
from syncer.bundle import Format, open_bundle, open_writer
from syncer.errors import TargetError, UsageError
from syncer.oci import Platform, Reference
from syncer.profiles.definition import DefinedImage, Definition, render_definition
from syncer.profiles.spool import Spool, open_spool
from syncer.registry import RegistrySettings, open_registries
from syncer.report import Account
from syncer.transfer.events import Emit, Event, Found
from syncer.transfer.run import Options, transfer

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
    workers: int = 32,
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
