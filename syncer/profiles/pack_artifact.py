"""Packs themselves as artifacts, for a registry from which Palette installs packs.

Palette expects them at ``spectro-packs/archive/NAME:VERSION`` below its base path, in the form that ORAS 1.0
pushes them in (documentation, "Add a Pack to an OCI Registry").
"""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import IO

from syncer.errors import InvalidFile, TargetError
from syncer.oci import Descriptor, Digest, Reference
from syncer.profiles.artifact import EMPTY_CONFIG, TITLE, artifact_manifest, pack_reference
from syncer.profiles.definition import DefinedArchive
from syncer.profiles.spool import Spool

_CONFIG = "application/vnd.unknown.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"


def spool_pack(archive: DefinedArchive, spool: Spool) -> Reference:
    """Put the pack's archive into ``spool``: the file's own bytes, or a directory packed without any time in it.

    Blocks while it reads the disk.  Raises ``InvalidFile`` when the pack is not where the definition says, and
    ``TargetError`` when the spool's disk is full.
    """
    if archive.path is None or not archive.path.exists():
        raise InvalidFile(archive.path or archive.name, f"the archive of pack {archive.name} is not there")
    title = f"{archive.name}-{archive.version}.tar.gz"
    try:
        with tempfile.NamedTemporaryFile(dir=spool.directory, prefix="packing-", delete=False) as file:
            if archive.path.is_dir():
                _pack_up(archive.path, title.removesuffix(".tar.gz"), file)
            else:
                with archive.path.open("rb") as source:
                    shutil.copyfileobj(source, file)
        path = Path(file.name)
        with path.open("rb") as packed:
            digest = hashlib.file_digest(packed, "sha256").hexdigest()
        layer = Descriptor(_LAYER, Digest("sha256", digest), path.stat().st_size, annotations={TITLE: title})
        spool.add_file(path, layer)
    except OSError as error:
        raise TargetError(f"pack {archive.name} cannot be put into the spool: {error.strerror or error}") from None
    config = spool.add_bytes(EMPTY_CONFIG, _CONFIG)
    return spool.add_artifact(pack_reference(archive.name, archive.version), artifact_manifest(config, [layer]))


def _pack_up(directory: Path, prefix: str, target: IO[bytes]) -> None:
    """The regular files below ``directory`` in the order of their names, owned by nobody and of no time."""
    with (
        gzip.GzipFile(filename="", fileobj=target, mode="wb", compresslevel=6, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in sorted(directory.rglob("*"), key=lambda each: each.relative_to(directory).parts):
            if not path.is_file() or path.is_symlink():
                continue
            content = path.read_bytes()
            member = tarfile.TarInfo(f"{prefix}/{path.relative_to(directory).as_posix()}")
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
