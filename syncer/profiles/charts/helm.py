"""Reading a chart's Chart.yaml, and making the config that Helm stores in a registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

import orjson

from syncer.errors import InvalidContent, InvalidFile
from syncer.formats.archive import read_archive
from syncer.formats.text import decode_text
from syncer.formats.yaml import Map, Seq, parse_yaml

_ORDER = (
    *("name", "home", "sources", "version", "description", "keywords", "maintainers", "icon", "apiVersion"),
    *("condition", "tags", "appVersion", "deprecated", "annotations", "kubeVersion", "dependencies", "type"),
)
_FIELDS_OF_ENTRIES = {
    "maintainers": ("name", "email", "url"),
    "dependencies": ("name", "version", "repository", "condition", "tags", "enabled", "import-values", "alias"),
}


def read_chart_metadata(file: IO[bytes], origin: str) -> Map | None:
    """Read the Chart.yaml of the chart in ``file``; None when the file is another archive, or not an archive.

    A chart is one directory that holds Chart.yaml.  Raises ``InvalidContent`` for a Chart.yaml without name
    or version, and for one that is not YAML.
    """
    found: bytes | None = None
    try:
        for _, content in read_archive(file, origin, _is_chart_yaml):
            found = content
            break
    except InvalidFile:
        return None
    if found is None:
        return None
    try:
        metadata = parse_yaml(decode_text(found, f"{origin}:Chart.yaml"), f"{origin}:Chart.yaml")
    except InvalidFile as error:
        raise InvalidContent(str(error)) from None
    if not isinstance(metadata, Map) or not all(isinstance(metadata.get(key), str) for key in ("name", "version")):
        raise InvalidContent(f"{origin} is not a chart: its Chart.yaml lacks name or version")
    return metadata


def chart_config(metadata: Mapping[str, Any]) -> bytes:
    """The JSON that Helm makes of Chart.yaml: the fields that Helm knows, in its order, without empty ones."""
    fields = {key: _field(key, metadata.get(key)) for key in _ORDER}
    return orjson.dumps({key: value for key, value in fields.items() if value})


def _is_chart_yaml(path: str) -> bool:
    return path.count("/") == 1 and path.endswith("/Chart.yaml")


def _field(key: str, value: Any) -> Any:
    """One field with the type that Helm gives it; the YAML loader gives only texts."""
    if key in ("deprecated", "enabled"):
        return isinstance(value, str) and value.lower() == "true"
    if key == "import-values":
        return value
    if key == "annotations" and isinstance(value, Map):
        return {name: text for name, text in value.items() if isinstance(text, str)}
    if isinstance(value, Seq) and (known := _FIELDS_OF_ENTRIES.get(key)):
        return [_fields(entry, known) for entry in value if isinstance(entry, Map)]
    if isinstance(value, Seq):
        return [entry for entry in value if isinstance(entry, str)]
    return value if isinstance(value, str) else None


def _fields(entry: Map, known: tuple[str, ...]) -> dict[str, Any]:
    fields = {key: _field(key, entry.get(key)) for key in known}
    return {key: value for key, value in fields.items() if value}
