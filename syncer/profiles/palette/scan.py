"""Searching a pack for images that it does not list: in its manifests, its values and the charts of it.

About one public pack in five lists nothing and uses images all the same.  The result is a hint: it may have images of a
disabled subchart, and lack images that only a cluster can tell.
"""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from syncer.errors import InvalidFile, InvalidReference
from syncer.formats.archive import read_archive
from syncer.formats.yaml import Map, Seq
from syncer.oci import Reference
from syncer.profiles.charts.helm import MARK, UNKNOWN, coalesce, deep_copy, load_typed, parse_mapping, printed
from syncer.profiles.charts.templates import BUILT_IN, TemplateError, Templates
from syncer.profiles.palette.macros import MACRO
from syncer.profiles.palette.profile import FoundImage, Pack, PackFile

_SUFFIXES = (".yaml", ".yml", ".tpl")
_MAX_NESTED = 3  # archives of subcharts inside each other

_IMAGE_LINE = re.compile(r"""^(?P<indent>[ \t]*(?:-[ \t]+)*)["']?image["']?:[ \t]*["']?(?P<image>[^\s"'#,}]+)""")
_IN_BRACES = re.compile(r"""[{,]\s*["']?image["']?\s*:\s*["']?(?P<image>[^\s"'#,{}\[\]]++)(?!\{)""")
_KEY_LINE = re.compile(
    r"""^(?P<indent>[ \t]*(?:-[ \t]+)*)["']?(?P<key>[\w.-]+)["']?:[ \t]*["']?(?P<value>[^\s"'#,]*)"""
)
_NAMED = re.compile(r"[A-Za-z0-9.:-]+(?:/[a-z0-9._-]+)+[:@][A-Za-z0-9._:-]+")
_TAGS = ("tag", "imageTag", "version", "digest", "sha")
_OF_SCHEMAS = frozenset({"string", "object", "array", "integer", "number", "boolean", "bool", "any", "image", "name"})
_MAX_WAY = 2_000  # lines that are searched for what belongs to an image
_V_BEFORE_VERSION = re.compile(r"""["']v%s["']\s+\$?\.Chart\.AppVersion|:v\{\{-?\s*\$?\.Chart\.AppVersion""")


@dataclasses.dataclass(frozen=True, slots=True)
class ChartFile:
    """A text file of a chart; ``folder`` is the path of its chart or subchart."""

    path: str
    text: str = dataclasses.field(repr=False)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]


class ChartScan(Struct, frozen=True):
    """The images that a chart names, and those among them that its rendered templates have.

    ``problem`` says why they may not be all.
    """

    images: tuple[FoundImage, ...]
    problem: str = ""
    rendered: tuple[FoundImage, ...] = ()


def read_chart_files(content: bytes, origin: Path | str, depth: int = 0) -> list[ChartFile]:
    """Read the YAML files and templates in the archive, subcharts included; raises ``InvalidFile``."""
    files: list[ChartFile] = []
    for path, inner in read_archive(io.BytesIO(content), origin, lambda path: path.endswith((*_SUFFIXES, ".tgz"))):
        if not path.endswith(".tgz"):
            files.append(ChartFile(path, inner.decode("utf-8", "replace")))
        elif path.rpartition("/")[0].endswith("/charts") and depth < _MAX_NESTED:
            folder = path.rpartition("/")[0]
            below = read_chart_files(inner, f"{origin}:{path}", depth + 1)
            files += [ChartFile(f"{folder}/{file.path}", file.text) for file in below]
    return files


def scan_pack(
    pack: Pack, documents: Sequence[Any], resolve: Callable[[str], str] = str
) -> tuple[tuple[FoundImage, ...], tuple[str, ...]]:
    """Find the images that ``pack`` names outside its content, sorted, and what was not looked into.

    ``documents`` are those of its values, and ``resolve`` replaces macros in a text of theirs.
    """
    found: list[FoundImage] = []
    problems: list[str] = []
    for document in documents:
        found += _in_file(_in_tree(_without_content(document)), "values.yaml")
    for manifest in pack.manifests:
        found += _in_file(_in_text(manifest.content.decode("utf-8", "replace")), manifest.name)
    for chart in pack.charts:
        scan = scan_chart(chart, documents, resolve)
        found += scan.images
        if scan.problem:
            problems.append(f"{chart.name}: {scan.problem}")
    return _each_once(found), tuple(problems)


def guess_images(tree: Any, where: str) -> list[FoundImage]:
    """Guess the images that a document of an unknown kind names; ``where`` is the place to tell."""
    return list(_in_file(_in_tree(tree), where))


def _each_once(found: Iterable[FoundImage]) -> tuple[FoundImage, ...]:
    first: dict[str, FoundImage] = {}
    for image in found:
        first.setdefault(str(image.reference), image)
    return tuple(first[name] for name in sorted(first))


def _in_file(texts: Iterable[str], where: str) -> Iterator[FoundImage]:
    for text in texts:
        try:
            yield FoundImage(Reference.parse(text), where, is_guess=True)
        except InvalidReference:
            continue  # a scan goes by likeness, and this only looked like an image


def _in_text(text: str) -> Iterator[str]:
    """The texts behind ``image:``, found line by line: manifests are often templates and not YAML."""
    lines = MACRO.sub("{{", text).split("\n")
    for number, line in enumerate(lines):
        for match in _behind_image(line):
            image = match["image"]
            if any(mark in image for mark in ("{{", "$", MARK)):
                continue
            if "/" in image or ":" in image:
                yield image
            elif match.re is _IMAGE_LINE:
                beside = _Surroundings.of(lines, number, len(match["indent"]))
                if beside.base and beside.tag:
                    yield f"{beside.base.rstrip('/')}/{image}:{beside.tag}"
                elif beside.is_container and "." not in image and image.lower() not in _OF_SCHEMAS:
                    yield image


def _behind_image(line: str) -> list[re.Match[str]]:
    """The texts behind ``image:``, at the start of a line or in mappings that are written on one."""
    match = _IMAGE_LINE.match(line)
    return [match] if match else [*_IN_BRACES.finditer(line)] if "image" in line else []


class _Surroundings(Struct):
    """The keys around an image without a registry: those of its own mapping, and those above it."""

    base: str = ""
    tag: str = ""
    is_container: bool = False  # Kubernetes wants a name for each container

    @classmethod
    def of(cls, lines: Sequence[str], number: int, column: int) -> _Surroundings:
        found = cls()
        if not _starts_item(lines[number]):
            found._look(reversed(lines[max(0, number - _MAX_WAY) : number]), column, upwards=True)
        found._look(lines[number + 1 : number + _MAX_WAY], column, upwards=False)
        if _starts_item(lines[number]):
            above = column - (len(lines[number]) - len(lines[number].lstrip()) + 1)
            found._look(
                reversed(lines[max(0, number - _MAX_WAY) : number]), column - max(above, 1), upwards=True, is_own=False
            )
        return found

    def _look(self, lines: Iterable[str], column: int, *, upwards: bool, is_own: bool = True) -> None:
        for line in lines:
            match = _KEY_LINE.match(line)
            if match is None or line.lstrip().startswith(("#", "{{")):
                continue
            place = len(match["indent"])
            if place > column:
                continue
            if place < column:
                if not upwards:
                    return
                column, is_own = place, False
            elif not upwards and _starts_item(line):
                return
            self._take(match["key"], match["value"], is_own=is_own)
            if upwards and is_own and _starts_item(line):
                column, is_own = place - 1, False

    def _take(self, key: str, value: str, *, is_own: bool) -> None:
        if key == "name" and is_own:
            self.is_container = True
        elif key == "base" and "/" in value:
            self.base = self.base or value
        elif key == "tag":
            self.tag = self.tag or value


def _starts_item(line: str) -> bool:
    return line.lstrip().startswith("- ")


class _Chart(Struct):
    """A chart or a subchart: its values, and its files other than Chart.yaml and values.yaml."""

    folder: str
    metadata: dict[str, Any]
    values: dict[str, Any]
    files: list[ChartFile]
    subcharts: dict[str, _Chart]  # by the name under which the values of the chart above speak of it

    @property
    def app_version(self) -> str | None:
        """The ``appVersion``, which is the tag of images whose values have none, as the chart's templates write it."""
        version = self.metadata.get("appVersion")
        if not isinstance(version, str) or not version:
            return None
        has_v = not version.startswith("v") and any(_V_BEFORE_VERSION.search(file.text) for file in self.files)
        return f"v{version}" if has_v else version

    def everything(self) -> Iterator[_Chart]:
        """Itself and all charts below it."""
        yield self
        for chart in self.subcharts.values():
            yield from chart.everything()


def scan_chart(archive: PackFile, documents: Sequence[Any] = (), resolve: Callable[[str], str] = str) -> ChartScan:
    """Find the images of a chart: in its templates as far as its values render them, and in the values themselves.

    ``documents`` are the values of its pack, of which ``charts.NAME`` overrides the chart's own.
    """
    try:
        files = read_chart_files(archive.content, archive.name)
        chart = _chart_of(files)
    except InvalidFile as error:
        return ChartScan((), f"it was not looked into: {error}")
    if chart is None:
        return ChartScan((), "it was not looked into: it holds no Chart.yaml")
    _apply(chart, _overrides(chart, archive, documents, resolve))
    rendered, problem = _rendered(chart, archive.name)
    found = list(rendered)
    for part in chart.everything():
        for text, is_sure in _in_values(part):
            guesses = _in_file([text], f"{archive.name}:{part.folder}/values.yaml")
            found += [guess for guess in guesses if not _is_told(guess, text, rendered, is_sure=is_sure)]
        for file in part.files:
            found += _in_file(_in_text(file.text), f"{archive.name}:{file.path}")
    return ChartScan(_each_once(found), problem, _each_once(rendered))


def _is_told(guess: FoundImage, text: str, rendered: Sequence[FoundImage], *, is_sure: bool) -> bool:
    """Tell whether the templates make another image of what the values alone led to guess.

    Values may lack the tag, which then was only supposed, and the registry, which the templates know.
    """
    has_registry = text.startswith(f"{guess.reference.registry}/")
    plain = text.partition("@")[0]
    path = plain if "/" in plain and ":" not in plain.rpartition("/")[2] else plain.rpartition(":")[0] or plain
    for image in rendered:
        if not is_sure and image.reference.name == guess.reference.name:
            return True
        is_same = not is_sure or image.reference.tag == guess.reference.tag
        is_other = is_same and image.reference != guess.reference
        if is_other and not has_registry and image.reference.name.endswith(f"/{path}"):
            return True
    return False


def _in_values(chart: _Chart) -> Iterator[tuple[str, bool]]:
    """The images in the values of a chart; False for one whose tag is only supposed to be the version."""
    own = {key: value for key, value in chart.values.items() if key not in chart.subcharts}
    sure = dict.fromkeys(_in_tree(own))
    for text in dict.fromkeys(_in_tree(own, chart.app_version)):
        yield text, text in sure and not text.endswith(":latest")


def _chart_of(files: Sequence[ChartFile]) -> _Chart | None:
    """The chart in ``files`` with its subcharts."""
    described = sorted((file for file in files if file.name == "Chart.yaml"), key=lambda file: file.folder.count("/"))
    charts: dict[str, _Chart] = {}
    for file in described:
        if file is described[0] or file.folder.rpartition("/")[0].endswith("/charts"):
            charts[file.folder] = _Chart(file.folder, parse_mapping(file.text, file.path) or {}, {}, [], {})
    if not described:
        return None
    for file in files:
        folder = next((each for each in _folders(file.folder) if each in charts), None)
        if folder is None or file.name == "Chart.yaml":
            continue
        chart = charts[folder]
        if file.path == f"{folder}/values.yaml":
            chart.values = parse_mapping(file.text, file.path) or {}
        else:
            chart.files.append(file)
    root = charts.pop(described[0].folder)
    for folder, chart in charts.items():
        above = next((each for each in _folders(folder.rpartition("/")[0]) if each in charts), root.folder)
        parent = charts.get(above, root)
        name = printed(chart.metadata.get("name")) or folder.rpartition("/")[2]
        for alias in _aliases(parent, name) or [name]:
            values = deep_copy(chart.values)
            parent.subcharts[alias] = _Chart(chart.folder, chart.metadata, values, chart.files, chart.subcharts)
    return root


def _folders(folder: str) -> Iterator[str]:
    """``folder``, and the folders around it."""
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]


def _dependencies(chart: _Chart) -> list[dict[str, Any]]:
    listed = chart.metadata.get("dependencies")
    return [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []


def _aliases(chart: _Chart, name: str) -> list[str]:
    return [printed(each.get("alias") or name) for each in _dependencies(chart) if each.get("name") == name]


def _overrides(
    chart: _Chart, archive: PackFile, documents: Sequence[Any], resolve: Callable[[str], str]
) -> dict[str, Any]:
    """The values that the pack has for the chart, by the name of the chart or of its file."""
    stem = archive.name.rpartition("/")[2].removesuffix(".tgz").removesuffix(".tar.gz")
    for document in documents:
        charts = document.get("charts") if isinstance(document, Map) else None
        for name in (printed(chart.metadata.get("name")), stem):
            own = charts.get(name) if isinstance(charts, Map) else None
            if isinstance(own, Map):
                typed = _typed(own, resolve)
                return typed if isinstance(typed, dict) else {}
    return {}


def _typed(node: Any, resolve: Callable[[str], str]) -> Any:
    """The values of a pack, which are texts, with the types that Helm would give them."""
    if isinstance(node, Map):
        return {key: _typed(value, resolve) for key, value in node.items()}
    if isinstance(node, Seq):
        return [_typed(value, resolve) for value in node]
    if not isinstance(node, str) or "\n" in node:
        return node
    text = resolve(node) if "{{" in node else node
    if "{{" in text:
        return UNKNOWN
    if re.fullmatch(r"true|false|-?[0-9]+", text):
        return load_typed(text)
    return text


def _apply(chart: _Chart, overrides: Mapping[str, Any]) -> None:
    """Bring ``overrides`` into the values of ``chart``, and those of each chart into the charts below it."""
    chart.values = coalesce(chart.values, overrides)
    shared = chart.values.get("global")
    for name, sub in chart.subcharts.items():
        own = chart.values.get(name)
        above = dict(own) if isinstance(own, dict) else {}
        if isinstance(shared, dict):
            known = above.get("global")
            above["global"] = coalesce(known if isinstance(known, dict) else {}, shared)
        _apply(sub, above)
        chart.values[name] = sub.values


def _enabled(chart: _Chart) -> Iterator[_Chart]:
    """The subcharts whose conditions and tags in ``chart`` are true; those without any are enabled."""
    tags = chart.values.get("tags")
    for name, sub in chart.subcharts.items():
        wanted = next((each for each in _dependencies(chart) if name in (each.get("alias"), each.get("name"))), {})
        is_enabled = True
        marks = [tags[tag] for tag in wanted.get("tags") or () if isinstance(tags, dict) and tag in tags]
        if marks:
            is_enabled = any(marks)
        for path in printed(wanted.get("condition")).split(","):
            value: Any = chart.values
            for key in filter(None, path.strip().split(".")):
                value = value.get(key) if isinstance(value, dict) else None
            if isinstance(value, bool):
                is_enabled = value
                break
        if is_enabled:
            yield sub


def _rendered(root: _Chart, origin: str) -> tuple[list[FoundImage], str]:
    """The images in the rendered templates, and a sentence about those that could not be rendered."""
    templates = Templates()
    wanted: list[tuple[ChartFile, list[Any], dict[str, Any]]] = []
    problems: list[str] = []

    def parse(chart: _Chart) -> None:
        for sub in _enabled(chart):
            parse(sub)
        for file in chart.files:
            if not file.path.startswith(f"{chart.folder}/templates/"):
                continue
            try:
                nodes = templates.parse(file.text)
            except TemplateError as error:
                problems.append(f"{file.path} is no template: {error}")
                continue
            if not file.name.startswith("_") and chart.metadata.get("type") in (None, "application"):
                wanted.append((file, nodes, _dot(chart, file)))

    parse(root)
    found: list[FoundImage] = []
    unknown = 0
    for file, nodes, dot in wanted:
        try:
            text = templates.render(nodes, dot)
        except TemplateError as error:
            problems.append(f"{file.path} cannot be rendered: {error}")
            continue
        found += _in_file(_in_text(text), f"{origin}:{file.path}")
        unknown += sum(MARK in match["image"] for line in text.split("\n") for match in _behind_image(line))
    if unknown:
        problems.append(f"{unknown} images in it depend on what only a cluster knows")
    return found, "; ".join(problems[:3])


def _dot(chart: _Chart, file: ChartFile) -> dict[str, Any]:
    """The objects that a template starts from (helm.sh, "Built-in Objects")."""
    known = {key[:1].upper() + key[1:]: value for key, value in chart.metadata.items()}
    below = chart.subcharts.items()
    return {
        **BUILT_IN,
        "Values": chart.values,
        "Chart": {**known, "Name": printed(chart.metadata.get("name")), "IsRoot": "/charts/" not in chart.folder},
        "Template": {"Name": file.path, "BasePath": f"{chart.folder}/templates"},
        "Subcharts": {alias: {"Values": sub.values, "Chart": {"Name": alias}} for alias, sub in below},
    }


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
    if isinstance(node, dict):
        yield from _in_mapping(node, app_version, parent)
        for key, value in node.items():
            yield from _in_tree(value, app_version, parent if parent == "images" else str(key))
    elif isinstance(node, list):
        for value in node:
            yield from _in_tree(value, app_version, parent)
    elif isinstance(node, str) and "\n" in node:
        yield from _in_text(node)
    elif isinstance(node, str) and parent == "images" and _NAMED.fullmatch(node):
        yield node


def _in_mapping(node: Mapping[str, Any], app_version: str | None, parent: str) -> Iterator[str]:
    """The image that one mapping composes; charts spell its parts in different ways."""
    plain = {key: printed(value) for key, value in node.items() if isinstance(value, str | int | float)}
    texts = {key: value for key, value in plain.items() if value and "{{" not in value}
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
