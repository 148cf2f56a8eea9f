"""Programs that some tests need and a machine may lack."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

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


def needs_built(program: str) -> str:
    """The path of a ``program`` that go builds for `make test-ship`; where go is not, its tests are skipped by name."""
    if shutil.which(program) is None and shutil.which("go") is None:
        pytest.skip(f"needs {program}, or go to build it")
    return needs(program)


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


@asynccontextmanager
async def containerd() -> AsyncIterator[list[str]]:
    """A containerd of the test's own; the start of a command of ``ctr`` that speaks to it."""
    needs("ctr")
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # a socket has a short path
        (config := Path(short) / "config.toml").write_text(
            f'version = 2\nroot = "{short}/root"\nstate = "{short}/state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{short}/socket"\n[ttrpc]\naddress = "{short}/ttrpc"\n'
        )
        process = await anyio.open_process([needs("containerd"), "--config", str(config)])
        async with process:
            assert process.stderr is not None
            said = b""
            with anyio.fail_after(60):
                while b"successfully booted" not in said:
                    said += await process.stderr.receive()
            try:
                yield ["--address", f"{short}/socket"]
            finally:
                process.terminate()
