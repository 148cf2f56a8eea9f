"""``syncer save`` and ``syncer copy``: bundles out of registries, and from anywhere to anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from syncer.api.build import DEFAULT_OUTPUT, BundleFile
from syncer.api.bundles import StoredBundle, parse_selectors
from syncer.api.push import Delivery
from syncer.api.result import BuildResult
from syncer.api.save import copy as copy_bundle
from syncer.api.save import find_definition
from syncer.api.save import save as save_bundle
from syncer.cli.job import run
from syncer.cli.options import (
    ArchiveOptions,
    BundleFormat,
    ConnectionOptions,
    IncludeForeign,
    LoginOptions,
    OutputOptions,
    UploadOptions,
)
from syncer.cli.output import delivered, reporting
from syncer.cli.settings import is_bundle_name, registry_settings, source_place, state_directory, target_place
from syncer.errors import Exit, UsageError
from syncer.naming import read_mapping
from syncer.oci import Platform
from syncer.profiles.definition.definition import FILE_NAME, drop_stored_names
from syncer.profiles.definition.definition_file import write_definition
from syncer.registry import RegistryAddress

_Selector = Annotated[
    list[str] | None,
    typer.Option("--annotation-selector", metavar="KEY=VALUE", help="Only images with this annotation; repeatable."),
]
_Arch = Annotated[
    str | None,
    typer.Option("-a", "--arch", metavar="amd64|arm64", help="Take this platform out of every multi-platform image."),
]
_Map = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="PREFIX=REPLACEMENT", help="Into a registry: replace the start of original names."),
]


def save(
    *,
    source: Annotated[
        str, typer.Option("-s", "--source", metavar="HOST[:PORT]/BASE/bundle-definition:NAME", help="What to save.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Where it is put. Default: output/content-bundle"),
    ] = None,
    definition_only: Annotated[
        bool, typer.Option("--definition-only", help="Only save bundle-definition.yaml.")
    ] = False,
    arch: _Arch = None,
    format: Annotated[  # noqa: A002  the word of the command line
        BundleFormat, typer.Option(help="Frames of zstd, which most expect, or a plain tar.")
    ] = BundleFormat.ZSTD,
    compression_level: Annotated[int, typer.Option(min=1, max=19, help="Of zstd, for manifests.")] = 3,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Publish the bundle without the images that failed.")
    ] = False,
    include_foreign: IncludeForeign = False,
    login: LoginOptions,
    connection: ConnectionOptions,
    telling: OutputOptions,
) -> None:
    """Make a bundle file again out of the registry that the bundle was pushed to."""

    async def job() -> Exit:
        stored = StoredBundle.parse(source)
        address = RegistryAddress(stored.reference.registry)
        settings = registry_settings(connection, login, address, include_foreign=include_foreign)
        directory = output or DEFAULT_OUTPUT
        if definition_only:
            path = directory / FILE_NAME
            write_definition(drop_stored_names(await find_definition(stored, settings)), path, force=force)
            typer.echo(f"definition of {stored} saved to {path.absolute()}")
            return Exit.OK
        with reporting(telling) as told:
            file = BundleFile(
                output=directory,
                format=format.value,
                compression_level=compression_level,
                force=force,
                allow_partial=allow_partial,
                platform=Platform.parse(arch) if arch else None,
            )
            options = told.run_options(connection.concurrency)
            result = await save_bundle(stored, file, settings=settings, options=options)
            outcome = [_copied(str(stored), result.path)]
            told.tell("Save Summary", outcome, result.report, profile=stored.reference.tag or "")
            return result.exit

    run(job)


def copy(
    *,
    source: Annotated[
        str, typer.Option("-s", "--source", metavar="PATH|REF", help="A bundle, or …/bundle-definition:NAME.")
    ],
    destination: Annotated[
        str,
        typer.Option("-d", "--destination", metavar="PATH|HOST[:PORT][/BASE]", help="A file, a directory, a registry."),
    ],
    annotation_selector: _Selector = None,
    arch: _Arch = None,
    map: _Map = None,  # noqa: A002  the word of the command line
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    include_foreign: IncludeForeign = False,
    archive: ArchiveOptions,
    login: LoginOptions,
    connection: ConnectionOptions,
    uploading: UploadOptions,
    telling: OutputOptions,
) -> None:
    """Copy a bundle: from a file or a registry, to a file or a registry.

    --username is for the registry that it goes to, or else for the one that it comes from.
    """
    origin, target = source_place(source), target_place(destination)
    if isinstance(target, Path) and map:
        raise UsageError("--map says where images land in a registry, and the destination is a file")
    given = archive.given
    if given and isinstance(origin, StoredBundle):
        raise UsageError("--as names what is in an archive, and the source is a registry")
    platform = Platform.parse(arch) if arch else None
    came_from = RegistryAddress(origin.reference.registry) if isinstance(origin, StoredBundle) else None
    address = target if isinstance(target, RegistryAddress) else came_from
    settings = registry_settings(connection, login, address, uploading, include_foreign=include_foreign)
    selectors = parse_selectors(annotation_selector or [])

    def ending() -> BundleFile | Delivery:
        if isinstance(target, RegistryAddress):
            return Delivery(
                address=target,
                mapping=read_mapping(map or []),
                platform=platform,
                state=state_directory(uploading.state_dir),
            )
        directory, file_name, form = _file(origin, target)
        return BundleFile(output=directory, file_name=file_name, format=form.value, force=force, platform=platform)

    async def job() -> Exit:
        with reporting(telling) as told:
            options = told.run_options(connection.concurrency)
            result = await copy_bundle(
                origin, ending(), annotations=selectors, given=given, settings=settings, options=options
            )
            outcome: Sequence[str]
            if isinstance(result, BuildResult):
                outcome = [_copied(str(origin), result.path)]
            else:
                outcome = [f"bundle {origin} copied to {target}", *delivered(result)[1:]]
            told.tell("Copy Summary", outcome, result.report, profile=str(origin))
            return result.exit

    run(job)


def _file(origin: object, target: Path) -> tuple[Path, str | None, BundleFormat]:
    """Directory, name and form of the file to write: as the destination says, else as the source is."""
    named = is_bundle_name(target)
    says = target if named else origin
    form = BundleFormat.PLAIN if str(says).endswith(".tar") and isinstance(says, Path) else BundleFormat.ZSTD
    return (target.parent, target.name, form) if named else (target, None, form)


def _copied(source: str, path: Path | None) -> str:
    if path is None:
        return f"bundle {source} is not complete and was not saved; run the same command again to go on"
    return f"bundle {source} saved to {path.absolute()}"
