"""``syncer import``: the files of other tools as sync files."""

from __future__ import annotations

from pathlib import Path

import click

from syncer.cli.command import argument, option
from syncer.errors import Exit
from syncer.profiles.imports.draft import Naming
from syncer.profiles.imports.importers import import_file


def import_(
    *,
    file: Path = argument("The other tool's file; which tool's is found out.", metavar="FILE"),
    registry: str | None = option("Where to mirror to, if the file does not say.", "-r", metavar="HOST[:PORT][/BASE]"),
    auth: Path | None = option("The logins that belong to a file of image-syncer's.", metavar="FILE"),
    names_like: Naming | None = option("Give images the names at the target that this tool gives them."),
) -> None:
    """Print a sync file that does what another tool's file does.

    Known are skopeo's, regsync's, hauler's, oc-mirror's, image-syncer's and imgpkg's files, and plain lists of
    images. What cannot be carried over is named on stderr, and the exit code is 2.
    """
    imported = import_file(file, registry=registry, logins=auth, names_like=names_like)
    click.echo(imported.text, nl=False)
    for refusal in imported.refusals:
        click.echo(f"error: {refusal}", err=True)
    if imported.refusals:
        click.echo("hint: the printed file does less than the other one; say these things in another way", err=True)
        raise click.exceptions.Exit(Exit.USAGE)
