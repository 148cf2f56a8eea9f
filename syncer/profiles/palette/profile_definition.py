"""Making a definition of profiles: all images and charts that their packs want, each once, in the profiles' order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

from msgspec import Struct, structs

from syncer.errors import InvalidFile, SyncerError, UsageError
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
from syncer.profiles.palette.packs import PackContent, WantedImage, parse_values, read_content
from syncer.profiles.palette.profile import FoundImage, Pack, PackFile, PackRegistry, Profile, check_one_infrastructure
from syncer.profiles.palette.scan import scan_pack

_NO_CHARTS: Mapping[ChartRequest, PackFile | SyncerError] = MappingProxyType({})
_NOTHING: Mapping[str, str] = MappingProxyType({})


class UnlistedImages(Struct, frozen=True):
    """Images that a pack names in its files but does not list; with ``lists_nothing`` it lists no images at all."""

    pack: str
    images: tuple[FoundImage, ...]
    lists_nothing: bool
    problems: tuple[str, ...] = ()  # the charts that were not looked into, or not whole
    what: str = "pack"

    @property
    def name(self) -> str:
        return f"{self.what} {self.pack}"

    def __str__(self) -> str:
        listed = "lists no images" if self.lists_nothing else "does not list all"
        names = ", ".join(f"{image.reference} ({image.where})" for image in self.images)
        return f"{self.name} {listed}, and names {len(self.images)} elsewhere: {names}"


class ProfileDefinition(Struct, frozen=True):
    """The definition of some profiles, with warnings and with the images that packs do not list."""

    definition: Definition
    warnings: tuple[str, ...]
    unlisted: tuple[UnlistedImages, ...]
    unread: tuple[ChartRequest, ...] = ()  # charts that packs list and do not hold, so that no scan looked into them


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
    fetched: Mapping[ChartRequest, PackFile | SyncerError] = _NO_CHARTS,
) -> ProfileDefinition:
    """Make the definition called ``name`` of all that ``profiles`` want.

    ``images`` are added, each with the name of the list or option that wants it; all that ``excluded`` profiles want
    is left out.  ``overrides`` are the values of ``--set-var``.  ``scan`` adds the images that packs do not list, and
    ``with_archives`` the packs themselves when they are local.  ``fetched`` has charts that packs list, for the scan to
    look into, or the reason why one could not be had.  Raises ``UsageError`` for a profile without packs and
    for more than one infrastructure profile, ``InvalidFile`` with all mistakes of the packs.
    """
    check_one_infrastructure(profiles)
    for profile in profiles:
        if not (profile.packs or profile.images or profile.guesses):
            raise UsageError(f"profile {profile} has no packs, so there is nothing to put into a bundle")
    reading = _PackReader([*profiles, *excluded], overrides, fetched)
    collection = _Collection()
    for reference, label in images:
        collection.add_image(reference, label)
    for profile in profiles:
        collection.warnings += profile.warnings
        collection.add_workloads(profile, scan=scan)
        for content, unlisted in reading.contents(profile):
            collection.add(content, with_charts=with_charts, with_archives=with_archives)
            collection.add_unlisted(unlisted, content.pack, scan=scan)
    reading.tell_mistakes()
    for profile in excluded:
        collection.remove_images([*profile.images, *(profile.guesses if scan else ())])
        for content, unlisted in reading.contents(profile):
            collection.remove(content, unlisted.images if scan else ())
    reading.tell_mistakes()
    return structs.replace(collection.result(name, profiles), unread=tuple(reading.unread))


class _Collection:
    """The images, charts and archives that were found so far, with the packs that want them."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.unlisted: list[UnlistedImages] = []
        self._images: dict[str, tuple[Reference, dict[str, None]]] = {}
        self._certain: set[str] = set()  # the names of images that are no guesses
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

    def add_image(self, reference: Reference, label: str, *, is_guess: bool = False) -> None:
        self._images.setdefault(str(reference), (reference, {}))[1][label] = None
        if not is_guess:
            self._certain.add(str(reference))

    def add_unlisted(self, unlisted: UnlistedImages, pack: Pack, *, scan: bool) -> None:
        if unlisted.images:
            self.unlisted.append(unlisted)
        if scan:
            self.warnings += [f"pack {pack.name}: {problem}" for problem in unlisted.problems]
            self.warnings += [
                f"pack {pack.name}: its pack.json names {name[:160]}, which is not in the pack, and not looked into"
                for name in pack.absent
            ]
            for found in unlisted.images:
                self.add_image(found.reference, str(pack), is_guess=True)

    def add_workloads(self, profile: Profile, *, scan: bool) -> None:
        """Add the images of a profile that says itself what runs; what it only may run is added by a scan."""
        for found in profile.images:
            self.add_image(found.reference, f"{profile.name}: {found.where}", is_guess=found.is_guess)
        known = {found.reference for found in profile.images}
        guesses = tuple(found for found in profile.guesses if found.reference not in known)
        if guesses:
            self.unlisted.append(UnlistedImages(str(profile), guesses, not profile.images, what="file"))
        for found in guesses if scan else ():
            self.add_image(found.reference, f"{profile.name}: {found.where}", is_guess=True)

    def remove_images(self, images: Iterable[FoundImage | WantedImage]) -> None:
        for image in images:
            self._images.pop(str(image.reference), None)

    def remove(self, content: PackContent, scanned: Sequence[FoundImage]) -> None:
        self.remove_images([*content.images, *scanned])
        for chart in content.charts:
            self._charts.pop(chart, None)
        self._archives.pop((content.pack.name, content.pack.version or "0"), None)

    def result(self, name: str, profiles: Sequence[Profile]) -> ProfileDefinition:
        images = [
            DefinedImage(image=image, packs=tuple(packs), guessed=name not in self._certain)
            for name, (image, packs) in self._images.items()
        ]
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
    """The reader of all packs: a macro may refer to any pack, and its own profile's packs come first."""

    def __init__(
        self,
        profiles: Sequence[Profile],
        overrides: Mapping[str, str],
        fetched: Mapping[ChartRequest, PackFile | SyncerError],
    ) -> None:
        self.unread: dict[ChartRequest, None] = {}
        self._fetched = fetched
        self._profiles = profiles
        self._overrides = overrides
        self._mistakes: list[InvalidFile] = []
        self._documents: dict[Pack, list[Any]] = {}
        for pack in (pack for profile in profiles for pack in profile.packs):
            try:
                self._documents[pack] = parse_values(pack)
            except InvalidFile as mistake:
                self._mistakes.append(mistake)
                self._documents[pack] = []

    def tell_mistakes(self) -> None:
        """Raise an ``InvalidFile`` of the mistakes of all packs that were read so far, if there are any."""
        if self._mistakes:
            raise InvalidFile.of(self._mistakes)

    def contents(self, profile: Profile) -> Iterator[tuple[PackContent, UnlistedImages]]:
        """Yield the content that each pack of ``profile`` lists, and the images that it does not list."""
        for pack in profile.packs:
            documents = self._documents[pack]
            scope = self._scope(profile, pack)
            try:
                content = _with_own_chart(_with_unknown(read_content(pack, documents, scope)))
            except InvalidFile as mistake:
                self._mistakes.append(mistake)
                continue
            listed = {image.reference.name for image in content.images}
            charts, problems = self._listed_charts(content)
            guesses, more = scan_pack(
                replace(pack, charts=(*pack.charts, *charts)), documents, partial(_resolved, scope)
            )
            problems += more
            found = tuple(image for image in guesses if image.reference.name not in listed)
            yield content, UnlistedImages(str(pack), found, lists_nothing=not content.images, problems=problems)

    def _listed_charts(self, content: PackContent) -> tuple[list[PackFile], tuple[str, ...]]:
        """The charts that a pack lists and does not hold, and why some of them cannot be looked into."""
        held = {file.name.rpartition("/")[2] for file in content.pack.charts}
        charts: list[PackFile] = []
        problems: list[str] = []
        for chart in content.charts:
            version = (chart.version or "").removeprefix("v")
            if held & {f"{chart.name}-{version}.tgz", f"{chart.name}-v{version}.tgz"}:
                continue
            found = self._fetched.get(chart)
            if isinstance(found, PackFile):
                charts.append(found)
            else:
                self.unread[chart] = None
                problems.append(f"chart {chart} was not looked into: {found or 'it was not fetched'}")
        return charts, tuple(problems)

    def _scope(self, profile: Profile, pack: Pack) -> MacroValues:
        """The values that macros of ``pack`` may refer to; its own come first where two versions of it are at hand."""
        packs: dict[str, list[Any]] = {pack.name: self._documents[pack]}
        for each in (profile, *self._profiles):
            for other in each.packs:
                packs.setdefault(other.name, self._documents[other])
        return MacroValues(
            packs=packs,
            variables=profile.variables,
            macros=profile.macros,
            system=_system_values(profile, self._profiles),
            overrides=self._overrides,
        )


def _resolved(scope: MacroValues, text: str) -> str:
    """``text`` without its macros; unchanged when one cannot be resolved, since a scan is a hint."""
    try:
        return scope.resolve(text)
    except UsageError:
        return text


def _system_values(profile: Profile, profiles: Sequence[Profile]) -> dict[str, str]:
    """The values of Palette's system macros that are known before there is a cluster."""
    values = {"project.uid": profile.project_uid}
    infrastructure = next((each for each in (profile, *profiles) if each.is_infrastructure), None)
    for prefix, each in (("clusterprofile", profile), ("clusterprofile.infra", infrastructure)):
        if each is not None:
            values |= {f"{prefix}.name": each.name, f"{prefix}.uid": each.uid, f"{prefix}.version": each.version}
    kubernetes = [pack.version for each in (profile, *profiles) for pack in each.packs if pack.layer == "k8s"]
    values["kubernetes.version"] = kubernetes[0] if kubernetes else ""
    return {name: value for name, value in values.items() if value}


def _with_unknown(content: PackContent) -> PackContent:
    """Add a warning when the values of the pack are unknown; layers of manifests and charts need no values."""
    if content.pack.values is not None or content.pack.type in ("helm", "manifest"):
        return content
    return structs.replace(
        content, warnings=("its values are unknown, and so is the content that it lists", *content.warnings)
    )


def _with_own_chart(content: PackContent) -> PackContent:
    """Add the chart that a layer of the type ``helm`` is itself; such a layer lists no content."""
    pack = content.pack
    if pack.type != "helm":
        return content
    registry = pack.registry or PackRegistry()
    if not registry.endpoint:
        known = registry.name or registry.uid or "unknown"
        problem = "whose address only Palette's API knows, so it is left out"
        warning = f"it is a chart of the Helm registry {known}, {problem}"
        return structs.replace(content, warnings=(*content.warnings, warning))
    chart = ChartRequest(registry.endpoint, pack.name, pack.version or pack.tag or None)
    return structs.replace(content, charts=tuple(dict.fromkeys((chart, *content.charts))))


def _profile_entry(profile: Profile) -> DefinedProfile:
    packs = tuple(DefinedPack(name=pack.name, version=pack.version) for pack in profile.packs)
    return DefinedProfile(name=profile.name, version=profile.version, uid=profile.uid, type=profile.type, packs=packs)
