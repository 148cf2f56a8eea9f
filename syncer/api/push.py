"""From a bundle into a registry."""

from __future__ import annotations

from pathlib import Path

from syncer.api.result import PushResult, accounts, new_run_id, to_all
from syncer.api.target import open_target
from syncer.bundle import check_structure, open_bundle, verify_bundle
from syncer.content import Item
from syncer.errors import InvalidBundle
from syncer.profiles.mapping import NameMapping
from syncer.registry import RegistryAddress, RegistrySettings, open_registries
from syncer.report import Account
from syncer.transfer.events import Emit
from syncer.transfer.run import Options, transfer


async def push(
    file: str | Path,
    registry: str | RegistryAddress,
    *,
    mapping: NameMapping | None = None,
    settings: RegistrySettings | None = None,
    state: Path | None = None,
    rehash: bool = False,
    workers: int = 32,
    run_id: str | None = None,
    emit: Emit | None = None,
) -> PushResult:
    """Send every image of the bundle ``file`` to ``registry`` (``[http://]HOST[:PORT][/BASE]``).

    An image lands at ``BASE`` and its full original name unless ``mapping`` says otherwise.  What is there
    is skipped.  ``state`` is a directory in which unfinished uploads are remembered, so that a push that was
    killed goes on with them.  The bundle's structure is checked before anything is sent, and with ``rehash``
    every byte of it: raises ``InvalidBundle``, and ``UsageError`` for a missing file or names that collide; an
    image that fails is an entry in the report.
    """
    address = RegistryAddress.parse(registry) if isinstance(registry, str) else registry
    with open_bundle(Path(file)) as bundle:
        if rehash:
            await verify_bundle(bundle)
        else:
            check_structure(bundle)
        references = [image.reference for image in bundle.images]
        named = (mapping or NameMapping()).targets(references, registry=address.host, base=address.base)
        account = Account(run_id=run_id or new_run_id(), fetches=False, sends=True)
        items = [Item(reference, name) for reference, name in named.items()]
        async with open_registries(settings or RegistrySettings()) as registries:
            with open_target(registries, address, state) as opened:
                options = Options(workers=workers, memory=opened.memory)
                await transfer(items, bundle, opened.target, options=options, emit=to_all(account, emit))
                report = account.report(accounts(registries.traffic))
                if not report.failures:
                    opened.finished()
        if bundle.changed():
            raise InvalidBundle(f"{file} was changed while it was being pushed", hint="push again, from a file at rest")
    return PushResult(bundle=Path(file).name.partition(".tar")[0], registry=str(address), report=report)
