"""The push of a bundle into a registry, and of the definition that says what belongs together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from syncer.api.bundles import Held, held_in
from syncer.api.definitions import as_landed
from syncer.api.result import PushResult, accounts, new_run_id, to_all
from syncer.api.state import remembered
from syncer.bundle import check_structure, open_bundle, verify_bundle
from syncer.content import Item, Source
from syncer.errors import InvalidBundle, SyncerError
from syncer.files import saving
from syncer.naming import REPOSITORY, NameMapping, landing
from syncer.oci import Platform, Reference
from syncer.profiles.definition.artifacts import definition_artifact, tag_of
from syncer.profiles.definition.definition import (
    Definition,
    render_definition,
)
from syncer.profiles.definition.spool import open_spool
from syncer.registry import (
    FileUploadJournal,
    Registries,
    RegistryAddress,
    RegistrySettings,
    RegistryTarget,
    open_registries,
    open_upload_journal,
)
from syncer.report import Account
from syncer.transfer.events import Emit, Event, ImageFailed
from syncer.transfer.memory import Memory
from syncer.transfer.run import Options, transfer


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Where content goes in a registry, and how it is sent."""

    address: RegistryAddress
    mapping: NameMapping | None = None
    platform: Platform | None = None  # taken out of every index
    state: Path | None = None  # where unfinished uploads are remembered
    workers: int = 32
    run_id: str | None = None
    emit: Emit | None = None


async def push(
    file: str | Path,
    registry: str | RegistryAddress,
    *,
    mapping: NameMapping | None = None,
    annotations: Mapping[str, str] | None = None,
    platform: Platform | None = None,
    settings: RegistrySettings | None = None,
    state: Path | None = None,
    rehash: bool = False,
    workers: int = 32,
    run_id: str | None = None,
    emit: Emit | None = None,
) -> PushResult:
    """Send every image of the bundle ``file`` to ``registry`` (``[http://]HOST[:PORT][/BASE]``).

    An image lands at ``BASE`` and its full original name unless ``mapping`` says otherwise.  What is there
    is skipped.  Once all is there, so is the definition, as ``BASE/bundle-definition:NAME``.  With ``annotations``
    only images that have them are sent.  ``state`` is a directory in which unfinished uploads are remembered, so
    that a push that was killed goes on with them.  The bundle's structure is checked before anything is sent, and
    with ``rehash`` every byte of it: raises ``InvalidBundle``, and ``UsageError`` for a missing file or names that
    collide; an image that fails is an entry in the report.
    """
    address = RegistryAddress.parse(registry) if isinstance(registry, str) else registry
    with open_bundle(Path(file)) as bundle:
        if rehash:
            await verify_bundle(bundle)
        else:
            check_structure(bundle)
        delivery = Delivery(
            address=address,
            mapping=mapping,
            platform=platform,
            state=state,
            workers=workers,
            run_id=run_id,
            emit=emit,
        )
        async with open_registries(settings or RegistrySettings()) as registries:
            result = await deliver(held_in(bundle, annotations), registries, delivery, Path(file).name, fetches=False)
        if bundle.changed():
            raise InvalidBundle(f"{file} was changed while it was being pushed", hint="push again, from a file at rest")
    return result


async def deliver(held: Held, registries: Registries, delivery: Delivery, called: str, *, fetches: bool) -> PushResult:
    """Bring ``held`` into a registry; ``called`` is what a person calls it, ``fetches`` whether a registry has it."""
    address = delivery.address
    targets = [item.target for item in held.items]
    named = landing(delivery.mapping, address.base).targets(targets, registry=address.host, base=address.base)
    account = Account(run_id=delivery.run_id or new_run_id(), fetches=fetches, sends=True)
    place, problem = None, None
    with open_target(registries, address, delivery.state) as opened:
        await land(
            held.items,
            named,
            held.source,
            opened,
            platform=delivery.platform,
            workers=delivery.workers,
            emit=to_all(account, delivery.emit),
        )
        images = account.report().images
        if not account.report().failures:
            opened.finished()
            definition = as_landed(held.definition, named, images)
            try:
                place = await land_definition(definition, address, opened, workers=delivery.workers)
            except SyncerError as error:
                problem = error
        report = account.report(accounts(registries.traffic))
    return PushResult(
        bundle=called.partition(".tar")[0], registry=str(address), report=report, definition=place, problem=problem
    )


async def land(
    items: Sequence[Item],
    named: Mapping[Reference, Reference],
    source: Source,
    opened: OpenTarget,
    *,
    platform: Platform | None = None,
    workers: int,
    emit: Emit,
) -> None:
    """Bring ``items`` to the names that ``named`` has for their targets."""
    platforms = (platform,) if platform else None
    renamed = [replace(item, target=named[item.target], platforms=platforms or item.platforms) for item in items]
    await transfer(renamed, source, opened.target, options=Options(workers=workers, memory=opened.memory), emit=emit)


async def land_definition(
    definition: Definition, address: RegistryAddress, opened: OpenTarget, *, workers: int
) -> Reference:
    """Push ``definition`` as an artifact, asking once where it is there already; raises ``SyncerError``.

    It is no image, so no account hears of it.
    """
    base = f"{address.base}/" if address.base else ""
    name = Reference(address.host, f"{base}{REPOSITORY}", tag_of(definition.name))
    manifest, blobs = definition_artifact(render_definition(definition).encode())
    failures: list[SyncerError] = []

    def note(event: Event) -> None:
        if isinstance(event, ImageFailed):
            failures.append(event.error)

    with open_spool() as spool:
        for descriptor in manifest.children():
            spool.add_bytes(blobs[descriptor.digest], descriptor.media_type)
        item = Item(spool.add_artifact(name, manifest), name, referrers=False)
        options = Options(workers=workers, memory=opened.memory)
        await transfer([item], spool, opened.target, options=options, emit=note)
    if failures:
        raise failures[0]
    return name


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
            with saving(state, hint="name another with --state-dir"):
                journal = stack.enter_context(open_upload_journal(state / "uploads", address.host))
        memory = stack.enter_context(remembered(state, address.host))
        interrupted = journal is not None and journal.was_interrupted
        yield OpenTarget(registries.target(address, journal=journal, interrupted=interrupted), memory, journal)
