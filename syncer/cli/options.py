"""The options of all commands, in groups; the flags of ``palette content`` are among them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from syncer.content import Along
from syncer.errors import UsageError
from syncer.transfer.run import WORKERS


class LogForm(StrEnum):
    """``log.LogFormat``, whose module is slow to import."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionOptions:
    """How registries are spoken to."""

    authfile: Annotated[
        Path | None,
        typer.Option(
            help="Credentials, in the form of Docker's config.json. Default: $REGISTRY_AUTH_FILE, then "
            "what registry-login kept, then the files of podman and Docker."
        ),
    ] = None
    plain_http: Annotated[
        bool, typer.Option("--plain-http", help="Speak HTTP to the registries. Loopback addresses need no flag.")
    ] = False
    insecure: Annotated[
        bool, typer.Option("-i", "--insecure", help="Do not verify the certificates of the registries.")
    ] = False
    ca_cert: Annotated[Path | None, typer.Option(help="Certificates (PEM) to trust beside the system's.")] = None
    tls_cert: Annotated[Path | None, typer.Option(help="Client certificate (PEM).")] = None
    tls_key: Annotated[Path | None, typer.Option(help="Key of the client certificate (PEM).")] = None
    allow_realm: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="Show a registry's login to this token server, though it is another host."),
    ] = None
    concurrency: Annotated[
        int, typer.Option(min=1, max=256, help="Pieces of content in flight, and requests to one registry at a time.")
    ] = WORKERS
    max_wait: Annotated[
        float, typer.Option(min=0, help="Seconds that a registry may ask to wait (Retry-After) before we give up.")
    ] = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PaletteOptions:
    """What Palette's CLI has on every command, on those that have no use for it."""

    arch: Annotated[str | None, typer.Option("-a", "--arch", help="Refused: this takes nothing out of images.")] = None
    progress: Annotated[
        bool, typer.Option("--progress/--no-progress", help="Palette's; there is no progress to show.")
    ] = True

    def refuse(self, command: str, reason: str) -> None:
        """Raise ``UsageError`` for a platform."""
        if self.arch is not None:
            raise UsageError(f"{command} takes no --arch: {reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginOptions:
    """Credentials for the one registry that the command names."""

    username: Annotated[str | None, typer.Option("-u", "--username", help="User of the registry named above.")] = None
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read that user's password from standard input.")
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadOptions:
    """How content is sent, and what is remembered of it."""

    chunk_size: Annotated[
        str,
        typer.Option(metavar="BYTES", help="Of the requests that a large blob (more than two of them) is sent in."),
    ] = "16MiB"
    state_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where unfinished uploads and the like are remembered between runs."),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """How a command tells what it did."""

    json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON document instead of a summary.")
    ] = False
    progress: Annotated[
        bool, typer.Option("--progress/--no-progress", help="Show on stderr how far it is: live on a terminal.")
    ] = True
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Also write the full report (docs/report.md) here.")
    ] = None
    metrics_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write Prometheus text for node_exporter's textfile collector here."),
    ] = None
    log_format: Annotated[
        LogForm | None, typer.Option(help="Log each event on stderr as a line of this form, instead of the display.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorOptions:
    """What to mirror, and where to: a sync file, or images and one target."""

    config: Annotated[
        Path | None, typer.Option("-c", "--config", metavar="FILE", help="A sync file (docs/sync.md).")
    ] = None
    image: Annotated[list[str] | None, typer.Option(metavar="REF", help="An image; may be given many times.")] = None
    images_file: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A list of images: one a line, # starts a comment. May be given many times."),
    ] = None
    profile_file: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A profile exported from Palette, or a pack. May be given many times."),
    ] = None
    profiles: Annotated[str | None, typer.Option(metavar="ID,ID", help="Cluster profiles of Palette.")] = None
    project_id: Annotated[
        str | None, typer.Option(metavar="ID", help="The project that the profiles are in. Or $SYNCER_PROJECT_ID.")
    ] = None
    registry: Annotated[
        str | None, typer.Option("-r", "--registry", metavar="HOST[:PORT][/BASE]", help="Where the images go.")
    ] = None
    map: Annotated[
        list[str] | None,
        typer.Option(metavar="PREFIX=REPLACEMENT", help="Replace the start of original names; the longest match wins."),
    ] = None
    arch: Annotated[
        str | None,
        typer.Option(
            "-a", "--arch", metavar="amd64|arm64", help="Take this platform out of every multi-platform image."
        ),
    ] = None
    referrers: Annotated[
        bool, typer.Option("--referrers/--no-referrers", help="Bring signatures, attestations and SBOMs along.")
    ] = True
    require_referrers: Annotated[
        bool,
        typer.Option("--require-referrers", help="What a registry does not tell of them is a failure."),
    ] = False
    strict: Annotated[bool, typer.Option("--strict", help="A rule that fits no tag is an error.")] = False

    @property
    def along(self) -> Along:
        """Whether referrers come along; raises ``UsageError`` for flags that contradict each other."""
        return _along(referrers=self.referrers, required=self.require_referrers)


def _along(*, referrers: bool, required: bool) -> Along:
    if required and not referrers:
        raise UsageError("--require-referrers and --no-referrers contradict each other", hint="give one of them")
    return "require" if required else referrers


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRunOptions:
    """Looking before leaping."""

    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be fetched, sent, mounted and skipped, and do none of it.")
    ] = False
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="With --dry-run: exit with 10 when there is work to do.")
    ] = False


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
    require_referrers: Annotated[
        bool,
        typer.Option("--require-referrers", help="What a registry does not tell of them is a failure."),
    ] = False
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

    @property
    def along(self) -> Along:
        """Whether referrers come along; raises ``UsageError`` for flags that contradict each other."""
        return _along(referrers=self.referrers, required=self.require_referrers)


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
