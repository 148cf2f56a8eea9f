"""Files and directories that are on the disk when a function returns."""

from __future__ import annotations

import os
from pathlib import Path


def make_directory(path: Path) -> None:
    """A directory, and those above it that are missing."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        _sync(path.parent)


def mark(path: Path) -> None:
    """An empty file, whose name says it all."""
    make_directory(path.parent)
    path.touch()
    _sync(path.parent)


def rename(temporary: Path, path: Path) -> None:
    """Give a finished file its name, at once or not at all."""
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def removed(path: Path) -> bool:
    """Remove a file; False when there is none."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    _sync(path.parent)
    return True
