"""Texts that people write, read with limits: files, tables, JSON, and lists of images, the smallest kind of profile."""

from __future__ import annotations

import codecs
import csv
import errno
import io
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from msgspec import Struct

from syncer.errors import InvalidFile, UsageError
from syncer.files import reading
from syncer.formats.yaml import Map, Seq, parse_documents
from syncer.oci import Platform, Reference

MAX_TEXT_SIZE = 64 * 1024 * 1024
"""Bytes.  An exported profile has a few hundred KiB; a file larger than this is of another kind."""


def read_text(path: Path, *, limit: int = MAX_TEXT_SIZE) -> str:
    """Read the text in ``path``, in UTF-8 or in Windows's UTF-16, without its byte order mark; raises ``InvalidFile``.

    A file of more than ``limit`` bytes is refused, so that a bundle given by mistake does not fill the memory.
    """
    with reading(path), path.open("rb") as file:
        content = file.read(limit + 1)
    return decode_text(content, path, limit=limit)


def unreadable(path: Path, *, or_directory: bool = False) -> str | None:
    """The reason why the file, ``or_directory``, at ``path`` cannot be read, as a sentence; None when it can.

    It is not opened: what is in a pipe is read once.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return f"{path} is not there"
    except (OSError, ValueError) as error:  # a path with a zero byte is a ValueError
        return f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
    if stat.S_ISDIR(mode) and not or_directory:
        return f"{path} is a directory, where a file is wanted"
    return None if os.access(path, os.R_OK) else f"{path} cannot be read: {os.strerror(errno.EACCES)}"


def decode_text(content: bytes, path: Path | str, *, limit: int = MAX_TEXT_SIZE) -> str:
    """Decode ``content``, without its byte order mark; raises ``InvalidFile``, which names ``path``.

    PowerShell writes UTF-16 with such a mark; without one the text must be UTF-8.
    """
    if len(content) > limit:
        raise InvalidFile(path, f"it is larger than {limit} bytes, so it is not a file of this kind")
    is_windows = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_windows else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidFile(path, f"it is not a text file in UTF-{16 if is_windows else 8}", line=line) from None
    if "\0" in text:
        raise InvalidFile(
            path, "it is not a text file: it holds a zero byte", line=text[: text.index("\0")].count("\n") + 1
        )
    return text


def read_table(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Read the rows of the CSV file at ``path`` (RFC 4180), each with its line; cells lose white space around them.

    Rows without any text are left out.  Raises ``InvalidFile``.
    """
    rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    line = 1  # where the row begins: a cell may hold line breaks
    try:
        for row in rows:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield line, cells
            line = rows.line_num + 1
    except csv.Error as error:
        raise InvalidFile(path, f"this is not CSV: {error}", line=line) from None


def parse_json(text: str, path: Path | str) -> Any:
    """Parse the JSON document ``text``; raises ``InvalidFile``, which names ``path`` and line."""
    if not text.strip():
        raise InvalidFile(path, "it is empty")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidFile(path, f"column {error.colno}: this is not JSON: {error.msg}", line=error.lineno) from None
    except RecursionError:
        raise InvalidFile(path, "it is nested too deeply") from None


def text_field(document: Any, key: str) -> str:
    """The text of a field; a number becomes a text, since people write numbers where texts are meant."""
    value = document.get(key) if isinstance(document, dict) else None
    return value if isinstance(value, str) else str(value) if type(value) in (int, float) else ""


def object_field(document: Any, key: str) -> dict[str, Any]:
    value = document.get(key) if isinstance(document, dict) else None
    return value if isinstance(value, dict) else {}


def objects_field(document: Any, key: str) -> list[dict[str, Any]]:
    """The objects in the list of a field."""
    value = document.get(key) if isinstance(document, dict) else None
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


_COMMENT = re.compile(r"(?:^|\s)#.*")
_PLATFORM = re.compile(r"--platform[=\s]\s*(\S+)\s+(\S+)")


class ListedImage(Struct, frozen=True):
    """One image of a list, and the line (from 1) that names it.

    ``platform`` stands before it in lists of docker_image_pusher (``--platform=linux/arm64 team/app:v1``).
    """

    reference: Reference
    line: int
    platform: Platform | None = None


def read_images_file(path: Path) -> list[ListedImage]:
    """Read the images of the text file at ``path``, one a line, in its order; duplicates stay.

    Blank lines and comments (``#`` at the start or after white space) are skipped, and so are skopeo's prefix
    ``docker://`` and Helm's ``oci://``; ``http://`` and ``https://`` say how a registry is asked.  Raises
    ``InvalidFile`` with all lines that are wrong.
    """
    return parse_images(read_text(path), path)


def parse_images(text: str, path: Path | str) -> list[ListedImage]:
    """Read the images in ``text``, the content of the file ``path``; see ``read_images_file``."""
    read = list(read_lines(text, path))
    wrong = [each for each in read if isinstance(each, InvalidFile)]
    if len(wrong) > 1 and len(wrong) * 2 > len(read) and _is_yaml(text, path):
        raise InvalidFile(
            path,
            "it is YAML, and no list of images",
            hint="write one image a line; profiles, manifests and compose files are for --profile-file, and a file of "
            "another tool is for syncer import",
        )
    wrong += [
        InvalidFile(
            path,
            f"a platform stands before {each.reference}",
            line=each.line,
            hint="`syncer import` makes a sync file of such a list, in which each image has its platforms",
        )
        for each in read
        if isinstance(each, ListedImage) and each.platform
    ]
    if wrong:
        raise InvalidFile.of(wrong)
    return [each for each in read if isinstance(each, ListedImage)]


def _is_yaml(text: str, path: Path | str) -> bool:
    """Tell whether ``text`` is a document that says something; a line such as ``busybox:`` is a slip in a list."""
    try:
        documents = parse_documents(text, path)
    except InvalidFile:
        return False
    return any(isinstance(each, Seq) or (isinstance(each, Map) and any(each.values())) for each in documents)


def read_lines(text: str, path: Path | str) -> Iterator[ListedImage | InvalidFile]:
    """Yield an image, or what is wrong, for each line of the list ``text`` that names something."""
    for number, line in enumerate(text.split("\n"), start=1):
        name = _COMMENT.sub("", line).strip()
        try:
            if match := _PLATFORM.fullmatch(name):
                yield ListedImage(Reference.parse_address(match[2]), number, Platform.parse(match[1]))
            elif name:
                yield ListedImage(_reference(name), number)
        except UsageError as error:
            yield InvalidFile(path, str(error), line=number, hint=error.hint)


def _reference(name: str) -> Reference:
    if re.search(r"\s", name) and "@" not in name:  # or a password with a space in it would be shown
        raise UsageError(f"{name[:160]!r} is more than one word", hint="write one image a line")
    if name.startswith("oci://"):
        raise UsageError(
            f"{name[:160]!r} is the address of a Helm chart, and no image",
            hint="name it with --chart, or as a `chart` in a sync file; an image has no oci:// before it",
        )
    return Reference.parse_address(name)


_WORD = re.compile(r"[A-Za-z0-9][\w.+:/@-]*")
_COMMENT = re.compile(r"(?:^|\s)#.*")
_APART = 4  # lines between the name of an image, or of a chart, and its tag or version
_LARGEST_DOCUMENT = 16 * 1024 * 1024  # bytes; to find a line is no more than a help
_DOCUMENTS = (".yaml", ".yml", ".json")


_Place: TypeAlias = tuple[Path, int]


def find_lines(paths: Iterable[Path], wanted: Iterable[Reference]) -> list[_Place]:
    """Find the lines that write one of ``wanted`` in the texts at ``paths``, or in documents below such a directory.

    A name may stand whole, as in a list, or apart from its tag or version, as in a sync file and in values of Helm; at
    last the lines that have the name alone are taken.  What is no text, or a large one, has no lines.
    """
    texts = {file: words for path in dict.fromkeys(paths) for file, words in _words_of(path)}
    found = {place for name in wanted for place in _places_of(name, texts)}
    files = {file: number for number, file in enumerate(texts)}
    return sorted(found, key=lambda place: (files[place[0]], place[1]))


def _words_of(path: Path) -> Iterator[tuple[Path, list[list[str]]]]:
    """Each text at or below ``path``, with the words of its lines."""
    for file in [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.suffix in _DOCUMENTS):
        with suppress(InvalidFile):
            text = read_text(file, limit=_LARGEST_DOCUMENT)
            yield file, [_WORD.findall(_COMMENT.sub("", line)) for line in text.splitlines()]


def _places_of(wanted: Reference, texts: Mapping[Path, Sequence[Sequence[str]]]) -> set[_Place]:
    last = wanted.repository.rpartition("/")[2]
    whole: set[_Place] = set()
    of_name: set[_Place] = set()
    of_tag: set[_Place] = set()
    for file, lines in texts.items():
        for number, words in enumerate(lines, 1):
            if any(last in word and _means(word, wanted, is_whole=True) for word in words):
                whole.add((file, number))
            if any(word == last or (last in word and _means(word, wanted, is_whole=False)) for word in words):
                of_name.add((file, number))
            if wanted.tag and wanted.tag in [word.replace("+", "_") for word in words]:
                of_tag.add((file, number))
    near = {
        (file, number)
        for file, number in of_tag
        if any((file, number + step) in of_name for step in range(-_APART, _APART + 1))
    }
    return whole or near or of_name


def _means(word: str, wanted: Reference, *, is_whole: bool) -> bool:
    """Tell whether ``word`` is a reference to ``wanted``, or without ``is_whole`` one to its repository alone."""
    try:
        found = Reference.parse(re.sub(r"^\w+://", "", word).rstrip(":"))
    except UsageError:
        return False
    return found.name == wanted.name and (not is_whole or found.tag == wanted.tag)
