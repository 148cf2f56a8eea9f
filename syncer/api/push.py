"""The push of a bundle into a registry, and of the definition that says what belongs together."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct, structs

from syncer.api.bundles import BundleSource, bundle_name, find_in_file, lacking_images, opened
from syncer.api.definitions import drop_details, record_stored_names
from syncer.api.delta import DeltaSource, contents_of, find_rest
from syncer.api.result import AssumedThere, PushResult, Run, RunOptions
from syncer.api.state import Lost, OpenTarget, open_target
from syncer.bundle import Bundle, BundleUrl, BundleView, GivenName, Witness, verify_bundle
from syncer.bundle.remote import RemoteBundle
from syncer.content import Item, Source
from syncer.errors import InvalidBundle, SyncerError
from syncer.naming import REPOSITORY, NameMapping, names_at
from syncer.oci import Platform, Reference
from syncer.profiles.definition.artifacts import definition_artifact, open_spool, tag_of
from syncer.profiles.definition.definition import Definition, render_definition
from syncer.registry import (
    Registries,
    RegistryAddress,
    RegistrySettings,
    open_registries,
)
from syncer.transfer.events import Emit, Event, ImageFailed
from syncer.transfer.memory import Contents
from syncer.transfer.run import WORKERS, Options, transfer


class Delivery(Struct, frozen=True, kw_only=True):
    """The place of content in a registry, and its names there."""

    address: RegistryAddress
    mapping: NameMapping | None = None
    platform: Platform | None = None  # taken out of every index
    state: Path | None = None  # a directory in which unfinished uploads are remembered

    def names(self, references: Iterable[Reference]) -> dict[Reference, Reference]:
        """The name of each reference at the registry; raises ``UsageError`` for names that collide."""
        return names_at(self.address.host, self.address.base, references, self.mapping)

    def place(self, items: Iterable[Item], names: Mapping[Reference, Reference]) -> list[Item]:
        """``items`` on their way to ``names``, and reduced to the platform if one is given."""
        platforms = (self.platform,) if self.platform else None
        return [
            structs.replace(item, target=names[item.target], platforms=platforms or item.platforms) for item in items
        ]


async def push(
    file: str | Path | BundleUrl | Bundle,
    registry: str | RegistryAddress,
    *,
    mapping: NameMapping | None = None,
    annotations: Mapping[str, str] | None = None,
    platform: str | Platform | None = None,
    settings: RegistrySettings | None = None,
    state: Path | None = None,
    rehash: bool = False,
    recheck: bool = False,
    concurrency: int = WORKERS,
    run_id: str | None = None,
    emit: Emit | None = None,
) -> PushResult:
    """Send every image of the bundle ``file`` to ``registry`` (``[http://]HOST[:PORT][/BASE]``).

    ``file`` is a path, the address of a file on a web server, or an open bundle.  An image lands at ``BASE`` and its
    full original name unless ``mapping`` says otherwise.  What is there is skipped.  Once all is there, so is the
    definition, as ``BASE/bundle-definition:NAME``.  With ``annotations`` only images that have them are sent.
    ``state`` is a directory in which unfinished uploads are remembered, so that a push that was killed goes on with
    them.  With ``recheck`` all that is below a tag is looked for, though the tag is right: so a registry that lost
    content is mended.  The bundle's structure is checked before anything is sent, and with ``rehash`` every byte of
    it: raises ``InvalidBundle``, and ``UsageError`` for a missing file or names that collide; an image that fails is
    an entry in the report.
    """
    address = RegistryAddress.parse(registry) if isinstance(registry, str) else registry
    return await push_file(
        file,
        Delivery(address=address, mapping=mapping, platform=Platform.of(platform), state=state),
        annotations=annotations,
        settings=settings,
        rehash=rehash,
        options=RunOptions(concurrency=concurrency, run_id=run_id, emit=emit, recheck=recheck),
    )


async def push_file(
    file: str | Path | BundleUrl | Bundle,
    delivery: Delivery,
    *,
    annotations: Mapping[str, str] | None = None,
    given: GivenName | None = None,
    settings: RegistrySettings | None = None,
    rehash: bool = False,
    options: RunOptions | None = None,
) -> PushResult:
    """Push the bundle ``file``, as ``push`` does; ``given`` names what has no name in a file that is not open yet."""
    async with (
        open_registries(settings or RegistrySettings()) as registries,
        opened(file, given, registries=registries, may_lack=True, warn=options.warn if options else None) as bundle,
    ):
        if rehash:
            await verify_bundle(bundle)
        result = await push_to(registries, delivery, bundle, annotations=annotations, options=options)
        if bundle.changed():
            raise changed_meanwhile(bundle)
    return result


def changed_meanwhile(bundle: Bundle) -> InvalidBundle:
    """The error for a file that is not the one any more that was opened."""
    return InvalidBundle(f"{bundle.path} was changed while it was being pushed", hint="push again, from a file at rest")


async def push_to(
    registries: Registries,
    delivery: Delivery,
    bundle: Bundle,
    *,
    annotations: Mapping[str, str] | None = None,
    options: RunOptions | None = None,
) -> PushResult:
    """Push ``bundle``, which is open and was checked, to one target: a run of its own, beside others if need be.

    Raises ``UsageError`` for names that collide, and for ``annotations`` that no image has.
    """
    chosen = find_in_file(bundle, annotations)
    run = Run(options, fetches=isinstance(bundle, RemoteBundle), sends=True)
    run.notices += filter(None, [lacking_images(bundle)])
    return await deliver(chosen, registries, delivery, run, name=bundle_name(bundle))


async def deliver(
    bundle: BundleSource,
    registries: Registries,
    delivery: Delivery,
    run: Run,
    *,
    name: str,
    with_details: bool = True,
    names: Mapping[Reference, Reference] | None = None,
) -> PushResult:
    """Bring ``bundle``, which is called ``name``, into a registry, and its definition when all of it is there.

    ``names`` are those that ``delivery`` gives, where they are known already.  Without ``with_details`` the definition
    has no platforms and sizes, which only a run that copied the images knows.  Of a delta, all that it takes to be
    there is looked for first.  Raises ``UsageError`` for names that collide, and ``AssumedMissing``.
    """
    names = names or delivery.names(item.target for item in bundle.items)
    place, problem = None, None
    lost = Lost(delivery.state or Path(), run.warn)
    target = open_target(registries, delivery.address, delivery.state, lost)
    with run.telling_if_cut(registries, name), target as opened:
        run.goes_to(registries, delivery.address)
        items = delivery.place(bundle.items, names)
        source, there = bundle.source, None
        if isinstance(source, Bundle) and source.assumed is not None:
            source, there = await _locate_rest(source, items, registries, delivery, names=names, opened=opened, run=run)
        await run.transfer(items, source, opened.target, registries, opened.memory)
        report = run.report()
        if bundle.items and not report.failures:
            opened.finish()
            definition = record_stored_names(bundle.definition, names, report.images)
            if not with_details:
                definition = drop_details(definition)
            contents = _contents_there(source, definition)
            try:
                place = await _deliver_definition(definition, contents, delivery.address, opened, run)
            except SyncerError as error:
                problem = error
        report = run.report(registries, registries.host_at(delivery.address))
    return PushResult(
        bundle=name, registry=str(delivery.address), report=report, definition=place, problem=problem, assumed=there
    )


async def _locate_rest(
    delta: Bundle,
    items: Sequence[Item],
    registries: Registries,
    delivery: Delivery,
    *,
    names: Mapping[Reference, Reference],
    opened: OpenTarget,
    run: Run,
) -> tuple[DeltaSource, AssumedThere]:
    """Look for all that ``delta`` takes to be at the target, and remember where it is; raises as ``find_rest`` does."""
    assert delta.assumed is not None
    _warn_of_another_place(delta.assumed.witnesses, delivery, run)
    began = time.monotonic()
    source = await find_rest(delta, items, registries, delivery.address, names=names, concurrency=run.concurrency)
    for digest, space in source.places.items():
        opened.target.note(space, digest)
        opened.memory.remember_location(digest, space)
    there = AssumedThere(
        blobs=len(source.places),
        bytes=sum(blob.size for blob in source.left_out.values()),
        seconds=time.monotonic() - began,
    )
    return source, there


def _warn_of_another_place(lists: Sequence[Witness], delivery: Delivery, run: Run) -> None:
    """Say that a delta was made for another registry, base path or rules of names: it is right all the same."""
    made_for = [witness for witness in lists if witness.registry]
    address = str(delivery.address)
    if not made_for or run.warn is None:
        return
    if address not in {witness.registry for witness in made_for}:
        others = ", ".join(sorted({witness.registry for witness in made_for}))
        run.warn(f"the delta was made for {others}, and goes to {address}, where more may have to be looked for")
    rules = (delivery.mapping or NameMapping()).fingerprint
    if any(witness.mapping not in ("", rules) for witness in made_for if witness.registry == address):
        run.warn("the list that the delta was made with knows other --map rules, so more may have to be looked for")


def _contents_there(source: Source, definition: Definition) -> Contents:
    """What the images of ``definition`` consist of, but for those that were reduced to a platform on their way.

    Only a bundle has all manifests at hand, so that the artifact of its definition is the same in every push.
    """
    bundle = source.bundle if isinstance(source, BundleView) else source
    if not isinstance(bundle, Bundle):
        return Contents()
    digests = {entry.digest for entry in definition.entries}
    return contents_of(bundle, [image.descriptor for image in bundle.images if image.descriptor.digest in digests])


async def _deliver_definition(
    definition: Definition, contents: Contents, address: RegistryAddress, opened: OpenTarget, run: Run
) -> Reference:
    """Push ``definition`` as an artifact, asking once where it is there already; raises ``SyncerError``.

    It is no image, so the account of ``run`` does not hear of it.
    """
    base = f"{address.base}/" if address.base else ""
    name = Reference(address.host, f"{base}{REPOSITORY}", tag_of(definition.name))
    manifest, blobs = definition_artifact(render_definition(definition).encode(), contents.render())
    failures: list[SyncerError] = []

    def note(event: Event) -> None:
        if isinstance(event, ImageFailed):
            failures.append(event.error)

    with open_spool() as spool:
        for descriptor in manifest.children():
            spool.add_bytes(blobs[descriptor.digest], descriptor.media_type)
        item = Item(spool.add_artifact(name, manifest), name, referrers=False)
        options = Options(workers=run.concurrency, memory=opened.memory, recheck=run.recheck)
        await transfer([item], spool, opened.target, options=options, emit=note)
    if failures:
        raise failures[0]
    return name
