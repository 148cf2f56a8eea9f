"""Supplies: the sources that a run draws on, which are the spool, bundles at hand and registries, in this order."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import anyio
from msgspec import Struct, field

from syncer.content import Blob, Referral, Referrals
from syncer.errors import NotFound, SyncerError, TargetError
from syncer.oci import Descriptor, Digest, Reference
from syncer.oci.manifest import AnyManifest
from syncer.oci.reference import fallback_tag, subject_tag
from syncer.profiles.definition.artifacts import Spool, open_spool
from syncer.profiles.palette.edge_credentials import Login
from syncer.registry import Registries, RegistrySettings, open_registries

if TYPE_CHECKING:
    from syncer.bundle import Bundle

Key = TypeVar("Key")
Answer = TypeVar("Answer")


class Supplies(Struct, frozen=True, kw_only=True):
    """The sources of a build besides registries."""

    bundles: Sequence[Path] = ()  # at hand: what they have is not asked of the network
    chart_logins: Mapping[str, Login] = field(default_factory=dict)  # by host[:port][/path]
    chart_cache: Path | None = None  # a directory for the indexes of chart repositories
    spool: Path | None = None  # a directory in which charts and packs are kept afterwards


class OpenSupplies(Struct, frozen=True):
    """The supplies as one ``Source``; an image that a bundle at hand has under its name costs no request at all."""

    settings: Supplies
    spool: Spool
    bundles: tuple[Bundle, ...]
    registries: Registries

    async def resolve(self, reference: Reference) -> Descriptor:
        return await self._holder(reference).resolve(reference)

    async def manifest(self, reference: Reference) -> AnyManifest:
        return await self._holder(reference).manifest(reference)

    def blob(self, reference: Reference, descriptor: Descriptor) -> Blob:
        if self.spool.has(descriptor.digest):
            return self.spool.blob(reference, descriptor)
        holder = next((bundle for bundle in self.bundles if descriptor.digest in bundle.digests), self.registries)
        return holder.blob(reference, descriptor)

    async def referrers(self, reference: Reference, subjects: Sequence[Digest]) -> Referrals:
        """The referrers of ``subjects``, as the supply that has the image knows them."""
        holder = self._holder(reference)
        if isinstance(holder, Spool):
            return Referrals()
        if isinstance(holder, Registries):
            return await holder.referrers(reference, subjects)
        return Referrals(tuple(find_referrers(holder, reference, subjects)))

    async def explain(self, reference: Reference, error: NotFound) -> NotFound:
        """Say what a registry has instead; see ``content.Explaining``."""
        return error if self.has(reference) else await self.registries.explain(reference, error)

    def brings(self, layer: Descriptor) -> bool:
        return any(bundle.brings(layer) for bundle in self.bundles) or self.registries.brings(layer)

    def pause(self, reference: Reference) -> float:
        return 0.0 if self.has(reference) else self.registries.pause(reference)

    def capacity(self, reference: Reference) -> float:
        return math.inf if self.has(reference) else self.registries.capacity(reference)

    def has(self, reference: Reference) -> bool:
        """Tell whether the spool or a bundle at hand has ``reference``, so that no registry is asked for it."""
        return not isinstance(self._holder(reference), Registries)

    def _holder(self, reference: Reference) -> Spool | Bundle | Registries:
        if reference in self.spool:
            return self.spool
        for bundle in self.bundles:
            if reference.digest in bundle.digests if reference.digest else bundle.names(reference):
                return bundle
        return self.registries


@asynccontextmanager
async def open_supplies(settings: RegistrySettings | None, supplies: Supplies | None) -> AsyncIterator[OpenSupplies]:
    """Open the registries, the bundles at hand and the spool of a run for as long as the block lasts.

    Raises ``UsageError`` and ``InvalidBundle`` for the bundles, ``TargetError`` for a spool that cannot be made.
    """
    wanted = supplies or Supplies()
    bundles: list[Bundle] = []
    async with AsyncExitStack() as stack:
        if wanted.bundles:
            from syncer.bundle import open_archive  # noqa: PLC0415  a sync has no bundles

            bundles = [await stack.enter_async_context(open_archive(path)) for path in wanted.bundles]
        spool = _make_spool(wanted.spool) if wanted.spool else stack.enter_context(open_spool())
        registries = await stack.enter_async_context(open_registries(settings or RegistrySettings()))
        yield OpenSupplies(wanted, spool, tuple(bundles), registries)


def _make_spool(directory: Path) -> Spool:
    """A spool that stays after the run."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TargetError(f"{directory} cannot be made: {error.strerror or error}") from None
    return Spool(directory)


def find_referrers(bundle: Bundle, reference: Reference, subjects: Collection[Digest]) -> list[Referral]:
    """Find the images of ``bundle`` that speak about ``subjects``: by cosign's tags, or by their subject."""
    fallbacks = set(map(fallback_tag, subjects))
    wanted = set(subjects)
    found = []
    for image, subject in bundle.subjects(reference.name):
        tag = image.tag or ""
        if subject in wanted or (tag not in fallbacks and subject_tag(tag) in fallbacks):
            found.append(Referral(image, subject))
    return found


class Snapshot:
    """The supplies as a ``Source`` in which a tag that moves during a run keeps its first meaning."""

    def __init__(self, supplies: OpenSupplies) -> None:
        self._supplies = supplies
        self._resolved = _Once[Reference, Descriptor]()
        self._manifests = _Once[Reference, AnyManifest]()
        self._referrers = _Once[tuple[Reference, tuple[Digest, ...]], Referrals]()

    async def resolve(self, reference: Reference) -> Descriptor:
        if manifest := await self._manifests.known(reference):
            return manifest.descriptor
        return await self._resolved.get(reference, lambda: self._supplies.resolve(reference))

    async def manifest(self, reference: Reference) -> AnyManifest:
        known = None if reference.digest else await self._resolved.known(reference)
        pinned = reference.at(known.digest) if known else reference
        manifest = await self._manifests.get(pinned, lambda: self._supplies.manifest(pinned))
        self._manifests.learn(reference.at(manifest.descriptor.digest), manifest)
        return manifest

    def blob(self, reference: Reference, descriptor: Descriptor) -> Blob:
        return self._supplies.blob(reference, descriptor)

    async def referrers(self, reference: Reference, subjects: Sequence[Digest]) -> Referrals:
        asked = tuple(subjects)
        return await self._referrers.get((reference, asked), lambda: self._supplies.referrers(reference, asked))

    async def explain(self, reference: Reference, error: NotFound) -> NotFound:
        return await self._supplies.explain(reference, error)

    def brings(self, layer: Descriptor) -> bool:
        return self._supplies.brings(layer)

    def pause(self, reference: Reference) -> float:
        return self._supplies.pause(reference)

    def capacity(self, reference: Reference) -> float:
        return self._supplies.capacity(reference)


class _Once(Generic[Key, Answer]):
    """Answers that are asked for once; a second caller waits for the first, and asks again after an error."""

    def __init__(self) -> None:
        self._answers: dict[Key, Answer] = {}
        self._locks: dict[Key, anyio.Lock] = {}

    def learn(self, key: Key, answer: Answer) -> None:
        """Note the answer that another question had."""
        self._answers.setdefault(key, answer)

    async def known(self, key: Key) -> Answer | None:
        """The answer, once it is there if somebody has asked; None if there is none."""
        if key in self._locks:
            async with self._turn(key):
                pass
        return self._answers.get(key)

    async def get(self, key: Key, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        if key not in self._answers:
            async with self._turn(key):
                if key not in self._answers:
                    self._answers[key] = await ask()
        return self._answers[key]

    @asynccontextmanager
    async def _turn(self, key: Key) -> AsyncIterator[None]:
        """A block for one caller at a time."""
        lock = self._locks.setdefault(key, anyio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._locks.pop(key, None)


class Unknown(Struct, frozen=True):
    """A part of a source that could not be found out, such as its tags; ``name`` stands for it."""

    name: Reference
    error: SyncerError


class Listing(Struct, frozen=True):
    """The images and charts that one source has now.  ``is_doubtful``: it is not certain that this is all.

    ``origins`` are the places of references that are elsewhere than their names say.
    """

    references: tuple[Reference, ...] = ()
    unknown: tuple[Unknown, ...] = ()
    is_doubtful: bool = False
    origins: Mapping[Reference, Reference] = field(default_factory=dict)


def plain_name(name: str) -> str:
    """``name`` as a part of a repository's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unnamed"
