"""``syncer build``: what is wanted, the bundle, its signature, and its push."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import typer
from anyio import to_thread

from syncer.api.build import (
    DEFAULT_OUTPUT,
    BundleFile,
    build_file,
    build_remote,
    check_name,
    make_definition,
    resolve_definition,
)
from syncer.api.push import Delivery, push_file
from syncer.api.result import BuildResult, RunOptions
from syncer.api.selection import Selection
from syncer.api.supplies import Supplies
from syncer.cli.build_checks import check_build
from syncer.cli.job import run
from syncer.cli.options import (
    BuildOptions,
    BuildType,
    BundleOptions,
    ConnectionOptions,
    ContentOptions,
    DefinitionOptions,
    DryRunOptions,
    LoginOptions,
    OutputOptions,
    RemoteOptions,
    ServiceOptions,
    UploadOptions,
)
from syncer.cli.output import Reporting, delivered, print_json, reporting, tell_push
from syncer.cli.settings import cache_directory, registry_settings, secrets_of, state_directory
from syncer.cli.wanted import csv, selection_of
from syncer.errors import Exit, UsageError
from syncer.naming import NameMapping, read_mapping
from syncer.oci import Platform
from syncer.profiles.definition.definition import FILE_NAME, Definition, Release
from syncer.profiles.palette.edge_credentials import EdgeCredentials, read_cred_file
from syncer.registry import Credential, RegistryAddress, RegistrySettings

if TYPE_CHECKING:
    from syncer.api.palette import PaletteConsole


@dataclass(frozen=True, kw_only=True)
class Building:
    """One build, as it was asked for; what nobody says has the default of the command line."""

    options: BuildOptions
    file_name: str | None = None  # of the bundle; its name with the form's suffix unless given
    definition_directory: Path | None = None  # of the cluster definition
    api_key: str | None = None
    console_url: str | None = None
    log: TextIO | None = None  # beside what ``telling`` says

    async def carry_out(self) -> Exit:
        """Do it; raises ``UsageError`` for flags that contradict each other, before anything is asked."""
        check_build(self.options, os.environ)
        if self.options.defining.download_cluster_config_only:
            path = await self._download_definition()
            typer.echo(f"Downloaded cluster config at {path.absolute()}")
            return Exit.OK
        mapping = read_mapping(self.options.remote.map or [])  # a mistake in it is told before the build
        secrets = [*secrets_of(self._settings), *self._palette_secrets()]
        with reporting(self.options.telling, secrets=secrets, log=self.log) as told:
            definition, outcome = await self._definition(told)
            if self.options.defining.metadata_only:
                return await self._write_definition(definition, outcome, told)
            if self.options.dry.dry_run:
                return await self._foresee(definition)
            definition = await self._with_files(definition)
            if self._selection.names_profiles and not definition.entries:
                raise UsageError(
                    "none of the packs lists an image or a chart",
                    hint="--scan takes the images that they name in manifests, values and charts",
                )
            told.expect(len(definition.entries))
            if self.options.remote.build_type is BuildType.REMOTE:
                return await self._build_remote(definition, mapping, outcome, told)
            built = await self._build(definition, told)
            outcome = [*self._saved(built, definition.name), *outcome]
            if not (self.options.remote.push and built.path):
                told.tell("Build Summary", outcome, built.report, profile=definition.name)
                return built.exit
        return await self._push(built, built.path, mapping, outcome, told, name=definition.name)

    @cached_property
    def _address(self) -> RegistryAddress | None:
        return RegistryAddress.parse(self.options.remote.registry) if self.options.remote.registry else None

    @cached_property
    def _edge_credentials(self) -> EdgeCredentials:
        path = self.options.content.cred_file_path
        return read_cred_file(path) if path else EdgeCredentials(images={}, charts={})

    @cached_property
    def _settings(self) -> RegistrySettings:
        settings = registry_settings(self.options.connection, self.options.login, self._address, self.options.uploading)
        given = {
            place: Credential(username=login.username, password=login.password)
            for place, login in self._edge_credentials.images.items()
        }
        credentials = replace(settings.credentials, logins={**given, **settings.credentials.logins})
        return replace(settings, credentials=credentials)

    @cached_property
    def _selection(self) -> Selection:
        return selection_of(self.options.content)

    @cached_property
    def _platform(self) -> Platform | None:
        return Platform.parse(self.options.bundle.arch) if self.options.bundle.arch else None

    @cached_property
    def _console(self) -> PaletteConsole | None:
        """Palette, where it is needed; without it nobody needs to be logged in."""
        if not (self._selection.needs_palette or self.options.defining.cluster_definition_name):
            return None
        from syncer.api.palette import PaletteConsole  # noqa: PLC0415  slow to import
        from syncer.cli.palette import palette_access  # noqa: PLC0415

        return PaletteConsole(
            palette_access(
                self._settings.transport,
                os.environ,
                api_key=self.api_key,
                console=self.console_url,
                project_id=self.options.content.project_id,
                passphrase=self.options.services.encryption_passphrase,
            )
        )

    @cached_property
    def _supplies(self) -> Supplies:
        return Supplies(
            bundles=[Path(path) for path in csv(self.options.content.existing_bundles)],
            chart_logins=self._edge_credentials.charts,
            chart_cache=cache_directory() / "charts",
            spool=self._output / "spool" if self.options.bundle.skip_cleanup else None,
        )

    @property
    def _output(self) -> Path:
        return self.options.bundle.output or DEFAULT_OUTPUT

    @property
    def _file(self) -> BundleFile:
        bundle = self.options.bundle
        return BundleFile(
            output=self._output,
            file_name=self.file_name,
            format=bundle.format.value,
            compression_level=bundle.compression_level,
            force=bundle.force,
            allow_partial=bundle.allow_partial,
            resume=bundle.resume,
            platform=self._platform,
        )

    def _delivery(self, mapping: NameMapping) -> Delivery:
        assert self._address is not None
        return Delivery(address=self._address, mapping=mapping, state=state_directory(self.options.uploading.state_dir))

    def _run_options(self, told: Reporting) -> RunOptions:
        return told.run_options(self.options.connection.concurrency)

    def _palette_secrets(self) -> list[str]:
        return [self._console.access.account.api_key] if self._console else []

    async def _definition(self, told: Reporting) -> tuple[Definition, list[str]]:
        """What is wanted, and what the summary must say of it."""
        outcome: list[str] = []
        if self.options.content.metadata_file:
            from syncer.profiles.definition.definition_file import read_definition  # noqa: PLC0415  needs yaml

            definition = read_definition(self.options.content.metadata_file)
            if definition.missing:
                told.warn(f"{len(definition.missing)} things that the definition calls missing are left out")
        elif self._selection.names_profiles:
            from syncer.cli.palette import gathered  # noqa: PLC0415  slow to import

            definition, outcome = await gathered(self._selection, self._console, told.warn)
        else:
            definition = make_definition("bundle", [reference for reference, _ in self._selection.images])
        given = Release(
            name=self.options.bundle.application_release_name,
            version=self.options.bundle.application_release_version,
            notes=self.options.bundle.application_release_notes,
        )
        name = self.options.bundle.name or (
            definition.name if self.options.content.metadata_file else self._usual_name()
        )
        check_name(name)
        release = definition.release if given == Release() else given
        return replace(definition, name=name, release=release), outcome

    def _usual_name(self) -> str:
        """Palette's rule: the project's id follows, where there is a project."""
        project = self._console.access.account.project_uid if self._console else self.options.content.project_id
        return f"bundle-{project}" if project else "bundle"

    async def _with_files(self, definition: Definition) -> Definition:
        """``definition`` with the cluster definition and the widgets that are to travel along."""
        files = list(definition.files)
        if self.options.defining.cluster_definition_name:
            path = await self._download_definition()
            typer.echo(f"Downloaded cluster config at {path.absolute()}", err=True)
            from syncer.profiles.definition.local import defined_file  # noqa: PLC0415  slow to import

            files.append(defined_file(path, "cluster-definitions"))
        if self.options.defining.custom_ui:
            from syncer.cli.palette import widgets  # noqa: PLC0415  slow to import

            files.append(widgets(self.options.defining.custom_ui))
        return replace(definition, files=tuple(files))

    async def _download_definition(self) -> Path:
        from syncer.cli.palette import download_definition  # noqa: PLC0415  slow to import

        return await download_definition(
            self._console,
            name=self.options.defining.cluster_definition_name,
            uids=csv(self.options.defining.cluster_definition_profile_ids) or csv(self.options.content.profiles),
            directory=self.definition_directory or self.options.bundle.output or DEFAULT_OUTPUT.parent,
            private_key=self.options.bundle.private_key,
        )

    async def _write_definition(self, definition: Definition, outcome: list[str], told: Reporting) -> Exit:
        from syncer.profiles.definition.definition_file import write_definition  # noqa: PLC0415  needs yaml

        if self.options.defining.lock:
            resolution = await resolve_definition(
                definition,
                platform=self._platform,
                supplies=self._supplies,
                settings=self._settings,
                options=self._run_options(told),
            )
            if resolution.report.failures:
                nothing = "not everything that the definition names could be found, so nothing was written"
                told.tell("Lock Summary", [nothing], resolution.report, profile=definition.name)
                return resolution.report.exit
            definition = resolution.definition
        path = self._output / FILE_NAME
        definition = _findable(definition)
        write_definition(definition, path, force=self.options.bundle.force)
        if self.options.telling.json:
            print_json(definition.tree())
        else:
            written = f"Writing flattened bundle definition file at path {path.absolute()}"
            typer.echo("\n".join([written, *outcome]))
        return Exit.OK

    async def _foresee(self, definition: Definition) -> Exit:
        from syncer.api.plan import plan_build  # noqa: PLC0415  a build without --dry-run needs none of it
        from syncer.cli.output import tell_plan  # noqa: PLC0415

        forecast = await plan_build(
            definition,
            self._file,
            referrers=self.options.bundle.along,
            supplies=self._supplies,
            settings=self._settings,
            workers=self.options.connection.concurrency,
        )
        return tell_plan(forecast, self.options.telling, exit_code=self.options.dry.exit_code)

    async def _build(self, definition: Definition, told: Reporting) -> BuildResult:
        result = await build_file(
            definition,
            self._file,
            referrers=self.options.bundle.along,
            supplies=self._supplies,
            settings=self._settings,
            options=self._run_options(told),
        )
        if result.path and self.options.bundle.private_key:
            from syncer.bundle.signature import sign_file  # noqa: PLC0415  slow to import

            await to_thread.run_sync(sign_file, result.path, self.options.bundle.private_key)
        return result

    def _saved(self, built: BuildResult, name: str) -> Iterator[str]:
        if built.path is None:
            yield f"bundle {name} is not complete and was not published; run the same command again to go on"
            return
        yield f"bundle {name} saved to {built.path.absolute()}"
        if self.options.bundle.private_key:
            yield f"signature saved to {built.path.absolute()}.sig.bin"

    async def _push(
        self,
        built: BuildResult,
        path: Path,
        mapping: NameMapping,
        outcome: list[str],
        told: Reporting,
        *,
        name: str,
    ) -> Exit:
        """Push what was built; both accounts are told, and written to files of their own."""
        if not self.options.telling.json:
            told.tell("Build Summary", outcome, built.report, profile=name)
        telling = replace(
            self.options.telling,
            report=_beside(self.options.telling.report),
            metrics_file=_beside(self.options.telling.metrics_file),
        )
        with reporting(telling, secrets=secrets_of(self._settings)) as telling_push:
            pushed = await push_file(
                path, self._delivery(mapping), settings=self._settings, options=self._run_options(telling_push)
            )
        if self.options.telling.json:
            print_json({"build": built.report.to_json(), "push": pushed.report.to_json()})
            told.write(built.report, profile=name)
            telling_push.write(pushed.report, profile=name)
            if pushed.problem:
                told.warn(delivered(pushed)[-1])
        else:
            tell_push(telling_push, "Push Summary", pushed)
        return built.exit or pushed.exit

    async def _build_remote(
        self, definition: Definition, mapping: NameMapping, outcome: list[str], told: Reporting
    ) -> Exit:
        result = await build_remote(
            definition,
            replace(self._delivery(mapping), platform=self._platform),
            referrers=self.options.bundle.along,
            supplies=self._supplies,
            settings=self._settings,
            options=self._run_options(told),
        )
        tell_push(told, "Build Summary", result, kind="remote", more=outcome)
        return result.exit


def _findable(definition: Definition) -> Definition:
    """``definition`` with paths that hold wherever it is built from."""
    archives = (
        replace(archive, path=archive.path.absolute()) if archive.path else archive for archive in definition.archives
    )
    return replace(definition, archives=tuple(archives))


def _beside(path: Path | None) -> Path | None:
    """Where the account of a push goes when ``path`` is that of its build: ``report-push.json``."""
    return path.with_stem(f"{path.stem}-push") if path else None


def build(
    *,
    content: ContentOptions,
    bundle: BundleOptions,
    defining: DefinitionOptions,
    remote: RemoteOptions,
    services: ServiceOptions,
    dry: DryRunOptions,
    login: LoginOptions,
    connection: ConnectionOptions,
    uploading: UploadOptions,
    telling: OutputOptions,
) -> None:
    """Download images and charts into one bundle file.

    If an image fails, the others stay in NAME.tar.zst.partial and the same command goes on with them.
    """
    options = BuildOptions(
        content=content,
        bundle=bundle,
        defining=defining,
        remote=remote,
        services=services,
        dry=dry,
        login=login,
        connection=connection,
        uploading=uploading,
        telling=telling,
    )
    run(Building(options=options).carry_out)
