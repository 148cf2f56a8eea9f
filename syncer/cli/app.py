"""The commands and how they are called: every one at the top, and again under ``content`` as Palette has them.

Only the command that is named is imported; help, and an error that lists commands, import them all.
"""

from __future__ import annotations

import importlib
import json
from collections import UserDict
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import click

from syncer import __version__
from syncer.cli.command import argument, make_command, make_group, option
from syncer.errors import Exit, UsageError
from syncer.transfer.memory import have_schema

_EVERYWHERE = {
    "build": "build:build",
    "push": "push:push",
    "verify": "verify:verify",
    "definition": "bundles:definition",
    "save": "bundles:save",
    "copy": "bundles:copy",
    "export": "bundles:export",
    "merge": "bundles:merge",
    "registry-login": "login:registry_login",
    "registry-logout": "login:registry_logout",
    "serve": "serve:serve",
    "have": "bundles:have",
    "sync": "sync:sync",
    "plan": "plan:plan",
    "list": "bundles:list_bundles",
    "import": "sync:import_",
    "report": "fleet:report",
    "doctor": "doctor:doctor",
    "upload": "edge:upload",
}
_EDGE = {
    "build": "edge:build",
    "deploy": "edge:deploy",
    "show": "edge:show",
    "upload": "edge:upload",
    "build-from-local": "edge:build_from_local",
}
_AT_THE_TOP = {
    **_EVERYWHERE,
    "login": "login:login",
    "logout": "login:logout",
    "version": "app:version",
    "schema": "app:schema",
    "content": "app:content",
    "edge": "edge:edge",
}
_INNER = {"syncer": _AT_THE_TOP, "content": _EVERYWHERE, "edge": _EDGE}
_ONLY_SAY_WHY_NOT = {"upload", "show", "build-from-local"}  # whatever they are given


class Commands(UserDict[str, click.Command]):
    """Commands by their names, from ``module:function``; each is imported when it is asked for."""

    def __init__(self, places: Mapping[str, str]) -> None:
        super().__init__()
        self._places = places
        self.data = dict.fromkeys(places)  # type: ignore[assignment]  # the names, in their order

    def __getitem__(self, name: str) -> click.Command:
        found = self.data[name]
        if found is None:
            found = self.data[name] = command_at(self._places[name], name)
        return found


def command_at(place: str, name: str) -> click.Command:
    """The function at ``module:function`` as the command ``name``, or as the group of commands of that name."""
    module, _, called = place.partition(":")
    function = getattr(importlib.import_module(f"syncer.cli.{module}"), called)
    if name in _INNER:
        return make_group(function, name, Commands(_INNER[name]))
    return make_command(function, name, takes_anything=name in _ONLY_SAY_WHY_NOT)


def command_line() -> click.Command:
    """The whole command line as a group of commands of click."""
    command = command_at("app:syncer", "syncer")
    command.context_settings["help_option_names"] = ["-h", "--help"]
    return command


def syncer(*, log_level: str | None = option("Refused: see --log-format of each command.")) -> None:
    """Move container images where they are needed: registries to one bundle file, the bundle into any registry."""
    if log_level is not None:
        raise UsageError(
            "--log-level cannot be done: syncer keeps no log of its own",
            hint="give --log-format text or json to the command: each event is then a line on stderr",
        )


def content() -> None:
    """The same commands as Palette's CLI calls them."""


def version() -> None:
    """Print the version."""
    click.echo(__version__)


class Kind(StrEnum):
    """The files that people write for syncer, or look through."""

    SYNC = "sync"
    DEFINITION = "definition"
    SITES = "sites"
    HAVE = "have"


def schema(*, kind: Kind = argument("The kind of file.", metavar="sync|definition|sites|have")) -> None:
    """Print the JSON Schema of a file that people write or check, by which editors complete and check it."""
    click.echo(json.dumps(schema_of(kind), indent=2, ensure_ascii=False))


def schema_of(kind: Kind) -> dict[str, Any]:
    """The JSON Schema of files of that kind; ``docs/KIND.schema.json`` holds the same."""
    if kind is Kind.HAVE:
        return have_schema()
    if kind is Kind.DEFINITION:
        from syncer.profiles.definition.definition_file import definition_schema  # noqa: PLC0415  slow to import

        return definition_schema()
    if kind is Kind.SITES:
        from syncer.profiles.syncfile.sites import sites_schema  # noqa: PLC0415  likewise

        return sites_schema()
    from syncer.profiles.syncfile.document import sync_schema  # noqa: PLC0415  likewise

    return sync_schema()


def run_app(words: Sequence[str]) -> int:
    """Run one command line; returns its exit code, and raises ``SyncerError``."""
    try:
        with command_line().make_context("syncer", list(words)) as context:
            context.command.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as wrong:
        wrong.show()
        return wrong.exit_code
    except click.Abort:  # of a question that nobody answers
        click.echo("Aborted!", err=True)
        return Exit.INCOMPLETE
    return Exit.OK
