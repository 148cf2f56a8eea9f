"""Each tool's documented example, written anew with the same fields, becomes a sync file that means the same."""

from pathlib import Path

import pytest

from syncer.errors import InvalidFile, UsageError
from syncer.profiles.imports.importers import ImportResult, import_file
from syncer.profiles.imports.skopeo import whole_match
from syncer.profiles.syncfile.sync_file import SyncFile, parse_sync_file, select_images
from syncer.profiles.syncfile.tags import TagPattern

DIGEST = "sha256:" + "1" * 64


def imported(tmp_path: Path, text: str, name: str = "theirs.yaml", registry: str | None = None) -> ImportResult:
    path = tmp_path / name
    path.write_text(text)
    return import_file(path, registry=registry)


def read(result: ImportResult) -> SyncFile:
    return parse_sync_file(result.text, Path("sync.yaml"))


def sources(result: ImportResult) -> list[str]:
    """What the file mirrors, in one word each."""
    said = []
    for source in read(result).sources:
        what = source.image or source.repository or source.images_file
        if source.chart:
            what = f"{source.chart.repository} {source.chart.name} {source.chart.version}"  # type: ignore[assignment]
        if source.file:
            what = f"{source.file.url} {source.file.name}"  # type: ignore[assignment]
        name = source.custom_name
        at = f" as {name.repository}{':' + name.tag if name.tag else ''}" if name else ""
        said.append(f"{what}{at}")
    return said


def found(result: ImportResult, number: int, *listing: str) -> list[str | None]:
    return [reference.tag for reference in select_images(read(result).sources[number], listing).references]


SKOPEO = f"""\
mirror.example.net:
  images:
    tools/busybox: []
    cache/redis:
      - "7.0"
      - "7.2"
      - "{DIGEST}"
  images-by-tag-regex:
    web/nginx: ^1\\.13\\.[12]-alpine$
  images-by-semver:
    base/alpine: ">= 3.12.0"
  credentials:
    username: jane
    password: correct horse
  tls-verify: true
  cert-dir: /home/jane/certs
quay.io:
  tls-verify: false
  images:
    coreos/etcd:
      - latest
"""


def test_skopeo(tmp_path: Path) -> None:
    result = imported(tmp_path, SKOPEO, registry="t.io/mirror")

    assert result.format == "skopeo sync"
    assert sources(result) == [
        "mirror.example.net/tools/busybox",
        "mirror.example.net/cache/redis",
        f"mirror.example.net/cache/redis@{DIGEST}",
        "mirror.example.net/web/nginx",
        "mirror.example.net/base/alpine",
        "quay.io/coreos/etcd",
    ]
    assert found(result, 0, "a", "b") == ["b", "a"]
    assert found(result, 1) == ["7.0", "7.2"]
    assert found(result, 3, "1.13.1-alpine", "1.13.2-alpine", "1.13.3-alpine") == ["1.13.2-alpine", "1.13.1-alpine"]
    assert found(result, 4, "3.11.9", "3.12.0", "4.0.0") == ["4.0.0", "3.12.0"]
    (refusal,) = result.refusals
    assert refusal.startswith(f"{tmp_path}/theirs.yaml:16: mirror.example.net.cert-dir: name the CA under")
    assert read(result).document.registries["quay.io"].insecure


def test_a_password_is_never_copied(tmp_path: Path) -> None:
    result = imported(tmp_path, SKOPEO, registry="t.io")
    credentials = read(result).document.registries["mirror.example.net"].credentials

    assert credentials is not None
    assert (credentials.username, credentials.password_env) == ("jane", "MIRROR_EXAMPLE_NET_PASSWORD")
    assert "correct horse" not in result.text
    assert "# The password of mirror.example.net was not copied: give it in the variable" in result.text


@pytest.mark.parametrize(
    ("go", "tags", "expected"),
    [
        ("alpine", ["3-alpine-x", "3"], ["3-alpine-x"]),
        ("^v1", ["v1.0", "xv1"], ["v1.0"]),
        ("^v1$", ["v1", "v1.0"], ["v1"]),
        ("^a$|b", ["a", "xbx", "ax"], ["a", "xbx"]),
        ("(?i)^RC$", ["rc", "rc1"], ["rc"]),
        ("(?i)RC", ["1-rc-2", "1"], ["1-rc-2"]),
    ],
)
def test_an_expression_that_is_searched_for_finds_the_same_tags(go: str, tags: list[str], expected: list[str]) -> None:
    assert [tag for tag in tags if TagPattern.regex(whole_match(go)).fits(tag)] == expected


REGSYNC = """\
x-nightly: &nightly "15 01 * * *"
version: 1
creds:
  - registry: localhost:5000
    tls: disabled
    reqPerSec: 50
    reqConcurrent: 5
  - registry: docker.io
    user: "{{env \\"HUB_USER\\"}}"
    pass: "{{file \\"/var/run/secrets/hub_token\\"}}"
  - registry: registry.example.org
    user: syncuser
    pass: 'Pa$$w0rd'
    credExpire: 1h
defaults:
  ratelimit: {min: 100, retry: 15m}
  parallel: 2
  interval: 60m
sync:
  - source: busybox:latest
    target: registry.example.org/library/busybox:latest
    type: image
  - source: busybox:1
    target: localhost:5000/{{ .Sync.Source }}
    type: image
    platforms: [linux/amd64, linux/arm64]
  - source: alpine
    target: registry.example.org/library/alpine
    type: repository
    tagSets:
      - allow: [latest, edge]
      - semverRange: [">=3.5.1 <4.0"]
        allow: ['v?\\d+\\.\\d+\\.\\d+']
    schedule: *nightly
  - source: ghcr.io/regclient/regctl
    target: registry.example.org/regclient/regctl
    type: repository
    tags:
      allow: ["latest", "v[0-9\\\\.]+"]
      deny: ["v0.*"]
    referrers: true
    digestTags: true
"""


def test_regsync(tmp_path: Path) -> None:
    result = imported(tmp_path, REGSYNC, "regsync.yml")
    file = read(result)

    assert (result.format, result.refusals) == ("regsync", ())
    assert sources(result) == [
        "docker.io/library/busybox:latest as library/busybox",
        "docker.io/library/busybox:1 as busybox",
        "docker.io/library/alpine as library/alpine",
        "docker.io/library/alpine as library/alpine",
        "ghcr.io/regclient/regctl as regclient/regctl",
    ]
    assert [target.registry for target in file.targets] == ["registry.example.org", "localhost:5000"]
    assert [source.targets for source in file.sources[:2]] == [("registry.example.org",), ("localhost:5000",)]
    assert [str(platform) for platform in file.platforms_of(file.sources[1])] == ["linux/amd64", "linux/arm64"]
    assert found(result, 2, "latest", "edge", "3.6.0") == ["latest", "edge"]
    assert found(result, 3, "3.5.0", "3.6.0", "3.6", "3.7.0", "4.0.0") == ["3.7.0", "3.6.0"]
    assert found(result, 4, "v0.1", "v1.0", "latest", "main") == ["v1.0", "latest"]
    assert [file.referrers_of(source) for source in file.sources] == [False] * 4 + [True]


def test_regsyncs_registries(tmp_path: Path) -> None:
    result = imported(tmp_path, REGSYNC, "regsync.yml")
    registries = read(result).document.registries
    hub, example, local = (registries[host] for host in ("docker.io", "registry.example.org", "localhost:5000"))

    assert (local.plain_http, local.requests_per_second, local.concurrency) == (True, 50, 5)
    assert hub.credentials is not None
    assert hub.credentials.username_env == "HUB_USER"
    assert str(hub.credentials.password_file) == "/var/run/secrets/hub_token"
    assert example.credentials is not None
    assert example.credentials.password_env == "REGISTRY_EXAMPLE_ORG_PASSWORD"
    assert "Pa$$w0rd" not in result.text


def test_what_regsync_can_and_syncer_cannot_is_refused_by_field(tmp_path: Path) -> None:
    text = """\
sync:
  - {source: a.io/x/y:1, target: b.io/x/y:1, type: image, backup: "old-{{.Ref.Tag}}"}
  - {source: a.io, target: b.io, type: registry, repos: {allow: [x]}}
  - {source: "ocidir://x", target: b.io/x, type: image}
  - {source: a.io/x/y, target: b.io/x/y, type: repository, tags: {allow: ["("]}}
  - {source: a.io/x/y, target: b.io/x/y, type: repository, tags: {alow: [x]}}
defaults: {includeExternal: false, mediaTypes: []}
"""
    refusals = [line.partition("theirs.yaml:")[2] for line in imported(tmp_path, text).refusals]
    assert refusals == [
        "2: sync[0].backup: a tag that is overwritten is not kept under another name",
        "3: sync[1].type: 'registry' cannot be imported: name the repositories one by one",
        "4: sync[2].source: only images in registries, and no template but {{ .Sync.Source }}, are understood",
        "5: sync[3].tags.allow: '(' is not a regular expression: missing ), unterminated subpattern at position 0",
        "6: sync[4].tags.alow: syncer does not know this field",
    ]


IMAGE_SYNCER = f"""\
quay.io/coreos/proxy: quay.io/ruohe/proxy
quay.io/coreos/proxy:v1.0: quay.io/ruohe/proxy
quay.io/coreos/proxy:v1.0,v2.0: quay.io/ruohe/proxy
quay.io/coreos/proxy@{DIGEST}: quay.io/ruohe/proxy
quay.io/coreos/proxy:/^v[0-9]+/: quay.io/ruohe/proxy
quay.io/coreos/proxy:v1.1:
  - localhost:5000/ruohe/proxy1:stable
  - quay.io/ruohe/proxy2
"""


def test_image_syncer(tmp_path: Path) -> None:
    result = imported(tmp_path, IMAGE_SYNCER)
    file = read(result)

    assert (result.format, result.refusals) == ("image-syncer", ())
    assert sources(result) == [
        "quay.io/coreos/proxy as ruohe/proxy",
        "quay.io/coreos/proxy:v1.0 as ruohe/proxy",
        "quay.io/coreos/proxy as ruohe/proxy",
        f"quay.io/coreos/proxy@{DIGEST} as ruohe/proxy",
        "quay.io/coreos/proxy as ruohe/proxy",
        "quay.io/coreos/proxy:v1.1 as ruohe/proxy1:stable",
        "quay.io/coreos/proxy:v1.1 as ruohe/proxy2",
    ]
    assert found(result, 2) == ["v1.0", "v2.0"]
    assert found(result, 4, "v1", "v2-x", "x") == ["v2-x", "v1"] or found(result, 4, "v1", "v2-x", "x") == [
        "v1",
        "v2-x",
    ]
    assert [file.sources[number].targets for number in (5, 6)] == [("localhost:5000",), ("quay.io",)]


def test_image_syncers_logins(tmp_path: Path) -> None:
    rules, logins = tmp_path / "images.yaml", tmp_path / "auth.json"
    rules.write_text(IMAGE_SYNCER)
    logins.write_text(
        '{"quay.io": {"username": "${QUAY_USER}", "password": "$QUAY_PASSWORD"},'
        ' "localhost:5000": {"username": "me", "password": "hunter2", "insecure": true},'
        ' "quay.io/coreos": {"username": "a", "password": "b"}}'
    )
    result = import_file(rules, logins=logins)
    registries = read(result).document.registries
    quay, local = registries["quay.io"].credentials, registries["localhost:5000"].credentials

    assert quay is not None
    assert local is not None
    assert (quay.username_env, quay.password_env) == ("QUAY_USER", "QUAY_PASSWORD")
    assert (local.username, local.password_env) == ("me", "LOCALHOST_5000_PASSWORD")
    assert registries["localhost:5000"].insecure
    assert "hunter2" not in result.text
    assert [line.partition("auth.json:")[2] for line in result.refusals] == [
        "1: quay.io/coreos: credentials are for a whole registry, not for a part of its names"
    ]


def test_image_syncers_older_form_of_one_file(tmp_path: Path) -> None:
    text = '{"auth": {"a.io": {"username": "me", "password": "x"}}, "images": {"a.io/x/y:1": "b.io/x/y"}}'
    result = imported(tmp_path, text, "config.json")

    assert sources(result) == ["a.io/x/y:1 as x/y"]
    assert "a.io" in read(result).document.registries


@pytest.mark.parametrize(
    ("rule", "refusal"),
    [
        ('a.io/x/y:1: ""', "a.io/x/y:1: it names no target"),
        ("a.io/x/y:1,2: b.io/x/y:3", "a.io/x/y:1,2: several tags cannot all become 3"),
        ("a.io/x/y:1: b.io/X", "a.io/x/y:1: 'b.io/X' is not an image reference"),
    ],
)
def test_what_image_syncer_can_and_syncer_cannot_is_refused_by_rule(tmp_path: Path, rule: str, refusal: str) -> None:
    result = imported(tmp_path, f"a.io/ok/ok:1: b.io/ok/ok\n{rule}\n")
    assert f"theirs.yaml:2: {refusal}" in result.refusals[0]


def test_a_list_of_images(tmp_path: Path) -> None:
    text = "# nightly\nbusybox\n\nquay.io/a/b:v1  # twice\nquay.io/a/b:v1\n"
    result = imported(tmp_path, text, "images.txt", registry="t.io/base")

    assert result.format == "list of images"
    assert sources(result) == ["docker.io/library/busybox:latest", "quay.io/a/b:v1"]
    assert [target.registry for target in read(result).targets] == ["t.io/base"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("busybox\nQuay.io/A\n", "theirs.yaml:2: "),
        ("busybox\nnginx latest\n", "theirs.yaml:2: 'nginx latest' is more than one word"),
        ("a: {b: c}\n", "not a file of a tool"),
        ("[1, 2]\n", "not a file of a tool"),
        ("a: [\n", "this is not YAML"),
        ("", "not a file of a tool"),
        ("sources: []\ntargets: []\n", "it is a sync file already"),
        ("quay.io: {username: a, password: b}\n", "it holds logins only"),
        ("sync: []\n", "it names nothing to mirror"),
    ],
)
def test_a_file_that_nobody_knows_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(InvalidFile) as raised:
        imported(tmp_path, text, registry="t.io")
    assert problem in str(raised.value)


def test_where_to_mirror_to_is_said_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not say where to mirror to"):
        imported(tmp_path, "busybox\n", "images.txt")
    with pytest.raises(UsageError, match="says itself where to mirror to"):
        imported(tmp_path, REGSYNC, registry="t.io")
