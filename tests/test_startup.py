"""What a command line costs before it does anything: only what the command needs is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli import environment, syncer

_PROGRAM = "import sys; from syncer.cli import main; main(sys.argv[1:]); print(*sys.modules, sep='\\n')"


def imported_by(*words: str, home: Path) -> set[str]:
    """All that is imported when a run of the command with these words is over."""
    command = [sys.executable, "-c", _PROGRAM, *words]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, env=environment(home), cwd=home)
    return set(ran.stdout.splitlines())


@pytest.mark.parametrize("before", [[], ["content"]])
def test_other_commands_are_not_imported(before: list[str], tmp_path: Path) -> None:
    imported = imported_by(*before, "push", "-f", "missing", "-r", "localhost:1", home=tmp_path)

    assert "syncer.cli.content" in imported
    assert imported.isdisjoint({"syncer.cli.build", "syncer.cli.sync", "syncer.cli.edge", "syncer.cli.serve"})


@pytest.mark.parametrize("place", [[], ["content"]])
async def test_a_mistyped_command_is_told_which_one_is_near(place: list[str], tmp_path: Path) -> None:
    ran = await syncer(*place, "pussh", home=tmp_path)

    assert ran.code == 2
    assert ran.stderr.count("'push'") == 1
