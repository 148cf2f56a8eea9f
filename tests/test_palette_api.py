from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aioresponses import aioresponses
from yarl import URL

from syncer.errors import Denied, InvalidFile, ListIncomplete, NotFound, RegistryError, UsageError
from syncer.profiles.palette.key import PaletteAccount, console_url
from syncer.profiles.palette.palette_api import CallLimit, PaletteApi, Project, open_palette
from syncer.profiles.palette.profile import Profile
from syncer.profiles.palette.profile_definition import define_profiles
from syncer.transport import Limits, TransportSettings
from tests.support.palette import KEY, Palette, error, palette_server

_VALUES = "pack: {content: {images: [{image: 'quay.io/a/b:v1'}]}}\n"
_UID = "66b1f0c2a1b2c3d4e5f60718"
_LIMITS = Limits(attempts=3, backoff=0.01)


def _profile(*packs: dict[str, Any], **spec: Any) -> dict[str, Any]:
    template = {"type": "add-on", "cloudType": "all", "packs": list(packs)}
    return {"metadata": {"name": "edge", "uid": _UID}, "spec": {"version": "1.0.0", "template": template, **spec}}


def _pack(name: str = "a", **fields: Any) -> dict[str, Any]:
    registry = {"metadata": {"uid": "reg1", "name": "Public", "kind": "pack"}}
    return {"name": name, "type": "spectro", "layer": "addon", "version": "1.0.0", "registry": registry, **fields}


@asynccontextmanager
async def _api(url: URL, key: str = KEY, project: str = "project-1", **settings: Any) -> AsyncIterator[PaletteApi]:
    account = PaletteAccount(url=url, api_key=key, project_uid=project)
    async with open_palette(account, TransportSettings(**{"limits": _LIMITS, **settings})) as api:
        yield api


async def _read(palette: Palette, uid: str = _UID) -> Profile:
    async with _api(palette.url) as api:
        return await api.profile(uid)


def _images(profile: Profile) -> list[str]:
    return [str(image.image) for image in define_profiles("bundle", [profile], scan=True).definition.images]


_WHOLE = _profile(
    _pack(values=_VALUES + "host: '{{.spectro.macro.host}}'\n"),
    _pack(
        "b",
        values="pack: {content: {images: [{image: '{{.spectro.var.image}}'}, {image: '{{.spectro.macro.host}}/c'}]}}",
    ),
    _pack("m", type="manifest", values="", manifests=[{"name": "extra", "content": "image: quay.io/a/extra:v1\n"}]),
    variables=[{"name": "image", "defaultValue": "quay.io/a/variable:v2"}],
)
_WHOLE_IMAGES = [
    "quay.io/a/b:v1",
    "quay.io/a/variable:v2",
    "ttl.sh/c:latest",
    "quay.io/a/extra:v1",
]


async def test_a_profile_comes_with_one_export_call() -> None:
    async with palette_server(profiles={_UID: _WHOLE}, macros={"host": "ttl.sh"}) as palette:
        profile = await _read(palette)

        assert _images(profile) == _WHOLE_IMAGES
        assert (profile.name, profile.uid, profile.project_uid) == ("edge", _UID, "project-1")
        assert palette.requests == [
            f"GET /v1/clusterprofiles/{_UID}/export?format=json",
            "GET /v1/clusterprofiles/macros",
        ]


async def test_a_console_without_the_export_call_is_asked_piece_by_piece() -> None:
    async with palette_server(profiles={_UID: _WHOLE}, macros={"host": "ttl.sh"}, exports=False) as palette:
        assert _images(await _read(palette)) == _WHOLE_IMAGES
        assert palette.asked(f"clusterprofiles/{_UID}/packs/manifests") == 1
        assert palette.asked(f"clusterprofiles/{_UID}/variables") == 1


@pytest.mark.parametrize("known", ["uid", "name"])
async def test_a_pack_without_values_gets_its_defaults(known: str) -> None:
    entity = {
        "name": "a",
        "registryUid": "reg1",
        "tags": [{"packUid": "p9", "tag": "9.0.0", "version": "9.0.0"}, {"packUid": "p1", "version": "1.0.0"}],
        "packValues": [{"packUid": "p9", "values": "broken: ["}, {"packUid": "p1", "values": _VALUES}],
    }
    pack = _pack(packUid="p1") if known == "uid" else _pack()
    async with palette_server(profiles={_UID: _profile(pack)}, packs={"p1": entity}) as palette:
        assert _images(await _read(palette)) == ["quay.io/a/b:v1"]


async def test_a_pack_whose_values_nobody_tells_is_warned_about() -> None:
    async with palette_server(profiles={_UID: _profile(_pack(), _pack("b", values=_VALUES))}) as palette:
        gathered = define_profiles("bundle", [await _read(palette)])

        assert gathered.warnings == ("pack a: its values are unknown, and so is the content that it lists",)
        assert [str(image.image) for image in gathered.definition.images] == ["quay.io/a/b:v1"]


async def test_a_helm_layer_is_a_chart_of_its_registry() -> None:
    http = _pack("nginx", type="helm", registry={"metadata": {"uid": "helm1", "kind": "helm"}})
    oci = _pack("redis", type="helm", registry={"metadata": {"uid": "oci1", "kind": "oci"}})
    registry = {"metadata": {"uid": "oci1"}, "spec": {"endpoint": "https://ghcr.io", "baseContentPath": "charts"}}
    async with palette_server(
        profiles={_UID: _profile(http, oci)},
        helm_registries={"helm1": "https://charts.example.com"},
        oci_registries=[registry],
    ) as palette:
        gathered = define_profiles("bundle", [await _read(palette)])

        assert [(chart.repo, chart.name, chart.version) for chart in gathered.definition.charts] == [
            ("https://charts.example.com", "nginx", "1.0.0"),
            ("oci://ghcr.io/charts", "redis", "1.0.0"),
        ]
        assert gathered.warnings == ()


async def test_projects_are_found_on_all_pages() -> None:
    projects = [(f"project {number:03}", f"uid{number}") for number in range(117)]
    async with palette_server(projects=projects) as palette, _api(palette.url, project="") as api:
        assert len(await api.projects()) == 117
        assert await api.project("project 116") == Project("project 116", "uid116")
        assert await api.project("uid99") == Project("project 099", "uid99")
        with pytest.raises(UsageError, match="sees no project 'other'"):
            await api.project("other")


async def test_a_list_whose_pages_lead_in_a_circle_is_an_error() -> None:
    projects = [(f"project {number:03}", f"uid{number}") for number in range(117)]
    async with palette_server(projects=projects) as palette, _api(palette.url, project="") as api:
        palette.stuck_at = "50"
        with pytest.raises(ListIncomplete, match="lead in a circle"):
            await api.projects()


async def test_too_many_requests_are_asked_again() -> None:
    async with palette_server(profiles={_UID: _profile(_pack(values=_VALUES))}) as palette:
        palette.failures = [error(429, "TooManyRequests", "slow down"), error(502, "", ""), error(500, "", "")][:2]

        assert _images(await _read(palette)) == ["quay.io/a/b:v1"]


async def test_a_wrong_key_is_denied_and_never_shown() -> None:
    async with palette_server() as palette, _api(palette.url, key="wr0ng-secret") as api:
        for call in (api.projects(), api.profile(_UID)):
            with pytest.raises(Denied) as caught:
                await call

            assert "401 the key … is not known" in str(caught.value)
            assert "wr0ng-secret" not in f"{caught.value!r} {caught.value.hint} {vars(caught.value)}"
        assert "wr0ng-secret" not in repr(PaletteAccount(url=palette.url, api_key="wr0ng-secret"))


async def test_a_key_without_access_to_the_project_is_told_so() -> None:
    async with palette_server() as palette, _api(palette.url, project="elsewhere") as api:
        with pytest.raises(Denied, match="403 no access to the project") as caught:
            await api.profile(_UID)

        assert "--project-id" in str(caught.value.hint)


async def test_an_id_that_does_not_exist_is_missing() -> None:
    async with palette_server() as palette, _api(palette.url) as api:
        with pytest.raises(NotFound, match="404 the profile is not found") as caught:
            await api.profile("0123456789")

        assert caught.value.codes == ("ResourceNotFound",)


@pytest.mark.parametrize("uid", ["", "../users", "a/b", "a?b", "a b"])
async def test_an_id_never_leads_to_another_path(uid: str) -> None:
    async with palette_server() as palette, _api(palette.url) as api:
        with pytest.raises(UsageError, match="not an id"):
            await api.profile(uid)

        assert palette.requests == []


async def test_the_key_stays_behind_when_the_server_sends_us_elsewhere() -> None:
    async with palette_server() as elsewhere, palette_server() as palette:
        there = f"{elsewhere.url}/v1/dashboard/projects/metadata"
        palette.failures = [web.Response(status=307, headers={"Location": there})]

        async with _api(palette.url, project="") as api:
            with pytest.raises(Denied, match="the key None is not known"):
                await api.projects()


async def test_the_cluster_definition_is_saved_whole(tmp_path: Path) -> None:
    async with palette_server(profiles={_UID: _profile()}) as palette, _api(palette.url) as api:
        await api.download_definition("edge-1", [_UID], tmp_path / "edge-1.tgz")

        assert (tmp_path / "edge-1.tgz").read_bytes() == b"\x1f\x8b definition"
        assert palette.definitions == [
            {"metadata": {"name": "edge-1"}, "spec": {"cloudType": "edge-native", "profiles": [{"uid": _UID}]}}
        ]
        with pytest.raises(NotFound):
            await api.download_definition("edge-1", ["other"], tmp_path / "other.tgz")
        assert [path.name for path in tmp_path.iterdir()] == ["edge-1.tgz"]


_PROJECTS = "https://console.example.com/v1/dashboard/projects/metadata"


@pytest.mark.parametrize(
    ("answer", "kind", "problem"),
    [
        ({"status": 200, "body": "<!DOCTYPE html>", "content_type": "text/html"}, RegistryError, "200 .* a web page"),
        ({"status": 200, "body": "[]"}, RegistryError, "200 .* no JSON object"),
        ({"status": 404, "body": "<html>", "content_type": "text/html"}, NotFound, "404 .* a web page"),
        ({"status": 403, "body": "not json"}, Denied, "403 .* no JSON object"),
        (
            {"status": 400, "payload": {"code": "Bad", "message": "wrong \x1b[31mfilter"}},
            RegistryError,
            "400 wrong .31m",
        ),
        ({"status": 400, "payload": {"message": 3}}, RegistryError, "400 .* not one of Palette's API"),
    ],
)
async def test_an_answer_that_is_no_answer_is_told_as_what_it_is(
    answer: dict[str, Any], kind: type[RegistryError], problem: str
) -> None:
    with aioresponses() as mocked:
        mocked.get(_PROJECTS, **answer)
        async with _api(URL("https://console.example.com"), project="") as api:
            with pytest.raises(kind, match=problem) as caught:
                await api.projects()

    assert "\x1b" not in str(caught.value)


async def test_a_profile_that_is_none_is_named() -> None:
    async with palette_server(profiles={_UID: {"metadata": {}, "spec": {"template": {"packs": [{}]}}}}) as palette:
        with pytest.raises(InvalidFile, match=f"profile {_UID} of 127.0.0.1 .*lacks its name"):
            await _read(palette)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://console.spectrocloud.com", "https://console.spectrocloud.com"),
        ("api.spectrocloud.com", "https://api.spectrocloud.com"),
        ("https://palette.example.com:8443/v1/", "https://palette.example.com:8443"),
        (" http://127.0.0.1:8080/base/ ", "http://127.0.0.1:8080/base"),
    ],
)
def test_a_console_may_be_given_in_any_spelling(text: str, url: str) -> None:
    assert console_url(text) == URL(url)


@pytest.mark.parametrize("text", ["", "ftp://a", "https://", "https://user:secret@a", "https://[::"])
def test_what_is_no_address_of_a_console_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        console_url(text)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "schlüssel"])
def test_what_can_be_no_key_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match="API key"):
        PaletteAccount(url=URL("https://a"), api_key=key)


def test_the_pace_allows_the_documented_burst_and_then_the_documented_rate() -> None:
    limit = CallLimit(10)

    waits = [limit.take(now=100.0) for _ in range(52)]

    assert waits == [0.0] * 50 + [0.1, 0.2]
    assert limit.take(now=100.5) == 0.0
    assert [limit.take(now=200.0) for _ in range(51)] == [0.0] * 50 + [0.1]
