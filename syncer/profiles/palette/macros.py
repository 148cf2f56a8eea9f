"""Resolving Palette's macros, such as ``{{.spectro.pack.edge-native-byoi.options.system.uri}}``.

Only texts inside a pack's content are resolved.  The value of a macro may have macros itself.  A macro without a
known value is an error: nothing is ever downloaded under a name with ``{{`` in it.  The functions are those of
Sprig that profiles use (masterminds.github.io/sprig, "String Functions" and "Default Functions").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from msgspec import Struct, field

from syncer.errors import UsageError

MACRO = re.compile(r"\{\{-?\s*(?P<expression>[^\n]*?)\s*-?\}\}")

_MAX_LENGTH = 4096  # characters; a reference has at most 255 + 128, and chained macros could double without end
_MAX_CHAIN = 50
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|`[^`]*`|'[^']*')|(?P<pipe>\|)|(?P<path>\.[^\s|()"'`]+)"""
    r"""|(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<number>-?[0-9]+(?:\.[0-9]+)?))"""
)
_EMPTY: Mapping[str, Any] = MappingProxyType({})
_HINT = "define it in the profile, or give its value with --set-var NAME=VALUE"


class MacroValues(Struct, frozen=True, kw_only=True):
    """The values that macros can refer to.

    ``overrides`` (``--set-var``) win over all others; their names are full (``spectro.system.kubernetes.version``)
    or, for variables, macros and system values, without the kind (``kubernetes.version``).  A variable with the
    value None is a secret that Palette does not reveal.
    """

    packs: Mapping[str, Sequence[Any]] = field(default_factory=lambda: _EMPTY)  # name to the documents of its values
    variables: Mapping[str, str | None] = field(default_factory=lambda: _EMPTY)
    macros: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    system: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    overrides: Mapping[str, str] = field(default_factory=lambda: _EMPTY)

    def resolve(self, text: str) -> str:
        """Replace every macro in ``text``; raises ``UsageError``, which names the macro."""
        return _Resolution(self).text(text, ())


def parse_overrides(texts: Iterable[str]) -> dict[str, str]:
    """Parse values of ``--set-var NAME=VALUE`` into names and values; raises ``UsageError``.

    A name may be written like the macro, with or without braces, or without ``spectro.`` and the kind.
    """
    overrides: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().removeprefix("{{").removesuffix("}}").strip().removeprefix(".")
        if not equals or not name:
            raise UsageError(f"{text[:80]!r} is not NAME=VALUE", hint="write it like --set-var registry=ttl.sh")
        overrides[name] = value
    return overrides


class _Resolution:
    """The resolution of one text; it remembers each value, so that chains of macros cannot multiply the work."""

    def __init__(self, scope: MacroValues) -> None:
        self._scope = scope
        self._known: dict[str, str | None] = {}

    def text(self, text: str, chain: tuple[str, ...]) -> str:
        def replace(match: re.Match[str]) -> str:
            value = self._expression(match["expression"], match[0], chain)
            if value is None:
                raise _unresolved(match[0], "nothing defines it")
            return value

        resolved = MACRO.sub(replace, text)
        if len(resolved) > _MAX_LENGTH:
            raise UsageError(f"macros make {text[:80]!r} longer than {_MAX_LENGTH} characters")
        if "{{" in resolved:
            raise UsageError(f"{resolved[:160]!r} has {{{{ without a macro that ends in the same line")
        return resolved

    def _expression(self, expression: str, macro: str, chain: tuple[str, ...]) -> str | None:
        value: str | None = None
        for number, stage in enumerate(_stages(expression, macro)):
            arguments = [] if number == 0 else [value]
            head = stage[0] if stage else ("", "")
            words = [self._operand(kind, word, macro, chain) for kind, word in stage[1:]] + arguments
            if head[0] == "word":
                value = _call(head[1], words, macro)
            elif number == 0 and len(stage) == 1:
                value = self._operand(*head, macro, chain)
            else:
                raise _unresolved(macro, "it is not a value followed by pipes")
        return value

    def _operand(self, kind: str, word: str, macro: str, chain: tuple[str, ...]) -> str | None:
        if kind == "path":
            return self._value(word.removeprefix("."), macro, chain)
        if kind == "text":
            return re.sub(r"\\(.)", r"\1", word[1:-1]) if word[0] == '"' else word[1:-1]
        if kind == "number":
            return word
        raise _unresolved(macro, f"{word!r} is not a value")

    def _value(self, name: str, macro: str, chain: tuple[str, ...]) -> str | None:
        """The value of ``name`` (``spectro.pack.…``), itself resolved; None when nothing defines it."""
        if name in chain:
            raise _unresolved(macro, f"it leads back to itself ({' → '.join([*chain, name])})")
        if len(chain) >= _MAX_CHAIN:
            raise _unresolved(macro, f"it leads through more than {_MAX_CHAIN} others")
        if name not in self._known:
            found = self._look_up(name, macro)
            self._known[name] = None if found is None else self.text(found, (*chain, name))
        return self._known[name]

    def _look_up(self, name: str, macro: str) -> str | None:
        scope = self._scope
        spectro, _, rest = name.partition(".")
        kind, _, key = rest.partition(".")
        if name in scope.overrides:
            return scope.overrides[name]
        if spectro != "spectro" or kind not in ("pack", "var", "macro", "system"):
            raise _unresolved(macro, "it is none of spectro.pack, spectro.var, spectro.macro and spectro.system")
        if kind == "pack":
            return self._pack_value(key, macro)
        if key in scope.overrides:
            return scope.overrides[key]
        if kind == "system":
            return scope.system.get(key)
        if kind == "macro":
            return scope.macros.get(key)
        if key in scope.variables and scope.variables[key] is None:
            raise _unresolved(macro, "its value is a secret, which Palette does not reveal")
        return scope.variables.get(key)

    def _pack_value(self, key: str, macro: str) -> str | None:
        """The value at ``PACK.path``; names of packs may hold dots, so the longest matching name wins."""
        packs = [name for name in self._scope.packs if key.startswith(f"{name}.")]
        if not packs:
            raise _unresolved(macro, "the profile has no such pack")
        name = max(packs, key=len)
        parts = key.removeprefix(f"{name}.").split(".")
        for document in self._scope.packs[name]:
            for value in _at(document, parts):
                if isinstance(value, str) or value is None:
                    return value or ""
                raise _unresolved(macro, "it leads to a list or a mapping, not to a text")
        return None


def _at(node: Any, parts: Sequence[str]) -> Iterator[Any]:
    """Yield every value at the path ``parts``: keys can hold dots (``system.uri``), so long keys are tried first."""
    if not parts:
        yield node
    elif isinstance(node, dict):
        for length in range(len(parts), 0, -1):
            key = ".".join(parts[:length])
            if key in node:
                yield from _at(node[key], parts[length:])
    elif isinstance(node, list) and parts[0].isdecimal() and int(parts[0]) < len(node):
        yield from _at(node[int(parts[0])], parts[1:])


def _stages(expression: str, macro: str) -> list[list[tuple[str, str]]]:
    stages: list[list[tuple[str, str]]] = [[]]
    place = 0
    while place < len(expression):
        match = _TOKEN.match(expression, place)
        if match is None:
            raise _unresolved(macro, f"{expression[place : place + 40]!r} in it is not understood")
        if match.lastgroup == "pipe":
            stages.append([])
        else:
            stages[-1].append((match.lastgroup or "", match[0].strip()))
        place = match.end()
    return stages


def _call(name: str, arguments: Sequence[str | None], macro: str) -> str | None:
    """Call one of Sprig's functions; the piped value is the last argument, and None when nothing defines it."""
    if name not in _FUNCTIONS:
        raise _unresolved(macro, f"the function {name!r} is not one of {', '.join(sorted(_FUNCTIONS))}")
    count, function = _FUNCTIONS[name]
    if len(arguments) != count:
        raise _unresolved(macro, f"the function {name} takes {count} values, not {len(arguments)}")
    if None in arguments and name != "default":
        return None
    try:
        return function(*arguments)
    except ValueError:
        raise _unresolved(macro, f"the function {name} needs whole numbers here") from None


def _substr(start: str, end: str, text: str) -> str:
    first, last = int(start), int(end)
    if first < 0:
        return text[:last]
    return text[first:] if last < 0 else text[first:last]


def _trunc(length: str, text: str) -> str:
    return text[: int(length)] if int(length) >= 0 else text[int(length) :]


_FUNCTIONS: Mapping[str, tuple[int, Callable[..., str | None]]] = {
    "default": (2, lambda other, text: text or other),
    "lower": (1, str.lower),
    "quote": (1, lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'),
    "replace": (3, lambda old, new, text: text.replace(old, new)),
    "substr": (3, _substr),
    "trim": (1, str.strip),
    "trimPrefix": (2, lambda prefix, text: text.removeprefix(prefix)),
    "trimSuffix": (2, lambda suffix, text: text.removesuffix(suffix)),
    "trunc": (2, _trunc),
    "upper": (1, str.upper),
}


def _unresolved(macro: str, reason: str) -> UsageError:
    return UsageError(f"the macro {macro[:160]} cannot be resolved: {reason}", hint=_HINT)
