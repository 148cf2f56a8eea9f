"""Palette's cluster profiles and their packs, from files or from the API."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from msgspec import Struct, field, structs

from syncer.errors import InvalidFile, UsageError
from syncer.formats.text import text_field
from syncer.oci import Reference

UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
"""The uids that Palette gives."""

_NONE: Mapping[str, str] = MappingProxyType({})
_INFRASTRUCTURE = ("infra", "cluster")  # the API's words for an infrastructure and a full profile


class PackRegistry(Struct, frozen=True, kw_only=True):
    """The registry that a pack comes from; ``endpoint`` is its address, which only the API knows."""

    uid: str = ""
    name: str = ""
    kind: str = ""
    endpoint: str | None = None


class FoundImage(Struct, frozen=True, order=True):
    """An image, and the place that names it.

    ``is_guess`` says that it may be none, or one that nobody has: a build goes on without it.
    """

    reference: Reference
    where: str
    is_guess: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class PackFile:
    """A file that belongs to a pack: a manifest, or the archive of a chart."""

    name: str
    content: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """One layer of a profile.

    ``values`` is the text of its values.yaml, None when it is unknown; ``origin`` is the name of that text in errors.
    ``version`` is exact, while ``tag`` may move (``1.33.x``).  ``type`` is ``spectro``, ``helm``, ``manifest``
    or ``oci``, ``layer`` ``kernel``, ``os``, ``k8s``, ``cni``, ``csi`` or ``addon``.  ``path`` is the directory
    or archive that a local pack was read from.
    """

    name: str
    version: str = ""
    values: str | None = dataclasses.field(default="", repr=False)
    origin: str
    uid: str = ""
    tag: str = ""
    layer: str = ""
    type: str = ""
    registry: PackRegistry | None = None
    manifests: tuple[PackFile, ...] = ()
    charts: tuple[PackFile, ...] = ()
    absent: tuple[str, ...] = ()  # files that its pack.json names, and that are not there
    path: Path | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.version}".rstrip()


class Profile(Struct, frozen=True, kw_only=True):
    """A cluster profile: its packs, and the variables and macros that their values may refer to.

    ``variables`` maps names to default values, None for a value that Palette keeps secret.
    """

    name: str
    packs: tuple[Pack, ...] = ()
    uid: str = ""
    version: str = ""
    type: str = ""  # cluster, infra, add-on, system; nothing for packs that came without a profile
    project_uid: str = ""
    variables: Mapping[str, str | None] = field(default_factory=lambda: _NONE)
    macros: Mapping[str, str] = field(default_factory=lambda: _NONE)
    images: tuple[FoundImage, ...] = ()  # of files that say what runs and have no packs
    guesses: tuple[FoundImage, ...] = ()  # that only a scan takes
    warnings: tuple[str, ...] = ()

    @property
    def is_infrastructure(self) -> bool:
        """True for a profile with operating system and Kubernetes; a cluster has exactly one of these."""
        return self.type in _INFRASTRUCTURE

    def __str__(self) -> str:
        return f"{self.name} {self.version}".rstrip()


def check_one_infrastructure(profiles: Sequence[Profile]) -> None:
    """Raise ``UsageError`` when more than one of the profiles is an infrastructure or full one, as Palette demands."""
    kinds = {"cluster": "full", "infra": "infrastructure"}
    found = [f"{profile} ({kinds[profile.type]})" for profile in profiles if profile.type in kinds]
    if len(found) > 1:
        raise UsageError(
            f"at most one infrastructure or full profile may be among the profiles, and these are: {', '.join(found)}",
            hint="a cluster has one of them and any number of add-on profiles; build one bundle for each",
        )


def is_profile(document: Any) -> bool:
    """Tell whether ``document`` is one of the forms that ``parse_profile`` reads."""
    spec = document.get("spec") if isinstance(document, dict) else None
    return isinstance(spec, dict) and any(isinstance(spec.get(key), dict) for key in ("template", "published", "draft"))


def parse_profile(document: Any, origin: str) -> Profile:
    """Parse the profile in ``document``; raises ``InvalidFile``, which names ``origin`` and the path.

    A draft, which is not published yet, is read only when nothing is published.
    """
    if not is_profile(document):
        raise InvalidFile(origin, "it is no cluster profile: it has neither spec.template nor spec.published")
    metadata, spec = _object(document, "metadata", origin), document["spec"]
    shape = next(key for key in ("template", "published", "draft") if isinstance(spec.get(key), dict))
    template = spec[shape]
    packs = tuple(
        parse_pack(entry, f"{origin} (spec.{shape}.packs[{number}])")
        for number, entry in enumerate(_list(template, "packs", f"{origin} (spec.{shape})"))
    )
    name = text_field(metadata, "name") or text_field(template, "name") or origin
    warnings = [f"profile {name} is not published: its draft is taken"] if shape == "draft" else []
    return Profile(
        name=name,
        uid=text_field(metadata, "uid"),
        version=text_field(spec, "version") or text_field(template, "profileVersion"),
        type=text_field(template, "type"),
        project_uid=text_field(_object(metadata, "annotations", origin), "projectUid"),
        packs=packs,
        variables=parse_variables(spec, origin),
        warnings=tuple(warnings),
    )


def parse_pack(document: Any, origin: str) -> Pack:
    """Parse one entry of a profile's ``packs``; answers about packs have the fields in ``spec``.

    Raises ``InvalidFile``, which names ``origin``.
    """
    if not isinstance(document, dict):
        raise InvalidFile(origin, "a pack must be an object")
    fields = _object(document, "spec", origin) or document
    name = text_field(fields, "name") or text_field(_object(document, "metadata", origin), "name")
    if not name:
        raise InvalidFile(origin, "a pack lacks its name")
    values = fields.get("values")
    if values is not None and not isinstance(values, str):
        raise InvalidFile(origin, f"the values of pack {name} must be a text")
    return Pack(
        name=name,
        version=text_field(fields, "version") or text_field(fields, "tag"),
        values=values,
        origin=f"{origin.partition(' (')[0]} (values of pack {name})",
        uid=text_field(fields, "packUid"),
        tag=text_field(fields, "tag"),
        layer=text_field(fields, "layer"),
        type=text_field(fields, "type"),
        registry=_registry(fields, origin),
        manifests=tuple(_manifests(fields, origin)),
    )


def parse_variables(document: Any, origin: str) -> Mapping[str, str | None]:
    """Read names and default values of ``variables``; None for a sensitive one, whose value is masked."""
    found: dict[str, str | None] = {}
    for entry in _list(document, "variables", origin):
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            default = text_field(entry, "defaultValue") or text_field(entry, "value")
            sensitive = str(entry.get("isSensitive", "")).lower() == "true"
            if sensitive or default:
                found[entry["name"]] = None if sensitive else default
    return found


def require_uid(text: str) -> str:
    """Return ``text`` if it can be a uid of Palette, so that no uid leads to another path; raises ``UsageError``."""
    if not UID.fullmatch(text):
        raise UsageError(
            f"{text[:80]!r} is not an id of Palette", hint="it is the hexadecimal word in the console's URL"
        )
    return text


def with_endpoint(pack: Pack, endpoint: str | None) -> Pack:
    """``pack`` with the address of its registry."""
    return dataclasses.replace(pack, registry=structs.replace(pack.registry or PackRegistry(), endpoint=endpoint))


def with_content_of(pack: Pack, fuller: Pack | None) -> Pack:
    """``pack`` with the content of its manifests, and with its values if only ``fuller`` has them."""
    if fuller is None:
        return pack
    manifests: tuple[PackFile, ...] = fuller.manifests or pack.manifests
    return dataclasses.replace(pack, manifests=manifests, values=fuller.values if pack.values is None else pack.values)


def _registry(fields: Mapping[str, Any], origin: str) -> PackRegistry | None:
    registry = _object(fields, "registry", origin)
    metadata = _object(registry, "metadata", origin) or registry
    uid = text_field(metadata, "uid") or text_field(fields, "registryUid")
    name = text_field(metadata, "name")
    if not uid and not name:
        return None
    return PackRegistry(uid=uid, name=name, kind=text_field(metadata, "kind"))


def _manifests(fields: Mapping[str, Any], origin: str) -> list[PackFile]:
    """The manifests with their content; an answer that only names manifests gives none."""
    return [
        PackFile(text_field(entry, "name") or "manifest", entry["content"].encode())
        for entry in _list(fields, "manifests", origin)
        if isinstance(entry, dict) and isinstance(entry.get("content"), str)
    ]


def _object(document: Mapping[str, Any], key: str, origin: str) -> dict[str, Any]:
    value = document.get(key)
    if value is not None and not isinstance(value, dict):
        raise InvalidFile(origin, f"{key} must be an object")
    return value or {}


def _list(document: Any, key: str, origin: str) -> list[Any]:
    value = document.get(key) if isinstance(document, dict) else None
    if value is not None and not isinstance(value, list):
        raise InvalidFile(origin, f"{key} must be a list")
    return value or []
