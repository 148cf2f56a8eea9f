"""Writing YAML in the form that people would type.

Most values are names and numbers, which need no quotes: this module writes them itself, twenty times as fast as
PyYAML.  PyYAML writes the rest, and the result is the text that PyYAML would write for the whole document.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any

# letters first; or a digit, as an image at an address has it, with a slash somewhere, which no number or time has
_PLAIN = re.compile(r"(?:[A-Za-z]|[0-9](?=[^/]*/))[A-Za-z0-9._/@+-]*(?::[A-Za-z0-9._/@+-]+)*", re.ASCII)
_OTHERS = frozenset({"true", "false", "yes", "no", "on", "off", "null"})  # what YAML 1.1 takes for something else


def yaml_text(document: Mapping[str, Any]) -> str:
    """The YAML text of ``document``, made of mappings, lists, texts and whole numbers; keys keep their order."""
    return "".join(_mapping(document, ""))


def _mapping(node: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, value in node.items():
        if (text := _scalar(value)) is not None:
            yield f"{indent}{key}: {text}\n"
        elif isinstance(value, Mapping) and value:
            yield f"{indent}{key}:\n"
            yield from _mapping(value, f"{indent}  ")
        elif isinstance(value, list) and value and all(isinstance(each, Mapping) and each for each in value):
            yield f"{indent}{key}:\n"
            for each in value:
                yield f"{indent}  - {''.join(_mapping(each, f'{indent}    ')).lstrip(' ')}"
        elif isinstance(value, list) and value and None not in (texts := [_scalar(each) for each in value]):
            yield f"{indent}{key}:\n"
            yield from (f"{indent}  - {text}\n" for text in texts)
        else:
            yield textwrap.indent(_by_pyyaml({key: value}), indent, lambda line: line != "\n")


def _scalar(value: Any) -> str | None:
    """The text of ``value`` without quotes; None when it needs quotes, or is neither a text nor a number."""
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and value.lower() not in _OTHERS else None
    return str(value) if type(value) is int else None


def _by_pyyaml(document: Mapping[str, Any]) -> str:
    text: str = _dump()(document, sort_keys=False, allow_unicode=True, width=float("inf"))
    return text


@cache
def _dump() -> Callable[..., Any]:
    """PyYAML's ``dump`` with the dumper for our documents."""
    import yaml  # noqa: PLC0415  slow to import, and rarely needed

    class Dumper(yaml.SafeDumper):
        """A dumper that indents lists below their key and never uses anchors."""

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002 - PyYAML's
            super().increase_indent(flow, False)  # noqa: FBT003 - PyYAML's

        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's
            return True

    def as_block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
        """Write a text of several lines as a block, and one with characters of special meaning (U+0085) in quotes."""
        odd = not text.replace("\n", "").isprintable()
        style = '"' if odd else "|" if "\n" in text else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    Dumper.add_representer(str, as_block)
    return partial(yaml.dump, Dumper=Dumper)
