"""The command as a user runs it: a process, its exit code, and what it prints."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import pkgutil
import resource
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.context import ForkServerContext
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

import anyio
import orjson

import syncer as package
from syncer import failpoints


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
    """Run ``syncer`` with ``arguments`` as a user whose home is ``home``; no terminal, no other credentials.

    It is a process of its own, forked from one that has imported all that is ours: a start costs 0.2 seconds of CPU,
    and the tests run thousands of commands.  ``test_startup`` starts each command anew.
    """
    pipes = [os.pipe() for _ in range(3)]
    theirs = [pipes[0][0], pipes[1][1], pipes[2][1]]
    start = _Start(
        tuple(map(str, arguments)),
        environment(home) | variables,
        str(Path.cwd()),
        {limit: resource.getrlimit(limit) for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE)},
    )
    process = _preloaded().Process(target=_run, args=(start, _Streams(theirs)))
    process.start()
    for end in theirs:
        os.close(end)
    outputs: dict[int, bytes] = {}
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, _feed, pipes[0][1], stdin.encode())
            for end in (pipes[1][0], pipes[2][0]):
                tasks.start_soon(_drain, end, outputs)
            await anyio.to_thread.run_sync(process.join, abandon_on_cancel=True)
    except BaseException:
        process.kill()
        raise
    assert process.exitcode is not None
    ran = Ran(process.exitcode, *(outputs[end].decode(errors="surrogateescape") for end in (pipes[1][0], pipes[2][0])))
    assert "Traceback" not in ran.stderr, ran.stderr
    return ran


@dataclass(frozen=True, slots=True)
class _Start:
    arguments: tuple[str, ...]
    environment: dict[str, str]
    directory: str
    limits: dict[int, tuple[int, int]]


class _Streams:
    """The standard streams of a process to be."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = numbers

    def __reduce__(self) -> tuple[Any, ...]:
        return _Given, tuple(map(DupFd, self._numbers))


class _Given:
    """The standard streams that a process was given."""

    def __init__(self, *streams: Any) -> None:
        self.numbers = [stream.detach() for stream in streams]


@cache
def _preloaded() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    ours = [each.name for each in pkgutil.walk_packages(package.__path__, "syncer.")]
    outside = {"syncer.__main__", "syncer.fleet.dask"}  # the first runs the command, the second imports all of Dask
    context.set_forkserver_preload([*(name for name in ours if name not in outside), "pytest", __name__])
    return context


def _run(start: _Start, streams: _Given) -> None:
    """The life of a command in its process."""
    for number, stream in enumerate(streams.numbers):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  which multiprocessing has closed
    os.environ.clear()
    os.environ.update(start.environment)
    os.chdir(start.directory)
    for limit, values in start.limits.items():
        resource.setrlimit(limit, values)
    importlib.reload(failpoints)  # which read the environment when they are imported
    sys.warnoptions[:] = ["error"]
    warnings.simplefilter("error")
    sys.argv = ["syncer", *start.arguments]
    runpy.run_module("syncer", run_name="__main__", alter_sys=True)


def _feed(end: int, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), open(end, "wb") as pipe:
        pipe.write(data)


async def _drain(end: int, outputs: dict[int, bytes]) -> None:
    def read() -> bytes:
        with open(end, "rb") as pipe:
            return pipe.read()

    outputs[end] = await anyio.to_thread.run_sync(read, abandon_on_cancel=True)


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
