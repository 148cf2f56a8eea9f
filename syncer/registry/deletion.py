"""Deleting tags (distribution-spec, "Content Management").

Some registries delete a tag; others, Debian's among them, only a manifest by its digest, and with it all of its tags.
"""

from __future__ import annotations

from syncer.errors import TargetError
from syncer.oci import Digest
from syncer.registry.repository import Repository

_DELETED = (200, 202, 204)
_GONE = 404
_BY_DIGEST_ONLY = (400, 405, 501)
"""What registries answer that delete no tag: DIGEST_INVALID, UNSUPPORTED."""


async def delete_tag(repository: Repository, tag: str, digest: Digest, *, is_free: bool) -> bool:
    """Delete ``tag`` if it still points to ``digest``; False when that cannot be done without harm.

    ``is_free`` says that nothing else needs the digest, so that a registry that deletes by digest only may be asked
    to.  Raises ``RegistryError`` when the registry refuses, ``TargetError`` when it took more than the tag.
    """
    current = await repository.current(tag)
    if current is None:
        return True
    if current != digest:
        return False
    answer = await repository.delete_manifest(tag)
    if answer.status in _BY_DIGEST_ONLY:
        if not is_free:
            return False
        answer = await repository.delete_manifest(str(digest))
    elif answer.status in _DELETED and not is_free and await repository.current(str(digest)) is None:
        raise TargetError(
            f"{repository.registry.host} deleted {repository.name}@{digest.short} with its tag {tag}, and other tags "
            "need it",
            hint="sync once more to bring it back, and do not prune there",
        )
    if answer.status not in (*_DELETED, _GONE):
        hint = "the registry's configuration does not allow deletion" if answer.status == 405 else None
        raise await repository.refusal(answer, hint=hint)
    return True
