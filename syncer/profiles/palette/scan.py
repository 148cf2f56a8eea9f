"""Images that a pack names outside its content: in its manifests, its values and the charts inside it.

About one public pack in five lists nothing and uses images all the same.  Nothing is rendered here, so the
result is a hint: it can hold images that a disabled subchart would use, and lack those that a template composes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from syncer.errors import InvalidFile, InvalidReference
from syncer.formats.archive import read_archive
from syncer.formats.yaml import Map, Seq, parse_documents
from syncer.oci import Reference
from syncer.profiles.palette.macros import MACRO
from syncer.profiles.palette.profile import Pack, PackFile

_SUFFIXES = (".yaml", ".yml", ".tpl")

_IMAGE_LINE = re.compile(r"""^[ \t]*(?:-[ \t]+)?["']?image["']?:[ \t]*["']?(?P<image>[^\s"'#,}]+)""", re.MULTILINE)
_NAMED = re.compile(r"[A-Za-z0-9.:-]+(?:/[a-z0-9._-]+)+[:@][A-Za-z0-9._:-]+")
_TAGS = ("tag", "imageTag", "version", "digest", "sha")


@dataclass(frozen=True, slots=True)
class ChartFile:
    """A text file of a chart; ``folder`` is the chart or subchart that it belongs to."""

    path: str
    text: str = field(repr=False)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]


def read_chart_files(content: bytes, origin: Path | str) -> list[ChartFile]:
    """The YAML files and templates in the archive, subcharts included; raises ``InvalidFile``."""
    members = read_archive(io.BytesIO(content), origin, lambda path: path.endswith(_SUFFIXES))
    return [ChartFile(path, content.decode("utf-8", "replace")) for path, content in members]


@dataclass(frozen=True, slots=True, order=True)
class FoundImage:
    """An image that is named outside the content of a pack, and in which of its files."""

    reference: Reference
    where: str


def scan_pack(pack: Pack, documents: Sequence[Any]) -> tuple[FoundImage, ...]:
    """The images that ``pack`` names outside its content, sorted; ``documents`` are those of its values."""
    found = dict.fromkeys(_scan_pack(pack, documents))
    first: dict[str, FoundImage] = {}
    for image in found:
        first.setdefault(str(image.reference), image)
    return tuple(sorted(first.values()))


def _scan_pack(pack: Pack, documents: Sequence[Any]) -> Iterator[FoundImage]:
    for document in documents:
        yield from _in_file(_in_tree(_without_content(document)), "values.yaml")
    for manifest in pack.manifests:
        yield from _in_file(_in_text(manifest.content.decode("utf-8", "replace")), manifest.name)
    for chart in pack.charts:
        yield from _in_chart(chart)


def _in_file(texts: Iterable[str], where: str) -> Iterator[FoundImage]:
    for text in texts:
        try:
            yield FoundImage(Reference.parse(text), where)
        except InvalidReference:
            continue  # a scan goes by likeness, and this only looked like an image


def _in_text(text: str) -> Iterator[str]:
    """What stands behind ``image:`` in a text that need not be YAML: manifests are often templates."""
    for match in _IMAGE_LINE.finditer(MACRO.sub("{{", text)):
        if "{{" not in match["image"] and "$" not in match["image"]:
            yield match["image"]


def _in_chart(archive: PackFile) -> Iterator[FoundImage]:
    """Images of the default values and templates of a chart and its subcharts."""
    try:
        files = read_chart_files(archive.content, archive.name)
    except InvalidFile:
        return  # whoever installs the pack will learn of it; a scan is a hint
    versions = {file.folder: _app_version(file) for file in files if file.name == "Chart.yaml"}
    for file in files:
        where = f"{archive.name}:{file.path}"
        if file.name == "values.yaml":
            trees = _documents(file)
            yield from _in_file((text for tree in trees for text in _in_tree(tree, versions.get(file.folder))), where)
        elif file.name.endswith((".yaml", ".yml", ".tpl")) and file.name != "Chart.yaml":
            yield from _in_file(_in_text(file.text), where)


def _app_version(chart: ChartFile) -> str | None:
    """What charts use as the tag when their values leave it out."""
    for tree in _documents(chart):
        version = tree.get("appVersion") if isinstance(tree, Map) else None
        if isinstance(version, str):
            return version
    return None


def _documents(file: ChartFile) -> list[Any]:
    try:
        return parse_documents(file.text, file.path)
    except InvalidFile:
        return []


def _without_content(values: Any) -> Any:
    """The values without what ``read_content`` reads."""
    if not isinstance(values, Map):
        return values
    rest = {key: value for key, value in values.items() if key not in ("pack", "content")}
    pack = values.get("pack")
    if isinstance(pack, Map):
        rest["pack"] = _map({key: value for key, value in pack.items() if key not in ("content", "charts")})
    return _map(rest)


def _map(items: dict[str, Any]) -> Map:
    mapping = Map()
    mapping.update(items)
    return mapping


def _in_tree(node: Any, app_version: str | None = None, parent: str = "") -> Iterator[str]:
    """What looks like an image in values: ``image: a/b:1``, ``repository`` and ``tag``, manifests in a text.

    ``parent`` is the key under which ``node`` stands.
    """
    if isinstance(node, Map):
        yield from _in_mapping(node, app_version, parent)
        for key, value in node.items():
            yield from _in_tree(value, app_version, parent if parent == "images" else key)
    elif isinstance(node, Seq):
        for value in node:
            yield from _in_tree(value, app_version, parent)
    elif isinstance(node, str) and "\n" in node:
        yield from _in_text(node)
    elif isinstance(node, str) and parent == "images" and _NAMED.fullmatch(node):
        yield node


def _in_mapping(node: Map, app_version: str | None, parent: str) -> Iterator[str]:
    """The image that one mapping composes; charts spell its parts in different ways."""
    texts = {key: value for key, value in node.items() if isinstance(value, str) and value and "{{" not in value}
    is_image = "image" in parent.lower()
    registry = texts.get("registry") or texts.get("imageRegistry") or ""
    repository = texts.get("repository") or (texts.get("repo") if is_image else "") or ""
    image = texts.get("image") or (texts.get("name") if is_image else "") or ""
    if any("://" in text for text in (registry, repository, image)):
        return
    if repository and (is_image or registry or "/" in repository):
        parts = [registry, repository, image if "/" not in image else ""]
    elif image and (registry or "/" in image or ":" in image):
        parts = [registry, image]
    else:
        return
    yield from _tagged("/".join(filter(None, parts)), texts, app_version if repository else "latest")


def _tagged(name: str, texts: dict[str, str], usual: str | None) -> Iterator[str]:
    """``name`` with the tag or digest that stands beside it, or the ``usual`` tag; nothing when all are unknown."""
    if "@" in name or ":" in name.rpartition("/")[2]:
        yield name
        return
    given = [texts[key] for key in _TAGS if key in texts]
    digest = next((text for text in given if text.startswith("sha256:")), None)
    tag = next((text for text in given if not text.startswith("sha256:")), usual)
    if digest:
        yield f"{name}@{digest}"
    elif tag:
        yield f"{name}:{tag}"
