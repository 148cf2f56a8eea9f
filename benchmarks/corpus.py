"""The images that everybody moves, as they lie on disk."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from benchmarks.store import DistributionStore


@dataclass(frozen=True, slots=True)
class Image:
    """One image in the corpus: its name without a registry, and what the name points to."""

    repository: str
    tag: str
    media_type: str
    digest: str
    size: int  # bytes of the manifest or index
    manifests: tuple[str, ...]  # digests of the children of an index; none for a manifest
    configs: tuple[str, ...]  # digests of those of its blobs that are configs
    blobs: dict[str, int]  # the sizes, in bytes, by digest

    @property
    def name(self) -> str:
        return f"{self.repository}:{self.tag}"


@dataclass(frozen=True)
class Corpus:
    """Images in the storage of a distribution registry, which is ``directory / "registry"``."""

    name: str
    directory: Path
    images: tuple[Image, ...]

    @property
    def store(self) -> DistributionStore:
        return DistributionStore(self.directory / "registry")

    @cached_property
    def blobs(self) -> dict[str, int]:
        """Each distinct blob's size in bytes, by digest, in the order of the images."""
        return {digest: size for image in self.images for digest, size in image.blobs.items()}

    @cached_property
    def places(self) -> tuple[tuple[str, str], ...]:
        """Each (repository, blob) that a push must bring about, once."""
        return tuple(dict.fromkeys((image.repository, digest) for image in self.images for digest in image.blobs))

    @cached_property
    def layers(self) -> dict[str, int]:
        """The blobs that are no configs."""
        configs = {digest for image in self.images for digest in image.configs}
        return {digest: size for digest, size in self.blobs.items() if digest not in configs}

    @property
    def size(self) -> int:
        """Bytes of the distinct blobs."""
        return sum(self.blobs.values())

    def figures(self) -> dict[str, Any]:
        """What a reader of a result must know about the work."""
        sizes = sorted(self.blobs.values())
        return {
            "images": len(self.images),
            "repositories": len({image.repository for image in self.images}),
            "manifests": sum(len(image.manifests) or 1 for image in self.images),
            "blobs": len(sizes),
            "places": len(self.places),
            "bytes": self.size,
            "referenced_bytes": sum(size for image in self.images for size in image.blobs.values()),
            "median_blob_bytes": int(statistics.median(sizes)),
            "largest_blob_bytes": sizes[-1],
        }

    def write_list(self, registry: str, path: Path) -> Path:
        """An images file for syncer, with the corpus at ``registry``."""
        path.write_text("".join(f"{registry}/{image.name}\n" for image in self.images))
        return path

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The corpus that ``generate.prepare`` made there."""
        document = json.loads((directory / "corpus.json").read_text())
        return cls(document["name"], directory, tuple(map(_image, document["images"])))


def _image(document: dict[str, Any]) -> Image:
    return Image(**{**document, "manifests": tuple(document["manifests"]), "configs": tuple(document["configs"])})
