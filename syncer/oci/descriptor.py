"""Descriptors, and the media types of manifests and indexes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

from syncer.errors import InvalidContent
from syncer.oci.digest import Digest
from syncer.oci.platform import Platform

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

MANIFEST_TYPES = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEX_TYPES = (OCI_INDEX, DOCKER_LIST)

_NO_ANNOTATIONS: Mapping[str, str] = MappingProxyType({})
_MAX_SIZE = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Descriptor:
    """The name, size in bytes and media type of some content (image-spec descriptor.md)."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=lambda: _NO_ANNOTATIONS, hash=False)
    artifact_type: str | None = None

    @classmethod
    def from_json(cls, document: Any) -> Self:
        """Parse a descriptor; raises ``InvalidContent`` for anything that image-spec forbids."""
        if not isinstance(document, dict):
            raise InvalidContent("a descriptor must be an object")
        media_type, digest, size = (document.get(key) for key in ("mediaType", "digest", "size"))
        if not isinstance(media_type, str) or not media_type:
            raise InvalidContent("a descriptor lacks its mediaType")
        if not isinstance(digest, str):
            raise InvalidContent("a descriptor lacks its digest")
        if type(size) is not int or not 0 <= size <= _MAX_SIZE:  # bool is an int, and true is no size
            raise InvalidContent(f"the size of {digest[:160]} must be a whole number of bytes, not {size!r:.40}")
        artifact_type = document.get("artifactType")
        return cls(
            media_type,
            Digest.parse(digest),
            size,
            Platform.from_json(document.get("platform")),
            annotations_from_json(document.get("annotations")),
            artifact_type if isinstance(artifact_type, str) else None,
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON object of image-spec, with the keys in its order."""
        document: dict[str, Any] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.platform:
            parts = {"os": self.platform.os, "architecture": self.platform.architecture}
            document["platform"] = parts | ({"variant": self.platform.variant} if self.platform.variant else {})
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        if self.artifact_type:
            document["artifactType"] = self.artifact_type
        return document

    @property
    def is_index(self) -> bool:
        return self.media_type in INDEX_TYPES

    @property
    def is_manifest(self) -> bool:
        """True for content with children: an image manifest or an index."""
        return self.media_type in MANIFEST_TYPES or self.is_index

    @property
    def is_distributable(self) -> bool:
        """False for a foreign layer, which stays at its vendor (image-spec layer.md, non-distributable)."""
        return "nondistributable" not in self.media_type and ".foreign." not in self.media_type

    def __str__(self) -> str:
        return f"{self.digest.short} ({self.size} bytes)"


def annotations_from_json(document: Any) -> Mapping[str, str]:
    """Parse annotations, which map strings to strings; raises ``InvalidContent``."""
    if document is None:
        return _NO_ANNOTATIONS
    if not isinstance(document, dict) or not all(isinstance(value, str) for value in document.values()):
        raise InvalidContent("annotations must map strings to strings")
    return MappingProxyType(document)
