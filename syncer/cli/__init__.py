"""The command line: the only place that sees everything."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from syncer.errors import Exit, SyncerError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code, whose meanings are ``errors.Exit``."""
    from syncer.cli.app import run_app  # noqa: PLC0415  what a command needs is imported when it is run

    try:
        return run_app(list(sys.argv[1:] if argv is None else argv))
    except SyncerError as error:
        complain(error)
        return error.exit
    except BrokenPipeError:  # `syncer … | head`
        sys.stderr.close()
        return Exit.OK
    except KeyboardInterrupt:
        return Exit.INTERRUPTED


def complain(error: SyncerError) -> None:
    """One sentence on stderr, and what to do next."""
    print(f"error: {error}", file=sys.stderr)  # noqa: T201  talk goes to stderr
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)  # noqa: T201
