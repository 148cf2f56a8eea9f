"""``syncer definition``, ``list``, ``have``, ``save``, ``copy``, ``merge`` and ``export``: bundles, here and there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
from anyio import to_thread

from syncer.api.build import BundleFile
from syncer.api.definitions import StoredBundle
from syncer.api.export import ExportFile, ExportFormat
from syncer.api.export import export as export_images
from syncer.api.have import Inventory
from syncer.api.have import have as list_content
from syncer.api.push import Delivery
from syncer.api.result import BuildResult
from syncer.api.save import copy as copy_bundle
from syncer.api.save import find_definition
from syncer.api.save import list_bundles as bundles_at
from syncer.api.save import merge as merge_bundles
from syncer.api.save import save as save_bundle
from syncer.bundle import DEFAULT_OUTPUT, GivenName
from syncer.cli.command import argument, flag, option, options, takes
from syncer.cli.job import run
from syncer.cli.options import (
    BundleFormat,
    BundleOptions,
    ConnectionOptions,
    LoginOptions,
    OutputOptions,
    PaletteOptions,
    UploadOptions,
    arch_option,
    as_option,
    include_foreign_flag,
    is_stdout,
    json_flag,
    map_option,
    registry_option,
    selector_option,
)
from syncer.cli.output import note, open_reporter, print_json, push_outcome, saved_line, sent_line, size_line, warn
from syncer.cli.parser import Heading, Word
from syncer.cli.settings import is_bundle_name, registry_settings, source_place, state_directory, target_place
from syncer.errors import Exit, UsageError
from syncer.naming import NameMapping
from syncer.oci import Platform, Reference
from syncer.profiles.definition.definition import FILE_NAME, drop_stored_names, render_definition
from syncer.profiles.definition.definition_file import write_definition
from syncer.registry import RegistryAddress
from syncer.report.summary import quantity, require_writable, write_account
from syncer.transfer.run import WORKERS


def definition(
    *,
    place: Path | StoredBundle = argument(
        "A bundle, a bundle-definition.yaml, or HOST/BASE/bundle-definition:NAME.",
        metavar="BUNDLE",
        parse=source_place,
    ),
    json: bool = json_flag("Print JSON instead of YAML."),
    login: LoginOptions,
    palette: PaletteOptions,
    connection: ConnectionOptions,
) -> None:
    """Print what a bundle holds.

    Examples:
        syncer definition edge.tar.zst
        syncer definition 10.10.254.254:8000/images/bundle-definition:edge --json

    More: docs/bundle.md
    """
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


@takes(repo=Word(metavar="HOST/BASE/bundle-definition", kind="a repository of a registry"))
def list_bundles(
    *,
    repo: RegistryAddress = option(
        "Where a push put the bundles' definitions.",
        "-r",
        required=True,
        metavar="REPOSITORY",
        parse=RegistryAddress.parse,
    ),
    json: bool = json_flag("Print one JSON document."),
    login: LoginOptions,
    palette: PaletteOptions,
    connection: ConnectionOptions,
) -> None:
    """List the bundles in a registry.

    Examples:
        syncer list 10.10.254.254:8000/images
        syncer list harbor.example.com/mirror/bundle-definition --json

    More: docs/palette.md
    """
    palette.refuse("list", "bundles are listed by their names")

    async def job() -> Exit:
        found = await bundles_at(repo, registry_settings(connection, login, repo, everyone=[repo]))
        if json:
            print_json({"bundles": found})
        else:
            click.echo("Listing bundles", err=True)
            if found and not found[0].startswith(f"{repo}:"):
                note(f"the bundles that were pushed to {repo} are at {found[0].rpartition(':')[0]}")
            for bundle in found:
                click.echo(bundle)
        return Exit.OK

    run(job, farewell=None)


@takes(source=Word(metavar="HOST/BASE/bundle-definition:NAME", kind="a bundle in a registry"))
def save(
    *,
    source: StoredBundle = option(
        "The bundle to fetch.",
        "-s",
        fixed=True,
        required=True,
        metavar="REF",
        parse=StoredBundle.parse,
    ),
    definition_only: bool = flag("Only fetch bundle-definition.yaml."),
    bundle: BundleOptions,
    login: LoginOptions,
    connection: ConnectionOptions,
    output: OutputOptions,
) -> None:
    """Fetch a bundle back out of a registry.

    The file is the one that was pushed, byte for byte, if the registry kept all of it.

    Examples:
        syncer save 10.10.254.254:8000/images/bundle-definition:edge
        syncer save 10.10.254.254:8000/images/bundle-definition:edge -o bundles

    More: docs/palette.md
    """
    file = BundleFile(
        output=bundle.output or DEFAULT_OUTPUT,
        format=bundle.format.value,
        compression_level=bundle.compression_level,
        force=bundle.force,
        allow_partial=bundle.allow_partial,
        platform=bundle.arch,
    )
    address = RegistryAddress(source.reference.registry)
    settings = registry_settings(connection, login, address, everyone=[source], include_foreign=bundle.include_foreign)

    async def save_definition() -> Exit:
        path = file.output / FILE_NAME
        write_definition(drop_stored_names(await find_definition(source, settings)), path, force=file.force)
        click.echo(f"definition of {source} saved to {path.absolute()}")
        return Exit.OK

    async def job() -> Exit:
        name = source.reference.tag or ""
        with open_reporter(output, name=name, targets=[file.path(name).absolute()]) as reporter:
            options = reporter.run_options(connection.workers)
            result = await save_bundle(source, file, settings=settings, options=options)
        outcome = _outcome(str(source), result)
        reporter.summarize("Save Summary", outcome, result.report, profile=name, code=result.exit)
        return result.exit

    run(save_definition if definition_only else job)


@takes(source=Word(metavar="SOURCE"), destination=Word(metavar="DESTINATION"))
def copy(
    *,
    source: Path | StoredBundle = option(
        "A bundle's file, an archive of another tool, or HOST/BASE/bundle-definition:NAME.",
        "-s",
        fixed=True,
        required=True,
        metavar="PLACE",
        parse=source_place,
    ),
    destination: Path | RegistryAddress = option(
        "A file, a directory, or a registry.",
        "-d",
        fixed=True,
        required=True,
        metavar="PLACE",
        parse=target_place,
    ),
    annotation_selector: Mapping[str, str] = selector_option(),
    arch: Platform | None = arch_option(),
    map: NameMapping = map_option("Into a registry: replace the start of images' names."),  # noqa: A002
    force: bool = flag("Replace a file that is there.", heading=Heading.OUTPUT),
    include_foreign: bool = include_foreign_flag(),
    as_name: GivenName | None = as_option(),
    login: LoginOptions,
    connection: ConnectionOptions,
    upload: UploadOptions,
    output: OutputOptions,
) -> None:
    """Copy a bundle from a file or a registry to another.

    --username is for the registry that it goes to, or else for the one that it comes from.

    Examples:
        syncer copy haul.tar.zst edge.tar.zst
        syncer copy edge.tar.zst 10.10.254.254:8000/images
        syncer copy a.example.com/images/bundle-definition:edge b.example.com/images

    More: docs/bundle.md
    """
    if as_name and isinstance(source, StoredBundle):
        raise UsageError("--as names what is in an archive, and the source is a registry")
    target: BundleFile | Delivery
    if isinstance(destination, RegistryAddress):
        address: RegistryAddress | None = destination
        target = Delivery(address=destination, mapping=map, platform=arch, state=state_directory(upload.state_dir))
    else:
        if map.rules:
            raise UsageError("--map says where images land in a registry, and the destination is a file")
        address = RegistryAddress(source.reference.registry) if isinstance(source, StoredBundle) else None
        target = _file(source, destination, force=force, platform=arch)
    everyone = [place for place in (source, destination) if not isinstance(place, Path)]
    settings = registry_settings(connection, login, address, upload, everyone=everyone, include_foreign=include_foreign)

    place = destination.absolute() if isinstance(destination, Path) else destination

    async def job() -> Exit:
        with open_reporter(output, name=str(source), targets=[place]) as reporter:
            options = reporter.run_options(connection.workers)
            result = await copy_bundle(
                source, target, annotations=annotation_selector, given=as_name, settings=settings, options=options
            )
        if isinstance(result, BuildResult):
            outcome = _outcome(str(source), result)
        else:
            outcome = [
                sent_line(f"bundle {source}", "copy", str(destination), result.report),
                *push_outcome(result)[1:],
            ]
        reporter.summarize("Copy Summary", outcome, result.report, profile=str(source), code=result.exit)
        return result.exit

    run(job)


def merge(
    *,
    base: Path = option(
        "The older bundle, which has what the delta lacks.", required=True, metavar="BUNDLE", fixed=True
    ),
    delta: Path = option("The delta.", required=True, metavar="BUNDLE", fixed=True),
    output: Path = option(
        "The file to write.", "-o", required=True, metavar="FILE", heading=Heading.OUTPUT, fixed=True
    ),
    force: bool = flag("Replace a file that is there.", heading=Heading.OUTPUT),
    json: bool = json_flag(),
) -> None:
    """Make a whole bundle of a delta and an older bundle.

    The file is the one that a build without --have makes.

    Examples:
        syncer merge --base may.tar.zst --delta june.delta.tar.zst -o june.tar.zst
        syncer merge --base may.tar --delta june.delta.tar --output june.tar --json

    More: docs/delta.md
    """
    if not is_bundle_name(output):
        raise UsageError(f"{output} is not the name of a bundle", hint="write NAME.tar.zst or NAME.tar")
    options = OutputOptions(json=json, progress=False)
    file = _file(delta, output, force=force, platform=None)

    async def job() -> Exit:
        with open_reporter(options) as reporter:
            result = await merge_bundles(base, delta, file, options=reporter.run_options(WORKERS))
        reporter.summarize("Merge Summary", _outcome(result.bundle, result), result.report, profile=delta.name)
        return result.exit

    run(job)


def _file(source: Path | StoredBundle, target: Path, *, force: bool, platform: Platform | None) -> BundleFile:
    """The file to write: ``target``, or one in that directory; its form is as its name says, else as the source's."""
    is_named = is_bundle_name(target)
    model = target if is_named else source
    is_plain = isinstance(model, Path) and str(model).endswith(".tar")
    return BundleFile(
        output=target.parent if is_named else target,
        file_name=target.name if is_named else None,
        format=BundleFormat.PLAIN.value if is_plain else BundleFormat.ZSTD.value,
        force=force,
        platform=platform,
    )


def _outcome(source: str, result: BuildResult) -> list[str]:
    if result.path is None:
        goes_on = "; run the same command again to go on" if result.may_go_on else ""
        return [f"bundle {source} is not complete and was not saved{goes_on}"]
    return [saved_line(f"bundle {source}", result.path, result.report), size_line(result)]


@takes(bundle=Word(metavar="BUNDLE"))
def export(
    *,
    bundle: Path = option(
        "The bundle, or an archive of another tool.", "-b", required=True, metavar="BUNDLE", fixed=True
    ),
    format: ExportFormat = option(  # noqa: A002  the word of the command line
        "For docker and podman; for containerd, k3s and RKE2 too; the same as a directory.",
        default=ExportFormat.OCI_ARCHIVE,
        fixed=True,
        heading=Heading.OUTPUT,
    ),
    image: tuple[Reference, ...] = options(
        "Only this image or chart. Repeatable.", "-i", metavar="REF", parse=Reference.parse, fixed=True
    ),
    output: Path = option(
        "The file to write; for oci-dir the directory.",
        "-o",
        required=True,
        metavar="PATH",
        heading=Heading.OUTPUT,
        fixed=True,
        written=True,
    ),
    arch: Platform | None = arch_option(),
    force: bool = flag("Replace a file that is there.", heading=Heading.OUTPUT),
    as_name: GivenName | None = as_option(),
    json: bool = json_flag("Print what was written as one JSON document."),
) -> None:
    """Write images of a bundle as a file that other tools load.

    docker load -i FILE, podman load -i FILE, skopeo copy docker-archive:FILE:NAME, ctr images import FILE; k3s and RKE2
    load what lies in their directory of images.

    Examples:
        syncer export edge.tar.zst -o edge.oci.tar
        syncer export edge.tar.zst -o pause.tar -i registry.k8s.io/pause:3.10
        syncer export edge.tar.zst -o edge.docker.tar --format docker-archive

    More: docs/bundle.md
    """
    written = output.absolute()
    file = ExportFile(path=output, format=format, force=force, platform=arch)

    async def job() -> Exit:
        result = await export_images(bundle, file, images=image, given=as_name, warn=warn)
        if json:
            print_json(result.to_json())
        else:
            click.echo(f"{quantity(len(result.images), 'image')} exported to {written}", err=is_stdout(output))
        return Exit.OK

    run(job, farewell=None)


@takes(registry=Word(metavar="REGISTRY", kind="a registry"))
def have(
    *,
    registry: RegistryAddress = registry_option("The registry, with the path that bundles go to.", required=True),
    output: Path | None = option(
        "Write the list to this file, and not to stdout.",
        "-o",
        metavar="FILE",
        heading=Heading.OUTPUT,
        fixed=True,
        written=True,
    ),
    deep: bool = flag("Ask for every single blob, and for the signatures of every image."),
    tags: bool = flag("List the tags too.", heading=Heading.OUTPUT),
    map: NameMapping = map_option("The rules that pushes to it have (noted as a hash)."),  # noqa: A002
    palette: PaletteOptions,
    login: LoginOptions,
    connection: ConnectionOptions,
) -> None:
    """List what a registry has, for the next delta.

    The list names blobs and manifests by digest, and the repositories that have them: build --have takes it, and
    leaves that out.

    Examples:
        syncer have 10.10.254.254:8000/images -o have.json
        syncer have 10.10.254.254:8000/images --deep --tags -o have.json

    More: docs/delta.md
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
            concurrency=connection.workers,
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
