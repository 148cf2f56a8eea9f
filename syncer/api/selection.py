"""The selection of content for a bundle, as a user names it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from syncer.oci import Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Profiles by their ids or as files, packs, images with the option that named them, and all that is left out.

    The archives of ``packs`` come along unless ``images_only`` is set,
    those of other local packs with ``include_packs``.
    """

    uids: Sequence[str] = ()
    files: Sequence[Path] = ()
    packs: Sequence[Path] = ()
    images: Sequence[tuple[Reference, str]] = ()
    excluded: Sequence[str] = ()  # ids
    excluded_files: Sequence[Path] = ()
    overrides: Mapping[str, str] = field(default_factory=dict)  # --set-var
    environment: Mapping[str, str] = field(default_factory=dict, compare=False)  # for variables in manifests
    scan: bool = False
    images_only: bool = False
    include_packs: bool = False

    @property
    def names_profiles(self) -> bool:
        """True when the selection names profiles or packs, and not only single images."""
        return bool(self.uids or self.files or self.packs)

    @property
    def needs_palette(self) -> bool:
        """True when the selection needs answers of Palette."""
        return bool(self.uids or self.excluded)
