"""Logging in: a key or a password is checked before it is kept, and nobody else can read it."""

from __future__ import annotations

import base64
import json
import os
import pty
import select
import signal
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from anyio import to_thread

from tests.conftest import OpenRegistry, OpenTokenServer
from tests.support import client, images
from tests.support.chart_repository import chart_repository
from tests.support.cli import syncer
from tests.support.palette import KEY, palette_server
from tests.support.quirky import quirky_registry
from tests.support.registries import LOGIN


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


@pytest.mark.parametrize("answer", ["{}", '{"items": {}}', '{"status": "ok"}'])
async def test_an_answer_that_lists_no_projects_proves_no_key(answer: str, tmp_path: Path) -> None:
    """Many servers say ``{}`` to everything."""
    async with palette_server() as palette:
        palette.failures.append(web.Response(text=answer, content_type="application/json"))
        ran = await syncer("login", "--api-key", "wr0ng", "--console-url", str(palette.url), home=tmp_path)

    assert ran.code == 1
    assert "the answer is no list of Palette's API" in ran.stderr
    assert not kept(tmp_path).exists()


async def test_a_key_that_sees_no_project_is_one(tmp_path: Path) -> None:
    """Programs in Go write an empty list as null."""
    async with palette_server() as palette:
        palette.failures.append(web.Response(text='{"items": null}', content_type="application/json"))
        ran = await syncer("login", "--api-key", KEY, "--console-url", str(palette.url), home=tmp_path)

    assert ran.code == 0, ran.stderr


async def test_a_page_to_log_in_at_is_no_registry_that_lets_everybody_in(tmp_path: Path) -> None:
    async def page(*_: object) -> web.StreamResponse:
        return web.Response(text="<html>Log in to the network</html>", content_type="text/html")

    async with quirky_registry() as registry:
        registry.on("ping", page, times=9)
        ran = await syncer(
            "registry-login",
            "--registry",
            registry.address,
            "-u",
            "robot",
            "--password-stdin",
            home=tmp_path,
            stdin="x",
        )

    assert ran.code == 1
    assert "a web page came" in ran.stderr
    assert not (tmp_path / ".config/syncer").exists()


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


def auth_file(home: Path) -> Path:
    return home / ".config/syncer/auth.json"


@pytest.mark.parametrize(
    ("kind", "commands"),
    [
        ("basic", ["content registry-login -r HOST", "registry-logout -r HOST"]),
        ("bearer", ["login HOST", "logout HOST"]),
    ],
)
async def test_a_login_for_a_registry_is_checked_kept_used_and_forgotten(
    debian_registry: OpenRegistry, token_server: OpenTokenServer, tmp_path: Path, kind: str, commands: list[str]
) -> None:
    login, logout = commands
    async with token_server(login=LOGIN) as tokens:
        settings: dict[str, Any] = {"tokens": tokens} if kind == "bearer" else {"login": LOGIN}
        async with debian_registry("source", **settings) as source:
            await client.push(source, "team/app", images.image("a"), "1")
            log_in = (*login.replace("HOST", source.address).split(), "-u", LOGIN.username, "--password-stdin")
            log_out = logout.replace("HOST", source.address).split()
            build = ("build", "--image", f"{source.address}/team/app:1", "--output", tmp_path / "out", "--force")

            wrong = await syncer(*log_in, home=tmp_path, stdin="wrong\n")
            nothing = auth_file(tmp_path).exists()
            right = await syncer(*log_in, home=tmp_path, stdin=f"{LOGIN.password}\n")
            mode = stat.S_IMODE(auth_file(tmp_path).stat().st_mode)
            built = await syncer(*build, home=tmp_path)
            out = await syncer(*log_out, home=tmp_path)
            anonymous = await syncer(*build, home=tmp_path)
            again = await syncer(*log_out, home=tmp_path)

    codes = [ran.code for ran in (wrong, right, built, out, anonymous, again)]
    assert codes == [3, 0, 0, 0, 3, 0], right.stderr + built.stderr
    assert (nothing, mode) == (False, 0o600)
    assert "there was no login" in again.stderr
    for ran in (wrong, right, built):
        assert LOGIN.password not in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("a.io --api-key k", "--api-key is for a login to Palette"),
        ("a.io --project p", "--project is for a login to Palette"),
        ("--username me", "--username is for a registry"),
        ("--plain-http --api-key k", "--plain-http is for a registry"),
    ],
)
async def test_options_of_the_other_login_are_refused(words: str, said: str, tmp_path: Path) -> None:
    ran = await syncer("login", *words.split(), home=tmp_path)

    assert ran.code == 2
    assert f"error: {said}\n" in ran.stderr


async def test_a_password_on_the_command_line_is_taken_with_a_warning(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry(login=LOGIN) as registry:
        ran = await syncer(
            "registry-login", "--registry", f"http://{registry.address}", "--username", LOGIN.username,
            "--password", LOGIN.password, home=tmp_path,
        )  # fmt: skip

    assert ran.code == 0, ran.stderr
    assert "can be seen by others; use --password-stdin" in ran.stderr


async def test_a_registry_that_asks_nobody_is_said_to_have_checked_nothing(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry() as registry:
        ran = await syncer(
            "registry-login", "-r", registry.address, "-u", "u", "--password-stdin", home=tmp_path, stdin="p\n"
        )

    assert ran.code == 0
    assert "this one is not checked" in ran.stderr


async def test_the_users_credential_helper_keeps_logins_where_there_is_one(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    helper = tmp_path / "bin/docker-credential-test"
    helper.parent.mkdir()
    helper.write_text(
        f"#!/bin/sh\ncase $1 in store) cat > {store} ;; erase) rm {store} ;; get) cat {store} 2>/dev/null ;; esac\n"
    )
    helper.chmod(0o755)
    config = tmp_path / ".docker/config.json"
    config.parent.mkdir()
    config.write_text('{"credsStore": "test"}')
    path = f"{helper.parent}:{os.environ['PATH']}"
    async with debian_registry(login=LOGIN) as registry:
        await client.push(registry, "app", images.image("a"), "1")
        kept = await syncer(
            "registry-login", "-r", registry.address, "-u", LOGIN.username, "--password-stdin", home=tmp_path,
            stdin=f"{LOGIN.password}\n", PATH=path,
        )  # fmt: skip
        document = json.loads(store.read_text())
        built = await syncer(
            "build", "--image", f"{registry.address}/app:1", "--output", tmp_path / "out", home=tmp_path, PATH=path
        )
        forgotten = await syncer("registry-logout", "-r", registry.address, home=tmp_path, PATH=path)

    assert (kept.code, built.code, forgotten.code) == (0, 0, 0), kept.stderr + built.stderr
    assert document == {"ServerURL": registry.address, "Username": LOGIN.username, "Secret": LOGIN.password}
    assert "docker-credential-test" in kept.stderr
    assert not store.exists()
    assert not auth_file(tmp_path).exists()


async def test_a_login_that_was_kept_opens_chart_repositories_too(tmp_path: Path) -> None:
    async with chart_repository() as charts:
        charts.login = ("helmsman", "anchor")
        charts.add_chart("app", "1.0.0")
        charts.index()
        host = f"{charts.url.host}:{charts.url.port}"
        auth_file(tmp_path).parent.mkdir(parents=True)
        secret = base64.b64encode(b"helmsman:anchor").decode()
        auth_file(tmp_path).write_text(json.dumps({"auths": {host: {"auth": secret}}}))
        values = tmp_path / "values.yaml"
        values.write_text(f"pack: {{content: {{charts: [{{repo: '{charts.url}', name: app, version: 1.0.0}}]}}}}\n")

        ran = await syncer("build", "--profile-file", values, "--output", tmp_path / "out", home=tmp_path)

    assert ran.code == 0, ran.stdout


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (["-u", "u"], "", "the password is missing"),
        (["--password-stdin"], "p", "the user name is missing"),
        (["-u", "u", "-p", "p", "--password-stdin"], "p", "are both given"),
        (["-u", "u", "--password-stdin"], "", "the password is empty"),
    ],
)
async def test_a_login_for_a_registry_that_is_not_whole(
    tmp_path: Path, arguments: list[str], stdin: str, said: str
) -> None:
    ran = await syncer("registry-login", "-r", "127.0.0.1:9", *arguments, home=tmp_path, stdin=stdin)

    assert ran.code == 2
    assert said in ran.stderr
