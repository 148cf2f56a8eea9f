"""Standard input, output and error of a command, whatever the command was started with.

Results go to standard output, and what cannot be written there is an error.  Talk goes to standard error: a full disk
behind that loses the talk and nothing else, and a login that somebody wrote into an address is never shown.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from syncer.errors import SyncerError, TargetError, redacted


class ReaderGone(SyncerError):
    """The other end of a pipe was closed, as by ``| head``: nothing to complain about."""

    def __init__(self) -> None:
        super().__init__("nobody reads standard output any more")


class _Stream:
    """A text stream that behaves in all but ``write`` and ``flush`` as the one that it stands for."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _give_up(self) -> None:
        """Lead what is still to come to nowhere: the interpreter writes once more when it ends, and would complain."""
        with suppress(OSError, ValueError):  # a stream in memory has no descriptor
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


class _Results(_Stream):
    def write(self, text: str) -> int:
        if text == "":  # click tries the stream; unbuffered, a full disk refuses nothing at all as well
            return 0
        with self._told():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._told():
            self._stream.flush()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self._give_up()
            raise ReaderGone from None
        except OSError as error:
            self._give_up()
            raise TargetError(f"standard output cannot be written: {error.strerror or error}") from None


class _Talk(_Stream):
    def write(self, text: str) -> int:
        try:
            self._stream.write(redacted(text))
        except OSError:
            self._give_up()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._give_up()


@contextmanager
def standard_streams() -> Iterator[None]:
    """Make standard output raise ``TargetError`` and ``ReaderGone``, and hide logins on standard error, for the block.

    What was closed at the start is opened on ``/dev/null``; else the next file or socket would get its number, and
    libuv ends a process that closes such a one (``uv__close`` wants a descriptor above 2).
    """
    _open_missing()
    kept = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = cast("TextIO", _Results(sys.stdout)), cast("TextIO", _Talk(sys.stderr))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = kept


def _open_missing() -> None:
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)  # noqa: FBT003  it takes no names
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115
