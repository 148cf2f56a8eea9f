"""Files as artifacts: what travels in a bundle beside images and charts, such as a cluster definition."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from syncer.errors import InvalidFile, TargetError
from syncer.oci import Descriptor, Digest, Reference
from syncer.profiles.artifact import EMPTY, EMPTY_CONFIG, FILE, FILES_HOST, TITLE, artifact_manifest, repository_of
from syncer.profiles.definition import DefinedFile
from syncer.profiles.spool import Spool

_SHORT = 12  # hexadecimal digits that tell the versions of one file apart


def defined_file(path: Path, kind: str) -> DefinedFile:
    """The file at ``path``, to be called ``files.invalid/KIND/NAME:DIGITS``; raises ``InvalidFile``."""
    digits = _digest(path).hex[:_SHORT]
    return DefinedFile(artifact=Reference.parse(f"{FILES_HOST}/{kind}/{repository_of(path.name)}:{digits}"), path=path)


def spool_file(file: DefinedFile, spool: Spool) -> Reference:
    """Put the file into ``spool``; its name together with its digest.

    Blocks while it reads the disk.  Raises ``InvalidFile`` when the file is not where the definition says, and
    ``TargetError`` when the spool's disk is full.
    """
    if file.path is None or not file.path.is_file():
        raise InvalidFile(file.path or str(file.artifact), "the file is not there")
    try:
        with (
            file.path.open("rb") as source,
            tempfile.NamedTemporaryFile(dir=spool.directory, prefix="file-", delete=False) as copy,
        ):
            shutil.copyfileobj(source, copy)
    except OSError as error:
        raise TargetError(f"{file.path} cannot be put into the spool: {error.strerror or error}") from None
    path = Path(copy.name)
    annotations = {TITLE: file.path.name}
    layer = Descriptor("application/octet-stream", _digest(path), path.stat().st_size, annotations=annotations)
    spool.add_file(path, layer)
    spool.add_bytes(EMPTY_CONFIG, EMPTY.media_type)
    return spool.add_artifact(file.artifact, artifact_manifest(EMPTY, [layer], artifact_type=FILE))


def _digest(path: Path) -> Digest:
    try:
        with path.open("rb") as file:
            return Digest("sha256", hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
        raise InvalidFile(path, f"it cannot be read: {error.strerror or error}") from None
