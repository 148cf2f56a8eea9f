"""Every flag that Palette's CLIs document is known here, and docs/palette.md says what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from syncer.cli.app import command_line
from tests.test_sync_docs import assert_known, typed

PAGE = Path(__file__).parent.parent / "docs/palette.md"
COMMON = "--arch --ca-cert --insecure --tls-cert --tls-key --progress -a -i"

DOCUMENTED = {
    "content build": "--profiles --project-id --name --output --build-type --push --registry --metadata-only "
    "--metadata-file --existing-bundles --exclude-profiles --packs --images-only --include-packs "
    "--include-service-images --include-core-palette-images-only --fips --cluster-definition-name "
    "--cluster-definition-profile-ids --download-cluster-config-only --private-key --compression-level --custom-ui "
    "--application-release-name --application-release-notes --application-release-version --skip-cleanup "
    "--encryption-passphrase -n -o -p -r -f -k",
    "content copy": "--source --destination --annotation-selector -s -d",
    "content definition": "",
    "content list": "--repo -r",
    "content push": "--file --registry --annotation-selector -f -r",
    "content registry-login": "--registry --username --password -r -u -p",
    "content save": "--source --output --definition-only --compression-level -s -o",
    "content serve": "--bundle --disk --host --port -b -d -p",
    "edge build": "--api-key --palette-endpoint --project-id --cluster-profile-ids --outfile --cred-file-path "
    "--private-key --cluster-definition-name --cluster-definition-profile-ids --include-core-images-only --iso "
    "--include-palette-content --export-for-connected",
    "edge deploy": "--export --url --username --password",
    "edge": "--config --debug --trace --logfile",
}


def found(words: str) -> Any:
    command: Any = command_line()
    for word in words.split():
        command = command.commands[word]
    return command


@pytest.mark.parametrize("words", DOCUMENTED)
def test_every_documented_flag_is_known_and_described(words: str) -> None:
    command = found(words)
    common = COMMON.split() if words.startswith("content") else []
    known = {name for option in command.params for name in option.opts}
    page = PAGE.read_text()

    for flag in DOCUMENTED[words].split() + common:
        assert flag in known, f"{words} does not know {flag}"
        assert not flag.startswith("--") or flag in page, f"{flag} is not on the page"


def test_every_command_is_there_at_the_top_and_as_content() -> None:
    top, content = found("").commands, found("content").commands

    assert set(content) <= set(top)
    assert {"build", "copy", "definition", "list", "push", "registry-login", "save", "serve", "upload"} <= set(content)
    assert {"build", "build-from-local", "deploy", "show", "upload"} == set(found("edge").commands)


def test_every_command_line_of_the_page_can_be_typed() -> None:
    lines = typed(PAGE.read_text())

    assert len(lines) > 10
    for words in lines:
        assert_known(words)


def test_what_is_refused_says_so_on_the_page() -> None:
    page = PAGE.read_text()

    for flag in ("--fips", "--iso", "--config", "INCLUDE_COMPLIANCE_IMAGES", "build-from-local"):
        line = next(line for line in page.splitlines() if line.startswith("|") and flag in line)
        assert "**refused**" in line.lower()
