"""Settings, directories and places, made of options and the environment, and the defaults that options have."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote

import click
import orjson
import platformdirs
from click.core import ParameterSource
from msgspec import Struct

from syncer import __version__
from syncer.api.bundles import StoredBundle
from syncer.api.supplies import Supplies
from syncer.bundle import BundleUrl
from syncer.cli.command import flag
from syncer.cli.options import ConnectionOptions, LoginOptions, UploadOptions
from syncer.cli.parser import GIVEN_EACH_TIME, Defaults, Heading, Option, is_default, range_of
from syncer.errors import HIDDEN, InvalidFile, UsageError, redacted
from syncer.files import reading
from syncer.oci import Reference
from syncer.registry import (
    CHUNK_SIZE,
    AuthFile,
    Credential,
    CredentialSettings,
    KeptLogins,
    RegistryAddress,
    RegistrySettings,
    default_auth_files,
)
from syncer.transport import HostSettings, Limits, Proxies, TransportSettings

Spoken: TypeAlias = RegistryAddress | StoredBundle | Reference | BundleUrl
"""Whatever names a server that is spoken to, by HTTP or by HTTPS."""


def registry_settings(
    connection: ConnectionOptions,
    login: LoginOptions | None = None,
    address: RegistryAddress | None = None,
    upload: UploadOptions | None = None,
    *,
    everyone: Sequence[Spoken] = (),
    include_foreign: bool = False,
) -> RegistrySettings:
    """The settings of all registries; ``login`` is for the registry at ``address`` alone.

    ``everyone`` are all whom the command speaks to, where that is known.  Raises ``UsageError`` for half a login, or
    a certificate where all of them and the proxy are spoken to by HTTP, and ``InvalidFile`` for an absent certificate.
    """
    proxies = Proxies.from_environ(os.environ)
    said = [connection.plain_http if each.plain_http is None else each.plain_http for each in everyone]
    if said and all(said) and not (proxies.http or "").startswith("https://"):  # the proxy has a certificate
        _refuse_certificates(connection)
    host = HostSettings(
        plain_http=connection.plain_http or None,
        insecure=connection.insecure,
        ca_cert=_require_file(connection.ca_cert),
        client_cert=_require_file(connection.tls_cert),
        client_key=_require_file(connection.tls_key),
        is_usual=is_default("ca_cert") or is_default("tls_cert"),
    )
    files = (AuthFile(connection.authfile, is_required=True),) if connection.authfile else ()
    return RegistrySettings(
        transport=TransportSettings(
            limits=Limits(
                requests_per_host=connection.concurrency,
                max_wait=connection.max_wait,
                outage=connection.outage,
                stall=connection.stall,
                ranges=connection.ranges,
            ),
            default=host,
            proxies=proxies,
            user_agent=f"syncer/{__version__}",
        ),
        credentials=CredentialSettings(
            logins=_read_login(login, address) if login and address else {},
            files=files or _auth_files(os.environ),
        ),
        trusted_realms=frozenset(connection.allow_realm),
        include_foreign=include_foreign,
        chunk_size=upload.chunk_size if upload else CHUNK_SIZE,
    )


def everyone_of(file: Path | BundleUrl | None, registries: Sequence[Spoken]) -> list[Spoken]:
    """All whom a command speaks to that brings the bundle ``file`` to ``registries``."""
    return [*registries, file] if isinstance(file, BundleUrl) else list(registries)


def _refuse_certificates(connection: ConnectionOptions) -> None:
    """``--insecure`` passes: it verifies nothing, which is as true of HTTP, and scripts for Palette's CLI give it."""
    named = {"ca_cert": connection.ca_cert, "tls_cert": connection.tls_cert, "tls_key": connection.tls_key}
    for name in [name for name, given in named.items() if given and not is_default(name)]:
        raise UsageError(
            f"--{name.replace('_', '-')} is of no use: the registry is spoken to by HTTP",
            hint="leave it out, or write https:// instead",
        )


def state_directory(given: Path | None) -> Path:
    """The directory of hints and locks: the given one, else that of systemd, else the user's own."""
    if given is None and (named := os.environ.get("STATE_DIRECTORY")):
        return Path(named.partition(":")[0])
    return given or platformdirs.user_state_path("syncer")


def known_secrets(settings: RegistrySettings) -> list[str]:
    """Every password that is known before a registry asks, so that no log shows it."""
    return [secret for login in settings.credentials.logins.values() for secret in login.secrets]


def login_store() -> KeptLogins:
    """The logins that ``registry-login`` keeps."""
    docker = default_auth_files(os.environ)[-1].path
    return KeptLogins(config_directory() / "auth.json", docker)


def _auth_files(environ: Mapping[str, str]) -> tuple[AuthFile, ...]:
    """The file that ``$REGISTRY_AUTH_FILE`` names, that of ``registry-login``, then those of Podman and Docker."""
    files = default_auth_files(environ)
    named = tuple(file for file in files if file.is_required)
    return (*named, AuthFile(config_directory() / "auth.json"), *files[len(named) :])


def _read_login(login: LoginOptions, address: RegistryAddress) -> dict[str, Credential]:
    if login.username is None and not login.password_stdin:
        return {}
    if login.username is None or not login.password_stdin:
        raise UsageError(
            "--username and --password-stdin go together",
            hint='echo "$PASSWORD" | syncer push … --username NAME --password-stdin',
        )
    return {address.host: Credential(username=login.username, password=sys.stdin.readline().rstrip("\r\n"))}


def _require_file(path: Path | None) -> Path | None:
    if path is not None and not path.is_file():
        raise InvalidFile(path, "there is no such file")
    return path


def config_directory() -> Path:
    """The directory of logins."""
    return platformdirs.user_config_path("syncer", appauthor=False)


def cache_directory() -> Path:
    """The directory of files that may be deleted at any time."""
    return platformdirs.user_cache_path("syncer", appauthor=False)


def chart_supplies() -> Supplies:
    """Supplies that keep the indexes of chart repositories for the next run."""
    return Supplies(chart_cache=cache_directory() / "charts")


_SUFFIXES = (".tar", ".tar.zst", ".zst", ".yaml", ".yml")
_FILE = "file://"


def source_place(text: str) -> Path | StoredBundle:
    """The place that a bundle comes from; raises ``UsageError``."""
    path = _path(text)
    return path if path is not None else StoredBundle.parse(text)


def target_place(text: str) -> Path | RegistryAddress:
    """The place that a bundle goes to; raises ``UsageError``."""
    path = _path(text)
    return path if path is not None else RegistryAddress.parse(text)


def is_bundle_name(path: Path) -> bool:
    """Tell whether ``path`` names a bundle's file, and not the directory for it."""
    return path.name.endswith((".tar", ".zst")) and not path.is_dir()


def _path(text: str) -> Path | None:
    """The path in ``text``; None for a registry.  A text that exists as a file, or looks like one, is a path."""
    if text.startswith(_FILE):
        path = unquote(text.removeprefix(_FILE))
        if not path.startswith("/"):
            raise UsageError(
                f"{text!r} is not a file's URL", hint="it has three slashes: file:///path/to/bundle.tar.zst"
            )
        return Path(path)
    looks_like_one = text.startswith(("/", "./", "../", "~")) or text in (".", "..") or text.endswith(_SUFFIXES)
    if "://" not in text and (looks_like_one or Path(text).exists()):
        return Path(text).expanduser()
    return None


_OTHER_VARIABLES = {"authfile": "REGISTRY_AUTH_FILE", "state-dir": "STATE_DIRECTORY"}
"""Variables of other programs, which beat the file as well."""


def defaults_file() -> Path:
    """The file that may set defaults of options."""
    return config_directory() / "config.toml"


def defaults() -> Defaults:
    """The defaults of the file and of the environment, for a command that is about to read its options."""
    return Defaults(read=read_defaults, drop=drop_idle)


def read_defaults(command: click.Command) -> dict[str, Any]:
    """Read what the file sets for options of ``command``, by their names as parameters.

    What other commands alone can use is left out.  Raises ``InvalidFile`` with all mistakes of the file.
    """
    path = defaults_file()
    if not path.is_file():  # as a rule
        return {}
    given = _read_toml(path)
    mistakes = [_refusal(path, key) for key in given if key not in KEYS]
    found: dict[str, Any] = {}
    for option in _options_of(command):
        variable = _OTHER_VARIABLES.get(option.key, option.variable)
        if option.key in given and not os.environ.get(variable):
            try:
                found |= _checked(path, option, given[option.key], command)
            except InvalidFile as mistake:
                mistakes.append(mistake)
    if mistakes:
        raise InvalidFile.of(mistakes)
    return found


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
    return {key.replace("_", "-"): value for key, value in document.items()}


def _refusal(path: Path, key: str) -> InvalidFile:
    if key == "api-key":
        return InvalidFile(path, "no key is kept here", field=key, hint="set SYNCER_API_KEY, or use syncer login")
    if key in GIVEN_EACH_TIME:
        return InvalidFile(path, "it has no default", field=key, hint=f"give --{key} on the command line")
    hint = "its keys are the names of options (docs/command-line.md)"
    return InvalidFile(path, "no option that may have a default is called so", field=key, hint=hint)


def _checked(path: Path, option: Option, value: Any, command: click.Command) -> dict[str, Any]:
    """The value as the command line would give it; nothing where there are several, and the option takes one.

    Raises ``InvalidFile``.
    """
    values = value if isinstance(value, list) and not option.is_flag else [value]
    if not all(_is_of_kind(option, each) for each in values):
        problem = "it must be true or false" if option.is_flag else "it must be a text, a number, or a list of these"
        raise InvalidFile(path, problem, field=option.key)
    texts = [each if option.is_flag else _written(option, each) for each in values]
    takes_commas = option.default == () and not option.multiple
    if not texts or (len(texts) > 1 and not option.multiple and not takes_commas):
        return {}
    made = texts if option.multiple else ",".join(texts) if takes_commas else texts[0]
    with click.Context(command, info_name=command.name) as context:
        try:
            option.process_value(context, made)
        except click.UsageError as error:
            problem = range_of(option.type) or error.message.rstrip(".")
            raise InvalidFile(path, problem, field=option.key) from None
        except InvalidFile:  # another file, which this one names
            raise
        except UsageError as error:
            problem = str(error).removeprefix(f"{option.opts[-1]}: ")
            raise InvalidFile(path, problem, field=option.key, hint=error.hint) from None
    return {option.name: made}


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
    """A default that is set: the option, its value without secrets, and where it is set."""

    key: str
    value: str
    place: str


def config(*, json: bool = flag("Print one JSON document.", heading=Heading.REPORTING, fixed=True)) -> None:
    """Show the defaults of options, and where they are set.

    The command line beats a variable of the environment (SYNCER_CONCURRENCY=16), which beats the file config.toml
    (concurrency = 16): one line for each option, by its name without dashes.

    Examples:
        syncer config
        syncer config --json

    More: docs/command-line.md
    """
    path, found = defaults_file(), sorted(_all_set(), key=lambda each: each.key)
    if json:
        rows = [{"option": each.key, "value": each.value, "from": each.place} for each in found]
        click.echo(orjson.dumps({"file": str(path), "defaults": rows}, option=orjson.OPT_INDENT_2).decode())
        return
    click.echo(f"the file of defaults is {path}{'' if path.is_file() else ', which is not there'}", err=True)
    settings = [f"{each.key} = {each.value}" for each in found]
    width = max(map(len, settings), default=0)
    for setting, each in zip(settings, found, strict=True):
        click.echo(f"{setting:{width}}  # {each.place}")
    for name in sorted(os.environ):
        if name.startswith("SYNCER_") and name not in {each.place for each in found}:
            click.echo(f"note: {name} sets no option", err=True)


def _all_set() -> Iterator[_Set]:
    """The defaults that are set, of all commands; raises ``InvalidFile`` with all mistakes of the file."""
    root = click.get_current_context().find_root().command
    options: dict[str, Option] = {}
    in_file: dict[str, Any] = {}
    mistakes = []
    for command in _commands_of(root):
        try:
            read = read_defaults(command)
        except InvalidFile as mistake:
            mistakes.append(mistake)
            read = {}
        for option in _options_of(command):
            options.setdefault(option.key, option)
            if option.name in read:
                in_file[option.key] = read[option.name]
    if mistakes:
        raise InvalidFile.of(mistakes)
    for key, option in options.items():
        said = os.environ.get(option.variable) if option.envvar or option.is_read_elsewhere else None
        if said:
            yield _Set(key, _shown(key, said), option.variable)
        elif key in in_file:
            yield _Set(key, _shown(key, in_file[key]), str(defaults_file()))
    if os.environ.get("SYNCER_API_KEY"):
        yield _Set("api-key", HIDDEN, "SYNCER_API_KEY")


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


_NAMES = """
    allow-partial annotation-selector arch as at-once auth authfile build-type ca-cert chunk-size
    cluster-definition-name cluster-definition-profile-ids cluster-profile-ids compression-level concurrency
    config console-url cred-file-path custom-ui dask deep definition-only disk dry-run except exclude-profiles
    existing-bundles exit-code file format have host htpasswd image images-file images-only include-foreign
    include-packs json keep-going keep-unfinished limit-rate lock log-format map max-delete max-failed
    max-wait metadata-file metadata-only metrics-file missing missing-out name names-like only org outage
    output packs palette-endpoint plain-http port private-key profile-file profiles progress project
    project-id public-key push quiet ranges read-window recheck referrers registry repo report report-dir
    require-referrers resume scan set-var shard signature since spool-size stall state-dir strict tags
    targets-file timeout tls-cert tls-key trace trust-journal username verbose verify
"""
KEYS = frozenset(_NAMES.split())
"""The options that may have a default, of all commands; ``test_defaults`` compares them with those that there are."""
