"""Real registries on free loopback ports, as async context managers."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import bcrypt
import yaml
from anyio.abc import Process

from syncer.serve import Tls, open_disk, serve
from tests.support.programs import needs
from tests.support.tls import Identity
from tests.support.tokens import ISSUER, Login, TokenServer

LOGIN = Login("alice", "correct horse")

_LISTENING = re.compile(r"(listening on |serving on https?://)(?P<address>127\.0\.0\.1:[0-9]+)")
_POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Registry:
    """A running registry and how to reach it."""

    address: str  # host:port
    directory: Path  # where its content lies
    login: Login | None = None
    tokens: TokenServer | None = None
    authority: Path | None = None  # the CA to trust; None means plain HTTP
    client: Identity | None = None  # the certificate that the registry asks for
    pid: int | None = None  # of a process of its own
    log: Path | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.authority else 'http'}://{self.address}"

    def authorization(self, *scopes: str) -> dict[str, str]:
        """The header that a well-behaved client ends up with."""
        if self.tokens:
            return {"Authorization": f"Bearer {self.tokens.token(*scopes)}"}
        return {"Authorization": self.login.header} if self.login else {}


@asynccontextmanager
async def debian_registry(
    directory: Path,
    *,
    login: Login | None = None,
    tokens: TokenServer | None = None,
    tls: Identity | None = None,
    authority: Path | None = None,
    client: Identity | None = None,
    delete: bool = True,
    port: int = 0,
    config: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Registry]:
    """Debian's docker-registry (distribution 2.8) with its content in ``directory``.

    ``login`` turns Basic authentication on, ``tokens`` Bearer, ``tls`` HTTPS with the certificate of
    ``authority``, ``client`` the demand for that client certificate.  Opened again with the same directory
    and port it is the same registry, restarted; upload sessions survive.  ``config`` is merged over the
    configuration; ``environment`` is added to the process's.
    """
    program = needs("docker-registry")
    directory.mkdir(parents=True, exist_ok=True)
    settings = _config(directory, port, delete=delete)
    settings |= _authentication(directory, login, tokens)
    settings["http"] |= _tls(tls, authority if client else None)
    _merge(settings, config or {})
    (directory / "config.yml").write_text(yaml.safe_dump(settings))
    log = directory / "registry.log"
    with log.open("wb") as output:
        process = await anyio.open_process(
            [program, "serve", str(directory / "config.yml")],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | dict(environment or {}),
        )
    try:
        address = await listening(process, log)
        yield Registry(
            address,
            directory,
            login=login,
            tokens=tokens,
            authority=authority if tls else None,
            client=client,
            pid=process.pid,
            log=log,
        )
    finally:
        await end(process)


@asynccontextmanager
async def serve_disk(
    directory: Path,
    *,
    login: Login | None = None,
    tls: Identity | None = None,
    authority: Path | None = None,
    port: int = 0,
) -> AsyncIterator[Registry]:
    """Syncer's own registry, in this process, with its content in ``directory``.

    A bug of the server's, which a client may not notice, fails the test.
    """
    directory.mkdir(parents=True, exist_ok=True)
    passwords = htpasswd(directory / "htpasswd", login) if login else None
    identity = Tls(certificate=tls.certificate, key=tls.key) if tls else None
    with nothing_logged("asyncio", "syncer.serve"), open_disk(directory / "content") as disk:
        async with serve(disk, port=port, htpasswd=passwords, tls=identity) as address:
            yield Registry(str(address), directory, login=login, authority=authority if tls else None)


@asynccontextmanager
async def serve_process(
    directory: Path,
    *,
    bundle: Path | None = None,
    login: Login | None = None,
    tls: Identity | None = None,
    authority: Path | None = None,
    port: int = 0,
) -> AsyncIterator[Registry]:
    """``syncer serve --disk`` in a process of its own, which the test may kill; over ``bundle`` if given."""
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / "serve.log"
    arguments = ["serve", "--disk", str(directory / "content"), "--port", str(port)]
    if bundle:
        arguments += ["--bundle", str(bundle)]
    if login:
        arguments += ["--htpasswd", str(htpasswd(directory / "htpasswd", login))]
    if tls:
        arguments += ["--tls-cert", str(tls.certificate), "--tls-key", str(tls.key)]
    with log.open("wb") as output:
        process = await anyio.open_process(
            [sys.executable, "-m", "syncer", *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        address = await listening(process, log)
        yield Registry(address, directory, login=login, authority=authority if tls else None, pid=process.pid, log=log)
    finally:
        await end(process)


class _Kept(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def nothing_logged(*names: str) -> Iterator[None]:
    """Raise ``AssertionError`` at the end if one of these loggers got an error."""
    handler = _Kept(logging.ERROR)
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
    assert not handler.records, "\n".join(map(logging.Formatter().format, handler.records))


async def listening(process: Process, log: Path) -> str:
    """The address that the registry says it listens on."""
    with anyio.fail_after(20):
        while True:
            text = log.read_text()
            if found := _LISTENING.search(text):
                return found["address"]
            assert process.returncode is None, f"the registry ended:\n{text}"
            await anyio.sleep(_POLL_SECONDS)


async def end(process: Process) -> None:
    with anyio.CancelScope(shield=True):
        if process.returncode is None:
            process.kill()
        await process.wait()
        await process.aclose()


def _config(directory: Path, port: int, *, delete: bool) -> dict[str, Any]:
    return {
        "version": "0.1",
        "log": {"level": "info", "accesslog": {"disabled": False}},
        "storage": {
            "filesystem": {"rootdirectory": str(directory / "content")},
            "delete": {"enabled": delete},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": {"addr": f"127.0.0.1:{port}", "secret": "kept over restarts"},
        # foreign layers may name any address
        "validation": {"manifests": {"urls": {"allow": ["^https?://"]}}},
    }


def _authentication(directory: Path, login: Login | None, tokens: TokenServer | None) -> dict[str, Any]:
    if tokens:
        return {
            "auth": {
                "token": {
                    "realm": tokens.realm,
                    "service": tokens.service,
                    "issuer": ISSUER,
                    "rootcertbundle": str(tokens.certificate),
                }
            }
        }
    if login:
        return {"auth": {"htpasswd": {"realm": "tests", "path": str(htpasswd(directory / "htpasswd", login))}}}
    return {}


def _tls(identity: Identity | None, client_authority: Path | None) -> dict[str, Any]:
    if identity is None:
        return {}
    settings: dict[str, Any] = {"certificate": str(identity.certificate), "key": str(identity.key)}
    if client_authority:
        settings["clientcas"] = [str(client_authority)]
    return {"tls": settings}


def htpasswd(path: Path, *logins: Login) -> Path:
    """A password file in the one form that Debian's registry takes: bcrypt, at its lowest cost."""
    lines = [
        f"{login.username}:{bcrypt.hashpw(login.password.encode(), bcrypt.gensalt(4)).decode()}" for login in logins
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def _merge(settings: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(settings.get(key), dict):
            _merge(settings[key], value)
        else:
            settings[key] = value
