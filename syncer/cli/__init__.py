"""The command line: the only place that sees everything."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

from syncer import __version__
from syncer.errors import Exit, SyncerError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code, whose meanings are ``errors.Exit``."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words in (["version"], ["--version"]):  # the parser alone takes longer to import than scripts like to wait
        print(__version__)  # noqa: T201
        return Exit.OK
    gc.set_threshold(20_000, 50, 100)  # Python's own has it look through all modules again and again as they come in
    from syncer.cli.app import run_app  # noqa: PLC0415  what a command needs is imported when it is run

    try:
        return run_app(words)
    except SyncerError as error:
        complain(error)
        return error.exit
    except BrokenPipeError:  # `syncer … | head`; the interpreter flushes once more when it ends, and would complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.INCOMPLETE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED


def complain(error: SyncerError) -> None:
    """One sentence on stderr, and what to do next."""
    print(f"error: {error}", file=sys.stderr)  # noqa: T201  talk goes to stderr
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)  # noqa: T201
