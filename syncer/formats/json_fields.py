"""Fields of JSON that others wrote, where a field that is absent or of another kind is as good as empty."""

from __future__ import annotations

from typing import Any


def text_field(document: Any, key: str) -> str:
    """A text; numbers count, since people who edit JSON write them where texts are meant."""
    value = document.get(key) if isinstance(document, dict) else None
    return value if isinstance(value, str) else str(value) if type(value) in (int, float) else ""


def object_field(document: Any, key: str) -> dict[str, Any]:
    value = document.get(key) if isinstance(document, dict) else None
    return value if isinstance(value, dict) else {}


def objects_field(document: Any, key: str) -> list[dict[str, Any]]:
    """The objects in a list."""
    value = document.get(key) if isinstance(document, dict) else None
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
