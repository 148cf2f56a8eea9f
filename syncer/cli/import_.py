"""``syncer import``: the files of other tools as sync files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from syncer.errors import Exit
from syncer.profiles.imports.importers import import_file


def import_(
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The other tool's file; which tool's is found out.")],
    registry: Annotated[
        str | None,
        typer.Option(
            "-r", "--registry", metavar="HOST[:PORT][/BASE]", help="Where to mirror to, if the file does not say."
        ),
    ] = None,
    auth: Annotated[
        Path | None, typer.Option("--auth", metavar="FILE", help="The logins that belong to a file of image-syncer's.")
    ] = None,
) -> None:
    """Print a sync file that does what another tool's file does.

    Known are skopeo's, regsync's, hauler's, oc-mirror's, image-syncer's and imgpkg's files, and plain lists of
    images. What cannot be carried over is named on stderr, and the exit code is 2.
    """
    imported = import_file(file, registry=registry, logins=auth)
    typer.echo(imported.text, nl=False)
    for refusal in imported.refusals:
        typer.echo(f"error: {refusal}", err=True)
    if imported.refusals:
        typer.echo("hint: the printed file does less than the other one; say these things in another way", err=True)
        raise typer.Exit(Exit.USAGE)
