"""Logging in: a key or a password is checked before it is kept, and nobody else can read it."""

from __future__ import annotations

import os
import pty
import select
import signal
import stat
import sys
from pathlib import Path

from anyio import to_thread

from tests.support.cli import syncer
from tests.support.palette import KEY, palette_server


def kept(home: Path) -> Path:
    return home / ".config/syncer/palette.json"


async def test_a_key_is_checked_and_kept_for_its_user_alone(tmp_path: Path) -> None:
    async with palette_server(projects=[("Default", "p1"), ("Edge", "p2")]) as palette:
        ran = await syncer(
            "login", "--api-key", KEY, "--console-url", str(palette.url), "--project", "Edge", "--org", "acme",
            home=tmp_path,
        )  # fmt: skip
        again = await syncer("logout", home=tmp_path)
        nothing = await syncer("logout", home=tmp_path)

    assert (ran.code, again.code, nothing.code) == (0, 0, 0), ran.stderr
    assert "project Edge" in ran.stderr
    assert KEY not in ran.stdout + ran.stderr
    assert not kept(tmp_path).exists()
    assert "no login" in nothing.stderr


async def test_a_wrong_key_is_told_and_not_kept(tmp_path: Path) -> None:
    async with palette_server() as palette:
        ran = await syncer("login", "--api-key", "wr0ng", "--console-url", str(palette.url), home=tmp_path)

    assert ran.code == 3
    assert "401" in ran.stderr
    assert "wr0ng" not in ran.stderr
    assert not kept(tmp_path).exists()


async def test_a_project_that_the_key_does_not_see_is_told(tmp_path: Path) -> None:
    async with palette_server(projects=[("Default", "p1")]) as palette:
        ran = await syncer(
            "login", "--api-key", KEY, "--console-url", str(palette.url), "--project", "Edge", home=tmp_path
        )

    assert ran.code == 2
    assert "'Edge'" in ran.stderr
    assert "it sees: Default" in ran.stderr


async def test_cron_jobs_log_in_by_their_environment(tmp_path: Path) -> None:
    async with palette_server() as palette:
        ran = await syncer("login", home=tmp_path, SYNCER_API_KEY=KEY, SYNCER_CONSOLE_URL=str(palette.url))

    assert ran.code == 0, ran.stderr
    assert stat.S_IMODE(kept(tmp_path).stat().st_mode) == 0o600


async def test_without_a_key_and_without_a_terminal_nothing_is_asked(tmp_path: Path) -> None:
    ran = await syncer("login", "--console-url", "https://console.example.com", home=tmp_path)

    assert ran.code == 2
    assert "the API key is missing" in ran.stderr
    assert "SYNCER_API_KEY" in ran.stderr


async def test_on_a_terminal_the_key_is_asked_for_and_not_shown(tmp_path: Path) -> None:
    async with palette_server() as palette:
        shown, code = await to_thread.run_sync(_typed, tmp_path, str(palette.url), KEY)

    assert code == 0, shown
    assert "API key" in shown
    assert KEY not in shown
    assert kept(tmp_path).exists()


def _typed(home: Path, console: str, key: str) -> tuple[str, int]:
    """What a terminal shows of ``syncer login`` when ``key`` is typed, and the exit code."""
    child, terminal = pty.fork()
    if child == 0:
        arguments = [sys.executable, "-m", "syncer", "login", "--console-url", console]
        os.execve(sys.executable, arguments, {"PATH": os.environ["PATH"], "HOME": str(home)})
    shown = _read(terminal, until=b"API key: ")  # the blank is written once nothing typed is shown any more
    os.write(terminal, f"{key}\n".encode())
    shown += _read(terminal, until=None)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return shown.decode(), os.waitstatus_to_exitcode(status)


def _read(terminal: int, *, until: bytes | None) -> bytes:
    """What is shown until ``until``, or the end; no longer than a test may take."""
    shown = b""
    while (until is None or until not in shown) and select.select([terminal], [], [], 20)[0]:
        try:
            piece = os.read(terminal, 1024)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    return shown
