"""The files of ocync and dregsy become a sync file that chooses the same tags, or leaves the mapping out by name."""

from __future__ import annotations

import base64
import json
import operator
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from syncer.errors import InvalidFile, UsageError
from syncer.profiles.imports.dregsy import dregsy_range
from syncer.profiles.imports.importers import ImportResult
from syncer.profiles.imports.ocync import glob_expression, ocync_range
from syncer.profiles.syncfile.sync_file import select_images
from syncer.profiles.syncfile.tags import TagPattern
from tests.test_import_files import imported, read, sources
from tests.test_import_packages import refusals

DREGSY_TAGS = json.loads((Path(__file__).parent / "data" / "dregsy_tags.json").read_text())
"""What dregsy's own ``TagSet`` chose from a listing, written down (dregsy at e92e79a)."""

OCYNC_TAGS = json.loads((Path(__file__).parent / "data" / "ocync_tags.json").read_text())
"""What ocync's own ``FilterConfig`` chose, by the fields of a mapping and of the defaults (ocync at 8c0a084)."""


def chosen(result: ImportResult, listing: list[str]) -> list[str]:
    """The tags that all sources of the new file select together."""
    found = [reference for source in read(result).sources for reference in select_images(source, listing).references]
    return sorted({str(reference.tag) for reference in found})


# dregsy


def dregsy(tags: list[str]) -> str:
    task = {
        "name": "t",
        "source": {"registry": "a.io"},
        "target": {"registry": "b.io"},
        "mappings": [{"from": "x/y", **({"tags": tags} if tags else {})}],
    }
    return yaml.safe_dump({"relay": "skopeo", "tasks": [task]})


@pytest.mark.parametrize(("tags", "theirs"), DREGSY_TAGS["cases"], ids=str)
def test_dregsys_tags_choose_what_dregsy_chose(tmp_path: Path, tags: list[str], theirs: list[str]) -> None:
    result = imported(tmp_path, dregsy(tags))

    assert result.refusals == ()
    assert chosen(result, DREGSY_TAGS["listing"]) == sorted(theirs)


@pytest.mark.parametrize(
    "tags",
    [
        ["semver: >=1.x"],
        ["semver: "],
        ["semver: >=1.0.0-rc.1"],
        ["regex: ("],
        ["regex: .*", "keep: ("],
        ["regex: .*", "keep: latest 3"],
        ["1.0.0", "semver: >=1.0.0", "keep: latest 3"],
    ],
)
def test_tags_that_cannot_be_carried_over_leave_the_mapping_out(tmp_path: Path, tags: list[str]) -> None:
    with pytest.raises(InvalidFile, match=r"theirs.yaml:\d+: tasks\[0\].mappings\[0\].tags: "):
        imported(tmp_path, dregsy(tags))


@pytest.mark.parametrize("tags", [["regex:"], ["regex: .*", "keep:"]])
def test_an_expression_that_fits_nothing_chooses_nothing(tmp_path: Path, tags: list[str]) -> None:
    assert chosen(imported(tmp_path, dregsy(tags)), DREGSY_TAGS["listing"]) == []


AUTH = base64.b64encode(json.dumps({"username": "alex", "password": "hunter2"}).encode()).decode()
DREGSY = f"""\
relay: skopeo
watch: true
skopeo: {{binary: skopeo, certs-dir: /etc/certs}}
lister: {{maxItems: 100}}
tasks:
  - name: one
    interval: 60
    verbose: true
    source: {{registry: registry.hub.docker.com, auth: none}}
    target:
      registry: b.io:5000
      auth: {AUTH}
      skip-tls-verify: true
      auth-refresh: 10h
    mappings:
      - {{from: library/busybox, to: archive/busybox, tags: [latest, "v1@sha256:{"1" * 64}", "sha256:{"2" * 64}"]}}
      - {{from: /team/app, platform: linux/arm64/v8}}
      - {{from: team/tool, platform: all, to: "regex:^/team/(.*),/mirror/$1"}}
      - {{from: "regex:team/.*"}}
      - {{to: nowhere}}
      - {{from: x/y, to: "regex:(,b"}}
    surprise: 1
  - {{name: two, source: {{registry: c.io, auth: wrong}}, mappings: [{{from: x/y}}]}}
"""


def test_dregsy(tmp_path: Path) -> None:
    result = imported(tmp_path, DREGSY)
    file = read(result)
    settings = file.document.registries["b.io:5000"]

    assert result.format == "dregsy"
    assert sources(result) == [
        "docker.io/library/busybox as archive/busybox",
        f"docker.io/library/busybox@sha256:{'1' * 64} as archive/busybox:v1",
        f"docker.io/library/busybox@sha256:{'2' * 64} as archive/busybox",
        "docker.io/team/app as team/app",
        "docker.io/team/tool as mirror/tool",
    ]
    assert [str(platform) for platform in file.sources[3].platforms or ()] == ["linux/arm64/v8"]
    assert [target.registry for target in file.targets] == ["b.io:5000"]
    assert settings.insecure
    assert settings.credentials is not None
    assert (settings.credentials.username, settings.credentials.password_env) == ("alex", "B_IO_5000_PASSWORD")
    assert "hunter2" not in result.text
    assert [line.partition(": ")[2].partition(": ")[0] for line in refusals(result)] == [
        "tasks[0].mappings[3].from",
        "tasks[0].mappings[4].from",
        "tasks[0].mappings[5].to",
        "tasks[1].source.auth",
        "tasks[1].target.registry",
    ]
    for noted in (
        "Times (interval)",
        "auth-refresh",
        "Platforms: ",
        "docker.io: dregsy uses no login",
        "tasks[0].surpri",
    ):
        assert f"# {noted}" in result.text


@pytest.mark.parametrize(
    ("to", "landing"),
    [
        ("regex:(.*),/mirror$1", "mirror/team/app"),
        ("regex:.*,/x", "x"),
        ("regex:^/t.*(app)$,/x/${1}", "x/app"),
        ("regex:^/(a|(b))?team,/${2}y", "y/app"),
        ("regex:/(?P<first>[^/]+)/(.*),/$2/$1", "app/team"),
        ("regex:[^/]*$,all", "team/all"),
        ("regex:t(.*?)m,$1", "ea/app"),
    ],
)
def test_a_path_is_replaced_as_go_replaces_it(tmp_path: Path, to: str, landing: str) -> None:
    """The landings are those of Go's ``ReplaceAllString`` (1.26)."""
    result = imported(
        tmp_path, DREGSY.replace('"regex:^/team/(.*),/mirror/$1"', json.dumps(to)).replace("team/tool", "team/app")
    )

    assert sources(result)[-1] == f"docker.io/team/app as {landing}"


@pytest.mark.parametrize("pattern", ["^/[[:alpha:]]+/", "(?<=/)team", r"\Qteam\E", "(?i)TEAM|a++", r"app\z", r"\pL"])
def test_a_replacement_that_python_reads_otherwise_is_refused(tmp_path: Path, pattern: str) -> None:
    to = json.dumps(f"regex:{pattern},/x/")
    result = imported(tmp_path, DREGSY.replace('"regex:^/team/(.*),/mirror/$1"', to))

    assert not [name for name in sources(result) if "team/tool" in name]
    assert any(": tasks[0].mappings[2].to: " in line for line in refusals(result))


# ocync


def ocync(tags: object, defaults: object = None) -> str:
    mapping = {"from": "x/y", **({"tags": tags} if tags is not None else {})}
    document = {
        "registries": {"a": {"url": "a.io"}, "b": {"url": "b.io"}},
        "defaults": {"source": "a", "targets": ["b"], **({"tags": defaults} if defaults else {})},
        "mappings": [mapping],
    }
    return yaml.safe_dump(document)


@pytest.mark.parametrize(("tags", "defaults", "theirs"), OCYNC_TAGS["cases"], ids=str)
def test_ocyncs_tags_choose_what_ocync_chose(tmp_path: Path, tags: object, defaults: object, theirs: list[str]) -> None:
    result = imported(tmp_path, ocync(tags, defaults))

    assert result.refusals == ()
    assert chosen(result, OCYNC_TAGS["listing"]) == sorted(theirs)


def test_tags_without_patterns_are_names(tmp_path: Path) -> None:
    """Then ocync asks for no list of tags, and a tag that is missing is a failure."""
    (source,) = read(imported(tmp_path, ocync({"glob": ["latest", "1.18.0"]}))).sources

    assert [reference.tag for reference in select_images(source, []).references] == ["latest", "1.18.0"]


@pytest.mark.parametrize(
    ("tags", "name"),
    [
        ({"semver": "^1.2"}, "tags.semver"),
        ({"glob": "a[b"}, "tags.glob"),
        ({"glob": ["{a"]}, "tags.glob"),
        ({"latest": 3}, "tags.latest"),
        ({"latest": 3, "sort": "alpha"}, "tags.sort"),
        ({"latest": "x", "sort": "semver"}, "tags.latest"),
        ({"glob": ""}, "tags.glob"),
        ({"glob": ["a*", ""]}, "tags.glob"),
        ({"semver": ""}, "tags.semver"),
        ({"exclude": [""]}, "tags.exclude"),
        ({"glob": "{latest,edge}"}, "tags.glob"),
        ({"glob": "*", "semver_prerelease": "include"}, "tags.semver_prerelease"),
        (None, "tags"),
    ],
)
def test_a_mapping_whose_tags_cannot_be_carried_over_is_left_out(tmp_path: Path, tags: object, name: str) -> None:
    with pytest.raises(InvalidFile, match=rf"theirs.yaml:\d+: mappings\[0\].{name}: "):
        imported(tmp_path, ocync(tags))


OCYNC = """\
global: {max_concurrent_transfers: 50, cache_ttl: 12h}
registries:
  hub: {url: registry-1.docker.io, auth_type: basic, credentials: {username: "${HUB_USER}", password: "${HUB_TOKEN}"}}
  ecr: {url: 123456789012.dkr.ecr.us-east-1.amazonaws.com, auth_type: ecr, max_concurrent: 1000, head_first: true}
  plain: {url: "http://c.io:5000", auth_type: static_token, token: secret}
  unset: {url: "${HOST}"}
target_groups: {all: [ecr, plain]}
defaults:
  source: hub
  targets: all
  tags: {glob: "1.*"}
  platforms: [linux/amd64, linux/arm64]
  artifacts: {enabled: false}
mappings:
  - {from: library/nginx}
  - {from: library/redis, to: mirror/redis, targets: ecr, platforms: [linux/amd64], artifacts: {enabled: true}}
  - {from: library/etcd, targets: [ecr], artifacts: {exclude: [application/spdx+json], require_artifacts: true}}
  - {from: library/gone, source: nowhere}
  - {from: "${IMAGE}"}
  - {from: x/y, source: unset}
  - {to: x}
"""


def test_ocync(tmp_path: Path) -> None:
    result = imported(tmp_path, OCYNC)
    file = read(result)
    ecr = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
    hub = file.document.registries["docker.io"].credentials

    assert result.format == "ocync"
    assert sources(result) == [
        "docker.io/library/nginx as library/nginx",
        "docker.io/library/redis as mirror/redis",
        "docker.io/library/etcd as library/etcd",
    ]
    assert [source.targets for source in file.sources] == [(), (ecr,), (ecr,)]
    assert [target.registry for target in file.targets] == [ecr, "c.io:5000"]
    assert [len(file.platforms_of(source)) for source in file.sources] == [2, 1, 2]
    assert [file.referrers_of(source) for source in file.sources] == [False, True, False]
    assert hub is not None
    assert (hub.username_env, hub.password_env) == ("HUB_USER", "HUB_TOKEN")
    assert file.document.registries[ecr].concurrency == 256
    assert file.document.registries["c.io:5000"].plain_http
    assert "secret" not in result.text
    assert [line.partition(": ")[2].partition(": ")[0] for line in refusals(result)] == [
        "registries.plain.token",
        "registries.unset.url",
        "mappings[2].artifacts.require_artifacts",
        "mappings[2].artifacts.exclude",
        "mappings[3].source",
        "mappings[4]",
        "mappings[6].from",
    ]


# Ranges and patterns


def numbers(tag: str) -> tuple[int, ...]:
    return tuple(int(part) for part in tag.removeprefix("v").partition("-")[0].replace("_", ".").split("."))


_EDGES = (0, 1, 9, 10, 11, 19, 20, 99, 100, 101, 109, 110, 199)
_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
}


@pytest.mark.parametrize("seed", range(50))
def test_a_range_compares_numbers_as_arithmetic_does(seed: int) -> None:
    """The expressions are held against plain comparison, with numbers at and around the places where digits change."""
    random_ = random.Random(seed)

    def version(parts: int) -> str:
        return ".".join(str(random_.choice(_EDGES)) for _ in range(parts))

    bound = version(3)
    tags = [version(3) for _ in range(50)] + [bound, *(f"v{bound}-{suffix}" for suffix in ("rc.1", "alpine"))]
    for sign, holds in _SIGNS.items():
        fits = TagPattern.regex(ocync_range(f"{sign}{bound}")).fits
        assert [tag for tag in tags if fits(tag)] == [tag for tag in tags if holds(numbers(tag), numbers(bound))]
        theirs = TagPattern.regex(dregsy_range(f"{sign}{bound}")).fits
        keys = {tag: (numbers(tag), "-" not in tag) for tag in tags}
        assert [tag for tag in tags if theirs(tag)] == [tag for tag in tags if holds(keys[tag], (numbers(bound), True))]


@pytest.mark.parametrize("text", ["", "^1", "~1", "1.x", ">=1-rc", "1 2", ">=1,", "=>1", ">" + "12345." * 40 + "1"])
def test_what_is_no_range_of_ocyncs_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        ocync_range(text)


@pytest.mark.parametrize(
    ("pattern", "fitting", "others"),
    [
        ("v[0-9]*", ["v1", "v10-x"], ["v", "x1", "V1"]),
        ("[!a]?", ["bc"], ["ab", "b"]),
        ("[]a]", ["a"], ["b"]),
        (r"a\*", [], ["ab", "a"]),
        ("{1,2{a,b}}-x", ["1-x", "2a-x"], ["2-x", "1"]),
        ("a.b", ["a.b"], ["axb"]),
    ],
)
def test_a_pattern_is_globsets(pattern: str, fitting: list[str], others: list[str]) -> None:
    fits = TagPattern.regex(glob_expression(pattern)).fits
    assert [text for text in [*fitting, *others] if fits(text)] == fitting
