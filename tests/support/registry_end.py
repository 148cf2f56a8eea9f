"""The registry end as tests use it: settings for a test's registry, blobs in memory and in files, a whole push."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syncer.content import Blob, FileBlob, Pieces, PourableBlob, Progress
from syncer.oci import Descriptor, Digest, Manifest, Reference, parse_manifest
from syncer.registry import (
    Credential,
    CredentialSettings,
    Registries,
    RegistryAddress,
    RegistrySettings,
    RegistryTarget,
    open_registries,
)
from syncer.transport import HostSettings, Limits, Proxies, TransportSettings
from tests.support.images import Image
from tests.support.registries import Registry

QUICK = Limits(backoff=0.001, longest_backoff=0.01, connect=5.0, outage=0.3, idle=5.0, stall=5.0, commit=5.0)
"""As in earnest, but for the waiting."""


def settings_for(
    *registries: Registry, limits: Limits = QUICK, proxies: Proxies | None = None, **more: Any
) -> RegistrySettings:
    """How to reach test registries: their authorities, client certificates, and the login of the last that has one."""
    hosts = {
        registry.address: HostSettings(
            ca_cert=registry.authority,
            client_cert=registry.client.certificate if registry.client else None,
            client_key=registry.client.key if registry.client else None,
            plain_http=registry.authority is None,
        )
        for registry in registries
    }
    credentials = CredentialSettings()
    for registry in registries:
        login = registry.login or (registry.tokens.login if registry.tokens else None)
        if login:
            credentials = CredentialSettings(logins={registry.address: Credential(login.username, login.password)})
    transport = TransportSettings(limits=limits, hosts=hosts, proxies=proxies or Proxies())
    given: dict[str, Any] = {"transport": transport, "credentials": credentials}
    return RegistrySettings(**(given | more))


def registries_for(
    *registries: Registry, limits: Limits = QUICK, **more: Any
) -> AbstractAsyncContextManager[Registries]:
    """The registry end, able to reach these registries."""
    return open_registries(settings_for(*registries, limits=limits, **more))


def name_at(registry: Registry | str, repository: str, tag: str | None = "v1", digest: str | None = None) -> Reference:
    """A reference to something in a test registry."""
    address = registry if isinstance(registry, str) else registry.address
    return Reference(address, repository, tag, Digest.parse(digest) if digest else None)


def target_at(registries: Registries, registry: Registry | str, **settings: Any) -> RegistryTarget:
    address = registry if isinstance(registry, str) else registry.url
    return registries.target(RegistryAddress.parse(address), **settings)


@dataclass(frozen=True, slots=True)
class StreamBlob:
    """A blob that can only be streamed, as one of another registry."""

    content: bytes
    descriptor: Descriptor
    piece: int = 64 * 1024

    @asynccontextmanager
    async def open(self, offset: int = 0) -> AsyncIterator[Pieces]:
        async def pieces() -> Pieces:
            for start in range(offset, len(self.content), self.piece):
                yield self.content[start : start + self.piece]

        yield pieces()


@dataclass(frozen=True, slots=True)
class LocalBlob(FileBlob):
    """A blob in a local file."""

    path: Path
    descriptor: Descriptor

    def read_into(self, buffer: memoryview, offset: int) -> int:
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.readinto(buffer)

    @asynccontextmanager
    async def open(self, offset: int = 0) -> AsyncIterator[Pieces]:
        async def pieces() -> Pieces:
            yield self.path.read_bytes()[offset:]

        yield pieces()


def blob_of(content: bytes, algorithm: str = "sha256") -> StreamBlob:
    digest = Digest.of(content, algorithm)
    return StreamBlob(content, Descriptor("application/octet-stream", digest, len(content)))


def file_blob(directory: Path, content: bytes) -> LocalBlob:
    blob = blob_of(content)
    path = directory / blob.descriptor.digest.hex
    path.write_bytes(content)
    return LocalBlob(path, blob.descriptor)


async def write(target: RegistryTarget, space: str, blob: Blob, *, force: bool = False) -> bool:
    """``target.write`` with a progress that nobody looks at, but for where it ends."""
    progress = Progress(blob.descriptor)
    is_new = await target.write(space, blob, progress, force=force)
    assert not is_new or progress.done == blob.descriptor.size
    return is_new


async def push_image(target: RegistryTarget, image: Image, names: Sequence[Reference]) -> None:
    """Blobs, manifests, tags: a push without an engine."""
    space = target.space(names[0])
    for content in image.all_blobs().values():
        await write(target, space, blob_of(content))
    for manifest in image.manifests():
        parsed = parse_manifest(manifest.content, manifest.media_type)
        await target.commit(space, parsed, names if manifest is image else ())


async def read(blob: Blob, offset: int = 0) -> bytes:
    """All bytes of a blob from ``offset`` on."""
    async with blob.open(offset) as pieces:
        return b"".join([bytes(piece) async for piece in pieces])


async def pull_image(registries: Registries, reference: Reference) -> dict[str, bytes]:
    """Everything under ``reference``, by digest."""
    manifest = await registries.manifest(reference)
    found = {str(manifest.descriptor.digest): manifest.content}
    for child in manifest.children():
        if isinstance(manifest, Manifest):
            found[str(child.digest)] = await read(registries.blob(reference, child))
        else:
            found |= await pull_image(registries, reference.at(child.digest))
    return found


async def poured(blob: Blob, offset: int = 0) -> bytes:
    """As ``read``, but taken in a worker thread."""
    assert isinstance(blob, PourableBlob)
    content = bytearray()
    await blob.pour(content.extend, offset)
    return bytes(content)
