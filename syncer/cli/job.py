"""The run of a command: its event loop, the signals that stop it, and its exit code."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import click

from syncer.errors import Exit, OutOfFiles, SyncerError, UsageError

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

    from syncer.api.sync import SyncResult
    from syncer.fleet.dask import DaskRunner


_OPEN_FILES = 65_536  # more than the 256 connections, the files and the clients of a registry ever need
_LEAST_OPEN_FILES = 20
_SECONDS_TO_STOP = 1.8  # after a signal; a file under its final name is whole whenever the process ends
LONGER_TO_STOP = 10.0
"""Seconds after a signal for a run over many sites, each of which has an account to give and connections to close."""

_stopped: list[Exit] = []  # the code of the signal that stopped the run, once one has

_RESUMABLE = "stopped; run the same command again to go on"


def run(
    job: Callable[[], Awaitable[Exit]],
    *,
    farewell: str | None = _RESUMABLE,
    seconds_to_stop: float = _SECONDS_TO_STOP,
) -> None:
    """Run ``job`` to its end or to a signal, and end with its exit code; ``farewell`` is printed after a signal.

    A job that has not stopped within ``seconds_to_stop`` after a signal, or before a second one, is ended as it is.
    """
    options = {"use_uvloop": sys.platform != "win32"}
    allow_open_files()
    gc.freeze()  # what has been imported stays; looking through it again and again is a twentieth of a run's CPU
    gc.set_threshold(20_000, 50, 100)
    gc.enable()
    raise click.exceptions.Exit(anyio.run(_run_until_signal, job, farewell, seconds_to_stop, backend_options=options))


def allow_open_files() -> None:
    """Raise the soft limit on open files as far as the hard one allows; many systems have 1024 for ``select``'s sake.

    Raises ``OutOfFiles`` where the limit is so low that the event loop cannot even begin, which ends the process.
    """
    import resource  # noqa: PLC0415  Windows has none

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # a sandbox may forbid it
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if 0 <= hard < _LEAST_OPEN_FILES:
        raise OutOfFiles


def import_dask(cluster: str) -> tuple[type[DaskRunner], Callable[..., Awaitable[SyncResult]]]:
    """Import the runner of a fleet, and the function that has ``cluster`` do a sync (``dask_sync.sync_there``).

    Raises ``UsageError`` without Dask, and for what names no cluster.
    """
    try:
        from syncer.fleet import dask, dask_sync  # noqa: PLC0415  an extra, and slow to import
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("dask", "distributed"):
            raise
        raise UsageError(
            "--dask needs dask.distributed, which is not installed",
            hint="install syncer with its extra `dask`, or pip install distributed",
        ) from None
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # what matters of it is told in our words
    dask.check_cluster(cluster)
    return dask.DaskRunner, dask_sync.sync_there


async def _run_until_signal(job: Callable[[], Awaitable[Exit]], farewell: str | None, seconds_to_stop: float) -> Exit:
    _stopped.clear()
    result = Exit.INTERRUPTED
    try:
        async with anyio.create_task_group() as tasks:
            await tasks.start(_watch, tasks.cancel_scope, seconds_to_stop)  # before the job imports what it needs
            result = await job()
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if not _stopped:
            raise _first(group) from None
    if _stopped and farewell:
        click.echo(farewell, err=True)
    return _stopped[0] if _stopped else result


def code_of_signal() -> Exit | None:
    """The exit code for the signal that has stopped this run; None while none has."""
    return _stopped[0] if _stopped else None


def cause_of(error: BaseException) -> BaseException:
    """The error that a user is told of: ``error``, or the first of a group of our own."""
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def code_of(error: BaseException) -> Exit:
    """The exit code of a run that ``error`` ends, unless a signal has stopped it."""
    error = cause_of(error)
    if isinstance(error, SyncerError):
        return error.exit
    return Exit.INCOMPLETE if isinstance(error, Exception) else Exit.INTERRUPTED


async def _watch(
    scope: anyio.CancelScope, seconds_to_stop: float, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            code = Exit.INTERRUPTED if number == signal.SIGINT else Exit.TERMINATED
            if _stopped:
                os._exit(code)  # asked twice
            _stopped.append(code)
            deadline = threading.Timer(seconds_to_stop, os._exit, (code,))
            deadline.daemon = True
            deadline.start()
            scope.cancel()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a group of our own errors; a group with a bug in it stays a group."""
    errors = [leaf for leaf in _leaves(group) if not isinstance(leaf, SyncerError)]
    return group if errors else _leaves(group)[0]


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
