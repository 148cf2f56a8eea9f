"""The commands and how they are called: every one at the top, and again under ``content`` as Palette has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from syncer.cli import build, content, definition, edge, import_, login, plan, save, serve, sync, version
from syncer.cli.groups import with_groups
from syncer.errors import UsageError

app = typer.Typer(
    name="syncer",
    help="Move container images where they are needed: registries to one bundle file, the bundle into any registry.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    suggest_commands=False,  # click does it
    context_settings={"help_option_names": ["-h", "--help"]},
)
palette = typer.Typer(name="content", help="The same commands as Palette's CLI calls them.", no_args_is_help=True)
edge_app = typer.Typer(name="edge", no_args_is_help=True)
_ANYTHING = {"ignore_unknown_options": True, "allow_extra_args": True}  # for commands that only say why not

_EVERYWHERE: tuple[Callable[..., None], ...] = (
    build.build,
    content.push,
    content.verify,
    definition.definition,
    save.save,
    save.copy,
    login.registry_login,
    login.registry_logout,
    serve.serve,
    sync.sync,
    plan.plan,
)
_AT_THE_TOP: tuple[Callable[..., None], ...] = (login.login, login.logout)

for group in (app, palette):
    for command in _EVERYWHERE:
        group.command()(with_groups(command))
    group.command("list")(with_groups(definition.list_bundles))
    group.command("import")(with_groups(import_.import_))
    group.command("upload", context_settings=_ANYTHING)(edge.upload)
for command in _AT_THE_TOP:
    app.command()(with_groups(command))
edge_app.callback()(with_groups(edge.edge))
for command in (edge.build, edge.deploy):
    edge_app.command()(with_groups(command))
for command in (edge.show, edge.upload, edge.build_from_local):
    edge_app.command(context_settings=_ANYTHING)(command)
app.command()(version.version)
app.add_typer(palette)
app.add_typer(edge_app)


@app.callback()
def before_the_command(
    *, log_level: Annotated[str | None, typer.Option(help="Refused: see --log-format of each command.")] = None
) -> None:
    if log_level is not None:
        raise UsageError(
            "--log-level cannot be done: syncer keeps no log of its own",
            hint="give --log-format text or json to the command: each event is then a line on stderr",
        )


def run_app(argv: Sequence[str]) -> int:
    """Run one command line; returns its exit code."""
    command = typer.main.get_command(app)
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
