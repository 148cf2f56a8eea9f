"""The command line, which is the only part that may import all others."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence

from syncer import __version__
from syncer.cli.streams import ReaderGone, standard_streams
from syncer.errors import Exit, InvalidFile, OutOfFiles, SyncerError, is_out_of_files


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
        except KeyboardInterrupt:
            return Exit.INTERRUPTED
        except Exception as error:  # noqa: BLE001  a bug, which is shown here, since logins are hidden here
            if is_out_of_files(error):
                complain(OutOfFiles())
                return OutOfFiles.exit
            import traceback  # noqa: PLC0415

            traceback.print_exc()
            return Exit.INCOMPLETE
    return code


def _run(words: Sequence[str]) -> int:
    if words in (["version"], ["--version"]):  # the parser alone takes longer to import than scripts like to wait
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
        print(f"error: {each}", file=sys.stderr)  # noqa: T201  talk goes to stderr
        if each.hint:
            print(f"hint: {each.hint}", file=sys.stderr)  # noqa: T201
    if left_out := len(mistakes[_MOST_MISTAKES:]):
        print(f"error: there are {left_out:,} more mistakes", file=sys.stderr)  # noqa: T201
