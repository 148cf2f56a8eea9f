"""Reading fields of JSON leniently: a field that is absent or of the wrong type counts as empty."""

from __future__ import annotations

from typing import Any


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
