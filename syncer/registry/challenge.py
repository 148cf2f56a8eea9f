"""``WWW-Authenticate``, read as RFC 9110 §11.6.1 writes it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TOKEN68 = re.compile(r"[ \t]+([A-Za-z0-9._~+/-]+=*)[ \t]*(?=,|$)")
_VALUE = re.compile(r'[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([!#$%&\'*+.^_`|~0-9A-Za-z:/-]+))')
_EQUALS = re.compile(r"[ \t]*=")
_GAP = re.compile(r"[ \t,]*")
_JUNK = re.compile(r'(?:"(?:[^"\\]|\\.)*(?:"|\\?$)|[^,"])*')
_LONGEST = 64 * 1024


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate that a server offers; scheme and parameter names are lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    token68: str | None = None


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """Every challenge in the headers' values, in order.  What cannot be read is passed over.

    >>> [found.scheme for found in parse_challenges(['Negotiate, Basic realm="a, b"'])]
    ['negotiate', 'basic']
    """
    return tuple(found for header in headers for found in _challenges(header[:_LONGEST]))


def _challenges(header: str) -> Iterator[Challenge]:
    scheme: str | None = None
    parameters: dict[str, str] = {}
    position = _end(_GAP, header, 0)
    while position < len(header):
        name = _TOKEN.match(header, position)
        if name is None:
            position = max(_end(_JUNK, header, position), position + 1)
        elif value := _VALUE.match(header, name.end()):
            quoted, plain = value.groups()
            parameters.setdefault(name[0].lower(), plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
            position = value.end()
        elif _EQUALS.match(header, name.end()):  # a value that cannot be read
            position = _end(_JUNK, header, name.end())
        else:
            if scheme is not None:
                yield Challenge(scheme, MappingProxyType(parameters))
            scheme, parameters = name[0].lower(), {}
            position = name.end()
            if token68 := _TOKEN68.match(header, position):
                yield Challenge(scheme, token68=token68[1])
                scheme, position = None, token68.end()
        position = _end(_GAP, header, position)
    if scheme is not None:
        yield Challenge(scheme, MappingProxyType(parameters))


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    found = pattern.match(text, position)
    return found.end() if found else position
