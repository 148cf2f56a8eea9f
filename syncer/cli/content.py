"""The main job: build, push, verify."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from syncer.cli.options import ConnectionOptions, DryRunOptions, LoginOptions, OutputOptions, UploadOptions
from syncer.cli.run import run
from syncer.errors import Exit


class BundleFormat(StrEnum):
    """The forms of a bundle."""

    ZSTD = "tar.zst"
    PLAIN = "tar"


def build(
    *,
    image: Annotated[list[str] | None, typer.Option(metavar="REF", help="An image; may be given many times.")] = None,
    images_file: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A list of images: one a line, # starts a comment. May be given many times."),
    ] = None,
    name: Annotated[str, typer.Option("-n", "--name", help="The bundle's name.")] = "bundle",
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Where the bundle is put.")] = Path(
        "output/content-bundle"
    ),
    arch: Annotated[
        str | None,
        typer.Option(
            "-a",
            "--arch",
            metavar="amd64|arm64",
            help="Take this platform out of every multi-platform image (os/arch[/variant] is understood too). "
            "Without it images keep their form and their digest.",
        ),
    ] = None,
    format: Annotated[  # noqa: A002  the word of the command line
        BundleFormat, typer.Option(help="Frames of zstd, which most expect, or a plain tar.")
    ] = BundleFormat.ZSTD,
    compression_level: Annotated[
        int, typer.Option(min=1, max=19, help="Of zstd, for manifests; layers are stored, being compressed already.")
    ] = 3,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there.")] = False,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Publish the bundle without the images that failed.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on with what an interrupted build left, or start over.")
    ] = True,
    referrers: Annotated[
        bool,
        typer.Option(
            "--referrers/--no-referrers",
            help="Bring along what refers to the images: signatures, attestations, SBOMs (cosign's and OCI 1.1).",
        ),
    ] = True,
    dry: DryRunOptions,
    connection: ConnectionOptions,
    telling: OutputOptions,
) -> None:
    """Download images into one bundle file.

    If an image fails, the others stay in NAME.tar.zst.partial and the same command goes on with them.
    """
    from syncer.api.build import build  # noqa: PLC0415  imported where used: `syncer version` stays quick
    from syncer.api.plan import plan_build  # noqa: PLC0415
    from syncer.cli.reporting import reporting, tell_plan  # noqa: PLC0415
    from syncer.cli.wiring import images_of, registry_settings  # noqa: PLC0415

    if arch and referrers:
        typer.echo(
            "note: --arch takes one platform out of each index: signatures of the index itself do not apply to it "
            "and stay behind",
            err=True,
        )

    async def look() -> Exit:
        forecast = await plan_build(
            images_of(image or [], images_file or []),
            platform=arch,
            format=format.value,
            compression_level=compression_level,
            referrers=referrers,
            settings=registry_settings(connection),
            workers=connection.concurrency,
        )
        return tell_plan(forecast, telling, exit_code=dry.exit_code)

    async def job() -> Exit:
        references = images_of(image or [], images_file or [])
        with reporting(telling, images=len(references)) as told:
            result = await build(
                references,
                name=name,
                output=output,
                platform=arch,
                format=format.value,
                compression_level=compression_level,
                force=force,
                allow_partial=allow_partial,
                resume=resume,
                referrers=referrers,
                settings=registry_settings(connection),
                workers=connection.concurrency,
                run_id=told.run_id,
                emit=told.emit,
            )
        if result.path:
            outcome = f"bundle {name} saved to {result.path.absolute()}"
        else:
            outcome = f"bundle {name} is not complete and was not published; run the same command again to go on"
        told.tell("Build Summary", [outcome], result.report, profile=name)
        return result.exit

    run(look if dry.dry_run else job)


def push(
    *,
    file: Annotated[Path, typer.Option("-f", "--file", metavar="BUNDLE", help="The bundle.")],
    registry: Annotated[
        str, typer.Option("-r", "--registry", metavar="HOST[:PORT][/BASE]", help="Where its images go.")
    ],
    map: Annotated[  # noqa: A002  the word of the command line
        list[str] | None,
        typer.Option(
            metavar="PREFIX=REPLACEMENT",
            help="Replace the start of original names; the longest match wins. May be given many times.",
        ),
    ] = None,
    verify_first: Annotated[
        bool, typer.Option("--verify", help="Hash the whole bundle before anything is sent.")
    ] = False,
    dry: DryRunOptions,
    login: LoginOptions,
    connection: ConnectionOptions,
    uploading: UploadOptions,
    telling: OutputOptions,
) -> None:
    """Push a bundle into a registry.

    quay.io/a/b:1 lands at HOST/BASE/quay.io/a/b:1. What is there already is skipped.
    """
    from syncer.api.plan import plan_push  # noqa: PLC0415
    from syncer.api.push import push  # noqa: PLC0415
    from syncer.cli.reporting import reporting, tell_plan  # noqa: PLC0415
    from syncer.cli.wiring import registry_settings, state_directory  # noqa: PLC0415
    from syncer.profiles.mapping_file import read_mapping  # noqa: PLC0415
    from syncer.registry import RegistryAddress  # noqa: PLC0415

    address = RegistryAddress.parse(registry)
    mapping = read_mapping(map or [])
    settings = registry_settings(connection, login, address, uploading)

    async def look() -> Exit:
        forecast = await plan_push(file, address, mapping=mapping, settings=settings, workers=connection.concurrency)
        return tell_plan(forecast, telling, exit_code=dry.exit_code)

    async def job() -> Exit:
        with reporting(telling) as told:
            result = await push(
                file,
                address,
                mapping=mapping,
                settings=settings,
                state=state_directory(uploading.state_dir),
                rehash=verify_first,
                workers=connection.concurrency,
                run_id=told.run_id,
                emit=told.emit,
            )
        outcome = f"local bundle {result.bundle} pushed to {result.registry}"
        told.tell("Push Summary", [outcome], result.report, profile=result.bundle)
        return result.exit

    run(look if dry.dry_run else job)


def verify(
    *,
    file: Annotated[Path, typer.Option("-f", "--file", metavar="BUNDLE", help="The bundle.")],
    registry: Annotated[
        str | None,
        typer.Option(
            "-r", "--registry", metavar="HOST[:PORT][/BASE]", help="Also check that all of it is in this registry."
        ),
    ] = None,
    map: Annotated[  # noqa: A002
        list[str] | None, typer.Option(metavar="PREFIX=REPLACEMENT", help="As it was pushed with.")
    ] = None,
    login: LoginOptions,
    connection: ConnectionOptions,
    telling: OutputOptions,
) -> None:
    """Hash a bundle again and account for every byte of it; check that a registry has it all."""
    from syncer.api.verify import verify  # noqa: PLC0415
    from syncer.cli.reporting import tell_check  # noqa: PLC0415
    from syncer.cli.wiring import registry_settings  # noqa: PLC0415
    from syncer.profiles.mapping_file import read_mapping  # noqa: PLC0415
    from syncer.registry import RegistryAddress  # noqa: PLC0415

    async def job() -> Exit:
        address = RegistryAddress.parse(registry) if registry else None
        result = await verify(
            file,
            address,
            mapping=read_mapping(map or []),
            settings=registry_settings(connection, login, address),
            workers=connection.concurrency,
        )
        tell_check(result, telling)
        return result.exit

    run(job)
