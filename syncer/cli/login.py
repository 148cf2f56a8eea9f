"""``syncer login`` and ``registry-login``: keys and passwords are checked before they are kept."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from syncer.cli.options import ConnectionOptions
from syncer.cli.run import run
from syncer.errors import Exit, UsageError

_FIRST_CONSOLE = "https://console.spectrocloud.com"


def login(
    *,
    api_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="The API key. Without it $SYNCER_API_KEY is taken, or the terminal is asked."),
    ] = None,
    console_url: Annotated[
        str | None, typer.Option(metavar="URL", help="The console, or the API's host. Or $SYNCER_CONSOLE_URL.")
    ] = None,
    org: Annotated[str, typer.Option(help="The organisation; only kept for show, since the key implies it.")] = "",
    project: Annotated[str, typer.Option(metavar="NAME", help="Work within this project: its name or id.")] = "",
    insecure: Annotated[
        bool, typer.Option("-i", "--insecure", help="Do not verify the console's certificate.")
    ] = False,
    ca_cert: Annotated[Path | None, typer.Option(help="Certificates (PEM) to trust beside the system's.")] = None,
    encryption_passphrase: Annotated[
        str | None,
        typer.Option(
            "-k",
            "--encryption-passphrase",
            metavar="WORD",
            help="Keep the key sealed under this passphrase. Or $PALETTE_ENCRYPTION_PASSWORD.",
        ),
    ] = None,
) -> None:
    """Check an API key of Palette and keep it for builds."""
    from syncer.api.login import PaletteAccess, check_palette_login  # noqa: PLC0415  imported where used
    from syncer.cli.directories import config_directory  # noqa: PLC0415
    from syncer.cli.palette import with_console  # noqa: PLC0415
    from syncer.cli.wiring import registry_settings  # noqa: PLC0415
    from syncer.profiles import palette_http  # noqa: PLC0415
    from syncer.profiles.palette_login import PaletteLogin, save_login  # noqa: PLC0415

    url = palette_http.console_url(_console(console_url, os.environ))
    account = palette_http.PaletteAccount(url=url, api_key=_key(api_key, os.environ))
    transport = registry_settings(ConnectionOptions(ca_cert=ca_cert)).transport
    access = PaletteAccess(
        account=account, transport=with_console(transport, account, insecure=insecure, ca_cert=ca_cert)
    )

    async def job() -> Exit:
        wanted = project or os.environ.get("SYNCER_PROJECT_ID", "")
        checked, project_name = await check_palette_login(access, wanted)
        path = save_login(
            PaletteLogin(account=checked, project=project_name, organisation=org, insecure=insecure, ca_cert=ca_cert),
            config_directory(),
            encryption_passphrase or os.environ.get("PALETTE_ENCRYPTION_PASSWORD"),
        )
        within = f"project {project_name}" if project_name else "no project"
        typer.echo(f"logged in to {checked.url} with {within}; the key is kept in {path}", err=True)
        return Exit.OK

    run(job, farewell=None)


def logout() -> None:
    """Forget the API key."""
    from syncer.cli.directories import config_directory  # noqa: PLC0415
    from syncer.profiles.palette_login import forget_login  # noqa: PLC0415

    typer.echo("logged out" if forget_login(config_directory()) else "there was no login", err=True)


def _console(given: str | None, environ: Mapping[str, str]) -> str:
    if url := given or environ.get("SYNCER_CONSOLE_URL"):
        return url
    _require_terminal("the console's URL", "--console-url")
    return str(typer.prompt("Console URL", default=_FIRST_CONSOLE, err=True))


def _key(given: str | None, environ: Mapping[str, str]) -> str:
    if key := given or environ.get("SYNCER_API_KEY"):
        return key
    _require_terminal("the API key", "--api-key or $SYNCER_API_KEY")
    return str(typer.prompt("API key", hide_input=True, err=True)).strip()


def _require_terminal(what: str, option: str) -> None:
    """Raise ``UsageError`` where there is nobody to ask."""
    if not sys.stdin.isatty():
        raise UsageError(f"{what} is missing, and there is no terminal to ask for it", hint=f"give it with {option}")
