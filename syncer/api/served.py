"""A bundle as the registry that it would become by a push without a base path, its definition included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from syncer.api.held import usable_definition_in
from syncer.api.landing import REPOSITORY, landing
from syncer.bundle import Bundle
from syncer.oci import Descriptor, Digest, Reference, parse_manifest
from syncer.oci.manifest import AnyManifest
from syncer.profiles.artifact import definition_artifact, tag_of
from syncer.profiles.definition import render_definition

_HERE = "registry.invalid"  # whoever asks knows where the registry is, and nothing depends on it


@dataclass(frozen=True, slots=True)
class ServedImage:
    """An image, or the definition."""

    reference: Reference
    descriptor: Descriptor


@dataclass(frozen=True, slots=True)
class ServedBundle:
    """The content of a bundle, and its definition as an artifact, which lies nowhere in the file."""

    bundle: Bundle
    images: Sequence[ServedImage]
    repositories: Mapping[Reference, str]  # where each image is
    made: Mapping[Digest, bytes]

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        """Raises ``UsageError`` for names that collide."""
        named = landing(None, "").targets((image.reference for image in bundle.images), registry=_HERE)
        definition = usable_definition_in(bundle)
        manifest, made = definition_artifact(render_definition(definition).encode())
        name = Reference(_HERE, REPOSITORY, tag_of(definition.name))
        images = [ServedImage(image.reference, image.descriptor) for image in bundle.images]
        repositories = {reference: place.repository for reference, place in named.items()}
        return cls(
            bundle,
            [*images, ServedImage(name, manifest.descriptor)],
            {**repositories, name: REPOSITORY},
            {**made, manifest.descriptor.digest: manifest.content},
        )

    def size(self, digest: Digest) -> int:
        return len(self.made[digest]) if digest in self.made else self.bundle.size(digest)

    def read(self, digest: Digest, offset: int = 0, length: int | None = None) -> bytes:
        if digest in self.made:
            return self.made[digest][offset : None if length is None else offset + length]
        return self.bundle.read(digest, offset, length)

    def manifest_by_digest(self, digest: Digest, media_type: str | None = None) -> AnyManifest:
        if digest in self.made:
            return parse_manifest(self.made[digest], media_type, expected=digest)
        return self.bundle.manifest_by_digest(digest, media_type)
