"""What a command line costs before it does anything: it is read quickly, and only what is needed is imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli import syncer


@pytest.mark.parametrize("place", [[], ["content"]])
async def test_a_mistyped_command_is_told_which_one_is_near(place: list[str], tmp_path: Path) -> None:
    ran = await syncer(*place, "pussh", home=tmp_path)

    assert ran.code == 2
    assert ran.stderr.count("'push'") == 1
