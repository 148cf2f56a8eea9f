"""Docker Hub is one registry, whichever of its names stands in a reference, a login, a rule or a sync file.

Docker Hub itself is played by a registry on loopback that is asked as a proxy: so a test sees for which host a
request was meant, and with which login.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from yarl import URL

from syncer.api.sources import sync_settings
from syncer.bundle import open_bundle
from syncer.errors import Denied, InvalidBundle, InvalidFile, NotFound
from syncer.naming import NameMapping
from syncer.oci import Reference
from syncer.oci.docker_hub import api_host, canonical_host, login_key, login_place
from syncer.profiles.definition.artifacts import definition_artifact
from syncer.profiles.imports.importers import import_file
from syncer.profiles.palette.edge_credentials import Login, find_login, read_cred_file
from syncer.profiles.syncfile.sync_file import SyncFile, parse_sync_file
from syncer.registry import AuthFile, Credential, CredentialSettings, KeptLogins, RegistrySettings, open_registries
from syncer.registry.registries import RegistryAddress, api_url
from syncer.transport import HostSettings, Proxies, TransportSettings
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support import hostile_bundles as made
from tests.support.cli import syncer
from tests.support.quirky import Quirky, quirky_registry
from tests.support.registries import LOGIN, Registry
from tests.support.registry_end import QUICK
from tests.test_registry_security import challenge, secrets_seen, token

NAMES = ["docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com", "hub.docker.com"]
SPELLINGS = [*NAMES, "Index.Docker.IO"]
OTHERS = [
    "docker.io:443",
    "registry-1.docker.io:5000",
    "docker.io.example.com",
    "mirror-docker.io",
    "auth.docker.io",
    "docker.com",
    "localhost",
    "localhost:5000",
    "[::1]:5000",
    "QUAY.io",
    "",
]
KEYS = [
    "https://index.docker.io/v1/",
    "index.docker.io",
    "docker.io",
    "https://docker.io/",
    "registry-1.docker.io",
    "https://registry-1.docker.io/v2/",
    "registry.hub.docker.com",
    "https://hub.docker.com",
    "Docker.io",
    "docker.io/library",
    "index.docker.io/library",
]
"""Under which Docker, Podman and their users keep a login for ``docker.io/library/app``."""


def entry(username: str = LOGIN.username, password: str = LOGIN.password) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


def logins(path: Path, **document: object) -> CredentialSettings:
    path.write_text(json.dumps(document))
    return CredentialSettings(files=(AuthFile(path),))


def reached_by(proxy: Registry | Quirky, credentials: CredentialSettings, **more: object) -> RegistrySettings:
    """Every host is asked by plain HTTP, through ``proxy``."""
    transport = TransportSettings(limits=QUICK, default=HostSettings(plain_http=True), proxies=Proxies(http=proxy.url))
    return RegistrySettings(transport=transport, credentials=credentials, **more)  # type: ignore[arg-type]


# --- the table


@pytest.mark.parametrize("host", SPELLINGS)
def test_each_name_of_docker_hub_means_one_registry(host: str) -> None:
    assert canonical_host(host) == "docker.io"
    assert api_host(host) == "registry-1.docker.io"
    assert login_key(host) == "https://index.docker.io/v1/"


@pytest.mark.parametrize("host", OTHERS)
def test_every_other_host_keeps_its_name(host: str) -> None:
    assert canonical_host(host) == api_host(host) == login_key(host) == login_place(host) == host


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("index.docker.io/v1", "docker.io"),
        ("registry-1.docker.io/v2/", "docker.io"),
        ("registry-1.docker.io/team", "docker.io/team"),
        ("docker.io/team/v1", "docker.io/team/v1"),
        ("mirror.example.com/docker.io/team", "mirror.example.com/docker.io/team"),
        ("registry.example.com/v1", "registry.example.com/v1"),
    ],
)
def test_a_login_holds_for_docker_hub_or_a_path_of_it(place: str, expected: str) -> None:
    assert login_place(place) == expected


@pytest.mark.parametrize("host", SPELLINGS)
def test_a_reference_has_one_name_for_docker_hub(host: str) -> None:
    digest = images.digest_of(b"")

    assert str(Reference.parse(f"{host}/app")) == "docker.io/library/app:latest"
    assert str(Reference.parse(f"{host}/library/app:1@{digest}")) == f"docker.io/library/app:1@{digest}"
    assert str(Reference.parse(f"{host}/team/app@{digest}")) == f"docker.io/team/app@{digest}"


@pytest.mark.parametrize(
    "text",
    [
        "docker.io:443/app:1",
        "registry-1.docker.io:443/library/app:1",
        "docker.io.example.com/app:1",
        "mirror.example.com/docker.io/library/app:1",
        "mirror.example.com:5000/registry-1.docker.io/app:1",
        "localhost/app:1",
        "QUAY.io/app:1",
    ],
)
def test_a_reference_to_another_registry_is_left_alone(text: str) -> None:
    assert str(Reference.parse(text)) == text


# --- where images land


def bundle_of(path: Path, named: Mapping[str, bytes], definition: str | None = None) -> Path:
    """A bundle whose ``index.json`` has these names for manifests, as an older version or another tool writes it."""
    blobs = [made.blob(manifest) for manifest in dict.fromkeys(named.values())]
    roots = [made.named(made.described(manifest, made.OCI_MANIFEST), name) for name, manifest in named.items()]
    members = [made.LAYOUT, made.blob(made.CONFIG), made.blob(made.LAYER), *blobs]
    if definition:
        members.append(made.member("bundle-definition.yaml", definition.encode()))
    path.write_bytes(made.plain([*members, made.with_index(*roots)]))
    return path


def manifest(number: int = 1) -> bytes:
    return made.encoded(made.manifest_of(annotations={"number": str(number)}))


async def test_a_push_lands_at_one_place_for_all_spellings(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """Also out of a bundle of the version before, in which ``registry-1.docker.io`` was a registry of its own."""
    spelt = {f"{host}/library/app:{number}": manifest(number) for number, host in enumerate(NAMES)}
    others = {"docker.io:443/library/app:1": manifest(8), "mirror.example/docker.io/library/app:1": manifest(9)}
    short = {"registry-1.docker.io/app:short": manifest(7), "index.docker.io/team/app:1": manifest(6)}
    bundle = bundle_of(tmp_path / "old.tar", {**spelt, **short, **others})

    async with debian_registry() as target:
        pushed = await syncer("push", "-f", bundle, "-r", f"{target.address}/base", home=tmp_path)
        verified = await syncer("verify", "-f", bundle, "-r", f"{target.address}/base", home=tmp_path)
        places = await client.repositories(target)
        tags = await client.tags(target, "base/docker.io/library/app")

    assert (pushed.code, verified.code) == (0, 0), pushed.stderr + verified.stderr
    assert places == [
        "base/bundle-definition",
        "base/docker.io/library/app",
        "base/docker.io/team/app",
        "base/docker.io_443/library/app",
        "base/mirror.example/docker.io/library/app",
    ]
    assert tags == ["0", "1", "2", "3", "4", "short"]


DEFINITION = """\
apiVersion: syncer/v1
kind: BundleDefinition
name: old
images:
- {{image: docker.io/library/app:1, packs: [one], digest: {digest}, stored: {base}/docker.io/library/app:1}}
- {{image: registry-1.docker.io/library/app:1, packs: [two], digest: {digest}, stored: {base}/{old}:1}}
- {{image: registry-1.docker.io/library/app:2, packs: [two], digest: {digest}, stored: {base}/{old}:2}}
"""
OLD = "registry-1.docker.io/library/app"


async def test_one_image_under_two_names_of_an_older_bundle_is_one(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    text = DEFINITION.format(digest=made.digest_of(manifest()), base="elsewhere.example/x", old=OLD)
    named = {f"{host}/library/app:1": manifest() for host in ("docker.io", "registry-1.docker.io")}
    bundle = bundle_of(tmp_path / "old.tar", {**named, f"{OLD}:2": manifest()}, text)

    async with debian_registry() as target:
        pushed = await syncer("push", "-f", bundle, "-r", target.address, "--json", home=tmp_path)
        tags = await client.tags(target, "docker.io/library/app")

    assert pushed.code == 0, pushed.stderr
    assert tags == ["1", "2"]
    assert len(pushed.json["images"]) == 2


@pytest.mark.parametrize("definition", ["absent", "without digests", "with digests"])
async def test_two_images_of_an_older_bundle_that_have_one_name_now_both_arrive(
    debian_registry: OpenRegistry, tmp_path: Path, definition: str
) -> None:
    """The first keeps the tag, the second its digest; a definition that names both does not contradict them."""
    one, two = manifest(1), manifest(2)
    named = {"docker.io/library/app:1": one, f"{OLD}:1": two}
    digests = {name: f", digest: {made.digest_of(content)}" for name, content in named.items()}
    lines = [f"- {{image: {name}{digests[name] if definition == 'with digests' else ''}}}\n" for name in named]
    text = "apiVersion: syncer/v1\nkind: BundleDefinition\nname: old\nimages:\n" + "".join(lines)
    bundle = bundle_of(tmp_path / "old.tar", named, None if definition == "absent" else text)

    async with debian_registry() as target:
        pushed = await syncer("push", "-f", bundle, "-r", target.address, home=tmp_path)
        by_tag = await client.manifest(target, "docker.io/library/app", "1")
        by_digest = await client.manifest(target, "docker.io/library/app", made.digest_of(two))

    assert pushed.code == 0, pushed.stderr
    assert (by_tag.content, by_digest.content) == (one, two)


def test_one_name_for_two_images_is_refused_as_ever(tmp_path: Path) -> None:
    root = made.named(made.described(manifest(), made.OCI_MANIFEST))
    content = [made.LAYOUT, made.blob(made.CONFIG), made.blob(made.LAYER), made.blob(manifest())]
    (path := tmp_path / "twice.tar").write_bytes(made.plain([*content, made.with_index(root, root)]))

    with pytest.raises(InvalidBundle, match="gives two images one name"), open_bundle(path):
        pass


async def test_what_an_older_version_pushed_is_found_where_it_is(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """Its definition says where each image is stored."""
    image = images.image("app")
    async with debian_registry() as registry:
        await client.push(registry, f"base/{OLD}", image, "1", "2")
        await client.push(registry, "base/docker.io/library/app", image, "1")
        text = DEFINITION.format(digest=image.digest, base=f"{registry.address}/base", old=f"{OLD}")
        manifest, blobs = definition_artifact(text.encode())
        for content in blobs.values():
            await client.push_blob(registry, "base/bundle-definition", content)
        described = images.Image(manifest.content, "application/vnd.oci.image.manifest.v1+json")
        await client.push_manifest(registry, "base/bundle-definition", described, "old")

        place = f"{registry.address}/base/bundle-definition:old"
        saved = await syncer("save", "--source", place, "-o", tmp_path, home=tmp_path)

    assert saved.code == 0, saved.stderr
    with open_bundle(tmp_path / "old.tar.zst") as bundle:
        assert [str(each.reference) for each in bundle.images] == [f"docker.io/library/app:{tag}" for tag in "12"]


# --- rules for names


def lands(reference: str, *rules: str, registry: str = "t.io", base: str = "") -> str:
    return NameMapping.parse(rules).target(Reference.parse(reference), registry=registry, base=base).name


@pytest.mark.parametrize("host", SPELLINGS)
@pytest.mark.parametrize("image", ["app", "docker.io/library/app", "registry-1.docker.io/app"])
def test_a_rule_speaks_about_docker_hub_under_any_name(host: str, image: str) -> None:
    assert lands(image, f"{host}=hub") == "t.io/hub/library/app"
    assert lands(image, f"{host}/library=official") == "t.io/official/app"
    assert lands(image, f"{host}/library/app=mine") == "t.io/mine"
    assert lands(image, f"{host}/app=mine") == "t.io/mine"


@pytest.mark.parametrize(
    ("image", "rules", "expected"),
    [
        ("team/app", ["docker.io/team=mine"], "t.io/mine/app"),  # a name of one part is a user's, too
        ("team", ["docker.io/team=mine"], "t.io/mine"),
        ("team", ["docker.io/team=mine", "docker.io/library/team=official"], "t.io/official"),
        ("team/app", ["docker.io/team=mine", "docker.io/library/team=official"], "t.io/mine/app"),
        ("app", ["docker.io/app=mine", "docker.io/library=official"], "t.io/mine"),
        ("library", ["docker.io/library=official"], "t.io/official/library"),
        ("application", ["docker.io/app=mine"], "t.io/docker.io/library/application"),
        ("app", ["docker.io:443=hub"], "t.io/docker.io/library/app"),
        ("mirror.example/docker.io/app", ["docker.io=hub"], "t.io/mirror.example/docker.io/app"),
        ("docker.io.example.com/app", ["docker.io=hub"], "t.io/docker.io.example.com/app"),
        ("quay.io/app", ["quay.io/app=x", "docker.io/app=y"], "t.io/x"),
        ("quay.io/library/app", ["quay.io/app=x"], "t.io/quay.io/library/app"),
    ],
)
def test_the_longest_rule_decides_in_its_long_form(image: str, rules: list[str], expected: str) -> None:
    assert lands(image, *rules) == expected


def test_a_replacement_may_name_the_docker_hub_that_is_pushed_to() -> None:
    hub = {"registry": "docker.io", "base": "me"}

    assert lands("quay.io/a/b", "quay.io=index.docker.io/me/quay", **hub) == "docker.io/me/quay/a/b"
    assert lands("quay.io/a/b", "quay.io=index.docker.io/me/quay") == "t.io/index.docker.io/me/quay/a/b"


# --- logins


@pytest.mark.parametrize("key", KEYS)
async def test_a_login_is_found_for_every_spelling(debian_registry: OpenRegistry, tmp_path: Path, key: str) -> None:
    async with debian_registry(login=LOGIN) as hub:
        digest = await client.push(hub, "library/app", images.image("app"), "1")
        settings = reached_by(hub, logins(tmp_path / "config.json", auths={key: entry()}))
        async with open_registries(settings) as registries:
            for host in SPELLINGS:
                found = await registries.resolve(Reference.parse(f"{host}/library/app:1"))
                assert str(found.digest) == digest
            for host in SPELLINGS:  # as a program may ask, without a parser
                await registries.manifest(Reference(host, "library/app", "1"))
            with pytest.raises(Denied):
                await registries.resolve(Reference.parse("mirror.example/library/app:1"))
        assert set(registries.traffic) == {"registry-1.docker.io", "mirror.example"}


@pytest.mark.parametrize("key", ["docker.io.example.com", "docker.io:443", "auth.docker.io", "docker.io/team"])
async def test_a_login_for_something_else_is_not_shown_to_docker_hub(
    debian_registry: OpenRegistry, tmp_path: Path, key: str
) -> None:
    async with debian_registry(login=LOGIN) as hub:
        settings = reached_by(hub, logins(tmp_path / "config.json", auths={key: entry()}))
        async with open_registries(settings) as registries:
            with pytest.raises(Denied):
                await registries.resolve(Reference.parse("registry-1.docker.io/library/app:1"))


@pytest.mark.parametrize(
    "keys",
    [
        ["https://index.docker.io/v1/", "docker.io", "registry-1.docker.io"],
        ["docker.io", "https://index.docker.io/v1/"],
        ["index.docker.io", "https://index.docker.io/v1/"],
    ],
)
async def test_of_several_logins_the_name_that_references_have_counts_and_then_one_without_a_scheme(
    debian_registry: OpenRegistry, tmp_path: Path, keys: list[str]
) -> None:
    best = "docker.io" if "docker.io" in keys else "index.docker.io"
    auths = {key: entry() if key == best else entry("other", "other") for key in keys}
    given = logins(tmp_path / "config.json", auths=auths)
    async with debian_registry(login=LOGIN) as hub, open_registries(reached_by(hub, given)) as registries:
        with pytest.raises(NotFound):
            await registries.resolve(Reference.parse("app"))


@pytest.mark.parametrize("host", SPELLINGS)
async def test_a_login_that_was_given_is_for_every_spelling(debian_registry: OpenRegistry, host: str) -> None:
    given = CredentialSettings(logins={host: Credential(LOGIN.username, LOGIN.password)})
    async with debian_registry(login=LOGIN) as hub, open_registries(reached_by(hub, given)) as registries:
        with pytest.raises(NotFound):
            await registries.resolve(Reference.parse("registry-1.docker.io/library/app:1"))


async def test_a_login_is_kept_and_forgotten_under_any_name(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    kept = tmp_path / ".config/syncer/auth.json"
    kept.parent.mkdir(parents=True)
    async with debian_registry(login=LOGIN) as hub:
        for host, other in zip(SPELLINGS, reversed(SPELLINGS), strict=True):
            kept.write_text(json.dumps({"auths": {"docker.io": entry("old", "old"), "quay.io": entry()}}))
            came = await syncer(
                "registry-login", "-r", host, "-u", LOGIN.username, "--password-stdin", "--plain-http",
                home=tmp_path, stdin=f"{LOGIN.password}\n", HTTP_PROXY=hub.url,
            )  # fmt: skip
            auths = json.loads(kept.read_text())["auths"]
            went = await syncer("registry-logout", "-r", other, home=tmp_path)
            left = json.loads(kept.read_text())["auths"]

            assert (came.code, went.code) == (0, 0), came.stderr + went.stderr
            assert auths == {"https://index.docker.io/v1/": entry(), "quay.io": entry()}
            assert "logged out of docker.io" in went.stderr
            assert left == {"quay.io": entry()}


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What ``docker-credential-test`` was asked, a line each; it knows Docker Hub by its key."""
    program = tmp_path / "bin" / "docker-credential-test"
    program.parent.mkdir()
    asked = tmp_path / "asked"
    answer = json.dumps({"Username": LOGIN.username, "Secret": LOGIN.password})
    program.write_text(f"#!/bin/sh\nread -r said || true\necho \"$1 $said\" >> {asked}\necho '{answer}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return asked


@pytest.mark.parametrize("written", SPELLINGS)
@pytest.mark.parametrize("where", ["in a file", "in settings"])
async def test_a_helper_for_docker_hub_is_asked_by_its_key(
    debian_registry: OpenRegistry, tmp_path: Path, asked: Path, written: str, where: str
) -> None:
    in_file = logins(tmp_path / "config.json", credHelpers={written: "test", "quay.io": "other"})
    given = in_file if where == "in a file" else CredentialSettings(helpers={written: "test"})
    async with debian_registry(login=LOGIN) as hub, open_registries(reached_by(hub, given)) as registries:
        with pytest.raises(NotFound):
            await registries.resolve(Reference.parse("registry-1.docker.io/library/app:1"))

    assert asked.read_text() == "get https://index.docker.io/v1/\n"


async def test_a_program_keeps_and_forgets_a_login_under_any_name(tmp_path: Path) -> None:
    kept = KeptLogins(tmp_path / "auth.json", tmp_path / "absent.json")
    for host in SPELLINGS:
        await kept.keep(host, Credential("me", "x"))
        assert list(json.loads(kept.file.read_text())["auths"]) == ["https://index.docker.io/v1/"]
        assert await kept.forget(host)
        assert not await kept.forget("docker.io")


async def test_a_helper_keeps_a_login_for_docker_hub_under_its_key(tmp_path: Path, asked: Path) -> None:
    (config := tmp_path / "config.json").write_text('{"credHelpers": {"registry-1.docker.io": "test"}}')
    kept = KeptLogins(tmp_path / "auth.json", config)
    for host in SPELLINGS:
        await kept.keep(host, Credential("me", "x"))
        await kept.forget(host)

    store = 'store {"ServerURL":"https://index.docker.io/v1/","Username":"me","Secret":"x"}\n'
    assert asked.read_text() == (store + "erase https://index.docker.io/v1/\n") * len(SPELLINGS)


@pytest.mark.parametrize(
    ("endpoint", "place"),
    [
        *((host, "docker.io") for host in SPELLINGS),
        *((f"https://{host}/v1/", "docker.io") for host in SPELLINGS),
        *((f"{host}/team", "docker.io/team") for host in SPELLINGS),
        ("docker.io:443", "docker.io:443"),
        ("https://mirror.example.com/docker.io/", "mirror.example.com/docker.io"),
    ],
)
def test_the_edge_clis_credentials_know_docker_hub(tmp_path: Path, endpoint: str, place: str) -> None:
    path = tmp_path / "creds.json"
    path.write_text(json.dumps({"image": [{"endpoint": endpoint, "username": "me", "password": "x"}]}))
    found = read_cred_file(path).images

    assert found == {place: Login("me", "x")}
    assert find_login(found, *place.partition("/")[::2]) == Login("me", "x")


@pytest.mark.parametrize("host", SPELLINGS)
def test_a_chart_at_docker_hub_finds_its_login(host: str) -> None:
    kept = {"docker.io/team": Login("me", "x")}

    assert find_login(kept, host, "team/charts") == Login("me", "x")
    assert find_login(kept, host, "other") is None


@pytest.mark.parametrize("named", ["index.docker.io", "docker.io", "Registry-1.docker.io"])
async def test_a_place_for_tokens_at_docker_hub_is_allowed_under_any_name(named: str) -> None:
    given = CredentialSettings(logins={"mirror.example": Credential(LOGIN.username, LOGIN.password)})
    async with quirky_registry() as hub:
        hub.on("GET other", token, times=9)
        hub.on("*", challenge("http://registry-1.docker.io/token"), times=99)
        trusting = reached_by(hub, given, trusted_realms=frozenset({named}))
        async with open_registries(trusting) as registries:
            with pytest.raises(NotFound):
                await registries.resolve(Reference.parse("mirror.example/app:1"))

    assert LOGIN.header in secrets_seen(hub)


# --- sync files


def parsed(registries: Mapping[str, object], **more: object) -> SyncFile:
    document = {"sources": [{"image": "app"}], "targets": [{"registry": "t.io"}], "registries": registries, **more}
    return parse_sync_file(yaml.safe_dump(document, sort_keys=False), Path("sync.yaml"))


@pytest.mark.parametrize("host", SPELLINGS)
def test_settings_for_docker_hub_hold_under_any_name(host: str) -> None:
    credentials = {"username": "me", "password_env": "HUB"}
    file = parsed({host: {"concurrency": 2, "plain_http": True, "credentials": credentials}})
    settings = sync_settings(file, RegistrySettings(), {"HUB": "x"})

    assert list(file.document.registries) == ["docker.io"]
    assert settings.transport.host("registry-1.docker.io").concurrency == 2
    assert settings.transport.host("docker.io.example.com").concurrency is None
    assert settings.credentials.logins == {"docker.io": Credential("me", "x")}


async def test_a_sync_speaks_to_docker_hub_as_its_file_says(
    debian_registry: OpenRegistry, serve_disk: OpenRegistry, tmp_path: Path
) -> None:
    image = images.image("app")
    async with debian_registry("hub", login=LOGIN) as hub, serve_disk() as target:
        await client.push(hub, "library/app", image, "1")
        document = {
            "sources": [{"image": "registry-1.docker.io/library/app:1"}],
            "targets": [{"registry": f"{target.address}/m", "map": {"registry.hub.docker.com/app": "mine"}}],
            "registries": {
                "index.docker.io": {
                    "plain_http": True,
                    "credentials": {"username": LOGIN.username, "password_env": "HUB"},
                }
            },
        }
        (tmp_path / "sync.yaml").write_text(yaml.safe_dump(document))
        ran = await syncer("sync", "-c", tmp_path / "sync.yaml", home=tmp_path, HUB=LOGIN.password, HTTP_PROXY=hub.url)
        assert ran.code == 0, ran.stderr
        await client.assert_holds(target, "m/mine", image, "1")


def test_an_importer_writes_one_name_for_docker_hub(tmp_path: Path) -> None:
    (path := tmp_path / "regsync.yml").write_text(
        """\
version: 1
creds:
  - {registry: registry-1.docker.io, reqPerSec: 2}
  - {registry: Index.Docker.IO, reqConcurrent: 3}
  - {registry: "docker.io:443", reqConcurrent: 4}
sync:
  - {source: registry-1.docker.io/app:1, target: t.io/app:1, type: image}
"""
    )
    document = yaml.safe_load(import_file(path).text)

    assert document["registries"] == {
        "docker.io": {"requests_per_second": 2, "concurrency": 3},
        "docker.io:443": {"concurrency": 4},
    }
    assert document["sources"][0]["image"] == "docker.io/library/app:1"


def test_settings_for_docker_hub_stand_in_a_file_once() -> None:
    with pytest.raises(InvalidFile, match=r"sync\.yaml:9: registries\.index\.docker\.io: docker\.io above is the same"):
        parsed({"docker.io": {"concurrency": 2}, "index.docker.io": {"concurrency": 3}})


def test_settings_that_were_repeated_for_each_name_are_still_taken() -> None:
    """Who made up for the names by saying everything twice need change nothing."""
    registries = parsed({host: {"concurrency": 2} for host in NAMES}).document.registries

    assert list(registries) == ["docker.io"]


def test_a_targets_own_rule_comes_first_under_any_name() -> None:
    file = parsed(
        {},
        targets=[{"registry": "t.io", "map": {"index.docker.io": "own", "registry-1.docker.io/app": "mine"}}],
        map={"docker.io": "all", "docker.io/library/app": "theirs", "quay.io": "q"},
    )
    mapping = file.mapping_of(file.targets[0])

    def lands_at(text: str) -> str:
        return mapping.target(Reference.parse(text), registry="t.io").name

    assert lands_at("team/app") == "t.io/own/team/app"
    assert lands_at("app") == "t.io/mine"
    assert lands_at("quay.io/a") == "t.io/q/a"


def test_a_warning_names_the_line_of_the_name_that_was_written() -> None:
    credentials = {"username": "me", "password": "x"}
    file = parsed({"quay.io": {}, "index.docker.io": {"credentials": credentials}})

    assert [warning.partition(": ")[0] for warning in file.warnings] == ["sync.yaml:10"]


def test_a_url_of_the_api_is_that_of_docker_hubs_api() -> None:
    """Whatever is asked of Docker Hub is asked of the one host that answers."""
    for host in SPELLINGS:
        assert RegistryAddress.parse(f"{host}/me").host == "docker.io"
        assert api_url(host, plain_http=None) == URL("https://registry-1.docker.io/v2/")
