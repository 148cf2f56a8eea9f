"""Flags of Palette's CLI for content that only Palette can list: refused with the reason, never ignored."""

from __future__ import annotations

from collections.abc import Mapping

from syncer.cli.build_options import ServiceOptions
from syncer.errors import UsageError

_HINT = "name the images that you need with --image, --images-file or --metadata-file"
_COMPLIANCE = "INCLUDE_COMPLIANCE_IMAGES"
_TRUE = frozenset({"1", "t", "true", "yes", "on"})


def refuse_unpublished(services: ServiceOptions, environ: Mapping[str, str]) -> None:
    """Raise ``UsageError`` for whatever asks for content whose list is not public."""
    if services.include_service_images:
        raise _refusal("--include-service-images", "Palette's service images")
    if services.include_core_palette_images_only:
        raise _refusal("--include-core-palette-images-only", "Palette's core images")
    if services.fips:
        raise _refusal("--fips", "Palette's FIPS service images")
    if environ.get(_COMPLIANCE, "").strip().lower() in _TRUE:
        raise _refusal(f"{_COMPLIANCE}=true", "Palette's images for compliance scans")


def _refusal(flag: str, what: str) -> UsageError:
    return UsageError(f"{flag} cannot be done: which images are {what} is not public", hint=_HINT)
