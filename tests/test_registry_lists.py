"""Lists of a registry are read to their end, or are an error: tags, repositories and referrers alike."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import pytest
from aiohttp import web

from syncer.errors import Denied, InvalidContent, ListIncomplete, NotFound, SyncerError
from syncer.oci import Digest
from syncer.oci.descriptor import OCI_INDEX
from syncer.registry import Credential, CredentialSettings, Registries, repositories
from syncer.registry import answers as registry_pages
from syncer.transport import HostSettings, TransportSettings
from tests.support import images
from tests.support.cli import weighed
from tests.support.quirky import Fault, Handler, Quirky, problem, quirky_registry
from tests.support.registry_end import QUICK, name_at, registries_for
from tests.support.tls import Authority

SUBJECT = Digest.of(b"subject")
Read = Callable[[Registries, str], Awaitable[list[str]]]


async def read_tags(registries: Registries, host: str) -> list[str]:
    return [tag async for tag in registries.repository(name_at(host, "app")).tags()]


async def read_catalog(registries: Registries, host: str) -> list[str]:
    return await repositories(registries.registry(host))


async def read_referrers(registries: Registries, host: str) -> list[str]:
    found = await registries.repository(name_at(host, "app")).listed_referrers(SUBJECT)
    assert found is not None
    return [descriptor.artifact_type or "" for descriptor in found]


def tags_page(names: Sequence[str]) -> web.Response:
    return web.json_response({"name": "app", "tags": list(names) or None})


def catalog_page(names: Sequence[str]) -> web.Response:
    return web.json_response({"repositories": list(names)})


def referrers_page(names: Sequence[str]) -> web.Response:
    entries = [
        {"mediaType": images.OCI_MANIFEST, "digest": images.digest_of(name.encode()), "size": 7, "artifactType": name}
        for name in names
    ]
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    return web.Response(body=json.dumps(document), content_type=OCI_INDEX)


KINDS: dict[str, tuple[str, str, Read, Callable[[Sequence[str]], web.Response]]] = {
    "tags": ("GET tags", "/v2/app/tags/list", read_tags, tags_page),
    "catalog": ("GET other", "/v2/_catalog", read_catalog, catalog_page),
    "referrers": ("GET referrers", f"/v2/app/referrers/{SUBJECT}", read_referrers, referrers_page),
}
Page = tuple[Sequence[str], str | None]


def page_fault(pages: Sequence[Page], make: Callable[[Sequence[str]], web.Response]) -> Fault:
    """Answer with ``pages`` by the ``page`` in the query, each with its ``Link``."""

    async def fault(request: web.Request, _: Handler) -> web.StreamResponse:
        names, link = pages[int(request.query.get("page", "0"))]
        response = make(names)
        if link is not None:
            response.headers["Link"] = f'<{link}>; rel="next"'
        return response

    return fault


async def read_pages(kind: str, *pages: Page, registry: Quirky, registries: Registries) -> list[str]:
    """Read the list of that kind of which the registry gives those pages; ``{own}`` in a link is the list's path."""
    what, own, read, make = KINDS[kind]
    linked = [(names, link and link.format(own=own, host=registry.address)) for names, link in pages]
    registry.on(what, page_fault(linked, make), times=99)
    return await read(registries, registry.address)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_list_is_read_to_its_end(kind: str) -> None:
    """Over a page that is empty and not the last one, and one that repeats a part of another."""
    pages: list[Page] = [(["a", "b"], "{own}?page=1"), ([], "{own}?page=2"), (["b", "c"], "?page=3"), (["d"], None)]
    async with quirky_registry() as registry, registries_for() as registries:
        assert await read_pages(kind, *pages, registry=registry, registries=registries) == ["a", "b", "c", "d"]
        assert not registries.notices


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("link", ["http://registry.inner.example:5000{own}?page=1", "https://{host}{own}?page=1"])
async def test_a_list_that_names_another_host_is_read_where_it_was_found(kind: str, link: str) -> None:
    """A gateway's registry gives its inner name (oras-project/artifacts-spec#93); nothing is asked there."""
    async with quirky_registry() as registry, registries_for() as registries:
        found = await read_pages(kind, (["a"], link), (["b"], None), registry=registry, registries=registries)

        assert found == ["a", "b"]
        (notice,) = registries.notices
        assert registry.address in notice
        assert set(registries.traffic) == {registry.address}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("pages", "said"),
    [
        ([(["a"], "{own}?page=1"), (["a"], "{own}?page=2")], "repeats"),
        ([(["a"], "{own}?page=1"), (["b"], "{own}?page=1")], "circle"),
        ([(["a"], "http://registry.inner.example/v2/other/tags/list?page=1")], "registry.inner.example/v2/other"),
        ([(["a"], "http://")], "no address"),
        ([(["a"], "http://[::1")], "no address"),
    ],
)
async def test_a_list_that_is_not_known_to_be_whole_is_an_error(kind: str, pages: list[Page], said: str) -> None:
    async with quirky_registry() as registry, registries_for() as registries:
        with pytest.raises(ListIncomplete, match=said):
            await read_pages(kind, *pages, registry=registry, registries=registries)

        assert len(registry.seen) <= 2


@pytest.mark.parametrize(("most", "said"), [("_MOST_PAGES", "than 3 pages"), ("_MOST_ENTRIES", "than 3 entries")])
async def test_a_list_without_end_is_an_error(monkeypatch: pytest.MonkeyPatch, most: str, said: str) -> None:
    monkeypatch.setattr(registry_pages, most, 3)
    endless: list[Page] = [([f"v{page}"], f"{{own}}?page={page + 1}") for page in range(9)]
    async with quirky_registry() as registry, registries_for() as registries:
        with pytest.raises(ListIncomplete, match=said):
            await read_pages("tags", *endless, registry=registry, registries=registries)


_ENDLESS: Mapping[str, tuple[Callable[[int], Sequence[str]], str]] = {
    "pages": (lambda page: [f"{page}-{number:0100}" for number in range(1000)], "more than 33,554,432 bytes"),
    "entries of a page": (lambda _: [f"{number:x}" for number in range(1_000_001)], "more than 1,000,000 entries"),
    "bytes of a page": (lambda _: ["a" * 9 * 1024 * 1024], "more than 8,388,608 bytes"),
}


@pytest.mark.parametrize("kind", _ENDLESS)
async def test_a_list_without_end_is_given_up_before_it_fills_the_memory(kind: str, tmp_path: Path) -> None:
    names, said = _ENDLESS[kind]

    async def endless(request: web.Request, _: Handler) -> web.StreamResponse:
        page = int(request.query.get("page", "0"))
        text = json.dumps({"tags": names(page)}, separators=(",", ":"))
        return web.Response(text=text, headers={"Link": f'</v2/app/tags/list?page={page + 1}>; rel="next"'})

    file = tmp_path / "sync.yaml"
    async with quirky_registry() as registry:
        registry.on("GET tags", endless, times=9999)
        source = {"repository": f"{registry.address}/app", "tags": "all"}
        file.write_text(json.dumps({"sources": [source], "targets": [{"registry": f"{registry.address}/m"}]}))
        ran, peak = await weighed("plan", "--config", file, home=tmp_path)

    assert said in ran.stdout + ran.stderr
    assert peak < 300 * 1024 * 1024


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_a_page_that_is_refused_leaves_the_list_incomplete(kind: str, status: int) -> None:
    """Not "not found", by which a prune would take the repository for one that is not there."""
    what, own, read, make = KINDS[kind]

    async def refused(request: web.Request, _: Handler) -> web.StreamResponse:
        return problem(status, "NAME_UNKNOWN")

    async with quirky_registry() as registry, registries_for() as registries:
        registry.on(what, page_fault([(["a"], f"{own}?page=1")], make))
        registry.on(what, refused, times=9)
        with pytest.raises(ListIncomplete, match=f"after 1 entries.*{status}") as caught:
            await read(registries, registry.address)

        assert not isinstance(caught.value, Denied | NotFound)


@pytest.mark.parametrize("kind", ["tags", "catalog"])
async def test_a_full_page_without_a_link_is_gone_on_from_its_last_name(kind: str) -> None:
    what, _, read, make = KINDS[kind]
    every = [f"v{number:04}" for number in range(2500)]

    async def by_last(request: web.Request, _: Handler) -> web.StreamResponse:
        after = [name for name in every if name > request.query.get("last", "")]
        return make(after[: int(request.query["n"])])

    async with quirky_registry() as registry, registries_for() as registries:
        registry.on(what, by_last, times=9)

        assert await read(registries, registry.address) == every
        assert len(registry.seen) == 3


async def test_a_registry_that_passes_over_the_last_name_has_no_whole_list() -> None:
    async with quirky_registry() as registry, registries_for() as registries:
        full = [f"v{number:04}" for number in range(1000)]
        with pytest.raises(ListIncomplete, match="repeats"):
            await read_pages("tags", (full, None), registry=registry, registries=registries)


@pytest.mark.parametrize("kind", ["tags", "catalog"])
@pytest.mark.parametrize("document", [{}, {"errors": []}, {"tags": "v1"}, {"repositories": [1]}, {"login": "please"}])
async def test_what_is_no_list_is_not_an_empty_one(kind: str, document: object) -> None:
    what, _, read, _ = KINDS[kind]

    async def odd(request: web.Request, _: Handler) -> web.StreamResponse:
        return web.json_response(document)

    async with quirky_registry() as registry, registries_for() as registries:
        registry.on(what, odd)
        with pytest.raises(InvalidContent, match="no list of names"):
            await read(registries, registry.address)


@pytest.mark.parametrize("document", [{"name": "app", "tags": None}, {"name": "app"}, {"tags": []}])
async def test_a_repository_may_have_no_tags(document: object) -> None:
    async def empty(request: web.Request, _: Handler) -> web.StreamResponse:
        return web.json_response(document)

    async with quirky_registry() as registry, registries_for() as registries:
        registry.on("GET tags", empty)

        assert await read_tags(registries, registry.address) == []


@pytest.mark.parametrize("link", ["http://{host}{own}?page=1", "http://127.0.0.1{own}?page=1"])
async def test_a_list_behind_a_tls_proxy_is_read_by_https(authority: Authority, link: str) -> None:
    """A registry that knows nothing of the proxy writes ``http:`` (as for uploads, distribution/distribution#2225)."""
    async with quirky_registry(tls=authority.server().server_context()) as registry:
        hosts = {registry.address: HostSettings(ca_cert=authority.certificate, plain_http=False)}
        async with registries_for(transport=TransportSettings(limits=QUICK, hosts=hosts)) as registries:
            found = await read_pages("tags", (["a"], link), (["b"], None), registry=registry, registries=registries)

            assert found == ["a", "b"]
            assert not registries.notices


async def test_a_list_that_is_elsewhere_is_read_there_without_the_login() -> None:
    """As registry.k8s.io, which sends us to the registry of a region."""
    async with quirky_registry() as registry, quirky_registry() as region:
        login = CredentialSettings(logins={registry.address: Credential("alice", "secret")})

        async def moved(request: web.Request, _: Handler) -> web.StreamResponse:
            if "Authorization" not in request.headers:
                return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="r"'})
            return web.Response(status=307, headers={"Location": f"{region.url}/v2/deep/app/tags/list?n=1000"})

        registry.on("GET tags", moved, times=9)
        pages: list[Page] = [(["a"], "/v2/deep/app/tags/list?page=1"), (["b"], None)]
        region.on("GET tags", page_fault(pages, tags_page), times=9)
        async with registries_for(credentials=login) as registries:
            assert await read_tags(registries, registry.address) == ["a", "b"]

        assert [one.headers.get("Authorization") for one in region.seen] == [None, None]


async def test_the_first_page_says_why_there_is_no_list() -> None:
    async def missing(request: web.Request, _: Handler) -> web.StreamResponse:
        return problem(404, "NAME_UNKNOWN")

    async with quirky_registry() as registry, registries_for() as registries:
        registry.on("GET tags", missing)
        with pytest.raises(SyncerError) as caught:
            await read_tags(registries, registry.address)

        assert isinstance(caught.value, NotFound)
