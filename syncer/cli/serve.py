"""``syncer serve``: a bundle, a directory, or both as a registry."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import click

from syncer.api.bundles import ServedBundle, open_checked
from syncer.cli.command import flag, option
from syncer.cli.job import run
from syncer.cli.options import PaletteOptions
from syncer.cli.output import warn
from syncer.errors import Exit, UsageError
from syncer.formats.units import parse_duration
from syncer.serve import Storage, Tls, open_disk
from syncer.serve import serve as serve_storage
from syncer.serve.disk import KEEP_SECONDS
from syncer.serve.storage import Bundled, Layered

_LEAST_KEEP_SECONDS = 60


def serve(
    *,
    bundle: str | None = option("Serve this bundle, read-only.", "-b", metavar="BUNDLE", fixed=True),
    base: str | None = option("The older bundle that has what a delta lacks.", metavar="BUNDLE", fixed=True),
    disk: str | None = option("Serve this directory, and keep what is pushed in it.", "-d", metavar="DIR"),
    keep_unfinished: float = option(
        "With --disk: remove unfinished uploads and unused blobs after this time.",
        default="24h",
        metavar="DURATION",
        parse=parse_duration,
    ),
    host: str = option("The address to listen on.", default="127.0.0.1", metavar="ADDRESS"),
    port: int = option("The port to listen on.", "-p", default=8080, min=0, max=65535),
    htpasswd: Path | None = option("Ask for a password of this file, which htpasswd -B made.", metavar="FILE"),
    tls_cert: Path | None = option("Certificate (PEM) to speak HTTPS with.", fixed=True),
    tls_key: Path | None = option("Key of the certificate (PEM).", fixed=True),
    palette: PaletteOptions,
    insecure: bool = flag("Palette's; changes nothing, since no registry is spoken to.", "-i", hidden=True),
    ca_cert: Path | None = option("Palette's; likewise.", hidden=True),
) -> None:
    """Serve a bundle or a directory as a registry.

    A bundle is read in place. With both, what is pushed lies in the directory, above what the bundle has.

    Examples:
        syncer serve --bundle edge.tar.zst
        syncer serve --disk /srv/registry --port 5000 --htpasswd users
        syncer serve --bundle edge.tar.zst --disk /srv/registry

    More: docs/serve.md
    """
    palette.refuse("serve", "what is served stays as it is: take a platform out with build --arch or copy --arch")
    if insecure or ca_cert:
        click.echo("note: serve speaks to no registry, so --insecure and --ca-cert change nothing", err=True)
    if bool(tls_cert) != bool(tls_key):
        raise UsageError("--tls-cert and --tls-key go together")
    bundle_path, directory = _path("--bundle", bundle), _path("--disk", disk)
    base_path = _path("--base", base)
    if base_path and not bundle_path:
        raise UsageError("--base has what a delta lacks, and no delta is named", hint="name it with --bundle")
    if keep_unfinished < _LEAST_KEEP_SECONDS:
        raise UsageError("--keep-unfinished must be a minute at least", hint="the manifest of a push comes last")
    tls = Tls(certificate=tls_cert, key=tls_key) if tls_cert and tls_key else None

    async def job() -> Exit:
        async with (
            open_storage(bundle_path, directory, keep_unfinished, base=base_path) as storage,
            serve_storage(storage, host=host, port=port, htpasswd=htpasswd, tls=tls) as address,
        ):
            click.echo(f"serving on {'https' if tls else 'http'}://{address}", err=True)
            if not ipaddress.ip_address(address.host).is_loopback and not (htpasswd and tls):
                click.echo("warning: others can reach this address; --htpasswd and --tls-cert protect it", err=True)
            await anyio.sleep_forever()
        return Exit.OK

    run(job, farewell=None)


def _path(flag: str, name: str | None) -> Path | None:
    """The path ``name``; raises ``UsageError`` for an empty one, which would mean the current directory."""
    if name == "":
        raise UsageError(f"the name that {flag} is given is empty", hint="is a variable of the script not set?")
    return Path(name) if name else None


@asynccontextmanager
async def open_storage(
    bundle: Path | None, disk: Path | None, keep_seconds: float = KEEP_SECONDS, *, base: Path | None = None
) -> AsyncIterator[Storage]:
    """Open a bundle, a directory, or the bundle beneath the directory; ``base`` has what a delta lacks.

    Raises ``UsageError`` when neither is given, and ``InvalidBundle``.
    """
    if bundle is None and disk is None:
        raise UsageError(
            "there is nothing to serve", hint="name a bundle with --bundle, a directory with --disk, or both"
        )
    async with AsyncExitStack() as stack:
        below = None
        if bundle is not None:
            rest = await stack.enter_async_context(open_checked(base, warn=warn)) if base else None
            opened = await stack.enter_async_context(open_checked(bundle, may_lack=base is not None, warn=warn))
            served = ServedBundle.of(opened, rest)
            below = Bundled.load(served, served.repositories)
        if disk is None:
            assert below is not None
            yield below
        else:
            directory = stack.enter_context(open_disk(disk, keep_seconds=keep_seconds))
            yield Layered(directory, below) if below else directory
