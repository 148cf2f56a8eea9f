"""Commands that get to know one registry, or Palette: ``login`` and its kin, ``doctor``, and ``tune``.

Keys and passwords are checked before they are kept.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from msgspec import Struct, structs

from syncer.api.doctor import Diagnosis, diagnose, lines_of
from syncer.api.palette import PaletteAccess, check_palette_login
from syncer.api.trials import Mix, Tuning, Way
from syncer.api.trials import lines_of as lines_of_trials
from syncer.api.tune import Limits, Told
from syncer.api.tune import tune as try_settings
from syncer.cli.command import argument, flag, option, takes
from syncer.cli.job import LONGER_TO_STOP, code_of_signal, run
from syncer.cli.options import (
    ConnectionOptions,
    LoginOptions,
    PaletteOptions,
    TrustOptions,
    is_stdout,
    json_flag,
    password_option,
    registry_option,
)
from syncer.cli.output import note, print_json, warn
from syncer.cli.palette import with_console
from syncer.cli.parser import Heading, Word
from syncer.cli.settings import config_directory, login_store, registry_settings
from syncer.errors import Exit, SyncerError, UsageError, without_secrets
from syncer.formats.units import byte_count, parse_duration
from syncer.profiles.palette import key as palette_key
from syncer.profiles.palette.key import PaletteLogin, forget_login, save_login
from syncer.registry import Credential, RegistryAddress, check_login, open_registries
from syncer.registry.registries import is_loopback
from syncer.report import human_bytes, human_seconds, printable
from syncer.report.summary import require_writable, write_report
from syncer.transport.guard import authority

_NEWS = 30.0  # seconds between two lines of progress where nobody watches
_FIRST_CONSOLE = "https://console.spectrocloud.com"


def login(
    *,
    host: RegistryAddress | None = argument(
        "The registry; without it the login is for Palette.",
        metavar="[HOST]",
        required=False,
        parse=RegistryAddress.parse,
    ),
    api_key: str | None = option(
        "The API key. Default: $SYNCER_API_KEY, then the terminal is asked.", metavar="KEY", heading=Heading.PALETTE
    ),
    console_url: str | None = option(
        "The console. Default: $SYNCER_CONSOLE_URL, then the terminal is asked.",
        metavar="URL",
        heading=Heading.PALETTE,
        read_elsewhere=True,
    ),
    org: str = option("The organisation, kept for show only.", default="", metavar="NAME", heading=Heading.PALETTE),
    project: str = option("Work in this project: its name or id.", default="", metavar="NAME", heading=Heading.PALETTE),
    encryption_passphrase: str | None = option(
        "Keep the key encrypted. Default: $PALETTE_ENCRYPTION_PASSWORD.",
        "-k",
        metavar="WORD",
        heading=Heading.PALETTE,
    ),
    login: LoginOptions,
    connection: ConnectionOptions,
) -> None:
    """Log in to a registry, or to Palette.

    A login is checked before it is kept: by Docker's credential helper where the user has one, else in a file that only
    the user can read.

    Examples:
        syncer login harbor.example.com
        echo "$PASSWORD" | syncer login harbor.example.com -u robot --password-stdin
        syncer login --console-url https://console.spectrocloud.com --project Default

    More: docs/palette.md
    """
    _refuse_others(host is not None)
    if host is not None:
        _log_in(host, None, login, connection)
    else:
        _log_in_to_palette(
            api_key, console_url, organisation=org, project=project, passphrase=encryption_passphrase, trust=connection
        )


_OF_PALETTE = ("api_key", "console_url", "org", "project", "encryption_passphrase")


def _refuse_others(is_registry: bool) -> None:
    """Raise ``UsageError`` for options of the one login that are given with the other."""
    context = click.get_current_context()
    for param in context.command.params:
        if context.get_parameter_source(param.name) is not ParameterSource.COMMANDLINE or param.name == "host":
            continue
        if is_registry and param.name in _OF_PALETTE:
            raise UsageError(f"{param.opts[-1]} is for a login to Palette", hint="leave HOST out, or the option")
        if not is_registry and param.name not in (*_OF_PALETTE, "insecure", "ca_cert"):
            raise UsageError(f"{param.opts[-1]} is for a registry", hint="name it: syncer login HOST")


def _log_in_to_palette(
    api_key: str | None,
    console: str | None,
    *,
    organisation: str,
    project: str,
    passphrase: str | None,
    trust: TrustOptions,
) -> None:
    url = palette_key.console_url(_console(console, os.environ))
    account = palette_key.PaletteAccount(url=url, api_key=_key(api_key, os.environ))
    if url.scheme == "http" and not is_loopback(authority(url)):
        click.echo(f"warning: {url} is not encrypted, so others on the way can read the key", err=True)
    certificates: dict[str, Any] = {"insecure": trust.insecure, "ca_cert": trust.ca_cert}
    transport = registry_settings(ConnectionOptions(ca_cert=trust.ca_cert)).transport
    access = PaletteAccess(account=account, transport=with_console(transport, account, **certificates))

    async def job() -> Exit:
        wanted = project or os.environ.get("SYNCER_PROJECT_ID", "")
        checked, project_name = await check_palette_login(access, wanted)
        path = save_login(
            PaletteLogin(account=checked, project=project_name, organisation=organisation, **certificates),
            config_directory(),
            passphrase or os.environ.get("PALETTE_ENCRYPTION_PASSWORD"),
        )
        within = f"project {project_name}" if project_name else "no project"
        click.echo(f"logged in to {checked.url} with {within}; the key is kept in {path}", err=True)
        return Exit.OK

    run(job, farewell=None)


def logout(
    *,
    host: RegistryAddress | None = argument(
        "The registry; without it the login at Palette is forgotten.",
        metavar="[HOST]",
        required=False,
        parse=RegistryAddress.parse,
    ),
) -> None:
    """Forget the login for a registry, or for Palette.

    Examples:
        syncer logout harbor.example.com
        syncer logout

    More: docs/palette.md
    """
    if host is not None:
        _log_out(host)
    else:
        click.echo("logged out" if forget_login(config_directory()) else "there was no login", err=True)


def registry_login(
    *,
    registry: RegistryAddress = registry_option("The registry.", required=True, metavar="HOST", fixed=True),
    password: str | None = password_option("-p"),
    login: LoginOptions,
    palette: PaletteOptions,
    connection: ConnectionOptions,
) -> None:
    """Check a login for a registry and keep it.

    It is kept by Docker's credential helper where the user has one, else in a file that only the user can read.

    Examples:
        syncer registry-login --registry harbor.example.com
        syncer registry-login -r a.example.com -u me --password-stdin < word.txt

    More: docs/palette.md
    """
    palette.refuse("registry-login", "a login is for all that a registry has")
    _log_in(registry, password, login, connection)


def _log_in(
    registry: RegistryAddress, password: str | None, login: LoginOptions, connection: ConnectionOptions
) -> None:
    """Check a login at ``registry`` and keep it; raises ``UsageError`` for one that is missing."""
    username = _user(login.username)
    credential = Credential(username=username, password=read_password(password, is_piped=login.password_stdin))
    settings = registry_settings(connection, everyone=[registry])
    settings = structs.replace(
        settings, credentials=structs.replace(settings.credentials, logins={registry.host: credential})
    )

    async def job() -> Exit:
        async with open_registries(settings) as registries:
            if not await check_login(registries, registry):
                click.echo(f"warning: {registry.host} asks nobody for a login, so this one is not checked", err=True)
        place = await login_store().keep(registry.host, credential)
        click.echo(f"logged in to {registry.host}; the login is kept {place}", err=True)
        return Exit.OK

    run(job, farewell=None)


def registry_logout(
    *, registry: RegistryAddress = registry_option("The registry.", required=True, metavar="HOST", fixed=True)
) -> None:
    """Forget the login for a registry.

    Examples:
        syncer registry-logout --registry harbor.example.com
        syncer registry-logout -r harbor.example.com

    More: docs/palette.md
    """
    _log_out(registry)


def _log_out(registry: RegistryAddress) -> None:
    async def job() -> Exit:
        was_there = await login_store().forget(registry.host)
        said = "logged out of" if was_there else "there was no login for"
        click.echo(f"{said} {registry.host}", err=True)
        return Exit.OK

    run(job, farewell=None)


def read_password(given: str | None, *, is_piped: bool) -> str:
    """Read the password from the command line, which others can see, from a pipe, or from the terminal.

    Raises ``UsageError`` for one that is missing or empty.
    """
    if given is not None and is_piped:
        raise UsageError("--password and --password-stdin are both given", hint="leave --password away")
    if given is not None:
        click.echo("warning: a password on the command line can be seen by others; use --password-stdin", err=True)
    elif is_piped:
        given = sys.stdin.readline().rstrip("\r\n")
    else:
        _require_terminal("the password", "--password-stdin")
        given = str(click.prompt("Password", hide_input=True, err=True))
    if not given:
        raise UsageError("the password is empty")
    return given


def _user(given: str | None) -> str:
    if given:
        return given
    _require_terminal("the user name", "--username")
    return str(click.prompt("Username", err=True))


def _console(given: str | None, environ: Mapping[str, str]) -> str:
    if url := given or environ.get("SYNCER_CONSOLE_URL"):
        return url
    _require_terminal("the console's URL", "--console-url")
    return str(click.prompt("Console URL", default=_FIRST_CONSOLE, err=True))


def _key(given: str | None, environ: Mapping[str, str]) -> str:
    if key := given or environ.get("SYNCER_API_KEY"):
        return key
    _require_terminal("the API key", "--api-key or $SYNCER_API_KEY")
    return str(click.prompt("API key", hide_input=True, err=True)).strip()


def _require_terminal(what: str, option: str) -> None:
    """Raise ``UsageError`` unless a terminal can ask the user."""
    if not sys.stdin.isatty():
        raise UsageError(f"{what} is missing, and there is no terminal to ask for it", hint=f"give it with {option}")


def doctor(
    *,
    registry: RegistryAddress = argument(
        "The registry, and a path in it.", metavar="HOST[:PORT][/BASE]", parse=RegistryAddress.parse
    ),
    upload: bool = flag(
        "Also send a blob into a scratch repository, in chunks and by a mount, and remove it again.", fixed=True
    ),
    names: bool = flag(
        "Show names of hosts, repositories and proxies, and addresses, which are hidden otherwise.", fixed=True
    ),
    json: bool = json_flag("Print the checks as one JSON document."),
    login: LoginOptions,
    connection: ConnectionOptions,
) -> None:
    """Examine a registry, and say what syncer does about it.

    Its name, connection, TLS, API, login, referrers, ranges, uploads and mounts are looked at. Names and addresses are
    hidden, so that the result can be pasted into a public report. The exit code is 0 when syncer can work with it.

    Examples:
        syncer doctor quay.io/kairos
        syncer doctor 10.10.254.254:8000/images --upload --json

    More: docs/troubleshooting.md
    """
    settings = registry_settings(connection, login, registry, everyone=[registry])

    async def job() -> Exit:
        found = await diagnose(registry, settings=settings, uploads=upload, shows_names=names)
        if json:
            print_json(found.to_json())
        else:
            click.echo(without_secrets("\n".join((*lines_of(found), _outcome(found)))))
        return found.exit

    run(job, farewell=None)


def _outcome(found: Diagnosis) -> str:
    """The last line: whether syncer can work with the registry."""
    failed = [check.name for check in found.checks if check.state == "failed"]
    return f"syncer cannot work with it: {failed[0]}" if failed else "syncer can work with it"


@takes(registry=Word(metavar="REGISTRY", kind="a registry"))
def tune(
    *,
    registry: RegistryAddress = registry_option(
        "The registry, and a path in it that may be written to.",
        required=True,
        metavar="HOST[:PORT][/BASE]",
        fixed=True,
    ),
    time_: float = option("How long to try.", "--time", default="2m", metavar="TIME", parse=parse_duration, fixed=True),
    content: Mix = option(
        "The layers that are sent: one large, one medium and many small ones; only small ones; or a few large ones.",
        default=Mix.MIXED,
        fixed=True,
    ),
    size: int = option(
        "Content of one push, at most; less where the link is slow.",
        default="64MiB",
        metavar="BYTES",
        parse=byte_count,
        fixed=True,
    ),
    max_bytes: int = option(
        "Send no more than this in all.", default="4GiB", metavar="BYTES", parse=byte_count, fixed=True
    ),
    json: bool = json_flag(),
    progress: bool = flag("Show no progress on stderr.", default=True, heading=Heading.REPORTING),
    report: Path | None = option(
        "Write all results (JSON) to this file.", metavar="FILE", heading=Heading.REPORTING, written=True
    ),
    login: LoginOptions,
    connection: ConnectionOptions,
) -> None:
    """Find the flags that suit a registry and the link to it.

    Content that is made for it, which nothing compresses, is pushed to BASE/syncer-tune-… and pulled again, with one
    setting after the other and none beside them, and removed: new images each time, by --concurrency 4 to 128 and by
    other sizes of chunks and numbers of ranges where layers are large enough for these. The flags to use stand in the
    last line. One that is given is kept, and not tried.

    Examples:
        syncer tune registry.example.com/scratch
        syncer tune registry.example.com/scratch --time 10m --content large
        syncer tune 10.10.254.254:8000/scratch --json > tuning.json

    More: docs/command-line.md
    """
    if report is not None:
        require_writable(report)
    has_ranges = click.get_current_context().get_parameter_source("ranges") is not ParameterSource.DEFAULT
    kept = {"--concurrency": connection.concurrency, "--ranges": connection.ranges if has_ranges else None}
    kept = {flag: value for flag, value in kept.items() if value}
    if kept:
        told = " and ".join(f"{flag} {value}" for flag, value in kept.items())
        note(f"{told} {'are' if len(kept) > 1 else 'is'} given, so that no other number is tried")
    settings = registry_settings(connection, login, registry, everyone=[registry])
    limits = Limits(seconds=time_, size=size, most=max_bytes, mix=content, kept=tuple(kept))
    results = _Results(report, json)

    async def job() -> Exit:
        tell = _tell_trials(limits) if progress else None
        cut = results.tell_cut
        found = await try_settings(registry, settings=settings, limits=limits, tell=tell, warn=warn, on_cut=cut)
        return results.tell(found)

    run(job, farewell=None, seconds_to_stop=LONGER_TO_STOP)


class _Results(Struct, frozen=True):
    """The output of the results: the file, and the document or the lines on standard output."""

    report: Path | None
    is_json: bool

    def tell(self, found: Tuning) -> Exit:
        """Write and print them; returns the exit code, and raises ``TargetError`` where the file cannot be written."""
        try:
            if self.report is not None:
                write_report(self.report, found)
        finally:
            self._print(found)
        if found.exit:
            click.echo(f"error: {printable(str(found.ended))}", err=True)
        return found.exit

    def tell_cut(self, found: Tuning) -> None:
        """Write what was found until an error, which is told by itself, or a signal; then print it too."""
        found = structs.replace(found, code=code_of_signal())
        try:
            if self.report is not None:
                write_report(self.report, found)
        except SyncerError as unwritten:
            warn(str(unwritten))
        if found.code:
            click.echo(f"stopped; {found.left or 'what was sent is removed'}", err=True)
            self._print(found)

    def _print(self, found: Tuning) -> None:
        if self.is_json:
            print_json(found.to_json())
        elif found.has_results or not found.code:
            talks_on_stderr = self.report is not None and is_stdout(self.report)
            click.echo(without_secrets("\n".join(lines_of_trials(found))), err=talks_on_stderr)


def _tell_trials(limits: Limits) -> Callable[[Told], None]:
    """Make who says on standard error how each trial went; where nobody watches, now and then."""
    interval = 0.0 if sys.stderr.isatty() else _NEWS
    last = time.monotonic()

    def tell(told: Told) -> None:
        nonlocal last
        if time.monotonic() - last < interval:
            return
        last = time.monotonic()
        both = f"{told.push}" if told.push == told.pull else f"{told.push} to push, {told.pull} to pull"
        both = both if told.counts else f"{human_bytes(told.size)} to begin with"
        rates = ", ".join(f"{way.value} {_speed(told.trial.rate(way))}" for way in Way)
        click.echo(f"{human_seconds(told.seconds)} of {human_seconds(limits.seconds)}: {both}: {rates}", err=True)

    return tell


def _speed(rate: float) -> str:
    return f"{human_bytes(round(rate))}/s"
