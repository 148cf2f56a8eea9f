"""Values and errors of ``import syncer`` go to another process and back: the test finds them all by itself.

A value is what a public function takes or returns, and what such a value is made of; an error is any ``SyncerError``.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import importlib
import inspect
import pickle
import pkgutil
import types
import typing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from enum import Enum
from multiprocessing import get_context
from pathlib import Path, PurePath
from typing import Any

import pytest
from msgspec import NODEFAULT
from yarl import URL

import syncer
from syncer.bundle import Bundle, open_bundle
from syncer.errors import InvalidFile, NotFound, SyncerError, TargetError
from syncer.profiles.syncfile.document import Credentials, Source, SyncDocument
from syncer.profiles.syncfile.sync_file import SyncFile, parse_sync_file
from syncer.report import ProgressMeter
from tests.conftest import OpenRegistry
from tests.support import client, images

_LIVE = {Bundle, ProgressMeter}  # what is open, or listens, belongs to its process


_EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"


def a_sync_file() -> SyncFile:
    path = _EXAMPLES / "sync.yaml"
    return parse_sync_file(path.read_text(), path, {"HARBOR_PASSWORD": "secret"})


_READ: dict[Any, Callable[[], Any]] = {  # what is made of a file, since its fields must fit each other
    SyncFile: a_sync_file,
    SyncDocument: lambda: a_sync_file().document,
    Source: lambda: a_sync_file().sources[0],
    Credentials: lambda: next(each.credentials for each in a_sync_file().by_host.values() if each.credentials),
}


def listen(_: object) -> None:
    """A function for fields that hold one; a process finds it by its name."""


def _names() -> dict[str, Any]:
    """All that the modules of the package name, by which annotations are resolved."""
    found: dict[str, Any] = {}
    for module in pkgutil.walk_packages(syncer.__path__, "syncer."):
        if not module.name.endswith(("__main__", "demo")):
            found = {**vars(importlib.import_module(module.name)), **found}
    return found


NAMES = _names()


def is_value(kind: Any) -> bool:
    return inspect.isclass(kind) and kind.__module__.startswith("syncer") and bool(fields(kind))


def fields(kind: type) -> list[tuple[str, bool]]:
    """The fields that ``kind`` is made of, and whether each may be left out."""
    if dataclasses.is_dataclass(kind):
        missing = dataclasses.MISSING
        return [
            (field.name, field.default is not missing or field.default_factory is not missing)
            for field in dataclasses.fields(kind)
            if field.init
        ]
    names, defaults = getattr(kind, "__struct_fields__", ()), getattr(kind, "__struct_defaults__", ())
    given = [NODEFAULT] * (len(names) - len(defaults)) + list(defaults)  # of the last fields
    return [(name, default is not NODEFAULT) for name, default in zip(names, given, strict=True)]


def hints(thing: Any) -> dict[str, Any]:
    return typing.get_type_hints(thing, None, NAMES)


def reachable() -> set[type]:
    """The values that public names lead to."""
    found: set[type] = set()
    waiting: list[Any] = [getattr(syncer, name) for name in syncer.__all__]
    while waiting:
        hint = waiting.pop()
        if inspect.isfunction(hint):
            waiting += hints(hint).values()
        elif isinstance(hint, list):  # what a listener is given
            waiting += hint
        elif typing.get_origin(hint) is not typing.Literal and (arguments := typing.get_args(hint)):
            waiting += arguments
        elif is_value(hint) and hint not in found | _LIVE:
            found.add(hint)
            waiting += hints(hint).values()
    return found


def errors() -> set[type[SyncerError]]:
    found = {SyncerError}
    waiting = [SyncerError]
    while waiting:
        kinds = waiting.pop().__subclasses__()
        found.update(kinds)
        waiting += kinds
    return {kind for kind in found if kind.__module__.startswith("syncer")}


_PLAIN: dict[Any, Any] = {
    bool: True,
    int: 7,
    float: 1.5,
    str: "some text",
    bytes: b"some bytes",
    object: "anything",
    Any: "anything",
    Path: Path("a/file"),
    PurePath: PurePath("a/file"),
    URL: URL("http://127.0.0.1/"),
    datetime: datetime(2024, 1, 15, 12, tzinfo=UTC),
    type(None): None,
}


def sample(hint: Any, inside: tuple[type, ...] = ()) -> Any:
    """A value that fits ``hint``, with something in each of its fields; ``inside`` is what it is a part of."""
    if hint in _PLAIN:
        return _PLAIN[hint]
    if typing.get_args(hint):
        return _sample_of_several(typing.get_origin(hint), typing.get_args(hint), inside)
    return next(iter(hint)) if issubclass(hint, Enum) else make(hint, inside)


def _sample_of_several(origin: Any, arguments: tuple[Any, ...], inside: tuple[type, ...]) -> Any:
    if origin is typing.Literal:
        return arguments[0]
    if origin is collections.abc.Callable:
        return listen
    if origin in (typing.Union, types.UnionType):
        chosen = [each for each in arguments if each is not type(None) and each not in inside]
        return sample(chosen[0], inside) if chosen else None
    held = () if arguments[0] in inside else tuple(sample(each, inside) for each in arguments if each is not ...)
    if issubclass(origin, collections.abc.Mapping):
        return dict([held])
    return held if origin.__module__ == "collections.abc" else origin(held)


def make(kind: Any, inside: tuple[type, ...] = (), *, whole: bool = True) -> Any:
    """A value of ``kind``; without ``whole`` what may be left out is left out."""
    if kind in _READ:
        return _READ[kind]()
    if issubclass(kind, BaseException):
        wanted = [(name, _may_be_left_out(kind, name)) for name in inspect.signature(kind).parameters]
        known = hints(kind.__init__)
        if "args" in dict(wanted):
            return kind("some text")
    else:
        wanted, known = fields(kind), hints(kind)
    values = {name: sample(known[name], (*inside, kind)) for name, is_optional in wanted if whole or not is_optional}
    if not issubclass(kind, BaseException):
        return kind(**values)
    parameters = inspect.signature(kind).parameters.items()
    positional = [values.pop(name) for name, each in parameters if each.kind is each.POSITIONAL_ONLY]
    return kind(*positional, **values)


def _may_be_left_out(kind: Any, name: str) -> bool:
    return inspect.signature(kind).parameters[name].default is not inspect.Parameter.empty


def shape(value: Any) -> Any:
    """All that is in ``value``, as what can be compared: two errors that say the same are not equal."""
    if isinstance(value, BaseException):
        return type(value), shape(value.args), shape(vars(value)), shape(value.__cause__)
    if is_value(type(value)):
        return type(value), [(name, shape(getattr(value, name))) for name, _ in fields(type(value))]
    if callable(value):  # what it holds may have no equality
        return getattr(value, "__name__", type(value))
    if isinstance(value, dict):
        return [(shape(key), shape(each)) for key, each in value.items()]
    if isinstance(value, list | tuple):
        return [shape(each) for each in value]
    return value


def there_and_back(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def test_the_values_and_errors_of_the_package_are_found() -> None:
    assert {syncer.RegistrySettings, syncer.PushResult, syncer.Digest, syncer.NameMapping} <= reachable()
    assert len(reachable()) > 20
    assert {InvalidFile, TargetError} < errors()


@pytest.mark.parametrize("kind", sorted(reachable(), key=str), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("whole", [True, False])
def test_every_public_value_survives_pickle(kind: type, whole: bool) -> None:
    value = make(kind, whole=whole)

    assert shape(there_and_back(value)) == shape(value)


@pytest.mark.parametrize("kind", sorted(errors(), key=str), ids=lambda kind: kind.__name__)
def test_every_error_survives_pickle_with_all_that_it_tells(kind: type[SyncerError]) -> None:
    error = make(kind)

    assert shape(there_and_back(error)) == shape(error)
    assert str(there_and_back(error)) == str(error)


def test_an_error_keeps_the_answer_that_it_was_made_of() -> None:
    """By which a fleet tells trouble that may pass from a refusal."""
    error = TargetError("the target refused the content")
    error.__cause__ = NotFound("PUT http://127.0.0.1/v2/a/manifests/1", 404, ["no such place"])

    assert shape(there_and_back(error)) == shape(error)


def _fail() -> None:
    raise InvalidFile.of([InvalidFile("sync.yaml", "it is wrong", line=line, hint="mend it") for line in (1, 2)])


def test_a_pool_of_processes_goes_on_after_an_error() -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        with pytest.raises(InvalidFile) as caught:
            pool.submit(_fail).result()

        assert [str(each) for each in caught.value.all] == ["sync.yaml:1: it is wrong", "sync.yaml:2: it is wrong"]
        assert pool.submit(len, "abc").result() == 3


async def test_what_a_run_tells_survives_pickle_and_an_open_bundle_says_that_it_cannot(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """The number of its open file would be another file's in another process."""
    events: list[object] = []
    async with debian_registry("source") as source:
        await client.push(source, "app", images.multi_platform("a"), "1")
        built = await syncer.build([f"{source.address}/app:1"], output=tmp_path, emit=events.append)
    assert built.path is not None
    assert events
    assert shape(there_and_back([built, *events])) == shape([built, *events])

    with open_bundle(built.path) as bundle, pytest.raises(TypeError, match="give its path"):
        pickle.dumps(bundle)
