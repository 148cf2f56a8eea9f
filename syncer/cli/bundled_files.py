"""Files that travel in a bundle beside images and charts: cluster definitions and widgets."""

from __future__ import annotations

from pathlib import Path

from anyio import to_thread

from syncer.api.build import check_name
from syncer.api.profiles import PaletteConsole
from syncer.bundle.signature import sign_file
from syncer.errors import InvalidFile, TargetError, UsageError
from syncer.profiles.definition import DefinedFile
from syncer.profiles.file_artifact import defined_file

_PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")  # gzip, zstd; a plain tar says so at its byte 257


async def download_definition(
    console: PaletteConsole | None, *, name: str | None, uids: list[str], directory: Path, private_key: Path | None
) -> Path:
    """Save the cluster definition ``name`` of the profiles ``uids``, and its signature if there is a key.

    Raises ``UsageError`` for what is not said, ``TargetError``, and what the console answers.
    """
    if not name or console is None:
        raise UsageError("the cluster definition has no name", hint="give one with --cluster-definition-name")
    check_name(name)
    if not uids:
        raise UsageError(
            "it is not said which profiles the cluster definition is of",
            hint="name them with --cluster-definition-profile-ids",
        )
    path = directory / f"{name}.tgz"
    try:
        await to_thread.run_sync(lambda: directory.mkdir(parents=True, exist_ok=True))
    except OSError as error:
        raise TargetError(f"{directory} cannot be made: {error.strerror or error}") from None
    await console.download_definition(name, uids, path)
    if private_key:
        await to_thread.run_sync(sign_file, path, private_key)
    return path


def widgets(path: Path) -> DefinedFile:
    """The widget archive at ``path``; raises ``InvalidFile`` unless it is a tar, plain or compressed."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise InvalidFile(path, f"it cannot be read: {error.strerror or error}") from None
    if not start.startswith(_PACKED) and start[257:262] != b"ustar":
        raise InvalidFile(path, "it is no widget archive", hint="make a .tar, .tar.gz or .tar.zst of the widgets")
    return defined_file(path, "custom-ui")
