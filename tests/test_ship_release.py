"""The release workflow, which cannot run here: actionlint reads it, and these tests what it lets its jobs do."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import yaml

from tests.support.programs import needs_built
from tests.test_distribution import ROOT

pytestmark = pytest.mark.ship

FILE = ROOT / ".github/workflows/release.yml"
WORKFLOW: dict[str, Any] = yaml.safe_load(FILE.read_text())
JOBS: dict[str, Any] = WORKFLOW["jobs"]


def uses(job: str) -> list[str]:
    return [step["uses"].partition("@")[0] for step in JOBS[job]["steps"] if "uses" in step]


def test_actionlint_finds_nothing_wrong() -> None:
    linted = subprocess.run([needs_built("actionlint"), "-no-color", FILE], check=False, capture_output=True, text=True)

    assert linted.returncode == 0, linted.stdout


def test_what_is_built_says_where_it_was_built() -> None:
    for job in ("distributions", "image", "publish"):
        assert "actions/attest-build-provenance" in uses(job)
        assert JOBS[job]["permissions"]["attestations"] == JOBS[job]["permissions"]["id-token"] == "write"


def test_only_the_last_job_may_write_and_only_after_everything_was_checked() -> None:
    """Nothing is a job's by default, and PyPI knows the workflow and not a password."""
    assert WORKFLOW["permissions"] == {}
    writing = {name for name, job in JOBS.items() if {"contents", "packages"} & _written(job)}
    assert writing == {"publish"}
    assert JOBS["publish"]["needs"] == ["distributions", "image"]
    assert {JOBS[name]["needs"] for name in ("distributions", "image")} == {"check"}
    assert "pypa/gh-action-pypi-publish" in uses("publish")
    assert "secrets." not in FILE.read_text()


def _written(job: dict[str, Any]) -> set[str]:
    return {name for name, right in job["permissions"].items() if right == "write"}


def test_no_checkout_keeps_the_token() -> None:
    steps = [
        step for job in JOBS.values() for step in job["steps"] if step.get("uses", "").startswith("actions/checkout")
    ]

    assert len(steps) == len(JOBS)
    assert all(step["with"]["persist-credentials"] is False for step in steps)


def test_no_script_is_put_together_from_what_others_wrote() -> None:
    """Names of branches and tags reach a shell by the environment alone."""
    for job in JOBS.values():
        for step in job["steps"]:
            assert set(re.findall(r"\$\{\{ *([^ }]+)", step.get("run", ""))) <= {"matrix.architecture"}
