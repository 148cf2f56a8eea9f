"""Checking documents that people write against pydantic models; an error names file, line and field."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from syncer.errors import InvalidFile, SyncerError
from syncer.formats.yaml import Step, line_of, nearest, spell_path, unknown_field

Model = TypeVar("Model", bound="StrictModel")
Value = TypeVar("Value")

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


def check(model: type[Model], tree: Any, origin: Path | str) -> Model:
    """Turn ``tree``, a result of ``parse_yaml``, into a ``model``; raises ``InvalidFile`` with all its mistakes."""
    try:
        return model.model_validate(tree)
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False, include_input=False)
        raise InvalidFile.of(_told(model, tree, origin, error) for error in _causes(errors)) from None


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


def _told(model: type[BaseModel], tree: Any, origin: Path | str, error: ErrorDetails) -> InvalidFile:
    path = tuple(step for step in error["loc"] if step != "[key]")
    hint = error.get("ctx", {}).get("hint")
    return InvalidFile(
        origin, _problem(model, path, error), line=line_of(tree, path), field=spell_path(path), hint=hint
    )


def parsed(parse: Callable[[str], Value], *, may_be: type | tuple[()] = ()) -> BeforeValidator:
    """Make a validator for a field whose text ``parse`` turns into a value; ``parse`` raises ``SyncerError``.


    A program may give the value itself; ``may_be`` is its type if a document could hold it too.
    """

    def validate(given: Any) -> Any:
        if isinstance(given, _NO_TEXT) and not isinstance(given, may_be):
            raise PydanticCustomError("string_type", "")
        try:
            return parse(given) if isinstance(given, str) else given
        except SyncerError as error:
            raise mistake(str(error), hint=error.hint) from None

    return BeforeValidator(validate)


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
