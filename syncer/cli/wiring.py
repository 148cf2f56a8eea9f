"""From options and the environment to settings, and from results to what is printed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import typer

from syncer import __version__
from syncer.api.verify import VerifyResult
from syncer.cli.display import Mode, open_display
from syncer.cli.options import ConnectionOptions, LoginOptions, OutputOptions
from syncer.errors import InvalidFile, UsageError
from syncer.oci import Reference
from syncer.profiles.images_file import read_images_file
from syncer.registry import (
    AuthFile,
    Credential,
    CredentialSettings,
    RegistryAddress,
    RegistrySettings,
    default_auth_files,
)
from syncer.report import Report, human_bytes, human_seconds, summary
from syncer.transfer.events import Emit
from syncer.transport import HostSettings, Limits, Proxies, TransportSettings


def registry_settings(
    connection: ConnectionOptions, login: LoginOptions | None = None, address: RegistryAddress | None = None
) -> RegistrySettings:
    """What the registry end is told; ``login`` is for the registry at ``address`` alone."""
    host = HostSettings(
        plain_http=connection.plain_http or None,
        insecure=connection.insecure,
        ca_cert=_existing(connection.ca_cert),
        client_cert=_existing(connection.tls_cert),
        client_key=_existing(connection.tls_key),
    )
    files = (AuthFile(connection.authfile, is_required=True),) if connection.authfile else ()
    return RegistrySettings(
        transport=TransportSettings(
            limits=Limits(requests_per_host=connection.concurrency, max_wait=connection.max_wait),
            default=host,
            proxies=Proxies.from_environ(os.environ),
            user_agent=f"syncer/{__version__}",
        ),
        credentials=CredentialSettings(
            logins=_explicit(login, address) if login and address else {},
            files=files or default_auth_files(os.environ),
        ),
    )


def images_of(images: Sequence[str], files: Sequence[Path]) -> list[Reference]:
    """The references that a command line names, in its order; raises ``UsageError``."""
    references = [Reference.parse(text.removeprefix("docker://")) for text in images]
    for file in files:
        references += [listed.reference for listed in read_images_file(file)]
    return list(dict.fromkeys(references))


@contextmanager
def showing(reporting: OutputOptions, *, images: int | None = None) -> Iterator[Emit]:
    """The display while a transfer runs; ``images`` are to be expected, if that is known already."""
    with open_display(sys.stderr, mode=Mode.AUTO if reporting.progress else Mode.OFF) as display:
        if images is not None:
            display.expect(images)
        yield display


def tell(title: str, outcome: Sequence[str], report: Report, reporting: OutputOptions, **more: Any) -> None:
    """Print what a transfer did: a summary, or one JSON document with ``more`` in it."""
    if reporting.json:
        print_json(report.to_json() | more)
    else:
        typer.echo(summary(title, outcome, report))
    hints = {image.error.hint: None for image in report.images if image.error and image.error.hint}
    for hint in hints:
        typer.echo(f"hint: {hint}", err=True)


def print_json(document: Any) -> None:
    """One document on stdout."""
    typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())


def _explicit(login: LoginOptions, address: RegistryAddress) -> dict[str, Credential]:
    if login.username is None and not login.password_stdin:
        return {}
    if login.username is None or not login.password_stdin:
        raise UsageError(
            "--username and --password-stdin go together",
            hint='echo "$PASSWORD" | syncer push … --username NAME --password-stdin',
        )
    return {address.host: Credential(username=login.username, password=sys.stdin.readline().rstrip("\r\n"))}


def _existing(path: Path | None) -> Path | None:
    if path is not None and not path.is_file():
        raise InvalidFile(path, "there is no such file")
    return path


def tell_check(result: VerifyResult, reporting: OutputOptions) -> None:
    """Print what a verification found."""
    if reporting.json:
        print_json(result.to_json())
        return
    check = result.check
    lines = [
        "-" * 29,
        "Verify Summary",
        "-" * 29,
        f"bundle {result.bundle} is sound: every byte of the file is accounted for",
        f"images:  {check.images} ({check.manifests:,} manifests, {check.blobs:,} blobs, {human_bytes(check.bytes)})",
    ]
    if check.unreferenced:
        lines.append(f"unused:  {len(check.unreferenced)} pieces of content that no image needs")
    if result.registry:
        state = f"lacks {len(result.lacking)} of" if result.lacking else "has all"
        lines.append(f"registry {result.registry} {state} {result.checked:,} names and pieces of content")
        lines += [f"lacking: {lacking.name}: {lacking.problem}" for lacking in result.lacking]
    typer.echo("\n".join([*lines, f"time:    {human_seconds(result.seconds)}"]))
