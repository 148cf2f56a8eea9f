"""The options of all commands, in groups; the flags of ``palette content`` are among them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from syncer.cli.command import flag, option
from syncer.errors import UsageError
from syncer.transfer.run import WORKERS


class LogForm(StrEnum):
    """``log.LogFormat``, whose module is slow to import."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionOptions:
    """How registries are spoken to."""

    authfile: Path | None = option(
        "Credentials, in the form of Docker's config.json. Default: $REGISTRY_AUTH_FILE, then what registry-login "
        "kept, then the files of podman and Docker."
    )
    plain_http: bool = flag("Speak HTTP to the registries. Loopback addresses need no flag.")
    insecure: bool = flag("Do not verify the certificates of the registries.", "-i")
    ca_cert: Path | None = option("Certificates (PEM) to trust beside the system's.")
    tls_cert: Path | None = option("Client certificate (PEM).")
    tls_key: Path | None = option("Key of the client certificate (PEM).")
    allow_realm: tuple[str, ...] = option(
        "Show a registry's login to this token server, though it is another host.", default=(), metavar="HOST"
    )
    concurrency: int = option(
        "Pieces of content in flight, and requests to one registry at a time.", default=WORKERS, min=1, max=256
    )
    max_wait: float = option(
        "Seconds that a registry may ask to wait (Retry-After) before we give up.", default=120.0, min=0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PaletteOptions:
    """What Palette's CLI has on every command, on those that have no use for it."""

    arch: str | None = option("Refused: this takes nothing out of images.", "-a")
    progress: bool = flag("Palette's; there is no progress to show.", default=True)

    def refuse(self, command: str, reason: str) -> None:
        """Raise ``UsageError`` for a platform."""
        if self.arch is not None:
            raise UsageError(f"{command} takes no --arch: {reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginOptions:
    """Credentials for the one registry that the command names."""

    username: str | None = option("User of the registry named above.", "-u")
    password_stdin: bool = flag("Read that user's password from standard input.")


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadOptions:
    """How content is sent, and what is remembered of it."""

    chunk_size: str = option(
        "Of the requests that a large blob (more than two of them) is sent in.", default="16MiB", metavar="BYTES"
    )
    state_dir: Path | None = option("Where unfinished uploads and the like are remembered between runs.", metavar="DIR")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """How a command tells what it did."""

    json: bool = flag("Print the result as one JSON document instead of a summary.")
    progress: bool = flag("Show on stderr how far it is: live on a terminal.", default=True)
    report: Path | None = option("Also write the full report (docs/report.md) here.", metavar="FILE")
    metrics_file: Path | None = option(
        "Write Prometheus text for node_exporter's textfile collector here.", metavar="FILE"
    )
    log_format: LogForm | None = option("Log each event on stderr as a line of this form, instead of the display.")


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorOptions:
    """What to mirror, and where to: a sync file, or images and one target."""

    config: Path | None = option("A sync file (docs/sync.md).", "-c", metavar="FILE")
    image: tuple[str, ...] = option("An image; may be given many times.", default=(), metavar="REF")
    images_file: tuple[Path, ...] = option(
        "A list of images: one a line, # starts a comment. May be given many times.", default=(), metavar="FILE"
    )
    profile_file: tuple[Path, ...] = option(
        "A profile exported from Palette, or a pack. May be given many times.", default=(), metavar="FILE"
    )
    profiles: str | None = option("Cluster profiles of Palette.", metavar="ID,ID")
    project_id: str | None = option("The project that the profiles are in. Or $SYNCER_PROJECT_ID.", metavar="ID")
    registry: str | None = option("Where the images go.", "-r", metavar="HOST[:PORT][/BASE]")
    map: tuple[str, ...] = option(
        "Replace the start of original names; the longest match wins.", default=(), metavar="PREFIX=REPLACEMENT"
    )
    arch: str | None = option("Take this platform out of every multi-platform image.", "-a", metavar="amd64|arm64")
    referrers: bool = flag("Bring signatures, attestations and SBOMs along.", default=True)
    strict: bool = flag("A rule that fits no tag is an error.")


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRunOptions:
    """Looking before leaping."""

    dry_run: bool = flag("Say what would be fetched, sent, mounted and skipped, and do none of it.")
    exit_code: bool = flag("With --dry-run: exit with 10 when there is work to do.")


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

    image: tuple[str, ...] = option("An image; may be given many times.", default=(), metavar="REF")
    images_file: tuple[Path, ...] = option(
        "A list of images: one a line, # starts a comment. May be given many times.", default=(), metavar="FILE"
    )
    profiles: str | None = option("Cluster profiles of Palette; at most one full or infra one.", metavar="ID,ID")
    project_id: str | None = option("The project that the profiles are in. Or $SYNCER_PROJECT_ID.", metavar="ID")
    profile_file: tuple[Path, ...] = option(
        "An exported profile (JSON or YAML), a pack's values.yaml, or a pack (directory or archive). May be given "
        "many times.",
        default=(),
        metavar="FILE",
    )
    packs: str | None = option("Packs, as directories or archives, with their archives.", metavar="PATH,PATH")
    images_only: bool = flag("Leave out charts and the archives of packs.")
    include_packs: bool = flag("Bring the archives of --profile-file packs along too.")
    exclude_profiles: str | None = option("Leave out whatever these profiles (ids or files) name.", metavar="ID,ID")
    existing_bundles: str | None = option(
        "Bundles at hand: what they hold is not asked of the network.", metavar="PATH,PATH"
    )
    set_var: tuple[str, ...] = option(
        "A value for a macro or variable. May be given many times.", default=(), metavar="NAME=VALUE"
    )
    scan: bool = flag("Also take the images that packs name in manifests, values and charts, unlisted.")
    metadata_file: Path | None = option("Build what this bundle-definition.yaml says.", "-f", metavar="FILE")
    cred_file_path: Path | None = option("Credentials in the form of Palette's Edge CLI (JSON).", metavar="FILE")


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleOptions:
    """What the bundle is to be like."""

    name: str | None = option("The bundle's name. Default: bundle, or bundle-PROJECT with --project-id.", "-n")
    output: Path | None = option("Where the bundle is put. Default: output/content-bundle", "-o", metavar="DIR")
    arch: str | None = option(
        "Take this platform out of every multi-platform image (os/arch[/variant] is understood too). Without it images "
        "keep their form and their digest.",
        "-a",
        metavar="amd64|arm64",
    )
    format: BundleFormat = option("Frames of zstd, which most expect, or a plain tar.", default=BundleFormat.ZSTD)
    compression_level: int = option(
        "Of zstd, for manifests; layers are stored, being compressed already.", default=3, min=1, max=19
    )
    force: bool = flag("Replace what is there.")
    allow_partial: bool = flag("Publish the bundle without the images that failed.")
    resume: bool = flag("Go on with what an interrupted build left, or start over.", default=True)
    referrers: bool = flag(
        "Bring along what refers to the images: signatures, attestations, SBOMs (cosign's and OCI 1.1).", default=True
    )
    skip_cleanup: bool = flag("Keep the charts and packs that were fetched, beside the bundle.")
    private_key: Path | None = option(
        "Sign the bundle with this RSA key (PEM), into NAME.tar.zst.sig.bin.", metavar="FILE"
    )
    application_release_name: str = option("Noted in the bundle's definition.", default="")
    application_release_version: str = option("Noted in the bundle's definition.", default="")
    application_release_notes: str = option("Noted in the bundle's definition.", default="")


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinitionOptions:
    """Definitions instead of bundles, or beside them."""

    metadata_only: bool = flag("Only write bundle-definition.yaml: what the bundle would hold.")
    lock: bool = flag("With --metadata-only: record digests, platforms and sizes too.")
    cluster_definition_name: str | None = option(
        "Download this cluster definition, NAME.tgz, and bring it along.", metavar="NAME"
    )
    cluster_definition_profile_ids: str | None = option(
        "The profiles of the cluster definition. Default: --profiles", metavar="ID,ID"
    )
    download_cluster_config_only: bool = flag("Download the cluster definition, and nothing else.")
    custom_ui: Path | None = option("A widget archive (.tar, .tar.gz, .tar.zst) to bring along.", metavar="FILE")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteOptions:
    """A registry as the place where a build ends."""

    push: bool = flag("Push the bundle to --registry once it is built.", "-p")
    registry: str | None = option("With --push or remote builds.", "-r", metavar="HOST[:PORT][/BASE]")
    build_type: BuildType = option("remote: straight to --registry, with no file between.", default=BuildType.LOCAL)
    map: tuple[str, ...] = option(
        "With --registry: replace the start of original names.", default=(), metavar="PREFIX=REPLACEMENT"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions:
    """Flags of Palette's CLI about content that only Palette knows, and about its own keeping of secrets."""

    include_service_images: bool | None = flag(
        "Palette's own service images: their list is not public, so they cannot be included.", default=None
    )
    include_core_palette_images_only: bool = flag("Refused: the list is not public.")
    fips: bool = flag("Refused: the list of FIPS service images is not public.")
    encryption_passphrase: str | None = option("Of the login that syncer keeps.", "-k", metavar="WORD")


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
