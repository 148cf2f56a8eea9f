"""Reading YAML that people write, without guessing types.

Every scalar stays the text that was written: ``version: 1.10`` is not the number 1.1, ``no`` is not false.
Only ``~``, ``null`` and an empty value, without quotes, are None.  The tree is built from libyaml's events
rather than by PyYAML's own constructors: nothing recurses, a key given twice is refused, and a document
whose aliases multiply it ("billion laughs") is refused before it fills the memory.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from msgspec import Struct, field

from syncer.errors import InvalidFile

if TYPE_CHECKING:
    import yaml

Step: TypeAlias = str | int

MAX_NODES = 1_000_000
"""Values in one file, each counted as often as aliases repeat it; the largest known pack has 5,000."""

_MAX_DEPTH = 100
_MAX_HELD = 32 * 1024 * 1024  # characters that a stream holds at once, each value counted as _VALUE more
_VALUE = 100  # bytes of a value in memory, beside its text
_MAX_SILENCE = 8 * 1024 * 1024  # bytes from which the parser makes no value
_TOO_DEEP = f"it is nested deeper than {_MAX_DEPTH} levels"
_NOTHING = frozenset({"", "~", "null", "Null", "NULL"})
_KEY_PROBLEM = "a key must be a text; a value that begins with { needs quotes"


class Map(dict[str, Any]):
    """A mapping that remembers the line (from 1) of each of its values."""

    __slots__ = ("lines",)

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, int] = {}


class Seq(list[Any]):
    """A list that remembers the line (from 1) of each of its entries."""

    __slots__ = ("lines",)

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[int] = []


def parse_yaml(
    text: str, origin: Path | str, *, max_nodes: int = MAX_NODES, repeated: list[InvalidFile] | None = None
) -> Any:
    """Parse the one document in ``text`` into ``Map``, ``Seq``, ``str`` or None; an empty text gives None.

    Raises ``InvalidFile``, which names ``origin``, line and column; ``repeated`` is that of ``parse_documents``.
    """
    read = _read(text, origin, max_nodes, repeated)
    if len(read.roots) > 1:
        raise InvalidFile(
            origin,
            f"it holds {len(read.roots)} documents, and one is expected",
            line=read.starts[1],
            hint="leave out the line `---`, which begins another document",
        )
    return read.roots[0] if read.roots else None


def parse_documents(
    text: str, origin: Path | str, *, max_nodes: int = MAX_NODES, repeated: list[InvalidFile] | None = None
) -> list[Any]:
    """Parse all documents in ``text``, which may be none; see ``parse_yaml``.

    With ``repeated`` a key may stand twice in one mapping: the last value counts, and what would have been raised is
    added to the list, for those who tell it beside other mistakes, or know a program that accepts it.
    """
    return _read(text, origin, max_nodes, repeated).roots


def _read(text: str, origin: Path | str, max_nodes: int, repeated: list[InvalidFile] | None) -> _Builder:
    builder = _Builder(origin, max_nodes, repeated)
    for event in _events(text, origin):
        builder.take(event)
    return builder


class Readable(Protocol):
    """Something that bytes are read from, such as a file."""

    def read(self, length: int, /) -> bytes: ...


def stream_yaml(
    source: Readable, origin: Path | str, *, depth: int, max_bytes: int, max_nodes: int = MAX_NODES
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Read documents of any size, and yield what they hold, in memory that does not grow with them.

    A value inside ``depth`` mappings and lists is yielded whole, with the keys of the mappings that lead to it.  Of
    those above it, which follow what is in them, texts are yielded whole, and mappings and lists without their content.

    Raises ``InvalidFile``, which names ``origin``, line and column: also for more than ``max_bytes`` or ``max_nodes``,
    and for what cannot be read without holding much of it.
    """
    reader = _BoundedReader(source, origin, max_bytes)
    builder = _Streaming(origin, max_nodes, depth)
    for event in _events(reader, origin):
        reader.silent = 0
        builder.take(event)
        if builder.ready:
            yield from builder.ready
            builder.ready.clear()


def _events(source: str | Readable, origin: Path | str) -> Iterator[Any]:
    import yaml  # noqa: PLC0415  slow to import, and most runs read no YAML

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser is absent from some builds of PyYAML
    try:
        yield from yaml.parse(source, Loader=loader)  # type: ignore[arg-type]  # it reads bytes, as files do
    except yaml.MarkedYAMLError as error:
        if "nesting depth" in str(error.problem):  # libyaml's own limit, which some versions meet before ours
            raise InvalidFile(origin, _TOO_DEEP) from None
        raise _syntax_error(error, origin) from None
    except yaml.YAMLError as error:
        raise InvalidFile(origin, f"this is not YAML: {str(error).splitlines()[0]}") from None


def line_of(root: Any, path: tuple[Step, ...]) -> int | None:
    """The line (from 1) of the value at ``path`` in a tree of ``parse_yaml``, or of the nearest value above it.

    None when no line is known.
    """
    line: int | None = None
    for step in path:
        try:
            line, root = root.lines[step], root[step]
        except (AttributeError, LookupError, TypeError):
            break
    return line


def spell_path(path: tuple[Step, ...]) -> str:
    """The text for ``path``: ``pack.content.images[0].image``; a blank key stands in quotes."""
    parts = (f"[{step}]" if isinstance(step, int) else f".{step if step.strip() else repr(step)}" for step in path)
    return "".join(parts).removeprefix(".")


def mistake_at(
    tree: Any, origin: Path | str, problem: str, *place: Step, hint: str | None = None, line: int | None = None
) -> InvalidFile:
    """Make the error about the value at ``place`` in ``tree``, which ``origin`` holds; else ``line`` is its line."""
    at = line_of(tree, place) or line
    return InvalidFile(origin, problem, line=at, field=spell_path(place), hint=hint)


def unknown_field(name: str, known: list[str]) -> str:
    """The message for a field ``name`` that is not one of ``known``."""
    near = nearest(name, known)
    return f"there is no such field; did you mean {near}?" if near else f"no such field; known: {', '.join(known)}"


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The one of ``known`` that somebody who wrote ``name`` may have meant; None when none is like it."""
    for close in difflib.get_close_matches(name.lower(), known, n=1):
        return close
    shares = (each for each in known if min(len(each), len(name)) > 2 and (name in each or each in name))
    return next(shares, None)


class _Frame(Struct):
    """A mapping or a list that has begun and not ended."""

    node: Map | Seq
    anchor: str | None
    line: int
    counted: int  # nodes before this one
    key: str | None = None
    merging: bool = False
    merged: list[Map] = field(default_factory=list)
    starts: dict[str, int] = field(default_factory=dict)  # the lines of the keys

    @property
    def wants_key(self) -> bool:
        return self.key is None and isinstance(self.node, Map)


class _Builder:
    def __init__(self, origin: Path | str, max_nodes: int, repeated: list[InvalidFile] | None = None) -> None:
        self.roots: list[Any] = []
        self.starts: list[int] = []  # lines of documents
        self._repeated = repeated
        self._origin = origin
        self._max_nodes = max_nodes
        self._count = 0
        self._open: list[_Frame] = []
        self._anchors: dict[str, tuple[Any, int]] = {}  # the value and its number of nodes

    def take(self, event: Any) -> None:
        match type(event).__name__:
            case "ScalarEvent":
                self._scalar(event)
            case "MappingStartEvent":
                self._begin(event, Map())
            case "SequenceStartEvent":
                self._begin(event, Seq())
            case "MappingEndEvent" | "SequenceEndEvent":
                self._end(event)
            case "AliasEvent":
                self._alias(event)
            case "DocumentStartEvent":
                self._anchors.clear()
                self.starts.append(event.start_mark.line + 1)

    def _scalar(self, event: Any) -> None:
        self._grow(event, 1)
        plain = event.implicit[0]
        value = None if plain and event.value in _NOTHING else event.value
        if event.anchor:
            self._remember(event.anchor, value, 1)
        self._place(event, value, event.start_mark.line + 1, is_merge=plain and value == "<<")

    def _begin(self, event: Any, node: Map | Seq) -> None:
        if len(self._open) >= _MAX_DEPTH:
            raise self._error(event, _TOO_DEEP)
        if self._open and self._open[-1].wants_key:
            raise self._error(event, _KEY_PROBLEM)
        self._open.append(_Frame(node, event.anchor, event.start_mark.line + 1, self._count))
        self._grow(event, 1)

    def _end(self, event: Any) -> None:
        frame = self._open.pop()
        node = frame.node
        if isinstance(node, Map):
            for merged in frame.merged:
                for key, value in merged.items():
                    if key not in node:
                        node[key] = value
                        node.lines[key] = merged.lines[key]
        if frame.anchor:
            self._remember(frame.anchor, node, self._count - frame.counted)
        self._place(event, node, frame.line)

    def _remember(self, anchor: str, value: Any, nodes: int) -> None:
        self._anchors[anchor] = value, nodes

    def _alias(self, event: Any) -> None:
        if event.anchor not in self._anchors:
            problem = f"the alias *{event.anchor[:60]} has no anchor"
            raise self._error(event, problem, hint="a text that begins with * stands in quotes")
        value, weight = self._anchors[event.anchor]
        self._grow(event, weight)
        self._place(event, value, event.start_mark.line + 1)

    def _place(self, event: Any, value: Any, line: int, *, is_merge: bool = False) -> None:
        """Put a finished value where it belongs: the roots, a list, or a mapping's next key or value."""
        if not self._open:
            self.roots.append(value)
            return
        frame = self._open[-1]
        if isinstance(frame.node, Seq):
            frame.node.append(value)
            frame.node.lines.append(line)
        elif frame.wants_key:
            if not isinstance(value, str):
                raise self._error(event, _KEY_PROBLEM)
            frame.key, frame.merging = value, is_merge
            if value not in frame.node:
                frame.starts[value] = line
            elif not is_merge:
                self._repeat(frame, value, line)
        elif frame.merging:
            frame.merged += self._mergeable(event, value)
            frame.key, frame.merging = None, False
        else:
            key = frame.key or ""
            frame.node[key] = value
            frame.node.lines[key] = line
            frame.key = None

    def _repeat(self, frame: _Frame, key: str, line: int) -> None:
        above = [each.key if isinstance(each.node, Map) else len(each.node) for each in self._open[:-1]]
        place = spell_path((*(step for step in above if step is not None), key))
        first = frame.starts.get(key, line)
        also = f", on line {first} as well" if first < line else ""
        problem = f"the key {key[:80]!r} stands twice in one mapping{also}"
        error = InvalidFile(self._origin, problem, line=line, field=place[:400])
        if self._repeated is None:
            raise error
        self._repeated.append(error)

    def _mergeable(self, event: Any, value: Any) -> list[Map]:
        """The mappings that ``<<`` merges: one, or a list of them (yaml.org/type/merge.html)."""
        maps = value if isinstance(value, Seq) else [value]
        if not all(isinstance(each, Map) for each in maps):
            raise self._error(event, "<< can only bring in mappings")
        return list(maps)

    def _grow(self, event: Any, nodes: int) -> None:
        self._count += nodes
        if self._count > self._max_nodes:
            raise self._error(event, f"it holds more than {self._max_nodes} values, aliases counted")

    def _error(self, event: Any, problem: str, hint: str | None = None) -> InvalidFile:
        mark = event.start_mark
        return InvalidFile(self._origin, f"column {mark.column + 1}: {problem}", line=mark.line + 1, hint=hint)


class _Streaming(_Builder):
    """A builder that gives away each value inside ``depth`` mappings and lists, and all above it, when it is complete.

    It holds the keys of what is open, the values of anchors, and the value that is being built.
    """

    def __init__(self, origin: Path | str, max_nodes: int, depth: int) -> None:
        super().__init__(origin, max_nodes)
        self.ready: list[tuple[tuple[str, ...], Any]] = []
        self._depth = depth
        self._kept = 0  # characters and values of keys and anchors, weighed as in _MAX_HELD
        self._built = 0  # and those of the value that is being built

    def _grow(self, event: Any, nodes: int) -> None:
        super()._grow(event, nodes)
        self._built += _VALUE + len(getattr(event, "value", ""))
        if self._kept + self._built > _MAX_HELD:
            raise self._error(event, "it cannot be read piece by piece, since one of its parts is too large")

    def _remember(self, anchor: str, value: Any, nodes: int) -> None:
        if isinstance(value, Map | Seq) and len(self._open) < self._depth:
            self._anchors.pop(anchor, None)  # its content is not there any more
            return
        self._kept += self._built
        super()._remember(anchor, value, nodes)

    def _place(self, event: Any, value: Any, line: int, *, is_merge: bool = False) -> None:
        if len(self._open) > self._depth:
            super()._place(event, value, line, is_merge=is_merge)
            return
        frame = self._open[-1] if self._open else None
        if frame is not None and frame.wants_key:
            if is_merge:
                raise self._error(event, "<< is not understood in so large a mapping")
            super()._place(event, value, line)
            self._kept += _VALUE + len(value)
        else:
            self.ready.append((tuple(frame.key for frame in self._open if frame.key is not None), value))
            if frame is not None and isinstance(frame.node, Map):
                super()._place(event, None, 0)
        self._built = 0


class _BoundedReader:
    """A source that is read by a parser, as long as it is not too large and makes sense."""

    def __init__(self, source: Readable, origin: Path | str, most: int) -> None:
        self.silent = 0  # bytes since the last value
        self._source = source
        self._origin = origin
        self._most = most
        self._count = 0

    def read(self, size: int) -> bytes:
        piece = self._source.read(size)
        self._count += len(piece)
        self.silent += len(piece)
        if self._count > self._most:
            raise InvalidFile(self._origin, f"it is larger than {self._most} bytes")
        if self.silent > _MAX_SILENCE:
            raise InvalidFile(self._origin, f"it has {_MAX_SILENCE} bytes in one piece")
        return piece


_SLIPS = (
    ("tab character", "a tab does not indent, blanks do"),
    (
        "parsing a flow",
        'inside { } and [ ] a value with one of these, or with a comma, stands in quotes, like "${NAME}"',
    ),
    ("scanning an alias", "a text that begins with * stands in quotes"),
    ("cannot start any token", "a tab does not indent, blanks do; a text that begins with @, ` or % stands in quotes"),
    ("did not find expected", "entries of one list, or of one mapping, begin in the same column"),
    ("mapping values are not allowed", "a text with a colon and a blank in it stands in quotes"),
)
"""What people write who meet these words of the parser."""


def _syntax_error(error: yaml.MarkedYAMLError, origin: Path | str) -> InvalidFile:
    mark = error.problem_mark or error.context_mark
    problem = ", ".join(filter(None, (error.context, error.problem)))
    if mark is None:
        return InvalidFile(origin, f"this is not YAML: {problem}")
    hint = next((hint for words, hint in _SLIPS if words in problem), None)
    said = f"column {mark.column + 1}: this is not YAML: {problem}"
    return InvalidFile(origin, said, line=mark.line + 1, hint=hint)
