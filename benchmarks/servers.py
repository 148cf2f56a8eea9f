"""Real registries on loopback, each started for as long as it is needed."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.certificates import Certificates
from benchmarks.installed import SYNCER, environment
from benchmarks.tools import said

_SECONDS_TO_START = 20


class ServerFailed(Exception):
    """A registry did not start, or is not here; the message says more."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a server is started with: where it keeps its content, and where it listens."""

    storage: Path
    host: str
    port: int
    tls: Certificates | None
    scratch: Path  # for a file of settings

    def write(self, name: str, text: str) -> str:
        path = self.scratch / name
        path.write_text(text)
        return str(path)


@dataclass(frozen=True, slots=True)
class Program:
    """A kind of registry: its program, and the command that starts it."""

    name: str
    executable: str
    command: Callable[[Setup], list[str]]
    distribution_store: bool = False  # keeps content as a corpus does, and so can serve one as it is

    @property
    def found(self) -> bool:
        return shutil.which(self.executable) is not None

    def version(self) -> str:
        """What the program says about itself, in one line."""
        line = said(*self.command_for_version())
        if not line.startswith("{"):
            return line
        told = json.loads(line)  # zot's is a line of its log
        return ", ".join(f"{name} {told[name]}" for name in ("commit", "distribution-spec") if told.get(name))

    def command_for_version(self) -> list[str]:
        return [*SYNCER, "version"] if self.executable == sys.executable else [self.executable, "--version"]


@dataclass(frozen=True, slots=True)
class Server:
    """A registry that answers at ``address``."""

    address: str
    pid: int


@contextmanager
def run_server(
    program: Program, storage: Path, tls: Certificates | None = None, *, host: str = "127.0.0.1"
) -> Iterator[Server]:
    """The registry over the content of ``storage``, on a free port of ``host``, until the block ends."""
    storage.mkdir(parents=True, exist_ok=True)
    host = tls.host if tls else host
    with socket.create_server((host, 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as scratch, (Path(scratch) / "log").open("w+b") as log:
        process = subprocess.Popen(
            program.command(Setup(storage, host, port, tls, Path(scratch))),
            stdout=log,
            stderr=log,
            env=environment({"OTEL_TRACES_EXPORTER": "none"}),  # distribution 3 would look for a collector
        )
        try:
            if not _opens(process, host, port):
                log.seek(0)
                raise ServerFailed(f"{program.name} did not start: {log.read()[-2000:].decode(errors='replace')}")
            yield Server(f"{host}:{port}", process.pid)
        finally:
            process.terminate()
            process.wait()


def _opens(process: subprocess.Popen[bytes], host: str, port: int) -> bool:
    deadline = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection((host, port)).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            return True
    return False


def _distribution(executable: str) -> Callable[[Setup], list[str]]:
    def command(setup: Setup) -> list[str]:
        http: dict[str, object] = {"addr": f"{setup.host}:{setup.port}", "secret": "benchmarks"}
        if setup.tls:
            http["tls"] = {"certificate": str(setup.tls.certificate), "key": str(setup.tls.key)}
        settings = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(setup.storage)},
                "cache": {"blobdescriptor": "inmemory"},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "http": http,
        }
        return [executable, "serve", setup.write("registry.yaml", yaml.safe_dump(settings))]

    return command


def _zot(setup: Setup) -> list[str]:
    http: dict[str, object] = {"address": setup.host, "port": str(setup.port)}
    if setup.tls:
        http["tls"] = {"cert": str(setup.tls.certificate), "key": str(setup.tls.key)}
    settings = {
        "distSpecVersion": "1.1.1",
        "storage": {"rootDirectory": str(setup.storage), "gc": False},
        "http": http,
        "log": {"level": "error"},
    }
    return ["zot", "serve", setup.write("zot.json", json.dumps(settings))]


def _syncer(setup: Setup) -> list[str]:
    tls = ("--tls-cert", str(setup.tls.certificate), "--tls-key", str(setup.tls.key)) if setup.tls else ()
    return [*SYNCER, "serve", "--disk", str(setup.storage), "--host", setup.host, "--port", str(setup.port), *tls]


PROGRAMS = {
    program.name: program
    for program in (
        Program("docker-registry", "docker-registry", _distribution("docker-registry"), distribution_store=True),
        Program("registry", "registry", _distribution("registry"), distribution_store=True),
        Program("zot", "zot", _zot),
        Program("syncer-serve", sys.executable, _syncer),
    )
}
"""By the name on the command line: Debian's distribution 2, distribution 3, zot, and ``syncer serve --disk``."""
