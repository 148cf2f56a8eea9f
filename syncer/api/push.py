"""From a bundle into a registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from syncer.api.held import Held, held_in
from syncer.api.landing import as_landed, land, land_definition, landing
from syncer.api.result import PushResult, accounts, new_run_id, to_all
from syncer.api.target import open_target
from syncer.bundle import check_structure, open_bundle, verify_bundle
from syncer.errors import InvalidBundle, SyncerError
from syncer.oci import Platform
from syncer.profiles.mapping import NameMapping
from syncer.registry import Registries, RegistryAddress, RegistrySettings, open_registries
from syncer.report import Account
from syncer.transfer.events import Emit


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
