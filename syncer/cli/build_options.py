"""What a build is told, in groups; the flags of ``palette content build`` are among them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from syncer.cli.options import ConnectionOptions, DryRunOptions, LoginOptions, OutputOptions, UploadOptions


class BundleFormat(StrEnum):
    """The forms of a bundle."""

    ZSTD = "tar.zst"
    PLAIN = "tar"


class BuildType(StrEnum):
    """Where a bundle is made."""

    LOCAL = "local"
    REMOTE = "remote"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentOptions:
    """What a bundle is to hold."""

    image: Annotated[list[str] | None, typer.Option(metavar="REF", help="An image; may be given many times.")] = None
    images_file: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A list of images: one a line, # starts a comment. May be given many times."),
    ] = None
    profiles: Annotated[
        str | None, typer.Option(metavar="ID,ID", help="Cluster profiles of Palette; at most one full or infra one.")
    ] = None
    project_id: Annotated[
        str | None, typer.Option(metavar="ID", help="The project that the profiles are in. Or $SYNCER_PROJECT_ID.")
    ] = None
    profile_file: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="An exported profile (JSON or YAML), a pack's values.yaml, or a pack (directory or archive). "
            "May be given many times.",
        ),
    ] = None
    packs: Annotated[
        str | None, typer.Option(metavar="PATH,PATH", help="Packs, as directories or archives, with their archives.")
    ] = None
    images_only: Annotated[bool, typer.Option("--images-only", help="Leave out charts and the archives of packs.")] = (
        False
    )
    include_packs: Annotated[
        bool, typer.Option("--include-packs", help="Bring the archives of --profile-file packs along too.")
    ] = False
    exclude_profiles: Annotated[
        str | None, typer.Option(metavar="ID,ID", help="Leave out whatever these profiles (ids or files) name.")
    ] = None
    existing_bundles: Annotated[
        str | None,
        typer.Option(metavar="PATH,PATH", help="Bundles at hand: what they hold is not asked of the network."),
    ] = None
    set_var: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A value for a macro or variable. May be given many times."),
    ] = None
    scan: Annotated[
        bool,
        typer.Option("--scan", help="Also take the images that packs name in manifests, values and charts, unlisted."),
    ] = False
    metadata_file: Annotated[
        Path | None,
        typer.Option("-f", "--metadata-file", metavar="FILE", help="Build what this bundle-definition.yaml says."),
    ] = None
    cred_file_path: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Credentials in the form of Palette's Edge CLI (JSON).")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleOptions:
    """What the bundle is to be like."""

    name: Annotated[
        str | None,
        typer.Option("-n", "--name", help="The bundle's name. Default: bundle, or bundle-PROJECT with --project-id."),
    ] = None
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Where the bundle is put. Default: output/content-bundle"),
    ] = None
    arch: Annotated[
        str | None,
        typer.Option(
            "-a",
            "--arch",
            metavar="amd64|arm64",
            help="Take this platform out of every multi-platform image (os/arch[/variant] is understood too). "
            "Without it images keep their form and their digest.",
        ),
    ] = None
    format: Annotated[BundleFormat, typer.Option(help="Frames of zstd, which most expect, or a plain tar.")] = (
        BundleFormat.ZSTD
    )
    compression_level: Annotated[
        int, typer.Option(min=1, max=19, help="Of zstd, for manifests; layers are stored, being compressed already.")
    ] = 3
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Publish the bundle without the images that failed.")
    ] = False
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on with what an interrupted build left, or start over.")
    ] = True
    referrers: Annotated[
        bool,
        typer.Option(
            "--referrers/--no-referrers",
            help="Bring along what refers to the images: signatures, attestations, SBOMs (cosign's and OCI 1.1).",
        ),
    ] = True
    skip_cleanup: Annotated[
        bool, typer.Option("--skip-cleanup", help="Keep the charts and packs that were fetched, beside the bundle.")
    ] = False
    private_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Sign the bundle with this RSA key (PEM), into NAME.tar.zst.sig.bin."),
    ] = None
    application_release_name: Annotated[str, typer.Option(help="Noted in the bundle's definition.")] = ""
    application_release_version: Annotated[str, typer.Option(help="Noted in the bundle's definition.")] = ""
    application_release_notes: Annotated[str, typer.Option(help="Noted in the bundle's definition.")] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinitionOptions:
    """Definitions instead of bundles, or beside them."""

    metadata_only: Annotated[
        bool, typer.Option("--metadata-only", help="Only write bundle-definition.yaml: what the bundle would hold.")
    ] = False
    lock: Annotated[
        bool, typer.Option("--lock", help="With --metadata-only: record digests, platforms and sizes too.")
    ] = False
    cluster_definition_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Download this cluster definition, NAME.tgz, and bring it along.")
    ] = None
    cluster_definition_profile_ids: Annotated[
        str | None, typer.Option(metavar="ID,ID", help="The profiles of the cluster definition. Default: --profiles")
    ] = None
    download_cluster_config_only: Annotated[
        bool, typer.Option("--download-cluster-config-only", help="Download the cluster definition, and nothing else.")
    ] = False
    custom_ui: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A widget archive (.tar, .tar.gz, .tar.zst) to bring along.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteOptions:
    """A registry as the place where a build ends."""

    push: Annotated[bool, typer.Option("-p", "--push", help="Push the bundle to --registry once it is built.")] = False
    registry: Annotated[
        str | None, typer.Option("-r", "--registry", metavar="HOST[:PORT][/BASE]", help="With --push or remote builds.")
    ] = None
    build_type: Annotated[BuildType, typer.Option(help="remote: straight to --registry, with no file between.")] = (
        BuildType.LOCAL
    )
    map: Annotated[
        list[str] | None,
        typer.Option(metavar="PREFIX=REPLACEMENT", help="With --registry: replace the start of original names."),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions:
    """Flags of Palette's CLI about content that only Palette knows, and about its own keeping of secrets."""

    include_service_images: Annotated[
        bool | None,
        typer.Option(
            "--include-service-images/--no-include-service-images",
            help="Palette's own service images: their list is not public, so they cannot be included.",
        ),
    ] = None
    include_core_palette_images_only: Annotated[
        bool, typer.Option("--include-core-palette-images-only", help="Refused: the list is not public.")
    ] = False
    fips: Annotated[bool, typer.Option("--fips", help="Refused: the list of FIPS service images is not public.")] = (
        False
    )
    encryption_passphrase: Annotated[
        str | None,
        typer.Option("-k", "--encryption-passphrase", metavar="WORD", help="Of the login that syncer keeps."),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """All that a build is told."""

    content: ContentOptions
    bundle: BundleOptions
    connection: ConnectionOptions
    telling: OutputOptions
    defining: DefinitionOptions = field(default_factory=DefinitionOptions)
    remote: RemoteOptions = field(default_factory=RemoteOptions)
    services: ServiceOptions = field(default_factory=ServiceOptions)
    dry: DryRunOptions = field(default_factory=DryRunOptions)
    login: LoginOptions = field(default_factory=LoginOptions)
    uploading: UploadOptions = field(default_factory=UploadOptions)
