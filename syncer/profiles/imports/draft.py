"""The draft of a sync file, which an importer fills, and the fields of the file that is imported."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from msgspec import Struct, field

from syncer.errors import InvalidFile, UsageError
from syncer.formats.yaml import Map, Seq, Step, spell_path
from syncer.oci import Platform, Reference
from syncer.oci.docker_hub import canonical_host
from syncer.profiles.syncfile.document import parse_registry_host
from syncer.profiles.syncfile.tags import TagPattern

Value = TypeVar("Value")

VARIABLE = re.compile("\ue000([^\ue001]+)\ue001")
"""A variable in the texts of a draft, with its name and its default as in a sync file: see ``variable``."""

REQUIRED = "it is required"

SIGNATURE_TAGS = (
    "Signatures travel with the images that they are about (`referrers: true`); {} copies their tags, sha256-….sig, as "
    "it finds them."
)
_SIGNATURES = tuple(f"sha256-{'0' * 64}{ending}" for ending in (".sig", ".att", ".sbom", ""))

_SOME_HOST = "registry.invalid"

_FALSE = frozenset({"false", "no", "off", "0"})
_TRUE = frozenset({"true", "yes", "on", "1"})


class _Dumper(yaml.SafeDumper):
    """A dumper that writes a value twice rather than as an anchor and an alias, as people do."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


class Draft(Struct):
    """The draft of a sync file.

    ``refusals`` name the fields that cannot be imported.  ``notes`` name those that are not needed, and differences in
    the result.
    """

    origin: Path
    sources: list[dict[str, Any]] = field(default_factory=list)
    targets: list[dict[str, Any]] = field(default_factory=list)
    registries: dict[str, dict[str, Any]] = field(default_factory=dict)
    referrers: bool | None = None
    map: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    refusals: list[InvalidFile] = field(default_factory=list)
    is_part: bool = False  # there are no sources, and the user adds them

    def note(self, text: str) -> None:
        """Add ``text`` to the notes, once."""
        text = spelled(" ".join(text.split()))
        if text not in self.notes:
            self.notes.append(text)

    def refuse(self, path: tuple[Step, ...], line: int | None, why: str) -> None:
        """Add to the refusals that the field at ``path`` cannot be imported, once."""
        why = spelled(why)
        refusal = InvalidFile(self.origin, f"{spell_path(path)}: {why}" if path else why, line=line)
        if str(refusal) not in map(str, self.refusals):
            self.refusals.append(refusal)

    def registry(self, host: str, **settings: Any) -> None:
        """Add settings of the registry ``host``."""
        if settings:
            host = host if VARIABLE.search(host) else canonical_host(host.lower())
            self.registries.setdefault(host, {}).update(settings)

    def target(self, registry: str) -> None:
        """Add ``registry`` to the targets, once."""
        if all(target["registry"] != registry for target in self.targets):
            self.targets.append({"registry": registry})

    def login(self, host: str, user: str | None, password: str | None) -> None:
        """Add a reference to the credentials for ``host``; a password that stands in the file is not copied."""
        if not user and not password:
            return
        credentials = {**_reference("username", user or "", host), **_reference("password", password or "", host)}
        self.registry(host, credentials=credentials)
        name = credentials.get("password_env")
        if name and not _environment_variable(password or ""):
            self.note(f"The password of {host} was not copied: give it in the variable {name}.")

    def render(self) -> str:
        """The text of the sync file, with the notes as comments at the top."""
        sources = {"sources": self._addressed_sources()} if self.sources else {}
        document: dict[str, Any] = {**sources, "targets": self.targets}
        if self.referrers is not None:
            document["referrers"] = self.referrers
        if self.registries:
            document["registries"] = self.registries
        if self.map:
            document["map"] = self.map
        document = _spelled(document)
        comments = "".join(f"# {note}\n" for note in self.notes)
        return comments + yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)

    def _addressed_sources(self) -> list[dict[str, Any]]:
        """The sources, without ``targets`` where these are all targets."""
        everywhere = [target["registry"] for target in self.targets]
        return [
            {key: value for key, value in source.items() if key != "targets" or value != everywhere}
            for source in self.sources
        ]


class Fields(Struct):
    """A mapping of the file that is imported; ``finish`` refuses the fields that the importer did not take."""

    draft: Draft
    tree: Any
    path: tuple[Step, ...] = ()
    line: int | None = None
    refused: set[str] = field(default_factory=set)
    """The fields of this mapping that were refused: one that chooses what is mirrored must not fail to choose."""
    _taken: set[str] = field(default_factory=set)
    is_mapping: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.tree, Map):
            self.draft.refuse(self.path, self.line, "it must be a mapping")
            self.tree, self.is_mapping = Map(), False

    def __contains__(self, name: str) -> bool:
        return self.tree.get(name) is not None

    def text(self, name: str) -> str | None:
        """Take the text of a field; None when it is absent or empty."""
        value = self._take(name)
        if value is None or isinstance(value, str):
            return value or None
        self.refuse(name, "it must be a text")
        return None

    def flag(self, name: str) -> bool | None:
        """Take a field that is true or false; None when it is absent."""
        text = self.text(name)
        if text is None or text.lower() in _FALSE | _TRUE:
            return None if text is None else text.lower() in _TRUE
        self.refuse(name, "it must be true or false")
        return None

    def texts(self, name: str, *, null: str | None = None) -> list[str]:
        """Take a list of texts; one text counts as a list of one.

        ``null`` stands for an entry without a value, which is refused otherwise.
        """
        value = self._take(name)
        if value is None or isinstance(value, str):
            return [] if value is None else [value]
        if not isinstance(value, Seq):
            self.refuse(name, "it must be a list of texts")
            return []
        texts = []
        for index, (entry, line) in enumerate(zip(value, value.lines, strict=True)):
            text = null if entry is None else entry
            if isinstance(text, str):
                texts.append(text)
            else:
                self.refused.add(name)
                self.draft.refuse((*self.path, name, index), line, "it must be a text")
        return texts

    def inner(self, name: str) -> Fields:
        """Take the fields of a mapping inside this one; an absent mapping has no fields."""
        value = self._take(name)
        return Fields(self.draft, Map() if value is None else value, (*self.path, name), self.line_of(name))

    def each(self, name: str) -> Iterator[Fields]:
        """Take a list of mappings, and yield the fields of each."""
        value = self._take(name)
        if value is None:
            return
        if not isinstance(value, Seq):
            self.refuse(name, "it must be a list")
            return
        for index, entry in enumerate(value):
            yield Fields(self.draft, entry, (*self.path, name, index), value.lines[index])

    def names(self) -> list[str]:
        """All keys, for a mapping whose keys are names and not fields."""
        return list(self.tree)

    def parse(self, name: str, parse: Callable[[str], Value], text: str | None = None) -> Value | None:
        """Take a field and parse its text, or the given ``text``; a wrong one is refused, and gives None."""
        text = self.text(name) if text is None else text
        try:
            return parse(text) if text else None
        except UsageError as error:
            self.refuse(name, str(error))
            return None

    def ignore(self, note: str, *names: str) -> None:
        """Leave out fields that make no difference to the result; ``note`` is added if one of them is there."""
        self._taken.update(names)
        if note and any(name in self for name in names):
            self.draft.note(note)

    def unsupported(self, why: str, *names: str) -> None:
        """Refuse each of ``names`` that has a value other than an empty list, an empty mapping or ``false``."""
        for name in names:
            value = self._take(name)
            if value and not (isinstance(value, str) and value.lower() in _FALSE):
                self.refuse(name, why)

    def refuse(self, name: str, why: str) -> None:
        """Add to the refusals that the field ``name`` cannot be imported; a wrong one is not missing as well."""
        if why == REQUIRED and name in self.refused:
            return
        self._taken.add(name)
        self.refused.add(name)
        if not self.is_mapping:
            return  # all fields are missing for that one reason
        self.draft.refuse((*self.path, name), self.line_of(name), why)

    def finish(self, *, ignored_by: str = "") -> None:
        """Refuse all fields that were not taken; note them when the tool ``ignored_by`` does not know them either."""
        for name in self.tree:
            if name in self._taken:
                continue
            if ignored_by:
                self.draft.note(f"{spell_path((*self.path, name))} was left out: {ignored_by} does not know it either.")
            else:
                self.refuse(name, "syncer does not know this field")

    def line_of(self, name: str) -> int | None:
        line: int | None = self.tree.lines.get(name)
        return line or self.line

    def _take(self, name: str) -> Any:
        self._taken.add(name)
        return self.tree.get(name)


def fold_case(tree: Any, names: Iterable[str], *, verbatim: str = "annotations") -> Any:
    """Copy ``tree`` with its keys spelled as in ``names``, for tools that find their fields by any case (Go's JSON).

    The mapping under ``verbatim`` has names for keys, and is kept as it is.  Of two spellings of one field the exact
    one holds.
    """
    spelled = {name.lower(): name for name in names}

    def fold(node: Any) -> Any:
        if isinstance(node, Seq):
            entries = Seq()
            entries += map(fold, node)
            entries.lines = node.lines
            return entries
        if not isinstance(node, Map):
            return node
        folded = Map()
        for key in sorted(node, key=lambda each: each in names):
            name = spelled.get(key.lower(), key)
            folded[name] = node[key] if name == verbatim else fold(node[key])
            folded.lines[name] = node.lines[key]
        return folded

    return fold(tree)


def platform_names(fields: Fields, name: str) -> list[str]:
    """Take platforms, written as texts (``linux/arm64``) or as mappings of ``os``, ``architecture`` and ``variant``."""
    value = fields.tree.get(name)
    fields.ignore("", name)
    texts = []
    for entry in value if isinstance(value, Seq) else [value] if value else []:
        if isinstance(entry, Map):
            lower = {key.lower(): part for key, part in entry.items()}
            parts = [lower.get("os") or "linux", lower.get("architecture"), lower.get("variant")]
            texts.append("/".join(part for part in parts if isinstance(part, str)))
        else:
            texts.append(str(entry))
    return [str(platform) for text in texts if (platform := fields.parse(name, Platform.parse, text))]


def login_host(text: str) -> tuple[str, bool | None]:
    """Parse the key of a login, ``[SCHEME://]HOST[:PORT][/PATH]``: the host, and whether it speaks plain HTTP.

    Docker's own key for its Hub has both.  The second value is None where the key does not say.  Raises ``UsageError``.
    """
    scheme, separator, place = text.strip().rpartition("://")
    if separator and scheme.lower() not in ("http", "https"):
        raise UsageError(f"{scheme}:// is not the scheme of a registry")
    try:
        return parse_registry_host(place.partition("/")[0]), scheme.lower() == "http" or None
    except UsageError:
        raise UsageError(f"{text.rpartition('@')[2]!r} is not a registry") from None


def chooses_signatures(tags: dict[str, Any]) -> bool:
    """Tell whether ``tags`` of a source fit the tags of signatures, which a sync takes for a part of their image."""
    if "semver_regclient" in tags:
        return False
    chosen, left_out = (
        [TagPattern.regex(text) for text in each.get("regex", ())] for each in (tags, tags.get("exclude", {}))
    )
    return any(
        (not chosen or any(pattern.fits(tag) for pattern in chosen))
        and not any(pattern.fits(tag) for pattern in left_out)
        for tag in _SIGNATURES
    )


def tagged_source(draft: Draft, tool: str, repository: str, tags: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Make the source for those ``tags`` of a repository that ``tool`` copies; without any rules these are all.

    Where that includes tags of signatures, they travel with their images, unless the file has them travel anyway.
    """
    source = {"repository": repository, "tags": tags or "all", **more}
    if chooses_signatures(tags):
        draft.note(SIGNATURE_TAGS.format(tool))
        source["referrers"] = True
    return source


def agree_on_referrers(draft: Draft) -> None:
    """Let referrers travel with a repository's images for all sources if they do for one: an image has one form."""
    travelling = [_ends(source) for source in draft.sources if source.get("referrers") is True]
    for source in draft.sources if draft.referrers is False else ():
        if _ends(source) in travelling:
            source["referrers"] = True


def _ends(source: dict[str, Any]) -> tuple[Any, ...]:
    """The repository of a source, and its place at the target."""
    name = source.get("image") or source.get("repository")
    if name and not VARIABLE.search(name):
        name = Reference.parse(name).name
    return name, source.get("as", "").partition(":")[0], source.get("targets")


def image_source(reference: Reference, **more: Any) -> dict[str, Any]:
    """Make the source for one image, with the fields of ``more`` that are not empty."""
    return {"image": str(reference), **{key: value for key, value in more.items() if value not in (None, [], {})}}


def host_of(url: str) -> str:
    """The ``host[:port]`` of ``url``."""
    return url.partition("://")[2].partition("/")[0].rpartition("@")[2].lower()


def empty_draft_error(draft: Draft) -> InvalidFile:
    """Make the error for a file without anything that can be mirrored."""
    return InvalidFile.of(draft.refusals or [InvalidFile(draft.origin, "it names nothing to mirror")])


def variable(name: str, default: str | None = None) -> str:
    """Make a text for the value of the variable ``name``, which the sync file has as ``${name}``."""
    return f"\ue000{name}\ue001" if default is None else f"\ue000{name}:-{default}\ue001"


def spelled(text: str) -> str:
    """``text`` with its variables as in a sync file: ``${name}`` or ``${name:-default}``."""
    return VARIABLE.sub(r"${\1}", text)


def names_host(text: str) -> bool:
    """Tell whether the part of a name that may be a host has a variable in it."""
    return VARIABLE.search(text.partition("/")[0]) is not None


class Numbers:
    """Numbers that stand for variables while names are parsed: they are right in paths, tags and ports."""

    def __init__(self, *texts: str) -> None:
        words = "".join(texts)
        free = (str(number) for number in range(60000, 65536) if str(number) not in words)
        self._numbers = dict(zip(dict.fromkeys(match[0] for match in VARIABLE.finditer(words)), free, strict=False))

    def parse(self, fields: Fields, name: str, text: str, parse: Callable[[str], Reference]) -> Reference | None:
        """Parse ``text`` of the field ``name``; a wrong one is refused.  A variable for a host is some host."""
        head, slash, rest = text.partition("/")
        if slash and VARIABLE.search(head):
            text = f"{_SOME_HOST}/{rest}"
        try:
            return parse(VARIABLE.sub(lambda match: self._numbers[match[0]], text))
        except UsageError as error:
            fields.refuse(name, self.restore(str(error)))
            return None

    def restore(self, node: Any) -> Any:
        """Put the variables back in all texts of ``node``."""
        if isinstance(node, dict):
            return {key: self.restore(value) for key, value in node.items()}
        if isinstance(node, list):
            return [self.restore(each) for each in node]
        for found, number in self._numbers.items() if isinstance(node, str) else ():
            node = node.replace(number, found)
        return node


def _spelled(node: Any) -> Any:
    """Spell variables as the sync file does, and a dollar that stands for itself before another or a brace."""
    if isinstance(node, dict):
        return {_spelled(key): _spelled(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_spelled(each) for each in node]
    if not isinstance(node, str):
        return node
    return spelled(re.sub(r"\$(?=[${\ue000])", "$$", node))


def _environment_variable(text: str) -> str | None:
    """The variable that ``$NAME``, ``${NAME}`` or regsync's ``{{env "NAME"}}`` stands for."""
    if match := VARIABLE.fullmatch(text):
        return match[1] if ":" not in match[1] else None
    match = re.fullmatch(r"\$\{?(\w+)\}?|\{\{-?\s*env\s+[\"`](\w+)[\"`]\s*-?\}\}", text.strip())
    return (match[1] or match[2]) if match else None


def _secret_file(text: str) -> str | None:
    """The path that regsync's ``{{file "PATH"}}`` stands for."""
    match = re.fullmatch(r"\{\{\s*file\s+\"([^\"]+)\"\s*\}\}", text.strip())
    return match[1] if match else None


def _reference(kind: str, text: str, host: str) -> dict[str, str]:
    if variable := _environment_variable(text):
        return {f"{kind}_env": variable}
    if kind == "username" and text and "{{" not in text:
        return {"username": text}
    if kind == "password" and (path := _secret_file(text)):
        return {"password_file": path}
    name = f"{re.sub('[^A-Z0-9]', '_', host.upper())}_{kind.upper()}"
    return {f"{kind}_env": name if name[0].isalpha() else f"REGISTRY_{name}"}  # a shell sets no variable like 10_0_0_5
