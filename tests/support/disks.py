"""Disks that refuse."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """Let this process write no file of more than ``limit`` bytes (``ulimit -f``); writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def can_allocate(directory: Path) -> bool:
    """Tell whether the file system of ``directory`` allocates room that nobody has written to (fallocate(1))."""
    command = ["fallocate", "--length", "65536", str(directory / "allocated")]
    return subprocess.run(command, check=False, capture_output=True, timeout=50).returncode == 0
