"""``syncer edge``: the commands of ``palette-edge``, and the reasons why some of them are refused."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import click
from msgspec import Struct, structs

from syncer.api.bundles import bundle_name
from syncer.api.push import Delivery, push_file
from syncer.cli.build import run_build
from syncer.cli.build_options import (
    BuildOptions,
    BuiltBundleOptions,
    ClusterDefinitionOptions,
    ContentOptions,
    SigningOptions,
)
from syncer.cli.command import flag, option, option_group
from syncer.cli.job import run
from syncer.cli.login import read_password
from syncer.cli.options import (
    ConnectionOptions,
    LogForm,
    LoginOptions,
    OutputOptions,
    UploadOptions,
    cred_file_option,
    password_option,
    project_id_option,
    split_words,
)
from syncer.cli.output import open_reporter, summarize_push
from syncer.cli.parser import Heading
from syncer.cli.settings import registry_settings, state_directory
from syncer.errors import Exit, UsageError
from syncer.files import saving
from syncer.registry import Credential, RegistryAddress

_ENDPOINT = "api.spectrocloud.com"
_FIRST_NAME = "spectro-content"  # what CanvOS looks for, after "core-"


class Logging(Struct, frozen=True):
    """The logs that are asked for before the command: ``syncer edge --debug build``."""

    is_loud: bool
    file: Path | None

    @classmethod
    def current(cls) -> Logging:
        """The logs of the current command line."""
        return click.get_current_context().find_object(cls) or cls(is_loud=False, file=None)

    def change(self, options: OutputOptions) -> OutputOptions:
        """``options`` with a log on stderr, where one is asked for."""
        is_wanted = self.is_loud and options.log_format is None
        return replace(options, log_format=LogForm.TEXT) if is_wanted else options

    @contextmanager
    def open(self) -> Iterator[TextIO | None]:
        """Open the file to log to; raises ``TargetError``."""
        if self.file is None:
            yield None
            return
        with saving(self.file):
            file = self.file.open("a", encoding="utf-8")
        with file:
            yield file


@option_group
class UnpublishedOptions:
    """Flags of ``palette-edge`` for what is not public."""

    include_core_images_only: bool = flag("Refused: the list of core images is not public.", hidden=True)
    iso: bool = flag("Refused: the layout of that ISO is not public.", hidden=True)
    include_palette_content: bool = flag("Refused: the list of Palette's own content is not public.", hidden=True)
    export_for_connected: bool = flag("Refused: its effect is not public.", hidden=True)

    def refuse(self) -> None:
        """Raise ``UsageError`` for each that is given."""
        reasons = {
            "--include-core-images-only": (self.include_core_images_only, "the list of Palette's core images"),
            "--iso": (self.iso, "the layout of that ISO"),
            "--include-palette-content": (self.include_palette_content, "the list of Palette's own content"),
            "--export-for-connected": (self.export_for_connected, "its effect on a bundle"),
        }
        for name, (is_given, what) in reasons.items():
            if is_given:
                raise UsageError(f"{name} cannot be done: {what} is not public")


def edge(
    *,
    config: Path | None = option("Refused: the format of that file is not public.", hidden=True),
    debug: bool = flag("Log each event on stderr.", fixed=True),
    trace: bool = flag("The same as --debug.", fixed=True),
    logfile: Path | None = option("Append the log to this file.", metavar="FILE", fixed=True),
) -> None:
    """The commands of Palette's Edge CLI.

    Examples:
        syncer edge build --cluster-profile-ids ID,ID --outfile edge
        syncer edge deploy --export core-edge-1a2b3c4d.zst --url 10.10.254.254:8000

    More: docs/palette.md
    """
    if config is not None:
        raise UsageError(
            "--config cannot be read: the format of palette-edge's file is not public",
            hint="give flags, or SYNCER_API_KEY, SYNCER_CONSOLE_URL and SYNCER_PROJECT_ID",
        )
    click.get_current_context().obj = Logging(is_loud=debug or trace, file=logfile)


def build(
    *,
    api_key: str | None = option(
        "The API key. Default: $SYNCER_API_KEY, then that of syncer login.", metavar="KEY", heading=Heading.PALETTE
    ),
    palette_endpoint: str | None = option(
        f"The console. Default: {_ENDPOINT} with --api-key, else that of the login.",
        metavar="HOST",
        heading=Heading.PALETTE,
    ),
    project_id: str | None = project_id_option(),
    cluster_profile_ids: tuple[str, ...] = option(
        "The profiles whose content the bundle holds.", default=(), metavar="ID,ID", parse=split_words
    ),
    outfile: str = option(
        "The bundle's name.", default=_FIRST_NAME, metavar="NAME", heading=Heading.OUTPUT, fixed=True
    ),
    cred_file_path: Path | None = cred_file_option(),
    signing: SigningOptions,
    cluster: ClusterDefinitionOptions,
    unpublished: UnpublishedOptions,
    connection: ConnectionOptions,
    output: OutputOptions,
) -> None:
    """Download the content of cluster profiles into one bundle file.

    The file is content-XXXXXXXX/core-NAME-XXXXXXXX.zst.

    Examples:
        syncer edge build --cluster-profile-ids ID,ID --outfile edge
        syncer edge build --cluster-profile-ids ID --project-id ID --api-key KEY

    More: docs/palette.md
    """
    unpublished.refuse()
    if not cluster_profile_ids:
        raise UsageError("edge build needs profiles", hint="name profiles with --cluster-profile-ids")
    directory, file_name = _places(outfile, palette_endpoint, project_id, cluster_profile_ids)
    logging = Logging.current()
    is_saas = api_key and not palette_endpoint and not os.environ.get("SYNCER_CONSOLE_URL")
    options = BuildOptions(
        content=ContentOptions(profiles=cluster_profile_ids, project_id=project_id, cred_file_path=cred_file_path),
        bundle=BuiltBundleOptions(name=outfile, output=directory, force=True),
        signing=signing,
        cluster=cluster,
        connection=connection,
        output=logging.change(output),
        file_name=file_name,
        cluster_directory=Path(),
        api_key=api_key,
        console_url=_ENDPOINT if is_saas else palette_endpoint,
    )

    async def job() -> Exit:
        with logging.open() as log:
            return await run_build(replace(options, log=log))

    run(job)


def deploy(
    *,
    export: Path = option("The bundle.", required=True, metavar="BUNDLE", fixed=True),
    url: RegistryAddress = option(
        "The registry.", required=True, metavar="HOST[/BASE]", parse=RegistryAddress.parse, fixed=True
    ),
    password: str | None = password_option(),
    login: LoginOptions,
    connection: ConnectionOptions,
    upload: UploadOptions,
    output: OutputOptions,
) -> None:
    """Push a bundle into a registry.

    Examples:
        syncer edge deploy --export core-edge-1a2b3c4d.zst --url 10.10.254.254:8000
        syncer edge deploy --export a.tar.zst --url 10.0.0.1 -u me --password-stdin

    More: docs/palette.md
    """
    if login.username is None and (password is not None or login.password_stdin):
        raise UsageError("a password is given, and no user", hint="name the user with --username")
    settings = registry_settings(connection, upload=upload, everyone=[url])
    if login.username is not None:
        given = Credential(username=login.username, password=read_password(password, is_piped=login.password_stdin))
        settings = structs.replace(
            settings, credentials=structs.replace(settings.credentials, logins={url.host: given})
        )
    logging = Logging.current()

    async def job() -> Exit:
        with (
            logging.open() as log,
            open_reporter(logging.change(output), name=bundle_name(export), targets=[url], log=log) as reporter,
        ):
            result = await push_file(
                export,
                Delivery(address=url, state=state_directory(upload.state_dir)),
                settings=settings,
                options=reporter.run_options(connection.workers),
            )
            summarize_push(reporter, "Deploy Summary", result)
        return result.exit

    run(job)


def show() -> None:
    """Refused: the lists of operating systems and Kubernetes versions are not public."""
    raise UsageError("edge show cannot be done: palette-edge's version lists are not public")


def build_from_local() -> None:
    """Refused: its flags are not public."""
    raise UsageError(
        "edge build-from-local cannot be done: its input is not public",
        hint="syncer build takes local packs with --packs, profiles with --profile-file, lists with --images-file",
    )


def upload() -> None:
    """Refused: the upload protocol of edge hosts is not public."""
    raise UsageError(
        "uploading to an edge host cannot be done: the protocol of its port 5082 is not public",
        hint="push to a registry that the host can reach, or hand the file to the host's Local UI",
    )


def _places(name: str, endpoint: str | None, project: str | None, profiles: Sequence[str]) -> tuple[Path, str]:
    """Directory and file with names as palette-edge makes them; its random digits follow here from the options.

    So the same command finds what an interrupted one has left.
    """
    asked = "\n".join([name, endpoint or "", project or "", ",".join(profiles)])
    digits = hashlib.sha256(asked.encode()).hexdigest()
    return Path(f"content-{digits[:8]}"), f"core-{name}-{digits[8:16]}.zst"
