"""Every error syncer raises on purpose; anything else is a bug.

::

    SyncerError                      exit 1
    ├── UsageError                   exit 2   the command, or a file given to it, is wrong
    │   ├── InvalidReference
    │   ├── InvalidPlatform
    │   ├── InvalidFile                       a file that people write, with its line
    │   └── AlreadyThere                      the output exists
    ├── NetworkError                 exit 1   no usable answer came
    │   ├── Unreachable                       no connection: DNS, refused, timeout, TLS
    │   ├── Interrupted                       the connection broke and retrying did not help
    │   ├── Waiting                           the host asks to wait longer than we may
    │   └── Unsafe                            a redirect, realm or location that we will not follow
    ├── RegistryError                exit 1   the registry answered no
    │   ├── Denied                   exit 3
    │   ├── NotFound                 exit 4
    │   └── ChildrenUnknown                   a manifest was refused because content it names is not there
    ├── ListIncomplete               exit 1   a list that is not known to be whole
    ├── PlatformMissing              exit 4   an image is not there for the platform that was asked for
    ├── TargetError                  exit 5   the target (a registry, a disk) refused
    │   └── TargetFull                        it can take nothing more at all
    ├── VerificationError            exit 6
    │   ├── DigestMismatch
    │   ├── InvalidContent                    a digest, descriptor or manifest that breaks the spec
    │   └── InvalidBundle
    └── Locked                       exit 75  another run is at it

The message is one sentence for a person; the hint, when there is one, says what to do next.  Neither
ever holds a secret.
"""

from __future__ import annotations

from enum import IntEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


class Exit(IntEnum):
    """What the process's exit code means."""

    OK = 0
    INCOMPLETE = 1
    USAGE = 2
    DENIED = 3
    MISSING = 4
    TARGET = 5
    UNVERIFIED = 6
    WORK_TO_DO = 10
    LOCKED = 75
    INTERRUPTED = 130
    TERMINATED = 143


def common_exit(codes: Iterable[Exit], *, mixed: Exit = Exit.INCOMPLETE) -> Exit:
    """The exit code of a run whose failures have ``codes``: the one that all share, else ``mixed``; 0 without any.

    >>> common_exit([Exit.DENIED, Exit.DENIED]), common_exit([Exit.DENIED, Exit.MISSING]), common_exit([])
    (<Exit.DENIED: 3>, <Exit.INCOMPLETE: 1>, <Exit.OK: 0>)
    """
    distinct = set(codes)
    if not distinct:
        return Exit.OK
    return distinct.pop() if len(distinct) == 1 else mixed


class SyncerError(Exception):
    """The root: one sentence, and perhaps a hint."""

    exit: ClassVar[Exit] = Exit.INCOMPLETE

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(SyncerError):
    """The command, or a file given to it, is wrong."""

    exit = Exit.USAGE


class InvalidReference(UsageError):
    """A text that is no image reference; the message says which part is wrong."""

    def __init__(self, text: str, problem: str) -> None:
        super().__init__(f"{text!r} is not an image reference: {problem}")
        self.text = text
        self.problem = problem


class InvalidPlatform(UsageError):
    """A text that is no platform."""


class InvalidFile(UsageError):
    """A file that people write does not say what it must."""

    def __init__(self, path: Path | str, problem: str, *, line: int | None = None, hint: str | None = None) -> None:
        super().__init__(f"{path}:{line}: {problem}" if line is not None else f"{path}: {problem}", hint=hint)
        self.path = path
        self.line = line


class AlreadyThere(UsageError):
    """The output exists, and nobody said that it may be replaced."""


class NetworkError(SyncerError):
    """No usable answer came."""


class Unreachable(NetworkError):
    """No connection could be made."""


class Interrupted(NetworkError):
    """A connection broke, and the retries that its request allows did not help."""


class Waiting(NetworkError):
    """The host asks for a longer pause than ``--max-wait`` allows."""

    def __init__(self, host: str, seconds: float, cap: float) -> None:
        super().__init__(
            f"{host} asks to wait {seconds:.0f} s, longer than the {cap:.0f} s that are allowed",
            hint="run again later, or raise --max-wait",
        )


class Unsafe(NetworkError):
    """A server sends us somewhere that we will not go."""


class RegistryError(SyncerError):
    """The registry answered with an error status.

    ``problems`` are the registry's own words; ``codes`` those of the distribution spec, such as
    ``MANIFEST_UNKNOWN``.
    """

    def __init__(
        self,
        request: str,
        status: int,
        problems: Sequence[str] = (),
        *,
        codes: Sequence[str] = (),
        hint: str | None = None,
    ) -> None:
        reason = "; ".join(problems) or _phrase(status)
        super().__init__(f"{request}: {status} {reason}", hint=hint)
        self.request = request
        self.status = status
        self.problems = tuple(problems)
        self.codes = tuple(codes)


class Denied(RegistryError):
    """The credentials, or the lack of them, do not allow this."""

    exit = Exit.DENIED


class NotFound(RegistryError):
    """The registry does not have what was asked for."""

    exit = Exit.MISSING


class ChildrenUnknown(RegistryError):
    """A manifest was refused because content that it names is not in its repository.

    ``digests`` are those the registry named, as text; empty when it named none.
    """

    def __init__(self, request: str, status: int, problems: Sequence[str], digests: Sequence[str]) -> None:
        super().__init__(request, status, problems)
        self.digests = tuple(digests)


class ListIncomplete(SyncerError):
    """A list that ended, and is not known to be whole: its pages repeat, lead in a circle or to nowhere."""


class PlatformMissing(SyncerError):
    """An image is not there for the platform that was asked for."""

    exit = Exit.MISSING


class TargetError(SyncerError):
    """The target refused the content."""

    exit = Exit.TARGET


class TargetFull(TargetError):
    """The target can take nothing more at all: its disk is full or not writable, so the run ends."""


class VerificationError(SyncerError):
    """Content is not what its name says."""

    exit = Exit.UNVERIFIED


class DigestMismatch(VerificationError):
    """Bytes arrived whose digest or length is not the one that was asked for."""


class InvalidContent(VerificationError):
    """A digest, descriptor or manifest that breaks the spec."""


class InvalidBundle(VerificationError):
    """A file that is no bundle, or no longer the one that was written.

    ``findings`` are one sentence for each thing that a check found wrong.
    """

    def __init__(self, message: str, *, findings: Sequence[str] = (), hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.findings = tuple(findings)


class Locked(SyncerError):
    """Another run is at the same work."""

    exit = Exit.LOCKED


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "(a status that HTTP does not define)"
