"""The tags of a target that its profile no longer names; ``api/prune.py`` lists and deletes them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct

from syncer.errors import UsageError
from syncer.formats.units import CountOrShare
from syncer.oci import Digest, Reference
from syncer.oci.referrer_tags import fallback_tag, subject_tag

MOST_DELETED = CountOrShare(count=10, percent=10.0)
"""The most of a target's tags that may go in one run, unless more is allowed."""


class Removal(Struct, frozen=True):
    """A tag that the profile no longer names.

    ``is_free`` says that no kept tag of the repository needs its digest, so that a registry that deletes by digest only
    may delete it.  Otherwise only the tag itself may be deleted.
    """

    name: Reference
    digest: Digest
    is_free: bool


def find_removals(
    listing: Mapping[str, Mapping[str, Digest]],
    wanted: Iterable[Reference],
    *,
    registry: str,
    base: str,
    needs: Mapping[Digest, Collection[Digest]],
    incomplete: Collection[str] = (),
) -> list[Removal]:
    """Find the tags below the path ``base`` of ``registry`` that are not among ``wanted``, sorted by name.

    ``listing`` has the tags of the registry and their digests, by repository.  ``needs`` has, for each index, the
    manifests that it lists.  Repositories in ``incomplete`` are left alone: the tags of their sources could not be
    listed completely.  A signature stays as long as the image that it is about.  Raises ``UsageError`` without a base
    path, since other people may keep images at the root of a registry.
    """
    base = base.strip("/")
    if not base:
        raise UsageError(
            f"nothing is pruned at the root of {registry}: others may keep images there",
            hint="mirror to a path below it: HOST[:PORT]/BASE",
        )
    kept = _by_repository(wanted, registry)
    found: list[Removal] = []
    for repository in sorted(listing):
        if repository.startswith(f"{base}/") and repository not in incomplete:
            found += _of_repository(repository, listing[repository], kept.get(repository, set()), registry, needs)
    return found


def _of_repository(
    repository: str,
    tags: Mapping[str, Digest],
    wanted: set[str | Digest],
    registry: str,
    needs: Mapping[Digest, Collection[Digest]],
) -> list[Removal]:
    kept = {tag for tag in tags if tag in wanted}
    needed = _needed({tags[tag] for tag in kept} | {name for name in wanted if isinstance(name, Digest)}, needs)
    signatures: set[str] = set()
    while found := _about(needed, tags.keys() - signatures):  # a signature may be signed
        signatures |= found
        needed |= _needed({tags[tag] for tag in found}, needs)
    return [
        Removal(Reference(registry, repository, tag), tags[tag], is_free=tags[tag] not in needed)
        for tag in sorted(tags.keys() - kept - signatures)
    ]


def _needed(roots: set[Digest], needs: Mapping[Digest, Collection[Digest]]) -> set[Digest]:
    needed, waiting = set(roots), list(roots)
    while waiting:
        below = set(needs.get(waiting.pop(), ())) - needed
        needed |= below
        waiting += below
    return needed


def _by_repository(wanted: Iterable[Reference], registry: str) -> dict[str, set[str | Digest]]:
    """The tags that must stay, and the digests of manifests without a tag, by repository."""
    kept: dict[str, set[str | Digest]] = {}
    for name in wanted:
        if name.registry == registry:
            parts = kept.setdefault(name.repository, set())
            parts.update(part for part in (name.tag, name.digest) if part is not None)
    return kept


def _about(subjects: Iterable[Digest], tags: Iterable[str]) -> set[str]:
    """The ``tags`` of referrers of one of ``subjects``."""
    fallbacks = set(map(fallback_tag, subjects))
    return {tag for tag in tags if subject_tag(tag) in fallbacks}
