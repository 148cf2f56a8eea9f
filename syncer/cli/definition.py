"""``syncer definition`` and ``syncer list``: the content of a bundle, and the bundles of a registry."""

from __future__ import annotations

from pathlib import Path

import click

from syncer.api.bundles import StoredBundle
from syncer.api.save import find_definition
from syncer.api.save import list_bundles as bundles_at
from syncer.cli.command import argument, option
from syncer.cli.job import run
from syncer.cli.options import ConnectionOptions, LoginOptions, PaletteOptions, json_flag
from syncer.cli.output import print_json, warn
from syncer.cli.settings import registry_settings, source_place
from syncer.errors import Exit
from syncer.profiles.definition.definition import render_definition
from syncer.registry import RegistryAddress


def definition(
    *,
    place: Path | StoredBundle = argument(
        "A bundle, a bundle-definition.yaml, or …/bundle-definition:NAME.", metavar="PATH|REF", parse=source_place
    ),
    json: bool = json_flag("Print JSON instead of YAML."),
    login: LoginOptions,
    palette: PaletteOptions,
    connection: ConnectionOptions,
) -> None:
    """Print what a bundle holds."""
    palette.refuse("definition", "it prints what is there")

    async def job() -> Exit:
        stored = [place] if isinstance(place, StoredBundle) else []
        address = RegistryAddress(stored[0].reference.registry) if stored else None
        settings = registry_settings(connection, login, address, everyone=stored)
        found = await find_definition(place, settings, warn=warn)
        if json:
            print_json(found.tree())
        else:
            click.echo(render_definition(found), nl=False)
        return Exit.OK

    run(job, farewell=None)


def list_bundles(
    *,
    repo: RegistryAddress = option(
        "Where definitions are.",
        "-r",
        required=True,
        metavar="HOST[:PORT]/BASE/bundle-definition",
        parse=RegistryAddress.parse,
    ),
    json: bool = json_flag("Print one JSON document."),
    login: LoginOptions,
    palette: PaletteOptions,
    connection: ConnectionOptions,
) -> None:
    """List the bundles in a registry: one a line."""
    palette.refuse("list", "bundles are listed by their names")

    async def job() -> Exit:
        found = await bundles_at(repo, registry_settings(connection, login, repo, everyone=[repo]))
        if json:
            print_json({"bundles": found})
        else:
            click.echo("Listing bundles", err=True)
            for bundle in found:
                click.echo(bundle)
        return Exit.OK

    run(job, farewell=None)
