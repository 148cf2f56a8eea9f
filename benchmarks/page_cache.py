"""Cold or warm: whether what a step reads is in memory when it begins."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if sys.platform == "linux":
    CAN_FORGET = True

    def forget(directory: Path) -> None:
        """Take the files below ``directory`` out of the page cache; what a file system in memory holds stays there."""
        for path in directory.rglob("*"):
            if path.is_file() and not path.is_symlink():
                file = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(file)  # what is not on disk yet could not be dropped
                    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(file)

else:
    CAN_FORGET = False

    def forget(directory: Path) -> None:
        """Do nothing: this system has no way to say it."""
