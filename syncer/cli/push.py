"""``syncer push``: a bundle into a registry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from syncer.api.push import Delivery, push_file
from syncer.cli.command import flag
from syncer.cli.job import run
from syncer.cli.options import (
    ConnectionOptions,
    DryRunOptions,
    LoginOptions,
    OutputOptions,
    UploadOptions,
    arch_option,
    bundle_option,
    map_option,
    registry_option,
    selector_option,
)
from syncer.cli.output import open_reporter, print_plan, summarize_push
from syncer.cli.settings import registry_settings, state_directory
from syncer.errors import Exit
from syncer.naming import NameMapping
from syncer.oci import Platform
from syncer.registry import RegistryAddress


def push(
    *,
    file: Path = bundle_option(),
    registry: RegistryAddress = registry_option("Where its images go.", required=True),
    map: NameMapping = map_option(),  # noqa: A002  the word of the command line
    annotation_selector: Mapping[str, str] = selector_option(),
    arch: Platform | None = arch_option(),
    verify_first: bool = flag("Hash the whole bundle before anything is sent.", "--verify"),
    dry: DryRunOptions,
    login: LoginOptions,
    connection: ConnectionOptions,
    upload: UploadOptions,
    output: OutputOptions,
) -> None:
    """Push a bundle into a registry.

    quay.io/a/b:1 lands at HOST/BASE/quay.io/a/b:1. What is there already is skipped.
    """
    settings = registry_settings(connection, login, registry, upload)
    delivery = Delivery(address=registry, mapping=map, platform=arch, state=state_directory(upload.state_dir))

    async def forecast() -> Exit:
        from syncer.api.plan import plan_push  # noqa: PLC0415  a push without --dry-run needs none of it

        report = await plan_push(
            file, delivery, annotations=annotation_selector, settings=settings, workers=connection.concurrency
        )
        return print_plan(report, output, exit_code=dry.exit_code)

    async def job() -> Exit:
        with open_reporter(output) as reporter:
            result = await push_file(
                file,
                delivery,
                annotations=annotation_selector,
                settings=settings,
                rehash=verify_first,
                options=reporter.run_options(connection.concurrency),
            )
        summarize_push(reporter, "Push Summary", result)
        return result.exit

    run(forecast if dry.dry_run else job)
