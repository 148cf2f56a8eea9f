"""A source that several targets share: what a name means is asked once a run, and holds for all of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import anyio

from syncer.api.contents import Contents
from syncer.content import Blob
from syncer.oci import Descriptor, Digest, Reference
from syncer.oci.manifest import AnyManifest

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
