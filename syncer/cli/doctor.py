"""``syncer doctor``: what a registry is and can do, in words that can be pasted into a public report."""

from __future__ import annotations

import click

from syncer.api.doctor import Diagnosis, diagnose, lines_of
from syncer.cli.command import argument, flag
from syncer.cli.job import run
from syncer.cli.options import ConnectionOptions, LoginOptions, json_flag
from syncer.cli.output import print_json
from syncer.cli.settings import registry_settings
from syncer.errors import Exit, without_secrets
from syncer.registry import RegistryAddress


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
