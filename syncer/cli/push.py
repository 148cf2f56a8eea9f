"""``syncer push``: a bundle into a registry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import structs

from syncer.api.bundles import bundle_name
from syncer.api.delta import AssumedMissing
from syncer.api.push import Delivery, push_file
from syncer.bundle import BundleUrl, GivenName
from syncer.cli.command import flag, option, takes
from syncer.cli.fleet import SiteOptions, run_fleet, write_missing
from syncer.cli.job import LONGER_TO_STOP, run
from syncer.cli.options import (
    ONE_REGISTRY,
    ConnectionOptions,
    LoginOptions,
    OutputOptions,
    TransferOptions,
    UploadOptions,
    arch_option,
    as_option,
    bundle_option,
    map_option,
    selector_option,
)
from syncer.cli.output import open_reporter, print_plan, summarize_push, tell_waits, warn
from syncer.cli.parser import Heading, Word
from syncer.cli.settings import everyone_of, known_secrets, registry_settings, state_directory
from syncer.errors import Exit, UsageError
from syncer.fleet import Command
from syncer.formats.units import byte_count_or_none
from syncer.naming import NameMapping
from syncer.oci import Platform
from syncer.report.summary import require_writable


@takes(file=Word(metavar="FILE"), registry=ONE_REGISTRY)
def push(
    *,
    file: Path | BundleUrl = bundle_option(),
    to: SiteOptions,
    map: NameMapping = map_option(),  # noqa: A002  the word of the command line
    annotation_selector: Mapping[str, str] = selector_option(),
    arch: Platform | None = arch_option(),
    verify_first: bool = flag("Check the whole bundle before anything is sent.", "--verify"),
    trust_journal: bool = flag(
        "Ask nothing of sites to which an earlier run brought all of the bundle.", heading=Heading.TRANSFER
    ),
    read_window: int | None = option(
        "How far sites may be apart in the file; 0: any distance. Default: by the memory that is free.",
        metavar="BYTES",
        parse=byte_count_or_none,
        heading=Heading.TRANSFER,
    ),
    as_name: GivenName | None = as_option(),
    missing_out: Path | None = option(
        "List here what registries lack for a delta, for build --missing.",
        metavar="FILE",
        heading=Heading.REPORTING,
        written=True,
    ),
    transfer: TransferOptions,
    login: LoginOptions,
    connection: ConnectionOptions,
    upload: UploadOptions,
    output: OutputOptions,
) -> None:
    """Push a bundle into one registry, or into many.

    quay.io/a/b:1 lands at HOST/BASE/quay.io/a/b:1. What is there already is skipped.

    Examples:
        syncer push edge.tar.zst 10.10.254.254:8000/images
        syncer push edge.tar.zst 10.10.254.254:8000/images --dry-run
        syncer push edge.tar.zst 10.10.254.254:8000 --map quay.io/cilium=mirror/cilium
        syncer push edge.tar.zst -r a.example.com/images -r b.example.com/images
        syncer push edge.tar.zst --targets-file sites.yaml --report fleet.json

    More: docs/fleet.md, docs/sites.md
    """
    transfer.refuse_recheck()
    if missing_out:
        require_writable(missing_out)
    if trust_journal and transfer.recheck:
        raise UsageError(
            "--trust-journal asks nothing of a site, and --recheck asks for everything", hint="leave one of them out"
        )
    settings = registry_settings(connection, login, to.single, upload, everyone=everyone_of(file, to.registry))
    runner = to.runner(connection, upload)
    fleet = to.fleet(login, settings, map)
    state = state_directory(upload.state_dir)

    def delivery() -> Delivery:
        return Delivery(address=to.registry[0], mapping=map, platform=arch, state=state)

    async def forecast() -> Exit:
        from syncer.api.plan import plan_push  # noqa: PLC0415  a push without --dry-run needs none of it

        report = await plan_push(
            file,
            delivery(),
            annotations=annotation_selector,
            given=as_name,
            settings=settings,
            concurrency=connection.workers,
            warn=warn,
            emit=tell_waits(output, known_secrets(settings)),
        )
        return print_plan(report, output, exit_code=transfer.exit_code)

    async def push_to_all() -> Exit:
        options = structs.replace(
            to.options(connection),
            platform=arch,
            annotations=annotation_selector,
            state=state,
            rehash=verify_first,
            recheck=transfer.recheck,
            trust_journal=trust_journal,
            read_window=read_window,
        )
        command: Command = "plan" if transfer.dry_run else "push"
        return await run_fleet(
            command,
            file,
            fleet,
            options,
            output,
            given=as_name,
            runner=runner,
            tell_work=transfer.exit_code,
            missing_out=missing_out,
        )

    async def job() -> Exit:
        with open_reporter(output, name=bundle_name(file), targets=to.registry) as reporter:
            try:
                result = await push_file(
                    file,
                    delivery(),
                    annotations=annotation_selector,
                    given=as_name,
                    settings=settings,
                    rehash=verify_first,
                    options=structs.replace(reporter.run_options(connection.workers), recheck=transfer.recheck),
                )
            except AssumedMissing as missing:
                if missing_out:
                    write_missing(missing_out, file.name, [missing])
                raise
        summarize_push(reporter, "Push Summary", result)
        return result.exit

    if to.is_fleet or trust_journal:
        run(push_to_all, seconds_to_stop=LONGER_TO_STOP)
    else:
        run(forecast if transfer.dry_run else job)
