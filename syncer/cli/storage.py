"""What ``syncer serve`` serves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from syncer.errors import UsageError
from syncer.serve import Storage, open_disk


@contextmanager
def open_storage(bundle: Path | None, disk: Path | None) -> Iterator[Storage]:
    """A bundle, a directory, or the bundle beneath the directory; one of them must be given."""
    if bundle is not None or disk is None:
        raise UsageError("not yet")
    with open_disk(disk) as directory:
        yield directory
