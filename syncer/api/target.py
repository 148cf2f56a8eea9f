"""A registry as a target, with what earlier runs remember of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from syncer.api.state import remembered
from syncer.errors import TargetError
from syncer.registry import (
    FileUploadJournal,
    Registries,
    RegistryAddress,
    RegistryTarget,
    open_upload_journal,
)
from syncer.transfer.memory import Memory


@dataclass(frozen=True, slots=True)
class OpenTarget:
    """The target itself, where its blobs were seen, and the uploads that are under way."""

    target: RegistryTarget
    memory: Memory
    journal: FileUploadJournal | None

    def finished(self) -> None:
        """All arrived: the next run need not ask what is there already."""
        if self.journal:
            self.journal.finished()


@contextmanager
def open_target(registries: Registries, address: RegistryAddress, state: Path | None) -> Iterator[OpenTarget]:
    """The registry at ``address``; without the directory ``state`` nothing is remembered between runs.

    Raises ``TargetError`` when the directory cannot be written.
    """
    with ExitStack() as stack:
        journal = None
        if state is not None:
            try:
                journal = stack.enter_context(open_upload_journal(state / "uploads", address.host))
            except OSError as error:
                raise TargetError(
                    f"{state} cannot be written: {error.strerror}", hint="name another with --state-dir"
                ) from None
        memory = stack.enter_context(remembered(state, address.host))
        interrupted = journal is not None and journal.was_interrupted
        yield OpenTarget(registries.target(address, journal=journal, interrupted=interrupted), memory, journal)
