"""The tag that lists a manifest's referrers where a registry has no API for them.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pushing-manifests-with-subject
"""

from __future__ import annotations

import anyio
import orjson

from syncer.errors import NotFound, RegistryError
from syncer.oci import Digest, Manifest, parse_manifest
from syncer.oci.descriptor import OCI_INDEX
from syncer.oci.manifest import AnyManifest, Index
from syncer.registry.repository import Repository, referrers_tag

_ATTEMPTS = 3


class Referrers:
    """Keeps such tags up to date, one writer at a time for each."""

    def __init__(self) -> None:
        self._locks: dict[tuple[str, Digest], anyio.Lock] = {}

    async def add(self, repository: Repository, manifest: AnyManifest) -> None:
        """List ``manifest`` under its subject's tag, unless it is there.

        Another client may write the tag at the same time: it is read again afterwards.
        """
        assert manifest.subject is not None
        subject = manifest.subject.digest
        async with self._locks.setdefault((repository.name, subject), anyio.Lock()):
            for _ in range(_ATTEMPTS):
                listed = await self._listed(repository, subject)
                entry = _entry(manifest)
                if any(other["digest"] == entry["digest"] for other in listed):
                    return
                index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*listed, entry]}
                await repository.put_manifest(referrers_tag(subject), parse_manifest(orjson.dumps(index)))

    async def _listed(self, repository: Repository, subject: Digest) -> list[dict[str, object]]:
        try:
            index = await repository.manifest(referrers_tag(subject))
        except NotFound:
            return []
        if not isinstance(index, Index):
            raise RegistryError(
                f"GET {repository.name}:{referrers_tag(subject)}", 200, ["the tag that lists referrers is no index"]
            )
        document = orjson.loads(index.content)
        entries: list[dict[str, object]] = document["manifests"]
        return entries


def _entry(manifest: AnyManifest) -> dict[str, object]:
    entry = manifest.descriptor.to_json()
    artifact_type = manifest.artifact_type
    if artifact_type is None and isinstance(manifest, Manifest):
        artifact_type = manifest.config.media_type
    if artifact_type:
        entry["artifactType"] = artifact_type
    if manifest.annotations:
        entry["annotations"] = dict(manifest.annotations)
    return entry
