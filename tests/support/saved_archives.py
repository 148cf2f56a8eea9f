"""Archives as other tools save them, written without the code under test.

``docker_files`` is what `docker save` wrote from 1.10 to 24, and ``haul_files`` what `hauler store save` packs
(hauler-dev/hauler, pkg/store/store.go and cmd/hauler/cli/store/save.go).
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.images import OCI_INDEX, Image

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Files = Mapping[str, bytes | str]
"""Content by name; a text is the target of a symbolic link."""

COMPRESSIONS: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstd.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}


def tar_of(files: Files, *, form: int = tarfile.GNU_FORMAT) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                archive.addfile(entry)
            elif name.endswith("/"):
                entry.type = tarfile.DIRTYPE
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def encoded(document: Any) -> bytes:
    return json.dumps(document).encode()


def config_of(image: Image) -> bytes:
    content: bytes = image.blobs[image.document["config"]["digest"]]
    return content


def layers_of(image: Image) -> list[bytes]:
    """The layers, as they are in the registry."""
    return [image.blobs[layer["digest"]] for layer in image.document["layers"]]


def docker_files(*images: tuple[Sequence[str] | None, Image], links: bool = True) -> dict[str, bytes | str]:
    """The files of `docker save` of old: a directory for each layer, links for those that come again.

    Before version 1.13 they were there again.
    """
    files: dict[str, bytes | str] = {}
    places: dict[bytes, str] = {}
    manifest: list[Any] = []
    repositories: dict[str, dict[str, str]] = {}
    for names, image in images:
        config = config_of(image)
        paths = []
        for number, packed in enumerate(layers_of(image)):
            plain = gzip.decompress(packed)
            folder = hashlib.sha256(config + bytes([number])).hexdigest()
            files |= {f"{folder}/": b"", f"{folder}/VERSION": b"1.0", f"{folder}/json": b"{}"}
            path = f"{folder}/layer.tar"
            files[path] = f"../{places[plain]}" if links and plain in places else plain
            places.setdefault(plain, path)
            paths.append(path)
        files[f"{hashlib.sha256(config).hexdigest()}.json"] = config
        manifest.append({"Config": f"{hashlib.sha256(config).hexdigest()}.json", "RepoTags": names, "Layers": paths})
        for name in names or ():
            repository, _, tag = name.rpartition(":")
            repositories.setdefault(repository, {})[tag] = paths[-1].partition("/")[0]
    files["manifest.json"] = encoded(manifest)
    if repositories:
        files["repositories"] = encoded(repositories)
    return files


def docker_archive(path: Path, *images: tuple[Sequence[str] | None, Image], links: bool = True) -> Path:
    path.write_bytes(tar_of(docker_files(*images, links=links)))
    return path


def layout_files(*entries: tuple[Mapping[str, str], Image], is_whole: bool = True) -> dict[str, bytes | str]:
    """An image layout; ``entries`` are the annotations of each image in ``index.json``."""
    blobs = {digest: blob for _, image in entries for digest, blob in image.all_blobs().items()}
    blobs |= {each.digest: each.content for _, image in entries for each in image.manifests()}
    index = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [image.descriptor() | {"annotations": dict(given)} for given, image in entries],
    }
    files: dict[str, bytes | str] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'} if is_whole else {}
    files |= {f"blobs/{digest.replace(':', '/')}": blob for digest, blob in blobs.items()}
    return files | {"index.json": encoded(index)}


def haul_files(*entries: tuple[str, str, Image]) -> dict[str, bytes | str]:
    """A store of hauler's: the kind, the name with its registry, and the image or what speaks about it."""
    described = [
        (
            {
                "kind": f"dev.hauler/{kind}",
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": name.partition("/")[2],
                "hauler.dev/original-ref": name,
            },
            image,
        )
        for kind, name, image in entries
    ]
    beside = {"audit.log": b"", "store.json": b"{}", "manifest.json": b"[]"}
    return layout_files(*described, is_whole=False) | beside
