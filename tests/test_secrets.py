"""A password that somebody wrote into an address is in nothing that a command writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import anyio
import orjson
import pytest

from tests.conftest import OpenRegistry
from tests.support.cli import environment, syncer
from tests.support.fault_proxy import fault_proxy
from tests.support.faults import Reply

UNUSED = "127.0.0.1:9"  # the discard port: nothing listens
CANARY = "c4n4ry"
PASSWORDS = [
    CANARY,
    f"p@ss/{CANARY}",
    f"{CANARY}@{CANARY}/x",
    f"a:{CANARY}:b",
    CANARY * 40,
    f"%40{CANARY}%2F",
    f"it's{CANARY}",
    f"[{CANARY}]?#{CANARY}",
    f"päß{CANARY}",
]
ADDRESSES = [
    *(f"http://me:{password}@127.0.0.1:9/app:v1" for password in PASSWORDS),
    f"https://me:{CANARY}@quay.io/app@sha256:{'0' * 64}",
    f"https://me:{CANARY}@quay.io/app@sha256:12",
    f"docker://me:{CANARY}@quay.io/app",
    f"oci://me:{CANARY}@quay.io/app",
    f"me:{CANARY}@quay.io/app:v1",
    f"me:{CANARY}@localhost:5000",
    f"https://{CANARY}@quay.io/app",
]
COMMANDS = [
    "build --image {address} --output {out}",
    "build --images-file {list} --output {out}",
    "build --metadata-file {definition} --output {out}",
    "build --metadata-file {address} --output {out}",
    "build --profile-file {profile} --output {out}",
    "build --profile-file {address} --packs {address} --output {out}",
    "build --image {here} --registry {address} --push",
    "build --image {here} --existing-bundles {address} --output {out}",
    "build --image {here} --output {address}/x --name {address}",
    "build --image {here} --arch {address}",
    "build {address}",
    "build --images {address}",
    "push --file {address} --registry {here}",
    "push --file {list} --registry {address}",
    "push --file {list} --registry {here} --map {address}=x",
    "push --file {list} --registry {here} --authfile {address}",
    "push --file {list} --registry {here} --ca-cert {address}",
    "verify --file {address}",
    "verify --file {list} --registry {address}",
    "save --source {address} --output {out}",
    "copy --source {address} --destination {here}/x",
    "copy --source {list} --destination {address}",
    "list --repo {address}",
    "definition {address}",
    "plan --image {address} --registry {here}",
    "sync --image {here} --registry {address}",
    "sync --image {address} --registry {here}",
    "sync --config {sync}",
    "sync --config {sync_to}",
    "sync --config {sync_login}",
    "plan --config {sync}",
    "import {address}",
    "import {regsync}",
    "serve --bundle {address}",
    "registry-login --registry {address} --username me --password-stdin",
    "registry-logout --registry {address}",
    "login --console-url {address} --api-key x",
    "{address}",
]


@pytest.mark.parametrize("command", COMMANDS)
async def test_no_command_shows_a_password_of_an_address(tmp_path: Path, command: str) -> None:
    """Every way in, and every way to write an address; one process for all, since what it prints is looked at whole."""
    program = (
        "import json, sys\nfrom syncer.cli import main\n"
        "for words in json.loads(sys.argv[1]):\n    assert main(words), words\n"
    )
    lines = []
    for number, address in enumerate(ADDRESSES):
        names = _files(tmp_path / str(number), address)
        lines.append([word.format(address=address, here=f"{UNUSED}/app", **names) for word in command.split()])
    process = await anyio.run_process(
        [sys.executable, "-c", program, json.dumps(lines)],
        check=False,
        stderr=subprocess.STDOUT,
        cwd=tmp_path,
        env=environment(tmp_path),
    )
    said = process.stdout.decode()
    assert process.returncode == 0, said
    assert said.count("rror: ") >= len(ADDRESSES) / 2, said
    assert CANARY not in said


def _files(directory: Path, address: str) -> dict[str, str]:
    quoted = "'" + address.replace("'", "''") + "'"
    target = f"targets:\n  - registry: {UNUSED}\n"
    contents = {
        "list": f"quay.io/app:v1\n{address} # the second\n",
        "sync": f"{target}sources:\n  - image: {quoted}\n",
        "sync_to": f"targets:\n  - registry: {quoted}\nsources:\n  - image: {UNUSED}/app\n",
        "sync_login": f"{target}sources:\n  - image: {UNUSED}/app\nregistries:\n  {quoted}:\n    insecure: 7\n",
        "regsync": f"version: 1\nsync:\n  - source: {quoted}\n    target: {quoted}\n    type: image\n",
        "definition": f"images:\n  - {quoted}\n",
        "profile": f"pack:\n  content:\n    images:\n      - image: {quoted}\n",
    }
    directory.mkdir()
    for name, content in contents.items():
        (directory / f"{name}.yaml").write_text(content)
    return {name: str(directory / f"{name}.yaml") for name in contents} | {"out": str(directory / "out")}


@pytest.mark.parametrize("form", [["--json"], ["--log-format", "json"], ["--log-format", "text"], ["--no-progress"]])
async def test_no_account_of_a_run_shows_a_password_that_a_server_repeats(
    serve_disk: OpenRegistry, tmp_path: Path, form: list[str]
) -> None:
    """The words of a refusal are in every account of a run, as they are in the summary."""
    words = {"errors": [{"code": "DENIED", "message": f"ask http://me:{CANARY}@mirror.example, said it"}]}
    refusal = Reply(403, {"Content-Type": "application/json"}, orjson.dumps(words))
    report, metrics = tmp_path / "report.json", tmp_path / "metrics.prom"
    async with serve_disk() as registry, fault_proxy(registry) as proxy:
        proxy.on("GET", "/manifests/v1", refusal)
        ran = await syncer(
            *("build", "--image", f"{proxy.registry.address}/app:v1", "--output", str(tmp_path / "out")),
            *("--report", str(report), "--metrics-file", str(metrics), *form),
            home=tmp_path,
        )

    assert ran.code == 3
    assert "said it" in ran.stdout + ran.stderr
    assert "said it" in report.read_text()
    assert CANARY not in ran.stdout + ran.stderr + report.read_text() + metrics.read_text()


BUGS = {
    "an exception": "raise ValueError(address) from KeyError(address)",
    "a group": "raise ExceptionGroup('two', [ValueError(address), KeyError(address)])",
    "a thread": "import threading; t = threading.Thread(target={}.__getitem__, args=[address]); t.start(); t.join()",
}


@pytest.mark.parametrize("bug", BUGS)
def test_the_trace_of_a_bug_shows_no_password(tmp_path: Path, bug: str) -> None:
    """Nobody knows where a bug will be, so one is put where every command passes."""
    program = (
        "import sys, syncer.cli.app as app\n"
        f"def run_app(words):\n    address = words[0]\n    {BUGS[bug]}\n    return 1\n"
        "app.run_app = run_app\nfrom syncer.cli import main\nsys.exit(main())\n"
    )
    for address in ADDRESSES:
        ran = subprocess.run(
            [sys.executable, "-c", program, address],
            capture_output=True,
            text=True,
            env=environment(tmp_path),
            check=False,
        )
        assert ran.returncode == 1
        assert "Traceback" in ran.stderr
        assert "[hidden]@" in ran.stderr, address
        assert CANARY not in ran.stderr + ran.stdout, address
