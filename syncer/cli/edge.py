"""``syncer edge``: the commands of ``palette-edge`` that can be had, and why the others cannot."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import click

from syncer.api.push import Delivery, push_file
from syncer.cli.build import Building
from syncer.cli.command import flag, option
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
from syncer.errors import Exit, TargetError, UsageError
from syncer.registry import Credential, RegistryAddress

_ENDPOINT = "api.spectrocloud.com"
_FIRST_NAME = "spectro-content"  # what CanvOS looks for, after "core-"


@dataclass(frozen=True, slots=True)
class Logging:
    """What is said before the command: ``syncer edge --debug build``."""

    is_loud: bool
    file: Path | None

    @classmethod
    def current(cls) -> Logging:
        """What was said before the command that runs now."""
        return click.get_current_context().find_object(cls) or cls(is_loud=False, file=None)

    def telling(self, options: OutputOptions) -> OutputOptions:
        loud = self.is_loud and options.log_format is None
        return replace(options, log_format=LogForm.TEXT) if loud else options

    @contextmanager
    def opened(self) -> Iterator[TextIO | None]:
        """The file to log to; raises ``TargetError``."""
        if self.file is None:
            yield None
            return
        try:
            file = self.file.open("a", encoding="utf-8")
        except OSError as error:
            raise TargetError(f"{self.file} cannot be written: {error.strerror or error}") from None
        with file:
            yield file


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpublishedOptions:
    """Flags of ``palette-edge`` for what is not public."""

    include_core_images_only: bool = flag("Refused: which images are core is not public.")
    iso: bool = flag("Refused: the layout of that ISO is not public.")
    include_palette_content: bool = flag("Refused: what that is, is not public.")
    export_for_connected: bool = flag("Refused: what it changes is not public.")

    def refuse(self) -> None:
        """Raise ``UsageError`` for each that is given."""
        reasons = {
            "--include-core-images-only": (self.include_core_images_only, "which images are Palette's core images"),
            "--iso": (self.iso, "the layout of an ISO that an installer takes content from"),
            "--include-palette-content": (self.include_palette_content, "what counts as Palette's own content"),
            "--export-for-connected": (self.export_for_connected, "what it changes in a bundle"),
        }
        for name, (is_given, what) in reasons.items():
            if is_given:
                raise UsageError(f"{name} cannot be done: {what} is not public")


def edge(
    *,
    config: Path | None = option("Refused: the form of that file is not public."),
    debug: bool = flag("Log each event on stderr."),
    trace: bool = flag("Likewise."),
    logfile: Path | None = option("Append the log to this file.", metavar="FILE"),
) -> None:
    """The commands of Palette's Edge CLI."""
    if config is not None:
        raise UsageError(
            "--config cannot be read: the form of palette-edge's file is not public",
            hint="give flags, or SYNCER_API_KEY, SYNCER_CONSOLE_URL and SYNCER_PROJECT_ID",
        )
    click.get_current_context().obj = Logging(is_loud=debug or trace, file=logfile)


def build(
    *,
    api_key: str | None = option("Default: $SYNCER_API_KEY, or the login.", metavar="KEY"),
    palette_endpoint: str | None = option(f"With --api-key it is {_ENDPOINT}; else that of the login.", metavar="HOST"),
    project_id: str | None = option("The project of the profiles.", metavar="ID"),
    cluster_profile_ids: str | None = option("What the bundle is to hold.", metavar="ID,ID"),
    outfile: str = option("The bundle's name.", default=_FIRST_NAME, metavar="NAME"),
    cred_file_path: Path | None = option("Credentials of registries (JSON).", metavar="FILE"),
    private_key: Path | None = option("Sign the bundle with this RSA key.", metavar="FILE"),
    cluster_definition_name: str | None = option(
        "Download this cluster definition too, into NAME.tgz.", metavar="NAME"
    ),
    cluster_definition_profile_ids: str | None = option("The profiles of the cluster definition.", metavar="ID,ID"),
    unpublished: UnpublishedOptions,
    connection: ConnectionOptions,
    telling: OutputOptions,
) -> None:
    """Download the content of cluster profiles into content-XXXXXXXX/core-NAME-XXXXXXXX.zst."""
    unpublished.refuse()
    if not cluster_profile_ids:
        raise UsageError("it is not said what to build", hint="name profiles with --cluster-profile-ids")
    directory, file_name = _places(outfile, palette_endpoint, project_id, cluster_profile_ids)
    logging = Logging.current()
    is_saas = api_key and not palette_endpoint and not os.environ.get("SYNCER_CONSOLE_URL")

    options = BuildOptions(
        content=ContentOptions(profiles=cluster_profile_ids, project_id=project_id, cred_file_path=cred_file_path),
        bundle=BundleOptions(name=outfile, output=directory, private_key=private_key, force=True),
        connection=connection,
        telling=logging.telling(telling),
        defining=DefinitionOptions(
            cluster_definition_name=cluster_definition_name,
            cluster_definition_profile_ids=cluster_definition_profile_ids,
        ),
    )

    async def job() -> Exit:
        with logging.opened() as log:
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
    *,
    export: Path = option("The bundle.", required=True, metavar="BUNDLE"),
    url: str = option("The registry.", required=True, metavar="HOST[:PORT][/BASE]"),
    username: str | None = option("The user of the registry.", "-u"),
    password: str | None = option("Anybody on this machine can see it: use --password-stdin."),
    password_stdin: bool = flag("Read the password from stdin."),
    connection: ConnectionOptions,
    uploading: UploadOptions,
    telling: OutputOptions,
) -> None:
    """Push a bundle into a registry."""
    if username is None and (password is not None or password_stdin):
        raise UsageError("a password is given, and no user", hint="name the user with --username")
    logging = Logging.current()
    address = RegistryAddress.parse(url)
    settings = registry_settings(connection, uploading=uploading)
    if username is not None:
        login = Credential(username=username, password=password_of(password, is_piped=password_stdin))
        settings = replace(settings, credentials=replace(settings.credentials, logins={address.host: login}))

    async def job() -> Exit:
        with logging.opened() as log, reporting(logging.telling(telling), log=log) as told:
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
