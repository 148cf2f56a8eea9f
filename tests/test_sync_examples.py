"""The pages and examples about syncing are true: files parse, fields are described, schedules are schedules."""

import json
import re
import shlex
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from syncer.formats.models import Model, names_of_fields
from syncer.formats.yaml import parse_documents
from syncer.profiles.syncfile.document import (
    Chart,
    Credentials,
    Registry,
    Source,
    SyncDocument,
    TagChoice,
    Tags,
    Target,
)
from syncer.profiles.syncfile.sync_file import parse_sync_file
from syncer.report import RegistryAccount
from syncer.report.metrics import Job, metrics
from tests.test_distribution import instructions
from tests.test_report import A_NIGHT, account

DOCS = Path(__file__).parent.parent / "docs"
EXAMPLES = DOCS / "examples"
SYNC = (DOCS / "sync.md").read_text()
REPORT = (DOCS / "report.md").read_text()


def unit(name: str) -> ConfigParser:
    parser = ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd minds the case
    parser.read_string((EXAMPLES / name).read_text())
    return parser


def commands() -> dict[str, list[str]]:
    """The command line of each example."""
    cron = next(line for line in (EXAMPLES / "syncer-sync.cron").read_text().splitlines() if line.startswith("15 "))
    job = parse_documents((EXAMPLES / "cronjob.yaml").read_text(), "cronjob.yaml")[0]
    container = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    return {
        "cron": shlex.split(cron.rpartition("; ")[2]),
        "systemd": shlex.split(unit("syncer-sync.service")["Service"]["ExecStart"]),
        "kubernetes": [*json.loads(instructions("ENTRYPOINT")[0]), *container["args"]],
    }


def test_the_complete_example_is_a_sync_file_without_warnings() -> None:
    file = parse_sync_file((EXAMPLES / "sync.yaml").read_text(), EXAMPLES / "sync.yaml")
    assert file.warnings == ()
    assert [target.title for target in file.targets] == ["office", "edge"]


def test_the_page_shows_that_very_file() -> None:
    shown = re.findall(r"```yaml\n(.*?)```", SYNC, re.DOTALL)
    parse_sync_file(shown[0], Path("sync.md"))
    assert shown[0] in (EXAMPLES / "sync.yaml").read_text()


@pytest.mark.parametrize("model", [SyncDocument, Source, Target, Chart, Tags, TagChoice, Registry, Credentials])
def test_every_field_of_a_sync_file_is_described(model: type[Model]) -> None:
    for name in names_of_fields(model):
        assert f"`{name}`" in SYNC, name


def test_every_key_of_a_report_is_described() -> None:
    document = account(*A_NIGHT).report([RegistryAccount(registry="t.io")]).to_json()
    keys = [*document, *document["totals"], *document["images"][0], *document["registries"][0]]
    for key in keys:
        assert f"`{key}`" in REPORT, key


def test_every_metric_is_described() -> None:
    text = metrics(account(*A_NIGHT).report([RegistryAccount(registry="t.io")]), Job(profile="p", command="sync"))
    for name in re.findall(r"^# HELP (\S+)", text.decode(), re.MULTILINE):
        short = name.replace("syncer_last_run_registry_", "…_")
        assert f"`{name}`" in REPORT or f"`{short}`" in REPORT, name


@pytest.mark.parametrize("place", ["cron", "systemd", "kubernetes"])
def test_each_example_runs_a_sync_with_a_file_and_an_account(place: str) -> None:
    program, command, *flags = commands()[place]
    assert Path(program).name == "syncer"
    assert command == "sync"
    assert any("/etc/syncer/sync.yaml" in flag for flag in flags)
    assert any("report.json" in flag for flag in flags)


def test_the_cron_lines_are_comments_settings_or_jobs_with_a_user() -> None:
    for line in (EXAMPLES / "syncer-sync.cron").read_text().splitlines():
        if not line.startswith("#") and not re.fullmatch(r"\w+=\S+", line):
            *schedule, user, command = line.split(maxsplit=6)
            assert all(re.fullmatch(r"[0-9*/,-]+", field) for field in schedule)
            assert len(schedule) == 5
            assert user == "syncer"
            assert "%" not in command  # cron would end the line there


def test_the_systemd_units_belong_together() -> None:
    service, timer = unit("syncer-sync.service"), unit("syncer-sync.timer")
    assert service["Service"]["Type"] == "oneshot"
    assert service["Service"]["SuccessExitStatus"] == "75"
    assert timer["Install"]["WantedBy"] == "timers.target"
    assert re.fullmatch(r"\*-\*-\* \d\d:\d\d:\d\d", timer["Timer"]["OnCalendar"])


def test_systemd_itself_accepts_the_units(tmp_path: Path) -> None:
    """Where systemd is; the program is not installed there, so that another one stands for it."""
    analyze = shutil.which("systemd-analyze")
    for name in ("syncer-sync.service", "syncer-sync.timer"):
        text = (EXAMPLES / name).read_text().replace("/usr/local/bin/syncer", shutil.which("true") or "/bin/true")
        (tmp_path / name).write_text(text)
    if analyze:
        verdict = subprocess.run(
            [analyze, "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert "syncer-sync" not in verdict.stderr, verdict.stderr


def test_the_kubernetes_job_runs_alone_and_without_rights() -> None:
    job, claim = parse_documents((EXAMPLES / "cronjob.yaml").read_text(), "cronjob.yaml")
    template = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]

    assert (job["apiVersion"], job["kind"], claim["kind"]) == ("batch/v1", "CronJob", "PersistentVolumeClaim")
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    assert template["securityContext"]["runAsNonRoot"] == "true"
    mounted = {mount["name"] for mount in template["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in template["volumes"]}
    assert template["volumes"][1]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
