"""``syncer definition`` and ``syncer list``: what is in a bundle, and which there are."""

from __future__ import annotations

import click

from syncer.api.bundles import StoredBundle
from syncer.api.save import find_definition
from syncer.api.save import list_bundles as bundles_at
from syncer.cli.command import argument, flag, option
from syncer.cli.job import run
from syncer.cli.options import ConnectionOptions, LoginOptions, PaletteOptions
from syncer.cli.output import print_json
from syncer.cli.settings import registry_settings, source_place
from syncer.errors import Exit
from syncer.profiles.definition.definition import render_definition
from syncer.registry import RegistryAddress


def definition(
    place: str = argument("A bundle, a bundle-definition.yaml, or …/bundle-definition:NAME.", metavar="PATH|REF"),
    *,
    json: bool = flag("Print JSON instead of YAML."),
    login: LoginOptions,
    palette: PaletteOptions,
    connection: ConnectionOptions,
) -> None:
    """Print what a bundle holds."""
    palette.refuse("definition", "it prints what is there")

    async def job() -> Exit:
        where = source_place(place)
        address = RegistryAddress(where.reference.registry) if isinstance(where, StoredBundle) else None
        found = await find_definition(where, registry_settings(connection, login, address))
        if json:
            print_json(found.tree())
        else:
            click.echo(render_definition(found), nl=False)
        return Exit.OK

    run(job, farewell=None)


def list_bundles(
    *,
    repo: str = option("Where definitions are.", "-r", required=True, metavar="HOST[:PORT]/BASE/bundle-definition"),
    json: bool = flag("Print one JSON document."),
    login: LoginOptions,
    palette: PaletteOptions,
    connection: ConnectionOptions,
) -> None:
    """List the bundles in a registry: one a line."""
    palette.refuse("list", "bundles are listed by their names")

    async def job() -> Exit:
        address = RegistryAddress.parse(repo)
        found = await bundles_at(address, registry_settings(connection, login, address))
        if json:
            print_json({"bundles": found})
        else:
            click.echo("Listing bundles", err=True)
            for bundle in found:
                click.echo(bundle)
        return Exit.OK

    run(job, farewell=None)
