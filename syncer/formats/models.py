"""Checking documents that people write against pydantic models; an error names file, line and field."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, TypeAlias, TypeVar, get_args

from msgspec import Struct, field
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema

from syncer.errors import InvalidFile, SyncerError
from syncer.formats.yaml import Step, line_of, nearest, spell_path, unknown_field

Model = TypeVar("Model", bound="StrictModel")
Schema: TypeAlias = dict[str, Any]
"""A JSON Schema, or a part of one."""

_WORDS = {
    "missing": "it is required",
    "model_type": "it must be a mapping",
    "dict_type": "it must be a mapping",
    "tuple_type": "it must be a list",
    "list_type": "it must be a list",
    "string_type": "it must be a text",
    "int_type": "it must be a whole number",
    "int_parsing": "it must be a whole number",
    "float_type": "it must be a number",
    "float_parsing": "it must be a number",
    "bool_type": "it must be true or false",
    "bool_parsing": "it must be true or false",
    "too_short": "it must not be empty",
    "string_too_short": "it must not be empty",
    "greater_than_equal": "it must be {ge} or more",
    "greater_than": "it must be more than {gt}",
    "less_than_equal": "it must be {le} or less",
    "literal_error": "it must be {expected}",
}
_OWN = "syncer"
_NO_TEXT = (dict, list, int, float, NoneType)  # what else a document can hold


class StrictModel(BaseModel):
    """The base class of these models: frozen, and without unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, hide_input_in_errors=True)


def check(model: type[Model], tree: Any, origin: Path | str, *, line: int | None = None) -> Model:
    """Turn ``tree``, a result of ``parse_yaml``, into a ``model``; raises ``InvalidFile`` with all its mistakes.

    ``line`` is where the tree begins, for mistakes that have no line of their own.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False, include_input=False)
        raise InvalidFile.of(_told(model, tree, origin, error, line) for error in _causes(errors)) from None


def _causes(errors: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """``errors`` without those that follow from others.

    A field that is unknown explains one of a similar name that is missing, and an entry that is wrong a list that is
    too short.
    """
    unknown: defaultdict[tuple[Step, ...], list[str]] = defaultdict(list)
    for error in errors:
        if error["type"] == "extra_forbidden":
            unknown[error["loc"][:-1]].append(str(error["loc"][-1]))
    above = {error["loc"][:length] for error in errors for length in range(len(error["loc"]))}

    def follows(error: ErrorDetails) -> bool:
        *parent, last = error["loc"] or ("",)
        if error["type"] == "missing":
            return any(nearest(name, [str(last)]) for name in unknown[tuple(parent)])
        return error["type"] == "too_short" and error["loc"] in above

    return [error for error in errors if not follows(error)]


def _told(model: type[BaseModel], tree: Any, origin: Path | str, error: ErrorDetails, line: int | None) -> InvalidFile:
    path = tuple(step for step in error["loc"] if step != "[key]")
    hint = error.get("ctx", {}).get("hint")
    return InvalidFile(
        origin, _problem(model, path, error), line=line_of(tree, path) or line, field=spell_path(path), hint=hint
    )


class parsed(Struct, frozen=True, eq=False):  # noqa: N801  it reads as a function where it is used
    """The validator for a field whose text ``parse``, which raises ``SyncerError``, turns into a value.

    A program may give the value itself; ``may_be`` is its type if a document could hold it too.  ``schema`` is what a
    JSON Schema says of the field.
    """

    parse: Callable[[str], Any]
    may_be: type | tuple[()] = ()
    schema: Schema = field(default_factory=lambda: text_schema())  # noqa: PLW0108  it stands below

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._value, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> Schema:
        return dict(self.schema)

    def _value(self, given: Any) -> Any:
        if isinstance(given, _NO_TEXT) and not isinstance(given, self.may_be):
            raise PydanticCustomError("string_type", "")
        try:
            return self.parse(given) if isinstance(given, str) else given
        except SyncerError as error:
            raise mistake(str(error), hint=error.hint) from None


class OneOrMany:
    """The mark of a list that may be one text as well."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            lambda given: [given] if isinstance(given, str) else given, handler(source)
        )

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> Schema:
        many = handler(core)
        return {"anyOf": [many["items"], many]}


def mistake(problem: str, *, hint: str | None = None) -> PydanticCustomError:
    """Make the error that a validator raises: a sentence, and a hint or None."""
    return PydanticCustomError(_OWN, "{problem}", {"problem": problem, "hint": hint})


def _problem(model: type[BaseModel], path: tuple[Step, ...], error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        return unknown_field(str(path[-1]), _fields(model, path[:-1]))
    words = _WORDS.get(error["type"])
    return words.format(**error.get("ctx", {})) if words else error["msg"]


def _fields(model: type[BaseModel], path: tuple[Step, ...]) -> list[str]:
    """The names of the fields of the model that ``path`` leads to, entries of lists and mappings passed through."""
    for step in path:
        field = model.model_fields.get(str(step))
        model = (_inner_model(field.annotation) if field else None) or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    """The model inside ``tuple[Model, ...]``, ``dict[str, Model]`` or ``Model | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for model in map(_inner_model, get_args(annotation)) if model), None)


# What an editor knows of such a document.  A parsed file holds nothing but texts, mappings and lists; a schema is held
# against what YAML's own types make of the same text, so that a text may look like a number there.

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_YES_AND_NO = ("true", "false", "yes", "no", "on", "off", "t", "f", "y", "n")
YES_OR_NO = "|".join([*("".join(f"[{a.upper()}{a}]" for a in word) for word in _YES_AND_NO), "0", "1"])
"""A pattern for the words that are true or false."""

_SPELT_OTHERWISE = r"\$[{$]"  # a variable, or a dollar that is written twice (profiles/syncfile/variables.py)
_TEXT_TYPES = ("string", "number", "boolean")


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


def given(name: str) -> Schema:
    """The condition that a mapping has the field ``name``, and something in it."""
    return {"required": [name], "properties": {name: {"not": {"enum": [None, [], {}]}}}}


def only_with(name: str, condition: Schema) -> Schema:
    """The condition that a mapping meets ``condition`` if it has the field ``name``."""
    return {"if": given(name), "then": condition}


def json_schema(model: type[StrictModel], title: str) -> Schema:
    """The JSON Schema (2020-12) of the documents that ``check`` takes for a ``model``, as far as one can say it."""
    made = model.model_json_schema(by_alias=True, schema_generator=_Generator)
    return {"$schema": _DIALECT, "title": title} | {key: made[key] for key in made if key != "title"}


class _Generator(GenerateJsonSchema):
    """pydantic's schemas, for documents whose values are texts."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002  the names of fields say it
        return False

    def default_schema(self, schema: Any) -> Schema:
        return self.generate_inner(schema["schema"])

    def str_schema(self, schema: Any) -> Schema:
        return text_schema() | ({"minLength": schema["min_length"]} if "min_length" in schema else {})

    def int_schema(self, schema: Any) -> Schema:
        return one_of_kinds(super().int_schema(schema), pattern=r"\s*[+-]?[0-9]+\s*")

    def float_schema(self, schema: Any) -> Schema:
        return one_of_kinds(super().float_schema(schema), pattern=r"\s*[+-]?[0-9.]+([eE][+-]?[0-9]+)?\s*")

    def bool_schema(self, schema: Any) -> Schema:
        return one_of_kinds(super().bool_schema(schema), {"enum": [0, 1]}, pattern=YES_OR_NO)

    def literal_schema(self, schema: Any) -> Schema:
        words = schema["expected"]
        numbers = [{"const": int(word)} for word in words if word.isdigit()]
        return one_of_kinds(*numbers, pattern="|".join(map(re.escape, words)))

    def dict_schema(self, schema: Any) -> Schema:
        made: Schema = {"type": "object", "additionalProperties": self.generate_inner(schema["values_schema"])}
        names = self.generate_inner(schema["keys_schema"])
        return made | ({"propertyNames": names} if "pattern" in names else {})
