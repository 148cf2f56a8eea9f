"""The state of this machine between runs: hints in files that are safe to delete, locks, targets with their hints."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from msgspec import Struct, field

from syncer.api.result import for_each
from syncer.content import Item, Source
from syncer.errors import Locked
from syncer.files import lock_holder, remove_abandoned, try_lock, write_whole
from syncer.oci import Digest
from syncer.registry import FileUploadJournal, Registries, RegistryAddress, RegistryTarget, open_upload_journal
from syncer.transfer.discovery import DiscoveryResult, discover
from syncer.transfer.memory import Memory
from syncer.transfer.plan import Tree

if TYPE_CHECKING:
    from syncer.report.forecast import Forecast

_HINT = "--state-dir names another directory"


class Lost:
    """The listener to errors of hints that cannot be kept; it warns of the first, and the run goes on without them."""

    def __init__(self, directory: Path, warn: Callable[[str], None] | None) -> None:
        self._directory = directory
        self._warn = warn

    def __call__(self, error: OSError) -> None:
        warn, self._warn = self._warn, None
        if warn:
            warn(f"{_why(self._directory, error)}: the next run will not know what this one did; {_HINT}")


def _why(directory: Path, error: OSError) -> str:
    return f"{directory} cannot be written ({error.strerror or error})"


@contextmanager
def hold_lock(directory: Path, subject: str, warn: Callable[[str], None]) -> Iterator[Path | None]:
    """Let one run at a time do ``subject``, such as a sync file; raises ``Locked``.

    The lock is the kernel's: it ends with the process, however that ends.  The block gets ``directory``, or None
    where that cannot be written: then there is no lock, of which ``warn`` is told.
    """
    path = _file(directory / "locks", subject, "lock")
    usable: Path | None = directory
    file = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = try_lock(path)
    except OSError as error:
        usable = None
        warn(f"{_why(directory, error)}: nothing is kept for the next run, nor another run kept away; {_HINT}")
    if usable and file is None:
        raise Locked(
            f"another run{lock_holder(path)} is using {subject}", hint="wait for it to end; if it hangs, end it"
        )
    try:
        yield usable
    finally:
        if file is not None:
            os.close(file)


@contextmanager
def open_memory(directory: Path | None, subject: str, lost: Callable[[OSError], None]) -> Iterator[Memory]:
    """Open the memory of earlier runs about the target ``subject``; however the block ends, the next runs have it.

    Without a directory nothing is remembered; ``lost`` is told why nothing can be.
    """
    if directory is None:
        yield Memory()
        return
    path = _file(directory / "targets", subject, "json")
    memory = read_memory(directory, subject)
    before = orjson.dumps(memory.to_json())
    try:
        yield memory
    finally:
        if (after := orjson.dumps(memory.to_json())) != before:
            try:  # a full disk costs the next run some requests, and this one nothing
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_whole(path, after, is_hint=True, by_way_of=_cleared(path.parent))
            except OSError as error:
                lost(error)


@lru_cache
def _cleared(directory: Path) -> Path:
    """``directory`` without what killed runs left there, which is looked for once: thousands of hosts may be in it."""
    remove_abandoned(directory)
    return directory


def read_memory(directory: Path | None, subject: str) -> Memory:
    """The memory of earlier runs about the target ``subject``, for looking only."""
    try:
        content = _file(directory / "targets", subject, "json").read_bytes() if directory else b""
        return Memory.from_json(orjson.loads(content))
    except (OSError, ValueError):
        return Memory()


def _file(directory: Path, subject: str, suffix: str) -> Path:
    return directory / f"{hashlib.sha256(subject.encode()).hexdigest()[:32]}.{suffix}"


class OpenTarget(Struct, frozen=True):
    """A registry as a target, with the memory of earlier runs and the journal of unfinished uploads."""

    target: RegistryTarget
    memory: Memory
    journal: FileUploadJournal | None

    def finish(self) -> None:
        """Note that all content arrived, so that the next run does not check it again."""
        if self.journal:
            self.journal.finished()


@contextmanager
def open_target(
    registries: Registries, address: RegistryAddress, state: Path | None, lost: Callable[[OSError], None]
) -> Iterator[OpenTarget]:
    """Open the registry at ``address`` as a target; without the directory ``state`` nothing is remembered between runs.

    ``lost`` is told when nothing can be.
    """
    with ExitStack() as stack:
        journal = None
        if state is not None:
            journal = stack.enter_context(open_upload_journal(state / "uploads", address.host, lost))
        memory = stack.enter_context(open_memory(state, address.host, lost))
        interrupted = journal is not None and journal.was_interrupted
        yield OpenTarget(registries.target(address, journal=journal, interrupted=interrupted), memory, journal)


class Look(Struct):
    """The look at one registry as a push or a sync to it would find it, of which nothing is changed."""

    target: RegistryTarget
    memory: Memory
    found: list[DiscoveryResult] = field(default_factory=list)
    arrived: dict[tuple[str, Digest], int] = field(default_factory=dict)  # bytes of blobs, by their spaces

    async def discover(self, items: Sequence[Item], source: Source, concurrency: int) -> None:
        """Find out all that is to be known of ``items``, and what of their blobs a run brought that did not end."""
        self.found = await discover(items, source, self.target, memory=self.memory, concurrency=concurrency)
        if not self.target.may_have_begun:
            return
        blobs = {
            (self.target.space(tree.item.target), descriptor.digest): descriptor
            for tree in self.found
            if isinstance(tree, Tree)
            for descriptor in tree.content
            if descriptor.digest not in tree.manifests
        }

        async def ask(blob: tuple[str, Digest]) -> None:
            if arrived := await self.target.arrived(blob[0], blobs[blob]):
                self.arrived[blob] = arrived

        await for_each(blobs, ask, concurrency)

    def add_to(self, forecast: Forecast) -> None:
        """Add all that was found."""
        for each in self.found:
            forecast.add(each, self.target.space(each.item.target), self.memory, self.arrived)


@contextmanager
def look_at(
    registries: Registries, address: RegistryAddress, state: Path | None, *, must_tell: bool = False
) -> Iterator[Look]:
    """Look at the registry at ``address``, with what earlier runs left in the directory ``state``."""
    if state is None:
        yield Look(registries.target(address, must_tell=must_tell), Memory())
        return
    with open_upload_journal(state / "uploads", address.host, looks=True) as journal:
        target = registries.target(address, journal=journal, interrupted=journal.was_interrupted, must_tell=must_tell)
        yield Look(target, read_memory(state, address.host))
