"""``syncer have``: the list of what a registry has."""

from __future__ import annotations

from pathlib import Path

import click
from anyio import to_thread

from syncer.api.have import Inventory
from syncer.api.have import have as list_content
from syncer.cli.command import flag, option
from syncer.cli.job import run
from syncer.cli.options import ConnectionOptions, LoginOptions, PaletteOptions, map_option, registry_option
from syncer.cli.output import note, warn
from syncer.cli.settings import registry_settings
from syncer.errors import Exit
from syncer.naming import NameMapping
from syncer.registry import RegistryAddress
from syncer.report.summary import quantity, require_writable, write_account


def have(
    *,
    registry: RegistryAddress = registry_option("The registry, and the path in it that bundles go to.", required=True),
    output: Path | None = option("Write the list here, and not to stdout.", "-o", metavar="FILE"),
    deep: bool = flag("Ask for every single blob, and for what refers to every image."),
    tags: bool = flag("List the tags too."),
    map: NameMapping = map_option("The rules that pushes to it have, of which a hash is noted."),  # noqa: A002
    palette: PaletteOptions,
    login: LoginOptions,
    connection: ConnectionOptions,
) -> None:
    """List what a registry has, so that a bundle can be built elsewhere without that (docs/delta.md).

    The list names blobs and manifests by digest, and the repositories that have them: build --have takes it.
    """
    palette.refuse("have", "it lists what is there")
    if output is not None:
        require_writable(output)
    settings = registry_settings(connection, login, registry, everyone=[registry])

    async def job() -> Exit:
        found = await list_content(
            registry,
            mapping=map if map.rules else None,
            deep=deep,
            tags=tags,
            settings=settings,
            workers=connection.concurrency,
        )
        content = found.have.render()
        if output is None:
            click.echo(content, nl=False)
        else:
            await to_thread.run_sync(write_account, output, content)
        _tell(found, output)
        return Exit.OK

    run(job, farewell=None)


def _tell(found: Inventory, output: Path | None) -> None:
    """Say on stderr what is in the list, and what is not."""
    have = found.have
    for trouble in found.troubles:
        warn(trouble)
    if have.problems:
        warn("the list is not complete: a bundle that is built with it holds all that is not in it")
    if found.gone:
        images = quantity(found.gone, "image")
        note(f"{images} of the definitions cannot be found in the registry any more, and so are not in the list")
    if found.lost:
        note(f"{quantity(found.lost, 'blob')} that manifests name cannot be found, and so are not in the list")
    pieces = f"{quantity(len(have.blobs), 'blob')} and {quantity(len(have.manifests), 'manifest')}"
    places = quantity(len(have.repositories), "repository", "repositories")
    where = f", listed in {output}" if output else ""
    click.echo(f"{quantity(found.images, 'image')}: {pieces} in {places}{where}", err=True)
