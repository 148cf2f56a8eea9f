"""What a user writes for where a bundle is: a path, a ``file:///`` URL, or a registry."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from syncer.api.held import StoredBundle
from syncer.errors import UsageError
from syncer.registry import RegistryAddress

_SUFFIXES = (".tar", ".tar.zst", ".zst", ".yaml", ".yml")
_FILE = "file://"


def source_place(text: str) -> Path | StoredBundle:
    """Where a bundle is to come from; raises ``UsageError``."""
    path = _path(text)
    return path if path is not None else StoredBundle.parse(text)


def target_place(text: str) -> Path | RegistryAddress:
    """Where a bundle is to go; raises ``UsageError``."""
    path = _path(text)
    return path if path is not None else RegistryAddress.parse(text)


def is_bundle_name(path: Path) -> bool:
    """Whether ``path`` names a bundle's file, and not the directory that it is to be put into."""
    return path.name.endswith((".tar", ".zst")) and not path.is_dir()


def _path(text: str) -> Path | None:
    """The path that ``text`` is; None for a registry.  What exists, or looks like a file, is a path."""
    if text.startswith(_FILE):
        path = unquote(text.removeprefix(_FILE))
        if not path.startswith("/"):
            raise UsageError(
                f"{text!r} is not a file's URL", hint="it has three slashes: file:///path/to/bundle.tar.zst"
            )
        return Path(path)
    looks_like_one = text.startswith(("/", "./", "../", "~")) or text in (".", "..") or text.endswith(_SUFFIXES)
    if "://" not in text and (looks_like_one or Path(text).exists()):
        return Path(text).expanduser()
    return None
