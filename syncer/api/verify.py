"""The check of a bundle, and of a registry that should have all of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread
from anyio.streams.memory import MemoryObjectReceiveStream
from msgspec import Struct, structs

from syncer.api.bundles import check_definition, missing_in, open_place, require_content, require_names
from syncer.api.push import Delivery
from syncer.api.result import open_heard
from syncer.bundle import Bundle, BundleCheck, BundleUrl, GivenName, bundle_place, verify_bundle
from syncer.errors import Exit, NotFound, SyncerError, VerificationError, common_exit
from syncer.naming import NameMapping
from syncer.oci import Descriptor, Digest, Reference
from syncer.oci.manifest import AnyManifest, Descent
from syncer.profiles.definition.definition import Missing
from syncer.registry import Registries, RegistryAddress, RegistrySettings
from syncer.transfer.events import Emit
from syncer.transfer.run import WORKERS


class Gap(Struct, frozen=True):
    """An image, or a part of one, that a registry does not have as the bundle has it."""

    name: Reference  # the image, or the repository and digest of a part of it
    problem: str


class Doubt(Struct, frozen=True):
    """One cause for which a registry did not tell whether it has some of the images and their parts."""

    problem: str
    names: tuple[Reference, ...]
    error: SyncerError  # about the first of them

    @property
    def exit(self) -> Exit:
        return self.error.exit

    @property
    def hint(self) -> str | None:
        return self.error.hint


class VerifyResult(Struct, frozen=True, kw_only=True):
    """The outcome of a verification; a bundle that is not sound raises instead."""

    bundle: Path | BundleUrl
    check: BundleCheck
    missing: tuple[Missing, ...] = ()  # images that the bundle was published without
    wanted: int = 0  # images, charts and files that it was to hold
    signed: bool = False  # there is a signature, and it is good
    registry: str | None = None
    checked: int = 0  # images and pieces of content that the registry was asked for
    lacking: tuple[Gap, ...] = ()
    unknown: tuple[Doubt, ...] = ()
    seconds: float

    @property
    def exit(self) -> Exit:
        """6 when the registry lacks anything, else the common code of what kept it from telling, else 1."""
        return Exit.UNVERIFIED if self.lacking else common_exit(doubt.exit for doubt in self.unknown)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "verify",
            "exit_code": int(self.exit),
            "error": None,
            "findings": [],
            "bundle": str(self.bundle),
            "images": self.check.images,
            "missing": [{"name": each.name, "reason": each.reason} for each in self.missing],
            "manifests": self.check.manifests,
            "blobs": self.check.blobs,
            "bytes": self.check.bytes,
            "bytes_file": self.check.file_size,
            "bytes_padding": self.check.padding,
            "unreferenced": [str(digest) for digest in self.check.unreferenced],
            "digests": self.check.has_digests,
            "nameless": list(self.check.nameless),
            "foreign_layers": self.check.foreign,
            "bytes_foreign": self.check.bytes_foreign,
            "assumed": self.check.assumed,
            "bytes_assumed": self.check.bytes_assumed,
            "extras": list(self.check.extras),
            "notes": list(self.check.notes),
            "registry": self.registry,
            "checked": self.checked,
            "lacking": [{"name": str(lacking.name), "problem": lacking.problem} for lacking in self.lacking],
            "unknown": [
                {"problem": doubt.problem, "names": [str(name) for name in doubt.names]} for doubt in self.unknown
            ],
            "seconds": round(self.seconds, 3),
            "signed": self.signed,
        }


async def verify(
    file: str | Path | BundleUrl | Bundle,
    registry: str | RegistryAddress | None = None,
    *,
    mapping: NameMapping | None = None,
    given: GivenName | None = None,
    settings: RegistrySettings | None = None,
    concurrency: int = WORKERS,
    emit: Emit | None = None,
) -> VerifyResult:
    """Hash the bundle ``file``, a path, an address or an open one, again and account for every byte of it.

    With ``registry`` each image, with all its children and blobs, must be there under its digest, and each referrer
    among those that its subject lists; what is not is listed in the result, and apart from it what the registry did
    not tell.  ``given`` names what has no full name in the file, and ``emit`` hears of what holds requests up.  Raises
    ``InvalidBundle`` with all that is wrong with the file, ``UsageError`` for a missing file, one in which no image has
    a name, or names that collide.
    """
    began = time.monotonic()
    address = RegistryAddress.parse(registry) if isinstance(registry, str) else registry
    async with (
        open_heard(settings, emit) as registries,
        nullcontext(file)
        if isinstance(file, Bundle)
        else open_place(bundle_place(file), given, registries, may_lack=True) as bundle,
    ):
        require_names(bundle)
        require_content(bundle)
        check = await verify_bundle(bundle)
        await to_thread.run_sync(check_definition, bundle)
        if address is not None:
            delivery = Delivery(address=address, mapping=mapping)
            result = await verify_at(registries, delivery, bundle, check, concurrency=concurrency)
        else:
            missing, wanted = missing_in(bundle)
            result = VerifyResult(bundle=bundle.path, check=check, missing=tuple(missing), wanted=wanted, seconds=0)
    return structs.replace(result, seconds=time.monotonic() - began)


async def verify_at(
    registries: Registries, delivery: Delivery, bundle: Bundle, check: BundleCheck, *, concurrency: int = WORKERS
) -> VerifyResult:
    """Ask one registry for all of ``bundle``, which is open and whose ``check`` went well.

    Raises ``UsageError`` for names that collide; a registry that cannot be asked is in the result.
    """
    began = time.monotonic()
    questions = list(_questions(bundle, delivery.names(image.reference for image in bundle.images)))
    registries.registry(delivery.address.host, plain_http=delivery.address.plain_http)
    lacking, unknown = await _ask(questions, registries, concurrency)
    missing, wanted = missing_in(bundle)
    return VerifyResult(
        bundle=bundle.path,
        check=check,
        missing=tuple(missing),
        wanted=wanted,
        registry=str(delivery.address),
        checked=len(questions),
        lacking=lacking,
        unknown=unknown,
        seconds=time.monotonic() - began,
    )


class _Question(Struct, frozen=True):
    """The check that ``descriptor`` is at ``name``, or that its ``subject`` lists it as a referrer there."""

    name: Reference
    descriptor: Descriptor
    is_blob: bool = False
    subject: Digest | None = None


def _questions(bundle: Bundle, names: Mapping[Reference, Reference]) -> Iterator[_Question]:
    """Each image by its name, each part of it once in its repository, and each referrer at its subject."""
    asked: set[tuple[str, Digest]] = set()
    for image in bundle.images:
        name = names[image.reference]
        yield _Question(name, image.descriptor)
        root = bundle.manifest_by_digest(image.descriptor.digest, image.descriptor.media_type)
        if root.subject and (name.name, image.descriptor.digest) not in asked:
            yield _Question(name.at(image.descriptor.digest), image.descriptor, subject=root.subject.digest)
        asked.add((name.name, image.descriptor.digest))
        yield from _parts(bundle, root, name, asked)


def _parts(bundle: Bundle, root: AnyManifest, name: Reference, asked: set[tuple[str, Digest]]) -> Iterator[_Question]:
    descent = Descent(name, bundle.brings)
    descent.enter(root)
    for child, is_manifest in descent:
        if (name.name, child.digest) in asked:
            continue
        asked.add((name.name, child.digest))
        if is_manifest:
            manifest = bundle.manifest_by_digest(child.digest, child.media_type)
            descent.enter(manifest)
            if manifest.subject:
                yield _Question(name.at(child.digest), child, subject=manifest.subject.digest)
        yield _Question(name.at(child.digest), child, is_blob=not is_manifest)


async def _ask(
    questions: list[_Question], registries: Registries, concurrency: int
) -> tuple[tuple[Gap, ...], tuple[Doubt, ...]]:
    gaps: dict[int, Gap] = {}
    failures: dict[int, SyncerError] = {}
    send, receive = anyio.create_memory_object_stream[tuple[int, _Question]](max_buffer_size=concurrency)

    async def work(jobs: MemoryObjectReceiveStream[tuple[int, _Question]]) -> None:
        async with jobs:
            async for position, question in jobs:
                try:
                    problem = await _answer(question, registries)
                except SyncerError as error:
                    failures[position] = error
                else:
                    if problem:
                        gaps[position] = Gap(question.name, problem)

    async with anyio.create_task_group() as tasks, send:
        async with receive:
            for _ in range(concurrency):
                tasks.start_soon(work, receive.clone())
        for numbered in enumerate(questions):
            await send.send(numbered)
    failed = [(questions[position].name, error) for position, error in sorted(failures.items())]
    return tuple(gap for _, gap in sorted(gaps.items())), _by_cause(failed)


def _by_cause(failed: Iterable[tuple[Reference, SyncerError]]) -> tuple[Doubt, ...]:
    """One doubt for all errors that say the same, each of its own request."""
    causes: dict[tuple[str, str], list[tuple[Reference, SyncerError]]] = {}
    for name, error in failed:
        cause = str(error).partition(": ")[2] or str(error)
        causes.setdefault((name.registry, cause), []).append((name, error))
    return tuple(
        Doubt(cause if host in cause else f"{host}: {cause}", tuple(name for name, _ in same), same[0][1])
        for (host, cause), same in causes.items()
    )


async def _answer(question: _Question, registries: Registries) -> str | None:
    """The reason why the registry lacks what is asked for; None when it has it.  Raises when it does not tell."""
    name, wanted = question.name, question.descriptor
    if question.is_blob:
        is_there = await registries.repository(name).find_blob(wanted)
        return None if is_there else f"the blob {wanted} is not there"
    try:
        if question.subject is not None:
            is_listed = await registries.lists(name, question.subject, wanted.digest)
            return None if is_listed else f"it is not among the referrers of {question.subject}"
        found = (await registries.resolve(name)).digest
    except NotFound:
        return f"the manifest {wanted} is not there"
    except VerificationError as error:  # it has something else there, which is no manifest
        return str(error)
    return None if found == wanted.digest else f"it is {found.short}, not {wanted.digest.short}"
