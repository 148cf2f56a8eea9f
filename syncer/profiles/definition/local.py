"""Making artifacts of files and packs of this machine.

Palette expects packs at ``spectro-packs/archive/NAME:VERSION`` below its base path, in the form in which ORAS 1.0
pushes them (documentation, "Add a Pack to an OCI Registry").
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
from syncer.files import reading, require_room
from syncer.naming import FILES_HOST
from syncer.oci import Descriptor, Digest, Reference
from syncer.profiles.definition.artifacts import (
    EMPTY,
    EMPTY_CONFIG,
    FILE,
    TITLE,
    Spool,
    artifact_manifest,
    pack_reference,
    repository_of,
)
from syncer.profiles.definition.definition import DefinedArchive, DefinedFile

_SHORT = 12  # hexadecimal digits that tell the versions of one file apart

_CONFIG = "application/vnd.unknown.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"


def define_file(path: Path, kind: str) -> DefinedFile:
    """Make an entry for the file at ``path``, named ``files.invalid/KIND/NAME:DIGITS``; raises ``InvalidFile``."""
    digits = _digest(path).hex[:_SHORT]
    return DefinedFile(artifact=Reference.parse(f"{FILES_HOST}/{kind}/{repository_of(path.name)}:{digits}"), path=path)


def spool_file(file: DefinedFile, spool: Spool) -> Reference:
    """Put the file into ``spool``; returns its name with its digest.

    The function blocks while it reads the disk.  It raises ``InvalidFile`` when the file is not where the definition
    says, and ``TargetError`` when the spool's disk is full.
    """
    if file.path is None or not file.path.is_file():
        raise InvalidFile(file.path or str(file.artifact), "the file is not there")
    try:
        layer = _spool_layer(file.path, spool, "application/octet-stream", title=file.path.name)
    except OSError as error:
        raise TargetError(f"{file.path} cannot be put into the spool: {error.strerror or error}") from None
    spool.add_bytes(EMPTY_CONFIG, EMPTY.media_type)
    return spool.add_artifact(file.artifact, artifact_manifest(EMPTY, [layer], artifact_type=FILE))


def _digest(path: Path) -> Digest:
    with reading(path), path.open("rb") as file:
        return Digest("sha256", hashlib.file_digest(file, "sha256").hexdigest())


def spool_pack(archive: DefinedArchive, spool: Spool) -> Reference:
    """Put the pack into ``spool``, as the archive that it is or as a directory packed without times.

    The function returns the pack's name with its digest, and blocks while it reads the disk.  It raises
    ``InvalidFile`` when the pack is not where the definition says, and ``TargetError`` when the spool's disk is full.
    """
    if archive.path is None or not archive.path.exists():
        raise InvalidFile(archive.path or archive.name, f"the archive of pack {archive.name} is not there")
    try:
        layer = _spool_layer(archive.path, spool, _LAYER, title=f"{archive.name}-{archive.version}.tar.gz")
    except OSError as error:
        raise TargetError(f"pack {archive.name} cannot be put into the spool: {error.strerror or error}") from None
    config = spool.add_bytes(EMPTY_CONFIG, _CONFIG)
    return spool.add_artifact(pack_reference(archive.name, archive.version), artifact_manifest(config, [layer]))


def _spool_layer(source: Path, spool: Spool, media_type: str, *, title: str) -> Descriptor:
    """Copy the file ``source``, or pack the directory, into ``spool`` as a layer; raises ``OSError``."""
    if source.is_file():
        require_room(spool.directory, source.stat().st_size, str(source))
    with tempfile.NamedTemporaryFile(dir=spool.directory, prefix="adding-", delete=False) as file:
        if source.is_dir():
            _pack_up(source, title.removesuffix(".tar.gz"), file)
        else:
            with source.open("rb") as content:
                shutil.copyfileobj(content, file)
    path = Path(file.name)
    layer = Descriptor(media_type, _digest(path), path.stat().st_size, annotations={TITLE: title})
    spool.add_file(path, layer)
    return layer


def _pack_up(directory: Path, prefix: str, target: IO[bytes]) -> None:
    """Pack the regular files below ``directory``, sorted by name, without owners and times."""
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
