"""``syncer definition`` and ``syncer list``: what is in a bundle, and which there are."""

from __future__ import annotations

from typing import Annotated

import typer

from syncer.cli.options import ConnectionOptions, LoginOptions, PaletteOptions
from syncer.cli.run import run
from syncer.errors import Exit


def definition(
    place: Annotated[
        str, typer.Argument(metavar="PATH|REF", help="A bundle, a bundle-definition.yaml, or …/bundle-definition:NAME.")
    ],
    *,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of YAML.")] = False,
    login: LoginOptions,
    palette: PaletteOptions,
    connection: ConnectionOptions,
) -> None:
    """Print what a bundle holds."""
    from syncer.api.copy import find_definition  # noqa: PLC0415  imported where used
    from syncer.api.held import StoredBundle  # noqa: PLC0415
    from syncer.cli.places import source_place  # noqa: PLC0415
    from syncer.cli.reporting import print_json  # noqa: PLC0415
    from syncer.cli.wiring import registry_settings  # noqa: PLC0415
    from syncer.profiles.definition import render_definition  # noqa: PLC0415
    from syncer.registry import RegistryAddress  # noqa: PLC0415

    palette.refuse("definition", "it prints what is there")

    async def job() -> Exit:
        where = source_place(place)
        address = RegistryAddress(where.reference.registry) if isinstance(where, StoredBundle) else None
        found = await find_definition(where, registry_settings(connection, login, address))
        if json:
            print_json(found.tree())
        else:
            typer.echo(render_definition(found), nl=False)
        return Exit.OK

    run(job, farewell=None)


def list_bundles(
    *,
    repo: Annotated[
        str, typer.Option("-r", "--repo", metavar="HOST[:PORT]/BASE/bundle-definition", help="Where definitions are.")
    ],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    login: LoginOptions,
    palette: PaletteOptions,
    connection: ConnectionOptions,
) -> None:
    """List the bundles in a registry: one a line."""
    from syncer.api.copy import list_bundles  # noqa: PLC0415  imported where used
    from syncer.cli.reporting import print_json  # noqa: PLC0415
    from syncer.cli.wiring import registry_settings  # noqa: PLC0415
    from syncer.registry import RegistryAddress  # noqa: PLC0415

    palette.refuse("list", "bundles are listed by their names")

    async def job() -> Exit:
        address = RegistryAddress.parse(repo)
        found = await list_bundles(address, registry_settings(connection, login, address))
        if json:
            print_json({"bundles": found})
        else:
            typer.echo("Listing bundles", err=True)
            for bundle in found:
                typer.echo(bundle)
        return Exit.OK

    run(job, farewell=None)
