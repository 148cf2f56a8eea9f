"""``syncer serve``: a bundle, a directory, or both as a registry."""

from __future__ import annotations

import ipaddress
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Annotated

import anyio
import typer

from syncer.api.bundles import ServedBundle
from syncer.bundle import check_structure, open_bundle
from syncer.cli.job import run
from syncer.cli.options import PaletteOptions
from syncer.errors import Exit, UsageError
from syncer.serve import Storage, Tls, open_disk
from syncer.serve import serve as serve_storage
from syncer.serve.bundled import Bundled
from syncer.serve.layered import Layered


def serve(
    *,
    bundle: Annotated[
        Path | None,
        typer.Option("-b", "--bundle", metavar="BUNDLE", help="Serve this bundle off the file."),
    ] = None,
    disk: Annotated[
        Path | None,
        typer.Option("-d", "--disk", metavar="DIR", help="Serve this directory and keep in it what is pushed."),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("-p", "--port", min=0, max=65535, help="The port to listen on.")] = 8080,
    htpasswd: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Ask for a password of this file (made by `htpasswd -B`)."),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate (PEM) to speak HTTPS with.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Key of the certificate (PEM).")] = None,
    palette: PaletteOptions,
    insecure: Annotated[
        bool, typer.Option("-i", "--insecure", help="Palette's; changes nothing, since no registry is spoken to.")
    ] = False,
    ca_cert: Annotated[Path | None, typer.Option(help="Palette's; likewise.")] = None,
) -> None:
    """Be a registry: of a bundle (read-only), of a directory (writable), or of both together."""
    palette.refuse("serve", "what is served stays as it is: take a platform out with build --arch or copy --arch")
    if insecure or ca_cert:
        typer.echo("note: serve speaks to no registry, so --insecure and --ca-cert change nothing", err=True)
    if bool(tls_cert) != bool(tls_key):
        raise UsageError("--tls-cert and --tls-key go together")
    tls = Tls(certificate=tls_cert, key=tls_key) if tls_cert and tls_key else None

    async def job() -> Exit:
        _allow_many_files()
        with open_storage(bundle, disk) as storage:
            async with serve_storage(storage, host=host, port=port, htpasswd=htpasswd, tls=tls) as address:
                typer.echo(f"serving on {'https' if tls else 'http'}://{address}", err=True)
                if not ipaddress.ip_address(address.host).is_loopback and not (htpasswd and tls):
                    typer.echo("warning: others can reach this address; --htpasswd and --tls-cert protect it", err=True)
                await anyio.sleep_forever()
        return Exit.OK

    run(job, farewell=None)


def _allow_many_files() -> None:
    """Each connection is an open file, and many systems allow 1024 of them unless they are asked."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS refuses some of what it says it allows
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def open_storage(bundle: Path | None, disk: Path | None) -> Iterator[Storage]:
    """A bundle, a directory, or the bundle beneath the directory.

    Raises ``UsageError`` when neither is given, and ``InvalidBundle``.
    """
    if bundle is None and disk is None:
        raise UsageError(
            "there is nothing to serve", hint="name a bundle with --bundle, a directory with --disk, or both"
        )
    with ExitStack() as stack:
        below = None
        if bundle is not None:
            opened = stack.enter_context(open_bundle(bundle))
            check_structure(opened)
            served = ServedBundle.of(opened)
            below = Bundled.load(served, served.repositories)
        if disk is None:
            assert below is not None
            yield below
        else:
            directory = stack.enter_context(open_disk(disk))
            yield Layered(directory, below) if below else directory
