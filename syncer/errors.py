"""Every error that syncer raises on purpose; any other exception is a bug.

::

    SyncerError                      exit 1
    ├── UsageError                   exit 2   the command, or a file given to it, is wrong
    │   ├── InvalidReference
    │   ├── InvalidPlatform
    │   ├── InvalidFile                       a file that people write, with its line
    │   └── AlreadyThere                      the output file exists
    ├── NetworkError                 exit 1   no usable answer came
    │   ├── Unreachable                       no connection: DNS, refused, timeout, TLS
    │   │   └── TargetAway            exit 5   nobody takes connections at the target
    │   ├── Interrupted                       the connection broke and retrying did not help
    │   ├── Waiting                           the host asks for a longer pause than is allowed
    │   ├── Unsafe                            a redirect, realm or location that syncer does not follow
    │   └── OutOfFiles                        this process, or its machine, may open no more files
    ├── RegistryError                exit 1   the registry answered with an error status
    │   ├── Denied                   exit 3
    │   ├── NotFound                 exit 4
    │   │   └── NameMissing                   a tag, a repository or a bundle, by its name
    │   └── ChildrenUnknown                   a manifest was refused because its content is missing
    ├── ListIncomplete               exit 1   a list that is not known to be whole
    ├── PlatformMissing              exit 4   an image does not exist for the requested platform
    ├── TargetError                  exit 5   the target (a registry, a disk) refused
    │   └── TargetFull                        the target cannot store anything more
    ├── VerificationError            exit 6
    │   ├── DigestMismatch
    │   │   └── DamagedAtSource               a source gives other bytes than the digest names, each time
    │   ├── InvalidContent                    a digest, descriptor or manifest that breaks the spec
    │   └── InvalidBundle
    │       ├── BundleChanged                 the file of a bundle became another one; the run ends
    │       └── InvalidArchive   exit 2   an archive of another tool that is not whole, or none at all
    └── Locked                       exit 75  another run does the same work now

The message is one sentence for a person.  The hint, when there is one, says what to do next.  Neither of them
holds a secret: a login in what a user or a server wrote is hidden as the error is made.
"""

from __future__ import annotations

import errno
import re
from enum import IntEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


_E = TypeVar("_E", bound=BaseException)
_T = TypeVar("_T")


class Exit(IntEnum):
    """The exit codes of the process; the README explains them."""

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
    """The exit code of a run whose failures have ``codes``.

    The code that all failures share, ``mixed`` when they differ, and 0 when there are none.

    >>> common_exit([Exit.DENIED, Exit.DENIED]), common_exit([Exit.DENIED, Exit.MISSING]), common_exit([])
    (<Exit.DENIED: 3>, <Exit.INCOMPLETE: 1>, <Exit.OK: 0>)
    """
    distinct = set(codes)
    if not distinct:
        return Exit.OK
    return distinct.pop() if len(distinct) == 1 else mixed


HIDDEN = "[hidden]"

_LOGIN = re.compile(
    r"""(?<![^\s/@:"'])([^\s/@:"']+):(/*)      # a scheme, or the name of a user
        [^\s"]*@                              # all that may be a password, which may hold an @ itself
        (?!(?:sha|md|blake)\w*:)              # and not what stands before a digest""",
    re.VERBOSE | re.ASCII,
)


_secrets: set[str] = set()
_SHORTEST_SECRET = 4  # characters; a shorter one would hide half of every line
_TELLING = 12  # characters of a longer one, which messages cut short, give enough of it away


def hide(secrets: Iterable[str]) -> None:
    """Hide ``secrets`` from now on in every error, and in all that this process writes for people."""
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET:
            _secrets.update((secret, repr(secret)[1:-1], quote(secret), quote(secret, safe="")))


def is_anything_hidden() -> bool:
    """Tell whether ``hide`` was told of any secret."""
    return bool(_secrets)


def without_secrets(text: str) -> str:
    """``text`` without the secrets that ``hide`` was told of, in upper or lower case, and without their beginnings."""
    for secret in sorted(_secrets, key=len, reverse=True) if _secrets else ():
        start = re.compile(re.escape(secret[:_TELLING]), re.IGNORECASE)
        at = 0
        while found := start.search(text, at):
            end = found.end()
            rest = secret[_TELLING:]
            end += next(
                (n for n, (a, b) in enumerate(zip(rest, text[end:], strict=False)) if a.lower() != b.lower()),
                min(len(rest), len(text) - end),
            )
            text = f"{text[: found.start()]}{HIDDEN}{text[end:]}"
            at = found.start() + len(HIDDEN)
    return text


def redacted(text: str) -> str:
    """``text`` without known secrets, and without the logins in its addresses, whatever their scheme or lack of one.

    >>> redacted("'http://me:secret@host/app' and host:5000/app:v1@sha256:2cf2 and me:secret@host")
    "'http://[hidden]@host/app' and host:5000/app:v1@sha256:2cf2 and me:[hidden]@host"
    """
    text = without_secrets(text)
    return _LOGIN.sub(rf"\1:\2{HIDDEN}@", text) if "@" in text else text


def printable(text: str) -> str:
    """``text`` on one line and without control characters: what a server or a file holds must not steer a terminal.

    A byte that is no text, as in the name of a file, is shown as an escape, so that any stream takes the result.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    return ascii(character)[1:-1] if "\ud800" <= character <= "\udfff" else " "


def human_bytes(count: float) -> str:
    """``count`` bytes in decimal units, three digits at least: ``1.84 GB``."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        count /= 1000
        if count < 999.5 or unit == "PB":
            break
    return f"{count:.{2 if count < 9.995 else 1 if count < 99.95 else 0}f} {unit}"


class SyncerError(Exception):
    """The root of all errors: a message of one sentence, and a hint or None."""

    exit: ClassVar[Exit] = Exit.INCOMPLETE

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(redacted(message))
        self.hint = hint and redacted(hint)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what there is: a message cannot be taken apart into the arguments that it was made of."""
        cause = self.__cause__ if isinstance(self.__cause__, SyncerError) else None
        return _remake, (type(self), self.args, cause), vars(self)


def _remake(kind: type[SyncerError], args: tuple[Any, ...], cause: SyncerError | None) -> SyncerError:
    error = kind.__new__(kind, *args)
    error.__cause__ = cause
    return error


def refusal_in(error: SyncerError) -> RegistryError | None:
    """The answer of a registry that ``error`` is, or that a target's error was made of; None where there is none."""
    answered = error.__cause__ if isinstance(error, TargetError) else error
    return answered if isinstance(answered, RegistryError) else None


_ASKED = re.compile(r"[A-Z]+ https?://([^/\s]+)/\S*: ")
_OWN = re.compile(r"\b(?:sha(?:256|512):[0-9a-f]{12,}|[0-9][0-9.]* s\b)")  # digests, and seconds to wait


def cause_of(error: SyncerError, names: Iterable[str] = ()) -> str:
    """The cause that ``error`` tells, which is one text for all that fail for it.

    Of a request that was answered badly only the server is left; ``names``, of what failed, become dots, as digests and
    times to wait do.

    >>> cause_of(RegistryError("HEAD http://10.0.0.1:5000/v2/a/manifests/1", 507, ["no space left"]))
    '10.0.0.1:5000: 507 no space left'
    >>> cause_of(PlatformMissing("quay.io/a:1 has no linux/arm64, only linux/amd64"), ["quay.io/a", "quay.io/a:1"])
    '… has no linux/arm64, only linux/amd64'
    """
    text = _OWN.sub("…", _ASKED.sub(r"\1: ", str(error), count=1))
    for name in sorted(names, key=len, reverse=True):
        text = re.sub(rf"(?<![\w./-]){re.escape(name)}(?![\w/-])", "…", text)
    return text


def by_cause(told: Iterable[tuple[str, _T]]) -> list[tuple[str, list[_T]]]:
    """Put what failed together by its causes, each of which is told beside it: the most frequent first."""
    found: dict[str, list[_T]] = {}
    for cause, each in told:
        found.setdefault(cause, []).append(each)
    return sorted(found.items(), key=lambda cause: -len(cause[1]))


def first_in(group: BaseExceptionGroup[_E]) -> _E:
    """The first error of a group, or of a group in it."""
    error = group.exceptions[0]
    return first_in(error) if isinstance(error, BaseExceptionGroup) else error


class UsageError(SyncerError):
    """The command, or a file given to it, is wrong."""

    exit = Exit.USAGE


class InvalidReference(UsageError):
    """A text is not an image reference; the message says which part is wrong."""

    def __init__(self, text: str, problem: str) -> None:
        super().__init__(f"{redacted(text)[:160]!r} is not an image reference: {problem}")
        self.text = redacted(text)
        self.problem = redacted(problem)


class InvalidPlatform(UsageError):
    """A text is not a platform."""


class InvalidFile(UsageError):
    """A file that people write has a mistake, or is not there; the message starts with path and line.

    ``field`` is the place in the document, such as ``sources[0].image``, or empty.  ``more`` are the other mistakes of
    the same file, in the order of their lines, each with its own hint.
    """

    def __init__(
        self,
        path: Path | str,
        problem: str,
        *,
        line: int | None = None,
        field: str = "",
        hint: str | None = None,
        more: Iterable[InvalidFile] = (),
    ) -> None:
        place = f"{path}:{line}" if line is not None else str(path)
        super().__init__(": ".join(filter(None, (place, field, problem))), hint=hint)
        self.path = path
        self.line = line
        self.field = redacted(field)
        self.more = tuple(more)

    @classmethod
    def of(cls, mistakes: Iterable[InvalidFile]) -> InvalidFile:
        """Make one error of all ``mistakes``, of which there is at least one; the first line comes first.

        Those of several files stay together, in the order of the files.
        """
        flat = [each for mistake in mistakes for each in (mistake, *mistake.more)]
        files = {path: number for number, path in enumerate(dict.fromkeys(str(each.path) for each in flat))}
        single = {str(mistake): mistake for mistake in flat}.values()
        first, *others = sorted(single, key=lambda each: (files[str(each.path)], each.line or 0))
        for other in others:
            other.more = ()
        first.more = tuple(others)
        return first

    @property
    def all(self) -> tuple[InvalidFile, ...]:
        """This mistake and the others."""
        return (self, *self.more)


class AlreadyThere(UsageError):
    """The output file exists already, and ``--force`` was not given."""


class NetworkError(SyncerError):
    """The network gave no usable answer."""


class Unreachable(NetworkError):
    """No connection could be made."""


class TargetAway(Unreachable):
    """Nobody takes connections at the target."""

    exit = Exit.TARGET


class Interrupted(NetworkError):
    """A connection broke, and the retries that its request allows did not help."""


class Waiting(NetworkError):
    """The host asks for a longer pause than ``--max-wait`` allows; times are in seconds."""

    def __init__(self, host: str, seconds: float, cap: float) -> None:
        super().__init__(
            f"{host} asks to wait {seconds:.0f} s, longer than the {cap:.0f} s that are allowed",
            hint="run again later, or raise --max-wait",
        )


class Unsafe(NetworkError):
    """A server sends syncer to an address that it does not follow, such as a private one."""


class OutOfFiles(NetworkError):
    """No file and no connection can be opened, of which no server knows anything."""

    def __init__(self) -> None:
        super().__init__(
            "too many files and connections are open at the same time for the limits of this process or machine",
            hint="raise the limit (ulimit -n, LimitNOFILE= of systemd), or lower --concurrency or --at-once",
        )


def is_out_of_files(error: BaseException) -> bool:
    """Tell whether the system says that no more files may be open; of a group, whether one of its errors says so."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(is_out_of_files, error.exceptions))
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


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
        self.problems = tuple(map(redacted, problems))
        self.codes = tuple(codes)


class Denied(RegistryError):
    """The registry does not allow this request with these credentials, or without any."""

    exit = Exit.DENIED


class NotFound(RegistryError):
    """The registry does not have the requested content."""

    exit = Exit.MISSING


class NameMissing(NotFound):
    """A registry has no such tag, repository or bundle; the message says so in words of ours.

    ``nearest`` are the tags that are most like the one that is missing.
    """

    def __init__(
        self, message: str, answered: RegistryError, *, nearest: Sequence[str] = (), hint: str | None = None
    ) -> None:
        super().__init__(answered.request, answered.status, answered.problems, codes=answered.codes, hint=hint)
        self.args = (redacted(message),)
        self.nearest = tuple(nearest)


def no_repository(registry: str, repository: str) -> str:
    """The message of the ``NameMissing`` for a repository, which is the same for all of its tags."""
    return f"{registry} has no repository {repository}"


class ChildrenUnknown(RegistryError):
    """The registry refused a manifest because content that the manifest names is not in the repository.

    ``digests`` are the missing ones as text; empty when the registry does not name them.
    """

    def __init__(self, request: str, status: int, problems: Sequence[str], digests: Sequence[str]) -> None:
        super().__init__(request, status, problems)
        self.digests = tuple(digests)


class ListIncomplete(SyncerError):
    """A list that ended, and is not known to be whole: its pages repeat, lead in a circle or to nowhere."""


class PlatformMissing(SyncerError):
    """An image does not exist for the requested platform."""

    exit = Exit.MISSING


class TargetError(SyncerError):
    """The target refused the content."""

    exit = Exit.TARGET


class TargetFull(TargetError):
    """The target cannot store anything more, because its disk is full or not writable; the run ends."""


class VerificationError(SyncerError):
    """Content does not agree with its name or with its format."""

    exit = Exit.UNVERIFIED


class DigestMismatch(VerificationError):
    """The digest or the length of some bytes is not the expected one."""


class DamagedAtSource(DigestMismatch):
    """A source gives content that its digest does not name, and gives it again."""


class InvalidContent(VerificationError):
    """A digest, descriptor or manifest breaks the OCI specification."""


class InvalidBundle(VerificationError):
    """A file is not a bundle, or was damaged or changed after it was written.

    ``findings`` has one sentence for each problem that a check found.
    """

    remedy: ClassVar[str | None] = (
        "copy the file again from where it was built; syncer verify FILE says whether a copy is whole"
    )

    def __init__(self, message: str, *, findings: Sequence[str] = (), hint: str | None = None) -> None:
        super().__init__(message, hint=hint or self.remedy)
        self.findings = tuple(map(redacted, findings))


class BundleChanged(InvalidBundle):
    """The file of a bundle became another one while it was read from a server; the run ends."""

    remedy = None


class InvalidArchive(InvalidBundle):
    """An archive or a directory that another tool wrote is not whole, or holds no images.

    It is a file that the user named, and no bundle of ours that was damaged: hence the exit code of a wrong argument.
    """

    exit = Exit.USAGE
    remedy = None


class Locked(SyncerError):
    """Another run does the same work at this moment."""

    exit = Exit.LOCKED


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "(a status that HTTP does not define)"
