"""``syncer edge``: the commands of ``palette-edge`` that can be had, and why the others cannot."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, TextIO

import typer

from syncer.api.push import Delivery, push_file
from syncer.cli.build import Building
from syncer.cli.job import run
from syncer.cli.login import password_of
from syncer.cli.options import (
    BuildOptions,
    BundleOptions,
    ConnectionOptions,
    ContentOptions,
    DefinitionOptions,
    LogForm,
    OutputOptions,
    UploadOptions,
)
from syncer.cli.output import reporting, tell_push
from syncer.cli.settings import registry_settings, state_directory
from syncer.errors import Exit, UsageError
from syncer.files import saving
from syncer.registry import Credential, RegistryAddress

_ENDPOINT = "api.spectrocloud.com"
_FIRST_NAME = "spectro-content"  # what CanvOS looks for, after "core-"


@dataclass(frozen=True, slots=True)
class Logging:
    """What is said before the command: ``syncer edge --debug build``."""

    is_loud: bool
    file: Path | None

    def telling(self, options: OutputOptions) -> OutputOptions:
        loud = self.is_loud and options.log_format is None
        return replace(options, log_format=LogForm.TEXT) if loud else options

    @contextmanager
    def opened(self) -> Iterator[TextIO | None]:
        """The file to log to; raises ``TargetError``."""
        if self.file is None:
            yield None
            return
        with saving(self.file):
            file = self.file.open("a", encoding="utf-8")
        with file:
            yield file


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpublishedOptions:
    """Flags of ``palette-edge`` for what is not public."""

    include_core_images_only: Annotated[
        bool, typer.Option("--include-core-images-only", help="Refused: which images are core is not public.")
    ] = False
    iso: Annotated[bool, typer.Option("--iso", help="Refused: the layout of that ISO is not public.")] = False
    include_palette_content: Annotated[
        bool, typer.Option("--include-palette-content", help="Refused: what that is, is not public.")
    ] = False
    export_for_connected: Annotated[
        bool, typer.Option("--export-for-connected", help="Refused: what it changes is not public.")
    ] = False

    def refuse(self) -> None:
        """Raise ``UsageError`` for each that is given."""
        reasons = {
            "--include-core-images-only": (self.include_core_images_only, "which images are Palette's core images"),
            "--iso": (self.iso, "the layout of an ISO that an installer takes content from"),
            "--include-palette-content": (self.include_palette_content, "what counts as Palette's own content"),
            "--export-for-connected": (self.export_for_connected, "what it changes in a bundle"),
        }
        for flag, (is_given, what) in reasons.items():
            if is_given:
                raise UsageError(f"{flag} cannot be done: {what} is not public")


def edge(
    context: typer.Context,
    *,
    config: Annotated[Path | None, typer.Option(help="Refused: the form of that file is not public.")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Log each event on stderr.")] = False,
    trace: Annotated[bool, typer.Option("--trace", help="Likewise.")] = False,
    logfile: Annotated[Path | None, typer.Option(metavar="FILE", help="Append the log to this file.")] = None,
) -> None:
    """The commands of Palette's Edge CLI."""
    if config is not None:
        raise UsageError(
            "--config cannot be read: the form of palette-edge's file is not public",
            hint="give flags, or SYNCER_API_KEY, SYNCER_CONSOLE_URL and SYNCER_PROJECT_ID",
        )
    context.obj = Logging(debug or trace, logfile)


def build(
    context: typer.Context,
    *,
    api_key: Annotated[str | None, typer.Option(metavar="KEY", help="Default: $SYNCER_API_KEY, or the login.")] = None,
    palette_endpoint: Annotated[
        str | None, typer.Option(metavar="HOST", help=f"With --api-key it is {_ENDPOINT}; else that of the login.")
    ] = None,
    project_id: Annotated[str | None, typer.Option(metavar="ID", help="The project of the profiles.")] = None,
    cluster_profile_ids: Annotated[
        str | None, typer.Option(metavar="ID,ID", help="What the bundle is to hold.")
    ] = None,
    outfile: Annotated[str, typer.Option(metavar="NAME", help="The bundle's name.")] = _FIRST_NAME,
    cred_file_path: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Credentials of registries (JSON).")
    ] = None,
    private_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Sign the bundle with this RSA key.")] = None,
    cluster_definition_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Download this cluster definition too, into NAME.tgz.")
    ] = None,
    cluster_definition_profile_ids: Annotated[
        str | None, typer.Option(metavar="ID,ID", help="The profiles of the cluster definition.")
    ] = None,
    unpublished: UnpublishedOptions,
    connection: ConnectionOptions,
    telling: OutputOptions,
) -> None:
    """Download the content of cluster profiles into content-XXXXXXXX/core-NAME-XXXXXXXX.zst."""
    unpublished.refuse()
    if not cluster_profile_ids:
        raise UsageError("it is not said what to build", hint="name profiles with --cluster-profile-ids")
    directory, file_name = _places(outfile, palette_endpoint, project_id, cluster_profile_ids)
    is_saas = api_key and not palette_endpoint and not os.environ.get("SYNCER_CONSOLE_URL")

    options = BuildOptions(
        content=ContentOptions(profiles=cluster_profile_ids, project_id=project_id, cred_file_path=cred_file_path),
        bundle=BundleOptions(name=outfile, output=directory, private_key=private_key, force=True),
        connection=connection,
        telling=context.obj.telling(telling),
        defining=DefinitionOptions(
            cluster_definition_name=cluster_definition_name,
            cluster_definition_profile_ids=cluster_definition_profile_ids,
        ),
    )

    async def job() -> Exit:
        with context.obj.opened() as log:
            building = Building(
                options=options,
                file_name=file_name,
                definition_directory=Path(),
                api_key=api_key,
                console_url=_ENDPOINT if is_saas else palette_endpoint,
                log=log,
            )
            return await building.carry_out()

    run(job)


def deploy(
    context: typer.Context,
    *,
    export: Annotated[Path, typer.Option(metavar="BUNDLE", help="The bundle.")],
    url: Annotated[str, typer.Option(metavar="HOST[:PORT][/BASE]", help="The registry.")],
    username: Annotated[str | None, typer.Option("-u", "--username", help="The user of the registry.")] = None,
    password: Annotated[
        str | None, typer.Option(help="Anybody on this machine can see it: use --password-stdin.")
    ] = None,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin.")] = False,
    connection: ConnectionOptions,
    uploading: UploadOptions,
    telling: OutputOptions,
) -> None:
    """Push a bundle into a registry."""
    if username is None and (password is not None or password_stdin):
        raise UsageError("a password is given, and no user", hint="name the user with --username")
    address = RegistryAddress.parse(url)
    settings = registry_settings(connection, uploading=uploading)
    if username is not None:
        login = Credential(username=username, password=password_of(password, is_piped=password_stdin))
        settings = replace(settings, credentials=replace(settings.credentials, logins={address.host: login}))

    async def job() -> Exit:
        with context.obj.opened() as log, reporting(context.obj.telling(telling), log=log) as told:
            result = await push_file(
                export,
                Delivery(address=address, state=state_directory(uploading.state_dir)),
                settings=settings,
                options=told.run_options(connection.concurrency),
            )
            tell_push(told, "Deploy Summary", result)
        return result.exit

    run(job)


def show() -> None:
    """Refused: the lists of operating systems and Kubernetes versions are not public."""
    raise UsageError("edge show cannot be done: where palette-edge has its lists of versions from is not public")


def build_from_local() -> None:
    """Refused: its flags are not public."""
    raise UsageError(
        "edge build-from-local cannot be done: what palette-edge takes for it is not public",
        hint="syncer build takes local packs with --packs, profiles with --profile-file, lists with --images-file",
    )


def upload() -> None:
    """Refused: how an edge host takes bundles in is not public."""
    raise UsageError(
        "uploading to an edge host cannot be done: the protocol of its port 5082 is not public",
        hint="push to a registry that the host can reach, or hand the file to the host's Local UI",
    )


def _places(name: str, *said: str | None) -> tuple[Path, str]:
    """Directory and file as palette-edge calls them; what is random there follows here from what is asked for.

    So the same command finds what an interrupted one has left.
    """
    digits = hashlib.sha256("\n".join([name, *(word or "" for word in said)]).encode()).hexdigest()
    return Path(f"content-{digits[:8]}"), f"core-{name}-{digits[8:16]}.zst"
