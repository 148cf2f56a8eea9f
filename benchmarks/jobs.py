"""What every tool is asked to do, and how it says that it cannot."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from benchmarks.corpus import Corpus, Image

_OWN_DIRECTORIES = ("HOME", "DOCKER_CONFIG", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR")


class Step(StrEnum):
    """One piece of work, timed from the start of a process to its end."""

    BUILD = "build"
    VERIFY = "verify"
    PUSH = "push"
    NOOP_PUSH = "no-op push"
    SYNC = "sync"
    NOOP_SYNC = "no-op sync"

    @property
    def needs_target(self) -> bool:
        return self not in (Step.BUILD, Step.VERIFY)

    @property
    def needs(self) -> Step | None:
        """The step that must have been taken before."""
        return _NEEDS.get(self)


_NEEDS = {
    Step.VERIFY: Step.BUILD,
    Step.PUSH: Step.BUILD,
    Step.NOOP_PUSH: Step.PUSH,
    Step.NOOP_SYNC: Step.SYNC,
}


def flat_name(image: Image) -> str:
    """The image's name as a tag: what tells images apart within one layout."""
    return image.name.replace("/", "-").replace(":", "-")


class Cannot(Exception):
    """A tool that cannot do the work; the message says what it lacks."""


@dataclass(frozen=True, slots=True)
class Job:
    """Where the images are, where they go, and a directory of the tool's own."""

    corpus: Corpus
    directory: Path
    source: str  # an address; what it serves is the corpus
    target: str = ""
    authority: Path | None = None  # of the servers' certificates; None for plain HTTP

    @property
    def environment(self) -> dict[str, str]:
        """What makes Go's programs trust the servers, and keeps every tool from its user's settings."""
        trust = {"SSL_CERT_FILE": str(self.authority)} if self.authority else {}
        own = dict.fromkeys(_OWN_DIRECTORIES, str(self.directory))
        return own | trust

    def write(self, name: str, text: str) -> str:
        """A file for the tool; returns its path."""
        path = self.directory / name
        path.write_text(text)
        return str(path)

    def at_source(self, image: Image) -> str:
        return f"{self.source}/{image.name}"

    def to_target(self, image: Image) -> str:
        return f"{self.target}/{image.name}"

    def layout(self, image: Image) -> Path:
        """The image as an OCI layout, sharing its blobs with the corpus."""
        return self.corpus.directory / "layouts" / image.digest.removeprefix("sha256:")


def make_layouts(corpus: Corpus) -> None:
    """An OCI layout for each image, for the tools that push from one; no byte of a blob is copied."""
    directory = corpus.directory / "layouts"
    if directory.exists():
        return
    partial = corpus.directory / "layouts.partial"
    blobs = partial / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    for image in corpus.images:
        for digest in (image.digest, *image.manifests, *image.blobs):
            link = blobs / digest.removeprefix("sha256:")
            if not link.exists():
                os.link(corpus.store.blob(digest), link)
        layout = partial / image.digest.removeprefix("sha256:")
        layout.mkdir()
        (layout / "blobs").symlink_to("../blobs")
        (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        (layout / "index.json").write_text(json.dumps(_index(image)))
    partial.rename(directory)


def _index(image: Image) -> dict[str, Any]:
    descriptor = {
        "mediaType": image.media_type,
        "digest": image.digest,
        "size": image.size,
        "annotations": {"org.opencontainers.image.ref.name": "image"},
    }
    return {"schemaVersion": 2, "manifests": [descriptor]}
