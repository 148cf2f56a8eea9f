"""``syncer sync``: registry to registry."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from syncer.cli.options import ConnectionOptions, LoginOptions, OutputOptions, UploadOptions
from syncer.cli.run import run
from syncer.errors import Exit, UsageError


def sync(
    *,
    config: Annotated[
        Path | None, typer.Option("-c", "--config", metavar="FILE", help="A sync file (docs/sync.md).")
    ] = None,
    image: Annotated[list[str] | None, typer.Option(metavar="REF", help="An image; may be given many times.")] = None,
    images_file: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A list of images; may be given many times.")
    ] = None,
    profile_file: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A profile of Palette's; may be given many times.")
    ] = None,
    registry: Annotated[
        str | None, typer.Option("-r", "--registry", metavar="HOST[:PORT][/BASE]", help="Where images named here go.")
    ] = None,
    map: Annotated[  # noqa: A002  the word of the command line
        list[str] | None, typer.Option(metavar="PREFIX=REPLACEMENT", help="Replace the start of original names.")
    ] = None,
    arch: Annotated[
        str | None, typer.Option("-a", "--arch", metavar="amd64|arm64", help="Take this platform out of every index.")
    ] = None,
    referrers: Annotated[
        bool, typer.Option("--referrers/--no-referrers", help="Bring signatures, attestations and SBOMs along.")
    ] = True,
    keep_going: Annotated[
        bool, typer.Option("--keep-going/--fail-fast", help="Whether the rest goes on when an image fails.")
    ] = True,
    strict: Annotated[bool, typer.Option("--strict", help="A rule that fits no tag is an error.")] = False,
    timeout: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="End the run after so long (90s, 30m, 5h); the next one goes on."),
    ] = None,
    login: LoginOptions,
    connection: ConnectionOptions,
    uploading: UploadOptions,
    telling: OutputOptions,
) -> None:
    """Mirror images from registries to registries.

    What is there already costs one question at its source and one at the target. What fails is tried once
    more at the end of the run; running again goes on.
    """
    from syncer.api.build import open_contents  # noqa: PLC0415  imported where used: `syncer version` stays quick
    from syncer.api.sources import Sources  # noqa: PLC0415
    from syncer.api.state import locked  # noqa: PLC0415
    from syncer.api.sync import Mirroring, run_sync  # noqa: PLC0415
    from syncer.api.sync_settings import secrets_of, sync_settings  # noqa: PLC0415
    from syncer.cli.durations import parse_duration  # noqa: PLC0415
    from syncer.cli.reporting import reporting  # noqa: PLC0415
    from syncer.cli.sync_flags import file_of_flags  # noqa: PLC0415
    from syncer.cli.wiring import registry_settings, state_directory  # noqa: PLC0415
    from syncer.profiles.sync_file import read_sync_file  # noqa: PLC0415
    from syncer.registry import RegistryAddress  # noqa: PLC0415

    named = [*(image or []), *(images_file or []), *(profile_file or []), *(map or []), *filter(None, [arch])]
    if config is not None and (registry is not None or named or not referrers):
        raise UsageError(
            "what to mirror is said by --config or by other flags, not by both",
            hint="put it into the file (docs/sync.md)",
        )
    if config is None and registry is None:
        raise UsageError(
            "there is nothing to mirror",
            hint="name a sync file with --config, or images with --image and their target with --registry",
        )
    address = RegistryAddress.parse(registry) if registry else None
    file = (
        read_sync_file(config)
        if config is not None
        else file_of_flags(
            image or [],
            images_file or [],
            profile_file or [],
            registry=registry or "",
            maps=map or [],
            arch=arch,
            referrers=referrers,
        )
    )
    state = state_directory(uploading.state_dir)
    settings = sync_settings(file, registry_settings(connection, login, address, uploading), os.environ)
    how = Mirroring(
        state=state,
        workers=connection.concurrency,
        fail_fast=not keep_going,
        timeout=parse_duration(timeout) if timeout else None,
    )

    async def job() -> Exit:
        with locked(state, str(config.resolve() if config else address)):
            with reporting(telling, secrets=secrets_of(settings)) as told:
                for warning in file.warnings:
                    told.warn(warning)
                async with open_contents(settings, None) as contents:
                    sources = Sources(file, contents, told.warn, strict=strict)
                    result = await run_sync(sources, how, run_id=told.run_id, emit=told.emit, expect=told.expect)
            outcome = [f"mirrored to {target.registry}" for target in file.targets]
            if result.timed_out:
                outcome = ["the time was up first; run the same command again to go on"]
            told.tell("Sync Summary", outcome, result.report, profile=config.stem if config else str(address))
        return result.exit

    run(job)
