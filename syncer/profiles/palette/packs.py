"""The content of a pack: the images and charts in ``pack.content`` of its values.yaml.

There is no published schema.  This module reads every variant found in the 220 packs of
spectrocloud/pack-central, in their history and in Palette's documentation.  A variant that is not documented is read
with a warning, and so is a part that is not understood.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct, field

from syncer.errors import InvalidFile, InvalidReference, UsageError
from syncer.formats.yaml import Map, Seq, Step, line_of, parse_documents, spell_path
from syncer.oci import Reference
from syncer.profiles.definition.definition import ChartRequest
from syncer.profiles.palette.macros import MACRO, MacroValues
from syncer.profiles.palette.profile import Pack

_SCHEME = re.compile(r"^(?:container|docker|oci)://")
_QUOTES = "“”‘’\"'"  # some pages of Palette's documentation print curly ones, and they get copied
_NO_IMAGE = frozenset({"", "NA", "N/A"})  # what profiles in agent mode write where others name their OS image


class WantedImage(Struct, frozen=True):
    """An image that a pack lists: its text with macros resolved, the reference in it, and the path of the field."""

    text: str
    reference: Reference
    path: str


class PackContent(Struct, frozen=True):
    """The images and charts that one pack lists, each once and in its order; ``warnings`` name its oddities."""

    pack: Pack
    images: tuple[WantedImage, ...]
    charts: tuple[ChartRequest, ...]
    warnings: tuple[str, ...]


def parse_values(pack: Pack) -> list[Any]:
    """Parse the documents in the pack's values; raises ``InvalidFile``.

    Macros are often written without quotes, and then ``{{`` begins a flow mapping: a text that does not parse is
    parsed again with a plain word in the place of each macro.
    """
    text = pack.values or ""
    try:
        return parse_documents(text, pack.origin)
    except InvalidFile:
        if "{{" not in text:
            raise
        word = "macro"
        while word in text:
            word += "o"
        macros: list[str] = []

        def hide(match: re.Match[str]) -> str:
            macros.append(match[0])
            return f"{word}{len(macros) - 1}e"

        try:
            documents = parse_documents(MACRO.sub(hide, text), pack.origin)
        except InvalidFile:
            documents = None
        if documents is None:
            raise
        return [_restore(document, re.compile(rf"{word}(\d+)e"), macros) for document in documents]


def read_content(pack: Pack, documents: Sequence[Any], scope: MacroValues) -> PackContent:
    """Read the content that ``documents``, the values of ``pack``, list.

    Raises ``InvalidFile`` of all mistakes, each with the pack, the path, and the macro if one is at fault.
    """
    reader = _Reader(pack, scope)
    for document in documents:
        reader.read(document)
    return reader.result()


class _Reader(Struct):
    pack: Pack
    scope: MacroValues
    _root: Any = None
    _images: dict[str, WantedImage] = field(default_factory=dict)
    _charts: dict[ChartRequest, None] = field(default_factory=dict)
    _warnings: list[str] = field(default_factory=list)
    _problems: list[tuple[tuple[Step, ...], int | None, UsageError]] = field(default_factory=list)

    def read(self, values: Any) -> None:
        """Find the content of one document."""
        if values is None:
            return
        self._root = values
        if not isinstance(values, Map):
            self._warn((), "the values are not a mapping, so they list no content")
            return
        pack = values.get("pack")
        content = pack.get("content") if isinstance(pack, Map) else None
        beside = values.get("content")
        if content is not None:
            self._content(content, ("pack", "content"))
        elif isinstance(beside, Map) and ("images" in beside or "charts" in beside):
            self._warn((), '"content" stands beside "pack" instead of in it (so does the documentation); it is read')
            self._content(beside, ("content",))
        if isinstance(pack, Map) and _asks_for_charts(pack.get("charts")):
            self._warn(("pack", "charts"), '"charts" stand in "pack" instead of in its "content"; they are read')
            self._charts_of(pack["charts"], ("pack", "charts"))

    def result(self) -> PackContent:
        if self._problems:
            raise InvalidFile.of(
                InvalidFile(
                    self.pack.origin, f"pack {self.pack.name}: {spell_path(path)}: {error}", line=line, hint=error.hint
                )
                for path, line, error in self._problems
            )
        return PackContent(self.pack, tuple(self._images.values()), tuple(self._charts), tuple(self._warnings))

    def _content(self, content: Any, path: tuple[Step, ...]) -> None:
        if not isinstance(content, Map):
            self._warn(path, "it is not a mapping of images and charts")
            return
        for key, value in content.items():
            if key == "images":
                self._images_of(value, (*path, key))
            elif key == "charts":
                self._charts_of(value, (*path, key))
            else:
                self._warn((), f"unknown key {spell_path((*path, key))}")

    def _images_of(self, node: Any, path: tuple[Step, ...]) -> None:
        for entry, place in _entries(node, path):
            if isinstance(entry, Map):
                self._image_entry(entry, place)
            elif isinstance(entry, Seq):
                self._warn(place, "list in the list of images")
                self._texts(entry, place)
            elif entry is None:
                self._warn(place, "it is empty")
            else:
                self._warn(place, 'bare string instead of "image: …"')
                self._image(entry, place)

    def _image_entry(self, entry: Map, path: tuple[Step, ...]) -> None:
        keys = [key for key in entry if _means_image(key)]
        for key in entry:
            if key not in keys:
                self._warn((), f"unknown key {spell_path((*path, key))}")
        for key in keys:
            if key != "image":
                self._warn(path, f'"{key}" is taken for "image"')
            if isinstance(entry[key], Seq):
                self._warn(path, 'list under "image"')
            self._texts(entry[key], (*path, key))
        if not keys:
            self._warn(path, 'it has no "image", so nothing is downloaded for it')

    def _texts(self, node: Any, path: tuple[Step, ...]) -> None:
        for text, place in _entries(node, path):
            if isinstance(text, str):
                self._image(text, place)
            else:
                self._problem(place, UsageError("it must be the name of an image"))

    def _image(self, text: str, path: tuple[Step, ...]) -> None:
        try:
            name = _SCHEME.sub("", self.scope.resolve(text).strip().strip(_QUOTES).strip())
            if name.upper() in _NO_IMAGE:
                self._warn(path, f"{text!r} names no image ({name!r})")
                return
            reference = Reference.parse(name)
        except (UsageError, InvalidReference) as error:
            self._problem(path, error)
        else:
            self._images.setdefault(str(reference), WantedImage(name, reference, spell_path(path)))

    def _charts_of(self, node: Any, path: tuple[Step, ...]) -> None:
        for entry, place in _entries(node, path):
            if isinstance(entry, Map):
                self._chart(entry, place)
            else:
                self._warn(place, "it is not a chart's repo, name and version, so nothing is downloaded for it")

    def _chart(self, entry: Map, path: tuple[Step, ...]) -> None:
        fields: dict[str, str] = {}
        for key, value in entry.items():
            name = "repo" if key == "repository" else key
            if name not in ("repo", "name", "version"):
                self._warn((), f"unknown key {spell_path((*path, key))}")
            elif isinstance(value, str):
                fields[name] = self._field(value, (*path, key))
            elif value is not None:
                self._problem((*path, key), UsageError("it must be a text"))
        if "repository" in entry:
            self._warn(path, 'chart uses "repository" not "repo"')
        if not fields.get("repo"):
            self._warn(path, 'chart has no "repo", so it is not downloaded')
            return
        if not fields.get("version"):
            self._warn(path, "chart has no version, so the newest is taken")
        self._charts[ChartRequest(fields["repo"], fields.get("name", ""), fields.get("version") or None)] = None

    def _field(self, text: str, path: tuple[Step, ...]) -> str:
        try:
            return self.scope.resolve(text).strip().strip(_QUOTES)
        except UsageError as error:
            self._problem(path, error)
            return ""

    def _warn(self, path: tuple[Step, ...], text: str) -> None:
        self._warnings.append(f"{spell_path(path)}: {text}" if path else text)

    def _problem(self, path: tuple[Step, ...], error: UsageError) -> None:
        self._problems.append((path, line_of(self._root, path), error))


def _entries(node: Any, path: tuple[Step, ...]) -> Iterator[tuple[Any, tuple[Step, ...]]]:
    """Yield the entries of a list, or the one value that stands in its place; nothing for None."""
    if isinstance(node, Seq):
        for number, entry in enumerate(node):
            yield entry, (*path, number)
    elif node is not None:
        yield node, path


def _means_image(key: str) -> bool:
    """Tell whether ``key`` is ``image``, or a misspelling such as the ``iamge`` of dell-csm-operator 1.11.0."""
    word = key.strip().lower()
    return sorted(word) == sorted("image") or word == "images"


def _asks_for_charts(node: Any) -> bool:
    return isinstance(node, Seq) and any(
        isinstance(each, Map) and ("repo" in each or "repository" in each) for each in node
    )


def _restore(node: Any, word: re.Pattern[str], macros: Sequence[str]) -> Any:
    """Put the macros back in the place of their words; the lines of values are kept."""
    if isinstance(node, str):
        return word.sub(lambda match: macros[int(match[1])].replace('\\"', '"'), node)
    if isinstance(node, Seq):
        entries = Seq()
        entries += [_restore(entry, word, macros) for entry in node]
        entries.lines = node.lines
        return entries
    if isinstance(node, Map):
        mapping = Map()
        for key, value in node.items():
            restored = _restore(key, word, macros)
            mapping[restored] = _restore(value, word, macros)
            mapping.lines[restored] = node.lines[key]
        return mapping
    return node
