"""The tags of referrers: cosign's, and those that replace the referrers API at registries without it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from syncer.oci.descriptor import Digest

_LONGEST = 128  # characters of a tag (distribution-spec, "Pulling manifests")
_COSIGN = (".sig", ".att", ".sbom")
_TAG = re.compile(r"(sha256-[0-9a-f]{64})(?:\.[a-z]+)?|(sha512-[0-9a-f]{121})")


def fallback_tag(subject: Digest) -> str:
    """The tag that lists the referrers of ``subject`` at a registry without the API for them.

    Distribution-spec, "Referrers Tag Schema", defines it.

    >>> from syncer.oci import Digest
    >>> fallback_tag(Digest.of(b"hello"))[:20]
    'sha256-2cf24dba5fb0a'
    """
    return f"{subject.algorithm}-{subject.hex}"[:_LONGEST]


def cosign_tags(subject: Digest) -> tuple[str, ...]:
    """The tags under which cosign keeps signatures, attestations and SBOMs of ``subject``."""
    return tuple(f"{subject.algorithm}-{subject.hex}{suffix}" for suffix in _COSIGN)


def subject_tag(tag: str) -> str | None:
    """The fallback tag of the manifest that ``tag`` is about; None when ``tag`` is not one of a referrer.

    ``tag`` may be one of cosign's or a fallback tag itself.

    >>> subject_tag(f"sha256-{'a' * 64}.sig") == f"sha256-{'a' * 64}"
    True
    """
    match = _TAG.fullmatch(tag)
    return match[1] or match[2] if match else None
