"""The commands and how they are called: every one at the top, and again under ``content`` as Palette has them.

Only the command that is named is imported; help, and an error that lists commands, import them all.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
from collections import UserDict
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, get_type_hints

import typer
from click import Command

from syncer import __version__
from syncer.errors import UsageError

_EVERYWHERE = {
    "build": "build:build",
    "push": "push:push",
    "verify": "verify:verify",
    "definition": "definition:definition",
    "save": "save:save",
    "copy": "save:copy",
    "registry-login": "login:registry_login",
    "registry-logout": "login:registry_logout",
    "serve": "serve:serve",
    "sync": "sync:sync",
    "plan": "plan:plan",
    "list": "definition:list_bundles",
    "import": "import_:import_",
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
    "content": "app:content",
    "edge": "edge:edge",
}
_INNER = {"syncer": _AT_THE_TOP, "content": _EVERYWHERE, "edge": _EDGE}
_ONLY_SAY_WHY_NOT = {"upload", "show", "build-from-local"}  # whatever they are given


class Commands(UserDict[str, Any]):
    """Commands by their names, from ``module:function``; each is imported when it is asked for."""

    def __init__(self, places: Mapping[str, str]) -> None:
        super().__init__()
        self.data = dict(places)

    def __getitem__(self, name: str) -> Any:
        found = self.data[name]
        if isinstance(found, str):
            found = self.data[name] = command_at(found, name)
        return found


def command_at(place: str, name: str) -> Command:
    """The function at ``module:function`` as the command ``name``, or as the group of commands of that name."""
    module, _, function = place.partition(":")
    called = with_groups(getattr(importlib.import_module(f"syncer.cli.{module}"), function))
    app = typer.Typer(
        name=name,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        suggest_commands=False,  # click does it
    )
    if name in _INNER:
        app.callback()(called)
        group = typer.main.get_group(app)
        group.commands = Commands(_INNER[name])
        return group
    anything = {"ignore_unknown_options": True, "allow_extra_args": True} if name in _ONLY_SAY_WHY_NOT else None
    app.command(name, context_settings=anything)(called)
    return typer.main.get_command(app)


def command_line() -> Any:
    """All of it, as click's group of commands."""
    group = command_at("app:syncer", "syncer")
    group.context_settings["help_option_names"] = ["-h", "--help"]
    return group


def syncer(
    *, log_level: Annotated[str | None, typer.Option(help="Refused: see --log-format of each command.")] = None
) -> None:
    """Move container images where they are needed: registries to one bundle file, the bundle into any registry."""
    if log_level is not None:
        raise UsageError(
            "--log-level cannot be done: syncer keeps no log of its own",
            hint="give --log-format text or json to the command: each event is then a line on stderr",
        )


def content() -> None:
    """The same commands as Palette's CLI calls them."""


def run_app(argv: Sequence[str]) -> int:
    """Run one command line; returns its exit code."""
    command = command_line()
    try:
        command(args=_plain_flags(command, argv), prog_name="syncer")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def _plain_flags(command: Any, argv: Sequence[str]) -> list[str]:
    """``--flag=true`` and ``--flag=false``, which Palette's CLI takes, as this parser knows them.

    ``--flag=false`` becomes ``--no-flag`` where there is one, and nothing where the flag is off anyway.
    """
    flags: dict[str, Any] = {}
    plain: list[str] = []
    for position, word in enumerate(argv):
        if word == "--":
            return [*plain, *argv[position:]]
        inner = getattr(command, "commands", {}).get(word)
        if inner is not None:
            command = inner
            flags = {
                name: option for option in inner.params if getattr(option, "is_flag", False) for name in option.opts
            }
        name, equals, value = word.partition("=")
        if equals and name in flags and value.lower() in ("true", "false"):
            off = [opposite for opposite in flags[name].secondary_opts if opposite.startswith("--")]
            plain += [name] if value.lower() == "true" else off[:1]
        else:
            plain.append(word)
    return plain


def with_groups(function: Callable[..., None]) -> Callable[..., None]:
    """Let ``function`` take whole groups of options.

    A parameter whose type is a dataclass is replaced, in the signature that typer reads, by the
    dataclass's fields; the call puts them together again.
    """
    hints = get_type_hints(function, include_extras=True)
    own: list[inspect.Parameter] = []
    groups: dict[str, type[Any]] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if dataclasses.is_dataclass(hints[name]) and isinstance(hints[name], type):
            groups[name] = hints[name]
        else:
            own.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))
    shared = [parameter for group in groups.values() for parameter in _parameters(group)]

    @functools.wraps(function)
    def command(**options: Any) -> None:
        for name, group in groups.items():
            fields = {field.name: options.pop(field.name) for field in dataclasses.fields(group)}
            options[name] = group(**fields)
        function(**options)

    parameters = [*own, *shared]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _parameters(group: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in dataclasses.fields(group)
    ]


def version() -> None:
    """Print the version."""
    typer.echo(__version__)
