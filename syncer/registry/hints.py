"""What to do about a registry's no, where the registry itself does not say."""

from __future__ import annotations

import re

from syncer.errors import RegistryError

_AMAZON = re.compile(r"(?P<account>[0-9]+)\.dkr\.ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")
_FULL = ("quota", "storage limit", "no space")


def is_full(error: RegistryError) -> bool:
    """Whether the registry has no room for more."""
    words = " ".join(error.problems).lower()
    return error.status == 507 or any(sign in words for sign in _FULL)


def hint_for(host: str, repository: str, error: RegistryError) -> str | None:
    """One sentence that helps with ``error`` at ``host``; None when there is nothing to add."""
    if is_full(error):
        return "make room at the registry, or have its quota raised, and run again: what is there is not sent again"
    if error.status == 413:
        return "something in front of the registry limits the size of a request: raise that, or lower --chunk-size"
    if error.status == 404:
        return _missing(host, repository)
    if error.status in (409, 412) or "immutable" in " ".join(error.problems).lower():
        return "the tag may not be moved: push under another tag, or delete the old one"
    if error.status == 415 or "MANIFEST_INVALID" in error.codes:
        return "the registry does not take this kind of content; it may have to be allowed in its configuration"
    return None


def _missing(host: str, repository: str) -> str:
    if amazon := _AMAZON.fullmatch(host):
        return f"create it: aws ecr create-repository --region {amazon['region']} --repository-name {repository}"
    return f"does {host} want {repository.partition('/')[0]!r} (a project, group or repository) to be created first?"
