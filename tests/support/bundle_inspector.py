"""``python -m tests.support.bundle_inspector BUNDLE``: what is wrong with it, and this process's peak in megabytes."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import anyio

from syncer.bundle import check_structure, open_bundle, verify_bundle
from syncer.errors import InvalidBundle


async def main(path: Path) -> None:
    try:
        with open_bundle(path) as bundle:
            check_structure(bundle)
            await verify_bundle(bundle)
    except InvalidBundle as error:
        print(error)  # noqa: T201 -- what the test reads
    print(peak())  # noqa: T201 -- likewise


def peak() -> int:
    """Megabytes.  On Linux ``getrusage`` counts what the parent had before it became this program."""
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**20


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]))
