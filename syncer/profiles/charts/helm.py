"""Helm's own rules: a chart's Chart.yaml, the config of it in a registry, values, and the functions of templates.

The functions are Go's own, Sprig's (masterminds.github.io/sprig) and Helm's (helm.sh, "Template Functions"), as far as
they need nothing but their values.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any

import orjson
import yaml

from syncer.errors import InvalidContent, InvalidFile
from syncer.formats.archive import read_archive
from syncer.formats.semver import newest
from syncer.formats.text import decode_text
from syncer.formats.yaml import Map, Seq, parse_documents, parse_yaml

_ORDER = (
    *("name", "home", "sources", "version", "description", "keywords", "maintainers", "icon", "apiVersion"),
    *("condition", "tags", "appVersion", "deprecated", "annotations", "kubeVersion", "dependencies", "type"),
)
_FIELDS_OF_ENTRIES = {
    "maintainers": ("name", "email", "url"),
    "dependencies": ("name", "version", "repository", "condition", "tags", "enabled", "import-values", "alias"),
}


def read_chart_metadata(file: IO[bytes], origin: str) -> Map | None:
    """Read the Chart.yaml of the chart in ``file``; None when the file is another archive, or not an archive.

    A chart is one directory that holds Chart.yaml.  Raises ``InvalidContent`` for a Chart.yaml without name
    or version, and for one that is not YAML.
    """
    found: bytes | None = None
    try:
        for _, content in read_archive(file, origin, _is_chart_yaml):
            found = content
            break
    except InvalidFile:
        return None
    if found is None:
        return None
    try:
        metadata = parse_yaml(decode_text(found, f"{origin}:Chart.yaml"), f"{origin}:Chart.yaml")
    except InvalidFile as error:
        raise InvalidContent(str(error)) from None
    if not isinstance(metadata, Map) or not all(isinstance(metadata.get(key), str) for key in ("name", "version")):
        raise InvalidContent(f"{origin} is not a chart: its Chart.yaml lacks name or version")
    return metadata


def chart_config(metadata: Mapping[str, Any]) -> bytes:
    """The JSON that Helm makes of Chart.yaml: the fields that Helm knows, in its order, without empty ones."""
    fields = {key: _field(key, metadata.get(key)) for key in _ORDER}
    return orjson.dumps({key: value for key, value in fields.items() if value})


def _is_chart_yaml(path: str) -> bool:
    return path.count("/") == 1 and path.endswith("/Chart.yaml")


def _field(key: str, value: Any) -> Any:
    """One field with the type that Helm gives it; the YAML loader gives only texts."""
    if key in ("deprecated", "enabled"):
        return isinstance(value, str) and value.lower() == "true"
    if key == "import-values":
        return value
    if key == "annotations" and isinstance(value, Map):
        return {name: text for name, text in value.items() if isinstance(text, str)}
    if isinstance(value, Seq) and (known := _FIELDS_OF_ENTRIES.get(key)):
        return [_fields(entry, known) for entry in value if isinstance(entry, Map)]
    if isinstance(value, Seq):
        return [entry for entry in value if isinstance(entry, str)]
    return value if isinstance(value, str) else None


def _fields(entry: Map, known: tuple[str, ...]) -> dict[str, Any]:
    fields = {key: _field(key, entry.get(key)) for key in known}
    return {key: value for key, value in fields.items() if value}


MARK = "\N{REPLACEMENT CHARACTER}"
"""The text of a value that is not known; no image has it in its name."""

_MAX_LIST = 10_000
_MAX_SUBJECT = 2_000  # characters that a regular expression of a chart is tried on
_VERB = re.compile(r"%[-+# 0]*\d*(?:\.\d+)?([a-zA-Z%])")
_NESTED = re.compile(r"[)][*+{]")  # an expression of this form can take for ever in Python


class _Unknown:
    def __repr__(self) -> str:
        return MARK


UNKNOWN: Any = _Unknown()


def is_true(value: Any) -> bool:
    """Tell whether Go takes ``value`` for true: what is empty or zero is not."""
    return bool(value)


def printed(value: Any) -> str:
    """``value`` as Go prints it; Helm prints nothing for None."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case float():
            return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
        case list() | tuple():
            return f"[{' '.join(map(printed, value))}]"
        case Mapping():
            return f"map[{' '.join(f'{key}:{printed(each)}' for key, each in value.items())}]"
        case _:
            return str(value)


def _format(pattern: str, *values: Any) -> str:
    left = list(values)

    def one(match: re.Match[str]) -> str:
        verb = match[1]
        if verb == "%":
            return "%"
        value = left.pop(0) if left else UNKNOWN
        if verb == "q":
            return json.dumps(printed(value), ensure_ascii=False)
        if verb in "dxXofeg" and isinstance(value, int | float):
            kind = int if verb in "dxXo" else float
            return (match[0][:-1] + verb) % kind(value)
        return (match[0][:-1] + "s") % printed(value) if verb in "sv" else printed(value)

    return _VERB.sub(one, printed(pattern))


def _plain(value: Any) -> Any:
    """``value`` as a document can hold it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items() if not callable(each)}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return MARK if value is UNKNOWN else value


def _to_yaml(value: Any) -> str:
    return (
        str(yaml.safe_dump(_plain(value), default_flow_style=False, width=1_000_000, allow_unicode=True))
        .removesuffix("\n")
        .removesuffix("\n...")
    )


def load_typed(text: str) -> Any:
    """The values in a YAML text, with numbers and booleans as Helm sees them; raises ``yaml.YAMLError``."""
    return yaml.load(text, Loader=_TypedLoader)  # noqa: S506  a loader of plain values


def parse_mapping(text: str, path: str) -> dict[str, Any] | None:
    """The values in ``text`` with the types that Helm gives them; None for what is no mapping."""
    try:
        parse_documents(text, path)  # the limits of aliases and depth
        document = load_typed(text)
    except (InvalidFile, yaml.YAMLError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


class _TypedLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A loader that leaves dates the texts that they are."""


_TypedLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in _TypedLoader.yaml_implicit_resolvers.items()
}


def deep_copy(value: Any) -> Any:
    """A copy of ``value`` in which no list or mapping is shared."""
    if isinstance(value, Mapping):
        return {key: deep_copy(each) for key, each in value.items()}
    return [deep_copy(each) for each in value] if isinstance(value, list) else value


def coalesce(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with ``overrides``, of which a null takes a value away."""
    result: dict[str, Any] = deep_copy(values)
    for key, value in overrides.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = coalesce(result[key], value)
        else:
            result[key] = deep_copy(value)
    return result


def merge(first: dict[str, Any], *others: Any, overwrite: bool = False) -> dict[str, Any]:
    """Bring ``others`` into ``first`` and return it; what is in both stays that of ``first`` unless ``overwrite``."""
    for other in others:
        for key, value in (other or {}).items():
            known = first.get(key)
            if isinstance(known, dict) and isinstance(value, Mapping):
                merge(known, value, overwrite=overwrite)
            elif key not in first or (overwrite and value is not None) or (not overwrite and not is_true(known)):
                first[key] = deep_copy(value)
    return first


def _default(other: Any, value: Any = None) -> Any:
    return value if value is UNKNOWN or is_true(value) else other


def _ternary(yes: Any, no: Any, test: Any) -> Any:
    return UNKNOWN if test is UNKNOWN and yes != no else yes if test else no


def _first_true(*values: Any) -> Any:
    return next((each for each in values if each is UNKNOWN or is_true(each)), None)


def _required(_message: Any, value: Any = None) -> Any:
    return UNKNOWN if value is None or value == "" else value


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if value is None or value is UNKNOWN or key is UNKNOWN:
            return value if value is None else UNKNOWN
        value = value.get(key) if isinstance(value, Mapping) else value[int(key)]
    return value


def _dict(*pairs: Any) -> dict[str, Any]:
    return {printed(pairs[place]): pairs[place + 1] for place in range(0, len(pairs) - 1, 2)}


def _set(mapping: dict[str, Any], key: Any, value: Any) -> dict[str, Any]:
    mapping[printed(key)] = value
    return mapping


def _unset(mapping: dict[str, Any], key: Any) -> dict[str, Any]:
    mapping.pop(key, None)
    return mapping


def _dig(*arguments: Any) -> Any:
    *keys, default, mapping = arguments
    for key in keys:
        if mapping is UNKNOWN:
            return UNKNOWN
        if not isinstance(mapping, Mapping) or key not in mapping:
            return default
        mapping = mapping[key]
    return mapping


def _indent(count: int, text: Any) -> str:
    return "\n".join(" " * int(count) + line for line in printed(text).split("\n"))


def _trunc(length: int, text: Any) -> str:
    return printed(text)[: int(length)] if int(length) >= 0 else printed(text)[int(length) :]


def _number(value: Any) -> int:
    if isinstance(value, str):
        return int(float(value)) if value.strip() else 0
    return int(value or 0)


def _equal(first: Any, *others: Any) -> Any:
    return any(first == other and isinstance(first, bool) == isinstance(other, bool) for other in others)


def _kind(value: Any) -> str:
    names = {
        bool: "bool",
        str: "string",
        int: "int64",
        float: "float64",
        list: "slice",
        dict: "map",
        type(None): "invalid",
    }
    return names.get(type(value), "map" if isinstance(value, Mapping) else "interface")


def _regex(pattern: Any, text: Any) -> tuple[re.Pattern[str], str]:
    if _NESTED.search(pattern) or len(text) > _MAX_SUBJECT:
        raise ValueError(pattern)
    return re.compile(pattern.replace(r"\z", r"\Z")), text


def _regex_replace(pattern: Any, text: Any, other: Any) -> str:
    compiled, subject = _regex(pattern, text)
    return compiled.sub(re.sub(r"\$\{?(\d+)\}?", r"\\\1", other), subject)


def _regex_find(pattern: Any, text: Any) -> str:
    compiled, subject = _regex(pattern, text)
    found = compiled.search(subject)
    return found[0] if found else ""


def _until(*bounds: Any) -> list[int]:
    numbers = range(*map(_number, bounds))
    if len(numbers) > _MAX_LIST:
        raise ValueError(bounds)
    return list(numbers)


def _repeat(count: Any, text: str) -> str:
    if int(count) * len(text) > 1_000_000:
        raise ValueError(count)
    return text * int(count)


def _semver_compare(constraint: str, version: str) -> bool:
    return newest([version], constraint) is not None


def _unique(values: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for each in values:
        if each not in found:
            found.append(each)
    return found


def _split(separator: str, text: str) -> dict[str, str]:
    return {f"_{number}": part for number, part in enumerate(text.split(separator))}


def _word_case(text: str, mark: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[\s_-]+", mark, text).lower()


def _substr(start: int, end: int, text: str) -> str:
    return text[:end] if start < 0 else text[start:] if end < 0 else text[start:end]


def _text(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with its last value as a text."""
    return lambda *values: function(*values[:-1], printed(values[-1]))


LENIENT = frozenset(
    {
        *("default", "coalesce", "ternary", "required", "index", "dict", "list", "tuple", "set", "get", "dig", "merge"),
        *("mustMerge", "mergeOverwrite", "mustMergeOverwrite", "print", "printf", "println", "toYaml", "toJson"),
        *("append", "concat", "prepend", "hasKey", "pick", "omit", "deepCopy", "quote", "squote", "keys", "len"),
        *("indent", "nindent", "join", "trim", "trimSuffix", "trimPrefix", "toString", "lower", "cat"),
    }
)
"""The functions that are called although one of their values is not known."""

FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "eq": _equal,
    "ne": lambda first, second: not _equal(first, second),
    "lt": lambda first, second: first < second,
    "le": lambda first, second: first <= second,
    "gt": lambda first, second: first > second,
    "ge": lambda first, second: first >= second,
    "not": lambda value: not is_true(value),
    "empty": lambda value: not is_true(value),
    "all": lambda *values: all(map(is_true, values)),
    "any": lambda *values: any(map(is_true, values)),
    "len": len,
    "index": _index,
    "slice": lambda value, start=0, end=None: value[start:end],
    "print": lambda *values: "".join(map(printed, values)),
    "println": lambda *values: " ".join(map(printed, values)) + "\n",
    "printf": _format,
    "default": _default,
    "coalesce": _first_true,
    "ternary": _ternary,
    "required": _required,
    "fail": lambda _message: "",
    "lookup": lambda *_: UNKNOWN,
    "quote": lambda *values: " ".join(
        json.dumps(printed(each), ensure_ascii=False) for each in values if each is not None
    ),
    "squote": lambda *values: " ".join(f"'{printed(each)}'" for each in values if each is not None),
    "upper": _text(str.upper),
    "lower": _text(str.lower),
    "title": _text(str.title),
    "trim": _text(str.strip),
    "trimAll": _text(lambda chars, text: text.strip(chars)),
    "trimPrefix": _text(lambda prefix, text: text.removeprefix(prefix)),
    "trimSuffix": _text(lambda suffix, text: text.removesuffix(suffix)),
    "trunc": _trunc,
    "substr": _substr,
    "nospace": _text(lambda text: re.sub(r"\s", "", text)),
    "indent": _indent,
    "nindent": lambda count, text: "\n" + _indent(count, text),
    "replace": _text(lambda old, new, text: text.replace(old, new)),
    "contains": _text(lambda part, text: part in text),
    "hasPrefix": _text(lambda prefix, text: text.startswith(prefix)),
    "hasSuffix": _text(lambda suffix, text: text.endswith(suffix)),
    "cat": lambda *values: " ".join(printed(each) for each in values if each is not None),
    "repeat": _repeat,
    "snakecase": _text(lambda text: _word_case(text, "_")),
    "kebabcase": _text(lambda text: _word_case(text, "-")),
    "camelcase": _text(lambda text: "".join(part[:1].upper() + part[1:] for part in re.split(r"[\s_-]+", text))),
    "plural": lambda one, many, count: one if count == 1 else many,
    "join": lambda mark, values: mark.join(map(printed, values if isinstance(values, list) else [values])),
    "split": _split,
    "splitList": _text(lambda separator, text: text.split(separator)),
    "splitn": lambda separator, count, text: _split(separator, text) if count else {},
    "toString": printed,
    "toStrings": lambda values: list(map(printed, values)),
    "int": _number,
    "int64": _number,
    "atoi": _number,
    "float64": lambda value: float(value or 0),
    "add": lambda *values: sum(map(_number, values)),
    "add1": lambda value: _number(value) + 1,
    "sub": lambda first, second: _number(first) - _number(second),
    "mul": lambda first, second: _number(first) * _number(second),
    "div": lambda first, second: int(_number(first) / _number(second)),
    "mod": lambda first, second: _number(first) % _number(second),
    "max": lambda *values: max(map(_number, values)),
    "min": lambda *values: min(map(_number, values)),
    "floor": lambda value: float(value) // 1,
    "until": _until,
    "untilStep": _until,
    "seq": lambda *values: " ".join(map(str, _until(values[0], _number(values[-1]) + 1))),
    "list": lambda *values: list(values),
    "tuple": lambda *values: list(values),
    "first": lambda values: values[0] if values else None,
    "last": lambda values: values[-1] if values else None,
    "rest": lambda values: values[1:],
    "initial": lambda values: values[:-1],
    "append": lambda values, value: [*values, value],
    "prepend": lambda values, value: [value, *values],
    "concat": lambda *values: [each for some in values for each in some or ()],
    "uniq": _unique,
    "compact": lambda values: [each for each in values if is_true(each)],
    "without": lambda values, *others: [each for each in values if each not in others],
    "has": lambda value, values: value in (values or ()),
    "reverse": lambda values: values[::-1],
    "sortAlpha": lambda values: sorted(map(printed, values)),
    "dict": _dict,
    "get": lambda mapping, key: (mapping or {}).get(key, ""),
    "set": _set,
    "unset": _unset,
    "hasKey": lambda mapping, key: key in (mapping or {}),
    "pluck": lambda key, *mappings: [each[key] for each in mappings if key in (each or {})],
    "dig": _dig,
    "keys": lambda *mappings: [key for each in mappings for key in each or ()],
    "values": lambda mapping: list((mapping or {}).values()),
    "pick": lambda mapping, *keys: {key: each for key, each in mapping.items() if key in keys},
    "omit": lambda mapping, *keys: {key: each for key, each in mapping.items() if key not in keys},
    "merge": merge,
    "mergeOverwrite": lambda first, *others: merge(first, *others, overwrite=True),
    "deepCopy": deep_copy,
    "kindOf": _kind,
    "typeOf": _kind,
    "kindIs": lambda kind, value: _kind(value) == kind,
    "typeIs": lambda kind, value: _kind(value) == kind,
    "toYaml": _to_yaml,
    "toJson": lambda value: json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=False),
    "toPrettyJson": lambda value: json.dumps(_plain(value), indent=2, ensure_ascii=False),
    "toRawJson": lambda value: json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=False),
    "fromYaml": lambda text: load_typed(text) or {},
    "fromYamlArray": lambda text: load_typed(text) or [],
    "fromJson": json.loads,
    "fromJsonArray": json.loads,
    "b64enc": _text(lambda text: base64.b64encode(text.encode()).decode()),
    "b64dec": lambda text: base64.b64decode(text).decode("utf-8", "replace"),
    "sha256sum": _text(lambda text: hashlib.sha256(text.encode()).hexdigest()),
    "sha1sum": _text(lambda text: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()),
    "regexMatch": lambda pattern, text: bool(_regex_find(pattern, text)),
    "regexFind": _regex_find,
    "regexReplaceAll": _regex_replace,
    "regexReplaceAllLiteral": lambda pattern, text, other: _regex_replace(pattern, text, other.replace("\\", "\\\\")),
    "regexSplit": lambda pattern, text, _count: _regex(pattern, text)[0].split(text),
    "semverCompare": _semver_compare,
}
