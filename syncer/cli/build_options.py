"""The options of a build, the mistakes that are found in them before any request, and the selection that they make."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import field
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, TextIO

from syncer.api.build import Selection
from syncer.api.bundles import Warn
from syncer.api.delta import find_assumption
from syncer.bundle import Assumption
from syncer.cli.command import flag, option, option_group, options
from syncer.cli.options import (
    BundleOptions,
    ConnectionOptions,
    DryRunOptions,
    LoginOptions,
    MirrorOptions,
    OutputOptions,
    SourceOptions,
    UploadOptions,
    choose_referrers,
    cred_file_option,
    map_option,
    referrers_flag,
    registry_option,
    require_referrers_flag,
    split_paths,
    split_words,
)
from syncer.cli.output import note
from syncer.cli.parser import Heading
from syncer.content import Along
from syncer.errors import InvalidFile, UsageError
from syncer.formats.text import read_images_file
from syncer.naming import NameMapping
from syncer.oci import Reference
from syncer.profiles.definition.definition import Release
from syncer.profiles.palette.macros import parse_overrides
from syncer.registry import RegistryAddress, RegistrySettings


class BuildType(StrEnum):
    """The place in which a bundle is made: a local file, or a registry."""

    LOCAL = "local"
    REMOTE = "remote"


@option_group
class ContentOptions(SourceOptions):
    """The content of a bundle."""

    packs: tuple[Path, ...] = option(
        "Packs, as directories or archives: a,b.",
        default=(),
        metavar="PATHS",
        parse=split_paths,
        heading=Heading.PALETTE,
    )
    images_only: bool = flag("Leave out charts and the archives of packs.", heading=Heading.PALETTE)
    include_packs: bool = flag("Also bring the archives of packs in --profile-file.", heading=Heading.PALETTE)
    exclude_profiles: tuple[str, ...] = option(
        "Leave out what these profiles (ids or files: a,b) name.",
        default=(),
        metavar="IDS",
        parse=split_words,
        heading=Heading.PALETTE,
    )
    existing_bundles: tuple[Path, ...] = option(
        "Older bundles here, whose content is not fetched: a,b.",
        default=(),
        metavar="PATHS",
        parse=split_paths,
    )
    set_var: Mapping[str, str] = options(
        "The value of a macro or variable. Repeatable.",
        metavar="NAME=VALUE",
        collect=parse_overrides,
        heading=Heading.PALETTE,
    )
    scan: bool = flag(
        "Also take images that manifests, values and charts name, and no list of a pack.", heading=Heading.PALETTE
    )
    metadata_file: Path | None = option("What this bundle-definition.yaml says.", "-f", metavar="FILE")
    cred_file_path: Path | None = cred_file_option()

    @property
    def files(self) -> tuple[Path, ...]:
        own = (self.metadata_file,) if self.metadata_file else ()
        return (*self.images_file, *self.profile_file, *self.packs, *own)


def _name_without_ending(text: str) -> str:
    """``text``; raises ``UsageError`` where it ends as the file does, which would have the ending twice."""
    for ending in (".tar.zst", ".tar"):
        if (name := text.removesuffix(ending)) not in ("", text):
            raise UsageError(f"{text} is the name of a file, and its ending is added", hint=f"give --name {name}")
    return text


@option_group
class BuiltBundleOptions(BundleOptions):
    """The bundle that is built."""

    name: str | None = option(
        "The bundle's name. Default: bundle, or bundle-PROJECT.", "-n", metavar="NAME", parse=_name_without_ending
    )
    resume: bool = flag("Start over, also where an interrupted build left something.", default=True)
    referrers: bool = referrers_flag()
    require_referrers: bool = require_referrers_flag()
    skip_cleanup: bool = flag("Keep the charts and packs that were fetched, beside the bundle.", hidden=True)
    application_release_name: str = option("Noted in the bundle's definition.", default="", hidden=True)
    application_release_version: str = option("Noted in the bundle's definition.", default="", hidden=True)
    application_release_notes: str = option("Noted in the bundle's definition.", default="", hidden=True)

    @property
    def along(self) -> Along:
        """The choice whether referrers come along; raises ``UsageError`` for flags that contradict each other."""
        return choose_referrers(referrers=self.referrers, required=self.require_referrers)

    @property
    def release(self) -> Release:
        return Release(
            name=self.application_release_name,
            version=self.application_release_version,
            notes=self.application_release_notes,
        )


@option_group
class DeltaOptions:
    """A bundle without what its target has."""

    have: tuple[Path, ...] = options(
        "Leave out what the target has, by this list of syncer have. Repeatable: what is in all lists.",
        metavar="FILE",
    )
    since: Path | None = option(
        "Leave out what this older bundle brought there.",
        metavar="BUNDLE",
    )
    missing: Path | None = option("Bring only what push --missing-out listed.", metavar="FILE")

    @property
    def is_given(self) -> bool:
        """True when there is any of these options."""
        return bool(self.have or self.since or self.missing)

    async def assumption(self, settings: RegistrySettings, *, concurrency: int, warn: Warn) -> Assumption | None:
        """The content that the target has; raises ``UsageError`` and ``InvalidFile``."""
        return await find_assumption(
            lists=self.have,
            since=self.since,
            missing=self.missing,
            settings=settings,
            concurrency=concurrency,
            warn=warn,
        )


@option_group
class SigningOptions:
    """The signature of a bundle."""

    heading: ClassVar = Heading.OUTPUT
    private_key: Path | None = option("Sign the bundle with this RSA key (PEM), into NAME.sig.bin.", metavar="FILE")


@option_group
class ClusterDefinitionOptions:
    """A cluster definition of Palette."""

    heading: ClassVar = Heading.PALETTE
    cluster_definition_name: str | None = option("Bring this cluster definition along (NAME.tgz).", metavar="NAME")
    cluster_definition_profile_ids: tuple[str, ...] = option(
        "Its profiles. Default: those of the bundle.",
        default=(),
        metavar="IDS",
        parse=split_words,
    )


@option_group
class DefinitionOptions:
    """Definitions instead of bundles, and files beside the images."""

    heading: ClassVar = Heading.OUTPUT
    metadata_only: bool = flag("Only write bundle-definition.yaml: what the bundle would hold.")
    lock: bool = flag("With --metadata-only: write digests, platforms and sizes too.")
    download_cluster_config_only: bool = flag("Download the cluster definition, and nothing else.", hidden=True)
    custom_ui: Path | None = option(
        "A widget archive (.tar, .tar.gz, .tar.zst) to bring along.", metavar="FILE", heading=Heading.PALETTE
    )


@option_group
class RemoteOptions:
    """A registry as the place where a build ends."""

    heading: ClassVar = Heading.TARGET
    push: bool = flag("Push the bundle to --registry once it is built.", "-p")
    registry: RegistryAddress | None = registry_option("Where --push and --build-type remote push to.")
    build_type: BuildType = option("remote: straight to --registry, without a file.", default=BuildType.LOCAL)
    map: NameMapping = map_option("At --registry: replace the start of images' names.")


@option_group
class ServiceOptions:
    """Flags of Palette's CLI about content that only Palette knows, and about its own keeping of secrets."""

    include_service_images: bool | None = flag(
        "Palette's own service images: their list is not public, so they cannot be included.",
        default=None,
        hidden=True,
    )
    include_core_palette_images_only: bool = flag("Refused: the list is not public.", hidden=True)
    fips: bool = flag("Refused: the list of FIPS service images is not public.", hidden=True)
    encryption_passphrase: str | None = option(
        "The passphrase of the login that syncer keeps.", "-k", metavar="WORD", heading=Heading.PALETTE
    )


@option_group
class BuildOptions:
    """One build: the groups of its options, and what ``syncer edge build`` says besides."""

    content: ContentOptions
    bundle: BuiltBundleOptions
    signing: SigningOptions
    cluster: ClusterDefinitionOptions
    connection: ConnectionOptions
    output: OutputOptions
    delta: DeltaOptions = field(default_factory=DeltaOptions)
    definition: DefinitionOptions = field(default_factory=DefinitionOptions)
    remote: RemoteOptions = field(default_factory=RemoteOptions)
    services: ServiceOptions = field(default_factory=ServiceOptions)
    dry: DryRunOptions = field(default_factory=DryRunOptions)
    login: LoginOptions = field(default_factory=LoginOptions)
    upload: UploadOptions = field(default_factory=UploadOptions)
    file_name: str | None = None  # of the bundle; None: its name and the suffix of its form
    cluster_directory: Path | None = None  # of the cluster definition; None: beside the bundle's directory
    api_key: str | None = None
    console_url: str | None = None
    log: TextIO | None = None  # hears of every event, besides the display


_HINT = "name the images that you need with --image, --images-file or --metadata-file"
_COMPLIANCE = "INCLUDE_COMPLIANCE_IMAGES"
_TRUE = frozenset({"1", "t", "true", "yes", "on"})


def check_build(build: BuildOptions, environ: Mapping[str, str]) -> None:
    """Raise ``UsageError`` for flags that contradict each other or ask for what is not public; note the rest."""
    _refuse_unpublished(build.services, environ)
    definition = build.definition
    if definition.lock and not definition.metadata_only:
        raise UsageError("--lock records digests in a definition", hint="give it with --metadata-only")
    if definition.metadata_only and build.dry.dry_run:
        raise UsageError("--metadata-only writes a file, and --dry-run writes none", hint="give one of them")
    if build.delta.is_given and (definition.metadata_only or definition.download_cluster_config_only):
        raise UsageError("--have, --since and --missing leave content out of a bundle, and none is made")
    if definition.custom_ui and definition.download_cluster_config_only:
        raise UsageError("--custom-ui goes into a bundle, and --download-cluster-config-only makes none")
    _check_remote(build)
    if build.signing.private_key:
        from syncer.bundle.signature import check_private_key  # noqa: PLC0415  cryptography is slow to import

        check_private_key(build.signing.private_key)
    if build.bundle.along and build.bundle.arch:
        note("--arch takes one platform out of each index: signatures of the index itself do not apply to it")
    if build.content.profiles and build.services.include_service_images is None:
        note("Palette's own service images are not included, since their list is not public")


def _check_remote(build: BuildOptions) -> None:
    """Raise ``UsageError`` for a registry that is missing, or has no use, and for what a remote build cannot do."""
    remote, login = build.remote, build.login
    if remote.registry is None and (remote.push or remote.build_type is BuildType.REMOTE):
        raise UsageError("a push needs a registry", hint="name it with --registry")
    if remote.registry and not remote.push and remote.build_type is BuildType.LOCAL:
        raise UsageError("--registry is for --push and --build-type remote", hint="add --push")
    if remote.registry is None and (login.username or login.password_stdin or remote.map.rules):
        raise UsageError("--username, --password-stdin and --map are about the registry that --registry names")
    if build.delta.is_given and remote.build_type is BuildType.REMOTE:
        raise UsageError(
            "a remote build sends what the registry lacks anyway, so --have, --since and --missing are of no use to it"
        )
    is_about_a_file = build.signing.private_key or build.bundle.allow_partial or build.dry.dry_run
    if remote.build_type is BuildType.REMOTE and is_about_a_file:
        raise UsageError(
            "a remote build makes no file, so there is none to sign, to publish in part, or to plan",
            hint="syncer plan with --registry shows what it would do",
        )


def _refuse_unpublished(services: ServiceOptions, environ: Mapping[str, str]) -> None:
    """Raise ``UsageError`` for options that ask for content whose list is not public."""
    if services.include_service_images:
        raise _refusal("--include-service-images", "Palette's service images")
    if services.include_core_palette_images_only:
        raise _refusal("--include-core-palette-images-only", "Palette's core images")
    if services.fips:
        raise _refusal("--fips", "Palette's FIPS service images")
    if environ.get(_COMPLIANCE, "").strip().lower() in _TRUE:
        raise _refusal(f"{_COMPLIANCE}=true", "Palette's images for compliance scans")


def _refusal(flag_name: str, what: str) -> UsageError:
    return UsageError(f"{flag_name} cannot be done: the list of {what} is not public", hint=_HINT)


def select_content(options: ContentOptions) -> Selection:
    """The selection of a build; raises ``UsageError`` for options that contradict each other, and ``InvalidFile``."""
    if options.images_only and options.include_packs:
        raise UsageError("--images-only leaves out what --include-packs brings along", hint="give one of them")
    excluded_files = tuple(Path(each) for each in options.exclude_profiles if Path(each).exists())
    selection = Selection(
        uids=options.profiles,
        files=options.profile_file,
        packs=options.packs,
        images=tuple(_images(options)),
        excluded=tuple(each for each in options.exclude_profiles if Path(each) not in excluded_files),
        excluded_files=excluded_files,
        overrides=options.set_var,
        environment=os.environ,
        scan=options.scan,
        images_only=options.images_only,
        include_packs=options.include_packs,
    )
    if options.metadata_file is not None and selection != Selection():
        raise UsageError(
            "--metadata-file says what the bundle is to hold, and so do other flags",
            hint="make one definition of all with --metadata-only, or add to the file by hand",
        )
    return selection


def select_mirror(options: MirrorOptions) -> Selection:
    """The selection of a build of the same images and profiles; raises ``UsageError`` where there are none."""
    images = tuple(_images(options))
    selection = Selection(uids=options.profiles, files=options.profile_file, images=images, environment=os.environ)
    if not (selection.names_profiles or images):
        raise UsageError("there is nothing to plan", hint="name images with --image or --images-file, or a sync file")
    return selection


def _images(options: SourceOptions) -> Iterator[tuple[Reference, str]]:
    """Each image with what names it; raises ``InvalidFile`` for lists that are empty, where nothing else is named."""
    for reference in options.image:
        yield reference, "--image"
    lists = {file: read_images_file(file) for file in options.images_file}
    is_all = not (options.image or options.profiles or options.profile_file)
    if lists and is_all and not any(lists.values()):
        raise InvalidFile.of(InvalidFile(file, "it is empty, and names no image") for file in lists)
    for file, images in lists.items():
        for listed in images:
            yield listed.reference, file.name
