"""Help as people read it: short groups, examples that can be typed, pages that are there, and nothing cut."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import pytest

import syncer as package
from syncer.cli.app import command_line
from syncer.cli.parser import Command, Group
from tests.support.cli import syncer
from tests.support.programs import needs

ROOT = Path(__file__).parent.parent
SCREEN = 24  # lines


def contexts(command: Any, parent: click.Context | None, name: str) -> Iterator[click.Context]:
    """A context of ``command``, and of all below it but those that are refused whatever they are given."""
    context = command.context_class(command, info_name=name, parent=parent, **command.context_settings)
    yield context
    if isinstance(command, Group):
        for listing in command.listings:
            for each, _ in listing.rows:
                yield from contexts(command.commands[each], context, each)


CONTEXTS = {
    context.command_path: context
    for context in contexts(command_line(), None, "syncer")
    if not context.command_path.startswith("syncer content ")  # the same once more
}


def command(path: str) -> Command:
    found = CONTEXTS[path].command
    assert isinstance(found, Command)
    return found


def sections(text: str) -> list[list[str]]:
    """The parts of a help between empty lines."""
    return [part.splitlines() for part in text.split("\n\n")]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("path", CONTEXTS)
def test_each_group_of_options_is_one_screen_of_the_terminals_width(
    path: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    parts = sections(CONTEXTS[path].get_help())

    assert max(map(len, parts)) <= SCREEN
    assert max(len(line) for part in parts for line in part) <= width
    assert not [line for part in parts[1:] for line in part if line.endswith(("-", "..."))], "nothing is cut"


def test_a_wide_terminal_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")

    assert max(map(len, CONTEXTS["syncer push"].get_help().splitlines())) > 100


@pytest.mark.parametrize("path", CONTEXTS)
def test_help_ends_with_examples_that_can_be_typed_and_a_page_that_is_there(path: str) -> None:
    found = command(path)
    lines = [re.split(" [<>] ", re.sub(r"^.* \| ", "", line))[0] for line in found.examples]

    assert 2 <= len(lines) <= 6
    for line in lines:
        _, *words = shlex.split(line)
        with suppress(click.exceptions.Exit):  # of --version
            reach(words)
    pages = re.findall(r"docs/[\w.-]+", found.pages)
    assert pages
    assert all((ROOT / page).is_file() for page in pages)


def reach(words: list[str]) -> None:
    """Parse ``words`` as the command line does, down to the command that they name; nothing is run."""
    context = command_line().make_context("syncer", list(words))
    while isinstance(context.command, click.Group):
        name, found, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None
        context = found.make_context(name, rest, parent=context)


@pytest.mark.parametrize("path", [path for path in CONTEXTS if isinstance(CONTEXTS[path].command, Group)])
def test_a_list_of_commands_has_whole_sentences_and_those_of_each_command(path: str) -> None:
    group = CONTEXTS[path].command
    assert isinstance(group, Group)
    listed = {name: text for listing in group.listings for name, text in listing.rows}

    assert set(group.commands) - set(listed) <= {"upload", "show", "build-from-local", "man"}
    for name, text in listed.items():
        first, _, _ = (group.commands[name].help or "").partition("\n")
        assert text == first
        assert text.endswith(".")


def test_commands_are_grouped_by_what_they_are_for() -> None:
    assert re.findall(r"^([A-Z].*):$", CONTEXTS["syncer"].get_help(), re.MULTILINE) == [
        *("Move", "Look", "Serve", "Log in", "Other", "Options", "Examples")
    ]


def test_what_is_refused_or_for_palettes_scripts_alone_is_not_listed_and_on_palettes_page() -> None:
    page = (ROOT / "docs/palette.md").read_text()
    hidden = {
        flag: path
        for path, context in CONTEXTS.items()
        for param in context.command.params
        if getattr(param, "hidden", False)
        for flag in param.opts
        if flag.startswith("--")
    }

    assert {"--fips", "--include-service-images", "--iso", "--log-level"} <= hidden.keys()
    for flag, path in hidden.items():
        text = CONTEXTS[path].get_help()
        assert not re.search(rf"{flag}\b(?!-)", text), f"{path} {flag}"
        assert "docs/palette.md" in text
        assert flag in page


async def test_the_manual_page_is_made_of_the_same_text(tmp_path: Path) -> None:
    """``make man`` writes it."""
    made = await syncer("man", home=tmp_path, COLUMNS="40")

    assert made.stdout == (ROOT / "docs/syncer.1").read_text()


def test_the_manual_page_can_be_read() -> None:
    """By man without a warning; with every option that help lists, and the exit codes of the README."""
    page = ROOT / "docs/syncer.1"
    shown = subprocess.run(
        [needs("man"), "--warnings", "-E", "UTF-8", "-l", page],
        check=True,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "MANWIDTH": "200", "LC_ALL": "C.UTF-8"},
    )
    text = re.sub(".\b", "", shown.stdout)
    codes = re.findall(r"^\| (\d+)(?:, (\d+))? \| (.*?)[;:|]", (ROOT / "README.md").read_text(), re.MULTILINE)

    assert shown.stderr == ""
    for context in CONTEXTS.values():
        names = [flag for param in context.command.params if not getattr(param, "hidden", False) for flag in param.opts]
        assert all(f"{name} " in text or f"{name}\n" in text for name in names if name.startswith("--no-"))
    for code, other, meaning in codes:
        assert re.search(rf"^ +{code} +{re.escape(meaning.strip())}", text, re.MULTILINE)
        assert not other or re.search(rf"^ +{other} +", text, re.MULTILINE)
    assert len(codes) == 10


@pytest.mark.parametrize("words", [["version"], ["--version"], ["-V"]])
async def test_the_version_has_three_names(words: list[str], tmp_path: Path) -> None:
    ran = await syncer(*words, home=tmp_path)

    assert (ran.code, ran.stdout, ran.stderr) == (0, f"{package.__version__}\n", "")


@pytest.mark.parametrize("words", [["push"], ["edge", "build"], ["content", "copy"], []])
async def test_help_of_a_command_is_what_the_command_says_of_itself(words: list[str], tmp_path: Path) -> None:
    helped, said = await syncer("help", *words, home=tmp_path), await syncer(*words, "--help", home=tmp_path)

    assert (helped.code, helped.stdout, helped.stderr) == (0, said.stdout, "")
    assert said.stdout.startswith(f"Usage: syncer {' '.join(words)}".rstrip())


@pytest.mark.parametrize(
    ("words", "said"), [(["pussh"], "did you mean push?"), (["push", "x"], "has no commands below it")]
)
async def test_help_of_no_command_is_a_mistake(words: list[str], said: str, tmp_path: Path) -> None:
    ran = await syncer("help", *words, home=tmp_path)

    assert (ran.code, ran.stdout) == (2, "")
    assert said in ran.stderr
