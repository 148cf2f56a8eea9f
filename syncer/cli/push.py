"""``syncer push``: a bundle into a registry."""

from __future__ import annotations

from pathlib import Path

from syncer.api.bundles import parse_selectors
from syncer.api.push import Delivery, push_file
from syncer.cli.command import flag, option
from syncer.cli.job import run
from syncer.cli.options import ConnectionOptions, DryRunOptions, LoginOptions, OutputOptions, UploadOptions
from syncer.cli.output import reporting, tell_push
from syncer.cli.settings import registry_settings, state_directory
from syncer.errors import Exit
from syncer.naming import read_mapping
from syncer.oci import Platform
from syncer.registry import RegistryAddress


def push(
    *,
    file: Path = option("The bundle.", "-f", required=True, metavar="BUNDLE"),
    registry: str = option("Where its images go.", "-r", required=True, metavar="HOST[:PORT][/BASE]"),
    map: tuple[str, ...] = option(  # noqa: A002  the word of the command line
        "Replace the start of original names; the longest match wins. May be given many times.",
        default=(),
        metavar="PREFIX=REPLACEMENT",
    ),
    annotation_selector: tuple[str, ...] = option(
        "Only images with this annotation; repeatable.", default=(), metavar="KEY=VALUE"
    ),
    arch: str | None = option("Take this platform out of every multi-platform image.", "-a", metavar="amd64|arm64"),
    verify_first: bool = flag("Hash the whole bundle before anything is sent.", "--verify"),
    dry: DryRunOptions,
    login: LoginOptions,
    connection: ConnectionOptions,
    uploading: UploadOptions,
    telling: OutputOptions,
) -> None:
    """Push a bundle into a registry.

    quay.io/a/b:1 lands at HOST/BASE/quay.io/a/b:1. What is there already is skipped.
    """
    address = RegistryAddress.parse(registry)
    mapping = read_mapping(map or [])
    settings = registry_settings(connection, login, address, uploading)
    selectors = parse_selectors(annotation_selector or [])
    delivery = Delivery(
        address=address,
        mapping=mapping,
        platform=Platform.parse(arch) if arch else None,
        state=state_directory(uploading.state_dir),
    )

    async def look() -> Exit:
        from syncer.api.plan import plan_push  # noqa: PLC0415  a push without --dry-run needs none of it
        from syncer.cli.output import tell_plan  # noqa: PLC0415

        forecast = await plan_push(
            file, delivery, annotations=selectors, settings=settings, workers=connection.concurrency
        )
        return tell_plan(forecast, telling, exit_code=dry.exit_code)

    async def job() -> Exit:
        with reporting(telling) as told:
            result = await push_file(
                file,
                delivery,
                annotations=selectors,
                settings=settings,
                rehash=verify_first,
                options=told.run_options(connection.concurrency),
            )
        tell_push(told, "Push Summary", result)
        return result.exit

    run(look if dry.dry_run else job)
