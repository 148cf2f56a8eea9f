"""A limit for a block of a test that must not hang: when it is reached, the test fails and says what waits for what.

async with watchdog(10):
    await library.push(…)
"""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import pytest

_OURS = ("syncer", "tests")
_ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def watchdog(seconds: float = 20.0) -> AsyncIterator[None]:
    """Fail the test when its block takes more than ``seconds``, with a line for each task and thread that waits."""
    found: list[str] = []
    with anyio.CancelScope() as scope:

        def bark() -> None:
            found.extend(waits())
            scope.cancel()

        timer = asyncio.get_running_loop().call_later(seconds, bark)
        try:
            yield
        finally:
            timer.cancel()
    if found:
        pytest.fail(f"not done after {seconds:g} s; what waits:\n" + "\n".join(found), pytrace=False)


def waits() -> list[str]:
    """Each task and each thread of ours, with the calls in our code that it is in, the innermost last."""
    tasks = [(task.get_name(), list(_frames(task.get_coro()))) for task in asyncio.all_tasks()]
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    threads = [
        (f"thread {names.get(number, '?')}", [frame for frame, _ in traceback.walk_stack(top)][::-1])
        for number, top in sys._current_frames().items()
        if number != threading.get_ident()
    ]
    return [f"  {name}: {' > '.join(calls)}" for name, frames in (*tasks, *threads) if (calls := _calls(frames))]


def _frames(awaited: Any) -> Iterator[FrameType]:
    """The frames of a coroutine that is suspended, and of all that it waits for."""
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "ag_frame", None)
        frame = frame or getattr(awaited, "gi_frame", None)
        if frame is None:
            return
        yield frame
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "ag_await", None)


def _calls(frames: list[FrameType]) -> list[str]:
    calls = []
    for frame in frames:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(_ROOT) and path.relative_to(_ROOT).parts[0] in _OURS:
            calls.append(f"{path.relative_to(_ROOT)}:{frame.f_lineno} {frame.f_code.co_name}")
    return calls
