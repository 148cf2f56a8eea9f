"""YAML files of ``registryMappingRules``, as ``--map`` takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from syncer.errors import InvalidFile, UsageError
from syncer.profiles.mapping import MappingRule
from syncer.profiles.text_file import read_text
from syncer.profiles.yaml_document import Map, parse_yaml

_FIELD = "registryMappingRules"
_PLACES = ((), ("externalRegistries",), ("stylus", "externalRegistries"))
"""Where the rules stand: the last is the place in an edge host's user data, which may be given as it is."""


def read_mapping_file(path: Path) -> list[MappingRule]:
    """The rules in the YAML file at ``path``; raises ``InvalidFile``."""
    rules = _find(parse_yaml(read_text(path), path))
    if rules is None:
        raise InvalidFile(
            path, f"it has no {_FIELD}", hint=f"write `{_FIELD}:` and below it lines like `quay.io/kairos: kairos`"
        )
    return [_rule(path, rules, prefix) for prefix in rules]


def _find(tree: Any) -> Map | None:
    for place in _PLACES:
        node = tree
        for step in (*place, _FIELD):
            node = node.get(step) if isinstance(node, Map) else None
        if isinstance(node, Map):
            return node
    return None


def _rule(path: Path, rules: Map, prefix: str) -> MappingRule:
    replacement = rules[prefix]
    line = rules.lines[prefix]
    if not isinstance(replacement, str):
        raise InvalidFile(path, f"{_FIELD}.{prefix}: it must be a text", line=line)
    try:
        return MappingRule.of(prefix, replacement)
    except UsageError as error:
        raise InvalidFile(path, f"{_FIELD}: {error}", line=line, hint=error.hint) from None
