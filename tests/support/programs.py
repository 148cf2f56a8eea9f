"""Programs that some tests need and a machine may lack."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

import anyio
import pytest


def needs(program: str) -> str:
    """The path of ``program``; without it the test is skipped by name, and in CI it fails."""
    path = shutil.which(program)
    if path is None:
        reason = f"needs {program}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@dataclass(frozen=True, slots=True)
class Finished:
    """A program's exit code and what it wrote."""

    code: int
    stdout: str
    stderr: str


async def run(program: str, *arguments: str, **environment: str) -> Finished:
    """Run a program that the test needs to its end, with ``environment`` added to ours."""
    ended = await anyio.run_process([needs(program), *arguments], check=False, env=os.environ | environment)
    return Finished(ended.returncode, ended.stdout.decode(), ended.stderr.decode())
