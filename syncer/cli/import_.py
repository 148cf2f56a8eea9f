"""``syncer import``: the files of other tools as sync files."""

from __future__ import annotations

from pathlib import Path

import click

from syncer.cli.command import argument, flag, option
from syncer.errors import Exit, UsageError
from syncer.profiles.imports.importers import FORMATS, Naming, import_file
from syncer.profiles.syncfile.document import check_registry


def import_(
    *,
    file: Path | None = argument("The other tool's file; which tool's is found out.", metavar="FILE", required=False),
    registry: str | None = option(
        "Where to mirror to, if the file does not say.", "-r", metavar="HOST[:PORT][/BASE]", parse=check_registry
    ),
    auth: Path | None = option("The logins that belong to a file of image-syncer's.", metavar="FILE"),
    names_like: Naming | None = option("Give images the names at the target that this tool gives them."),
    listing: bool = flag("List the files that are known, and stop.", "--list"),
) -> None:
    """Print a sync file that does what another tool's file does.

    What cannot be carried over is named on stderr, and the exit code is 2.
    """
    if listing:
        width = max(map(len, FORMATS))
        click.echo("\n".join(f"{name:{width}}  {what}" for name, what in FORMATS.items()))
        return
    if file is None:
        raise UsageError("a FILE is missing", hint="syncer import --list names the files that are known")
    imported = import_file(file, registry=registry, logins=auth, names_like=names_like)
    click.echo(imported.text, nl=False)
    for refusal in imported.refusals:
        click.echo(f"error: {refusal}", err=True)
    if imported.refusals:
        click.echo("hint: the printed file does less than the other one; say these things in another way", err=True)
        raise click.exceptions.Exit(Exit.USAGE)
