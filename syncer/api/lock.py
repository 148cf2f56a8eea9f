"""What a definition's names mean now: digests, platforms and sizes, without a blob being moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from syncer.api.build import Sizes, open_contents
from syncer.api.contents import Supplies
from syncer.api.defined import described, wanted_by
from syncer.api.result import accounts, new_run_id, to_all
from syncer.content import Blob, Progress
from syncer.oci import Descriptor, Digest, Platform, Reference
from syncer.oci.manifest import AnyManifest
from syncer.profiles.definition import Definition
from syncer.registry import RegistrySettings
from syncer.report import Account, Report
from syncer.transfer.events import Emit
from syncer.transfer.run import Options, transfer


@dataclass(frozen=True, slots=True)
class Locked:
    """A definition with what it resolved to; images that failed are ``missing`` in it, and in the report."""

    definition: Definition
    report: Report


async def lock(
    definition: Definition,
    *,
    platform: Platform | None = None,
    supplies: Supplies | None = None,
    settings: RegistrySettings | None = None,
    workers: int = 32,
    emit: Emit | None = None,
) -> Locked:
    """``definition`` with digests, platforms and sizes.  Charts are fetched, since nothing else tells theirs."""
    account, sizes = Account(run_id=new_run_id(), fetches=True, sends=False), Sizes()
    async with open_contents(settings, supplies) as contents:
        found = await wanted_by(definition, contents, supplies or Supplies(), platform=platform, referrers=False)
        tell = to_all(account, sizes, emit)
        for failure in found.failures:
            tell(failure)
        await transfer(found.items, contents, _Nowhere(), options=Options(workers=workers), emit=tell)
        report = account.report(accounts(contents.registries.traffic))
    return Locked(described(definition, found, report, sizes.known), report)


class _Nowhere:
    """A target that claims to have every blob: whatever is brought there is found, and none of it fetched."""

    def space(self, name: Reference) -> str:  # noqa: ARG002  there is one space
        return ""

    async def current(self, name: Reference) -> Digest | None:  # noqa: ARG002  and nothing in it
        return None

    async def reserve(self, space: str, descriptor: Descriptor, manifest: AnyManifest | None) -> None:
        pass

    async def write(self, space: str, blob: Blob, progress: Progress, *, force: bool = False) -> bool:  # noqa: ARG002
        return False

    async def commit(self, space: str, manifest: AnyManifest, names: Sequence[Reference]) -> None:
        pass
