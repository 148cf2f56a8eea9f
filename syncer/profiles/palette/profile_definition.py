"""From profiles to a definition: what all their packs want, each thing once, in the order of the profiles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from syncer.errors import UsageError
from syncer.oci import Reference
from syncer.profiles.definition.definition import (
    ChartRequest,
    DefinedArchive,
    DefinedChart,
    DefinedImage,
    DefinedPack,
    DefinedProfile,
    Definition,
)
from syncer.profiles.palette.macros import MacroValues
from syncer.profiles.palette.packs import PackContent, parse_values, read_content
from syncer.profiles.palette.profile import Pack, PackRegistry, Profile, check_one_infrastructure
from syncer.profiles.palette.scan import FoundImage, scan_pack

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class UnlistedImages:
    """Images that a pack names outside its content and does not list; ``lists_nothing`` asks for a loud warning."""

    pack: str
    images: tuple[FoundImage, ...]
    lists_nothing: bool

    def __str__(self) -> str:
        listed = "lists no images" if self.lists_nothing else "does not list all"
        names = ", ".join(f"{image.reference} ({image.where})" for image in self.images)
        return f"pack {self.pack} {listed}, and names {len(self.images)} elsewhere: {names}"


@dataclass(frozen=True, slots=True)
class ProfileDefinition:
    """A definition, and what was noticed on the way to it."""

    definition: Definition
    warnings: tuple[str, ...]
    unlisted: tuple[UnlistedImages, ...]


def define_profiles(
    name: str,
    profiles: Sequence[Profile],
    *,
    images: Iterable[tuple[Reference, str]] = (),
    excluded: Sequence[Profile] = (),
    overrides: Mapping[str, str] = _NOTHING,
    scan: bool = False,
    with_charts: bool = True,
    with_archives: bool = False,
) -> ProfileDefinition:
    """What ``profiles`` want, as the definition called ``name``.

    ``images`` are wanted besides, each with who wants it (such as a list of images); whatever ``excluded``
    profiles want is left out.  ``overrides`` are ``--set-var``; ``scan`` adds the images that packs name outside
    their content; ``with_archives`` adds the packs themselves where they are local.  Raises ``UsageError`` for
    more than one infrastructure profile, ``InvalidFile`` for a pack that cannot be read.
    """
    check_one_infrastructure(profiles)
    for profile in profiles:
        if not profile.packs:
            raise UsageError(f"profile {profile} has no packs, so there is nothing to put into a bundle")
    reading = _PackReader([*profiles, *excluded], overrides)
    collection = _Collection()
    for reference, label in images:
        collection.add_image(reference, label)
    for profile in profiles:
        collection.warnings += profile.warnings
        for content, unlisted in reading.contents(profile):
            collection.add(content, with_charts=with_charts, with_archives=with_archives)
            collection.add_unlisted(unlisted, content.pack, scan=scan)
    for profile in excluded:
        for content, unlisted in reading.contents(profile):
            collection.remove(content, unlisted.images if scan else ())
    return collection.result(name, profiles)


class _Collection:
    """Things wanted so far, with the packs that want them."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.unlisted: list[UnlistedImages] = []
        self._images: dict[str, tuple[Reference, dict[str, None]]] = {}
        self._charts: dict[ChartRequest, dict[str, None]] = {}
        self._archives: dict[tuple[str, str], DefinedArchive] = {}

    def add(self, content: PackContent, *, with_charts: bool, with_archives: bool) -> None:
        pack = content.pack
        self.warnings += [f"pack {pack.name}: {warning}" for warning in content.warnings]
        for image in content.images:
            self.add_image(image.reference, str(pack))
        for chart in content.charts if with_charts else ():
            self._charts.setdefault(chart, {})[str(pack)] = None
        if with_archives and pack.path is not None:
            version = pack.version or "0"
            archive = DefinedArchive(name=pack.name, version=version, path=pack.path)
            self._archives.setdefault((pack.name, version), archive)

    def add_image(self, reference: Reference, label: str) -> None:
        self._images.setdefault(str(reference), (reference, {}))[1][label] = None

    def add_unlisted(self, unlisted: UnlistedImages, pack: Pack, *, scan: bool) -> None:
        if unlisted.images:
            self.unlisted.append(unlisted)
        for found in unlisted.images if scan else ():
            self.add_image(found.reference, str(pack))

    def remove(self, content: PackContent, scanned: Sequence[FoundImage]) -> None:
        references = [image.reference for image in content.images] + [found.reference for found in scanned]
        for reference in references:
            self._images.pop(str(reference), None)
        for chart in content.charts:
            self._charts.pop(chart, None)
        self._archives.pop((content.pack.name, content.pack.version or "0"), None)

    def result(self, name: str, profiles: Sequence[Profile]) -> ProfileDefinition:
        images = [DefinedImage(image=image, packs=tuple(packs)) for image, packs in self._images.values()]
        charts = [
            DefinedChart(repo=chart.repo, name=chart.name, version=chart.version, packs=tuple(packs))
            for chart, packs in self._charts.items()
        ]
        definition = Definition(
            name=name,
            profiles=tuple(map(_profile_entry, profiles)),
            images=tuple(images),
            charts=tuple(charts),
            archives=tuple(self._archives.values()),
        )
        return ProfileDefinition(definition, tuple(dict.fromkeys(self.warnings)), tuple(self.unlisted))


class _PackReader:
    """The packs of all profiles: a macro may refer to any of them, its own profile's first."""

    def __init__(self, profiles: Sequence[Profile], overrides: Mapping[str, str]) -> None:
        self._profiles = profiles
        self._overrides = overrides
        self._documents = {pack: parse_values(pack) for profile in profiles for pack in profile.packs}

    def contents(self, profile: Profile) -> Iterator[tuple[PackContent, UnlistedImages]]:
        """What each pack of ``profile`` lists, and what it names besides."""
        scope = self._scope(profile)
        for pack in profile.packs:
            documents = self._documents[pack]
            content = _with_own_chart(_with_unknown(read_content(pack, documents, scope)))
            listed = {image.reference.name for image in content.images}
            found = [image for image in scan_pack(pack, documents) if image.reference.name not in listed]
            yield content, UnlistedImages(str(pack), tuple(found), lists_nothing=not content.images)

    def _scope(self, profile: Profile) -> MacroValues:
        packs: dict[str, list[Any]] = {}
        for each in (profile, *self._profiles):
            for pack in each.packs:
                packs.setdefault(pack.name, self._documents[pack])
        return MacroValues(
            packs=packs,
            variables=profile.variables,
            macros=profile.macros,
            system=_system_values(profile, self._profiles),
            overrides=self._overrides,
        )


def _system_values(profile: Profile, profiles: Sequence[Profile]) -> dict[str, str]:
    """Those of Palette's system macros that are known before there is a cluster."""
    values = {"project.uid": profile.project_uid}
    infrastructure = next((each for each in (profile, *profiles) if each.is_infrastructure), None)
    for prefix, each in (("clusterprofile", profile), ("clusterprofile.infra", infrastructure)):
        if each is not None:
            values |= {f"{prefix}.name": each.name, f"{prefix}.uid": each.uid, f"{prefix}.version": each.version}
    kubernetes = [pack.version for each in (profile, *profiles) for pack in each.packs if pack.layer == "k8s"]
    values["kubernetes.version"] = kubernetes[0] if kubernetes else ""
    return {name: value for name, value in values.items() if value}


def _with_unknown(content: PackContent) -> PackContent:
    """A warning where nobody told the values; a layer of manifests or a chart needs none."""
    if content.pack.values is not None or content.pack.type in ("helm", "manifest"):
        return content
    return replace(content, warnings=("its values are not told, so what it lists is unknown", *content.warnings))


def _with_own_chart(content: PackContent) -> PackContent:
    """A layer of the type ``helm`` is itself a chart of the registry it comes from, and lists no content."""
    pack = content.pack
    if pack.type != "helm":
        return content
    registry = pack.registry or PackRegistry()
    if not registry.endpoint:
        known = registry.name or registry.uid or "unknown"
        warning = f"it is a chart of the Helm registry {known}, whose address only the API tells, so it is left out"
        return replace(content, warnings=(*content.warnings, warning))
    chart = ChartRequest(registry.endpoint, pack.name, pack.version or pack.tag or None)
    return replace(content, charts=tuple(dict.fromkeys((chart, *content.charts))))


def _profile_entry(profile: Profile) -> DefinedProfile:
    packs = tuple(DefinedPack(name=pack.name, version=pack.version) for pack in profile.packs)
    return DefinedProfile(name=profile.name, version=profile.version, uid=profile.uid, type=profile.type, packs=packs)
