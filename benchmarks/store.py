"""The directories of a distribution registry, written without one: a corpus is there before any server runs.

The layout is that of distribution's filesystem driver (its ``registry/storage/paths.go``), which 2.x and 3.x share.
"""

from __future__ import annotations

import hashlib
from pathlib import Path


class DistributionStore:
    """The storage of one registry, under ``root``, which is its ``rootdirectory``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "docker/registry/v2/blobs/sha256"
        self._repositories = root / "docker/registry/v2/repositories"

    def blob(self, digest: str) -> Path:
        """The file of the blob ``sha256:…``."""
        hexadecimal = digest.removeprefix("sha256:")
        return self._blobs / hexadecimal[:2] / hexadecimal / "data"

    def add(self, content: bytes) -> str:
        """Keep ``content``; returns its digest."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        path = self.blob(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return digest

    def adopt(self, file: Path, digest: str) -> None:
        """Keep a finished file, on the same file system, whose digest is known."""
        path = self.blob(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        file.rename(path)

    def link_blob(self, repository: str, digest: str) -> None:
        """Make the blob a part of ``repository``."""
        self._link(f"{repository}/_layers/{_path(digest)}", digest)

    def link_manifest(self, repository: str, digest: str, tag: str | None = None) -> None:
        """Make the manifest, which ``add`` has kept, a part of ``repository``, and name it ``tag``."""
        self._link(f"{repository}/_manifests/revisions/{_path(digest)}", digest)
        if tag is not None:
            self._link(f"{repository}/_manifests/tags/{tag}/current", digest)
            self._link(f"{repository}/_manifests/tags/{tag}/index/{_path(digest)}", digest)

    def _link(self, path: str, digest: str) -> None:
        directory = self._repositories / path
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "link").write_text(digest)


def _path(digest: str) -> str:
    return digest.replace(":", "/")
