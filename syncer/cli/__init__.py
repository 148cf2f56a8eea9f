"""The command line, which is the only part that may import all others.

Results go to standard output, and what cannot be written there is an error.  Talk goes to standard error: a full disk
behind that loses the talk and nothing else, and a login that somebody wrote into an address is never shown.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from syncer import __version__
from syncer.errors import Exit, InvalidFile, OutOfFiles, SyncerError, TargetError, is_out_of_files, printable, redacted


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


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code, whose meanings are ``errors.Exit``."""
    words = list(sys.argv[1:] if argv is None else argv)
    with standard_streams():
        try:
            code = _run(words)
            sys.stdout.flush()
        except ReaderGone:
            return Exit.INCOMPLETE
        except SyncerError as error:
            complain(error)
            return error.exit
        except KeyboardInterrupt:  # a job that runs hears of signals itself
            print("stopped before anything was done", file=sys.stderr)  # noqa: T201
            return Exit.INTERRUPTED
        except Exception as error:  # noqa: BLE001  a bug, which is shown here, since logins are hidden here
            if is_out_of_files(error):
                complain(OutOfFiles())
                return OutOfFiles.exit
            sys.__excepthook__(type(error), error, error.__traceback__)
            return Exit.INCOMPLETE
    return code


_VERSION = ("version", "--version", "-V")


def _run(words: Sequence[str]) -> int:
    if len(words) == 1 and words[0] in _VERSION:  # the parser alone takes longer to import than scripts like to wait
        print(__version__)  # noqa: T201
        return Exit.OK
    gc.disable()  # until a job runs: it would look through all modules again and again as they come in
    from syncer.cli.app import run_app  # noqa: PLC0415  what a command needs is imported when it is run

    return run_app(words)


_MOST_MISTAKES = 100


def complain(error: SyncerError) -> None:
    """Print an error and its hint on stderr; of a file with several mistakes, the first hundred."""
    mistakes = error.all if isinstance(error, InvalidFile) else (error,)
    for each in mistakes[:_MOST_MISTAKES]:
        print(printable(f"error: {each}"), file=sys.stderr)  # noqa: T201  talk goes to stderr
        if each.hint:
            print(printable(f"hint: {each.hint}"), file=sys.stderr)  # noqa: T201
    if left_out := len(mistakes[_MOST_MISTAKES:]):
        print(f"error: there are {left_out:,} more mistakes", file=sys.stderr)  # noqa: T201
