"""Is a bundle sound, and does a registry have all of it?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from syncer.bundle import Bundle, BundleCheck, Image, open_bundle, verify_bundle
from syncer.errors import Exit, NotFound, SyncerError
from syncer.naming import NameMapping, landing
from syncer.oci import Descriptor, Digest, Reference
from syncer.oci.manifest import Descent
from syncer.registry import Registries, RegistryAddress, RegistrySettings, open_registries


@dataclass(frozen=True, slots=True)
class Lacking:
    """What a registry does not have as the bundle has it."""

    name: Reference  # the image, or the repository and digest of a part of it
    problem: str
    exit: Exit


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    """What a verification found; a bundle that is not sound raises instead."""

    bundle: Path
    check: BundleCheck
    registry: str | None
    checked: int  # images and pieces of content that the registry was asked for
    lacking: tuple[Lacking, ...]
    seconds: float

    @property
    def exit(self) -> Exit:
        """6 when the registry lacks anything; the common code when it could not be asked."""
        codes = {lacking.exit for lacking in self.lacking}
        if not codes:
            return Exit.OK
        return codes.pop() if len(codes) == 1 else Exit.UNVERIFIED

    def to_json(self) -> dict[str, Any]:
        return {
            "bundle": str(self.bundle),
            "images": self.check.images,
            "manifests": self.check.manifests,
            "blobs": self.check.blobs,
            "bytes": self.check.bytes,
            "unreferenced": [str(digest) for digest in self.check.unreferenced],
            "registry": self.registry,
            "checked": self.checked,
            "lacking": [{"name": str(lacking.name), "problem": lacking.problem} for lacking in self.lacking],
            "seconds": round(self.seconds, 3),
        }


async def verify(
    file: str | Path,
    registry: str | RegistryAddress | None = None,
    *,
    mapping: NameMapping | None = None,
    settings: RegistrySettings | None = None,
    workers: int = 32,
) -> VerifyResult:
    """Hash the bundle ``file`` again and account for every byte of it.

    With ``registry`` each image, with all its children and blobs, must be there under its digest; what is
    not is listed in the result.  Raises ``InvalidBundle`` with all that is wrong with the file.
    """
    began = time.monotonic()
    address = RegistryAddress.parse(registry) if isinstance(registry, str) else registry
    with open_bundle(Path(file)) as bundle:
        check = await verify_bundle(bundle)
        checked, lacking = 0, list[Lacking]()
        if address is not None:
            questions = list(_questions(bundle, landing(mapping, address.base), address))
            checked = len(questions)
            async with open_registries(settings or RegistrySettings()) as registries:
                registries.registry(address.host, plain_http=address.plain_http)
                lacking = await _ask(questions, registries, workers)
    return VerifyResult(
        bundle=Path(file),
        check=check,
        registry=str(address) if address else None,
        checked=checked,
        lacking=tuple(lacking),
        seconds=time.monotonic() - began,
    )


@dataclass(frozen=True, slots=True)
class _Question:
    """Is ``descriptor`` at ``name``?"""

    name: Reference
    descriptor: Descriptor
    is_blob: bool


def _questions(bundle: Bundle, mapping: NameMapping, address: RegistryAddress) -> Iterator[_Question]:
    """Each image by its name, and each part of it once in its repository."""
    named = mapping.targets((image.reference for image in bundle.images), registry=address.host, base=address.base)
    asked: set[tuple[str, Digest]] = set()
    for image in bundle.images:
        name = named[image.reference]
        yield _Question(name, image.descriptor, is_blob=False)
        asked.add((name.name, image.descriptor.digest))
        yield from _parts(bundle, image, name, asked)


def _parts(bundle: Bundle, image: Image, name: Reference, asked: set[tuple[str, Digest]]) -> Iterator[_Question]:
    descent = Descent(image.reference)
    descent.enter(bundle.manifest_by_digest(image.descriptor.digest, image.descriptor.media_type))
    for child, is_manifest in descent:
        if (name.name, child.digest) in asked:
            continue
        asked.add((name.name, child.digest))
        if is_manifest:
            descent.enter(bundle.manifest_by_digest(child.digest, child.media_type))
        yield _Question(name.at(child.digest), child, is_blob=not is_manifest)


async def _ask(questions: list[_Question], registries: Registries, workers: int) -> list[Lacking]:
    lacking: list[tuple[int, Lacking]] = []
    send, receive = anyio.create_memory_object_stream[tuple[int, _Question]](max_buffer_size=workers)

    async def work(jobs: MemoryObjectReceiveStream[tuple[int, _Question]]) -> None:
        async with jobs:
            async for position, question in jobs:
                if found := await _answer(question, registries):
                    lacking.append((position, found))

    async with anyio.create_task_group() as tasks, send:
        async with receive:
            for _ in range(workers):
                tasks.start_soon(work, receive.clone())
        for numbered in enumerate(questions):
            await send.send(numbered)
    return [found for _, found in sorted(lacking, key=lambda entry: entry[0])]


async def _answer(question: _Question, registries: Registries) -> Lacking | None:
    name, wanted = question.name, question.descriptor
    try:
        if question.is_blob:
            is_there = await registries.repository(name).has_blob(wanted)
            problem = None if is_there else f"the blob {wanted} is not there"
        else:
            found = (await registries.resolve(name)).digest
            problem = None if found == wanted.digest else f"it is {found.short}, not {wanted.digest.short}"
    except NotFound:
        problem = f"the manifest {wanted} is not there"
    except SyncerError as error:
        return Lacking(name, str(error), error.exit)
    return Lacking(name, problem, Exit.UNVERIFIED) if problem else None
