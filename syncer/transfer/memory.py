"""The content of a target as it was seen: the memory that one run leaves for the next, and the list of ``syncer have``.

Both have the blobs of a target by digest, each with the spaces in which it was seen.  A memory is a hint that saves
requests, and tells besides what an unchanged image consists of; the list says to somebody elsewhere what need not be
brought (docs/delta.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Self, TypeAlias

import orjson
from msgspec import Struct, field, structs

from syncer.errors import InvalidContent
from syncer.oci import Digest, Platform

_CONTENTS = "syncer/contents@1"
_VERSION = 2
_VERSION_BEFORE = 1  # had one space for each blob, under ``locations``

Places: TypeAlias = dict[str, list[str]]
"""Digests, each with the spaces that have it."""


class Memory(Struct):
    """The spaces in which blobs were seen at a target, the digests of indexes reduced to some platforms, and the
    manifests below indexes and above referrers.
    """

    blobs: Places = field(default_factory=dict)  # each with the one space in which it was seen last
    reductions: dict[str, str] = field(default_factory=dict)  # digest and platforms → digest
    children: dict[str, list[str]] = field(default_factory=dict)  # an index → all manifests below it
    subjects: dict[str, str] = field(default_factory=dict)  # a referrer → what it refers to

    @classmethod
    def from_json(cls, document: Any) -> Self:
        """Read the document of ``to_json``; any other document gives an empty memory, since it is only a hint."""
        if not isinstance(document, dict) or document.get("version") not in (_VERSION, _VERSION_BEFORE):
            return cls()
        before = _texts(document.get("locations"))
        return cls(
            {digest: [space] for digest, space in before.items()} | _lists(document.get("blobs")),
            _texts(document.get("reductions")),
            _lists(document.get("children")),  # which an older version did not write
            _texts(document.get("subjects")),
        )

    def to_json(self) -> dict[str, Any]:
        return {"version": _VERSION} | structs.asdict(self)

    def location(self, digest: Digest) -> str | None:
        """The space in which the blob was last seen, or None."""
        return next(iter(self.blobs.get(str(digest), ())), None)

    def remember_location(self, digest: Digest, space: str) -> None:
        """Remember that ``space`` has the blob."""
        self.blobs[str(digest)] = [space]

    def forget(self, digest: Digest) -> None:
        """Forget the location of a blob, which is not there any more."""
        self.blobs.pop(str(digest), None)

    def reduction(self, root: Digest, platforms: Iterable[Platform]) -> Digest | None:
        """The digest of the index ``root`` reduced to ``platforms``, or None when it is not known."""
        known = self.reductions.get(_key(root, platforms))
        try:
            return Digest.parse(known) if known else None
        except InvalidContent:
            return None

    def remember_reduction(self, root: Digest, platforms: Iterable[Platform], result: Digest) -> None:
        """Remember that the index ``root`` reduced to ``platforms`` is ``result``."""
        self.reductions[_key(root, platforms)] = str(result)

    def manifests_below(self, root: Digest) -> tuple[Digest, ...] | None:
        """The manifests below the index ``root``, which never change; None when that is not known."""
        known = self.children.get(str(root))
        try:
            return None if known is None else tuple(map(Digest.parse, known))
        except InvalidContent:
            return None

    def remember_below(self, root: Digest, manifests: Iterable[Digest]) -> None:
        """Remember which manifests are below the index ``root``."""
        self.children[str(root)] = list(map(str, manifests))

    def subject(self, referrer: Digest) -> Digest | None:
        """The digest that ``referrer`` refers to, if it was met before, and refers to anything."""
        known = self.subjects.get(str(referrer))
        try:
            return Digest.parse(known) if known else None
        except InvalidContent:
            return None

    def remember_subject(self, referrer: Digest, subject: Digest) -> None:
        """Remember that ``referrer`` refers to ``subject``."""
        self.subjects[str(referrer)] = str(subject)


class Contents(Struct, frozen=True):
    """The content right below each manifest of a bundle: blobs, and manifests that have an entry of their own.

    A push leaves it beside the definition, so that ``syncer have`` need not read each manifest.
    """

    below: dict[str, list[str]] = field(default_factory=dict)

    def render(self) -> bytes:
        """The file; the same value always gives the same bytes.  Nothing below anything is no file at all."""
        document = {"kind": _CONTENTS, "manifests": dict(sorted(self.below.items()))}
        return orjson.dumps(document) if self.below else b""

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Read what ``render`` wrote; anything else gives no contents, since they only save requests."""
        try:
            document = orjson.loads(content)
        except orjson.JSONDecodeError:
            return cls()
        if not isinstance(document, dict) or document.get("kind") != _CONTENTS:
            return cls()
        below = _lists(document.get("manifests"))
        names = below.keys() | {name for names in below.values() for name in names}
        return cls(below) if all(re.search(_DIGEST.pattern, name) for name in names) else cls()

    def of(self, root: Digest) -> tuple[list[Digest], list[Digest]] | None:
        """The manifests of an image, with ``root`` first, and its blobs; None where they are not known."""
        if str(root) not in self.below:
            return None
        manifests: dict[str, None] = {str(root): None}
        blobs: dict[str, None] = {}
        for manifest in (rest := [str(root)]):
            for name in self.below[manifest]:
                if name not in self.below:
                    blobs[name] = None
                elif name not in manifests:
                    manifests[name] = None
                    rest.append(name)
        return list(map(Digest.parse, manifests)), list(map(Digest.parse, blobs))


def _texts(document: Any) -> dict[str, str]:
    if not isinstance(document, dict):
        return {}
    return {key: text for key, text in document.items() if isinstance(text, str)}


def _lists(document: Any) -> dict[str, list[str]]:
    if not isinstance(document, dict):
        return {}
    return {
        key: texts
        for key, texts in document.items()
        if isinstance(texts, list) and all(isinstance(text, str) for text in texts)
    }


def _key(root: Digest, platforms: Iterable[Platform]) -> str:
    return " ".join([str(root), *map(str, platforms)])


KIND = "syncer/have@1"


class _Form(Struct, frozen=True):
    """The form of a text: a regular expression, and what is wrong with a text that it does not fit."""

    pattern: str
    problem: str

    def check(self, value: Any, key: str = "") -> str:
        """Take a text of this form; raises ``InvalidHave``, which names ``key`` or else the text."""
        if not isinstance(value, str):
            raise InvalidHave(f"{key} must be a text", key)
        if not re.search(self.pattern, value) or value.endswith("\n"):  # before which a $ fits too
            raise InvalidHave(f"{value[:160]!r} {self.problem}", key or value)
        return value


_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_ANY = _Form(r"", "must be one line")
_DATE = _Form(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$", "is not a time like 2026-06-01T22:00:00Z")
_DIGEST = _Form(r"^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$", "is not a digest")
_REPOSITORY = _Form(rf"^{_PART}(?:/{_PART})*$", "is not the name of a repository")
_SOME = _Form(r".", "must not be empty")
_TAG = _Form(r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$", "is not a tag")
"""The forms of distribution-spec, "Pulling manifests"."""


class InvalidHave(InvalidContent):
    """A document is no list of ``syncer have``; ``key`` is a text that stands where the mistake is, or empty."""

    def __init__(self, problem: str, key: str = "") -> None:
        super().__init__(problem)
        self.key = key


class Have(Struct, frozen=True, kw_only=True):
    """The content that a registry has below a path, as ``syncer have`` saw it.

    Repositories are named without that path, which ``base`` is, so that the list is short.  ``problems`` say why it
    is not all that the registry has; what could not be seen is not in it.
    """

    registry: str
    base: str = ""
    date: str  # in UTC, to the second
    mapping: str | None = None  # the fingerprint of the rules by which content landed there, where that is known
    problems: tuple[str, ...] = ()
    blobs: Places = field(default_factory=dict)
    manifests: Places = field(default_factory=dict)
    tags: dict[str, list[str]] | None = None  # of each repository, where they were asked for

    @property
    def repositories(self) -> list[str]:
        """All repositories that have any of it."""
        return sorted({name for places in (self.blobs, self.manifests) for names in places.values() for name in names})

    def place(self, name: str) -> str:
        """The repository ``name`` as the registry calls it."""
        return f"{self.base}/{name}" if self.base else name

    def render(self) -> bytes:
        """The file: a line for each digest, in their order, so that two of them can be compared by eye."""
        document: dict[str, Any] = {
            "kind": KIND,
            "registry": self.registry,
            "base": self.base,
            "date": self.date,
            "mapping": self.mapping,
            "complete": not self.problems,
            "problems": list(self.problems),
            "repositories": self.repositories,
            "manifests": self.manifests,
            "blobs": self.blobs,
        }
        if self.tags is not None:
            document["tags"] = self.tags
        return b"{\n" + b",\n".join(f'"{key}": '.encode() + _lines(value) for key, value in document.items()) + b"\n}\n"

    @classmethod
    def from_json(cls, document: Any) -> Self:
        """Read the document of ``render``; fields that are not known are passed over.  Raises ``InvalidHave``."""
        if not isinstance(document, dict) or document.get("kind") != KIND:
            raise InvalidHave(f"it is no list of syncer have: its kind is not {KIND}", "kind")
        mapping, problems = document.get("mapping"), _strings(document, "problems")
        if document.get("complete") is not (not problems):
            raise InvalidHave("complete must be true where there are no problems, and else false", "complete")
        for name in _strings(document, "repositories"):
            _REPOSITORY.check(name)
        return cls(
            registry=_SOME.check(document.get("registry"), "registry"),
            base=_ANY.check(document.get("base"), "base"),
            date=_DATE.check(document.get("date"), "date"),
            mapping=None if mapping is None else _DIGEST.check(mapping, "mapping"),
            problems=tuple(problems),
            blobs=_lists_of(document, "blobs", _DIGEST, _REPOSITORY),
            manifests=_lists_of(document, "manifests", _DIGEST, _REPOSITORY),
            tags=_lists_of(document, "tags", _REPOSITORY, _TAG) if "tags" in document else None,
        )


def have_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a list of ``syncer have``."""
    repository = {"type": "string", "pattern": _REPOSITORY.pattern}
    places = {
        "type": "object",
        "propertyNames": {"pattern": _DIGEST.pattern},
        "additionalProperties": {"type": "array", "minItems": 1, "items": repository},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What a registry has, as syncer have lists it",
        "type": "object",
        "required": ["kind", "registry", "base", "date", "complete", "problems", "repositories", "manifests", "blobs"],
        "properties": {
            "kind": {"const": KIND},
            "registry": {"type": "string", "minLength": 1, "description": "The registry, HOST[:PORT]."},
            "base": {"type": "string", "description": "The path in it that was looked at; empty for all of it."},
            "date": {"type": "string", "pattern": _DATE.pattern, "description": "When it was looked at, in UTC."},
            "mapping": {
                "type": ["string", "null"],
                "pattern": _DIGEST.pattern,
                "description": "A hash of the rules of --map by which content landed there; null where it is unknown.",
            },
            "complete": {"type": "boolean", "description": "False when not all could be seen; problems say why."},
            "problems": {"type": "array", "items": {"type": "string"}},
            "repositories": {
                "type": "array",
                "items": repository,
                "description": "All that have any of it, below base.",
            },
            "manifests": places | {"description": "Each manifest and index, with the repositories that have it."},
            "blobs": places | {"description": "Each blob, with the repositories that have it."},
            "tags": {
                "type": "object",
                "propertyNames": {"pattern": _REPOSITORY.pattern},
                "additionalProperties": {
                    "type": "array",
                    "minItems": 1,
                    "items": {"type": "string", "pattern": _TAG.pattern},
                },
                "description": "The tags of each repository; only with --tags.",
            },
        },
    }


def _lines(value: Any) -> bytes:
    """``value`` as JSON: what is long, a line for each entry."""
    if isinstance(value, dict) and value:
        entries = (orjson.dumps(key) + b": " + orjson.dumps(value[key]) for key in sorted(value))
        return b"{\n " + b",\n ".join(entries) + b"\n}"
    if isinstance(value, list) and value:
        return b"[\n " + b",\n ".join(map(orjson.dumps, value)) + b"\n]"
    return orjson.dumps(value)


def _lists_of(document: Mapping[str, Any], name: str, keys: _Form, items: _Form) -> dict[str, list[str]]:
    """The lists below ``name``, none of them empty, by keys and with items of these forms."""
    found = document.get(name)
    if not isinstance(found, dict):
        raise InvalidHave(f"{name} must be an object", name)
    checked: set[str] = set()  # a name is in many lists
    for key, each in found.items():
        keys.check(key)
        if not isinstance(each, list) or not each or not all(isinstance(item, str) for item in each):
            raise InvalidHave(f"{key} must have a list of texts that is not empty", key)
        for item in each:
            if item not in checked:
                items.check(item)
                checked.add(item)
    return found


def _strings(document: Mapping[str, Any], name: str) -> list[str]:
    found = document.get(name)
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise InvalidHave(f"{name} must be a list of texts", name)
    return found
