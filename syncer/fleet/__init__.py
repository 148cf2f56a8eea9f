"""A fleet: one bundle for many sites, in one process or on many machines (docs/fleet.md).

``queue`` decides which site begins next, ``deploy`` opens the bundle and the connections once and goes to the sites,
``visits`` has the work at one of them, ``dask`` has the workers of a cluster go there, ``result`` has what became of
each, and the account of the whole; ``journal`` remembers which have all of a bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, Self, TypeAlias

from msgspec import Struct, field, structs
from msgspec.structs import replace

from syncer import __version__
from syncer.api.bundles import bundle_identity
from syncer.api.result import new_run_id
from syncer.bundle import Bundle, BundleCheck, BundleUrl, GivenName
from syncer.errors import UsageError
from syncer.formats.units import CountOrShare
from syncer.naming import NameMapping
from syncer.oci import Digest, Platform
from syncer.profiles.syncfile.site import Site, select_sites
from syncer.registry import RegistryAddress, RegistrySettings
from syncer.report.summary import Reported
from syncer.transfer.events import Emit
from syncer.transfer.run import WORKERS

if TYPE_CHECKING:
    from syncer.fleet.result import FleetResult, SiteResult
    from syncer.fleet.visits import Visit


AT_ONCE = 64
"""The default number of sites that run at the same time."""

Command: TypeAlias = Literal["push", "plan", "verify"]


def name_sites(
    given: Iterable[str | RegistryAddress | Site], mapping: NameMapping | None = None, *, place: str = ""
) -> list[Site]:
    """The sites that ``given`` names; a registry is a site that is called by its address.

    ``mapping`` comes before the names that a site has of its own, and ``place`` says where registries are named.
    Raises ``UsageError`` for a registry that is named twice.
    """
    sites: dict[str, Site] = {}
    for each in given:
        site = each if isinstance(each, Site) else _site_at(each, place)
        if site.key in sites:
            raise UsageError(f"the registry {site.key} is named twice")
        sites[site.key] = replace(site, mapping=mapping.before(site.mapping)) if mapping else site
    return list(sites.values())


def _site_at(registry: str | RegistryAddress, place: str) -> Site:
    address = RegistryAddress.parse(registry) if isinstance(registry, str) else registry
    return Site(name=str(address), registry=address.written, place=place)


def read_targets(
    path: Path,
    settings: RegistrySettings | None,
    environment: Mapping[str, str],
    *,
    only: Sequence[str] = (),
    excluded: Sequence[str] = (),
    warn: Callable[[str], None] | None = None,
) -> tuple[list[Site], RegistrySettings]:
    """The sites that ``only`` and ``excluded`` choose of a targets file, and ``settings`` with those of the file.

    Without ``settings`` those of the file are looked up elsewhere, and its logins need not be here.
    Raises ``InvalidFile`` with all its mistakes, and as ``select_sites`` does.
    """
    from syncer.api.sources import sync_settings  # noqa: PLC0415  few runs read such a file
    from syncer.profiles.syncfile.sites import read_sites  # noqa: PLC0415  likewise

    file = read_sites(path, environment, logins_here=settings is not None)
    settings = RegistrySettings() if settings is None else sync_settings(file, settings, environment)
    if warn:
        for warning in file.warnings:
            warn(warning)
    return select_sites(file.sites, only=only, excluded=excluded), settings


class Watcher(Protocol):
    """Hears of the sites of a run as they begin and end; its methods must not block."""

    def begin(self, site: Site) -> Emit | None:
        """Note that ``site`` begins; returns who hears of the events there."""
        ...

    def end(self, result: SiteResult, report: Reported | None, *, is_last: bool) -> None:
        """Note that a site has ended; ``report`` has its images, or what it lacks of a verification.

        Where that is not its last word, it is visited once more at the end of the run.
        """
        ...


class Unwatched:
    """The watcher for whom nobody waits."""

    def begin(self, site: Site) -> Emit | None:  # noqa: ARG002
        return None

    def end(self, result: SiteResult, report: Reported | None, *, is_last: bool) -> None:
        """Do nothing."""


class FleetOptions(Struct, frozen=True, kw_only=True):
    """The options of a run over many sites."""

    at_once: int = AT_ONCE  # sites that run at the same time
    concurrency: int = WORKERS  # pieces of content in flight at one site, at most
    most_failed: CountOrShare | None = None  # None: however many fail, the others are begun
    timeout: float | None = None  # seconds, after which no site is begun, and what runs is ended at its next request
    platform: Platform | None = None  # taken out of every index
    state: Path | None = None  # a directory in which unfinished uploads are remembered
    annotations: Mapping[str, str] | None = None  # of a push or its plan: only images that have them are sent
    rehash: bool = False  # of a push: every byte of the bundle is checked before anything is sent
    recheck: bool = False  # of a push, as in RunOptions
    trust_journal: bool = (
        False  # of a push or its plan: nothing is asked of sites that an earlier run brought everything
    )
    read_window: int | None = None  # of a push: bytes by which a site may read ahead of another; None: chosen, 0: any
    run_id: str = field(default_factory=new_run_id)
    watcher: Watcher = field(default_factory=Unwatched)
    warn: Callable[[str], None] | None = None  # is told what works and may not be meant
    on_cut: Callable[[FleetResult], None] | None = None  # is told how far a run came that was cancelled


class Errand(Struct, frozen=True, kw_only=True):
    """The work of a run at each of its sites, as another process is told of it: there is no login in it."""

    command: Command
    file: Path | BundleUrl  # of the bundle, as the other process can open it
    given: GivenName | None = None  # names what has no name in it
    identity: Digest  # of the bundle, by which a worker knows that it has the same one
    options: FleetOptions  # without those who listen
    check: BundleCheck | None = None  # of a verification: what the bundle was found to be
    bytes_per_second: float | None = None  # to and from all sites together
    version: str = __version__

    @classmethod
    def of(
        cls,
        command: Command,
        bundle: Bundle,
        given: GivenName | None,
        settings: RegistrySettings | None,
        options: FleetOptions,
        *,
        check: BundleCheck | None = None,
    ) -> Self:
        """The work of a run, with nothing of ``settings`` but a number, and without those who listen."""
        return cls(
            command=command,
            file=bundle.path.absolute() if isinstance(bundle.path, Path) else bundle.path,
            given=given,
            identity=bundle_identity(bundle),
            options=structs.replace(options, watcher=Unwatched(), warn=None, on_cut=None),
            check=check,
            bytes_per_second=settings.transport.bytes_per_second if settings else None,
        )


class Workplace(Struct, frozen=True, kw_only=True):
    """The part of a run that is a machine's own: its logins, certificates and proxies, and the hints that it keeps."""

    settings: RegistrySettings = field(default_factory=RegistrySettings)
    state: Path | None = None  # a directory in which unfinished uploads are remembered; None: that of the run


MakeWorkplace: TypeAlias = Callable[[], Workplace]
"""Makes the workplace on a worker, of its own files and environment: a function that is found by its name there, or a
``functools.partial`` of one.  What it is bound to is sent, and must hold no login."""


class Runner(Protocol):
    """A place where sites are visited, instead of this process."""

    def open(
        self, errand: Errand, sites: Sequence[Site], *, warn: Callable[[str], None] | None = None
    ) -> AbstractAsyncContextManager[Visit]:
        """Make ready for ``errand`` at ``sites``; the function that visits one of them is good for the block.

        ``warn`` is told what works and may not be meant.  Raises ``UsageError`` where it cannot be done there.
        """
        ...
