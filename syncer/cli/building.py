"""A build, step by step: what is wanted, the bundle, its signature, and its push."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TextIO

import typer
from anyio import to_thread

from syncer.api.build import DEFAULT_OUTPUT, build, check_name, named_definition
from syncer.api.contents import Supplies
from syncer.api.lock import lock
from syncer.api.plan import plan_build
from syncer.api.profiles import PaletteConsole, Selection, define
from syncer.api.push import Delivery, push
from syncer.api.remote import build_remote
from syncer.api.result import BuildResult, PushResult
from syncer.api.sync_settings import secrets_of
from syncer.bundle.signature import check_private_key, sign_file
from syncer.cli.build_options import (
    BuildType,
    BundleOptions,
    ContentOptions,
    DefinitionOptions,
    RemoteOptions,
    ServiceOptions,
)
from syncer.cli.directories import cache_directory
from syncer.cli.options import ConnectionOptions, DryRunOptions, LoginOptions, OutputOptions, UploadOptions
from syncer.cli.palette import palette_access
from syncer.cli.reporting import Reporting, delivered, print_json, reporting, tell_plan, tell_push
from syncer.cli.selection import csv, selection_of
from syncer.cli.services import refuse_unpublished
from syncer.cli.wiring import registry_settings, state_directory
from syncer.errors import Exit, InvalidFile, TargetError, UsageError
from syncer.oci import Platform
from syncer.profiles.cred_file import EdgeCredentials, read_cred_file
from syncer.profiles.definition import FILE_NAME, DefinedFile, Definition, Release, read_definition, write_definition
from syncer.profiles.file_artifact import defined_file
from syncer.profiles.gather import Gathered
from syncer.profiles.mapping_file import read_mapping
from syncer.registry import Credential, RegistryAddress, RegistrySettings

_ARCHIVES = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")  # gzip, zstd; a plain tar says so at its byte 257


@dataclass(frozen=True, kw_only=True)
class Building:
    """One build, as it was asked for; what nobody says has the default of the command line."""

    content: ContentOptions
    bundle: BundleOptions
    defining: DefinitionOptions
    remote: RemoteOptions
    services: ServiceOptions
    dry: DryRunOptions
    login: LoginOptions
    connection: ConnectionOptions
    uploading: UploadOptions
    telling: OutputOptions
    file_name: str | None = None  # of the bundle; its name with the form's suffix unless given
    definition_directory: Path | None = None  # of the cluster definition
    api_key: str | None = None
    console_url: str | None = None
    log: TextIO | None = None  # beside what ``telling`` says

    async def carry_out(self) -> Exit:
        """Do it; raises ``UsageError`` for flags that contradict each other, before anything is asked."""
        self._check()
        if self.defining.download_cluster_config_only:
            path = await self._download_definition()
            typer.echo(f"Downloaded cluster config at {path.absolute()}")
            return Exit.OK
        secrets = [*secrets_of(self._settings), *self._palette_secrets()]
        with reporting(self.telling, secrets=secrets, log=self.log) as told:
            definition, outcome = await self._definition(told)
            if self.defining.metadata_only:
                return await self._write_definition(definition, outcome, told)
            if self.dry.dry_run:
                return await self._foresee(definition)
            definition = await self._with_files(definition)
            if self._selection.names_profiles and not definition.entries:
                raise UsageError(
                    "none of the packs lists an image or a chart",
                    hint="--scan takes the images that they name in manifests, values and charts",
                )
            told.expect(len(definition.entries))
            if self.remote.build_type is BuildType.REMOTE:
                return await self._build_remote(definition, outcome, told)
            built = await self._build(definition, told)
            outcome = [*self._saved(built, definition.name), *outcome]
            if not (self.remote.push and built.path):
                told.tell("Build Summary", outcome, built.report, profile=definition.name)
                return built.exit
        return await self._push(built, built.path, outcome, told, name=definition.name)

    def _check(self) -> None:
        refuse_unpublished(self.services, os.environ)
        defining, remote = self.defining, self.remote
        if defining.lock and not defining.metadata_only:
            raise UsageError("--lock records digests in a definition", hint="give it with --metadata-only")
        if defining.custom_ui and defining.download_cluster_config_only:
            raise UsageError("--custom-ui goes into a bundle, and --download-cluster-config-only makes none")
        if remote.registry is None and (remote.push or remote.build_type is BuildType.REMOTE):
            raise UsageError("it is not said where to push to", hint="name it with --registry")
        if remote.registry and not remote.push and remote.build_type is BuildType.LOCAL:
            raise UsageError("--registry is for --push and --build-type remote", hint="add --push")
        if remote.registry is None and (self.login.username or self.login.password_stdin or remote.map):
            raise UsageError("--username, --password-stdin and --map are about the registry that --registry names")
        of_files = self.bundle.private_key or self.bundle.allow_partial or self.dry.dry_run
        if remote.build_type is BuildType.REMOTE and of_files:
            raise UsageError(
                "a remote build makes no file, so there is none to sign, to publish in part, or to foresee",
                hint="foresee it with syncer plan, and --registry",
            )
        if self.bundle.private_key:
            check_private_key(self.bundle.private_key)
        if self.bundle.arch and self.bundle.referrers:
            _note("--arch takes one platform out of each index: signatures of the index itself do not apply to it")
        if self.content.profiles and self.services.include_service_images is None:
            _note("Palette's own service images are not included, since their list is not public")

    @cached_property
    def _address(self) -> RegistryAddress | None:
        return RegistryAddress.parse(self.remote.registry) if self.remote.registry else None

    @cached_property
    def _edge_credentials(self) -> EdgeCredentials:
        path = self.content.cred_file_path
        return read_cred_file(path) if path else EdgeCredentials(images={}, charts={})

    @cached_property
    def _settings(self) -> RegistrySettings:
        settings = registry_settings(self.connection, self.login, self._address, self.uploading)
        given = {
            place: Credential(username=login.username, password=login.password)
            for place, login in self._edge_credentials.images.items()
        }
        credentials = replace(settings.credentials, logins={**given, **settings.credentials.logins})
        return replace(settings, credentials=credentials)

    @cached_property
    def _selection(self) -> Selection:
        return selection_of(self.content)

    @cached_property
    def _platform(self) -> Platform | None:
        return Platform.parse(self.bundle.arch) if self.bundle.arch else None

    @cached_property
    def _console(self) -> PaletteConsole | None:
        """Palette, where it is needed; without it nobody needs to be logged in."""
        if not (self._selection.needs_palette or self.defining.cluster_definition_name):
            return None
        return PaletteConsole(
            palette_access(
                self._settings.transport,
                os.environ,
                api_key=self.api_key,
                console=self.console_url,
                project_id=self.content.project_id,
                passphrase=self.services.encryption_passphrase,
            )
        )

    @cached_property
    def _supplies(self) -> Supplies:
        return Supplies(
            bundles=[Path(path) for path in csv(self.content.existing_bundles)],
            chart_logins=self._edge_credentials.charts,
            chart_cache=cache_directory() / "charts",
            spool=self._output / "spool" if self.bundle.skip_cleanup else None,
        )

    @property
    def _output(self) -> Path:
        return self.bundle.output or DEFAULT_OUTPUT

    def _palette_secrets(self) -> list[str]:
        return [self._console.access.account.api_key] if self._console else []

    async def _definition(self, told: Reporting) -> tuple[Definition, list[str]]:
        """What is wanted, and what the summary must say of it."""
        outcome: list[str] = []
        if self.content.metadata_file:
            definition = read_definition(self.content.metadata_file)
            if definition.missing:
                told.warn(f"{len(definition.missing)} things that the definition calls missing are left out")
        elif self._selection.names_profiles:
            gathered = await define("bundle", self._selection, self._console)
            outcome = list(_unlisted(gathered, told, scan=self.content.scan))
            definition = gathered.definition
        else:
            definition = named_definition("bundle", [reference for reference, _ in self._selection.images])
        release = Release(
            name=self.bundle.application_release_name,
            version=self.bundle.application_release_version,
            notes=self.bundle.application_release_notes,
        )
        name = self.bundle.name or (definition.name if self.content.metadata_file else self._usual_name())
        check_name(name)
        update = {"name": name, "release": definition.release if release == Release() else release}
        return definition.model_copy(update=update), outcome

    def _usual_name(self) -> str:
        """Palette's rule: the project's id follows, where there is a project."""
        project = self._console.access.account.project_uid if self._console else self.content.project_id
        return f"bundle-{project}" if project else "bundle"

    async def _with_files(self, definition: Definition) -> Definition:
        """``definition`` with the cluster definition and the widgets that are to travel along."""
        files: list[DefinedFile] = list(definition.files)
        if self.defining.cluster_definition_name:
            path = await self._download_definition()
            typer.echo(f"Downloaded cluster config at {path.absolute()}", err=True)
            files.append(defined_file(path, "cluster-definitions"))
        if self.defining.custom_ui:
            _require_archive(self.defining.custom_ui)
            files.append(defined_file(self.defining.custom_ui, "custom-ui"))
        return definition.model_copy(update={"files": tuple(files)})

    async def _download_definition(self) -> Path:
        """Save the cluster definition, and its signature where there is a key to sign with."""
        name = self.defining.cluster_definition_name
        if not name:
            raise UsageError("the cluster definition has no name", hint="give one with --cluster-definition-name")
        check_name(name)
        uids = csv(self.defining.cluster_definition_profile_ids) or csv(self.content.profiles)
        if not uids:
            raise UsageError(
                "it is not said which profiles the cluster definition is of",
                hint="name them with --cluster-definition-profile-ids",
            )
        directory = self.definition_directory or self.bundle.output or DEFAULT_OUTPUT.parent
        path = directory / f"{name}.tgz"
        try:
            await to_thread.run_sync(lambda: directory.mkdir(parents=True, exist_ok=True))
        except OSError as error:
            raise TargetError(f"{directory} cannot be made: {error.strerror or error}") from None
        assert self._console is not None
        await self._console.download_definition(name, uids, path)
        if self.bundle.private_key:
            await to_thread.run_sync(sign_file, path, self.bundle.private_key)
        return path

    async def _write_definition(self, definition: Definition, outcome: list[str], told: Reporting) -> Exit:
        if self.defining.lock:
            locked = await lock(
                definition,
                platform=self._platform,
                supplies=self._supplies,
                settings=self._settings,
                workers=self.connection.concurrency,
                emit=told.emit,
            )
            if locked.report.failures:
                nothing = "not everything that the definition names could be found, so nothing was written"
                told.tell("Lock Summary", [nothing], locked.report, profile=definition.name)
                return locked.report.exit
            definition = locked.definition
        path = self._output / FILE_NAME
        definition = _findable(definition)
        write_definition(definition, path, force=self.bundle.force)
        if self.telling.json:
            print_json(definition.tree())
        else:
            written = f"Writing flattened bundle definition file at path {path.absolute()}"
            typer.echo("\n".join([written, *outcome]))
        return Exit.OK

    async def _foresee(self, definition: Definition) -> Exit:
        forecast = await plan_build(
            definition,
            platform=self._platform,
            format=self.bundle.format.value,
            compression_level=self.bundle.compression_level,
            referrers=self.bundle.referrers,
            supplies=self._supplies,
            settings=self._settings,
            workers=self.connection.concurrency,
        )
        return tell_plan(forecast, self.telling, exit_code=self.dry.exit_code)

    async def _build(self, definition: Definition, told: Reporting) -> BuildResult:
        result = await build(
            definition,
            name=definition.name,
            output=self._output,
            file_name=self.file_name,
            platform=self._platform,
            format=self.bundle.format.value,
            compression_level=self.bundle.compression_level,
            force=self.bundle.force,
            allow_partial=self.bundle.allow_partial,
            resume=self.bundle.resume,
            referrers=self.bundle.referrers,
            supplies=self._supplies,
            settings=self._settings,
            workers=self.connection.concurrency,
            run_id=told.run_id,
            emit=told.emit,
        )
        if result.path and self.bundle.private_key:
            await to_thread.run_sync(sign_file, result.path, self.bundle.private_key)
        return result

    def _saved(self, built: BuildResult, name: str) -> Iterator[str]:
        if built.path is None:
            yield f"bundle {name} is not complete and was not published; run the same command again to go on"
            return
        yield f"bundle {name} saved to {built.path.absolute()}"
        if self.bundle.private_key:
            yield f"signature saved to {built.path.absolute()}.sig.bin"

    async def _push(self, built: BuildResult, path: Path, outcome: list[str], told: Reporting, *, name: str) -> Exit:
        """Push what was built; both accounts are told, and written to files of their own."""
        assert self._address is not None
        if not self.telling.json:
            told.tell("Build Summary", outcome, built.report, profile=name)
        telling = replace(
            self.telling,
            report=_beside(self.telling.report),
            metrics_file=_beside(self.telling.metrics_file),
        )
        with reporting(telling, secrets=secrets_of(self._settings)) as telling_push:
            pushed = await push(
                path,
                self._address,
                mapping=read_mapping(self.remote.map or []),
                settings=self._settings,
                state=state_directory(self.uploading.state_dir),
                workers=self.connection.concurrency,
                run_id=telling_push.run_id,
                emit=telling_push.emit,
            )
        if self.telling.json:
            print_json({"build": built.report.to_json(), "push": pushed.report.to_json()})
            told.write(built.report, profile=name)
            telling_push.write(pushed.report, profile=name)
            if pushed.problem:
                told.warn(delivered(pushed)[-1])
        else:
            tell_push(telling_push, "Push Summary", pushed)
        return built.exit or pushed.exit

    async def _build_remote(self, definition: Definition, outcome: list[str], told: Reporting) -> Exit:
        assert self._address is not None
        delivery = Delivery(
            address=self._address,
            mapping=read_mapping(self.remote.map or []),
            platform=self._platform,
            state=state_directory(self.uploading.state_dir),
            workers=self.connection.concurrency,
            run_id=told.run_id,
            emit=told.emit,
        )
        result: PushResult = await build_remote(
            definition,
            delivery,
            referrers=self.bundle.referrers,
            supplies=self._supplies,
            settings=self._settings,
        )
        tell_push(told, "Build Summary", result, kind="remote", more=outcome)
        return result.exit


def _findable(definition: Definition) -> Definition:
    """``definition`` with paths that hold wherever it is built from."""
    archives = (
        archive.model_copy(update={"path": archive.path.absolute()}) if archive.path else archive
        for archive in definition.archives
    )
    return definition.model_copy(update={"archives": tuple(archives)})


def _unlisted(gathered: Gathered, told: Reporting, *, scan: bool) -> Iterator[str]:
    """Warn of what was odd, and of images that packs name and do not list; what the summary must repeat."""
    for warning in gathered.warnings:
        told.warn(warning)
    silent = [unlisted for unlisted in gathered.unlisted if unlisted.lists_nothing]
    for unlisted in gathered.unlisted:
        if scan or not unlisted.lists_nothing:
            done = "which --scan has added" if scan else "which are NOT in the bundle; --scan adds them"
            told.warn(f"pack {unlisted.pack} names {len(unlisted.images)} images that it does not list, {done}")
        else:
            told.warn(f"{unlisted}; they are NOT in the bundle, and --scan adds them")
    if silent and not scan:
        count = len({image.reference for unlisted in silent for image in unlisted.images})
        packs = ", ".join(unlisted.pack for unlisted in silent)
        yield f"NOT INCLUDED: {count} images that are named in {packs}, which list none; --scan adds them"


def _require_archive(path: Path) -> None:
    """Raise ``InvalidFile`` unless the file at ``path`` is a tar, plain or compressed."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise InvalidFile(path, f"it cannot be read: {error.strerror or error}") from None
    if not start.startswith(_ARCHIVES) and start[257:262] != b"ustar":
        raise InvalidFile(path, "it is no widget archive", hint="make a .tar, .tar.gz or .tar.zst of the widgets")


def _beside(path: Path | None) -> Path | None:
    """Where the account of a push goes when ``path`` is that of its build: ``report-push.json``."""
    return path.with_stem(f"{path.stem}-push") if path else None


def _note(text: str) -> None:
    typer.echo(f"note: {text}", err=True)
