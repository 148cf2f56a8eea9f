"""Palette's cluster profiles and their packs, wherever they were read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from syncer.errors import UsageError

_NONE: Mapping[str, str] = MappingProxyType({})
_INFRASTRUCTURE = ("infra", "cluster")  # the API's words for an infrastructure and a full profile


@dataclass(frozen=True, slots=True, kw_only=True)
class PackRegistry:
    """Where a pack comes from; ``endpoint`` is known only where the API told it."""

    uid: str = ""
    name: str = ""
    kind: str = ""
    endpoint: str | None = None


@dataclass(frozen=True, slots=True)
class PackFile:
    """A file that belongs to a pack: a manifest, or the archive of a chart."""

    name: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """One layer of a profile.

    ``values`` is the text of its values.yaml, None where nobody told it; ``origin`` is what an error calls it.
    ``version`` is concrete where ``tag`` may move (``1.33.x``).  ``type`` is ``spectro``, ``helm``, ``manifest``
    or ``oci``, ``layer`` ``kernel``, ``os``, ``k8s``, ``cni``, ``csi`` or ``addon``.  ``path`` is the directory
    or archive that a local pack was read from.
    """

    name: str
    version: str = ""
    values: str | None = field(default="", repr=False)
    origin: str
    uid: str = ""
    tag: str = ""
    layer: str = ""
    type: str = ""
    registry: PackRegistry | None = None
    manifests: tuple[PackFile, ...] = ()
    charts: tuple[PackFile, ...] = ()
    path: Path | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.version}".rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A cluster profile: packs, and what their macros may refer to.

    ``variables`` maps names to defaults, None for one whose value Palette keeps secret.
    """

    name: str
    packs: tuple[Pack, ...]
    uid: str = ""
    version: str = ""
    type: str = ""  # cluster, infra, add-on, system; nothing for packs that came without a profile
    project_uid: str = ""
    variables: Mapping[str, str | None] = field(default_factory=lambda: _NONE)
    macros: Mapping[str, str] = field(default_factory=lambda: _NONE)
    warnings: tuple[str, ...] = ()

    @property
    def is_infrastructure(self) -> bool:
        """Whether this profile brings operating system and Kubernetes: a cluster has exactly one such."""
        return self.type in _INFRASTRUCTURE

    def __str__(self) -> str:
        return f"{self.name} {self.version}".rstrip()


def check_one_infrastructure(profiles: Sequence[Profile]) -> None:
    """Palette's rule that at most one of the profiles is an infrastructure or full one; raises ``UsageError``."""
    kinds = {"cluster": "full", "infra": "infrastructure"}
    found = [f"{profile} ({kinds[profile.type]})" for profile in profiles if profile.type in kinds]
    if len(found) > 1:
        raise UsageError(
            f"at most one infrastructure or full profile may be among the profiles, and these are: {', '.join(found)}",
            hint="a cluster has one of them and any number of add-on profiles; build one bundle for each",
        )
