"""Options that several commands have: groups that commands take as they are, and single ones under a function each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Self

from syncer.bundle import DEFAULT_OUTPUT, BundleUrl, GivenName, bundle_place
from syncer.cli.command import count, flag, option, option_group, options
from syncer.cli.parser import Heading, Word
from syncer.content import Along
from syncer.errors import InvalidFile, UsageError
from syncer.files import is_stream
from syncer.formats.units import byte_count
from syncer.naming import NameMapping, read_mapping
from syncer.oci import Platform, Reference
from syncer.registry import RegistryAddress
from syncer.transfer.run import WORKERS

ONE_REGISTRY = Word(
    metavar="[REGISTRY]", kind="a registry", file_hint="one bundle is named first, and then HOST[:PORT][/BASE]"
)
"""The argument that says the same as ``--registry``."""


def is_stdout(path: Path) -> bool:
    """Tell whether ``path`` leads to standard output."""
    with suppress(OSError):
        return is_stream(path) and os.path.samestat(path.stat(), os.fstat(1))
    return False


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
        "Take only this platform, such as arm64 or linux/arm/v7. Else images keep their digests.",
        "-a",
        metavar="PLATFORM",
        parse=Platform.parse,
        heading=Heading.WHAT,
    )


def as_option() -> Any:
    """``--as``: a ``GivenName``."""
    return option(
        "The name of an archive's only image; without a tag, of all that have only a tag.",
        "--as",
        metavar="NAME[:TAG]",
        parse=GivenName.parse,
    )


def bundle_option() -> Any:
    """``--file``: the path or the address of a bundle that is read."""
    return option(
        "The bundle: a file, another tool's archive or directory, or an https:// address.",
        "-f",
        required=True,
        metavar="BUNDLE|URL",
        parse=place_of_bundle,
    )


_ENDINGS = ("", ".tar.zst", ".tar", ".delta.tar.zst", ".delta.tar")


def place_of_bundle(text: str) -> Path | BundleUrl:
    """The place of a bundle; raises ``InvalidFile`` for one that is not here, and is where a build has put it."""
    place = bundle_place(text)
    with suppress(OSError):  # a name may be too long for one
        if isinstance(place, Path) and place.name == text and not place.exists():
            built = next((each for end in _ENDINGS if (each := DEFAULT_OUTPUT / f"{text}{end}").is_file()), None)
            if built:
                raise InvalidFile(place, "there is no such file", hint=f"a build has made {built}")
    return place


def cred_file_option() -> Any:
    """``--cred-file-path``: a path."""
    return option("Credentials in the form of Palette's Edge CLI (JSON).", metavar="FILE", heading=Heading.PALETTE)


def include_foreign_flag() -> Any:
    """``--include-foreign``."""
    return flag("Fetch foreign layers (of Windows images) from their vendors too.", heading=Heading.WHAT)


def json_flag(help: str = "Print one JSON document instead of a summary.") -> Any:  # noqa: A002
    """``--json``."""
    return flag(help, heading=Heading.REPORTING)


def map_option(help: str = "Replace the start of images' names.") -> Any:  # noqa: A002
    """``--map``: a ``NameMapping``."""
    return options(f"{help} Repeatable.", metavar="PREFIX=NEW", collect=read_mapping, heading=Heading.TARGET)


def password_option(*flags: str) -> Any:
    """``--password``: a text."""
    return option("Anybody on this machine can see it: use --password-stdin.", *flags, heading=Heading.LOGIN)


def project_id_option() -> Any:
    """``--project-id``: a text."""
    return option(
        "The project that the profiles are in. Default: $SYNCER_PROJECT_ID.",
        metavar="ID",
        heading=Heading.PALETTE,
        read_elsewhere=True,
    )


def referrers_flag(*, default: bool | None = True) -> Any:
    """``--referrers``, on by default; with ``default=None`` it is known whether it was given."""
    return flag(
        "Leave signatures, attestations and SBOMs behind.",
        default=default,
        heading=Heading.WHAT,
    )


def require_referrers_flag() -> Any:
    """``--require-referrers``."""
    return flag("Fail if a registry cannot tell which signatures there are.", heading=Heading.WHAT)


def choose_referrers(*, referrers: bool, required: bool) -> Along:
    """Choose whether referrers come along, by both flags; raises ``UsageError`` where they contradict each other."""
    if required and not referrers:
        raise UsageError("--require-referrers and --no-referrers contradict each other", hint="give one of them")
    return "require" if required else referrers


def registry_option(
    help: str,  # noqa: A002
    *,
    required: bool = False,
    metavar: str = "HOST[/BASE]",
    parse: Callable[[str], Any] = RegistryAddress.parse,
    fixed: bool = False,
) -> Any:
    """``--registry``: a ``RegistryAddress``."""
    return option(help, "-r", required=required, metavar=metavar, parse=parse, heading=Heading.TARGET, fixed=fixed)


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
    return options("Only images with this annotation. Repeatable.", metavar="KEY=VALUE", collect=parse_selectors)


class BundleFormat(StrEnum):
    """The forms of a bundle."""

    ZSTD = "tar.zst"
    PLAIN = "tar"


class LogForm(StrEnum):
    """``log.LogFormat``, whose module is slow to import."""

    TEXT = "text"
    JSON = "json"


@option_group
class TrustOptions:
    """The certificates that a server may have."""

    heading: ClassVar = Heading.LOGIN
    insecure: bool = flag("Do not check the certificates of servers.", "-i")
    ca_cert: Path | None = option("Also trust these certificates (PEM).")


@option_group
class ConnectionOptions(TrustOptions):
    """Connections to registries."""

    authfile: Path | None = option(
        "Logins in the form of Docker's config.json. Default: $REGISTRY_AUTH_FILE, then those of syncer login, podman "
        "and Docker."
    )
    plain_http: bool = flag(
        "Speak plain HTTP to the registries; to localhost without the flag, unless there is a --ca-cert or --tls-cert."
    )
    tls_cert: Path | None = option("Client certificate (PEM).")
    tls_key: Path | None = option("Key of the client certificate (PEM).")
    allow_realm: tuple[str, ...] = options(
        "Send a registry's login to this token server on another host. Repeatable.", metavar="HOST"
    )
    concurrency: int | None = option(
        "Blobs that move at a time, and requests to one registry. Default: found out at each, from 16 to 128.",
        min=1,
        max=256,
        heading=Heading.TRANSFER,
    )
    max_wait: float = option(
        "How long a registry may ask to wait (Retry-After).", default=120.0, min=0, heading=Heading.TRANSFER
    )
    stall: float = option(
        "How long to wait for the next byte of a blob.", default=300.0, min=1, heading=Heading.TRANSFER
    )
    ranges: int = option("Connections for one large blob, at most.", default=16, min=1, heading=Heading.TRANSFER)
    outage: float = option(
        "How long a registry may be away, as when it restarts.", default=120.0, min=0, heading=Heading.TRANSFER
    )

    @property
    def workers(self) -> int:
        """The pieces of content that may be in flight."""
        return self.concurrency or WORKERS

    def for_workers(self) -> Self:
        """The same for processes of another working directory."""
        return replace(
            self,
            authfile=absolute(self.authfile),
            ca_cert=absolute(self.ca_cert),
            tls_cert=absolute(self.tls_cert),
            tls_key=absolute(self.tls_key),
        )


@option_group
class LoginOptions:
    """Credentials for the one registry that the command names."""

    heading: ClassVar = Heading.LOGIN
    username: str | None = option("The user at the registry.", "-u", metavar="NAME")
    password_stdin: bool = flag("Read the user's password from standard input.")

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


@option_group
class StateOptions:
    """Hints of earlier runs."""

    heading: ClassVar = Heading.TRANSFER
    state_dir: Path | None = option("Where notes for the next run are kept.", metavar="DIR")


@option_group
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


@option_group
class OutputOptions:
    """Summary, reports and display of a command."""

    heading: ClassVar = Heading.REPORTING
    json: bool = json_flag()
    progress: bool = flag("Show no progress on stderr.", default=True)
    report: Path | None = option("Write the full report (JSON) to this file.", metavar="FILE", written=True)
    trace: Path | None = option(
        "Write a trace for Perfetto (Chrome's format) to this file.", metavar="FILE", written=True
    )
    metrics_file: Path | None = option("Write metrics for node_exporter to this file.", metavar="FILE", written=True)
    log_format: LogForm | None = option("Log each event on stderr instead of showing progress.")
    quiet: bool = flag("Say nothing but warnings and failures; for cron.", "-q", "--quiet")
    verbose: int = count("Log each image on stderr instead; -vv each blob too.", "-v", "--verbose")

    @property
    def log(self) -> LogForm | None:
        """The form of the log, where there is one instead of the display."""
        return self.log_format or (LogForm.TEXT if self.verbose else None)

    @property
    def talks_on_stderr(self) -> bool:
        """True when what is said for people goes there, since a document goes to standard output, or by ``quiet``."""
        return self.quiet or any(map(is_stdout, filter(None, (self.report, self.trace, self.metrics_file))))

    @property
    def shows_progress(self) -> bool:
        """True when a display is wanted."""
        return self.progress and not self.quiet


@option_group
class DryRunOptions:
    """A forecast instead of a transfer."""

    heading: ClassVar = Heading.REPORTING
    dry_run: bool = flag("Show what the command would do, and do none of it.")
    exit_code: bool = flag("With --dry-run: exit with 10 when there is work to do.")


@option_group
class TransferOptions(DryRunOptions):
    """A transfer to a registry, or its forecast."""

    recheck: bool = flag(
        "Look for everything below each tag at the registry, and send what it lost.", heading=Heading.TARGET
    )

    def refuse_recheck(self) -> None:
        """Raise ``UsageError`` for a forecast of a recheck."""
        if self.dry_run and self.recheck:
            raise UsageError(
                "a dry run looks at tags only, so there is none with --recheck",
                hint="syncer verify --registry tells what a registry lacks of a bundle",
            )


@option_group
class PaletteOptions:
    """Flags that Palette's CLI has on every command, for commands that have no use for them."""

    arch: str | None = option("Refused: this takes nothing out of images.", "-a", hidden=True)
    progress: bool = flag("Palette's; there is no progress to show.", default=True, hidden=True)

    def refuse(self, command: str, reason: str) -> None:
        """Raise ``UsageError`` for a platform."""
        if self.arch is not None:
            raise UsageError(f"{command} takes no --arch: {reason}")


@option_group
class BundleOptions:
    """The bundle that is written."""

    heading: ClassVar = Heading.OUTPUT
    output: Path | None = option("The directory for the bundle. Default: output/content-bundle.", "-o", metavar="DIR")
    arch: Platform | None = arch_option()
    format: BundleFormat = option("zstd (default) or plain tar.", default=BundleFormat.ZSTD)
    compression_level: int = option(
        "zstd's level for manifests; layers are left as they are.", default=3, min=1, max=19
    )
    include_foreign: bool = include_foreign_flag()
    force: bool = flag("Replace a file that is there.")
    allow_partial: bool = flag("Publish the bundle without the images that failed.")

    def __post_init__(self) -> None:
        """Raise ``UsageError`` where the directory is a file, or is called as a bundle would be."""
        if self.output is None or self.output.is_dir():
            return
        if self.output.is_file():
            hint = "give the directory by --output, and the name of the bundle in it by --name"
            raise UsageError(f"--output: {self.output} is a file, and not a directory", hint=hint)
        name, dot, _ = self.output.name.partition(".tar")
        if dot and name and self.output.suffix in (".tar", ".zst"):
            raise UsageError(
                f"--output: {self.output} is the name of a bundle, where its directory is wanted",
                hint=f"give --output {self.output.parent} --name {name}",
            )


@option_group
class SourceOptions:
    """Images and profiles."""

    image: tuple[Reference, ...] = options(
        "An image, such as quay.io/a/b:1. Repeatable. http:// or https:// may stand before it.",
        metavar="REF",
        parse=Reference.parse_address,
    )
    images_file: tuple[Path, ...] = options("A list of images, one a line. Repeatable.", metavar="FILE")
    profiles: tuple[str, ...] = option(
        "Cluster profiles: ID,ID. At most one is full or infrastructure.",
        default=(),
        metavar="IDS",
        parse=split_words,
        heading=Heading.PALETTE,
    )
    project_id: str | None = project_id_option()
    profile_file: tuple[Path, ...] = options(
        "Kubernetes manifests, a compose file, an exported profile, a pack, or a directory of these. Repeatable.",
        metavar="FILE",
    )

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that say what is wanted."""
        return (*self.images_file, *self.profile_file)


@option_group
class MirrorOptions(SourceOptions):
    """A sync file, or images and profiles; and how they are mirrored."""

    config: Path | None = option("A sync file (docs/sync.md) that names sources and targets.", "-c", metavar="FILE")
    map: NameMapping = map_option()
    arch: Platform | None = arch_option()
    referrers: bool | None = referrers_flag(default=None)
    include_foreign: bool = include_foreign_flag()
    require_referrers: bool = require_referrers_flag()
    strict: bool = flag("Fail if a rule of the sync file fits no tag.")

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
