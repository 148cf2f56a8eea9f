"""syncer as its users have it: the command beside this Python, with its bytecode made by the installation."""

from __future__ import annotations

import compileall
import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

_SCRIPT = Path(sys.executable).with_name("syncer")

SYNCER = (str(_SCRIPT),) if _SCRIPT.exists() else (sys.executable, "-m", "syncer")
"""The console script; the module where this Python runs syncer's sources without an installation."""

_NOT_INSTALLED = ("PYTHONDONTWRITEBYTECODE",)


def make_bytecode() -> None:
    """What installing a package does, and an editable installation leaves to the first start of each module."""
    for package in ("syncer", "benchmarks"):
        for directory in importlib.import_module(package).__path__:
            compileall.compile_dir(directory, quiet=2)


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """Ours with what is a command's ``own``, and without what only developers set."""
    return {name: value for name, value in os.environ.items() if name not in _NOT_INSTALLED} | dict(own)
