"""What ``syncer serve`` serves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from syncer.api.served import ServedBundle
from syncer.bundle import check_structure, open_bundle
from syncer.errors import UsageError
from syncer.serve import Storage, open_disk
from syncer.serve.bundled import Bundled
from syncer.serve.layered import Layered


@contextmanager
def open_storage(bundle: Path | None, disk: Path | None) -> Iterator[Storage]:
    """A bundle, a directory, or the bundle beneath the directory.

    Raises ``UsageError`` when neither is given, and ``InvalidBundle``.
    """
    if bundle is None and disk is None:
        raise UsageError(
            "there is nothing to serve", hint="name a bundle with --bundle, a directory with --disk, or both"
        )
    with ExitStack() as stack:
        below = None
        if bundle is not None:
            opened = stack.enter_context(open_bundle(bundle))
            check_structure(opened)
            served = ServedBundle.of(opened)
            below = Bundled.load(served, served.repositories)
        if disk is None:
            assert below is not None
            yield below
        else:
            directory = stack.enter_context(open_disk(disk))
            yield Layered(directory, below) if below else directory
