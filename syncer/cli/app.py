"""The commands and how they are called: every one at the top, and again under ``content`` as Palette has them.

Only the command that is named is imported; help, and an error that lists commands, import them all.
"""

from __future__ import annotations

import importlib
import json
import os
import textwrap
from collections import UserDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from syncer import __version__
from syncer.cli.command import argument, make_command, make_group, option
from syncer.cli.parser import DEFAULTS, Command, Defaults, Group, Listing, usage_error
from syncer.errors import Exit, SyncerError, UsageError

if TYPE_CHECKING:
    from click.shell_completion import ShellComplete

_MOVE = {
    "build": ("build:build", "Download images and charts into one bundle file."),
    "push": ("push:push", "Push a bundle into one registry, or into many."),
    "sync": ("sync:sync", "Mirror images from registries to registries."),
    "save": ("bundles:save", "Fetch a bundle back out of a registry."),
    "copy": ("bundles:copy", "Copy a bundle from a file or a registry to another."),
    "export": ("bundles:export", "Write images of a bundle as a file that other tools load."),
    "merge": ("bundles:merge", "Make a whole bundle of a delta and an older bundle."),
    "import": ("sync:import_", "Turn another tool's file into a sync file."),
}
_LOOK = {
    "plan": ("plan:plan", "Show what a build, push or sync would do."),
    "verify": ("verify:verify", "Check a bundle, and that registries have all of it."),
    "list": ("bundles:list_bundles", "List the bundles in a registry."),
    "definition": ("bundles:definition", "Print what a bundle holds."),
    "have": ("bundles:have", "List what a registry has, for the next delta."),
    "report": ("fleet:report", "Show what a run did, or several runs as one."),
    "doctor": ("login:doctor", "Examine a registry, and say what syncer does about it."),
    "tune": ("login:tune", "Find the flags that suit a registry and the link to it."),
}
_SERVE = {"serve": ("serve:serve", "Serve a bundle or a directory as a registry.")}
_LOG_IN = {
    "registry-login": ("login:registry_login", "Check a login for a registry and keep it."),
    "registry-logout": ("login:registry_logout", "Forget the login for a registry."),
}
_REFUSED = {
    "upload": ("edge:upload", ""),
}
_LISTED = {
    "syncer": {
        "Move": _MOVE,
        "Look": _LOOK,
        "Serve": _SERVE,
        "Log in": {
            "login": ("login:login", "Log in to a registry, or to Palette."),
            "logout": ("login:logout", "Forget the login for a registry, or for Palette."),
            **_LOG_IN,
        },
        "Other": {
            "config": ("defaults:config", "Show the defaults of options, and where they are set."),
            "completion": ("app:completion", "Print a script by which a shell completes commands and options."),
            "schema": ("app:schema", "Print the JSON Schema of a file that people write."),
            "content": ("app:content", "The same commands, as Palette's CLI calls them."),
            "edge": ("edge:edge", "The commands of Palette's Edge CLI."),
            "help": ("app:help_", "Show the help of a command."),
            "version": ("app:version", "Print the version."),
        },
    },
    "content": {"Move": _MOVE, "Look": _LOOK, "Serve": _SERVE, "Log in": _LOG_IN},
    "edge": {
        "Commands": {
            "build": ("edge:build", "Download the content of cluster profiles into one bundle file."),
            "deploy": ("edge:deploy", "Push a bundle into a registry."),
        },
    },
}
_UNLISTED = {
    "syncer": {**_REFUSED, "man": ("app:man", "")},
    "content": _REFUSED,
    "edge": {"show": ("edge:show", ""), "build-from-local": ("edge:build_from_local", ""), **_REFUSED},
}
"""Commands that help does not list: of developers, and those that only say why they cannot be done."""

_WIDTH = 72  # columns of the source of the manual page, before dashes are marked
_COMPLETE = "_SYNCER_COMPLETE"  # the variable in which a shell asks

_EXIT_CODES = {
    Exit.OK: "done, or nothing to do",
    Exit.INCOMPLETE: "some items failed; the others are done",
    Exit.USAGE: "the command or a file given to it is wrong",
    Exit.DENIED: "not authorised",
    Exit.MISSING: "everything that failed is missing at its source",
    Exit.TARGET: "the target (a registry, a disk) refused, is full, or is not there",
    Exit.UNVERIFIED: "verification failed",
    Exit.WORK_TO_DO: "there is work to do; only plan and --dry-run with --exit-code",
    Exit.LOCKED: "another run holds the lock; try later",
    Exit.INTERRUPTED: "interrupted; the same command again goes on",
    Exit.TERMINATED: "ended by SIGTERM; the same command again goes on",
}
"""The exit codes as the manual page has them; the README has the same."""

_OF_VARIABLES = "The default of --option, as SYNCER_CONCURRENCY is of --concurrency; syncer config shows those set."
_OF_FILE = "Defaults of options; the environment beats it, and the command line beats both."

_SCHEMAS = {
    "sync": "profiles.syncfile.document:sync_schema",
    "definition": "profiles.definition.definition_file:definition_schema",
    "sites": "profiles.syncfile.sites:sites_schema",
    "have": "transfer.memory:have_schema",
}


class Commands(UserDict[str, click.Command]):
    """The commands of the group ``name`` by their names; each is imported when it is asked for."""

    def __init__(self, name: str) -> None:
        super().__init__()
        listed = [row for rows in _LISTED[name].values() for row in rows.items()]
        self._places = {name: place for name, (place, _) in [*listed, *_UNLISTED[name].items()]}
        self.data = dict.fromkeys(self._places)  # type: ignore[assignment]  # the names, in their order
        self._refused = _UNLISTED[name].keys() - {"man"}

    def __getitem__(self, name: str) -> click.Command:
        found = self.data[name]
        if found is None:
            found = self.data[name] = _command_at(self._places[name], name, is_refused=name in self._refused)
        return found


def _command_at(place: str, name: str, *, is_refused: bool = False) -> Command:
    """The function at ``module:function`` as the command ``name``, or as the group of commands of that name."""
    function = _find(f"cli.{place}")
    if name not in _LISTED:
        return make_command(function, name, takes_anything=is_refused)
    rows = {heading: [(each, text) for each, (_, text) in rows.items()] for heading, rows in _LISTED[name].items()}
    return make_group(function, name, Commands(name), [Listing(heading, each) for heading, each in rows.items()])


def _find(place: str) -> Callable[..., Any]:
    """What ``module:name`` stands for, below our package; what few runs need is imported only so."""
    module, _, name = place.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(f"syncer.{module}"), name)
    return found


def _pages() -> Path:
    """The directory of the pages that help names: it is in the wheel, and beside the package in a checkout."""
    package = Path(__file__).parents[1]
    return next(filter(Path.is_dir, (package / "docs", package.parent / "docs")), package / "docs")


def command_line() -> Command:
    """The whole command line as a group of commands of click."""
    command = _command_at("app:syncer", "syncer")
    command.pages = f"syncer COMMAND --help, and docs/README.md in {_pages().parent}"
    command.context_settings["help_option_names"] = ["-h", "--help"]
    command.params.append(
        click.Option(
            ["-V", "--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            help="Print the version and exit.",
            callback=lambda context, _, is_given: _print_version(context) if is_given else None,
        )
    )
    return command


def _print_version(context: click.Context) -> None:
    version()
    context.exit()


def syncer(*, log_level: str | None = option("Refused: see --log-format of each command.", hidden=True)) -> None:
    """Move container images where they are needed: from registries into one bundle file, and into any registry.

    Examples:
        syncer build docker.io/library/busybox:1.37 quay.io/cilium/cilium:v1.16.5
        syncer push output/content-bundle/bundle.tar.zst 10.10.254.254:8000/images
        syncer sync -c sync.yaml
    """
    if log_level is not None:
        raise UsageError(
            "--log-level cannot be done: syncer keeps no log of its own",
            hint="give --log-format text or json to the command: each event is then a line on stderr",
        )


def content() -> None:
    """The same commands, as Palette's CLI calls them.

    Examples:
        syncer content build --profiles ID,ID --project-id ID --name edge
        syncer content push --file edge.tar.zst --registry 10.10.254.254:8000/images

    More: docs/palette.md
    """


def version() -> None:
    """Print the version.

    Examples:
        syncer version
        syncer --version

    More: docs/command-line.md
    """
    click.echo(__version__)


class Kind(StrEnum):
    """The files that people write for syncer, or look through."""

    SYNC = "sync"
    DEFINITION = "definition"
    SITES = "sites"
    HAVE = "have"


def schema(*, kind: Kind = argument("The kind of file.", metavar="sync|definition|sites|have")) -> None:
    """Print the JSON Schema of a file that people write.

    Editors complete and check such files by it.

    Examples:
        syncer schema sync > sync.schema.json
        syncer schema sites > sites.schema.json

    More: docs/sync.md
    """
    click.echo(json.dumps(schema_of(kind), indent=2, ensure_ascii=False))


def schema_of(kind: Kind) -> dict[str, Any]:
    """The JSON Schema of files of that kind; ``docs/KIND.schema.json`` holds the same."""
    made: dict[str, Any] = _find(_SCHEMAS[kind])()
    return made


def _complete_command(context: click.Context, _: click.Parameter, start: str) -> list[Any]:
    """The commands that begin with ``start``, below those whose names ``help`` has got so far."""
    command: click.Command | None = context.find_root().command
    for name in context.params.get("names") or ():
        command = command.commands.get(name) if isinstance(command, click.Group) else None
    return command.shell_complete(context, start) if isinstance(command, Group) else []


def help_(
    *,
    names: tuple[str, ...] = argument(
        "The command, such as push.",
        metavar="[COMMAND]",
        required=False,
        many=True,
        complete=_complete_command,
    ),
) -> None:
    """Show the help of a command.

    Examples:
        syncer help push
        syncer help edge build

    More: docs/command-line.md
    """
    context = click.get_current_context().find_root()
    for name in names:
        if not isinstance(context.command, click.Group):
            raise UsageError(f"{context.command_path} has no commands below it")
        _, command, _ = context.command.resolve_command(context, [name])
        assert command is not None
        context = command.context_class(command, info_name=name, parent=context, **command.context_settings)
    click.echo(context.get_help())


def _make_defaults() -> Defaults:
    made: Defaults = _find("cli.defaults:defaults")()
    return made


class Shell(StrEnum):
    """The shells that complete our command line."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(*, shell: Shell = argument("The shell.", metavar="bash|zsh|fish")) -> None:
    """Print a script by which a shell completes commands and options.

    Where the shell finds it is the shell's own: these are the usual places.

    Examples:
        syncer completion bash > ~/.local/share/bash-completion/completions/syncer
        syncer completion zsh > "${fpath[1]}/_syncer"
        syncer completion fish > ~/.config/fish/completions/syncer.fish

    More: docs/command-line.md
    """
    made = _completing(shell)
    assert made is not None
    click.echo(made.source().replace('string split ","', 'string split -m 1 ","'))  # fish: the help may have commas


def _completing(shell: str) -> ShellComplete | None:
    from click.shell_completion import get_completion_class  # noqa: PLC0415  only a shell asks

    kind = get_completion_class(shell)
    return kind(command_line(), {}, "syncer", _COMPLETE) if kind else None


def _answer_shell(asked: str) -> int:
    """Print what a shell that sets our variable to ``asked``, as ``zsh_complete``, is to offer."""
    answering = _completing(asked.partition("_")[0])
    if answering is None:
        return Exit.USAGE
    click.echo(answering.complete())
    return Exit.OK


def man() -> None:
    """Print the manual page, of the same text as help.

    Examples:
        syncer man | man -l -
        syncer man > docs/syncer.1

    More: docs/command-line.md
    """
    click.echo("\n".join(_manual(click.get_current_context().find_root())))


def _manual(root: click.Context) -> Iterator[str]:
    """The lines of the manual page, in the language of man."""
    command = root.command
    assert isinstance(command, Group)
    yield f'.TH SYNCER 1 "" "syncer {__version__}" "User Commands"'
    yield from (".SH NAME", r"syncer \- move container images where they are needed")
    yield from (".SH SYNOPSIS", r".B syncer", r"\fICOMMAND\fR [\fIOPTIONS\fR] [\fIARGUMENTS\fR]")
    yield from (".SH DESCRIPTION", *_paragraphs(command.help or ""))
    for listing in command.listings:
        yield from (f".SS {listing.heading}", *_terms(listing.rows))
    for context in _contexts(root):
        yield from _chapter(context)
    yield from (".SH ENVIRONMENT", *_terms([("SYNCER_OPTION", _OF_VARIABLES)]))
    yield from (".SH FILES", *_terms([("~/.config/syncer/config.toml", _OF_FILE)]))
    yield from (".SH EXIT STATUS", *_terms((str(int(code)), meaning) for code, meaning in _EXIT_CODES.items()))


def _contexts(parent: click.Context) -> Iterator[click.Context]:
    """A context of each command that help lists, but of those that are there twice."""
    assert isinstance(parent.command, Group)
    for listing in parent.command.listings:
        for name, _ in listing.rows:
            command = parent.command.commands[name]
            context = command.context_class(command, info_name=name, parent=parent, **command.context_settings)
            yield context
            if isinstance(command, Group) and name != "content":
                yield from _contexts(context)


def _chapter(context: click.Context) -> Iterator[str]:
    command = context.command
    assert isinstance(command, Command)
    usage = " ".join(command.collect_usage_pieces(context))
    yield from (f".SH {context.command_path.upper()}", rf"\fB{context.command_path}\fR {_roff(usage)}")
    yield from (".PP", *_paragraphs(command.help or ""))
    if not isinstance(command, Group):
        for heading, rows in command.sections(context):
            yield from (f".SS {heading}", *_terms(rows))
    if command.examples:
        yield from (".SS Examples", ".EX", *map(_roff, command.examples), ".EE")
    for line in command.endings():
        yield from (".PP", *_filled(line))


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ".PP"
        yield from _filled(paragraph)


def _terms(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    for term, text in rows:
        yield from (".TP", rf"\fB{_roff(term)}\fR", *_filled(text))


def _filled(text: str) -> Iterator[str]:
    """The lines of a paragraph, whose ends man does not keep."""
    return map(_roff, textwrap.wrap(text, _WIDTH, break_on_hyphens=False))


def _roff(text: str) -> str:
    """``text`` as it stands for itself on a line of a manual page."""
    plain = text.replace("\\", r"\e").replace("-", r"\-").replace("…", r"\|.\|.\|.")
    return rf"\&{plain}" if plain.startswith((".", "'")) else plain


def run_app(words: Sequence[str]) -> int:
    """Run one command line; returns its exit code, and raises ``SyncerError``."""
    if asked := os.environ.get(_COMPLETE):
        return _answer_shell(asked)
    try:
        with command_line().make_context("syncer", list(words)) as context:
            context.meta[DEFAULTS] = _make_defaults
            context.command.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.exceptions.NoArgsIsHelpError as bare:
        bare.show()
        return bare.exit_code
    except click.ClickException as wrong:
        raise usage_error(wrong) from None
    except click.Abort:
        raise SyncerError("the question was not answered, so nothing was done") from None
    return Exit.OK
