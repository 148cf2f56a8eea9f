"""Each tool's documented example, written anew with the same fields, becomes a sync file that means the same."""

import re
from pathlib import Path

import pytest
import yaml

from syncer.errors import InvalidFile, UsageError
from syncer.formats.re2 import whole_match
from syncer.naming import Naming
from syncer.profiles.imports.importers import ImportResult, import_file
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


def test_an_image_of_two_rules_has_its_signatures_by_both_or_by_none(tmp_path: Path) -> None:
    text = """\
a.io:
  images: {x: [v1], y: [v1]}
  images-by-tag-regex: {x: '.*', y: '^v'}
"""
    file = read(imported(tmp_path, text, registry="t.io"))
    assert sorted((str(source.repository), file.referrers_of(source)) for source in file.sources) == [
        *([("a.io/x", True)] * 2),
        *([("a.io/y", False)] * 2),
    ]


OTHER_SETTINGS = "registry.example.com has other credentials or TLS above, and syncer has one of each for a registry"


def test_skopeos_registries_may_have_a_path_and_its_expressions_are_re2s(tmp_path: Path) -> None:
    text = """\
registry.example.com/team:
  images:
    app: [v1, ~]
    none: [~]
    text: v1
    mapping: {a: b}
  images-by-tag-regex: {tool: 'v[[:digit:]]+\\z', every: ~}
  images-by-semver: {list: ["1.2 - 1.3"], nothing: ~}
  credentials: {username: robot, password: secret}
  tls-verify: false
http://plain.example.com:
  images: {app: [v1]}
registry.example.com:
  images: {app: [v1]}
"""
    result = imported(tmp_path, text, registry="t.io")
    registry = read(result).document.registries["registry.example.com"]

    assert sources(result) == [
        *(f"registry.example.com/team/{name}" for name in ("app", "tool", "every")),
        "registry.example.com/app",
    ]
    assert found(result, 1, "v10", "av1", "v1a") == ["v10", "av1"]
    assert found(result, 2, "a", "b") == ["b", "a"]
    assert registry.insecure
    assert registry.credentials is not None
    assert [line.partition("theirs.yaml:")[2].partition(": ")[::2] for line in result.refusals] == [
        ("5", "registry.example.com/team.images.text: it must be a list of tags and digests"),
        ("6", "registry.example.com/team.images.mapping: it must be a list of tags and digests"),
        ("8", "registry.example.com/team.images-by-semver.list: it must be a text"),
        ("8", "registry.example.com/team.images-by-semver.nothing: it is required"),
        ("12", "http://plain.example.com: 'http://plain.example.com' is not a registry, with a path or not"),
        ("14", f"registry.example.com: {OTHER_SETTINGS}"),
    ]


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
        "4: sync[2].source: only images in registries are mirrored",
        "5: sync[3].tags.allow: '^($' is not an expression of RE2: a closing ) is missing",
        "6: sync[4].tags.alow: syncer does not know this field",
    ]


REPOSITORY = "- {{source: a.io/x/y, target: b.io/x/{}, type: repository, {}}}"


def test_a_step_whose_choice_cannot_be_carried_over_is_left_out(tmp_path: Path) -> None:
    choices = [
        "tags: {allow: ['(']}",
        "tags: {deny: ['(?=a)']}",
        "tags: {semverRange: ['^1 || ^2']}",
        "tags: {alow: [v1]}",
        "tags: {allow: ['(?P=a)'], deny: [v1]}",
        "platforms: ''",
        "platforms: [~]",
        "tags: [v1]",
        "tags: {deny: {a: b}}",
        "tagSets: {allow: [v1]}",
        "tagSets: [{allow: [v1]}, {allow: [[v1]]}]",
        "platforms: ['linux,osver=1']",
        "platform: a/b/c/d",
        "mediaTypes: [application/vnd.oci.image.index.v1+json]",
        "referrers: true, referrerFilters: [{artifactType: a/b}]",
        "referrers: perhaps",
        "tags: {allow: [kept]}, surprise: 1",
    ]
    steps = "\n".join(REPOSITORY.format(f"n{number}", choice) for number, choice in enumerate(choices))
    result = imported(tmp_path, f"sync:\n{steps}\n")

    assert sources(result) == [f"a.io/x/y as x/n{len(choices) - 1}"]
    assert found(result, 0, "kept", "other") == ["kept"]
    assert [line.partition("theirs.yaml:")[2].partition(":")[0] for line in result.refusals] == [
        str(number + 2) for number in range(len(choices))
    ]


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        ("tags: {allow: [~, v1.0]}", ["v1.0"]),
        ("tags: {deny: [~, latest]}", ["v1.0-rc.1", "v1.0", "1.2.1", "1.2"]),
        ("tags: {allow: ['v[[:digit:]].*\\z']}", ["v1.0-rc.1", "v1.0"]),
        ("tags: {deny: ['v.*-rc|latest']}", ["v1.0", "1.2.1", "1.2"]),
        ("tags: {allow: ['latest|v.*']}", ["v1.0-rc.1", "v1.0", "latest"]),
        ("tags: {semverRange: ['~1']}", ["v1.0"]),
        ("tags: {semverRange: ['>1.2']}", ["1.2.1"]),
        ("tags: {semverRange: ['1.2', '']}", ["1.2"]),
        ("tags: {semverRange: ['']}", ["v1.0-rc.1", "v1.0", "latest", "1.2.1", "1.2"]),
        ("tags: {semverRange: ['>=1.0.0-0'], allow: ['v.*'], deny: ['.*rc.*']}", ["v1.0"]),
        ("tagSets: [{allow: [v1.0]}], tags: {allow: []}", ["v1.0"]),
        ("tags: {allow: ~, deny: [1.2.*, '.*rc.*']}", ["v1.0", "latest"]),
        ("mediaTypes: []", ["v1.0-rc.1", "v1.0", "latest", "1.2.1", "1.2"]),
    ],
)
def test_regsyncs_rules_choose_what_regsync_chooses(tmp_path: Path, choice: str, chosen: list[str]) -> None:
    result = imported(tmp_path, f"sync:\n{REPOSITORY.format('z', choice)}\n")

    assert result.refusals == ()
    assert set(found(result, 0, "v1.0", "v1.0-rc.1", "latest", "1.2", "1.2.1")) == set(chosen)


def test_regsyncs_own_media_types_are_all_that_there_are(tmp_path: Path) -> None:
    own = [
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
    ]
    step = REPOSITORY.format("z", "tags: {allow: [v1]}")
    assert imported(tmp_path, f"defaults: {{mediaTypes: {own}}}\nsync:\n{step}\n").refusals == ()
    with pytest.raises(InvalidFile, match=r"theirs.yaml:1: defaults.mediaTypes: ") as raised:
        imported(tmp_path, f"defaults: {{mediaTypes: {own[1:]}}}\nsync:\n{step}\n")
    assert not raised.value.more


def test_one_of_several_sets_may_be_all_tags_or_none(tmp_path: Path) -> None:
    result = imported(tmp_path, f"sync:\n{REPOSITORY.format('z', 'tagSets: [{allow: [v1]}, {}, {allow: [~]}]')}\n")
    assert [found(result, number, "v1", "v2") for number in range(2)] == [["v1"], ["v2", "v1"]]

    with pytest.raises(InvalidFile, match="names nothing to mirror"):
        imported(tmp_path, f"sync:\n{REPOSITORY.format('z', 'tags: {allow: [~]}')}\n")
    with pytest.raises(InvalidFile, match="names nothing to mirror"):
        imported(tmp_path, "sync:\n" + REPOSITORY.format("z", "tags: {allow: ''}") + "\n")


def test_signatures_travel_where_regsync_copies_their_tags(tmp_path: Path) -> None:
    choices = ["tags: {}", "tags: {deny: [x]}", "tags: {deny: ['.*[.]sig', 'sha256-.*']}", "tags: {allow: ['v.*']}"]
    steps = "\n".join(REPOSITORY.format(f"n{number}", choice) for number, choice in enumerate(choices))
    result = imported(tmp_path, f"sync:\n{steps}\n")
    file = read(result)

    assert [file.referrers_of(source) for source in file.sources] == [True, True, False, False]
    assert "# Signatures travel with the images that they are about" in result.text


def test_a_variable_of_regsyncs_stays_one_and_nothing_is_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TARGET", "secret.example.com")
    text = """\
creds:
  - {registry: '{{ env "TARGET" }}', user: '{{ env "USER_NAME" }}', pass: '{{ env "PASSWORD" }}'}
sync:
  - source: 'quay.io/team/app:{{ env "VERSION" | default "v1" }}'
    target: '{{env "TARGET"}}/team/{{env "NAME"}}:{{ env "VERSION" | default "v1" }}'
    type: image
  - source: '{{ env "HOST" }}:{{ env "PORT" }}/team/tool'
    target: 'mirror.example.com:{{ env "PORT" }}/team/tool'
    type: repository
    tags: {allow: [v1.0]}
  - {source: '{{ env "IMAGE" }}', target: 'mirror.example.com/{{ .Sync.Source }}', type: image}
"""
    result = imported(tmp_path, text)
    tree = yaml.safe_load(result.text)

    assert result.refusals == ()
    assert tree["sources"] == [
        {"image": "quay.io/team/app:${VERSION:-v1}", "as": "team/${NAME}", "targets": ["${TARGET}"]},
        {
            "repository": "${HOST}:${PORT}/team/tool",
            "tags": {"regex": ["v1.0"]},
            "as": "team/tool",
            "targets": ["mirror.example.com:${PORT}"],
        },
        {"image": "${IMAGE}", "as": "${IMAGE}:latest", "targets": ["mirror.example.com"]},
    ]
    assert tree["registries"] == {
        "${TARGET}": {"credentials": {"username_env": "USER_NAME", "password_env": "PASSWORD"}}
    }
    assert "secret.example.com" not in result.text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("source", '{{ file "/etc/name" }}'),
        ("source", 'quay.io/{{ env "A" | lower }}:v1'),
        ("target", "{{ .Sync.Type }}/x:v1"),
        ("target", '{{ env "A" }}'),
        ("target", 'b.io/{{ env "A" }/x'),
    ],
)
def test_another_template_is_refused_by_the_field_that_has_it(tmp_path: Path, field: str, value: str) -> None:
    step = {"source": "a.io/x:v1", "target": "b.io/x:v1", "type": "image", field: value}
    with pytest.raises(InvalidFile, match=rf"theirs.yaml:\d+: sync\[0\].{field}: ") as raised:
        imported(tmp_path, yaml.safe_dump({"sync": [step]}))
    assert not raised.value.more


def test_a_dollar_that_is_no_variables_stays_a_dollar(tmp_path: Path) -> None:
    text = """\
creds: [{registry: a.io, user: 'r$o$${bot}', pass: x}]
sync: [{source: a.io/x:v1, target: b.io/x:v1, type: image}]
"""
    tree = yaml.safe_load(imported(tmp_path, text).text)
    assert tree["registries"]["a.io"]["credentials"]["username"] == "r$o$$$${bot}"


@pytest.mark.parametrize(
    ("registry", "host", "plain_http"),
    [
        ("mirror.example.com/team", "mirror.example.com", None),
        ("http://mirror.example.com:5000", "mirror.example.com:5000", True),
        ("https://mirror.example.com/v2/", "mirror.example.com", None),
        ("https://index.docker.io/v1/", "docker.io", None),
        ("http://mirror.example.com, tls: enabled", "mirror.example.com", None),
    ],
)
def test_the_key_of_a_login_is_a_host_however_it_is_written(
    tmp_path: Path, registry: str, host: str, plain_http: bool | None
) -> None:
    text = f"""\
creds: [{{registry: {registry}, user: robot, pass: '{{{{env "PASSWORD"}}}}'}}]
sync: [{{source: a.io/x:v1, target: b.io/x:v1, type: image}}]
"""
    registries = read(imported(tmp_path, text)).document.registries

    assert list(registries) == [host]
    assert registries[host].plain_http is plain_http
    assert registries[host].credentials is not None


def test_settings_of_registries_are_carried_over_or_named(tmp_path: Path) -> None:
    text = """\
creds:
  - {registry: a.io, credHelper: /opt/bin/docker-credential-x, tls: some, hostname: 'a.internal:5000'}
  - {registry: b.io, credHelper: docker-credential-ecr-login, reqConcurrent: 1000, apiOpts: {disableHead: "true"}}
  - {registry: c.io, credHelper: helper, pathPrefix: mirrors/c}
  - {registry: 'a b'}
defaults: {skipDockerConfig: true}
sync:
  - {source: a.io/x:v1, target: b.io/x:v1, type: image}
  - {source: c.io/x, target: c.io/y, type: repository, tags: {allow: [v1]}}
"""
    result = imported(tmp_path, text)

    assert [line.partition("theirs.yaml:")[2].partition(": ")[0::2] for line in result.refusals] == [
        ("2", "creds[0].tls: it must be enabled, insecure or disabled"),
        ("2", "creds[0].credHelper: a helper is a program on the PATH whose name begins with docker-credential-"),
        ("4", "creds[2].credHelper: a helper is a program on the PATH whose name begins with docker-credential-"),
        ("5", "creds[3].registry: 'a b' is not a registry"),
    ]
    assert sources(result) == ["a.internal:5000/x:v1 as x", "c.io/mirrors/c/x as mirrors/c/y"]
    registry = read(result).document.registries["b.io"]
    assert registry.credentials is not None
    assert (registry.credentials.helper, registry.concurrency) == ("ecr-login", 256)
    assert "# skipDockerConfig: " in result.text
    assert "# apiOpts.disableHead: " in result.text


def test_a_registry_that_cannot_be_read_takes_its_steps_with_it(tmp_path: Path) -> None:
    text = """\
creds:
  - {registry: a.io, hostname: 'a b'}
  - {registry: b.io, user: robot, pass: x}
  - {registry: b.io/team, user: jane, pass: y}
sync:
  - {source: a.io/x:v1, target: b.io/x:v1, type: image}
  - {source: c.io/x:v1, target: a.io/x:v1, type: image}
  - {source: c.io/y:v1, target: b.io/y:v1, type: image}
"""
    result = imported(tmp_path, text)
    assert sources(result) == ["c.io/y:v1 as y"]
    assert [line.partition("theirs.yaml:")[2].partition(": '")[0] for line in result.refusals] == [
        "2: creds[0].hostname",
        "4: creds[2].registry: b.io above is the same host, with other credentials or TLS: it can have one",
    ]


@pytest.mark.parametrize(
    ("written", "meant"),
    [("linux/arm64", "linux/arm64"), ("linux/x86_64", "linux/amd64"), ("linux/armhf", "linux/arm/v7")],
)
def test_a_platform_is_read_as_regsync_reads_it(tmp_path: Path, written: str, meant: str) -> None:
    step = f"{{source: a.io/x:v1, target: b.io/x:v1, type: image, platform: {written}}}"
    file = read(imported(tmp_path, f"sync: [{step}]\n"))
    assert list(map(str, file.platforms_of(file.sources[0]))) == [meant]


def test_the_local_platform_is_this_machines(tmp_path: Path) -> None:
    step = "{source: a.io/x:v1, target: b.io/x:v1, type: image, platform: local}"
    result = imported(tmp_path, f"sync: [{step}]\n")
    (platform,) = read(result).platforms_of(read(result).sources[0])
    assert "local" not in str(platform)
    assert f"# platform: local is {platform}" in result.text


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


def test_image_syncers_variables_stay_variables(tmp_path: Path) -> None:
    result = imported(tmp_path, "a.io/x/y:1: ${REGISTRY}/team/$NAME\na.io/x/z:/v[[:digit:]]/: b.io/$NAME\n")
    assert yaml.safe_load(result.text)["sources"] == [
        {"image": "a.io/x/y:1", "as": "team/${NAME}", "targets": ["${REGISTRY}"]},
        {
            "repository": "a.io/x/z",
            "tags": {"regex": [".*v[0-9].*"]},
            "as": "${NAME}",
            "targets": ["b.io"],
        },
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
        ("\nQuay.io/A\n", "theirs.yaml:2: "),
        ("# one\nnginx latest\n", "theirs.yaml:2: 'nginx latest' is more than one word"),
        ("a: {b: c}\n", "not a file of a tool"),
        ("- busybox\n", "it is a list in YAML, which no known tool has"),
        ("a: [\n", "this is not YAML"),
        ("", "it is empty"),
        ("# nothing\n---\n", "it is empty"),
        ("apiVersion: v1\nkind: Pod\n", "but a Pod of v1"),
        ("global:\n  images:\n    registry: quay.io\n    tag: v1\n", "the nearest is skopeo sync, whose files have"),
        ("creds: []\nsyncs: []\n", "the nearest is regsync, whose files have a list `sync`"),
        ("sycn: []\n", "the nearest is regsync, whose files have a list `sync`"),
        ("quay.io: [a]\n", "the nearest is skopeo sync, whose files have registries as keys"),
        ("creds: []\nsync: {a: b}\n", "theirs.yaml:2: sync: it must be a list"),
        ("quay.io:\n  images: [a]\n", "theirs.yaml:2: quay.io.images: it must be a mapping"),
        ("apiVersion: mirror.openshit.io/v2\nkind: ImageSet\n", "the nearest is ImageSetConfiguration"),
        ("sources: []\ntargets: []\n", "it is a sync file already"),
        ("quay.io: {username: a, password: b}\n", "it holds logins only"),
        ("sync: []\n", "it names nothing to mirror"),
    ],
)
def test_a_file_that_nobody_knows_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(InvalidFile) as raised:
        imported(tmp_path, text, registry="t.io")
    assert problem in str(raised.value)


def test_a_list_of_which_lines_are_wrong_is_still_a_list(tmp_path: Path) -> None:
    text = "nginx:1.27\n# another platform\n--platform=linux/arm64 team/app:v1\nredis: 7\noci://a.io/charts/app\nquay.io/a:v1\n"
    result = imported(tmp_path, text, "images.txt", registry="t.io")

    assert sources(result) == ["docker.io/library/nginx:1.27", "docker.io/team/app:v1", "quay.io/a:v1"]
    assert list(map(str, read(result).platforms_of(read(result).sources[1]))) == ["linux/arm64"]
    assert [line.partition("images.txt:")[2] for line in result.refusals] == [
        "4: 'redis: 7' is more than one word",
        "5: 'oci://a.io/charts/app' is the address of a Helm chart, and no image",
    ]


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "theirs.yaml").open("wb") as file:
        file.truncate(64 * 1024 * 1024 + 1)
    with pytest.raises(InvalidFile, match=r"theirs.yaml: it is larger than"):
        import_file(tmp_path / "theirs.yaml")


def test_a_key_that_stands_twice_counts_as_in_the_tool(tmp_path: Path) -> None:
    regsync = "sync: [{source: a.io/x:v1, source: a.io/x:v2, target: b.io/x:v2, type: image}]\n"
    result = imported(tmp_path, regsync)
    assert sources(result) == ["a.io/x:v2 as x"]
    assert "the key 'source' stands twice in one mapping; regsync takes the last one." in result.text

    result = imported(tmp_path, "a.io:\n  images: {x: [v1], x: [v2]}\n", registry="t.io")
    (refusal,) = result.refusals
    assert refusal.endswith("theirs.yaml:2: a.io.images.x: the key 'x' stands twice in one mapping")


def test_documents_after_the_first_are_left_out_where_the_tool_leaves_them(tmp_path: Path) -> None:
    text = "a.io:\n  images: {x: [v1]}\n---\nb.io:\n  images: {x: []}\n"
    result = imported(tmp_path, text, registry="t.io")
    assert sources(result) == ["a.io/x"]
    assert "# Only the first document of the file counts, as for skopeo sync." in result.text


@pytest.mark.parametrize(
    ("tool", "rules"),
    [
        ("skopeo", {"quay.io/a/b": "b", "quay.io/app": "app", "docker.io/library/nginx": "nginx"}),
        ("hauler", {"quay.io": "", "docker.io": "", "charts.example.com/stable/web": "hauler/web"}),
        ("oc-mirror", {"quay.io": "", "docker.io": ""}),
    ],
)
def test_names_can_be_as_another_tool_has_them(tmp_path: Path, tool: str, rules: dict[str, str]) -> None:
    path = tmp_path / "hauler.yaml"
    path.write_text(f"""\
apiVersion: content.hauler.cattle.io/v1
kind: Images
spec:
  images:
    - {{name: quay.io/a/b:v1}}
    - {{name: 'quay.io/app@{DIGEST}'}}
    - {{name: nginx, rewrite: team/web}}
    - {{name: nginx}}
---
apiVersion: content.hauler.cattle.io/v1
kind: Charts
spec: {{charts: [{{name: web, repoURL: 'https://charts.example.com/stable', version: 1.0.0}}]}}
""")
    result = import_file(path, registry="t.io/base", names_like=Naming(tool))
    file = read(result)

    assert file.document.map == rules
    assert "full source name" not in result.text
    custom = file.sources[1].custom_name
    digest_tag = f"sha256-{'1' * 64}"
    assert (custom and (custom.repository, custom.tag)) == (("app", digest_tag) if tool == "oc-mirror" else None)


@pytest.mark.parametrize(
    "text",
    [
        """\
apiVersion: content.hauler.cattle.io/v1
kind: Images
metadata: {annotations: {hauler.dev/platform: a/b/c/d}}
spec: {images: [{name: quay.io/a/b:v1}, {name: quay.io/a/c:v1, platform: linux/arm64}]}
""",
        """\
apiVersion: content.hauler.cattle.io/v1
kind: Images
spec: {images: [{name: quay.io/a/b:v1, platform: a/b/c/d}, {name: quay.io/a/c:v1}]}
""",
        """\
apiVersion: mirror.openshift.io/v2alpha1
kind: ImageSetConfiguration
mirror: {additionalImages: [{name: quay.io/a/b:v1, platforms: [a/b/c/d]}, {name: quay.io/a/c:v1}]}
""",
    ],
)
def test_an_image_whose_platforms_cannot_be_read_is_left_out(tmp_path: Path, text: str) -> None:
    result = imported(tmp_path, text, registry="t.io")
    assert sources(result) == ["quay.io/a/c:v1"]
    assert len(result.refusals) == 1


def test_names_that_no_rule_can_give_are_named(tmp_path: Path) -> None:
    path = tmp_path / "skopeo.yaml"
    path.write_text("a.io:\n  images: {x/app: [v1], y/app: [v2]}\n")
    result = import_file(path, registry="t.io", names_like=Naming.SKOPEO)
    assert read(result).document.map == {"a.io/x/app": "app"}
    assert ["a.io/x/app and a.io/y/app into one repository app" in each for each in result.refusals] == [True]

    path.write_text("""\
apiVersion: content.hauler.cattle.io/v1
kind: Charts
spec: {charts: [{name: web, repoURL: 'https://charts.example.com', add-images: true}]}
""")
    for tool in (Naming.HAULER, Naming.OC_MIRROR):
        (refusal,) = import_file(path, registry="t.io", names_like=tool).refusals
        assert f"the names of the images in it are not known here, so no map can be {tool}'s" in refusal

    path.write_text("a.io:\n  images: {x/app: [v1]}\n")
    with pytest.raises(UsageError, match="regsync has no rule for names"):
        import_file(path, registry="t.io", names_like=Naming.REGSYNC)


def test_where_to_mirror_to_is_said_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not say where to mirror to"):
        imported(tmp_path, "busybox\n", "images.txt")
    with pytest.raises(UsageError, match="says itself where to mirror to"):
        imported(tmp_path, REGSYNC, registry="t.io")


@pytest.mark.parametrize("host", ["10.0.0.5:5000", "[::1]:5000", "5.example.com"])
def test_a_password_gets_a_variable_that_a_shell_can_set(tmp_path: Path, host: str) -> None:
    (tmp_path / "images.yaml").write_text(f"registry.example.com/team/app:v1: '{host}/team/app'\n")
    (tmp_path / "auth.yaml").write_text(f"'{host}': {{username: admin, password: secret}}\n")

    result = import_file(tmp_path / "images.yaml", logins=tmp_path / "auth.yaml")

    (registry,) = read(result).document.registries.values()
    assert registry.credentials is not None
    assert re.fullmatch("REGISTRY_[A-Z0-9_]+_PASSWORD", registry.credentials.password_env or "")


def test_all_mistakes_of_a_file_are_told_in_one_run_and_each_once(tmp_path: Path) -> None:
    text = """\
sync:
  - {source: a.io/X, target: b.io/x, type: image}
  - {source: a.io/x, target: b.io/x, type: repository, tags: {allow: [v1, {a: b}, [c]]}}
  - again
  - {source: [a], type: wrong}
  - {source: a.io/x, target: b.io/x}
creds: [docker.io]
"""
    with pytest.raises(InvalidFile) as raised:
        imported(tmp_path, text)
    assert [f"{each}".partition("theirs.yaml:")[2] for each in (raised.value, *raised.value.more)] == [
        "2: sync[0].source: 'a.io/X' is not an image reference: its repository must be lower case, but has 'X'",
        "3: sync[1].tags.allow[1]: it must be a text",
        "3: sync[1].tags.allow[2]: it must be a text",
        "4: sync[2]: it must be a mapping",
        "5: sync[3].source: it must be a text",
        "5: sync[3].target: it is required",
        "5: sync[3].type: regsync has no such type 'wrong'; known: image, repository, registry",
        "6: sync[4].type: it is required",
        "7: creds[0]: it must be a mapping",
    ]
