"""Go templates with the functions that charts use, evaluated as far as values say.

Helm itself is not needed: only the images of the result matter, and those are composed of few expressions.  What is not
known here (a function that makes certificates, the answer of a cluster, a file of the chart) is ``UNKNOWN``, which
prints as ``MARK``; a branch that depends on it is taken both ways.  The language is that of Go's ``text/template``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct, field
from yaml import YAMLError

from syncer.errors import SyncerError
from syncer.profiles.charts.helm import FUNCTIONS, LENIENT, MARK, UNKNOWN, is_true, printed

_MAX_DEPTH = 60  # templates that include each other
_MAX_STEPS = 400_000  # actions; the largest known chart takes 60,000
_MAX_TEXT = 16 * 1024 * 1024  # characters of one result

_TOKEN = re.compile(
    r"""(?P<space>\s+)|(?P<text>"(?:[^"\\\n]|\\.)*"|`[^`]*`)|(?P<char>'(?:[^'\\]|\\.)+')
    |(?P<number>[+-]?(?:0x[0-9a-fA-F]+|[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?))
    |(?P<declare>:=)|(?P<assign>=)|(?P<pipe>\|)|(?P<open>\()|(?P<close>\))|(?P<comma>,)
    |(?P<field>\.[A-Za-z_]\w*)|(?P<variable>\$\w*)|(?P<dot>\.)|(?P<word>[A-Za-z_]\w*)""",
    re.VERBOSE,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "'": "'"}


_VERSION = {"Version": "v1.34.0", "GitVersion": "v1.34.0", "Major": "1", "Minor": "34"}
_RELEASE = {"Name": "release", "Namespace": "default", "Service": "Helm", "Revision": 1}
BUILT_IN: Mapping[str, Any] = {
    "Release": {**_RELEASE, "IsInstall": True, "IsUpgrade": False},
    "Capabilities": {
        "KubeVersion": _VERSION,
        "APIVersions": {"Has": lambda *_: UNKNOWN},
        "HelmVersion": {"Version": "v3.19.0"},
    },
    "Files": {key: (lambda *_: UNKNOWN) for key in ("Get", "Glob", "GetBytes", "Lines", "AsConfig", "AsSecrets")},
}
"""The objects that each template starts from, whatever its chart (helm.sh, "Built-in Objects")."""


class TemplateError(SyncerError):
    """A text is no template, or it takes more steps than any chart needs."""


class _Token(Struct, frozen=True):
    kind: str
    text: str
    is_glued: bool  # no white space before it


class _Node(Struct):
    """An action: its word, its pipeline, the names that it declares, and the nodes in it."""

    word: str
    pipe: Any = None
    names: tuple[str, ...] = ()
    body: list[Any] = field(default_factory=list)
    other: list[Any] = field(default_factory=list)  # after else
    declares: bool = True


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class _Scope(Struct):
    dot: Any
    root: Any
    names: dict[str, Any]
    above: _Scope | None = None

    def inner(self, dot: Any) -> _Scope:
        return _Scope(dot, self.root, {}, self)

    def find(self, name: str) -> dict[str, Any] | None:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names
            scope = scope.above
        return None


class Templates:
    """The templates of a chart and its subcharts, which share the names that ``define`` gives."""

    def __init__(self) -> None:
        self._defined: dict[str, list[Any]] = {}
        self._steps = 0
        self._depth = 0

    def parse(self, text: str) -> list[Any]:
        """Parse ``text``, and keep what it defines; raises ``TemplateError``."""
        return _Parser(text, self._defined).parse()

    def render(self, nodes: Sequence[Any], dot: Any) -> str:
        """The text that ``nodes`` give for ``dot``; raises ``TemplateError``."""
        out: list[str] = []
        try:
            self._run(nodes, _Scope(dot, dot, {}), out)
        except (_Break, _Continue):
            raise TemplateError("break or continue stands outside a range") from None
        except RecursionError:
            raise TemplateError("it is nested too deeply") from None
        text = "".join(out)
        if len(text) > _MAX_TEXT:
            raise TemplateError(f"it gives more than {_MAX_TEXT} characters")
        return text

    def _run(self, nodes: Sequence[Any], scope: _Scope, out: list[str]) -> None:
        for node in nodes:
            if isinstance(node, str):
                out.append(node)
            else:
                self._count()
                self._act(node, scope, out)

    def _count(self) -> None:
        self._steps += 1
        if self._steps > _MAX_STEPS:
            raise TemplateError(f"it takes more than {_MAX_STEPS} steps")

    def _act(self, node: _Node, scope: _Scope, out: list[str]) -> None:
        match node.word:
            case "print":
                out.append(printed(self._pipe(node.pipe, scope)))
            case "set":
                value = self._pipe(node.pipe, scope)
                names = scope.names if node.declares else scope.find(node.names[0]) or scope.names
                names[node.names[0]] = value
            case "if" | "with":
                self._choose(node, scope, out)
            case "range":
                self._range(node, scope, out)
            case "template":
                out.append(self._include(node.names[0], self._pipe(node.pipe, scope) if node.pipe else None))
            case "break":
                raise _Break
            case "continue":
                raise _Continue

    def _choose(self, node: _Node, scope: _Scope, out: list[str]) -> None:
        value = self._pipe(node.pipe, scope)
        inner = scope.inner(value if node.word == "with" else scope.dot)
        if node.names:
            inner.names[node.names[0]] = value
        if value is UNKNOWN or is_true(value):
            self._run(node.body, inner, out)
        if value is UNKNOWN or not is_true(value):
            self._run(node.other, scope.inner(scope.dot), out)

    def _range(self, node: _Node, scope: _Scope, out: list[str]) -> None:
        value = self._pipe(node.pipe, scope)
        pairs: list[tuple[Any, Any]] = []
        if isinstance(value, Mapping):
            pairs = sorted(value.items(), key=lambda pair: str(pair[0]))
        elif isinstance(value, list):
            pairs = list(enumerate(value))
        elif isinstance(value, int) and not isinstance(value, bool):
            pairs = [(number, number) for number in range(min(value, _MAX_STEPS))]
        elif value is UNKNOWN:
            pairs = [(UNKNOWN, UNKNOWN)]
        if not pairs:
            self._run(node.other, scope.inner(scope.dot), out)
        for key, each in pairs:
            self._count()
            inner = scope.inner(each)
            inner.names |= dict(zip(node.names, (key, each) if len(node.names) == 2 else (each,), strict=False))
            try:
                self._run(node.body, inner, out)
            except _Break:
                break
            except _Continue:
                continue

    def _include(self, name: Any, dot: Any) -> str:
        nodes = self._defined.get(name) if isinstance(name, str) else None
        if nodes is None:
            return MARK
        return self._nested(nodes, dot)

    def _nested(self, nodes: Sequence[Any], dot: Any) -> str:
        if self._depth >= _MAX_DEPTH:
            raise TemplateError(f"more than {_MAX_DEPTH} templates include each other")
        self._depth += 1
        try:
            out: list[str] = []
            self._run(nodes, _Scope(dot, dot, {}), out)
            return "".join(out)
        finally:
            self._depth -= 1

    def _tpl(self, text: Any, dot: Any) -> Any:
        if not isinstance(text, str):
            return UNKNOWN if text is UNKNOWN else printed(text)
        return self._nested(_Parser(text, self._defined).parse(), dot) if "{{" in text else text

    def _pipe(self, pipe: list[list[Any]], scope: _Scope) -> Any:
        value: Any = None
        for number, command in enumerate(pipe):
            value = self._command(command, scope, () if number == 0 else (value,))
        return value

    def _command(self, command: list[Any], scope: _Scope, last: tuple[Any, ...]) -> Any:
        self._count()
        (kind, word, fields), *rest = command
        if kind == "word" and word not in ("true", "false", "nil"):
            value = self._call(word, rest, scope, last)
            return self._fields(value, fields, ())
        arguments = [self._operand(each, scope) for each in rest]
        return self._operand((kind, word, fields), scope, (*arguments, *last))

    def _call(self, name: str, rest: list[Any], scope: _Scope, last: tuple[Any, ...]) -> Any:
        if name in ("and", "or"):
            return self._logic(name, rest, scope, last)
        arguments = [*(self._operand(each, scope) for each in rest), *last]
        match name:
            case "include" if len(arguments) == 2:
                return self._include(*arguments)
            case "tpl" if len(arguments) == 2:
                return self._tpl(*arguments)
        if re.match("must[A-Z]", name):
            name = name[4].lower() + name[5:]
        function = FUNCTIONS.get(name)
        if function is None or (name not in LENIENT and any(each is UNKNOWN for each in arguments)):
            return UNKNOWN
        try:
            return function(*arguments)
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, re.error, YAMLError, SyncerError):
            return UNKNOWN  # Helm would fail; other images of the chart are not concerned

    def _logic(self, name: str, rest: list[Any], scope: _Scope, last: tuple[Any, ...]) -> Any:
        value: Any = None
        is_unknown = False
        for number in range(len(rest) + len(last)):
            value = self._operand(rest[number], scope) if number < len(rest) else last[0]
            is_unknown = is_unknown or value is UNKNOWN
            if value is not UNKNOWN and is_true(value) == (name == "or"):
                return value
        return UNKNOWN if is_unknown else value

    def _operand(self, term: Any, scope: _Scope, arguments: Sequence[Any] = ()) -> Any:
        kind, word, fields = term
        value: Any
        match kind:
            case "value":
                return word
            case "pipe":
                value = self._pipe(word, scope)
            case "dot":
                value = scope.dot
            case "variable" if word == "$":
                value = scope.root
            case "variable":
                value = (scope.find(word) or {}).get(word, UNKNOWN)
            case _:
                return {"true": True, "false": False, "nil": None}.get(word, self._call(word, [], scope, ()))
        return self._fields(value, fields, arguments)

    def _fields(self, value: Any, fields: Sequence[str], arguments: Sequence[Any]) -> Any:
        for name in fields:
            if isinstance(value, Mapping):
                value = value.get(name)
            elif value is not None:
                return UNKNOWN
        return value(*arguments) if callable(value) else value


class _Parser:
    """A parser of one text; what it defines goes into ``defined``."""

    def __init__(self, text: str, defined: dict[str, list[Any]]) -> None:
        self._pieces = list(_pieces(text))
        self._defined = defined
        self._place = 0

    def parse(self) -> list[Any]:
        nodes, end = self._block()
        if end is not None:
            raise TemplateError(f"{end.text} without a beginning")
        return nodes

    def _block(self) -> tuple[list[Any], _Token | None]:
        """The nodes up to ``end`` or ``else``, and that word with the rest of its action in ``_rest``."""
        nodes: list[Any] = []
        while self._place < len(self._pieces):
            piece = self._pieces[self._place]
            self._place += 1
            if isinstance(piece, str):
                nodes.append(piece)
                continue
            if not piece:
                continue
            word = piece[0]
            if word.kind == "word" and word.text in ("end", "else"):
                self._rest = piece[1:]
                return nodes, word
            nodes += self._action(piece)
        return nodes, None

    def _action(self, tokens: list[_Token]) -> list[Any]:
        word = tokens[0].text if tokens[0].kind == "word" else ""
        match word:
            case "if" | "with" | "range":
                return [self._control(word, tokens[1:])]
            case "define" | "block":
                name, rest = _name(tokens)
                body = self._inside()
                self._defined[name] = body
                return [_Node("template", _pipeline(rest), (name,))] if word == "block" else []
            case "template":
                name, rest = _name(tokens)
                return [_Node("template", _pipeline(rest) if rest else None, (name,))]
            case "break" | "continue":
                return [_Node(word)]
        names, declares, rest = _declared(tokens)
        return [_Node("set" if names else "print", _pipeline(rest), names, declares=declares)]

    def _control(self, word: str, tokens: list[_Token]) -> _Node:
        names, _, rest = _declared(tokens)
        node = _Node(word, _pipeline(rest), names)
        node.body, end = self._block()
        if end is not None and end.text == "else":
            if self._rest:  # else if, else with
                node.other = [self._control(self._rest[0].text, self._rest[1:])]
                return node
            node.other, end = self._block()
        if end is None or end.text != "end":
            raise TemplateError(f"{word} without an end")
        return node

    def _inside(self) -> list[Any]:
        nodes, end = self._block()
        if end is None or end.text != "end":
            raise TemplateError("define without an end")
        return nodes


def _pieces(text: str) -> Iterator[str | list[_Token]]:
    """The plain texts and the tokens of the actions, in turn; white space that an action trims is gone."""
    place = 0
    trims = False
    while True:
        start = text.find("{{", place)
        plain = text[place : start if start >= 0 else len(text)]
        if trims:
            plain = plain.lstrip()
        if start < 0:
            yield plain
            return
        if text.startswith("{{-", start) and text[start + 3 : start + 4].isspace():
            plain = plain.rstrip()
            start += 1
        yield plain
        tokens, place, trims = _tokens(text, start + 2)
        yield tokens


def _tokens(text: str, place: int) -> tuple[list[_Token], int, bool]:
    """The tokens of the action that begins at ``place``, where the text goes on, and whether it is trimmed there."""
    tokens: list[_Token] = []
    is_glued = False
    comment = re.compile(r"\s*/\*.*?\*/\s*", re.DOTALL).match(text, place)
    if comment:
        place = comment.end()
    while True:
        if text.startswith("}}", place):
            return tokens, place + 2, False
        if text.startswith("-}}", place):
            return tokens, place + 3, True
        match = _TOKEN.match(text, place)
        if match is None:
            raise TemplateError(f"{text[place : place + 40]!r} is not understood")
        kind = match.lastgroup or ""
        if kind != "space":
            tokens.append(_Token(kind, match[0], is_glued))
        is_glued = kind != "space"
        place = match.end()


def _name(tokens: list[_Token]) -> tuple[str, list[_Token]]:
    if len(tokens) < 2 or tokens[1].kind != "text":
        raise TemplateError(f"{tokens[0].text} without a name")
    return _literal(tokens[1]), tokens[2:]


def _declared(tokens: list[_Token]) -> tuple[tuple[str, ...], bool, list[_Token]]:
    """The variables before ``:=`` or ``=``, whether they are new, and the tokens after it."""
    for number, token in enumerate(tokens):
        if token.kind in ("declare", "assign"):
            return tuple(each.text for each in tokens[:number:2]), token.kind == "declare", tokens[number + 1 :]
        if token.kind not in ("variable", "comma"):
            break
    return (), True, tokens


def _pipeline(tokens: list[_Token]) -> list[list[Any]]:
    pipe, rest = _commands(tokens, 0)
    if rest < len(tokens):
        raise TemplateError(f"{tokens[rest].text!r} stands where nothing can")
    return pipe


def _commands(tokens: list[_Token], place: int, depth: int = 0) -> tuple[list[list[Any]], int]:
    """The commands of a pipeline from ``place`` on, up to a closing parenthesis."""
    if depth > _MAX_DEPTH:
        raise TemplateError("too many parentheses")
    pipe: list[list[Any]] = [[]]
    while place < len(tokens) and tokens[place].kind != "close":
        token = tokens[place]
        place += 1
        if token.kind == "pipe":
            pipe.append([])
        elif token.kind == "open":
            inner, place = _commands(tokens, place, depth + 1)
            if place >= len(tokens):
                raise TemplateError("a parenthesis is not closed")
            place += 1
            pipe[-1].append(("pipe", inner, []))
        elif token.kind == "field" and token.is_glued and pipe[-1]:
            pipe[-1][-1][2].append(token.text[1:])
        else:
            pipe[-1].append(_term(token))
    if not all(pipe):
        raise TemplateError("a pipeline has an empty part")
    return pipe, place


def _term(token: _Token) -> tuple[str, Any, list[str]]:
    """A value, a name or a field, and the fields after it."""
    match token.kind:
        case "field":
            return "dot", "", [token.text[1:]]
        case "text" | "number" | "char":
            return "value", _literal(token), []
        case "dot" | "variable" | "word":
            return token.kind, token.text, []
        case _:
            raise TemplateError(f"{token.text!r} stands where nothing can")


def _literal(token: _Token) -> Any:
    if token.kind == "number":
        if "x" in token.text:
            return int(token.text, 0)
        return float(token.text) if re.search(r"[.e]", token.text) else int(token.text)
    inner = token.text[1:-1]
    if token.text[0] == "`":
        return inner
    unescaped = re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[0]), inner)
    return ord(unescaped[0]) if token.kind == "char" and unescaped else unescaped
