"""``syncer build``: a definition of all that is wanted, its bundle, the signature, and the push."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from anyio import to_thread
from msgspec import Struct, structs

from syncer.api.build import (
    BundleFile,
    Selection,
    build_file,
    build_remote,
    check_name,
    make_definition,
    resolve_definition,
)
from syncer.api.bundles import bundle_name
from syncer.api.push import Delivery, push_file
from syncer.api.result import BuildResult
from syncer.api.supplies import Supplies
from syncer.bundle import DEFAULT_OUTPUT
from syncer.cli.build_options import (
    BuildOptions,
    BuildType,
    BuiltBundleOptions,
    ClusterDefinitionOptions,
    ContentOptions,
    DefinitionOptions,
    DeltaOptions,
    RemoteOptions,
    ServiceOptions,
    SigningOptions,
    check_build,
    select_content,
)
from syncer.cli.command import takes
from syncer.cli.job import run
from syncer.cli.options import ConnectionOptions, DryRunOptions, LoginOptions, OutputOptions, UploadOptions
from syncer.cli.output import (
    Reporter,
    open_reporter,
    print_json,
    print_plan,
    push_outcome,
    saved_line,
    size_line,
    summarize_push,
)
from syncer.cli.parser import Word
from syncer.cli.settings import chart_supplies, known_secrets, registry_settings, state_directory
from syncer.errors import Exit, UsageError
from syncer.oci import Reference
from syncer.profiles.definition.definition import FILE_NAME, Definition, Release
from syncer.profiles.definition.definition_file import read_definition, write_definition
from syncer.profiles.palette.edge_credentials import EdgeCredentials, read_cred_file
from syncer.registry import Credential, RegistryAddress, RegistrySettings
from syncer.report.summary import human_bytes, quantity

if TYPE_CHECKING:
    from syncer.api.palette import PaletteConsole


@takes(
    image=Word(
        metavar="[IMAGE…]",
        is_many=True,
        kind="the name of an image",
        file_hint="syncer build --images-file {} reads a list of images, and --profile-file manifests; "
        "an image of that name is written with its registry",
    )
)
def build(
    *,
    content: ContentOptions,
    bundle: BuiltBundleOptions,
    delta: DeltaOptions,
    signing: SigningOptions,
    cluster: ClusterDefinitionOptions,
    definition: DefinitionOptions,
    remote: RemoteOptions,
    services: ServiceOptions,
    dry: DryRunOptions,
    login: LoginOptions,
    connection: ConnectionOptions,
    upload: UploadOptions,
    output: OutputOptions,
) -> None:
    """Download images and charts into one bundle file.

    If an image fails, the others stay in NAME.tar.zst.partial, and the same command goes on with them.

    Examples:
        syncer build docker.io/library/busybox:1.37 quay.io/cilium/cilium:v1.16.5
        syncer build --images-file images.txt --name edge
        syncer build --profile-file deployment.yaml --scan
        syncer build --images-file june.txt --name june --have have.json
        syncer build --profiles ID,ID --name edge --push -r 10.10.254.254:8000/images

    More: docs/bundle.md, docs/delta.md, docs/palette.md
    """
    options = BuildOptions(
        content=content,
        bundle=bundle,
        delta=delta,
        signing=signing,
        cluster=cluster,
        definition=definition,
        remote=remote,
        services=services,
        dry=dry,
        login=login,
        connection=connection,
        upload=upload,
        output=output,
    )
    run(lambda: run_build(options))


class _Means(Struct, frozen=True, kw_only=True):
    """The values that the steps of one build share, made from its options."""

    selection: Selection
    settings: RegistrySettings
    supplies: Supplies
    console: PaletteConsole | None  # None: nothing is asked of Palette
    file: BundleFile

    @property
    def secrets(self) -> list[str]:
        return [*known_secrets(self.settings), *(self.console.secrets if self.console else ())]


async def run_build(options: BuildOptions) -> Exit:
    """Build as ``options`` say; raises ``UsageError`` for flags that contradict each other, before any request."""
    check_build(options, os.environ)
    means = _means(options)
    if options.definition.download_cluster_config_only:
        path = await _download_cluster_definition(options, means)
        click.echo(f"Downloaded cluster config at {path.absolute()}")
        return Exit.OK
    registry = options.remote.registry
    targets = [registry] if registry else []
    with open_reporter(options.output, targets=targets, secrets=means.secrets, log=options.log) as opened:
        reporter = opened
        means = await _leave_out(options, means, reporter)
        definition, notes = await _define(options.content, means, reporter)
        definition = _entitle(definition, options, means)
        if options.remote.build_type is not BuildType.REMOTE:
            reporter = structs.replace(reporter, targets=(str(means.file.path(definition.name).absolute()),))
        if not (options.definition.metadata_only or options.dry.dry_run):
            reporter.account_for(definition.name)
        if options.definition.metadata_only:
            return await _write_definition(definition, options, means, reporter, notes)
        if options.dry.dry_run:
            return await _forecast(definition, options, means, reporter)
        definition = await _add_files(definition, options, means)
        if means.selection.names_profiles and not definition.entries:
            raise UsageError(
                "none of the packs lists an image or a chart",
                hint="--scan takes the images that they name in manifests, values and charts",
            )
        reporter.expect(len(definition.entries))
        if options.remote.build_type is BuildType.REMOTE:
            return await _build_remote(definition, options, means, reporter, notes)
        built = await _build(definition, options, means, reporter)
    pushes = options.remote.push and built.path
    if not (pushes and options.output.json):
        may_lack = means.file.allow_partial
        outcome = [*_outcome(built, definition.name, options.signing, may_lack=may_lack), *notes]
        reporter.summarize(
            "Build Summary",
            outcome,
            built.report,
            profile=definition.name,
            code=built.exit,
            lists=options.content.files,
            may_be_partial=not may_lack,
        )
    if not pushes:
        return built.exit
    return await _push(built, pushes, options, means, reporter, profile=definition.name)


def _means(options: BuildOptions) -> _Means:
    """Prepare a build; raises ``UsageError`` for a selection or a login that is wrong, and ``InvalidFile``."""
    content, bundle = options.content, options.bundle
    credentials = (
        read_cred_file(content.cred_file_path) if content.cred_file_path else EdgeCredentials(images={}, charts={})
    )
    selection = select_content(content)
    settings = _settings(options, credentials, selection)
    file = BundleFile(
        output=bundle.output or DEFAULT_OUTPUT,
        file_name=options.file_name,
        format=bundle.format.value,
        compression_level=bundle.compression_level,
        force=bundle.force,
        allow_partial=bundle.allow_partial,
        resume=bundle.resume,
        platform=bundle.arch,
    )
    supplies = structs.replace(
        chart_supplies(),
        bundles=content.existing_bundles,
        chart_logins=credentials.charts,
        spool=file.output / "spool" if bundle.skip_cleanup else None,
    )
    console = None
    if selection.needs_palette or options.cluster.cluster_definition_name:
        from syncer.cli.palette import open_console  # noqa: PLC0415  slow to import, and images need none of it

        console = open_console(
            settings.transport,
            api_key=options.api_key,
            console=options.console_url,
            project_id=content.project_id,
            passphrase=options.services.encryption_passphrase,
        )
    return _Means(selection=selection, settings=settings, supplies=supplies, console=console, file=file)


async def _leave_out(options: BuildOptions, means: _Means, reporter: Reporter) -> _Means:
    """``means`` for a bundle without what its target has, where the options say that; raises ``UsageError``."""
    concurrency = options.connection.workers
    assumption = await options.delta.assumption(means.settings, concurrency=concurrency, warn=reporter.warn)
    return structs.replace(means, file=structs.replace(means.file, assumption=assumption))


def _settings(options: BuildOptions, credentials: EdgeCredentials, selection: Selection) -> RegistrySettings:
    registry = options.remote.registry
    everyone: list[Reference | RegistryAddress] = []
    if selection.images and not selection.names_profiles:
        everyone = [*(reference for reference, _ in selection.images), *([registry] if registry else [])]
    settings = registry_settings(
        options.connection,
        options.login,
        registry,
        options.upload,
        everyone=everyone,
        include_foreign=options.bundle.include_foreign,
    )
    logins = {
        place: Credential(username=login.username, password=login.password)
        for place, login in credentials.images.items()
    }
    own = settings.credentials
    return structs.replace(settings, credentials=structs.replace(own, logins={**logins, **own.logins}))


async def _define(content: ContentOptions, means: _Means, reporter: Reporter) -> tuple[Definition, list[str]]:
    """The definition of all that is wanted, and lines for the summary."""
    if content.metadata_file:
        definition = read_definition(content.metadata_file)
        if definition.missing:
            reporter.warn(f"{len(definition.missing)} things that the definition calls missing are left out")
        return definition, []
    if means.selection.names_profiles:
        from syncer.cli.palette import define_bundle  # noqa: PLC0415  slow to import, and images need none of it

        return await define_bundle(
            means.selection, means.console, reporter.warn, supplies=means.supplies, settings=means.settings
        )
    return make_definition("bundle", [reference for reference, _ in means.selection.images]), []


def _entitle(definition: Definition, options: BuildOptions, means: _Means) -> Definition:
    """``definition`` with its name and release: as given, else as a file says, else as Palette's CLI calls a bundle."""
    name = options.bundle.name
    if not name and options.content.metadata_file:
        name = definition.name
    if not name:
        project = means.console.access.account.project_uid if means.console else options.content.project_id
        name = f"bundle-{project}" if project else "bundle"
    check_name(name)
    release = options.bundle.release
    return structs.replace(definition, name=name, release=definition.release if release == Release() else release)


async def _add_files(definition: Definition, options: BuildOptions, means: _Means) -> Definition:
    """``definition`` with the cluster definition and the widgets that are to travel along."""
    files = list(definition.files)
    if options.cluster.cluster_definition_name:
        path = await _download_cluster_definition(options, means)
        click.echo(f"Downloaded cluster config at {path.absolute()}", err=True)
        from syncer.profiles.definition.local import define_file  # noqa: PLC0415  slow to import, and rarely used

        files.append(define_file(path, "cluster-definitions"))
    if options.definition.custom_ui:
        from syncer.cli.palette import read_widgets  # noqa: PLC0415  slow to import, and rarely used

        files.append(read_widgets(options.definition.custom_ui))
    return structs.replace(definition, files=tuple(files))


async def _download_cluster_definition(options: BuildOptions, means: _Means) -> Path:
    from syncer.cli.palette import download_definition  # noqa: PLC0415  slow to import, and rarely used

    return await download_definition(
        means.console,
        name=options.cluster.cluster_definition_name,
        uids=options.cluster.cluster_definition_profile_ids or options.content.profiles,
        directory=options.cluster_directory or options.bundle.output or DEFAULT_OUTPUT.parent,
        private_key=options.signing.private_key,
    )


async def _write_definition(
    definition: Definition, options: BuildOptions, means: _Means, reporter: Reporter, notes: list[str]
) -> Exit:
    """Write the definition into a file of its own; with ``--lock`` only when all that it names was found."""
    if options.definition.lock:
        resolution = await resolve_definition(
            definition,
            platform=means.file.platform,
            supplies=means.supplies,
            settings=means.settings,
            options=reporter.run_options(options.connection.workers),
        )
        if resolution.report.failures:
            nothing = "not everything that the definition names could be found, so nothing was written"
            reporter.summarize("Lock Summary", [nothing], resolution.report, profile=definition.name)
            return resolution.report.exit
        definition = resolution.definition
    definition = _with_absolute_paths(definition)
    path = means.file.output / FILE_NAME
    write_definition(definition, path, force=means.file.force)
    if options.output.json:
        print_json(definition.tree())
    else:
        click.echo("\n".join([f"Writing flattened bundle definition file at path {path.absolute()}", *notes]))
    return Exit.OK


def _with_absolute_paths(definition: Definition) -> Definition:
    """``definition`` as it can be built from any directory."""
    archives = (
        structs.replace(archive, path=archive.path.absolute()) if archive.path else archive
        for archive in definition.archives
    )
    return structs.replace(definition, archives=tuple(archives))


async def _forecast(definition: Definition, options: BuildOptions, means: _Means, reporter: Reporter) -> Exit:
    from syncer.api.plan import plan_build  # noqa: PLC0415  a build without --dry-run needs none of it

    forecast = await plan_build(
        definition,
        means.file,
        referrers=options.bundle.along,
        supplies=means.supplies,
        settings=means.settings,
        concurrency=options.connection.workers,
        warn=reporter.warn,
        emit=reporter.emit,
    )
    return print_plan(forecast, options.output, exit_code=options.dry.exit_code, lists=options.content.files)


async def _build(definition: Definition, options: BuildOptions, means: _Means, reporter: Reporter) -> BuildResult:
    result = await build_file(
        definition,
        means.file,
        referrers=options.bundle.along,
        supplies=means.supplies,
        settings=means.settings,
        options=reporter.run_options(options.connection.workers),
    )
    if result.path and options.signing.private_key:
        from syncer.bundle.signature import sign_file  # noqa: PLC0415  cryptography is slow to import

        await to_thread.run_sync(sign_file, result.path, options.signing.private_key)
    return result


def _outcome(built: BuildResult, name: str, signing: SigningOptions, *, may_lack: bool) -> Iterator[str]:
    if built.path is None:
        goes_on = "; run the same command again to go on" if built.may_go_on else ""
        if may_lack:
            yield f"bundle {name} was not published, not even in part, since nothing of it could be had{goes_on}"
            return
        yield f"bundle {name} is not complete and was not published{goes_on}"
        return
    yield saved_line(f"bundle {name}", built.path, built.report)
    if built.assumed is not None:
        pieces = quantity(len(built.assumed.blobs), "piece")
        yield f"assumed at the target, and left out: {pieces}, {human_bytes(built.assumed.size)}"
        if not built.blobs:
            yield "it brings no new content, only manifests"
    yield size_line(built)
    if signing.private_key:
        yield f"signature saved to {built.path.absolute()}.sig.bin"


async def _build_remote(
    definition: Definition, options: BuildOptions, means: _Means, reporter: Reporter, notes: list[str]
) -> Exit:
    result = await build_remote(
        definition,
        structs.replace(_delivery(options), platform=means.file.platform),
        referrers=options.bundle.along,
        supplies=means.supplies,
        settings=means.settings,
        options=reporter.run_options(options.connection.workers),
    )
    summarize_push(reporter, "Build Summary", result, kind="remote", more=notes)
    return result.exit


def _delivery(options: BuildOptions) -> Delivery:
    assert options.remote.registry is not None
    state = state_directory(options.upload.state_dir)
    return Delivery(address=options.remote.registry, mapping=options.remote.map, state=state)


async def _push(
    built: BuildResult, path: Path, options: BuildOptions, means: _Means, building: Reporter, *, profile: str
) -> Exit:
    """Push what was built, with a report of its own; with ``--json`` both reports are one document."""
    output = replace(
        options.output,
        report=_name_of_push(options.output.report),
        metrics_file=_name_of_push(options.output.metrics_file),
    )
    if output.json:
        building.write(built.report, profile=profile, code=built.exit)
    delivery = _delivery(options)
    secrets = known_secrets(means.settings)
    with open_reporter(output, name=bundle_name(path), targets=[delivery.address], secrets=secrets) as pushing:
        run_options = pushing.run_options(options.connection.workers)
        pushed = await push_file(path, delivery, settings=means.settings, options=run_options)
    if output.json:
        report = pushing.sign(pushed.report, profile, pushed.exit)
        print_json({"build": building.sign(built.report, profile, built.exit).to_json(), "push": report.to_json()})
        pushing.write(report, profile=profile)
        if pushed.problem:
            building.warn(push_outcome(pushed)[-1])
    else:
        summarize_push(pushing, "Push Summary", pushed)
    return built.exit or pushed.exit


def _name_of_push(path: Path | None) -> Path | None:
    """The file of a push beside that of its build: ``report-push.json``."""
    return path.with_stem(f"{path.stem}-push") if path else None
