"""Completion in the shell: commands, options and their words, as bash asks for them, and as zsh and fish do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli import environment, syncer

_ASK = """
source <(syncer completion bash)
complete -p syncer
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 ))
_syncer_completion syncer
printf '%s\\n' "${COMPREPLY[@]}"
"""


def bash(*words: str, home: Path) -> list[str]:
    """The completions that bash offers for the last of ``words``."""
    program = home / "syncer"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m syncer "$@"\n')
    program.chmod(0o755)
    variables = environment(home)
    asked = subprocess.run(
        ["bash", "--norc", "-c", _ASK, "bash", *words],
        check=True,
        capture_output=True,
        text=True,
        env=variables | {"PATH": f"{home}:{variables['PATH']}"},
        cwd=home,
    )
    registered, *offered = asked.stdout.splitlines()
    assert "_syncer_completion syncer" in registered
    assert asked.stderr == ""
    return [each for each in offered if each]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["syncer", "pu"], ["push"]),
        (["syncer", "re"], ["report", "registry-login", "registry-logout"]),
        (["syncer", "up"], []),
        (["syncer", "--ver"], ["--version"]),
        (["syncer", "push", "--targ"], ["--targets-file"]),
        (["syncer", "push", "f.tar", "--no-"], ["--no-progress"]),
        (["syncer", "build", "--fi"], []),
        (["syncer", "build", "--log-format", ""], ["text", "json"]),
        (["syncer", "content", "sa"], ["save"]),
        (["syncer", "edge", ""], ["build", "deploy"]),
        (["syncer", "schema", "si"], ["sites"]),
        (["syncer", "build", "a"], []),
        (["syncer", "help", "pu"], ["push"]),
        (["syncer", "help", "edge", ""], ["build", "deploy"]),
        (["syncer", "help", "push", ""], []),
        (["syncer", "help", "nonsense", ""], []),
    ],
)
def test_bash_is_offered_commands_options_and_their_words(words: list[str], offered: list[str], tmp_path: Path) -> None:
    assert bash(*words, home=tmp_path) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(("line", "word"), [("syncer push -", "-"), ("syncer push ", "")])
async def test_a_file_is_completed_by_each_shell_itself(shell: str, line: str, word: str, tmp_path: Path) -> None:
    count = str(len(line.split(" ")) - 1)
    ran = await syncer(
        home=tmp_path,
        COMP_WORDS=line,
        COMP_CWORD=word if shell == "fish" else count,
        _SYNCER_COMPLETE=f"{shell}_complete",
    )

    assert ran.code == 0
    assert ran.stdout.startswith("plain" if word else "file")
    assert ("--targets-file" in ran.stdout) == bool(word)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_help_is_offered_commands_by_each_shell(shell: str, tmp_path: Path) -> None:
    ran = await syncer(
        home=tmp_path,
        COMP_WORDS="syncer help pu" if shell != "fish" else "syncer help",
        COMP_CWORD="pu" if shell == "fish" else "2",
        _SYNCER_COMPLETE=f"{shell}_complete",
    )

    assert ran.code == 0
    assert ran.stdout.replace(",", "\n").replace("\t", "\n").split("\n")[:2] == ["plain", "push"]


@pytest.mark.parametrize(
    ("shell", "part"), [("bash", "complete -o nosort"), ("zsh", "#compdef syncer"), ("fish", "string split -m 1")]
)
async def test_each_shell_has_its_script(shell: str, part: str, tmp_path: Path) -> None:
    ran = await syncer("completion", shell, home=tmp_path)

    assert ran.code == 0
    assert part in ran.stdout


async def test_another_shell_is_a_mistake(tmp_path: Path) -> None:
    ran = await syncer("completion", "csh", home=tmp_path)

    assert (ran.code, ran.stdout) == (2, "")
    assert "error: SHELL: csh is not one of bash, zsh, fish" in ran.stderr
