"""Commands of click, each made of a function: a parameter is an option, or a group, whose fields are options.

::

    @option_group
    class LoginOptions:
        heading: ClassVar = Heading.LOGIN
        username: str | None = option("User of the registry.", "-u")

    @takes(file=Word("FILE"))
    def push(*, file: Path = option("The bundle.", "-f", required=True), login: LoginOptions) -> None:
        '''Push a bundle into a registry.

        Examples:
            syncer push edge.tar.zst 10.10.254.254:8000/images

        More: docs/fleet.md
        '''
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform, get_args, get_origin, get_type_hints

import click
from msgspec import Struct

from syncer.cli.parser import ANY_WIDTH, Argument, Command, Group, Heading, Listing, Option, Word
from syncer.errors import InvalidFile, UsageError

_DECLARED = "option"
_WORDS = "__words__"

_Function = TypeVar("_Function", bound=Callable[..., None])
_Group = TypeVar("_Group")


def takes(**words: Word) -> Callable[[_Function], _Function]:
    """Let the command take options of these names as arguments too, in this order."""

    def mark(function: _Function) -> _Function:
        setattr(function, _WORDS, words)
        return function

    return mark


@dataclass_transform(kw_only_default=True)
def option_group(kind: type[_Group]) -> type[_Group]:
    """Make a class a group of options.

    It is a dataclass without what no group needs: to make one with all takes three times as long, at each start.
    """
    return dataclasses.dataclass(kw_only=True, eq=False, repr=False)(kind)


class _Declared(Struct, frozen=True, kw_only=True):
    """One option or argument as its field or parameter declares it."""

    help: str
    flags: Sequence[str] = ()
    metavar: str | None = None
    default: Any = None
    is_required: bool = False
    is_argument: bool = False
    is_many: bool = False
    complete: Callable[[click.Context, click.Parameter, str], list[Any]] | None = None
    is_count: bool = False
    lowest: int | None = None
    highest: int | None = None
    parse: Callable[[str], Any] | None = None
    collect: Callable[[Sequence[Any]], Any] | None = None
    heading: Heading | None = None
    is_hidden: bool = False
    is_fixed: bool = False
    is_read_elsewhere: bool = False
    is_written: bool = False


def option(
    help: str,  # noqa: A002  the word of click
    *flags: str,
    default: Any = None,
    required: bool = False,
    metavar: str | None = None,
    min: int | None = None,  # noqa: A002
    max: int | None = None,  # noqa: A002
    parse: Callable[[str], Any] | None = None,
    heading: Heading | None = None,
    hidden: bool = False,
    fixed: bool = False,
    read_elsewhere: bool = False,
    written: bool = False,
) -> Any:
    """Declare an option, as a field of a dataclass or as the default of a command's parameter.

    Its flag is its name with dashes, unless ``flags``, which has the short one, has a long one too.  Its annotation is
    its type: a text, a number, a path, or one word of a ``StrEnum``; anything else is made by ``parse``.  A
    ``UsageError`` of ``parse`` is told with the flag before it.  Help lists it below ``heading``, else below that of
    its dataclass, and not at all if it is ``hidden``.

    Its default may come from the environment and from a file, unless it is ``fixed``: about one call alone, or about
    another thing than the options of its name elsewhere.  ``read_elsewhere`` says that the command looks at its
    variable itself; ``written`` that the path is one of a file to write, where ``-`` is standard output.
    """
    value = parse(default) if parse and isinstance(default, str) else default
    declared = _Declared(
        help=help,
        flags=flags,
        metavar=metavar,
        default=default,
        is_required=required,
        lowest=min,
        highest=max,
        parse=parse,
        heading=heading,
        is_hidden=hidden,
        is_fixed=fixed,
        is_read_elsewhere=read_elsewhere,
        is_written=written,
    )
    return dataclasses.field(default=value, metadata={_DECLARED: declared})


def options(
    help: str,  # noqa: A002
    *flags: str,
    metavar: str,
    parse: Callable[[str], Any] | None = None,
    collect: Callable[[Sequence[Any]], Any] = tuple,
    heading: Heading | None = None,
    fixed: bool = False,
) -> Any:
    """Declare an option that may be given many times; its value is a tuple, or the result of ``collect``."""
    declared = _Declared(
        help=help,
        flags=flags,
        metavar=metavar,
        default=(),
        is_many=True,
        parse=parse,
        collect=collect,
        heading=heading,
        is_fixed=fixed,
    )
    return dataclasses.field(default_factory=lambda: collect(()), metadata={_DECLARED: declared})


def flag(
    help: str,  # noqa: A002
    *flags: str,
    default: bool | None = False,
    heading: Heading | None = None,
    hidden: bool = False,
    fixed: bool = False,
) -> Any:
    """Declare a flag, an option for a ``bool``; one that is not off by default has a ``--no-`` flag as well."""
    return option(help, *flags, default=default, heading=heading, hidden=hidden, fixed=fixed)


def count(help: str, *flags: str) -> Any:  # noqa: A002
    """Declare a flag whose value is the number of times that it is given."""
    declared = _Declared(help=help, flags=flags, default=0, is_count=True)
    return dataclasses.field(default=0, metadata={_DECLARED: declared})


def argument(
    help: str,  # noqa: A002
    *,
    metavar: str,
    required: bool = True,
    many: bool = False,
    parse: Callable[[str], Any] | None = None,
    complete: Callable[[click.Context, click.Parameter, str], list[Any]] | None = None,
) -> Any:
    """Declare an argument, a word without a flag; one that is not ``required`` is None when it is absent.

    With ``many`` it is a tuple of all words.  ``complete`` finds what a shell offers for the beginning of one.
    """
    declared = _Declared(
        help=help,
        metavar=metavar,
        is_argument=True,
        is_required=required,
        is_many=many,
        parse=parse,
        complete=complete,
    )
    return dataclasses.field(metadata={_DECLARED: declared})


def make_command(function: Callable[..., None], name: str, *, takes_anything: bool = False) -> Command:
    """``function`` as the command ``name``; one that ``takes_anything`` calls no option unknown."""
    settings: dict[str, Any] = {"max_content_width": ANY_WIDTH}
    if takes_anything:
        settings |= {"ignore_unknown_options": True, "allow_extra_args": True}
    return Command(name, context_settings=settings, **_parts(function))


def make_group(
    function: Callable[..., None],
    name: str,
    commands: Mapping[str, click.Command],
    listings: Sequence[Listing] = (),
) -> Group:
    """``function``, which is called before each of ``commands``, as the group ``name``.

    Without ``listings`` all commands stand below one heading.
    """
    settings = {"max_content_width": ANY_WIDTH}
    return Group(
        name,
        commands=commands,
        listings=listings,
        no_args_is_help=True,
        context_settings=settings,
        **_parts(function),
    )


def _told(function: Callable[..., None]) -> dict[str, Any]:
    """The help of a command, its examples, and the pages that tell more, which its docstring ends with."""
    text, _, pages = inspect.cleandoc(function.__doc__ or "").partition("\n\nMore: ")
    text, _, examples = text.partition("\n\nExamples:\n")
    lines = [line.removeprefix("    ") for line in examples.splitlines()]
    return {"help": text, "examples": lines, "pages": pages.strip()}


def _parts(function: Callable[..., None]) -> dict[str, Any]:
    """The arguments for a command of click: options, help, and a call of ``function`` that makes the groups again."""
    types = get_type_hints(function)
    declared = {name: each.default for name, each in inspect.signature(function).parameters.items()}
    own = {name: field for name, field in declared.items() if isinstance(field, dataclasses.Field)}
    groups = {name: types[name] for name in declared if name not in own}

    def call(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
        function(**values)

    words: Mapping[str, Word] = getattr(function, _WORDS, {})
    params = [_parameter(name, types[name], field, Heading.WHAT) for name, field in own.items()]
    for group in groups.values():
        types = get_type_hints(group)
        heading = getattr(group, "heading", Heading.WHAT)
        params += [_parameter(field.name, types[field.name], field, heading) for field in dataclasses.fields(group)]
    by_name = {param.name: param for param in params}
    params += [_argument_for(by_name[name], word) for name, word in words.items()]
    return {"params": params, "callback": call, **_told(function)}


def _argument_for(option: click.Parameter, word: Word) -> Argument:
    """The argument that may stand instead of ``option``, which is no longer required itself."""
    assert isinstance(option, Option)
    option.is_needed, option.required = option.required, False
    return Argument(
        f"{option.name}_word",
        stands_for=option,
        word=word,
        type=option.type,
        required=False,
        nargs=-1 if word.is_many else 1,
        metavar=word.metavar,
    )


def _parameter(name: str, annotation: Any, field: dataclasses.Field[Any], heading: Heading) -> click.Parameter:
    declared: _Declared = field.metadata[_DECLARED]
    kind = get_args(annotation)[0] if get_args(annotation) else annotation  # of ``str | None``, ``tuple[str, ...]``
    if declared.is_many and get_origin(annotation) is not tuple:
        kind = str  # of which ``collect`` makes something else
    if declared.is_argument:
        return Argument(
            name,
            type=_type(kind, declared),
            required=declared.is_required,
            nargs=-1 if declared.is_many else 1,
            metavar=declared.metavar,
            help=declared.help,
            shell_complete=declared.complete,
        )
    default = declared.default.value if isinstance(declared.default, StrEnum) else declared.default
    optional: dict[str, Any] = {} if declared.is_required else {"default": default}
    made = Option(
        [name, *_flags(name, kind, declared)],
        type=_type(kind, declared),
        is_flag=kind is bool or None,  # click lets an option with False go without its value
        multiple=declared.is_many,
        callback=_collector(declared.collect) if declared.collect else None,
        required=declared.is_required,
        show_default=default not in (None, "", ()) and not declared.is_count,
        help=declared.help,
        metavar=declared.metavar or _METAVARS.get(kind),
        hidden=declared.is_hidden,
        count=declared.is_count,
        **optional,
    )
    made.heading = declared.heading or heading
    made.is_read_elsewhere = declared.is_read_elsewhere
    made.settle_key(is_fixed=declared.is_fixed)
    return made


_METAVARS: dict[Any, str] = {int: "N", float: "SECONDS", Path: "FILE"}


def _flags(name: str, kind: Any, declared: _Declared) -> list[str]:
    if any(each.startswith("--") for each in declared.flags):
        return list(declared.flags)
    word = name.replace("_", "-")
    is_pair = kind is bool and declared.default is not False
    return [*declared.flags, f"--{word}/--no-{word}" if is_pair else f"--{word}"]


def _type(kind: Any, declared: _Declared) -> Any:
    if declared.parse:
        return _Parsed(declared.parse)
    if kind is Path:
        kind_of_path = _WrittenPath if declared.is_written else click.Path
        return kind_of_path(path_type=Path, readable=False)  # reading it says so in words of ours
    if declared.lowest is not None or declared.highest is not None:
        number_range = click.IntRange if kind is int else click.FloatRange
        return number_range(declared.lowest, declared.highest)
    return _Words(kind) if isinstance(kind, type) and issubclass(kind, StrEnum) else kind


def _collector(collect: Callable[[Sequence[Any]], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    return lambda _, param, values: _make(param, collect, values)


def _make(param: click.Parameter | None, make: Callable[[Any], Any], value: Any) -> Any:
    """Call ``make`` with ``value``; a ``UsageError`` of it names the flag, unless it names a file already."""
    try:
        return make(value)
    except InvalidFile:
        raise
    except UsageError as error:
        context = click.get_current_context(silent=True)
        name = param.given_by(context) if isinstance(param, Option) else param and param.human_readable_name
        name = param.called(context) if isinstance(param, Argument) else name
        raise UsageError(f"{name}: {error}", hint=error.hint) from None


class _Parsed(click.ParamType[Any]):
    """A text from which a function of ours makes a value."""

    name = "text"

    def __init__(self, parse: Callable[[str], Any]) -> None:
        self._parse = parse

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        return click.Path().shell_complete(ctx, param, incomplete)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ARG002
        return _make(param, self._parse, value) if isinstance(value, str) else value


class _WrittenPath(click.Path):
    """The path of a file to write."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert("/dev/stdout" if value == "-" else value, param, ctx)


class _Words(click.Choice[str]):
    """One of the values of a ``StrEnum``, where click's own choice goes by the names of its members."""

    def __init__(self, kind: type[StrEnum]) -> None:
        super().__init__([word.value for word in kind])
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self._kind(super().convert(value, param, ctx))
