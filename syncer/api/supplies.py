"""The sources that a run draws on: what was made for it, bundles at hand, and registries, in this order."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import anyio

from syncer.bundle import Bundle
from syncer.content import Blob
from syncer.errors import SyncerError
from syncer.oci import Descriptor, Digest, Reference
from syncer.oci.manifest import AnyManifest
from syncer.oci.referrer_tags import fallback_tag, subject_tag
from syncer.profiles.definition.spool import Spool
from syncer.profiles.palette.edge_credentials import Login
from syncer.registry import Registries


@dataclass(frozen=True, slots=True, kw_only=True)
class Supplies:
    """What a build may draw on besides registries."""

    bundles: Sequence[Path] = ()  # at hand: what they have is not asked of the network
    chart_logins: Mapping[str, Login] = field(default_factory=dict)  # by host[:port][/path]
    chart_cache: Path | None = None  # a directory for the indexes of chart repositories
    spool: Path | None = None  # a directory in which charts and packs are kept afterwards


@dataclass(frozen=True, slots=True)
class Contents:
    """Implements ``Source``; an image that a bundle at hand has under its name costs no request at all."""

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

    async def referrers(self, reference: Reference, subjects: Sequence[Digest]) -> Sequence[Reference]:
        """What refers to ``subjects``: asked of whoever has the image."""
        holder = self._holder(reference)
        if isinstance(holder, Spool):
            return []
        if isinstance(holder, Bundle):
            return bundled_referrers(holder, reference, subjects)
        return await holder.referrers(reference, subjects)

    def pause(self, reference: Reference) -> float:
        return 0.0 if self.has(reference) else self.registries.pause(reference)

    def lanes(self, reference: Reference) -> float:
        return math.inf if self.has(reference) else self.registries.lanes(reference)

    def has(self, reference: Reference) -> bool:
        """Whether no registry needs to be asked for ``reference``."""
        return not isinstance(self._holder(reference), Registries)

    def _holder(self, reference: Reference) -> Spool | Bundle | Registries:
        if reference in self.spool:
            return self.spool
        for bundle in self.bundles:
            if reference.digest in bundle.digests if reference.digest else bundle.names(reference):
                return bundle
        return self.registries


def bundled_referrers(bundle: Bundle, reference: Reference, subjects: Sequence[Digest]) -> list[Reference]:
    """The images of ``bundle`` that speak about ``subjects``: by cosign's tags, or by their subject."""
    fallbacks = set(map(fallback_tag, subjects))
    found = []
    for image in bundle.images:
        if image.reference.name != reference.name:
            continue
        manifest = bundle.manifest_by_digest(image.descriptor.digest, image.descriptor.media_type)
        speaks = manifest.subject is not None and manifest.subject.digest in subjects
        tag = image.reference.tag or ""
        if speaks or (tag not in fallbacks and subject_tag(tag) in fallbacks):
            found.append(image.reference)
    return found


Key = TypeVar("Key")
Answer = TypeVar("Answer")


class Pinned:
    """Implements ``Source`` over another one; a tag that moves during a run keeps its first meaning."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._resolved = _Once[Reference, Descriptor]()
        self._manifests = _Once[Reference, AnyManifest]()
        self._referrers = _Once[tuple[Reference, tuple[Digest, ...]], Sequence[Reference]]()

    async def resolve(self, reference: Reference) -> Descriptor:
        if known := self._manifests.known(reference):
            return known.descriptor
        return await self._resolved.get(reference, lambda: self._contents.resolve(reference))

    async def manifest(self, reference: Reference) -> AnyManifest:
        known = self._resolved.known(reference)
        pinned = reference.at(known.digest) if known and not reference.digest else reference
        return await self._manifests.get(pinned, lambda: self._contents.manifest(pinned))

    def blob(self, reference: Reference, descriptor: Descriptor) -> Blob:
        return self._contents.blob(reference, descriptor)

    async def referrers(self, reference: Reference, subjects: Sequence[Digest]) -> Sequence[Reference]:
        asked = tuple(subjects)
        return await self._referrers.get((reference, asked), lambda: self._contents.referrers(reference, asked))

    def pause(self, reference: Reference) -> float:
        return self._contents.pause(reference)

    def lanes(self, reference: Reference) -> float:
        return self._contents.lanes(reference)


class _Once(Generic[Key, Answer]):
    """Answers that are asked for once; who comes meanwhile waits, and after an error asks again."""

    def __init__(self) -> None:
        self._answers: dict[Key, Answer] = {}
        self._locks: dict[Key, anyio.Lock] = {}

    def known(self, key: Key) -> Answer | None:
        return self._answers.get(key)

    async def get(self, key: Key, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        if key in self._answers:
            return self._answers[key]
        async with self._locks.setdefault(key, anyio.Lock()):
            if key not in self._answers:
                self._answers[key] = await ask()
        self._locks.pop(key, None)
        return self._answers[key]


@dataclass(frozen=True, slots=True)
class Unknown:
    """Something that a source asks for and that could not be found out; ``name`` stands for it."""

    name: Reference
    error: SyncerError


@dataclass(frozen=True, slots=True)
class Had:
    """What one source has now.  ``is_doubtful``: it is not certain that this is all."""

    references: tuple[Reference, ...] = ()
    unknown: tuple[Unknown, ...] = ()
    is_doubtful: bool = False


def plain_name(name: str) -> str:
    """``name`` as a part of a repository's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unnamed"
