"""A state directory, or a whole home, that cannot be written costs the hints of a run and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import environment, syncer

IMAGE = images.image("a")
WARNING = "warning: {directory} cannot be written ("


def read_only(directory: Path) -> Path:
    """A directory in which nothing can be made, for root as little as for others."""
    (directory / "file").write_bytes(b"")
    return directory / "file" / "below"


async def full_disk(*words: str | Path, home: Path) -> subprocess.CompletedProcess[bytes]:
    """``syncer`` where no byte can be written to any file, as on a full disk, though files can be made."""
    command = ["bash", "-c", 'ulimit -f 0; exec "$0" -W error -m syncer "$@"', sys.executable, *map(str, words)]
    return await anyio.run_process(command, check=False, env=environment(home))


COMMANDS = {
    "push": "push --file {bundle} --registry {registry}/{target}",
    "push of large blobs": "push --file {bundle} --registry {registry}/{target} --chunk-size 1KiB",
    "sync": "sync --image {registry}/app:1 --registry {registry}/{target}",
    "copy": "copy --source {bundle} --destination {registry}/{target}",
    "remote build": "build --image {registry}/app:1 --build-type remote --registry {registry}/{target}",
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("disk", ["read-only", "full"])
async def test_hints_that_cannot_be_kept_are_gone_without(
    debian_registry: OpenRegistry, tmp_path: Path, command: str, disk: str
) -> None:
    state = read_only(tmp_path) if disk == "read-only" else tmp_path / "state"
    async with debian_registry() as registry:
        await client.push(registry, "app", IMAGE, "1")
        built = await syncer("build", "--image", f"{registry.address}/app:1", "--output", tmp_path, home=tmp_path)
        assert built.code == 0
        names = {"bundle": tmp_path / "bundle.tar.zst", "registry": registry.address, "target": "target"}
        words = [*COMMANDS[command].format(**names).split(), "--state-dir", str(state)]
        if disk == "full":
            done = await full_disk(*words, home=tmp_path)
            code, said = done.returncode, done.stderr.decode()
        else:
            ran = await syncer(*words, home=tmp_path)
            code, said = ran.code, ran.stderr
        repositories = await client.repositories(registry)

    assert code == 0, said
    assert said.count(WARNING.format(directory=state)) == 1, said
    assert said.count("warning: ") == 1, said
    assert any(name.startswith("target/") for name in repositories)


@pytest.mark.parametrize("form", ["text", "json"])
async def test_a_log_has_the_warning(debian_registry: OpenRegistry, tmp_path: Path, form: str) -> None:
    async with debian_registry() as registry:
        await client.push(registry, "app", IMAGE, "1")
        ran = await syncer(
            *("sync", "--image", f"{registry.address}/app:1", "--registry", f"{registry.address}/x"),
            *("--state-dir", read_only(tmp_path), "--log-format", form),
            home=tmp_path,
        )

    assert ran.code == 0
    assert ran.stderr.count("cannot be written (") == 1


@pytest.mark.parametrize("home", ["/dev/null", "/proc/self/fdinfo", None])
async def test_a_home_that_cannot_be_written_stops_no_command(
    debian_registry: OpenRegistry, tmp_path: Path, home: str | None
) -> None:
    """As in a container: no file of ours can be there, nor of Docker's; and a process may have no ``$HOME``."""
    lines = [
        "build --image {address}/app:1 --output {out}",
        "push --file {bundle} --registry {address}/one",
        "sync --image {address}/app:1 --registry {address}/two",
        "plan --image {address}/app:1 --registry {address}/three",
        "verify --file {bundle} --registry {address}/one",
        "copy --source {bundle} --destination {address}/four",
        "list --repo {address}/one/bundle-definition",
        "definition {bundle}",
        "save --source {address}/one/bundle-definition:bundle --output {out}/saved",
        "registry-logout --registry {address}",
        "logout",
    ]
    variables = environment(tmp_path) | {"HOME": home or ""}
    if home is None:
        del variables["HOME"]
        variables["XDG_STATE_HOME"] = str(read_only(tmp_path))
    async with debian_registry() as registry:
        await client.push(registry, "app", IMAGE, "1")
        names = {"address": registry.address, "out": tmp_path, "bundle": tmp_path / "bundle.tar.zst"}
        for line in lines:
            words = line.format(**names).split()
            command = [sys.executable, "-W", "error", "-m", "syncer", *words]
            ran = await anyio.run_process(command, check=False, env=variables, cwd=tmp_path)
            assert ran.returncode == 0, (words, ran.stderr.decode())


async def test_a_report_on_a_full_disk_is_one_sentence(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """The push is done, and what cannot be written is the last thing that is said."""
    report = tmp_path / "report.json"
    async with debian_registry() as registry:
        await client.push(registry, "app", IMAGE, "1")
        await syncer("build", "--image", f"{registry.address}/app:1", "--output", tmp_path, home=tmp_path)
        push = ("push", "--file", tmp_path / "bundle.tar.zst", "--registry", f"{registry.address}/x")
        ran = await full_disk(*push, "--report", report, home=tmp_path)
        repositories = await client.repositories(registry)

    assert ran.returncode == 5
    assert ran.stderr.decode().count("error: ") == 1
    assert f"error: {report} cannot be written: " in ran.stderr.decode()
    assert len(repositories) == 3
    assert not report.exists()
