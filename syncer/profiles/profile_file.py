"""Profiles from files, so that everything works where no Palette can be reached."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from syncer.errors import InvalidFile
from syncer.profiles.pack_files import is_pack_archive, pack_of_values, read_pack
from syncer.profiles.profile import Pack, Profile
from syncer.profiles.profile_document import is_profile, parse_profile
from syncer.profiles.text_file import read_text
from syncer.profiles.yaml_document import parse_documents


def read_profile_file(path: Path) -> Profile:
    """What the file or directory at ``path`` states; raises ``InvalidFile``.

    It may be a profile that Palette exported (JSON or YAML), the values.yaml of one pack, or a pack as a
    directory or archive.
    """
    if path.is_dir() or is_pack_archive(path):
        return _profile_of(read_pack(path))
    text = read_text(path)
    if text.lstrip().startswith("{"):
        return parse_profile(_json(text, path), str(path))
    document = _first_document(text, path)
    if is_profile(document):
        return parse_profile(document, str(path))
    if isinstance(document, list):
        raise InvalidFile(
            path,
            "it is a list, neither a profile nor a pack's values",
            hint="a plain list of images, one a line, goes to --images-file",
        )
    if isinstance(document, dict) and "images" in document and "profiles" in document:
        raise InvalidFile(path, "it is a bundle definition", hint="give it with --metadata-file")
    return _profile_of(pack_of_values(text, path))


def read_packs(paths: Sequence[Path], name: str = "packs") -> Profile:
    """Local packs, directories or archives, as one profile: their macros may refer to each other."""
    return Profile(name=name, packs=tuple(read_pack(path) for path in paths))


def _profile_of(pack: Pack) -> Profile:
    return Profile(name=pack.name, version=pack.version, packs=(pack,))


def _json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidFile(path, f"column {error.colno}: this is not JSON: {error.msg}", line=error.lineno) from None
    except RecursionError:
        raise InvalidFile(path, "it is nested too deeply") from None


def _first_document(text: str, path: Path) -> Any:
    """The first YAML document, only to tell what kind of file this is; None where macros keep it from parsing."""
    try:
        documents = parse_documents(text, path)
    except InvalidFile:
        if "{{" in text:
            return None
        raise
    return documents[0] if documents else None
