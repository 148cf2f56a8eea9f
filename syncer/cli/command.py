"""Commands of click, each made of a function: a parameter is an option, or a dataclass whose fields are options.

::

    @dataclass(frozen=True, slots=True, kw_only=True)
    class LoginOptions:
        username: str | None = option("User of the registry.", "-u")

    def push(*, file: Path = option("The bundle.", "-f", required=True), login: LoginOptions) -> None:
        '''Push a bundle into a registry.'''
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import click
from msgspec import Struct

from syncer.errors import InvalidFile, UsageError

_DECLARED = "option"


class _Declared(Struct, frozen=True, kw_only=True):
    """One option or argument as its field or parameter declares it."""

    help: str
    flags: Sequence[str] = ()
    metavar: str | None = None
    default: Any = None
    is_required: bool = False
    is_argument: bool = False
    is_many: bool = False
    is_count: bool = False
    lowest: int | None = None
    highest: int | None = None
    parse: Callable[[str], Any] | None = None
    collect: Callable[[Sequence[Any]], Any] | None = None


def option(
    help: str,  # noqa: A002  the word of click
    *flags: str,
    default: Any = None,
    required: bool = False,
    metavar: str | None = None,
    min: int | None = None,  # noqa: A002
    max: int | None = None,  # noqa: A002
    parse: Callable[[str], Any] | None = None,
) -> Any:
    """Declare an option, as a field of a dataclass or as the default of a command's parameter.

    Its flag is its name with dashes, unless ``flags``, which has the short one, has a long one too.  Its annotation is
    its type: a text, a number, a path, or one word of a ``StrEnum``; anything else is made by ``parse``.  A
    ``UsageError`` of ``parse`` is told with the flag before it.
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
    )
    return dataclasses.field(default=value, metadata={_DECLARED: declared})


def options(
    help: str,  # noqa: A002
    *flags: str,
    metavar: str,
    parse: Callable[[str], Any] | None = None,
    collect: Callable[[Sequence[Any]], Any] = tuple,
) -> Any:
    """Declare an option that may be given many times; its value is a tuple, or the result of ``collect``."""
    declared = _Declared(
        help=help, flags=flags, metavar=metavar, default=(), is_many=True, parse=parse, collect=collect
    )
    return dataclasses.field(default_factory=lambda: collect(()), metadata={_DECLARED: declared})


def flag(help: str, *flags: str, default: bool | None = False) -> Any:  # noqa: A002
    """Declare a flag, an option for a ``bool``; one that is not off by default has a ``--no-`` flag as well."""
    return option(help, *flags, default=default)


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
) -> Any:
    """Declare an argument, a word without a flag; one that is not ``required`` is None when it is absent.

    With ``many`` it is a tuple of all words.
    """
    declared = _Declared(help=help, metavar=metavar, is_argument=True, is_required=required, is_many=many, parse=parse)
    return dataclasses.field(metadata={_DECLARED: declared})


class Command(click.Command):
    """A command whose flags may be given as ``--flag=true`` and ``--flag=false`` as well, as Palette's CLI has them.

    An option that takes one value is refused when it is given twice, where click would take the last.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(self._without_values(args)))

    def make_parser(self, ctx: click.Context) -> Any:
        parser = super().make_parser(ctx)
        parse = parser.parse_args

        def parse_once(args: list[str]) -> tuple[dict[str, Any], list[str], list[click.Parameter]]:
            values, rest, order = parse(args)
            _refuse_repeated(order)
            return values, rest, order

        parser.parse_args = parse_once  # type: ignore[method-assign]
        return parser

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


class Group(Command, click.Group):
    """Commands that are listed in the order in which they were given."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return list(self.commands)


def make_command(function: Callable[..., None], name: str, *, takes_anything: bool = False) -> click.Command:
    """``function`` as the command ``name``; one that ``takes_anything`` calls no option unknown."""
    settings = {"ignore_unknown_options": True, "allow_extra_args": True} if takes_anything else {}
    return Command(name, context_settings=settings, **_parts(function))


def make_group(function: Callable[..., None], name: str, commands: Mapping[str, click.Command]) -> click.Group:
    """``function``, which is called before each of ``commands``, as the group ``name``."""
    return Group(name, commands=commands, no_args_is_help=True, **_parts(function))  # type: ignore[arg-type]


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

    params = [_parameter(name, types[name], field) for name, field in own.items()]
    for group in groups.values():
        types = get_type_hints(group)
        params += [_parameter(field.name, types[field.name], field) for field in dataclasses.fields(group)]
    return {"params": params, "callback": call, "help": function.__doc__}


def _parameter(name: str, annotation: Any, field: dataclasses.Field[Any]) -> click.Parameter:
    declared: _Declared = field.metadata[_DECLARED]
    kind = get_args(annotation)[0] if get_args(annotation) else annotation  # of ``str | None``, ``tuple[str, ...]``
    if declared.is_many and get_origin(annotation) is not tuple:
        kind = str  # of which ``collect`` makes something else
    if declared.is_argument:
        return click.Argument(
            [name],
            type=_type(kind, declared),
            required=declared.is_required,
            nargs=-1 if declared.is_many else 1,
            metavar=declared.metavar,
            help=declared.help,
        )
    if declared.is_count:
        return click.Option([name, *_flags(name, kind, declared)], count=True, help=declared.help)
    default = declared.default.value if isinstance(declared.default, StrEnum) else declared.default
    optional: dict[str, Any] = {} if declared.is_required else {"default": default}
    return click.Option(
        [name, *_flags(name, kind, declared)],
        type=_type(kind, declared),
        is_flag=kind is bool or None,  # click lets an option with False go without its value
        multiple=declared.is_many,
        callback=_collector(declared.collect) if declared.collect else None,
        required=declared.is_required,
        show_default=default not in (None, "", ()),
        help=declared.help,
        metavar=declared.metavar,
        **optional,
    )


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
        return click.Path(path_type=Path)
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
        name = param.opts[-1] if isinstance(param, click.Option) else param and param.human_readable_name
        raise UsageError(f"{name}: {error}", hint=error.hint) from None


class _Parsed(click.ParamType[Any]):
    """A text from which a function of ours makes a value."""

    name = "text"

    def __init__(self, parse: Callable[[str], Any]) -> None:
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ARG002
        return _make(param, self._parse, value) if isinstance(value, str) else value


class _Words(click.Choice[str]):
    """One of the values of a ``StrEnum``, where click's own choice goes by the names of its members."""

    def __init__(self, kind: type[StrEnum]) -> None:
        super().__init__([word.value for word in kind])
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self._kind(super().convert(value, param, ctx))
