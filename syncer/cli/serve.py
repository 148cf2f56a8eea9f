"""``syncer serve``: a registry made of a bundle, a directory, or both."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

import anyio
import typer

from syncer.cli.options import PaletteOptions
from syncer.cli.run import run
from syncer.errors import Exit, UsageError


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
    from syncer.cli.storage import open_storage  # noqa: PLC0415  imported where used
    from syncer.serve import Tls, serve  # noqa: PLC0415

    palette.refuse("serve", "what is served stays as it is: take a platform out with build --arch or copy --arch")
    if insecure or ca_cert:
        typer.echo("note: serve speaks to no registry, so --insecure and --ca-cert change nothing", err=True)
    if bool(tls_cert) != bool(tls_key):
        raise UsageError("--tls-cert and --tls-key go together")
    tls = Tls(certificate=tls_cert, key=tls_key) if tls_cert and tls_key else None

    async def job() -> Exit:
        with open_storage(bundle, disk) as storage:
            async with serve(storage, host=host, port=port, htpasswd=htpasswd, tls=tls) as address:
                typer.echo(f"serving on {'https' if tls else 'http'}://{address}", err=True)
                if not ipaddress.ip_address(address.host).is_loopback and not (htpasswd and tls):
                    typer.echo("warning: others can reach this address; --htpasswd and --tls-cert protect it", err=True)
                await anyio.sleep_forever()
        return Exit.OK

    run(job, farewell=None)
