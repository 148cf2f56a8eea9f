"""The sync file that ``syncer sync`` works on, which the user wrote or its flags stand for, and its sources."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from syncer.api.sources import Leg, Sources, Warn, open_sources
from syncer.cli.options import LoginOptions, MirrorOptions
from syncer.cli.settings import chart_supplies
from syncer.errors import UsageError
from syncer.formats.units import Shard
from syncer.profiles.syncfile.document import Source, SyncDocument, Target
from syncer.profiles.syncfile.sync_file import SyncFile, read_sync_file
from syncer.registry import RegistryAddress, RegistrySettings

if TYPE_CHECKING:
    from syncer.api.palette import PaletteConsole

_PLACE = Path("the command line")  # where sources stand, for warnings and reports; paths are relative to here


def open_named(
    options: MirrorOptions,
    file: SyncFile,
    settings: RegistrySettings,
    console: PaletteConsole | None,
    say: Warn,
    *,
    shard: Shard | None = None,
    leg: Leg | None = None,
) -> AbstractAsyncContextManager[Sources]:
    """Open the sources of ``file``, which the options name, with all that a command line has for them."""
    return open_sources(
        file,
        settings,
        say,
        supplies=chart_supplies(),
        console=console,
        strict=options.strict,
        environment=os.environ,
        shard=shard,
        leg=leg,
    )


def find_sync_file(
    options: MirrorOptions, targets: Sequence[RegistryAddress], environment: Mapping[str, str]
) -> SyncFile:
    """The sync file that the options name, or that they and ``targets`` are themselves.

    The variables of a file are looked up in ``environment``.  Raises ``UsageError`` and ``InvalidFile``.
    """
    if options.config is None:
        return _make_sync_file(options, targets)
    if options.image or options.images_file or options.profiles or options.profile_file or targets:
        raise UsageError(
            "what to mirror is said by --config or by other flags, not by both",
            hint="put it into the file (docs/sync.md)",
        )
    along = options.along if options.says_along else None
    file = read_sync_file(options.config, environment)
    return file.with_defaults(platform=options.arch, referrers=along, mapping=options.map)


def find_login_target(login: LoginOptions, file: SyncFile) -> RegistryAddress | None:
    """The one target of ``file``, whose login ``login`` is; None for a file with several.

    Raises ``UsageError`` for a login beside several targets.
    """
    if len(file.targets) == 1:
        return RegistryAddress.parse(file.targets[0].registry)
    login.require_one_registry()
    return None


def _make_sync_file(options: MirrorOptions, targets: Sequence[RegistryAddress]) -> SyncFile:
    sources = tuple(_sources(options))
    if not sources or not targets:
        raise UsageError(
            "there is nothing to mirror" if not sources else "it is not said where to mirror to",
            hint="name a sync file with --config, or images with --image and their target with --registry",
        )
    for number, address in enumerate(targets):
        if str(address) in map(str, targets[:number]):
            raise UsageError(f"the registry {address} is named twice")
    document = SyncDocument(
        sources=sources,
        targets=tuple(Target(registry=address.written) for address in targets),
        platforms=(options.arch,) if options.arch else (),
        referrers=options.along,
        map={rule.prefix: rule.replacement for rule in options.map.rules},
    )
    return SyncFile.of(document, _PLACE)


def _sources(options: MirrorOptions) -> Iterator[Source]:
    for reference in options.image:
        yield Source(image=reference)
    for path in options.images_file:
        yield Source(images_file=path)
    for path in options.profile_file:
        yield Source(profile_file=path)
    if options.profiles:
        yield Source(profiles=options.profiles, project_id=options.project_id or None)
