"""``syncer save`` and ``syncer copy``: bundles out of registries, and from anywhere to anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from syncer.api.build import DEFAULT_OUTPUT, BundleFile
from syncer.api.bundles import StoredBundle, parse_selectors
from syncer.api.push import Delivery
from syncer.api.result import BuildResult
from syncer.api.save import copy as copy_bundle
from syncer.api.save import find_definition
from syncer.api.save import save as save_bundle
from syncer.cli.command import flag, option
from syncer.cli.job import run
from syncer.cli.options import BundleFormat, ConnectionOptions, LoginOptions, OutputOptions, UploadOptions
from syncer.cli.output import delivered, reporting
from syncer.cli.settings import is_bundle_name, registry_settings, source_place, state_directory, target_place
from syncer.errors import Exit, UsageError
from syncer.naming import read_mapping
from syncer.oci import Platform
from syncer.profiles.definition.definition import FILE_NAME, drop_stored_names
from syncer.profiles.definition.definition_file import write_definition
from syncer.registry import RegistryAddress


def save(
    *,
    source: str = option("What to save.", "-s", required=True, metavar="HOST[:PORT]/BASE/bundle-definition:NAME"),
    output: Path | None = option("Where it is put. Default: output/content-bundle", "-o", metavar="DIR"),
    definition_only: bool = flag("Only save bundle-definition.yaml."),
    arch: str | None = option("Take this platform out of every multi-platform image.", "-a", metavar="amd64|arm64"),
    format: BundleFormat = option("Frames of zstd, which most expect, or a plain tar.", default=BundleFormat.ZSTD),  # noqa: A002  the word of the command line
    compression_level: int = option("Of zstd, for manifests.", default=3, min=1, max=19),
    force: bool = flag("Replace what is there."),
    allow_partial: bool = flag("Publish the bundle without the images that failed."),
    login: LoginOptions,
    connection: ConnectionOptions,
    telling: OutputOptions,
) -> None:
    """Make a bundle file again out of the registry that the bundle was pushed to."""

    async def job() -> Exit:
        stored = StoredBundle.parse(source)
        settings = registry_settings(connection, login, RegistryAddress(stored.reference.registry))
        directory = output or DEFAULT_OUTPUT
        if definition_only:
            path = directory / FILE_NAME
            write_definition(drop_stored_names(await find_definition(stored, settings)), path, force=force)
            click.echo(f"definition of {stored} saved to {path.absolute()}")
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
    source: str = option("A bundle, or …/bundle-definition:NAME.", "-s", required=True, metavar="PATH|REF"),
    destination: str = option(
        "A file, a directory, a registry.", "-d", required=True, metavar="PATH|HOST[:PORT][/BASE]"
    ),
    annotation_selector: tuple[str, ...] = option(
        "Only images with this annotation; repeatable.", default=(), metavar="KEY=VALUE"
    ),
    arch: str | None = option("Take this platform out of every multi-platform image.", "-a", metavar="amd64|arm64"),
    map: tuple[str, ...] = option(  # noqa: A002  the word of the command line
        "Into a registry: replace the start of original names.", default=(), metavar="PREFIX=REPLACEMENT"
    ),
    force: bool = flag("Replace a file that is there."),
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
    platform = Platform.parse(arch) if arch else None
    came_from = RegistryAddress(origin.reference.registry) if isinstance(origin, StoredBundle) else None
    address = target if isinstance(target, RegistryAddress) else came_from
    settings = registry_settings(connection, login, address, uploading)
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
            result = await copy_bundle(origin, ending(), annotations=selectors, settings=settings, options=options)
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
