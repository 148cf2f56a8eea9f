"""Defaults of options, in the environment and in a file: what they set, which a command can use, and ``config``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import orjson
from click.core import ParameterSource
from msgspec import Struct

from syncer.api.definitions import StoredBundle
from syncer.bundle import BundleUrl
from syncer.cli.command import flag
from syncer.cli.parser import GIVEN_EACH_TIME, PREFIX, Defaults, Heading, Option, is_default, range_of, variable_of
from syncer.cli.settings import KEYS, config_directory
from syncer.errors import HIDDEN, Exit, InvalidFile, UsageError, redacted
from syncer.files import reading

_OTHER_VARIABLES = {"authfile": "REGISTRY_AUTH_FILE", "state-dir": "STATE_DIRECTORY"}
"""Variables of other programs, which beat the file as well."""


_ONCE_OR_OFTEN = "registry"
"""The option that some commands take once, and others many times."""

_SECRETS = frozenset({"password", "password-stdin", "encryption-passphrase", "api-key"})
_LEAST = 5  # letters of a variable's name that may be a slip
_MOST_WRONG = 2  # letters too many or too few


def defaults_file() -> Path:
    """The file that may set defaults of options."""
    return config_directory() / "config.toml"


def defaults() -> Defaults:
    """The defaults of the file and of the environment, for a command that is about to read its options."""
    return Defaults(read=read_defaults, drop=drop_idle, doubts=doubtful_variables)


def read_defaults(command: click.Command) -> dict[str, Any]:
    """Read what the file sets for options of ``command``, by their names as parameters.

    What other commands alone can use is left out.  Raises ``InvalidFile`` with all mistakes of the file.
    """
    return {each.option.name: each.value for each in _read_for(command)}


class _InFile(Struct, frozen=True):
    """A default that the file sets: the option, its place in the file, and its value as the command line gives it."""

    option: Option
    field: str
    value: Any


def _read_for(command: click.Command) -> list[_InFile]:
    path = defaults_file()
    if not path.is_file():  # as a rule
        return []
    given, mistakes = _read_file(path)
    found = []
    for option in _options_of(command):
        variable = _OTHER_VARIABLES.get(option.key, option.variable)
        field, value = _set_for(option, command, given)
        if field and not os.environ.get(variable):
            try:
                found += [_InFile(option, field, made) for made in _checked(path, option, value, command, field)]
            except InvalidFile as mistake:
                mistakes.append(mistake)
    if mistakes:
        raise InvalidFile.of(mistakes)
    return found


def _set_for(option: Option, command: click.Command, given: Mapping[str, Any]) -> tuple[str, Any]:
    """The place in the file, and the value there, of ``option``: the table of the command beats the rest of the file.

    The place is empty where the file does not set it.
    """
    own = given.get(command.name or "")
    if isinstance(own, dict) and option.key in own:
        return f"{command.name}.{option.key}", own[option.key]
    value = given.get(option.key)
    return ("", None) if value is None or isinstance(value, dict) else (option.key, value)


def _read_file(path: Path) -> tuple[dict[str, Any], list[InvalidFile]]:
    """What the file sets, in tables for commands too, and the mistakes in its names."""
    given = _read_toml(path)
    mistakes = []
    for key, value in given.items():
        if not isinstance(value, dict):
            mistakes += [] if key in KEYS else [_refusal(path, key)]
        elif key not in (commands := _names_of_commands()):
            hint = _meant(key, commands) or "a table is called as the command that it is for, such as [push]"
            mistakes.append(InvalidFile(path, "no command is called so", field=f"[{key}]", hint=hint))
        else:
            mistakes += [_refusal(path, each, f"{key}.") for each in value if each not in KEYS]
    return given, mistakes


def _names_of_commands() -> frozenset[str]:
    """The commands at the top, and those of Palette's Edge CLI."""
    root = click.get_current_context().find_root().command
    if not isinstance(root, click.Group):
        return frozenset()
    edge = root.commands["edge"]
    return frozenset([*root.commands, *(edge.commands if isinstance(edge, click.Group) else ())])


def _meant(name: str, names: Iterable[str]) -> str:
    """A hint with the one of ``names`` that ``name`` is nearly; empty without one."""
    return f"did you mean {found[0]}?" if (found := _near(name, names)) else ""


def _near(name: str, names: Iterable[str]) -> list[str]:
    """Those of ``names`` that ``name`` is nearly, the nearest first, as click finds them."""
    return click.NoSuchOption(name, possibilities=sorted(names)).possibilities or []


def doubtful_variables() -> Iterator[str]:
    """A sentence about each variable that looks as if it set an option, and sets none.

    Variables that are like no option are somebody's own, such as a password that a sync file names, or Kubernetes'.
    """
    for variable in sorted(each for each in os.environ if each.startswith(PREFIX)):
        name = variable.removeprefix(PREFIX).lower().replace("_", "-")
        if name in KEYS | _SECRETS or _is_of_service(variable):
            continue
        if name in GIVEN_EACH_TIME:
            yield f"{variable} sets nothing: --{name} is given on the command line, each time"
        elif (meant := _near(name, KEYS)) and _is_slip(name, meant[0]):
            yield f"{variable} sets no option; did you mean {PREFIX}{meant[0].replace('-', '_').upper()}?"


def _is_of_service(variable: str) -> bool:
    """Tell whether Kubernetes makes a variable of that name in every pod, for a Service that is called syncer."""
    return variable.removeprefix(PREFIX).startswith(("SERVICE_", "PORT", "HOST"))


def _is_slip(name: str, meant: str) -> bool:
    """Tell whether ``name`` is so near to ``meant`` that it is a slip, and no name of somebody's own."""
    return len(name) >= _LEAST and name[0] == meant[0] and abs(len(name) - len(meant)) <= _MOST_WRONG


def _options_of(command: click.Command) -> list[Option]:
    return [param for param in command.params if isinstance(param, Option) and param.key]


def _read_toml(path: Path) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415  most people have no such file

    with reading(path):
        content = path.read_bytes()
    try:
        document = tomllib.loads(content.decode())
    except ValueError as error:  # also of what is no UTF-8
        raise InvalidFile(path, f"it is no TOML: {error}") from None
    return _with_dashes(document)


def _with_dashes(table: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key.replace("_", "-"): _with_dashes(value) if isinstance(value, dict) else value for key, value in table.items()
    }


def _refusal(path: Path, key: str, table: str = "") -> InvalidFile:
    field = f"{table}{key}"
    if key == "api-key":
        return InvalidFile(path, "no key is kept here", field=field, hint="set SYNCER_API_KEY, or use syncer login")
    if key in GIVEN_EACH_TIME:
        return InvalidFile(path, "it has no default", field=field, hint=f"give --{key} on the command line")
    hint = _meant(key, KEYS) or "its keys are the names of options (docs/command-line.md)"
    return InvalidFile(path, "no option that may have a default is called so", field=field, hint=hint)


def _checked(path: Path, option: Option, value: Any, command: click.Command, field: str) -> Iterator[Any]:
    """The value as the command line would give it; nothing of several registries, where the command takes one.

    Raises ``InvalidFile``.
    """
    values = value if isinstance(value, list) and not option.is_flag else [value]
    if not all(_is_of_kind(option, each) for each in values):
        problem = "it must be true or false" if option.is_flag else "it must be a text, a number, or a list of these"
        raise InvalidFile(path, problem, field=field)
    texts = [each if option.is_flag else _written(option, each) for each in values]
    takes_commas = option.default == () and not option.multiple
    if not texts:
        return
    if len(texts) > 1 and not option.multiple and not takes_commas:
        if option.key == _ONCE_OR_OFTEN:
            return
        raise InvalidFile(path, f"it takes one value, and {len(texts)} are given", field=field)
    made = texts if option.multiple else ",".join(texts) if takes_commas else texts[0]
    with click.Context(command, info_name=command.name) as context:
        refused = _refusal_of(option, made, context)
    if isinstance(refused, InvalidFile):  # another file, which this one names
        raise refused
    if refused:
        raise InvalidFile(path, str(refused), field=field, hint=refused.hint)
    yield made


def _refusal_of(option: Option, value: Any, context: click.Context) -> UsageError | None:
    """The error by which ``option`` refuses ``value``, without its name; None if it takes it."""
    try:
        option.process_value(context, value)
    except click.UsageError as error:
        return UsageError(range_of(option.type) or error.message.rstrip("."))
    except InvalidFile as error:
        return error
    except UsageError as error:
        name = option.given_by(context)
        return UsageError(str(error).removeprefix(f"{name}: "), hint=error.hint)
    return None


def _is_of_kind(option: Option, value: Any) -> bool:
    if option.is_flag:
        return isinstance(value, bool)
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _written(option: Option, value: Any) -> str:
    text = str(value)
    return str(Path(text).expanduser()) if isinstance(option.type, click.Path) else text


class _Call(Struct, frozen=True):
    """What a command was called with."""

    context: click.Context

    def given(self, *names: str) -> bool:
        """Tell whether any of these options is on the command line."""
        return any(self.context.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in names)

    def has(self, *names: str) -> bool:
        """Tell whether any of these options has a value."""
        return any(self.context.params.get(name) for name in names)

    def is_off(self, name: str) -> bool:
        """Tell whether the command line turns the flag off."""
        return self.given(name) and not self.has(name)

    @property
    def is_remote(self) -> bool:
        return bool(self.context.params.get("build_type") == "remote")

    @property
    def is_mirror(self) -> bool:
        """Tell whether the command line says which images are meant."""
        return self.given("image", "images_file", "profiles", "profile_file")


_IMAGES = ("image", "images_file", "profiles", "profile_file", "packs", "metadata_file")
_DELTA = ("have", "since", "missing")
_SITES = ("only", "excluded", "max_failed", "limit_rate", "timeout", "report_dir", "dask")
_BUNDLES = ("push", "verify", "plan")

_IDLE: tuple[tuple[Sequence[str], Sequence[str], Callable[[_Call], bool]], ...] = (
    # of these commands, these options, where this holds; one after the other
    (("build",), _IMAGES, lambda call: call.given(*_IMAGES)),
    (
        ("build",),
        ("scan", "set_var", "images_only", "include_packs", "exclude_profiles"),
        lambda call: call.has("metadata_file"),
    ),
    (("build",), ("images_only",), lambda call: call.given("include_packs")),
    (("build",), ("include_packs",), lambda call: call.given("images_only")),
    (("build",), ("registry", "map"), lambda call: not (call.has("push") or call.is_remote)),
    (("build",), ("lock",), lambda call: not call.has("metadata_only")),
    (("build",), ("dry_run",), lambda call: call.has("metadata_only") or call.is_remote),
    (("build",), _DELTA, lambda call: call.has("metadata_only", "download_cluster_config_only") or call.is_remote),
    (("build",), ("custom_ui",), lambda call: call.has("download_cluster_config_only")),
    (("build",), ("private_key", "allow_partial"), lambda call: call.is_remote),
    (("build", "sync", "plan"), ("require_referrers",), lambda call: call.is_off("referrers")),
    (("build", "sync", "plan"), ("referrers",), lambda call: call.given("require_referrers")),
    (_BUNDLES, ("targets_file",), lambda call: call.given("registry")),
    (_BUNDLES, ("registry",), lambda call: call.given("targets_file")),
    (_BUNDLES, ("only", "excluded"), lambda call: not call.has("targets_file")),
    (("push", "sync"), ("recheck",), lambda call: call.has("dry_run") or call.given("trust_journal")),
    (("push",), ("trust_journal",), lambda call: call.has("recheck")),
    (("verify",), ("public_key",), lambda call: isinstance(call.context.params["file"], BundleUrl)),
    (("plan",), ("file",), lambda call: call.is_mirror or call.given("config")),
    (("plan",), ("config",), lambda call: call.is_mirror or call.given("file", "registry")),
    (("plan",), _IMAGES, lambda call: call.is_mirror or call.given("file", "config")),
    (("plan",), ("registry", "targets_file", "as_name", *_SITES), lambda call: not call.has("file")),
    (("plan",), _DELTA, lambda call: call.has("file", "config", "registry")),
    (("plan",), ("shard",), lambda call: not call.has("file", "config", "registry")),
    (("sync",), ("config",), lambda call: call.is_mirror or call.given("registry")),
    (("sync",), (*_IMAGES, "registry"), lambda call: call.has("config")),
    (("sync",), ("max_delete",), lambda call: not call.has("yes")),
    (("sync",), ("dask",), lambda call: call.has("dry_run", "prune")),
    (("copy",), ("as_name",), lambda call: isinstance(call.context.params["source"], StoredBundle)),
    (("copy",), ("map",), lambda call: isinstance(call.context.params["destination"], Path)),
)
"""Defaults that would contradict what a command is called with, or be of no use to it, if they were given."""


def drop_idle(command: click.Command, context: click.Context) -> None:
    """Forget the defaults that ``command`` cannot use as it is called."""
    call = _Call(context)
    by_name = {option.name: option for option in _options_of(command)}
    for commands, names, is_idle in _IDLE:
        if command.name in commands and is_idle(call):
            for name in set(names) & by_name.keys():
                _forget(by_name[name], context)
    asks_for_password = command.name in ("login", "registry-login")
    if "username" in by_name and not asks_for_password and not call.given("password_stdin", "password"):
        _forget(by_name["username"], context)


def _forget(option: Option, context: click.Context) -> None:
    if is_default(option.name, context):
        context.params[option.name] = option.process_value(context, option.default)
        context.set_parameter_source(option.name, ParameterSource.DEFAULT)


class _Set(Struct, frozen=True):
    """A default that is set: the option, its value without secrets, where it is set, and what is wrong with it."""

    key: str
    value: str
    place: str
    problem: str | None = None


def config(*, json: bool = flag("Print one JSON document.", heading=Heading.REPORTING, fixed=True)) -> None:
    """Show the defaults of options, and where they are set.

    The command line beats a variable of the environment (SYNCER_CONCURRENCY=16), which beats the file config.toml
    (concurrency = 16). In the file, what stands below [push] is for that command alone, and beats the rest.

    Examples:
        syncer config
        syncer config --json

    More: docs/command-line.md
    """
    path, found = defaults_file(), sorted(_all_set(), key=lambda each: each.key)
    if json:
        rows = [
            {"option": each.key, "value": each.value, "from": each.place, "problem": each.problem} for each in found
        ]
        click.echo(orjson.dumps({"file": str(path), "defaults": rows}, option=orjson.OPT_INDENT_2).decode())
    else:
        _print(path, found)
    if any(each.problem for each in found):
        click.get_current_context().exit(Exit.USAGE)


def _print(path: Path, found: Sequence[_Set]) -> None:
    click.echo(f"the file of defaults is {path}{'' if path.is_file() else ', which is not there'}", err=True)
    settings = [f"{each.key} = {each.value}" for each in found]
    width = max(map(len, settings), default=0)
    for setting, each in zip(settings, found, strict=True):
        wrong = f", which is wrong: {each.problem}" if each.problem else ""
        click.echo(f"{setting:{width}}  # {each.place}{wrong}")
    doubts = {doubt.partition(" ")[0]: doubt for doubt in doubtful_variables()}
    for doubt in doubts.values():
        click.echo(f"warning: {doubt}", err=True)
    for field in _unheard(path):
        table, _, key = field.partition(".")
        click.echo(f"note: {field} in {path} sets nothing: {table} has no option --{key}", err=True)
    told = {*doubts, *(each.place for each in found)}
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in told and not _is_of_service(name):
            click.echo(f"note: {name} sets no option", err=True)


def _unheard(path: Path) -> Iterator[str]:
    """The places in tables of the file of options that the command of the table has not, though others have them."""
    if not path.is_file():
        return
    root = click.get_current_context().find_root().command
    heard = {f"{command.name}.{option.key}" for command in _commands_of(root) for option in _options_of(command)}
    for table, own in _read_file(path)[0].items():
        if isinstance(own, dict):
            yield from (place for key in own if (place := f"{table}.{key}") not in heard)


def _all_set() -> Iterator[_Set]:
    """The defaults that are set, of all commands; raises ``InvalidFile`` with all mistakes of the file."""
    root = click.get_current_context().find_root().command
    problems: dict[str, dict[str | None, None]] = {}  # of the variable of each option, by the commands that have it
    in_file: dict[str, _InFile] = {}
    mistakes = []
    for command in _commands_of(root):
        try:
            in_file |= {each.field: each for each in _read_for(command)}
        except InvalidFile as mistake:
            mistakes.append(mistake)
        for option in _options_of(command):
            if (option.envvar or option.is_read_elsewhere) and os.environ.get(option.variable):
                problems.setdefault(option.key, {})[_problem_of(option, command)] = None
    if mistakes:
        raise InvalidFile.of(mistakes)
    for key, told in problems.items():
        variable = variable_of(key)
        problem = None if None in told else next(iter(told))
        yield _Set(key, _shown(key, os.environ[variable]), variable, problem)
    for field, each in in_file.items():
        yield _Set(field, _shown(each.option.key, each.value), str(defaults_file()))
    if os.environ.get("SYNCER_API_KEY"):
        yield _Set("api-key", HIDDEN, "SYNCER_API_KEY")


def _problem_of(option: Option, command: click.Command) -> str | None:
    """The problem with the value that its variable gives ``option``; None if the command takes it."""
    with click.Context(command, info_name=command.name) as context:
        value = option.value_from_envvar(context)
        refused = None if value is None else _refusal_of(option, value, context)
        return str(refused) if refused else None


def _commands_of(group: click.Command) -> Iterator[click.Command]:
    if not isinstance(group, click.Group):
        yield group
        return
    for name in group.commands:
        yield from _commands_of(group.commands[name])


def _shown(key: str, value: Any) -> str:
    """A value without secrets; those of macros may be some."""
    texts = [str(each) for each in value] if isinstance(value, list) else [str(value)]
    if key == "set-var":
        texts = [f"{each.partition('=')[0]}={HIDDEN}" for text in texts for each in text.split()]
    if isinstance(value, bool):
        texts = [str(value).lower()]
    return redacted(" ".join(texts))
