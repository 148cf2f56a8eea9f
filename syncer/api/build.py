"""From references to one bundle file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from syncer.api.result import BuildResult, accounts, new_run_id, to_all
from syncer.bundle import Format, open_writer
from syncer.content import Item
from syncer.errors import UsageError
from syncer.oci import Platform, Reference
from syncer.registry import RegistrySettings, open_registries
from syncer.report import Account, Report, Status
from syncer.transfer.events import Emit
from syncer.transfer.run import Options, transfer

DEFAULT_OUTPUT = Path("output/content-bundle")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


async def build(
    images: Iterable[str | Reference],
    *,
    name: str = "bundle",
    output: str | Path = DEFAULT_OUTPUT,
    platform: str | Platform | None = None,
    format: Format = "tar.zst",  # noqa: A002  the word of the command line
    compression_level: int = 3,
    force: bool = False,
    allow_partial: bool = False,
    resume: bool = True,
    referrers: bool = True,
    settings: RegistrySettings | None = None,
    workers: int = 32,
    run_id: str | None = None,
    emit: Emit | None = None,
) -> BuildResult:
    """Download ``images`` into ``OUTPUT/NAME.tar.zst``.

    The file appears when all is there; otherwise what is there stays in ``….partial``, and the same call
    goes on with it.  ``allow_partial`` publishes without the images that failed.  With ``platform`` every
    index is resolved to its manifest for that platform.  ``referrers`` brings signatures, attestations and
    SBOMs along.  Raises ``UsageError`` for wrong arguments,
    ``AlreadyThere``, ``Locked`` and ``TargetFull``; an image that fails is an entry in the report.
    """
    references = _references(images)
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not a name for a bundle", hint="use letters, digits, dots, dashes, underscores")
    wanted = Platform.parse(platform) if isinstance(platform, str) else platform
    path = Path(output) / f"{name}.{format}"
    account = Account(run_id=run_id or new_run_id(), fetches=True, sends=False)
    platforms = (wanted,) if wanted else ()
    items = [Item(reference, reference, platforms=platforms, referrers=referrers) for reference in references]
    async with (
        open_writer(path, format=format, compression_level=compression_level, resume=resume, force=force) as writer,
        open_registries(settings or RegistrySettings()) as registries,
    ):
        options = Options(workers=workers)
        await transfer(items, registries, writer, options=options, emit=to_all(account, emit))
        report = account.report(accounts(registries.traffic))
        is_complete = not report.failures
        if is_complete or allow_partial:
            await writer.publish(_definition(name, wanted, report), allow_partial=not is_complete)
    published = is_complete or allow_partial
    return BuildResult(path=path if published else None, partial=None if published else path, report=report)


def _references(images: Iterable[str | Reference]) -> Sequence[Reference]:
    parsed = (Reference.parse(image) if isinstance(image, str) else image for image in images)
    references = list(dict.fromkeys(parsed))
    if not references:
        raise UsageError("there is no image to build from", hint="name some with --image or --images-file")
    return references


def _definition(name: str, platform: Platform | None, report: Report) -> bytes:
    """What was asked for and what it resolved to, for the bundle; the same for the same content."""
    images: list[dict[str, Any]] = []
    missing: list[dict[str, Any]] = []
    for image in report.images:
        if image.status is Status.FAILED:
            missing.append({"image": str(image.source), "error": str(image.error)})
        else:
            platforms = [str(platform) for platform in image.platforms]
            images.append(
                {"image": str(image.source), "digest": str(image.digest)}
                | ({"platforms": platforms} if platforms else {})
            )
    document = {"name": name} | ({"platform": str(platform)} if platform else {}) | {"images": images}
    if missing:
        document["missing"] = missing
    return yaml.safe_dump(document, sort_keys=False).encode()
