"""Variables in a sync file, ``${NAME}``, ``${NAME:-default}``, and ``$$`` for a dollar; and the logins that it names.

Variables stand in values, and in the keys of ``registries`` and ``map``, and are expanded after the file is parsed:
what a variable holds is never read as YAML.  Any other dollar is a dollar, so that a regular expression such as
``v1.*$`` means itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from syncer.errors import InvalidFile, UsageError
from syncer.formats.models import readable
from syncer.formats.text import read_text, unreadable
from syncer.formats.yaml import Map, Seq, Step, mistake_at, spell_path
from syncer.profiles.syncfile.document import Credentials, Registry

_DOLLAR = re.compile(r"\$(?:\$|\{([^{}]*)(\}?))")
_VARIABLE = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<has_default>:-(?P<default>.*))?", re.DOTALL)
_HOW = "a variable is written ${NAME} or ${NAME:-default}, and $$ is a dollar"
_LOGINS = "credentials"  # the field whose variables are secrets
_NAMED = ("username_env", "password_env")  # fields that name a variable


def literal(text: str) -> str:
    """Write ``text`` so that it means itself in a sync file.

    >>> literal("v1$"), literal("${HOME}"), literal("a$$b")
    ('v1$', '$${HOME}', 'a$$$b')
    """
    return re.sub(r"\$(?=[${])", "$$", text)


class Expansion(Struct):
    """The expansion of the variables in one file, whose values come from ``environment``.

    Without an environment all variables stay as they are, and none is a mistake: the file is checked and not used.

    ``secrets`` are the values of all variables that ``credentials`` use, wherever else they are used as well.
    ``mistakes`` are variables that are not set, and what looks like a variable and is none; these stay as written.
    ``places`` are those of the values that hold something from the environment; ``unknown`` are the fields of which
    nothing can be said, since a variable in them has no value.
    """

    environment: Mapping[str, str] | None
    origin: Path
    secrets: set[str] = field(default_factory=set)
    mistakes: list[InvalidFile] = field(default_factory=list)
    places: set[tuple[Step, ...]] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)

    def __repr__(self) -> str:
        return f"Expansion({str(self.origin)!r})"

    def expand(self, tree: Any) -> Any:
        """The ``tree`` of a file with its variables expanded; lines stay."""
        return self._node(tree, (), None, is_secret=False)

    def leaves_open(self, place: str) -> bool:
        """Tell whether a variable without a value stands at ``place``, so that nothing can be said about it."""
        if not self.unknown:
            return False
        return place in self.unknown or re.sub(r"\[[0-9]+\]$", "", place) in self.unknown - {""}  # or a list of it

    def _node(self, node: Any, path: tuple[Step, ...], line: int | None, *, is_secret: bool) -> Any:
        if isinstance(node, Map):
            return self._map(node, path, is_secret=is_secret)
        if isinstance(node, Seq):
            made = Seq()
            made.lines = node.lines
            made += [
                self._node(each, (*path, index), node.lines[index], is_secret=is_secret)
                for index, each in enumerate(node)
            ]
            return made
        return self._text(node, path, line, is_secret=is_secret) if isinstance(node, str) else node

    def _map(self, node: Map, path: tuple[Step, ...], *, is_secret: bool) -> Map:
        made = Map()
        for written, value in node.items():
            line = node.lines[written]
            key = self._text(written, (*path, written), line, is_secret=is_secret)
            if self.unknown and spell_path((*path, written)) in self.unknown:
                self.unknown.add(spell_path(path))
            if key in made:
                self._wrong((*path, written), line, f"it is {key!r}, which stands above already")
                continue
            made.lines[key] = line
            made[key] = self._node(value, (*path, key), line, is_secret=is_secret or key == _LOGINS)
            if is_secret and key in _NAMED and isinstance(made[key], str):
                self.secrets.add((self.environment or {}).get(made[key], ""))
        return made

    def _text(self, text: str, path: tuple[Step, ...], line: int | None, *, is_secret: bool) -> str:
        if "$" not in text:
            return text
        is_known = True

        def value(found: re.Match[str]) -> str:
            nonlocal is_known
            if found[0] == "$$":
                return "$"
            held = self._look_up(found, path, line, is_secret=is_secret)
            is_known &= held is not None
            return held or ""

        expanded = _DOLLAR.sub(value, text)
        if is_known:
            return expanded
        self.unknown.add(spell_path(path))
        return text

    def _look_up(
        self, found: re.Match[str], path: tuple[Step, ...], line: int | None, *, is_secret: bool
    ) -> str | None:
        """The value, else the default; an empty value counts as none where there is a default, as in a shell."""
        variable = _VARIABLE.fullmatch(found[1]) if found[2] else None
        if variable is None:
            self._wrong(path, line, f"{found[0][:80]!r} is no variable: {_HOW}")
            return None
        if self.environment is None:
            return None
        name = variable["name"]
        held = self.environment.get(name)
        if held:
            self.places.add(path)
        elif variable["has_default"]:
            held = variable["default"].replace("$$", "$")
        if held is None:
            self._wrong(path, line, f"the variable {name} is not set, and has no default")
        elif any("\ud800" <= letter <= "\udfff" for letter in held):  # as Python stands for bytes that are no UTF-8
            self._wrong(path, line, f"the variable {name} holds no text in UTF-8")
            return None
        elif is_secret:
            self.secrets.add(held)
        return held

    def _wrong(self, path: tuple[Step, ...], line: int | None, problem: str) -> None:
        self.mistakes.append(InvalidFile(self.origin, problem, line=line, field=spell_path(path)))


# Logins

_MAX_SECRET = 64 * 1024  # bytes; a registry's token has a few KiB


class Login(Struct, frozen=True):
    """A user name and a password."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Login(username={self.username!r})"


class Helper(Struct, frozen=True):
    """A credential helper of Docker, the program ``docker-credential-NAME``, which knows the credentials."""

    name: str


def find_login(
    credentials: Credentials, *, host: str, environment: Mapping[str, str], directory: Path
) -> Login | Helper:
    """Look up the ``credentials`` of ``host``; a file's path is relative to ``directory``.

    Raises ``UsageError`` when a variable or a file is missing or empty.
    """
    if credentials.helper is not None:
        return Helper(credentials.helper)
    username = credentials.username or _variable(credentials.username_env, host, environment)
    if credentials.password is not None:
        return Login(username, credentials.password.text)
    if credentials.password_file is not None:
        return Login(username, _content(directory / credentials.password_file.expanduser(), host))
    return Login(username, _variable(credentials.password_env, host, environment))


def _variable(name: str | None, host: str, environment: Mapping[str, str]) -> str:
    value = environment.get(name or "")
    if not value:
        raise UsageError(f"the credentials of {host} are in the variable {name}, which is not set")
    return value


def _content(path: Path, host: str) -> str:
    secret = read_text(path, limit=_MAX_SECRET).rstrip("\r\n")
    if not secret:
        raise UsageError(f"the credentials of {host} are in the file {path}, which is empty")
    return secret


def absent_certificates(registry: Registry, directory: Path) -> Iterator[tuple[str, str]]:
    """The fields of ``registry`` that name files nobody can read, and what is wrong with these."""
    for name in ("ca_cert", "client_cert", "client_key"):
        path: Path | None = getattr(registry, name)
        if path is not None and (problem := unreadable(directory / path.expanduser())):
            yield name, problem


def absent_logins(tree: Map, path: Path, environment: Mapping[str, str]) -> Iterator[InvalidFile]:
    """Find the credentials and certificates that are not where ``tree``, a file with ``registries``, says.

    Whatever else is wrong in it; nothing is said of those that cannot be read there.
    """
    registries = tree.get("registries")
    for host, node in registries.items() if isinstance(registries, dict) else ():
        registry = Registry(**readable(Registry, node))
        absent = list(absent_certificates(registry, path.parent))
        try:
            if registry.credentials:
                find_login(registry.credentials, host=host, environment=environment, directory=path.parent)
        except UsageError as error:
            absent.append(("credentials", str(error)))
        for name, problem in absent:
            yield mistake_at(tree, path, problem, "registries", host, name)
