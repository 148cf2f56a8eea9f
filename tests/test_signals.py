"""Ctrl-C and SIGTERM end within two seconds, with an account and nothing half-named; the same command goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import anyio
import orjson
import pytest
from jsonschema import Draft202012Validator

from syncer.report import human_bytes
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.bundles import build, some_images
from tests.support.cli import environment, syncer
from tests.support.fault_proxy import fault_proxy
from tests.support.faults import Rule, Stall

SCHEMA = Path(__file__).parent.parent / "docs" / "report.schema.json"


async def signalled(
    home: Path,
    rule: Rule,
    number: signal.Signals,
    *arguments: str | Path,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
) -> tuple[int, str, float]:
    """Run a command until ``rule`` has struck, then send it a signal: its exit code, its stderr, seconds to the end."""
    async with await anyio.open_process(
        [sys.executable, "-m", "syncer", *map(str, arguments)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
    ) as process:
        while not rule.fired:  # noqa: ASYNC110  (the proxy that knows tells nobody)
            await anyio.sleep(0.01)
        process.send_signal(number)
        began = time.monotonic()
        code = await process.wait()
        seconds = time.monotonic() - began
        assert process.stderr is not None
        stderr = b"".join([chunk async for chunk in process.stderr]).decode()
    assert "Traceback" not in stderr, stderr
    return code, stderr, seconds


def report_at(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = orjson.loads(path.read_bytes())
    Draft202012Validator(orjson.loads(SCHEMA.read_bytes())).validate(document)
    return document


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_build_that_is_stopped_names_nothing_and_goes_on(
    debian_registry: OpenRegistry, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out = tmp_path / "out"
    image = images.image("a", layers=[images.layer("one", 3_000_000), images.layer("two", 3_000_000)])
    async with debian_registry() as registry, fault_proxy(registry) as proxy:
        await client.push(registry, "app", image, "1")
        stalled = proxy.on("GET", "/blobs/", Stall("answer", at=2_500_000), first=2)
        told = ("--report", tmp_path / "run.json", "--metrics-file", tmp_path / "run.prom")
        command = ("build", "--image", f"{proxy.registry.address}/app:1", "--output", out, *told)

        ended, stderr, seconds = await signalled(tmp_path, stalled, number, *command)
        left = {path.name for path in out.iterdir()}
        account, metrics = report_at(tmp_path / "run.json"), (tmp_path / "run.prom").read_text()
        again = await syncer(*command, home=tmp_path)

    assert ended == code
    assert seconds < 10  # what stands still does so for good
    assert "run the same command again to go on" in stderr
    assert left == {"bundle.tar.zst.partial", "bundle.tar.zst.journal"}
    assert [image["status"] for image in account["images"]] == ["unfinished"]
    labels = f'command="build",profile="bundle",target="{out}/bundle.tar.zst"'
    assert f"syncer_last_run_success{{{labels}}} 0.0" in metrics
    assert account["exit_code"] == code
    assert again.code == 0, again.stderr
    assert [path.name for path in out.iterdir()] == ["bundle.tar.zst"]


async def test_a_push_that_is_stopped_leaves_no_tag_and_no_session(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    image = images.image("a", layers=[images.layer("one", 3_000_000)])
    async with debian_registry("source") as source, debian_registry("target") as target, fault_proxy(target) as proxy:
        await client.push(source, "app", image, "1")
        await syncer("build", "--image", f"{source.address}/app:1", "--output", tmp_path, home=tmp_path)
        stalled = proxy.on("PUT", "/blobs/uploads/", Stall("request", at=2_000_000))
        to = f"{proxy.registry.address}/base"
        told = ("--report", tmp_path / "run.json", "--metrics-file", tmp_path / "run.prom")
        command = ("push", "--file", tmp_path / "bundle.tar.zst", "--registry", to, *told)

        ended, _, seconds = await signalled(tmp_path, stalled, signal.SIGTERM, *command)
        repository = f"base/{source.address.replace(':', '_')}/app"
        tags = await client.tags(target, repository)
        account, metrics = report_at(tmp_path / "run.json"), (tmp_path / "run.prom").read_text()
        again = await syncer(*command, home=tmp_path)

        assert f'syncer_last_run_success{{command="push",profile="bundle",target="{to}"}} 0.0' in metrics
        assert (ended, tags) == (143, [])
        assert seconds < 10  # what stands still does so for good
        assert account["totals"]["images_unfinished"] == 1
        assert (account["exit_code"], account["targets"]) == (143, [to])
        assert again.code == 0, again.stderr
        await client.assert_holds(target, repository, image, "1")


async def test_a_fleet_that_is_stopped_tells_how_far_each_site_is(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    made = [images.image(name, layers=[images.layer(name, size)]) for name, size in (("a", 3_000_000), ("b", 1_000))]
    async with debian_registry("source") as source, debian_registry("target") as target, fault_proxy(target) as proxy:
        for name, image in zip("ab", made, strict=True):
            await client.push(source, name, image, "1")
        named = [word for name in "ab" for word in ("--image", f"{source.address}/{name}:1")]
        await syncer("build", *named, "--output", tmp_path, home=tmp_path)
        stalled = proxy.on("PUT", "/blobs/uploads/", Stall("request"), times=None)
        sites = [f"{target.address}/done", f"{proxy.registry.address}/under-way", f"{target.address}/later"]
        to = [word for site in sites for word in ("-r", site)]
        command: list[str | Path] = ["push", "--file", tmp_path / "bundle.tar.zst", *to]
        files = ("--report", tmp_path / "fleet.json", "--metrics-file", tmp_path / "fleet.prom")
        told = (*files, "--report-dir", tmp_path, "--at-once", "1", "-q")  # the summary of a failure is on stderr

        ended, stderr, seconds = await signalled(tmp_path, stalled, signal.SIGINT, *command, *told)
        fleet = report_at(tmp_path / "fleet.json")
        proxy.rules.remove(stalled)
        again = await syncer(*command, "--json", home=tmp_path)

    done, under_way, later = fleet["sites"]
    assert (ended, seconds < 10) == (130, True)
    assert [row["state"] for row in fleet["sites"]] == ["done", "partial", "not begun"]
    assert (under_way["images"], under_way["error"]) == (2, "it was stopped before all was there")
    assert fleet["exit_code"] == 130
    assert fleet["causes"] == [{"cause": under_way["error"], "sites": [under_way["name"]]}]
    assert stderr.count("run the same command again to go on") == 1
    moved, spent = re.findall("^(?:moved|time): .*", stderr, re.MULTILINE)
    total = human_bytes(done["bytes_sent"] + under_way["bytes_sent"])
    assert (moved, spent.endswith("/s")) == (f"moved:   {total}", True)
    own = report_at(tmp_path / under_way["report"])
    assert own["totals"]["images_unfinished"] >= 1
    assert own["totals"]["bytes_sent"] == under_way["bytes_sent"]
    assert "unfinished" in {span["outcome"] for span in own["timeline"]["blobs"]}
    assert {span["site"] for span in fleet["timeline"]["blobs"] if span["outcome"] == "unfinished"} == {
        under_way["name"]
    }
    assert (own["command"], own["exit_code"]) == ("push", 1)
    assert later["report"] is None
    metrics = (tmp_path / "fleet.prom").read_text()
    success = [
        f'syncer_site_success{{command="push",profile="bundle",site="{row["name"]}"}} {row is done:.1f}'
        for row in fleet["sites"]
    ]
    assert all(line in metrics for line in success)
    assert (again.code, [row["state"] for row in again.json["sites"]]) == (0, ["unchanged", "done", "done"])


async def test_a_verification_that_is_stopped_or_fails_has_a_report(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    await build(bundle := tmp_path / "edge.tar.zst", some_images())
    report = tmp_path / "verify.json"
    async with debian_registry() as registry, fault_proxy(registry) as proxy:
        stalled = proxy.on("HEAD", "/v2/", Stall("head"))
        place = proxy.registry.address
        ended, _, _ = await signalled(tmp_path, stalled, signal.SIGINT, "verify", bundle, place, "--report", report)
        stopped = orjson.loads(report.read_bytes())
    content = bytearray(bundle.read_bytes())
    content[len(content) // 2] ^= 1
    bundle.write_bytes(content)
    failed = await syncer("verify", bundle, "--report", report, home=tmp_path)
    told = orjson.loads(report.read_bytes())
    refused = await syncer("report", report, home=tmp_path)

    assert (ended, stopped["exit_code"], stopped["registry"]) == (130, 130, place)
    assert (stopped["kind"], stopped["error"]) == ("verify", "it was stopped before its end")
    assert (failed.code, told["exit_code"], told["bundle"], told["registry"]) == (6, 6, str(bundle), None)
    assert failed.stderr.startswith(f"error: {told['error']}\n")
    assert len(told["findings"]) == 1
    assert f"{report} is the report of a verification" in refused.stderr


async def test_a_command_that_is_stopped_before_it_begins_says_so(tmp_path: Path) -> None:
    """Its files are read before anything else is done."""
    os.mkfifo(targets := tmp_path / "sites.yaml")
    command = ("push", "--file", tmp_path / "edge.tar.zst", "--targets-file", targets)
    process = await anyio.open_process(
        [sys.executable, "-m", "syncer", *map(str, command)], stderr=subprocess.PIPE, env=environment(tmp_path)
    )
    async with process, await anyio.open_file(targets, "wb"):  # which is open once the command reads
        process.send_signal(signal.SIGINT)
        code = await process.wait()
        assert process.stderr is not None
        stderr = b"".join([chunk async for chunk in process.stderr]).decode()

    assert (code, stderr) == (130, "stopped before anything was done\n")


_STOPPED_AT_ONCE = """
import os, signal
import anyio, click
from syncer.cli.job import run

async def job():
    os.kill(os.getpid(), signal.SIGINT)  # as while it imports what it needs
    await anyio.sleep_forever()

try:
    run(job)
except click.exceptions.Exit as ended:
    raise SystemExit(ended.exit_code)
"""


async def test_a_job_that_is_stopped_in_its_first_moment_says_how_to_go_on(tmp_path: Path) -> None:
    ran = await anyio.run_process([sys.executable, "-c", _STOPPED_AT_ONCE], check=False, env=environment(tmp_path))

    assert (ran.returncode, ran.stderr.decode()) == (130, "stopped; run the same command again to go on\n")
