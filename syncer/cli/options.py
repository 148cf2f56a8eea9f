"""The options that commands share, in groups."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from syncer.errors import UsageError


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
    ] = 32
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
    strict: Annotated[bool, typer.Option("--strict", help="A rule that fits no tag is an error.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRunOptions:
    """Looking before leaping."""

    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be fetched, sent, mounted and skipped, and do none of it.")
    ] = False
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="With --dry-run: exit with 10 when there is work to do.")
    ] = False
