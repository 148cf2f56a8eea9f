"""What README and docs tell to type can be typed: every command and every flag in them is there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syncer.cli.app import command_line
from syncer.profiles.syncfile.sync_file import parse_sync_file
from tests.test_sync_examples import commands as examples

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "docs/sync.md", ROOT / "docs/report.md"]
_FLAG = re.compile(r"`(--[a-z][a-z-]*)")


def commands() -> dict[str, set[str]]:
    """Each command with its flags, as the parser knows them."""
    group: Any = command_line()
    return {name: _flags(command) for name, command in _walk(group, ())}


def _walk(group: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _walk(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def _flags(command: Any) -> set[str]:
    flags = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
    return flags | {"--help", "-h"}


def typed(text: str) -> list[list[str]]:
    """The command lines in a page's code blocks."""
    found, in_block = [], False
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            in_block = not in_block
        elif in_block and (match := re.match(r"(?:.*[;&|] *)?(?:/\S+/)?(syncer .*)", re.sub(r"(^|\s)#.*", "", line))):
            found.append(shlex.split(re.split(r" [<>|] ", match[1])[0]))
    return found


KNOWN = commands()


def assert_known(words: list[str]) -> None:
    _, *rest = words
    name = " ".join(rest[:2]) if rest[0] == "content" else rest[0]
    flags = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
    assert flags <= KNOWN[name], shlex.join(words)


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda path: path.name
)
def test_every_command_line_is_one_that_the_parser_knows(page: Path) -> None:
    for words in typed(page.read_text()):
        assert_known(words)


@pytest.mark.parametrize("place", ["cron", "systemd", "kubernetes"])
def test_the_examples_use_flags_that_there_are(place: str) -> None:
    assert_known(examples()[place])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_flag_that_a_page_mentions_is_there(page: Path) -> None:
    mentioned = set(_FLAG.findall(page.read_text()))
    assert mentioned <= set().union(*KNOWN.values()) | {"--src"}  # skopeo's own


def test_the_pages_show_commands_at_all() -> None:
    assert all(typed(page.read_text()) for page in (ROOT / "README.md", ROOT / "docs/sync.md"))


def test_the_file_in_the_readme_is_a_sync_file() -> None:
    (shown,) = re.findall(r"```yaml\n(# sync\.yaml\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    file = parse_sync_file(shown, Path("README.md"))
    assert [target.title for target in file.targets] == ["office", "edge"]
    assert file.warnings == ()
