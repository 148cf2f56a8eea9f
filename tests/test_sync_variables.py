"""Variables in the values of a sync file, and what becomes of those that logins use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer import errors
from syncer.errors import InvalidFile, redacted
from syncer.formats.yaml import parse_yaml
from syncer.oci import Reference
from syncer.profiles.syncfile.sync_file import SyncFile, check_sync_file, parse_sync_file
from syncer.profiles.syncfile.variables import Expansion, literal
from syncer.report import RegistryAccount
from syncer.report.metrics import Job, metrics
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import syncer
from tests.support.tokens import Login
from tests.test_report import A_NIGHT, account

TEXT = """\
sources:
  - image: ${REGISTRY}/app:${TAG:-v1}
  - repository: quay.io/a/b
    tags: {regex: "v1.*$", glob: "$x-*", names: v$$1, newest: "${NEWEST:-3}"}
targets:
  - registry: ${TARGET}
map:
  ${REGISTRY}/team: ours
registries:
  ${TARGET}:
    credentials: {username: "robot$${project}+name", password_env: PASSWORD}
    bytes_per_second: ${RATE}
"""


def parse(text: str = TEXT, **environment: str) -> SyncFile:
    return parse_sync_file(text, Path("sync.yaml"), environment)


def mistakes(text: str, **environment: str) -> list[str]:
    with pytest.raises(InvalidFile) as raised:
        parse(text, **environment)
    return [str(each) for each in raised.value.all]


def test_a_variable_stands_in_any_value() -> None:
    text = TEXT.replace("names: v$$1", "names: v1")
    file = parse(text, REGISTRY="quay.io", TARGET="t.io:5000", RATE="200Mbit", NEWEST="")
    tags = file.sources[1].tags
    credentials = file.document.registries["t.io:5000"].credentials

    assert file.sources[0].image == Reference.parse("quay.io/app:v1")
    assert tags is not None
    assert (tags.newest, tags.regex[0].text, tags.glob[0].text) == (3, "v1.*$", "$x-*")
    assert credentials is not None
    assert credentials.username == "robot${project}+name"
    assert file.document.map == {"quay.io/team": "ours"}
    assert file.document.registries["t.io:5000"].bytes_per_second == 25_000_000
    assert file.place(file.sources[1]) == "sync.yaml:3"


def test_a_variable_that_is_not_set_is_named_with_its_line_and_nothing_follows_from_it() -> None:
    assert mistakes(TEXT, TAG="v2", RATE="fast") == [
        "sync.yaml:2: sources[0].image: the variable REGISTRY is not set, and has no default",
        "sync.yaml:4: sources[1].tags.names[0]: 'v$1' is not a tag",
        "sync.yaml:6: targets[0].registry: the variable TARGET is not set, and has no default",
        "sync.yaml:8: map.${REGISTRY}/team: the variable REGISTRY is not set, and has no default",
        "sync.yaml:11: registries.${TARGET}: the variable TARGET is not set, and has no default",
        "sync.yaml:12: registries.${TARGET}.bytes_per_second: 'fast' is not a number of bytes",
    ]


def test_nothing_follows_from_a_variable_where_one_text_stands_for_more() -> None:
    text = """\
sources:
- repository: a/b
  tags: ${ABSENT}
- repository: a/b
  tags:
  - ${ABSENT}
  - a b
  targets: ${ABSENT}
targets: [{registry: t.io}]
"""
    assert mistakes(text) == [
        "sync.yaml:3: sources[0].tags: the variable ABSENT is not set, and has no default",
        "sync.yaml:6: sources[1].tags[0]: the variable ABSENT is not set, and has no default",
        "sync.yaml:7: sources[1].tags[1]: 'a b' is not a tag",
        "sync.yaml:8: sources[1].targets: the variable ABSENT is not set, and has no default",
    ]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("${}", "'${}' is no variable: a variable is written ${NAME} or ${NAME:-default}, and $$ is a dollar"),
        ("${A", "'${A' is no variable"),
        ("${A-b}", "'${A-b}' is no variable"),
        ("${1}", "'${1}' is no variable"),
        ("${A:-${B}}", "is no variable"),
        ("${BAD}", "the variable BAD holds no text in UTF-8"),
    ],
)
def test_what_looks_like_a_variable_and_is_none_is_refused(value: str, problem: str) -> None:
    (told,) = mistakes(f"sources: [{{image: '{value}'}}]\ntargets: [{{registry: t.io}}]", BAD="a\udcff")

    assert told.startswith("sync.yaml:1: sources[0].image: ")
    assert problem in told


def test_what_a_variable_holds_is_no_yaml_and_no_variable() -> None:
    file = parse("sources: [{image: a, as: '${X}'}]\ntargets: [{registry: t.io, name: '${Y}'}]", X="b", Y="[${Z}, $$]")
    assert file.targets[0].title == "[${Z}, $$]"


def test_two_keys_that_become_one_are_refused() -> None:
    text = "sources: [{image: a}]\ntargets: [{registry: t.io}]\nmap:\n  quay.io: a\n  ${X}: b\n"
    assert mistakes(text, X="quay.io") == ["sync.yaml:5: map.${X}: it is 'quay.io', which stands above already"]


@given(st.text(alphabet="$ {}aA1:-"))
def test_a_text_that_is_written_literally_means_itself(text: str) -> None:
    expansion = Expansion({}, Path("sync.yaml"))
    tree = parse_yaml(json.dumps({"a": [literal(text)]}), "sync.yaml")

    assert expansion.expand(tree) == {"a": [text]}
    assert expansion.mistakes == []


def test_a_file_can_be_checked_before_its_variables_are_known() -> None:
    text = TEXT.replace("names: v$$1", "names: v1")
    check_sync_file(text, Path("sync.yaml"))
    with pytest.raises(InvalidFile, match=r"sync.yaml:12: registries.\$\{TARGET\}.concurrency: it must be 1 or more$"):
        check_sync_file(text.replace("bytes_per_second: ${RATE}", "concurrency: 0"), Path("sync.yaml"))
    with pytest.raises(InvalidFile, match=r"'\$\{RATE' is no variable"):
        check_sync_file(text.replace("${RATE}", "${RATE"), Path("sync.yaml"))


@pytest.fixture
def no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a file hides is hidden for this test alone."""
    monkeypatch.setattr(errors, "_secrets", set())


@pytest.mark.usefixtures("no_secrets")
def test_a_variable_that_a_login_uses_is_in_no_error() -> None:
    """Where it is used, and elsewhere; in other letters, cut short, as a part of an address, as Python writes it."""
    canary = "C4n4ry-" + "x" * 300
    text = """\
sources: [{image: "A//${TOKEN}"}, {chart: {repository: "${QUOTED}", name: x}}]
targets: [{registry: t.io}]
registries:
  ${TOKEN}/x: {insecure: "${TOKEN}"}
  docker.io: {credentials: {username: "${USER}", password: "${TOKEN}", helper: "${QUOTED}"}}
  quay.io: {credentials: {username: a, password_env: NAMED, passwort: "${OTHER:-d3f4ult}"}}
"""
    told = "\n".join(mistakes(text, TOKEN=canary, USER="r0b0t", QUOTED="a'b\"c\\", NAMED="n4m3d"))

    assert told.count("[hidden]") >= 2
    for secret in ("c4n4ry", "xxx"):
        assert secret not in told.lower()
    for secret in (canary.lower(), "r0b0t", "a'b\"c\\", repr("a'b\"c\\")[1:-1], "n4m3d", "d3f4ult"):
        assert secret not in redacted(f"https://host/{secret}/x: no")
    assert redacted(f"{canary}/x and {canary[:160]}") == "[hidden]/x and [hidden]"


@pytest.mark.usefixtures("no_secrets")
def test_a_variable_that_no_login_uses_is_shown() -> None:
    (told,) = mistakes("sources: [{image: 'A//${TAG}'}]\ntargets: [{registry: t.io}]", TAG="sh0wn")
    assert "sh0wn" in told


@pytest.mark.usefixtures("no_secrets")
def test_a_registry_whose_name_a_login_uses_too_is_hidden_in_metrics() -> None:
    errors.hide(["s3cret.example.com"])
    report = account(*A_NIGHT).report([RegistryAccount(registry="s3cret.example.com")])

    written = metrics(report, Job(profile="p", command="sync", targets=("s3cret.example.com/base",)))

    assert b'registry="[hidden]"' in written
    assert b"s3cret" not in written


async def test_a_variable_of_a_login_is_in_nothing_that_a_sync_writes(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """Neither as the password nor as a part of a name: not in reports, metrics, summaries, forecasts and logs."""
    canary = "c4n4ry-word"
    login = Login("alice", canary)
    file = tmp_path / "sync.yaml"
    file.write_text("""\
sources:
  - image: ${SOURCE}/${WORD}/app:1
  - image: ${SOURCE}/${WORD}/lost:1
targets:
  - registry: ${TARGET}/${WORD}
registries:
  ${SOURCE}:
    credentials: {username: "${WHO:-alice}", password: "${WORD}"}
""")
    flags: list[str | Path] = ["sync", "--config", file]
    async with debian_registry("source", login=login) as source, debian_registry("target") as target:
        variables = {"SOURCE": source.address, "TARGET": target.address, "WORD": canary}
        await client.push(source, f"{canary}/app", images.image("app"), "1")

        told = [
            await syncer(*flags, "--dry-run", home=tmp_path, **variables),
            await syncer(*flags, "--dry-run", "--json", home=tmp_path, **variables),
            await syncer(
                *flags, "--report", tmp_path / "report.json", "--metrics-file", tmp_path / "x.prom",
                home=tmp_path, **variables,
            ),
            await syncer(*flags, "--json", "--log-format", "json", home=tmp_path, **variables),
            await syncer(*flags, home=tmp_path, **variables | {"TARGET": f"{target.address}/A"}),
        ]  # fmt: skip

        assert await client.tags(target, f"{canary}/{source.address.replace(':', '_')}/{canary}/app") == ["1"]
    assert [ran.code for ran in told] == [4, 4, 4, 4, 2]
    assert "stands in the file" not in told[0].stderr
    assert told[3].json["images"][0]["source"] == f"{source.address}/[hidden]/app:1"
    said = [text for ran in told for text in (ran.stdout, ran.stderr)]
    for text in (*said, (tmp_path / "report.json").read_text(), (tmp_path / "x.prom").read_text()):
        assert canary not in text
