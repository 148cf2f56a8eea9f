"""Options, arguments, commands and groups of click, with what help, scripts and shells want of them."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from msgspec import Struct

from syncer.errors import UsageError

ANY_WIDTH = 1000  # columns; click has at most 80 without a word
PREFIX = "SYNCER_"
"""The beginning of the names of variables that set options."""

DEFAULTS = "syncer.defaults"
"""The key of a context's ``meta`` under which a function gives the ``Defaults``."""

GIVEN_EACH_TIME = frozenset(
    {
        *("password", "password-stdin", "encryption-passphrase", "api-key"),
        *("yes", "prune", "force", "insecure", "allow-realm"),
    }
)
"""Options that neither a file nor the environment gives: secrets, and what does harm where nobody thinks of it."""

_NOT_READ = frozenset({"host", "port"})
"""Options whose variables Kubernetes sets in every pod, for a Service of our name."""

_NO_BREAK = "\u00a0"
_LEAST_WIDTH = 20  # columns of text, however narrow the terminal is


class Heading(StrEnum):
    """The headings under which help lists options, in this order."""

    WHAT = "What"
    TARGET = "Target"
    OUTPUT = "Output"
    TRANSFER = "Transfer"
    LOGIN = "Registry login"
    PALETTE = "Palette"
    REPORTING = "Reporting"


class Word(Struct, frozen=True, kw_only=True):
    """An argument that says the same as an option.

    ``kind`` tells what it is, where it is not a path; a word that is a file all the same is then refused with
    ``file_hint``, in which ``{}`` stands for the word.
    """

    metavar: str
    is_many: bool = False
    kind: str = ""
    file_hint: str | None = None


def variable_of(key: str) -> str:
    """The name of the variable that sets the option of that name."""
    return f"{PREFIX}{key.replace('-', '_').upper()}"


class Option(click.Option):
    """An option that help lists below a heading, with its default and without the range of a number.

    Of a flag that is on by default help lists the name that turns it off.
    """

    heading = Heading.WHAT
    is_needed = False  # as an argument, if not by itself
    key = ""  # its name in the file of defaults; empty: it has no default there, nor in the environment
    is_read_elsewhere = False  # its variable, by the command itself

    def settle_key(self, *, is_fixed: bool) -> None:
        """Find out where a default may come from; from nowhere, for an option that is hidden or ``is_fixed``."""
        name = next((each for each in self.opts if each.startswith("--")), "--")[2:]
        if is_fixed or self.hidden or name in GIVEN_EACH_TIME:
            return
        self.key = name
        if not self.is_read_elsewhere and name not in _NOT_READ:
            self.envvar = self.variable

    @property
    def variable(self) -> str:
        """The name of the variable that sets it."""
        return variable_of(self.key)

    def get_help_spec(self, ctx: click.Context) -> str:
        return (self.default is not False and ", ".join(self.secondary_opts)) or super().get_help_spec(ctx)

    def get_error_hint(self, ctx: click.Context | None) -> str:
        return f"'{self.given_by(ctx)}'"

    def given_by(self, ctx: click.Context | None) -> str:
        """The name by which its value is given: the variable that sets it, or else its flag."""
        is_set = ctx is not None and ctx.get_parameter_source(self.name) is ParameterSource.ENVIRONMENT
        return self.variable if is_set else self.opts[-1]

    def get_help_extra(self, ctx: click.Context) -> Any:
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)
        if self.is_flag or "efault" in (self.help or ""):
            extra.pop("default", None)
        if "default" in extra:
            extra["default"] = extra["default"].removesuffix(".0")
        return extra


class Argument(click.Argument):
    """An argument that stands for an option, if it has one."""

    def __init__(
        self, name: str, *, stands_for: Option | None = None, word: Word | None = None, **settings: Any
    ) -> None:
        super().__init__([name], **settings)
        self.stands_for = stands_for
        self._word = word

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        if self._word and self._word.kind and value is not None:
            for text in value if self.nargs == -1 else [value]:
                _refuse_file(text, self._word)
        return super().type_cast_value(ctx, value)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        return [] if self._word and self._word.kind else super().shell_complete(ctx, incomplete)

    def called(self, ctx: click.Context | None) -> str:
        """Its name as help writes it, without the brackets of what may be absent."""
        metavar = _without_brackets(self.metavar or (self.make_metavar(ctx) if ctx else self.name))
        return self.name.upper() if "|" in metavar else metavar  # that of one word of several lists them

    def settle(self, ctx: click.Context) -> None:
        """Give the value of this argument to its option; raises ``UsageError`` if that is given as well."""
        option = self.stands_for
        if option is None:
            return
        value = ctx.params.pop(self.name)
        if value is None or value == ():
            if option.is_needed and ctx.params[option.name] is None:
                raise click.MissingParameter(ctx=ctx, param=self)
        elif ctx.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            raise UsageError(
                f"{self.called(ctx)} is given as an argument, and by {option.opts[-1]} too", hint="give it once"
            )
        else:
            values = value if self.nargs == -1 or not option.multiple else (value,)
            ctx.params[option.name] = option.callback(ctx, option, values) if option.callback else values
            ctx.set_parameter_source(option.name, ParameterSource.COMMANDLINE)


def _without_brackets(metavar: str) -> str:
    """``metavar`` without the brackets around all of it; those of a part of it stay, as in ``HOST[:PORT]``."""
    return re.sub(r"^\[([^][]*)\]$", r"\1", metavar)


def _refuse_file(text: str, word: Word) -> None:
    try:
        is_file = Path(text).is_file()
    except OSError:  # too long for the name of a file, say
        is_file = False
    if is_file:
        raise UsageError(f"{text} is a file, and not {word.kind}", hint=word.file_hint and word.file_hint.format(text))


def usage_error(wrong: click.ClickException) -> UsageError:
    """The mistake of a command line that click found, as an error of ours, whose hint names what helps."""
    context = getattr(wrong, "ctx", None)
    path = context.command_path if context else "syncer"
    what = "commands" if context and isinstance(context.command, click.Group) else "options"
    hint = f"{path} --help lists its {what}"
    match wrong:
        case click.NoSuchOption():
            said = f"{path} has no option {wrong.option_name}"
            hint = f"those of a command stand behind it; {hint}" if what == "commands" else hint
            hint = f"{_meant(_near_flags(context, wrong))}{hint}"
        case click.NoSuchCommand():
            said = f"{path} has no command {wrong.command_name}"
            hint = f"{_meant(wrong.possibilities)}{hint}"
        case click.MissingParameter():
            said = f"{_name_of(wrong)} is missing"
        case click.BadParameter(param=param):
            said = f"{_name_of(wrong)}: {(param and range_of(param.type)) or _plain(wrong.message)}"
        case click.BadOptionUsage():
            said = _plain(wrong.message).replace("Option ", "", 1).replace("requires an argument", "needs a value")
        case _:
            said = _plain(wrong.format_message())
            if extra := _EXTRA.search(said):
                said = f"{path} cannot take another argument: {extra[1]}"
                words = [extra[1]] if Path(extra[1]).is_file() else extra[1].split()
                hint = (context and (_for_file(context, *words) or _several(context, words))) or hint
    return UsageError(said, hint=hint)


_YAML = (".yaml", ".yml")
_EXTRA = re.compile(r"unexpected extra arguments? \((.*)\)")


def _plain(text: str) -> str:
    """A message of click's without quotes around names, and without its full stop."""
    return re.sub(r"'([^'\s]*)'", r"\1", text).rstrip(".")


def _near_flags(context: click.Context | None, wrong: click.NoSuchOption) -> list[str]:
    """The flags that help lists, are nearly what was written, and begin with the same letter: two at most."""
    params = context.command.params if context else []
    hidden = {flag for param in params if getattr(param, "hidden", False) for flag in param.opts}
    first = wrong.option_name.lstrip("-")[:1]
    near = [flag for flag in wrong.possibilities or () if flag.lstrip("-").startswith(first)]
    return [flag for flag in near if flag not in hidden][:2]


def _meant(names: Sequence[str] | None) -> str:
    return f"did you mean {' or '.join(names)}? " if names else ""


def _name_of(wrong: click.BadParameter) -> str:
    """The flag, the argument or the variable that ``wrong`` is about."""
    match wrong.param:
        case Argument() as argument:
            flag = f" (or {argument.stands_for.opts[-1]})" if argument.stands_for else ""
            return argument.called(wrong.ctx) + (flag if isinstance(wrong, click.MissingParameter) else "")
        case Option() as option:
            return option.given_by(wrong.ctx)
    return wrong.param.opts[-1] if wrong.param else "the command line"


def _for_file(context: click.Context, word: str, *registries: str) -> str | None:
    """The flags for ``word``, where it is a file and the command takes such files by flags alone, and what follows."""
    flags = {each.name: each.opts[-1] for each in context.command.params}
    wanted = ("config",) if word.endswith(_YAML) else ("file", "bundle")
    flag = next((flags[name] for name in wanted if name in flags), None)
    if flag is None or not Path(word).is_file():
        return None
    if registries and "registry" in flags and wanted != ("config",):
        places = " ".join(f"{flags['registry']} {each}" for each in registries)
        return f"give each by its flag: {context.command_path} {flag} {word} {places}"
    return f"give the file by its flag: {context.command_path} {flag} {word}"


def _several(context: click.Context, words: Sequence[str]) -> str | None:
    """The way to give more of what the last argument of a command stands for, if its option may be repeated."""
    last = [param for param in context.command.params if isinstance(param, Argument)][-1:]
    option = last[0].stands_for if last else None
    if option is None or not option.multiple:
        return None
    return (
        f"give each by {option.opts[-1]}, the first one too: {' '.join(f'{option.opts[-1]} {word}' for word in words)}"
    )


def range_of(kind: click.ParamType[Any]) -> str | None:
    """The numbers that ``kind`` takes, or what a flag's variable may be, as a sentence; None for other kinds."""
    if isinstance(kind, click.types.BoolParamType):
        return "it must be true or false"
    if not isinstance(kind, click.IntRange | click.FloatRange):
        return None
    above = f" to {kind.max:g}" if kind.max is not None else " on"
    unit = " of seconds" if isinstance(kind, click.FloatRange) else ""  # a fraction of anything else is no use
    return f"it must be a number{unit} from {kind.min or 0:g}{above}"


class Defaults(Struct, frozen=True):
    """The values that options have without being given: of a file, and which of them a command cannot use."""

    read: Callable[[Command], dict[str, Any]]
    drop: Callable[[Command, click.Context], None]
    doubts: Callable[[], Iterable[str]]  # sentences about what seems to be a mistake


_FROM_AFAR = (ParameterSource.ENVIRONMENT, ParameterSource.DEFAULT_MAP)


def is_default(name: str, context: click.Context | None = None) -> bool:
    """Tell whether the option ``name`` of the command that runs is set by the environment or by the file."""
    context = context or click.get_current_context(silent=True)
    return context is not None and context.get_parameter_source(name) in _FROM_AFAR


class _Formatter(click.HelpFormatter):
    """Help in which no flag is broken at its dashes."""

    def write_text(self, text: str) -> None:
        indent = " " * self.current_indent
        paragraphs = [
            textwrap.fill(
                paragraph,
                self.width,
                initial_indent=indent,
                subsequent_indent=indent,
                break_on_hyphens=False,
                break_long_words=False,
            )
            for paragraph in text.split("\n\n")
        ]
        self.write("\n\n".join(paragraphs) + "\n")

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 26, col_spacing: int = 2) -> None:
        rows = list(rows)
        indent = " " * self.current_indent
        column = min(max(len(names) for names, _ in rows), col_max) + col_spacing
        width = max(self.width - column - self.current_indent, _LEAST_WIDTH)
        for names, text in rows:
            whole = text.replace("[default: ", f"[default:{_NO_BREAK}")
            lines = [
                line.replace(_NO_BREAK, " ")
                for line in textwrap.wrap(whole, width, break_on_hyphens=False, break_long_words=False)
            ]
            if len(names) > column - col_spacing:
                lines.insert(0, "")
            for number, line in enumerate(lines or [""]):
                self.write(f"{indent}{names if number == 0 else '':{column}}{line}".rstrip() + "\n")


class _Context(click.Context):
    formatter_class = _Formatter


class Command(click.Command):
    """A command whose flags may be given as ``--flag=true`` and ``--flag=false`` as well, as Palette's CLI has them.

    An option that takes one value is refused when it is given twice, where click would take the last.  Help lists
    options below headings, and ends with ``examples`` and the ``pages`` that tell more.
    """

    context_class = _Context

    def __init__(self, name: str, *, examples: Sequence[str] = (), pages: str = "", **settings: Any) -> None:
        super().__init__(name, **settings)
        self.examples = examples
        self.pages = pages

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        defaults = self._defaults(ctx, args)
        if defaults:
            ctx.default_map = defaults.read(self)
        try:
            rest = super().parse_args(ctx, list(self._without_values(args)))
        except click.UsageError as wrong:
            wrong.ctx = wrong.ctx or ctx  # click does not say it of an option without its value
            raise
        if ctx.resilient_parsing:
            return rest
        for param in self.params:
            if isinstance(param, Argument):
                param.settle(ctx)
        for flag in self._turned_off(args):
            if is_default(flag, ctx):
                ctx.params[flag] = False
                ctx.set_parameter_source(flag, ParameterSource.COMMANDLINE)
        if defaults:
            self._look_through(defaults, ctx)
        return rest

    def _look_through(self, defaults: Defaults, ctx: click.Context) -> None:
        """Warn of what seems to be a mistake in the defaults, and forget those that are of no use as it is called."""
        for doubt in defaults.doubts():
            click.echo(f"warning: {doubt}", err=True)
        if any(is_default(param.name, ctx) for param in self.params):
            defaults.drop(self, ctx)

    def _defaults(self, ctx: click.Context, args: Sequence[str]) -> Defaults | None:
        """The defaults, where there may be any, and help is not all that is asked for."""
        is_needed = any(getattr(param, "key", "") for param in self.params) and not {"-h", "--help"} & {*args}
        find = ctx.meta.get(DEFAULTS)
        found: Defaults | None = find() if find and is_needed and not ctx.resilient_parsing else None
        return found

    def format_arguments(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write nothing: arguments stand among the options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, rows in self.sections(ctx):
            with formatter.section(heading):
                formatter.write_dl(rows)

    def sections(self, ctx: click.Context) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        """Each heading that has options or arguments, with their names and what they do."""
        arguments = [param for param in self.params if isinstance(param, Argument)]
        first = [param.stands_for or param for param in arguments]
        instead = dict(zip(map(id, first), arguments, strict=True))
        others = [param for param in self.params if not isinstance(param, Argument) and id(param) not in instead]
        for heading in Heading:
            rows = [
                _row(ctx, param, instead.get(id(param)))
                for param in [*first, *others]
                if getattr(param, "heading", Heading.WHAT) is heading and not getattr(param, "hidden", False)
            ]
            if rows:
                yield heading, rows

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  click's signature
        if self.examples:
            with formatter.section("Examples"):
                formatter.write("".join(f"  {line}\n" for line in self.examples))
        for line in self.endings():
            formatter.write_paragraph()
            formatter.write_text(line)

    def endings(self) -> Iterator[str]:
        """The last lines of help: where flags are that it does not list, and where more is told."""
        if any(getattr(param, "hidden", False) for param in self.params):
            yield "Not listed: flags that only scripts for Palette's CLI need (docs/palette.md)."
        if self.pages:
            yield f"More: {self.pages}"

    def make_parser(self, ctx: click.Context) -> Any:
        parser = super().make_parser(ctx)
        parse = parser.parse_args

        def parse_once(args: list[str]) -> tuple[dict[str, Any], list[str], list[click.Parameter]]:
            values, rest, order = parse(args)
            _refuse_repeated(order)
            return values, rest, order

        parser.parse_args = parse_once  # type: ignore[method-assign]
        return parser

    def _turned_off(self, words: Sequence[str]) -> Iterator[str]:
        """The names of the flags that stand as ``--flag=false``."""
        flags = {name: param.name for param in self.params if getattr(param, "is_flag", False) for name in param.opts}
        for word in itertools.takewhile(lambda each: each != "--", words):
            name, _, value = word.partition("=")
            if name in flags and value.lower() == "false":
                yield flags[name]

    def _without_values(self, words: Sequence[str]) -> Iterator[str]:
        """``--flag=false`` becomes ``--no-flag`` where there is one, and nothing where the flag is off anyway."""
        flags = {name: param for param in self.params if getattr(param, "is_flag", False) for name in param.opts}
        end = words.index("--") if "--" in words else len(words)
        for word in words[:end]:
            name, _, value = word.partition("=")
            if name not in flags or value.lower() not in ("true", "false"):
                yield word
            elif value.lower() == "true":
                yield name
            else:
                yield from flags[name].secondary_opts[:1]
        yield from words[end:]


def _refuse_repeated(order: Sequence[click.Parameter]) -> None:
    """Raise ``UsageError`` for an option of one value that is twice in ``order``, the options as they were met."""
    met: set[str | None] = set()
    for param in order:
        is_single = isinstance(param, click.Option) and not (param.multiple or param.is_flag or param.count)
        if is_single and param.name in met:
            raise UsageError(f"{param.opts[-1]} takes one value, and is given more than once")
        met.add(param.name)


def _row(ctx: click.Context, param: click.Parameter, instead: Argument | None) -> tuple[str, str]:
    """The names and the help of an option, and of the argument that may stand instead of it."""
    names, text = param.get_help_record(ctx) or ("", "")
    if instead is not None and instead is not param:
        names = f"{_without_brackets(instead.make_metavar(ctx))} or {', '.join(sorted(param.opts, key=len))}"
    return names, text


class Listing(Struct, frozen=True):
    """The commands of a group below a heading: their names, and one sentence for each."""

    heading: str
    rows: Sequence[tuple[str, str]]


class Group(Command, click.Group):
    """Commands that help lists below headings, without importing them."""

    def __init__(self, name: str, *, listings: Sequence[Listing] = (), **settings: Any) -> None:
        super().__init__(name, **settings)
        self.listings = listings or [
            Listing("Commands", [(each, self.commands[each].help or "") for each in self.commands])
        ]

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return list(self.commands)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for listing in self.listings:
            with formatter.section(listing.heading):
                formatter.write_dl(listing.rows)
        records = [param.get_help_record(ctx) for param in self.get_params(ctx)]
        with formatter.section("Options"):
            formatter.write_dl([record for record in records if record])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem  # noqa: PLC0415  only a shell asks

        names = [row for listing in self.listings for row in listing.rows if row[0].startswith(incomplete)]
        options = Command.shell_complete(self, ctx, incomplete) if incomplete.startswith("-") else []
        return [CompletionItem(name, help=text) for name, text in names] + options
