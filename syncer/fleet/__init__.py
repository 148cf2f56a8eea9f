"""A fleet: one bundle for many sites, in one process (docs/fleet.md).

``queue`` decides which site begins next, ``deploy`` opens the bundle and the connections once and goes to the sites,
``result`` has what became of each, and the account of the whole; ``journal`` remembers which have all of a bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from syncer.api.result import new_run_id
from syncer.formats.units import CountOrShare
from syncer.oci import Platform
from syncer.profiles.syncfile.site import Site
from syncer.report import Report
from syncer.transfer.events import Emit
from syncer.transfer.run import WORKERS

if TYPE_CHECKING:
    from syncer.fleet.result import SiteResult

AT_ONCE = 64
"""The default number of sites that run at the same time."""


class Watcher(Protocol):
    """Hears of the sites of a run as they begin and end; its methods must not block."""

    def begin(self, site: Site) -> Emit | None:
        """Note that ``site`` begins; returns who hears of the events there."""
        ...

    def end(self, result: SiteResult, report: Report | None, *, is_last: bool) -> None:
        """Note that a site has ended; ``report`` has its images, of a push.

        Where that is not its last word, it is visited once more at the end of the run.
        """
        ...


class Unwatched:
    """The watcher for whom nobody waits."""

    def begin(self, site: Site) -> Emit | None:  # noqa: ARG002
        return None

    def end(self, result: SiteResult, report: Report | None, *, is_last: bool) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOptions:
    """The options of a run over many sites."""

    at_once: int = AT_ONCE  # sites that run at the same time
    workers: int = WORKERS  # pieces of content in flight at one site, at most
    most_failed: CountOrShare | None = None  # None: however many fail, the others are begun
    timeout: float | None = None  # seconds, after which no site is begun, and what runs is ended at its next request
    platform: Platform | None = None  # taken out of every index
    state: Path | None = None  # a directory in which unfinished uploads are remembered
    annotations: Mapping[str, str] | None = None  # of a push: only images that have them are sent
    rehash: bool = False  # of a push: every byte of the bundle is checked before anything is sent
    recheck: bool = False  # of a push, as in RunOptions
    trust_journal: bool = False  # of a push: nothing is asked of sites that an earlier run brought everything
    read_window: int | None = None  # of a push: bytes by which a site may read ahead of another; None: chosen, 0: any
    run_id: str = field(default_factory=new_run_id)
    watcher: Watcher = field(default_factory=Unwatched)
    warn: Callable[[str], None] | None = None  # is told what works and may not be meant
