"""Lists of images: text files with one image a line, the smallest kind of profile."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from syncer.errors import InvalidFile, InvalidReference
from syncer.formats.text import read_text
from syncer.oci import Reference

_COMMENT = re.compile(r"(?:^|\s)#.*")


@dataclass(frozen=True, slots=True)
class ListedImage:
    """One image of a list, and the line (from 1) that names it."""

    reference: Reference
    line: int


def read_images_file(path: Path) -> list[ListedImage]:
    """Read the images of the text file at ``path``, one a line, in its order; duplicates stay.

    Blank lines and comments (``#`` at the start or after white space) are skipped, and so is skopeo's prefix
    ``docker://``.  Raises ``InvalidFile`` with the line.
    """
    return parse_images(read_text(path), path)


def parse_images(text: str, path: Path | str) -> list[ListedImage]:
    """Read the images in ``text``, the content of the file ``path``; see ``read_images_file``."""
    images = []
    for number, line in enumerate(text.split("\n"), start=1):
        name = _COMMENT.sub("", line).strip().removeprefix("docker://")
        if not name:
            continue
        if re.search(r"\s", name):
            raise InvalidFile(path, f"{name[:160]!r} is more than one word", line=number, hint="write one image a line")
        try:
            images.append(ListedImage(Reference.parse(name), number))
        except InvalidReference as error:
            raise InvalidFile(path, str(error), line=number) from None
    return images
