"""Options that several commands have: groups that commands take as they are, and single ones under a function each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from syncer.bundle import GivenName, bundle_place
from syncer.cli.command import count, flag, option, options
from syncer.content import Along
from syncer.errors import UsageError
from syncer.formats.units import byte_count
from syncer.naming import NameMapping, read_mapping
from syncer.oci import Platform, Reference
from syncer.registry import RegistryAddress
from syncer.transfer.run import WORKERS


def absolute(path: Path | None) -> Path | None:
    """``path`` for a process whose working directory is another one."""
    return path and path.absolute()


def split_words(text: str) -> tuple[str, ...]:
    """The words of ``a,b``, as Palette's flags take them."""
    return tuple(word for word in (part.strip() for part in text.split(",")) if word)


def split_paths(text: str) -> tuple[Path, ...]:
    """The paths of ``a,b``, as Palette's flags take them."""
    return tuple(map(Path, split_words(text)))


def arch_option() -> Any:
    """``--arch``: a ``Platform``."""
    return option(
        "Take this platform out of every multi-platform image (os/arch[/variant] is understood too). Without it images "
        "keep their form and their digest.",
        "-a",
        metavar="amd64|arm64",
        parse=Platform.parse,
    )


def as_option() -> Any:
    """``--as``: a ``GivenName``."""
    return option(
        "Names an archive's only image, or without a tag all that have a bare tag, as skopeo writes them.",
        "--as",
        metavar="NAME[:TAG]",
        parse=GivenName.parse,
    )


def bundle_option() -> Any:
    """``--file``: the path or the address of a bundle that is read."""
    return option(
        "The bundle, or an archive or a directory of another tool; or the https:// address of a bundle, which is read "
        "in parts, and not stored.",
        "-f",
        required=True,
        metavar="BUNDLE|URL",
        parse=bundle_place,
    )


def cred_file_option() -> Any:
    """``--cred-file-path``: a path."""
    return option("Credentials in the form of Palette's Edge CLI (JSON).", metavar="FILE")


def include_foreign_flag() -> Any:
    """``--include-foreign``."""
    return flag("Fetch foreign layers too, from the URLs at which their vendors keep them.")


def json_flag(help: str = "Print the result as one JSON document instead of a summary.") -> Any:  # noqa: A002
    """``--json``."""
    return flag(help)


def map_option(help: str = "Replace the start of original names; the longest match wins.") -> Any:  # noqa: A002
    """``--map``: a ``NameMapping``."""
    return options(f"{help} May be given many times.", metavar="PREFIX=REPLACEMENT", collect=read_mapping)


def password_option(*flags: str) -> Any:
    """``--password``: a text."""
    return option("Anybody on this machine can see it: use --password-stdin.", *flags)


def project_id_option() -> Any:
    """``--project-id``: a text."""
    return option("The project that the profiles are in. Or $SYNCER_PROJECT_ID.", metavar="ID")


def referrers_flag(*, default: bool | None = True) -> Any:
    """``--referrers``, on by default; with ``default=None`` it is known whether it was given."""
    return flag(
        "Bring along what refers to the images: signatures, attestations, SBOMs (cosign's and OCI 1.1).",
        default=default,
    )


def require_referrers_flag() -> Any:
    """``--require-referrers``."""
    return flag("What a registry does not tell of them is a failure.")


def choose_referrers(*, referrers: bool, required: bool) -> Along:
    """Choose whether referrers come along, by both flags; raises ``UsageError`` where they contradict each other."""
    if required and not referrers:
        raise UsageError("--require-referrers and --no-referrers contradict each other", hint="give one of them")
    return "require" if required else referrers


def registry_option(
    help: str,  # noqa: A002
    *,
    required: bool = False,
    metavar: str = "HOST[:PORT][/BASE]",
    parse: Callable[[str], Any] = RegistryAddress.parse,
) -> Any:
    """``--registry``: a ``RegistryAddress``."""
    return option(help, "-r", required=required, metavar=metavar, parse=parse)


def parse_selectors(texts: Iterable[str]) -> dict[str, str]:
    """Parse the values of ``--annotation-selector``, each ``KEY=VALUE``; raises ``UsageError``."""
    wanted: dict[str, str] = {}
    for text in texts:
        if text in ("", "[]"):  # how Palette's help writes the default
            continue
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UsageError(f"{text[:80]!r} is not KEY=VALUE", hint="write it like org.example.tier=edge")
        wanted[key.strip()] = value
    return wanted


def selector_option() -> Any:
    """``--annotation-selector``: keys and values."""
    return options("Only images with this annotation; repeatable.", metavar="KEY=VALUE", collect=parse_selectors)


class BundleFormat(StrEnum):
    """The forms of a bundle."""

    ZSTD = "tar.zst"
    PLAIN = "tar"


class LogForm(StrEnum):
    """``log.LogFormat``, whose module is slow to import."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustOptions:
    """The certificates that a server may have."""

    insecure: bool = flag("Do not verify the certificates of servers.", "-i")
    ca_cert: Path | None = option("Certificates (PEM) to trust beside the system's.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionOptions(TrustOptions):
    """Connections to registries."""

    authfile: Path | None = option(
        "Credentials, in the form of Docker's config.json. Default: $REGISTRY_AUTH_FILE, then what registry-login "
        "kept, then the files of podman and Docker."
    )
    plain_http: bool = flag(
        "Speak HTTP to the registries. Loopback addresses need no flag: they are spoken to by HTTPS with --ca-cert or "
        "--tls-cert, and with --insecure if their port takes it."
    )
    tls_cert: Path | None = option("Client certificate (PEM).")
    tls_key: Path | None = option("Key of the client certificate (PEM).")
    allow_realm: tuple[str, ...] = options(
        "Show a registry's login to this token server, though it is another host.", metavar="HOST"
    )
    concurrency: int = option(
        "Pieces of content in flight, and requests to one registry at a time.", default=WORKERS, min=1, max=256
    )
    max_wait: float = option(
        "Seconds that a registry may ask to wait (Retry-After) before we give up.", default=120.0, min=0
    )
    stall: float = option(
        "Seconds to wait for the next byte of a blob, which a cache or a virus scanner may hold back.",
        default=300.0,
        min=1,
    )
    outage: float = option(
        "Seconds that a registry which has answered may be away, as when it restarts.", default=120.0, min=0
    )

    def for_workers(self) -> Self:
        """The same for processes of another working directory."""
        return replace(
            self,
            authfile=absolute(self.authfile),
            ca_cert=absolute(self.ca_cert),
            tls_cert=absolute(self.tls_cert),
            tls_key=absolute(self.tls_key),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginOptions:
    """Credentials for the one registry that the command names."""

    username: str | None = option("User of the registry.", "-u")
    password_stdin: bool = flag("Read that user's password from standard input.")

    @property
    def is_given(self) -> bool:
        """True when there is a login, or a half of one."""
        return self.username is not None or self.password_stdin

    def require_one_registry(self) -> None:
        """Raise ``UsageError`` for a login, since several registries are named."""
        if self.is_given:
            raise UsageError(
                "--username and --password-stdin are for one registry, and several are named",
                hint="syncer registry-login keeps a login for each of them",
            )

    def refuse_for_workers(self) -> None:
        """Raise ``UsageError`` for a login, since it would be needed on other machines."""
        if self.is_given:
            raise UsageError(
                "--username and --password-stdin stay on this machine, and --dask goes to registries from others",
                hint="syncer registry-login keeps a login on each of them",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class StateOptions:
    """Hints of earlier runs."""

    state_dir: Path | None = option(
        "Where unfinished uploads and the like are remembered between runs; a run can do without it.",
        metavar="DIR",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadOptions(StateOptions):
    """Content on its way to a registry."""

    chunk_size: int = option(
        "Size of one upload request; a blob larger than twice this is split.",
        default="16MiB",
        metavar="BYTES",
        parse=byte_count,
    )

    def for_workers(self) -> Self:
        """The same for processes of another working directory."""
        return replace(self, state_dir=absolute(self.state_dir))


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """Summary, reports and display of a command."""

    json: bool = json_flag()
    progress: bool = flag("Show on stderr how far it is: live on a terminal.", default=True)
    report: Path | None = option("Also write the full report (docs/report.md) here.", metavar="FILE")
    metrics_file: Path | None = option(
        "Write Prometheus text for node_exporter's textfile collector here.", metavar="FILE"
    )
    log_format: LogForm | None = option("Log each event on stderr as a line of this form, instead of the display.")
    quiet: bool = flag("Say nothing unless something fails; for cron.", "-q", "--quiet")
    verbose: int = count("Log each image on stderr, instead of the display; -vv each blob too.", "-v", "--verbose")

    @property
    def log(self) -> LogForm | None:
        """The form of the log, where there is one instead of the display."""
        return self.log_format or (LogForm.TEXT if self.verbose else None)

    @property
    def shows_progress(self) -> bool:
        """True when a display is wanted."""
        return self.progress and not self.quiet


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRunOptions:
    """A forecast instead of a transfer."""

    dry_run: bool = flag("Show what the command would do, and do none of it.")
    exit_code: bool = flag("With --dry-run: exit with 10 when there is work to do.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferOptions(DryRunOptions):
    """A transfer to a registry, or its forecast."""

    recheck: bool = flag(
        "Look for everything that an image needs at the registry, although its tag is right, and send what is lost."
    )

    def refuse_recheck(self) -> None:
        """Raise ``UsageError`` for a forecast of a recheck."""
        if self.dry_run and self.recheck:
            raise UsageError(
                "a dry run looks at tags only, so there is none with --recheck",
                hint="syncer verify --registry tells what a registry lacks of a bundle",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PaletteOptions:
    """Flags that Palette's CLI has on every command, for commands that have no use for them."""

    arch: str | None = option("Refused: this takes nothing out of images.", "-a")
    progress: bool = flag("Palette's; there is no progress to show.", default=True)

    def refuse(self, command: str, reason: str) -> None:
        """Raise ``UsageError`` for a platform."""
        if self.arch is not None:
            raise UsageError(f"{command} takes no --arch: {reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleOptions:
    """The bundle that is written."""

    output: Path | None = option("Where the bundle is put. Default: output/content-bundle", "-o", metavar="DIR")
    arch: Platform | None = arch_option()
    format: BundleFormat = option("zstd (default) or plain tar.", default=BundleFormat.ZSTD)
    compression_level: int = option(
        "Level of zstd for manifests; layers are compressed already, and stored as they are.", default=3, min=1, max=19
    )
    include_foreign: bool = include_foreign_flag()
    force: bool = flag("Replace what is there.")
    allow_partial: bool = flag("Publish the bundle without the images that failed.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """Images and profiles."""

    image: tuple[Reference, ...] = options(
        "An image; may be given many times. http:// or https:// before it says how its registry is asked.",
        metavar="REF",
        parse=Reference.parse_address,
    )
    images_file: tuple[Path, ...] = options(
        "A list of images: one a line, # starts a comment. May be given many times.", metavar="FILE"
    )
    profiles: tuple[str, ...] = option(
        "Cluster profiles of Palette; a bundle holds at most one full or infra one.",
        default=(),
        metavar="ID,ID",
        parse=split_words,
    )
    project_id: str | None = project_id_option()
    profile_file: tuple[Path, ...] = options(
        "An exported profile, a pack or its values.yaml, Kubernetes manifests or a compose file, or a directory of "
        "these. May be given many times.",
        metavar="FILE",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorOptions(SourceOptions):
    """A sync file, or images and profiles; and how they are mirrored."""

    config: Path | None = option("A sync file (docs/sync.md).", "-c", metavar="FILE")
    map: NameMapping = map_option()
    arch: Platform | None = arch_option()
    referrers: bool | None = referrers_flag(default=None)
    include_foreign: bool = include_foreign_flag()
    require_referrers: bool = require_referrers_flag()
    strict: bool = flag("A rule that fits no tag is an error.")

    def everyone(self, targets: Sequence[RegistryAddress]) -> list[Reference | RegistryAddress]:
        """All whom a sync to ``targets`` speaks to; empty where not only these options tell."""
        if self.config or self.profiles or self.profile_file or self.images_file or not targets:
            return []
        return [*self.image, *targets]

    def for_workers(self) -> Self:
        """The same for processes of another working directory."""
        return replace(
            self,
            config=absolute(self.config),
            images_file=tuple(path.absolute() for path in self.images_file),
            profile_file=tuple(path.absolute() for path in self.profile_file),
        )

    @property
    def along(self) -> Along:
        """The choice whether referrers come along; raises ``UsageError`` for flags that contradict each other."""
        return choose_referrers(referrers=self.referrers is not False, required=self.require_referrers)

    @property
    def says_along(self) -> bool:
        """True when a flag makes that choice."""
        return self.referrers is not None or self.require_referrers
