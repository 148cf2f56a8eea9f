"""What a bundle is for: push and verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from syncer.cli.options import ConnectionOptions, DryRunOptions, LoginOptions, OutputOptions, UploadOptions
from syncer.cli.run import run
from syncer.errors import Exit


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
    annotation_selector: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only images with this annotation; repeatable.")
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option(
            "-a", "--arch", metavar="amd64|arm64", help="Take this platform out of every multi-platform image."
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
    from syncer.api.held import parse_selectors  # noqa: PLC0415  imported where used
    from syncer.api.push import push  # noqa: PLC0415
    from syncer.cli.reporting import reporting, tell_push  # noqa: PLC0415
    from syncer.cli.wiring import registry_settings, state_directory  # noqa: PLC0415
    from syncer.oci import Platform  # noqa: PLC0415
    from syncer.profiles.mapping import read_mapping  # noqa: PLC0415
    from syncer.registry import RegistryAddress  # noqa: PLC0415

    address = RegistryAddress.parse(registry)
    mapping = read_mapping(map or [])
    settings = registry_settings(connection, login, address, uploading)

    selectors = parse_selectors(annotation_selector or [])
    platform = Platform.parse(arch) if arch else None

    async def look() -> Exit:
        from syncer.api.plan import plan_push  # noqa: PLC0415  a push without --dry-run needs none of it
        from syncer.cli.foreseen import tell_plan  # noqa: PLC0415

        forecast = await plan_push(
            file,
            address,
            mapping=mapping,
            annotations=selectors,
            platform=platform,
            settings=settings,
            workers=connection.concurrency,
        )
        return tell_plan(forecast, telling, exit_code=dry.exit_code)

    async def job() -> Exit:
        with reporting(telling) as told:
            result = await push(
                file,
                address,
                mapping=mapping,
                annotations=selectors,
                platform=platform,
                settings=settings,
                state=state_directory(uploading.state_dir),
                rehash=verify_first,
                workers=connection.concurrency,
                run_id=told.run_id,
                emit=told.emit,
            )
        tell_push(told, "Push Summary", result)
        return result.exit

    run(look if dry.dry_run else job)


def verify(
    *,
    file: Annotated[Path, typer.Option("-f", "--file", metavar="BUNDLE", help="The bundle.")],
    public_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also check the bundle's signature with this key or certificate (PEM)."),
    ] = None,
    signature: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --public-key. Default: BUNDLE.sig.bin")
    ] = None,
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
    """Hash a bundle again and account for every byte of it; check its signature, and that a registry has it all."""
    from anyio import to_thread  # noqa: PLC0415  imported where used

    from syncer.api.verify import verify  # noqa: PLC0415
    from syncer.bundle.signature import verify_file  # noqa: PLC0415
    from syncer.cli.checked import tell_check  # noqa: PLC0415
    from syncer.cli.wiring import registry_settings  # noqa: PLC0415
    from syncer.profiles.mapping import read_mapping  # noqa: PLC0415
    from syncer.registry import RegistryAddress  # noqa: PLC0415

    async def job() -> Exit:
        address = RegistryAddress.parse(registry) if registry else None
        if public_key:
            await to_thread.run_sync(verify_file, file, public_key, signature)
        result = await verify(
            file,
            address,
            mapping=read_mapping(map or []),
            settings=registry_settings(connection, login, address),
            workers=connection.concurrency,
        )
        tell_check(result, telling, signed=public_key is not None)
        return result.exit

    run(job)
