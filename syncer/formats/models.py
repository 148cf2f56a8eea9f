"""Checking documents that people write against models; an error names file, line and field, and all are told at once.

A ``Model`` is a Struct whose annotations say how its fields are read::

    class Chart(Model):
        repository: Annotated[str, parsed(check_chart_repository)]
        version: Annotated[str, not_empty] | None = None
        values_files: Annotated[tuple[FilePath, ...], one_or_many] = ()

``Annotated`` holds the ``Reader`` of a field, or functions that make another one of the reader that the type has by
itself.  A rule for several fields stands in ``problems``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from inspect import cleandoc
from pathlib import Path
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from msgspec import NODEFAULT, Struct, field, structs

from syncer.errors import InvalidFile, SyncerError, UsageError
from syncer.formats.yaml import Step, mistake_at, nearest, unknown_field

Schema: TypeAlias = dict[str, Any]
"""A JSON Schema, or a part of one."""

Place: TypeAlias = tuple[Step, ...]
"""The way from the root of a document to a value."""


class Model(Struct, frozen=True, kw_only=True):
    """The base class of these models; ``more`` is what the JSON Schema says beside the fields."""

    more: ClassVar[Schema] = {}

    @classmethod
    def longhand(cls, node: Any) -> Any:
        """The mapping that ``node`` stands for, where something shorter may be written."""
        return node

    def problems(self) -> Iterator[UsageError]:
        """Yield what is wrong with the fields together.

        Of a document whose mistakes are told, each field that cannot be read is ``UNREADABLE``: it is there, and
        nothing else is known about it.  So a rule asks for fields alone, and for no other attribute.
        """
        yield from ()

    def __post_init__(self) -> None:
        for problem in self.problems():
            raise problem


UNREADABLE: Any = object()
"""The value of a field that has a mistake of its own."""


AModel = TypeVar("AModel", bound=Model)


def check(model: type[AModel], tree: Any, origin: Path | str, *, line: int | None = None) -> AModel:
    """Turn ``tree``, a result of ``parse_yaml``, into a ``model``; raises ``InvalidFile`` with all its mistakes.

    ``line`` is where the tree begins, for mistakes that have no line of their own.
    """
    made: AModel = read_document(_model(model), tree, origin, line=line)
    return made


class Mistake(Struct, frozen=True):
    """A mistake in the value at ``place``."""

    place: Place
    problem: str
    hint: str | None = None


class Mistakes(Exception):
    """All that is wrong with one value."""

    def __init__(self, found: Sequence[Mistake]) -> None:
        super().__init__(found)
        self.found = found


class Reader(Struct, frozen=True, eq=False):
    """A reader of one kind of value.

    ``value`` makes it of a node of the document and its place, and raises ``Mistakes``; ``schema`` says the same as a
    JSON Schema, for YAML's own types: a text may look like a number there.
    """

    value: Callable[[Any, Place], Any]
    schema: Schema

    def __call__(self, node: Any, place: Place) -> Any:
        return self.value(node, place)


def read_document(read: Reader, tree: Any, origin: Path | str, *, line: int | None = None) -> Any:
    """Turn ``tree`` into what ``read`` makes of it; raises ``InvalidFile`` as ``check`` does."""
    try:
        return read(tree, ())
    except Mistakes as mistakes:
        raise InvalidFile.of(
            mistake_at(tree, origin, each.problem, *each.place, hint=each.hint, line=line) for each in mistakes.found
        ) from None


def wrong(place: Place, problem: str, hint: str | None = None) -> Mistakes:
    """Make the exception for one mistake."""
    return Mistakes([Mistake(place, problem, hint)])


class _Collector(Struct):
    """The mistakes in what is read one after the other."""

    mistakes: list[Mistake] = field(default_factory=list)

    def read(self, read: Reader, node: Any, place: Place) -> Any:
        try:
            return read(node, place)
        except Mistakes as mistakes:
            self.mistakes += mistakes.found
            return UNREADABLE

    def finish(self) -> None:
        if self.mistakes:
            raise Mistakes(self.mistakes)


# Readers

_TEXT_TYPES = ("string", "number", "boolean")
_SPELT_OTHERWISE = r"\$[{$]"  # a variable, or a dollar that is written twice (profiles/syncfile/variables.py)
FLAGS = dict.fromkeys(("true", "yes", "on", "t", "y", "1"), True)
FLAGS |= dict.fromkeys(("false", "no", "off", "f", "n", "0"), False)
"""The words that are true or false, in any case."""

YES_OR_NO = "|".join("".join(f"[{a.upper()}{a}]" if a.isalpha() else a for a in word) for word in FLAGS)
"""A pattern for these words."""


def text_schema(means: str = "", *, pattern: str = "", **more: Any) -> Schema:
    """The schema of a text that fits ``pattern`` as a whole, if there is one, or has a variable in it."""
    schema: Schema = {"description": means} if means else {}
    schema["type"] = list(_TEXT_TYPES)
    if pattern:
        schema["pattern"] = f"^(?:{pattern})$|{_SPELT_OTHERWISE}"
    return schema | more


def one_of_kinds(*kinds: Schema, pattern: str, **more: Any) -> Schema:
    """The schema of a value that YAML takes for one of ``kinds``, or for a text, which fits ``pattern``."""
    return {"anyOf": [*kinds, text_schema(pattern=pattern, type="string")]} | more


def _read_text(node: Any, place: Place) -> str:
    if not isinstance(node, str):
        raise wrong(place, "it must be a text")
    return node


def _read_flag(node: Any, place: Place) -> bool:
    is_set = FLAGS.get(node.lower()) if isinstance(node, str) else None
    if is_set is None:
        raise wrong(place, "it must be true or false")
    return is_set


def _read_whole_number(node: Any, place: Place) -> int:
    try:
        return int(re.sub(r"\.0*\s*$", "", _read_text(node, place)))
    except (Mistakes, ValueError):
        raise wrong(place, "it must be a whole number") from None


def _read_number(node: Any, place: Place) -> float:
    try:
        return float(_read_text(node, place))
    except (Mistakes, ValueError):
        raise wrong(place, "it must be a number") from None


text = Reader(_read_text, text_schema())
_OF_TYPES = {
    str: text,
    bool: Reader(_read_flag, one_of_kinds({"type": "boolean"}, {"enum": [0, 1]}, pattern=YES_OR_NO)),
    int: Reader(_read_whole_number, one_of_kinds({"type": "integer"}, pattern=r"\s*[+-]?[0-9]+\s*")),
    float: Reader(_read_number, one_of_kinds({"type": "number"}, pattern=r"\s*[+-]?[0-9.]+([eE][+-]?[0-9]+)?\s*")),
}


def parsed(parse: Callable[[str], Any], schema: Schema | None = None) -> Reader:
    """A reader of texts that ``parse``, which raises ``SyncerError``, turns into values."""
    return Reader(
        lambda node, place: _taken(parse, _read_text(node, place), place), text_schema() if schema is None else schema
    )


def _taken(make: Callable[[Any], Any], given: Any, place: Place) -> Any:
    try:
        return make(given)
    except SyncerError as error:
        raise wrong(place, str(error), error.hint) from None


def one_of(*words: str) -> Reader:
    """A reader of one of ``words``."""

    def read(node: Any, place: Place) -> str:
        if node not in words:
            raise wrong(place, f"it must be {' or '.join(map(repr, words))}")
        return str(node)

    numbers = [{"const": int(word)} for word in words if word.isdigit()]
    return Reader(read, one_of_kinds(*numbers, pattern="|".join(map(re.escape, words))))


def or_nothing(inner: Reader) -> Reader:
    """A reader that takes nothing at all as well, for None."""
    kinds = inner.schema["anyOf"] if inner.schema.keys() == {"anyOf"} else [inner.schema]
    return Reader(
        lambda node, place: None if node is None else inner(node, place), {"anyOf": [*kinds, {"type": "null"}]}
    )


def list_of(inner: Reader) -> Reader:
    """A reader of lists, of which it makes tuples."""

    def read(node: Any, place: Place) -> tuple[Any, ...]:
        if not isinstance(node, list):
            raise wrong(place, "it must be a list", "each entry of a list begins with a dash and a blank")
        collector = _Collector()
        values = [collector.read(inner, each, (*place, index)) for index, each in enumerate(node)]
        collector.finish()
        return tuple(values)

    return Reader(read, {"type": "array", "items": inner.schema})


def _dict_of(names: Reader, values: Reader) -> Reader:
    def read(node: Any, place: Place) -> dict[Any, Any]:
        collector = _Collector()
        made = {
            collector.read(names, name, (*place, name)): collector.read(values, each, (*place, name))
            for name, each in _mapping(node, place, "write each entry as NAME: VALUE, without a dash").items()
        }
        collector.finish()
        return made

    named = {"propertyNames": names.schema} if "pattern" in names.schema else {}
    return Reader(read, {"type": "object", "additionalProperties": values.schema} | named)


def _mapping(node: Any, place: Place, hint: str | None = None) -> dict[str, Any]:
    if not isinstance(node, dict):
        raise wrong(place, "it must be a mapping", hint)
    return node


def fields_of(node: Any, place: Place, readers: Mapping[str, Reader], required: Collection[str]) -> dict[str, Any]:
    """The values of the fields of the mapping ``node``; raises ``Mistakes``.

    A field that is unknown explains one of a similar name that is missing.
    """
    collector = _Collector()
    values = _fields(_mapping(node, place), place, readers, required, collector)
    collector.finish()
    return values


def _fields(
    given: Mapping[str, Any],
    place: Place,
    readers: Mapping[str, Reader],
    required: Collection[str],
    collector: _Collector,
) -> dict[str, Any]:
    unknown = [name for name in given if name not in readers]
    values: dict[str, Any] = {}
    for name, read in readers.items():
        if name in given:
            values[name] = collector.read(read, given[name], (*place, name))
        elif name in required and not any(nearest(other, [name]) for other in unknown):
            collector.mistakes.append(Mistake((*place, name), "it is required"))
    collector.mistakes += [Mistake((*place, name), unknown_field(name, list(readers))) for name in unknown]
    return values


# Functions that stand in ``Annotated``


def one_or_many(many: Reader) -> Reader:
    """A reader of a list that may be one text as well."""
    return Reader(
        lambda node, place: many([node] if isinstance(node, str) else node, place),
        {"anyOf": [many.schema["items"], many.schema]},
    )


def _refusing(inner: Reader, problem: Callable[[Any], str | None], schema: Schema, hint: str | None = None) -> Reader:
    """A reader of the values of ``inner``, but of those with a problem."""

    def read(node: Any, place: Place) -> Any:
        value = inner(node, place)
        if said := problem(value):
            raise wrong(place, said, hint)
        return value

    return Reader(read, schema)


def not_empty(inner: Reader, hint: str | None = None) -> Reader:
    """A reader of a text or a list that has something in it."""
    least = "minItems" if "items" in inner.schema else "minLength"
    return _refusing(inner, lambda value: None if value else "it must not be empty", inner.schema | {least: 1}, hint)


def not_empty_but(hint: str) -> Callable[[Reader], Reader]:
    """``not_empty``, where ``hint`` says how else what might be meant is written."""
    return lambda inner: not_empty(inner, hint)


def within(least: int, most: int | None = None) -> Callable[[Reader], Reader]:
    """A reader of a number that is neither less than ``least`` nor more than ``most``."""

    def problem(value: float) -> str | None:
        if value < least:
            return f"it must be {least} or more"
        return f"it must be {most} or less" if most is not None and value > most else None

    bounds = {"minimum": least} | ({"maximum": most} if most is not None else {})
    return lambda inner: _refusing(inner, problem, _bounded(inner, bounds))


def positive(inner: Reader) -> Reader:
    """A reader of a number that is more than 0."""
    bounded = _bounded(inner, {"exclusiveMinimum": 0})
    return _refusing(inner, lambda value: None if value > 0 else "it must be more than 0", bounded)


def _bounded(inner: Reader, bounds: Schema) -> Schema:
    number, written = inner.schema["anyOf"]
    return {"anyOf": [number | bounds, written]}


# Readers of models


@cache
def _model(model: type[Model]) -> Reader:
    def read(node: Any, place: Place) -> Any:
        names, given, collector = names_of_fields(model), model.longhand(node), _Collector()
        if not isinstance(given, dict):
            known = f"write it as fields, like `{next(iter(names))}: …`; they are {', '.join(names)}"
            raise wrong(place, "it must be a mapping", known)
        values = _fields(given, place, _readers(model), required_fields(model), collector)
        found, depth = collector.mistakes, len(place)
        try:
            if not found:
                return model(**{names[name]: each for name, each in values.items()})
        except UsageError:
            found = []  # it is the first of the misfits, which all follow
        found = [*found, *_misfits(model, given, values, place)]
        if given is not node:  # nobody wrote the names of its fields
            found = [structs.replace(each, place=place + each.place[depth + 1 :]) for each in found]
        raise Mistakes(found)

    return Reader(read, {"$ref": f"#/$defs/{model.__name__}"})


def readable(model: type[Model], tree: Any) -> dict[str, Any]:
    """The fields of ``tree`` that can be read as those of ``model``, whatever is wrong with the others."""
    names, given = names_of_fields(model), model.longhand(tree)
    values = _fields(given, (), _readers(model), (), _Collector()) if isinstance(given, dict) else {}
    return {names[name]: value for name, value in values.items() if value is not UNREADABLE}


def _misfits(
    model: type[Model], given: Mapping[str, Any], values: Mapping[str, Any], place: Place
) -> Iterator[Mistake]:
    """Find the fields that do not fit each other, as far as it is known which ones are meant."""
    names = names_of_fields(model)
    meant = [name if name in names else nearest(name, list(names)) for name in given]
    if None in meant:
        return  # a field that is like none may have been meant for any
    fields: dict[str, Any] = {}
    for each in structs.fields(model):
        is_there = each.encode_name in meant or each.required
        default = each.default if each.default_factory is NODEFAULT else each.default_factory()
        fields[each.name] = values.get(each.encode_name, UNREADABLE) if is_there else default
    for problem in model.problems(SimpleNamespace(**fields)):  # type: ignore[arg-type]  # rules ask for fields alone
        yield Mistake(place, str(problem), problem.hint)


@cache
def _readers(model: type[Model]) -> Mapping[str, Reader]:
    hints = _hints(model)
    return {name: reader_of(hints[each]) for name, each in names_of_fields(model).items()}


@cache
def _hints(model: type[Model]) -> Mapping[str, Any]:
    return get_type_hints(model, include_extras=True)


@cache
def names_of_fields(model: type[Model]) -> Mapping[str, str]:
    """The fields of ``model`` by their names in documents, in the order in which they stand there."""
    written = dict(zip(model.__struct_fields__, model.__struct_encode_fields__, strict=True))
    return {written[name]: name for name in _hints(model) if name in written}


@cache
def required_fields(kind: type[Struct]) -> list[str]:
    """The fields of ``kind`` that have no default, by their names in documents."""
    names, defaults = kind.__struct_encode_fields__, kind.__struct_defaults__  # these are of the last fields
    given = (NODEFAULT,) * (len(names) - len(defaults)) + defaults
    return [name for name, default in zip(names, given, strict=True) if default is NODEFAULT]


def reader_of(hint: Any) -> Reader:
    """The reader that the annotation of a field asks for."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        of_type, *marks = arguments
        made = marks.pop(0) if isinstance(marks[0], Reader) else reader_of(of_type)
        for mark in marks:
            made = mark(made)
        return made
    if origin in (Union, UnionType):
        (inner,) = (each for each in arguments if each is not NoneType)
        return or_nothing(reader_of(inner))
    if origin is tuple:
        return list_of(reader_of(arguments[0]))
    if origin is dict:
        return _dict_of(*map(reader_of, arguments))
    if origin is Literal:
        return one_of(*arguments)
    return _OF_TYPES.get(hint) or _model(hint)


# What an editor knows of such a document.  A parsed file holds nothing but texts, mappings and lists; a schema is held
# against what YAML's own types make of the same text, so that a text may look like a number there.


def given(name: str) -> Schema:
    """The condition that a mapping has the field ``name``, and something in it."""
    return {"required": [name], "properties": {name: {"not": {"enum": [None, [], {}]}}}}


def only_with(name: str, condition: Schema) -> Schema:
    """The condition that a mapping meets ``condition`` if it has the field ``name``."""
    return {"if": given(name), "then": condition}


def json_schema(model: type[Model], title: str) -> Schema:
    """The JSON Schema (2020-12) of the documents that ``check`` takes for a ``model``, as far as one can say it."""
    inner = {each.__name__: _schema(each) for each in _inner_models(model)}
    schema: Schema = _in_order({"$defs": inner} | _schema(model) | {"title": title})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title} | schema


def _in_order(schema: Any) -> Any:
    """``schema`` with its keys in alphabetical order, but for the names of fields: the text is always the same."""
    if isinstance(schema, list):
        return [_in_order(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    fields = {name: _in_order(each) for name, each in schema.get("properties", {}).items()}
    return {key: fields if key == "properties" else _in_order(schema[key]) for key in sorted(schema)}


def _schema(model: type[Model]) -> Schema:
    required = [name for name in names_of_fields(model) if name in required_fields(model)]
    return {
        "additionalProperties": False,
        "description": cleandoc(model.__doc__ or ""),
        "properties": {name: read.schema for name, read in _readers(model).items()},
        **({"required": required} if required else {}),
        "title": model.__name__,
        "type": "object",
    } | model.more


def _inner_models(hint: Any) -> Iterator[type[Model]]:
    """The models inside an annotation, such as ``dict[str, Model]``, or inside a model."""
    is_model = isinstance(hint, type) and issubclass(hint, Model)
    for each in _hints(hint).values() if is_model else get_args(hint):
        if isinstance(each, type) and issubclass(each, Model):
            yield each
        yield from _inner_models(each)
