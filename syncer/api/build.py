"""A build: from references or a definition to one bundle file, or straight into a registry."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from msgspec import Struct, structs

from syncer.api.bundles import BundleSource, oddities, require_names
from syncer.api.definitions import Parts, describe_bundle, drop_local_paths
from syncer.api.push import Delivery, deliver
from syncer.api.result import BuildResult, PushResult, Run, RunOptions
from syncer.api.supplies import OpenSupplies, Supplies, open_supplies
from syncer.bundle import DEFAULT_OUTPUT, Assumption, BundleWriter, Format, Published, open_writer
from syncer.content import Along, Blob, FileProgress, Item, Progress
from syncer.errors import Denied, NotFound, SyncerError, Unreachable, UsageError
from syncer.oci import Descriptor, Digest, Platform, Reference
from syncer.oci.manifest import AnyManifest, Index
from syncer.profiles.definition.definition import DefinedImage, Definition, render_definition
from syncer.registry import RegistrySettings
from syncer.report import Report, human_bytes
from syncer.transfer.events import Compacted, Compacting, Emit, Event, Found
from syncer.transfer.run import WORKERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Profiles by their ids or as files, packs, images with the option that named them, and all that is left out.

    The archives of ``packs`` come along unless ``images_only`` is set,
    those of other local packs with ``include_packs``.
    """

    uids: Sequence[str] = ()
    files: Sequence[Path] = ()
    packs: Sequence[Path] = ()
    images: Sequence[tuple[Reference, str]] = ()
    excluded: Sequence[str] = ()  # ids
    excluded_files: Sequence[Path] = ()
    overrides: Mapping[str, str] = field(default_factory=dict)  # --set-var
    environment: Mapping[str, str] = field(default_factory=dict, compare=False)  # for variables in manifests
    scan: bool = False
    images_only: bool = False
    include_packs: bool = False

    @property
    def names_profiles(self) -> bool:
        """True when the selection names profiles or packs, and not only single images."""
        return bool(self.uids or self.files or self.packs)

    @property
    def needs_palette(self) -> bool:
        """True when the selection needs answers of Palette."""
        return bool(self.uids or self.excluded)


_GUESSES_AT_ONCE = 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class BundleFile(Struct, frozen=True, kw_only=True):
    """The place and the form of a bundle that is to be written."""

    output: Path = DEFAULT_OUTPUT  # the directory
    file_name: str | None = None  # NAME.tar.zst unless given
    format: Format = "tar.zst"
    compression_level: int = 3  # of zstd, 1 to 19
    force: bool = False  # a file that is there is replaced
    allow_partial: bool = False  # the bundle is published without the images that failed
    resume: bool = True  # a build goes on with what an interrupted one left
    platform: Platform | None = None  # taken out of every index
    assumption: Assumption | None = None  # what the target has: the bundle becomes a delta without it

    def path(self, name: str) -> Path:
        """The path of the bundle called ``name``."""
        form = f"delta.{self.format}" if self.assumption else self.format
        return self.output / (self.file_name or f"{name}.{form}")

    def open(self, name: str) -> AbstractAsyncContextManager[BundleWriter]:
        """Open the bundle called ``name`` for writing; raises ``AlreadyThere``, ``Locked`` and ``TargetFull``."""
        return open_writer(
            self.path(name),
            format=self.format,
            compression_level=self.compression_level,
            resume=self.resume,
            force=self.force,
            assumption=self.assumption,
        )

    async def publish(
        self, writer: BundleWriter, name: str, report: Report, define: Callable[[], Definition], emit: Emit
    ) -> BuildResult:
        """Give the bundle its name, with the definition that ``define`` makes, unless images failed.

        With ``allow_partial`` it gets its name all the same, unless nothing arrived; ``emit`` hears of a copy that is
        made for it.  Raises ``TargetFull``.
        """
        path = self.path(name)
        nothing = report.totals.images_failed == report.totals.images
        if report.failures and (nothing or not self.allow_partial):
            return BuildResult(path=None, partial=path, report=report, bundle=name)
        # what an image left behind when its tag moved on is not needed, and is padding
        began = time.monotonic()
        copies: list[FileProgress] = []

        def begun(progress: FileProgress) -> None:
            copies.append(progress)
            emit(Compacting(path, progress))

        published = await writer.publish(render_definition(define()).encode(), allow_partial=True, begun=begun)
        if copies:
            emit(Compacted(path, time.monotonic() - began))
        report = report.after_publishing(time.monotonic() - began)
        return BuildResult(
            path=path,
            partial=None,
            report=_doubt(report, path, published),
            bundle=name,
            assumed=writer.assumed,
            blobs=writer.blobs,
            size=published.size,
            padding=published.padding,
        )


def _doubt(report: Report, path: Path, published: Published) -> Report:
    """``report`` with a warning where the file at ``path`` has padding that its disk had no room to leave out."""
    if not published.is_cramped:
        return report
    padded = f"{human_bytes(published.padding)} of the {human_bytes(published.size)} of {path} are padding"
    why = "since its disk has no room for a copy without: syncer copy writes one to another disk"
    return structs.replace(report, warnings=(*report.warnings, f"{padded}, {why}"))


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
    referrers: Along = True,
    assumption: Assumption | None = None,
    supplies: Supplies | None = None,
    settings: RegistrySettings | None = None,
    concurrency: int = WORKERS,
    run_id: str | None = None,
    emit: Emit | None = None,
) -> BuildResult:
    """Download ``images``, or all that a definition wants, into ``OUTPUT/NAME.tar.zst`` (or ``OUTPUT/file_name``).

    The file appears when all is there; otherwise what is there stays in ``….partial``, and the same call
    goes on with it.  ``allow_partial`` publishes without the images that failed.  With ``platform`` every
    index is resolved to its manifest for that platform.  ``referrers`` brings signatures, attestations and
    SBOMs along; ``"require"`` makes it a failure when a registry does not tell them.  An ``assumption``, as
    ``api.delta.find_assumption`` makes it, says what the target has: ``NAME.delta.tar.zst`` lacks that.  Raises
    ``UsageError`` for wrong arguments, ``AlreadyThere``, ``Locked`` and ``TargetFull``; an image that fails is an entry
    in the report.
    """
    definition = images if isinstance(images, Definition) else make_definition(name, images)
    file = BundleFile(
        output=Path(output),
        file_name=file_name,
        format=format,
        compression_level=compression_level,
        force=force,
        allow_partial=allow_partial,
        resume=resume,
        platform=Platform.of(platform),
        assumption=assumption,
    )
    return await build_file(
        structs.replace(definition, name=name),
        file,
        referrers=referrers,
        supplies=supplies,
        settings=settings,
        options=RunOptions(concurrency=concurrency, run_id=run_id, emit=emit),
    )


async def build_file(
    definition: Definition,
    file: BundleFile,
    *,
    referrers: Along = True,
    supplies: Supplies | None = None,
    settings: RegistrySettings | None = None,
    options: RunOptions | None = None,
) -> BuildResult:
    """Build the bundle of ``definition``, which has its name, as ``build`` does."""
    name = definition.name
    check_buildable(definition)
    sizes = _Sizes()
    run = Run(options, fetches=True, sends=False, listener=sizes)
    async with file.open(name) as writer, open_supplies(settings, supplies) as opened:
        _look_at(opened, run)
        with run.telling_if_cut(opened.registries, name):
            definition = await drop_lacking_guesses(definition, opened, run.warn, file.platform)
            parts = await find_parts(definition, opened, platform=file.platform, referrers=referrers)
            run.tell(parts.failures)
            await run.transfer(parts.items, opened, writer, opened.registries)
        report = run.report(opened.registries)

        def define() -> Definition:
            return drop_local_paths(describe_bundle(definition, parts, report, sizes.known))

        with run.telling_if_cut(opened.registries, name):  # to bring a large file to the disk takes its time
            return await file.publish(writer, name, report, define, run.emit)


def _look_at(opened: OpenSupplies, run: Run) -> None:
    """Say what is odd about the bundles at hand; raises ``UsageError`` for one in which no image has a name."""
    for bundle in opened.bundles:
        require_names(bundle)
        for oddity in oddities(bundle):
            if run.warn:
                run.warn(oddity)


def check_buildable(definition: Definition) -> None:
    """Raise ``UsageError`` unless ``definition`` names anything, and has a name that can be a bundle's."""
    check_name(definition.name)
    if not definition.entries:
        raise UsageError("there is no image to build from", hint="name some with --image or --images-file")


def check_name(name: str) -> None:
    """Raise ``UsageError`` unless ``name`` can be a bundle's."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not a name for a bundle", hint="use letters, digits, dots, dashes, underscores")


def make_definition(name: str, images: Iterable[str | Reference]) -> Definition:
    """A definition of ``images``, each of them once; raises ``InvalidReference``."""
    parsed = (Reference.parse(image) if isinstance(image, str) else image for image in images)
    return Definition(name=name, images=tuple(DefinedImage(image=image) for image in dict.fromkeys(parsed)))


class _Sizes:
    """Bytes of the blobs of each image, shared ones included."""

    def __init__(self) -> None:
        self.known: dict[Reference, int] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, Found):
            self.known[event.item.target] = event.bytes + event.deduplicated


async def drop_lacking_guesses(
    definition: Definition, supplies: OpenSupplies, warn: Callable[[str], None] | None, platform: Platform | None
) -> Definition:
    """``definition`` without the guesses of a scan that no supply has for ``platform``; ``warn`` is told which.

    A registry says of a private image what it says of one that it lacks (Docker Hub: 401 for both), and the name of a
    registry that cannot be reached, and that no certain image names, is a guess itself.  Raises ``UsageError`` when
    nothing is left.
    """
    guesses = [image for image in definition.images if image.guessed]
    certain = {image.image.registry for image in definition.images if not image.guessed}
    lacking: set[Reference] = set()
    limiter = anyio.CapacityLimiter(_GUESSES_AT_ONCE)

    async def ask(image: DefinedImage) -> None:
        async with limiter:
            if await _is_lacking(image, supplies, platform, is_sure=image.image.registry in certain):
                lacking.add(image.image)

    async with anyio.create_task_group() as tasks:
        for image in guesses:
            tasks.start_soon(ask, image)
    if not lacking:
        return definition
    if warn:
        names = ", ".join(str(image.image) for image in definition.images if image.image in lacking)
        them = f"them for {platform}" if platform else "them"
        warn(f"{len(lacking)} images that were only guessed are left out, since no registry gives {them}: {names}")
    left = structs.replace(definition, images=tuple(image for image in definition.images if image.image not in lacking))
    check_buildable(left)
    return left


async def _is_lacking(image: DefinedImage, supplies: OpenSupplies, platform: Platform | None, *, is_sure: bool) -> bool:
    """Tell whether no supply has ``image``; ``is_sure`` says that its registry is one that a certain image names."""
    try:
        if platform is None:
            await supplies.resolve(image.reference)
            return False
        manifest = await supplies.manifest(image.reference)
    except (NotFound, Denied):
        return True
    except Unreachable:
        return not is_sure
    except SyncerError:
        return False  # the transfer meets it again, and tells
    offered = manifest.manifests if isinstance(manifest, Index) else ()
    return bool(offered) and not any(each.platform and each.platform.satisfies(platform) for each in offered)


async def find_parts(
    definition: Definition, supplies: OpenSupplies, *, platform: Platform | None, referrers: Along
) -> Parts:
    """The items of ``definition``; its charts, packs and files are put into the spool of ``supplies`` first."""
    supplies.registries.settle(image.image for image in definition.images)
    platforms = (platform,) if platform else ()
    parts = Parts(
        [
            Item(
                image.reference,
                image.image,
                image.packs,
                platforms=platforms,
                referrers=bool(referrers),
                requires_referrers=referrers == "require",
            )
            for image in definition.images
        ]
    )
    if definition.charts or definition.archives or definition.files:
        from syncer.api.charts import add_artifacts  # noqa: PLC0415  slow to import, and images need none of it

        await add_artifacts(parts, definition, supplies, referrers=referrers)
    return parts


async def build_remote(
    definition: Definition,
    delivery: Delivery,
    *,
    referrers: Along = True,
    supplies: Supplies | None = None,
    settings: RegistrySettings | None = None,
    options: RunOptions | None = None,
) -> PushResult:
    """Bring all content of ``definition`` directly to the place of a push of its bundle, and the definition after it.

    Raises ``UsageError`` for a definition without entries, for a name that no bundle can have, and for names that
    collide at the target.
    """
    check_buildable(definition)
    run = Run(options, fetches=True, sends=True)
    async with open_supplies(settings, supplies) as opened:
        _look_at(opened, run)
        definition = await drop_lacking_guesses(definition, opened, run.warn, delivery.platform)
        parts = await find_parts(definition, opened, platform=delivery.platform, referrers=referrers)
        run.tell(parts.failures)
        bundle = BundleSource(lambda: _with_chart_names(definition, parts), tuple(parts.items), opened)
        delivery = structs.replace(delivery, platform=None)  # the items of images have it already
        return await deliver(bundle, opened.registries, delivery, run, name=definition.name, with_details=False)


def _with_chart_names(definition: Definition, parts: Parts) -> Definition:
    """``definition`` with the names of its charts, and without the places of files on this machine."""
    charts = (structs.replace(chart, artifact=parts.charts.get(chart.request)) for chart in definition.charts)
    return drop_local_paths(structs.replace(definition, charts=tuple(charts)))


class Resolution(Struct, frozen=True):
    """A definition with what it resolved to; images that failed are ``missing`` in it, and in the report."""

    definition: Definition
    report: Report


async def resolve_definition(
    definition: Definition,
    *,
    platform: Platform | None = None,
    supplies: Supplies | None = None,
    settings: RegistrySettings | None = None,
    options: RunOptions | None = None,
) -> Resolution:
    """Find the digests, platforms and sizes of all that ``definition`` names (``build --metadata-only --lock``).

    Charts are fetched, since nothing else tells theirs.
    """
    sizes = _Sizes()
    run = Run(options, fetches=True, sends=False, listener=sizes)
    async with open_supplies(settings, supplies) as opened:
        definition = await drop_lacking_guesses(definition, opened, run.warn, platform)
        parts = await find_parts(definition, opened, platform=platform, referrers=False)
        run.tell(parts.failures)
        await run.transfer(parts.items, opened, _FullTarget(), opened.registries)
        report = run.report(opened.registries)
    return Resolution(describe_bundle(definition, parts, report, sizes.known), report)


class _FullTarget:
    """A target that claims to have every blob, so that all is found and nothing fetched."""

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
