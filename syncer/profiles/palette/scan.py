"""Searching a pack for images that it does not list: in its manifests, its values and the charts inside it.

About one public pack in five lists nothing and uses images all the same.  Templates are not rendered, so the
result is a hint: it may have images of a disabled subchart, and lack images whose names a template composes.
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
    """A text file of a chart; ``folder`` is the path of its chart or subchart."""

    path: str
    text: str = field(repr=False)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]


def read_chart_files(content: bytes, origin: Path | str) -> list[ChartFile]:
    """Read the YAML files and templates in the archive, subcharts included; raises ``InvalidFile``."""
    members = read_archive(io.BytesIO(content), origin, lambda path: path.endswith(_SUFFIXES))
    return [ChartFile(path, content.decode("utf-8", "replace")) for path, content in members]


@dataclass(frozen=True, slots=True, order=True)
class FoundImage:
    """An image that a pack does not list, and the file that names it."""

    reference: Reference
    where: str


def scan_pack(pack: Pack, documents: Sequence[Any]) -> tuple[FoundImage, ...]:
    """Find the images that ``pack`` names outside its content, sorted; ``documents`` are those of its values."""
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
    """The texts behind ``image:``, found by a regular expression: manifests are often templates and not YAML."""
    for match in _IMAGE_LINE.finditer(MACRO.sub("{{", text)):
        if "{{" not in match["image"] and "$" not in match["image"]:
            yield match["image"]


def _in_chart(archive: PackFile) -> Iterator[FoundImage]:
    """Find images in the default values and the templates of a chart and its subcharts."""
    try:
        files = read_chart_files(archive.content, archive.name)
    except InvalidFile:
        return  # the pack's user learns of it at its installation; a scan is a hint
    versions = {file.folder: _app_version(file) for file in files if file.name == "Chart.yaml"}
    for file in files:
        where = f"{archive.name}:{file.path}"
        if file.name == "values.yaml":
            trees = _documents(file)
            yield from _in_file((text for tree in trees for text in _in_tree(tree, versions.get(file.folder))), where)
        elif file.name.endswith((".yaml", ".yml", ".tpl")) and file.name != "Chart.yaml":
            yield from _in_file(_in_text(file.text), where)


def _app_version(chart: ChartFile) -> str | None:
    """The ``appVersion`` of a chart, which is the tag of images whose values have none."""
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
    """The values without the parts that ``read_content`` reads."""
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
    """Yield texts that look like images: ``image: a/b:1``, ``repository`` with ``tag``, manifests inside a text.

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
    """Yield ``name`` with the tag or digest beside it, or else with the ``usual`` tag; nothing without any."""
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
