"""The command as a user runs it: a process, its exit code, and what it prints."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import orjson


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return orjson.loads(self.stdout)


def environment(home: Path) -> dict[str, str]:
    """What a user whose home is ``home`` has in the environment, and nothing else."""
    return {"PATH": os.environ["PATH"], "HOME": str(home)}


async def syncer(*arguments: str | Path, home: Path, stdin: str = "", **variables: str) -> Ran:
    """Run ``syncer`` with ``arguments`` as a user whose home is ``home``; no terminal, no other credentials."""
    process = await anyio.run_process(
        [sys.executable, "-W", "error", "-m", "syncer", *map(str, arguments)],
        input=stdin.encode(),
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(home) | variables,
    )
    ran = Ran(process.returncode, process.stdout.decode(), process.stderr.decode())
    assert "Traceback" not in ran.stderr, ran.stderr
    return ran


async def run_until(home: Path, enough: Callable[[], bool], *arguments: str | Path) -> int | None:
    """Run a command and kill it when ``enough`` says so; its exit code if it ended before."""
    async with await anyio.open_process(
        [sys.executable, "-m", "syncer", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(home),
    ) as process:
        while process.returncode is None and not enough():  # noqa: ASYNC110  (a proxy tells nobody)
            await anyio.sleep(0.002)
        if process.returncode is None:
            process.kill()
        await process.wait()
        return process.returncode if process.returncode != -9 else None


_WEIGHED = """
import sys
from pathlib import Path
from syncer.cli import main
code = main(sys.argv[2:])
Path(sys.argv[1]).write_text(Path("/proc/self/status").read_text())
sys.exit(code)
"""


async def weighed(*arguments: str | Path, home: Path) -> tuple[Ran, int]:
    """Run ``syncer`` like ``syncer``, and measure the bytes of memory that its process had at its largest."""
    status = home / "status"
    process = await anyio.run_process(
        [sys.executable, "-W", "error", "-c", _WEIGHED, str(status), *map(str, arguments)],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(home),
    )
    ran = Ran(process.returncode, process.stdout.decode(), process.stderr.decode())
    assert "Traceback" not in ran.stderr, ran.stderr
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return ran, int(peak.split()[1]) * 1024
