"""Lists of images: text files with one image a line, the smallest kind of profile."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from syncer.errors import InvalidFile, UsageError
from syncer.formats.text import read_text
from syncer.oci import Platform, Reference

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

    Blank lines and comments (``#`` at the start or after white space) are skipped, and so is skopeo's prefix
    ``docker://``; ``http://`` and ``https://`` say how a registry is asked.  Raises ``InvalidFile`` with all lines that
    are wrong.
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
    from syncer.formats.yaml import Map, Seq, parse_documents  # noqa: PLC0415  PyYAML is slow to import

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
