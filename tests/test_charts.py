from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from syncer.content import FileBlob
from syncer.errors import (
    Denied,
    DigestMismatch,
    InvalidContent,
    ListIncomplete,
    NameMissing,
    NotFound,
    SyncerError,
    TargetError,
    UsageError,
)
from syncer.oci import Descriptor, Digest, Manifest, Reference
from syncer.profiles.charts.finder import Charts, FailedChart, ResolvedChart, guess_reference
from syncer.profiles.charts.index import read_index
from syncer.profiles.definition.artifacts import (
    CHART_CONFIG,
    CHART_LAYER,
    FILE,
    TITLE,
    Spool,
    open_spool,
    repository_of,
    tag_of,
)
from syncer.profiles.definition.definition import ChartRequest
from syncer.profiles.palette.edge_credentials import Login
from syncer.transport import Limits, TransportSettings, open_transport
from tests.support.chart_repository import ChartRepository, chart_archive, chart_repository, tar_gz
from tests.support.cli import Ran, weighed


class _Registry:
    """A registry as charts see it: tags by repository."""

    def __init__(self, **tags: list[str]) -> None:
        self.known = {name.replace("__", "/"): found for name, found in tags.items()}
        self.forbidden = ""

    async def resolve(self, reference: Reference) -> Descriptor:
        if reference.tag not in await self.tags(reference):
            raise NotFound(str(reference), 404)
        return Descriptor("application/vnd.oci.image.manifest.v1+json", Digest.of(b"chart"), 5)

    async def tags(self, reference: Reference) -> list[str]:
        if reference.repository == self.forbidden:
            raise Denied(str(reference), 403)
        if reference.repository not in self.known:
            raise NotFound(str(reference), 404)
        return self.known[reference.repository]

    async def login(self, host: str) -> Login | None:
        return None


@asynccontextmanager
async def _charts(
    spool: Spool,
    registry: _Registry | None = None,
    logins: Mapping[str, Login] | None = None,
    cache: Path | None = None,
) -> AsyncIterator[Charts]:
    limits = Limits(attempts=3, backoff=0.01)
    async with open_transport(TransportSettings(limits=limits)) as transport:
        yield Charts(transport, spool, registry or _Registry(), logins=logins, cache=cache)


async def _resolve(*requests: ChartRequest, **settings: Any) -> list[ResolvedChart | FailedChart]:
    with open_spool() as spool:
        async with _charts(spool, **settings) as charts:
            return await charts.resolve_all(list(requests))


async def _error(*requests: ChartRequest, **settings: Any) -> SyncerError:
    (found,) = await _resolve(*requests, **settings)
    assert isinstance(found, FailedChart)
    return found.error


async def _content(spool: Spool, reference: Reference, descriptor: Descriptor) -> bytes:
    async with spool.blob(reference, descriptor).open() as pieces:
        return b"".join([bytes(piece) async for piece in pieces])


async def test_a_chart_becomes_helms_artifact_with_its_archive_unchanged() -> None:
    async with chart_repository() as repository:
        archive = repository.add_chart(
            "nginx",
            "1.2.3",
            description="Serves things",
            appVersion="1.10",
            deprecated="true",
            keywords="[web, http]",
            dependencies="[{name: common, version: 2.x.x, tags: [a], enabled: 'true', import-values: [{child: x}]}]",
            maintainers="[{name: me, email: me@example.com, phone: '1'}]",
            annotations="{license: MIT}",
            unknown="field",
        )
        repository.index()
        with open_spool() as spool:
            async with _charts(spool) as charts:
                found = await charts.resolve(ChartRequest(str(repository.url), "nginx", "1.2.3"))

            manifest = await spool.manifest(found.reference)
            assert isinstance(manifest, Manifest)
            layer = manifest.layers[0]
            assert (manifest.config.media_type, layer.media_type) == (CHART_CONFIG, CHART_LAYER)
            assert await _content(spool, found.reference, layer) == archive
            assert json.loads(await _content(spool, found.reference, manifest.config)) == {
                "name": "nginx",
                "version": "1.2.3",
                "description": "Serves things",
                "keywords": ["web", "http"],
                "maintainers": [{"name": "me", "email": "me@example.com"}],
                "apiVersion": "v2",
                "appVersion": "1.10",
                "deprecated": True,
                "annotations": {"license": "MIT"},
                "dependencies": [
                    {
                        "name": "common",
                        "version": "2.x.x",
                        "tags": ["a"],
                        "enabled": True,
                        "import-values": [{"child": "x"}],
                    }
                ],
            }
            assert str(found.reference.tagged("1.2.3")) == f"127.0.0.1:{repository.url.port}/nginx:1.2.3"
            assert found.reference.digest == manifest.descriptor.digest


async def test_two_runs_give_the_same_digest() -> None:
    async with chart_repository() as repository:
        repository.add_chart("nginx", "1.2.3")
        repository.files["raw.tar.gz"] = tar_gz({"readme": "hello"})
        repository.index()
        requests = [
            ChartRequest(str(repository.url), "nginx", "1.2.3"),
            ChartRequest(f"{repository.url}/raw.tar.gz", "x"),
        ]

        assert await _resolve(*requests) == await _resolve(*requests)


@pytest.mark.parametrize(
    ("wanted", "version"),
    [
        ("1.2.3", "1.2.3"),
        ("v1.2.3", "1.2.3"),
        ("2.0.0", "v2.0.0"),
        ("^1.2", "1.10.0"),
        ("1.2", "1.2.4"),
        (">=1.2 <1.3 || 3.x", "1.2.4"),
        (None, "v2.0.0"),
        ("3.0.0-rc.1", "3.0.0-rc.1"),
        ("1.2.4+build.5", "1.2.4+build.5"),
    ],
)
async def test_a_version_is_found_exactly_or_as_a_range(wanted: str | None, version: str) -> None:
    async with chart_repository() as repository:
        for each in ("1.2.3", "1.2.4", "1.2.4+build.5", "1.10.0", "v2.0.0", "3.0.0-rc.1"):
            repository.add_chart("nginx", each)
        repository.index()

        (found,) = await _resolve(ChartRequest(str(repository.url), "nginx", wanted))

        assert isinstance(found, ResolvedChart)
        assert found.version == version
        assert found.reference.tag == version.replace("+", "_")


async def test_a_version_that_is_not_there_names_the_nearest() -> None:
    async with chart_repository() as repository:
        for each in ("1.0.0", "1.1.0", "1.2.0", "1.4.0", "2.0.0", "3.0.0"):
            repository.add_chart("nginx", each)
        repository.index()

        error = await _error(ChartRequest(str(repository.url), "nginx", "1.3.0"))
        assert isinstance(error, NotFound)
        near = "1.1.0, 1.2.0, 1.4.0, 2.0.0, 3.0.0"
        assert str(error) == f"{repository.url} has no chart nginx 1.3.0 (nearest: {near})"
        other = await _error(ChartRequest(str(repository.url), "nginx", "latest"))
        assert str(other) == f"{repository.url} has no chart nginx latest (nearest: 3.0.0, 2.0.0, 1.4.0, 1.2.0, 1.1.0)"
        other = await _error(ChartRequest(str(repository.url), "ngnix", "1.0.0"))
        assert str(other) == f"{repository.url} has no chart ngnix (nearest: nginx)"


@pytest.mark.parametrize(
    ("repo", "name", "version", "told"),
    [
        ("oci://r.io/charts", "nginx", "1.3.0", "oci://r.io/charts has no chart nginx 1.3.0 (nearest: 1.1.0, 1.4.0+b)"),
        ("oci://r.io/charts", "nginx", ">=2", "oci://r.io/charts has no chart nginx >=2 (nearest: 1.4.0+b, 1.1.0)"),
        (
            "oci://r.io/charts/nginx",
            "",
            "9.0.0",
            "oci://r.io/charts/nginx has no chart nginx 9.0.0 (nearest: …",
        ),
        ("oci://r.io/charts/nginx:9", "nginx", None, "oci://r.io/charts/nginx:9 has no chart nginx 9 (nearest: …"),
        ("oci://r.io/charts", "ngnix", "1.0.0", "oci://r.io/charts has no chart ngnix"),
    ],
)
async def test_a_version_that_a_registry_lacks_names_the_nearest(
    repo: str, name: str, version: str | None, told: str
) -> None:
    error = await _error(ChartRequest(repo, name, version), registry=_Registry(charts__nginx=["1.1.0", "1.4.0_b"]))

    assert isinstance(error, NameMissing)
    assert str(error).startswith(told.removesuffix("…"))
    assert told.endswith("…") or str(error) == told


async def test_a_registry_that_denies_a_chart_is_not_said_to_lack_it() -> None:
    registry = _Registry(charts__nginx=["1.0.0"])
    registry.forbidden = "charts/nginx"

    assert isinstance(await _error(ChartRequest("oci://r.io/charts/nginx", "", "1.0.0"), registry=registry), Denied)


@pytest.mark.parametrize("absolute", [True, False])
async def test_archives_are_found_by_relative_and_absolute_addresses(*, absolute: bool) -> None:
    async with chart_repository() as repository:
        repository.url = repository.url / "stable/v2"
        repository.add_chart("nginx", "1.2.3")
        repository.index(absolute=absolute)
        repository.files = {f"stable/v2/{path}": content for path, content in repository.files.items()}

        (found,) = await _resolve(ChartRequest(f"{repository.url}/", "nginx", "1.2.3"))

        assert isinstance(found, ResolvedChart)
        assert found.reference.repository == "stable/v2/nginx"
        assert guess_reference(found.request) == found.reference.tagged("1.2.3")


async def test_an_index_is_read_once_a_run_and_kept_between_runs(tmp_path: Path) -> None:
    async with chart_repository() as repository:
        repository.add_chart("nginx", "1.0.0")
        repository.add_chart("redis", "2.0.0")
        repository.index()
        repository.packs = True
        requests = [ChartRequest(str(repository.url), "nginx", "1.x"), ChartRequest(str(repository.url), "redis", None)]

        first = await _resolve(*requests, cache=tmp_path / "cache")
        assert repository.requests.count("/index.yaml") == 1
        assert await _resolve(*requests, cache=tmp_path / "cache") == first
        repository.add_chart("nginx", "1.1.0")
        repository.index()
        (newer, _) = await _resolve(*requests, cache=tmp_path / "cache")

        assert isinstance(newer, ResolvedChart)
        assert newer.version == "1.1.0"


@pytest.mark.parametrize("damage", ["another document", "of an earlier version", "cut off", "cut off between lines"])
async def test_a_broken_cache_is_as_good_as_none(tmp_path: Path, damage: str) -> None:
    """Though the server says that the index has not changed."""
    async with chart_repository() as repository:
        repository.add_chart("nginx", "1.0.0")
        repository.add_chart("redis", "1.0.0")
        repository.index()
        request = ChartRequest(str(repository.url), "redis", "1.0.0")
        first = await _resolve(request, cache=tmp_path)
        (file,) = tmp_path.iterdir()
        content = file.read_bytes()
        etag = json.loads(content.splitlines()[0])["etag"]
        match damage:
            case "another document":
                file.write_text('{"etag": "x", "charts": {"nginx": 3}}')
            case "of an earlier version":
                file.write_text(json.dumps({"etag": etag, "charts": {"nginx": [["1.0.0", ["a.tgz"], ""]]}}))
            case "cut off":
                file.write_bytes(content[:-9])
            case "cut off between lines":
                file.write_bytes(b"".join(content.splitlines(keepends=True)[:-1]))

        assert await _resolve(request, cache=tmp_path) == first


async def test_an_archive_that_was_cut_off_is_fetched_again() -> None:
    async with chart_repository() as repository:
        repository.add_chart("nginx", "1.0.0")
        repository.index()
        with open_spool() as spool:
            async with _charts(spool) as charts:
                request = ChartRequest(str(repository.url), "nginx", "1.0.0")
                repository.cuts = 1
                await charts.resolve(ChartRequest(str(repository.url), "nginx", "1.0.0"))
                repository.cuts = 1
                found = await charts.resolve(request)

            assert isinstance(found, ResolvedChart)
            assert [path.name.partition("-")[0] for path in sorted(spool.directory.iterdir())] == ["index", "sha256"]


async def test_an_archive_without_room_for_it_is_told_before_it_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    async with chart_repository() as repository:
        archive = repository.add_chart("nginx", "1.0.0")
        repository.add_chart("other", "1.0.0")
        repository.index()
        with open_spool() as spool:
            async with _charts(spool) as charts:
                request = ChartRequest(str(repository.url), "nginx", "1.0.0")
                await charts.resolve(ChartRequest(str(repository.url), "other", "1.0.0"))  # and with it the index
                before = sorted(spool.directory.iterdir())
                free = os.statvfs_result((1, 1, 4096, len(archive) - 1, len(archive) - 1, 0, 0, 0, 0, 255))
                monkeypatch.setattr(os, "fstatvfs", lambda _: free)
                (found,) = await charts.resolve_all([request])

            assert isinstance(found, FailedChart)
            assert isinstance(found.error, TargetError)
            assert f"nginx-1.0.0.tgz needs {len(archive)} B in {spool.directory}, and" in str(found.error)
            assert found.error.hint == "set TMPDIR to a directory on a disk with more room"
            assert sorted(spool.directory.iterdir()) == before


async def test_another_archive_than_the_indexs_is_refused() -> None:
    async with chart_repository() as repository:
        repository.add_chart("nginx", "1.0.0")
        repository.index()
        repository.add_chart("nginx", "1.0.0", description="changed")

        assert isinstance(await _error(ChartRequest(str(repository.url), "nginx", "1.0.0")), DigestMismatch)


async def test_a_login_is_sent_to_its_host_only() -> None:
    async with chart_repository() as elsewhere, chart_repository() as repository:
        elsewhere.add_chart("nginx", "1.0.0")
        repository.add_chart("nginx", "1.0.0")
        repository.login = ("user", "s3cret")
        repository.index(nginx=f"{elsewhere.url}/charts/nginx-1.0.0.tgz")
        request = ChartRequest(str(repository.url), "nginx", "1.0.0")
        host = f"127.0.0.1:{repository.url.port}"

        assert isinstance(await _error(request), Denied)
        (found,) = await _resolve(request, logins={host: Login("user", "s3cret")})
        with_login = ChartRequest(str(repository.url.with_user("user").with_password("s3cret")), "nginx", "1.0.0")
        (also_found,) = await _resolve(with_login)

        assert isinstance(found, ResolvedChart)
        assert isinstance(also_found, ResolvedChart)
        assert "s3cret" not in str(also_found.reference)
        assert elsewhere.logins == [None, None]


async def test_a_direct_address_is_a_chart_or_a_file() -> None:
    async with chart_repository() as repository:
        chart = chart_archive("trident", "100.2410.0")
        installer = tar_gz({"installer/helm/chart.tgz": "", "installer/readme": "hello"})
        repository.files = {"d/R1/chart.tgz": chart, "d/R1/Installer.tar.gz": installer}
        with open_spool() as spool:
            async with _charts(spool) as charts:
                a_chart = await charts.resolve(ChartRequest(f"{repository.url}/d/R1/chart.tgz", "x", "24.10.0"))
                a_file = await charts.resolve(ChartRequest(f"{repository.url}/d/R1/Installer.tar.gz", "x", "1.0"))

            manifest = await spool.manifest(a_file.reference)
            assert isinstance(manifest, Manifest)
            assert (await spool.manifest(a_chart.reference)).artifact_type == CHART_CONFIG
            assert a_chart.reference.repository == "d/r1/trident"
            assert a_chart.reference.tag == "100.2410.0"
            assert (a_file.reference.repository, a_file.reference.tag) == ("d/r1/installer.tar.gz", "1.0")
            assert manifest.artifact_type == FILE
            assert manifest.layers[0].annotations[TITLE] == "Installer.tar.gz"
            assert await _content(spool, a_file.reference, manifest.layers[0]) == installer


@pytest.mark.parametrize(
    ("repo", "name", "version", "reference"),
    [
        ("oci://r.io/charts", "nginx", "1.0.0", "r.io/charts/nginx:1.0.0"),
        ("oci://r.io/charts/nginx/", "nginx", "v1.0.0", "r.io/charts/nginx:1.0.0"),
        ("oci://r.io/charts/nginx", "", "1.x", "r.io/charts/nginx:1.1.0_build"),
        ("oci://r.io/charts", "nginx", None, "r.io/charts/nginx:v2.0.0"),
        ("oci://r.io:5000/charts", "nginx", "2.0.0", "r.io:5000/charts/nginx:v2.0.0"),
    ],
)
async def test_a_chart_in_a_registry_keeps_its_name(repo: str, name: str, version: str | None, reference: str) -> None:
    registry = _Registry(charts__nginx=["1.0.0", "1.1.0_build", "v2.0.0", "latest"])

    (found,) = await _resolve(ChartRequest(repo, name, version), registry=registry)

    assert isinstance(found, ResolvedChart)
    assert str(found.reference) == reference


async def test_a_registry_that_denies_the_first_spelling_is_asked_for_the_second() -> None:
    registry = _Registry(charts__nginx=["1.0.0"])
    registry.forbidden = "charts/nginx/nginx"

    (found,) = await _resolve(ChartRequest("oci://r.io/charts/nginx", "nginx", "1.0.0"), registry=registry)

    assert isinstance(found, ResolvedChart)
    assert isinstance(
        await _error(ChartRequest("oci://r.io/charts/nginx", "nginx", "9.9.9"), registry=registry), Denied
    )


async def test_an_index_that_leads_to_a_registry_is_followed() -> None:
    async with chart_repository() as repository:
        repository.add_chart("nginx", "1.0.0")
        repository.index(nginx="oci://r.io/bitnamicharts/nginx:1.0.0")

        (found,) = await _resolve(
            ChartRequest(str(repository.url), "nginx", "^1"), registry=_Registry(bitnamicharts__nginx=["1.0.0"])
        )

        assert isinstance(found, ResolvedChart)
        assert str(found.reference) == "r.io/bitnamicharts/nginx:1.0.0"


@pytest.mark.parametrize(
    ("index", "problem"),
    [
        ("<html>", "has no entries"),
        ("entries: [", "not an index of charts"),
        ("entries:\n  nginx:\n  - version: 1.0.0\n", "has no URL for"),
        (
            "entries:\n  nginx:\n  - version: 1.0.0\n    urls: [index.yaml]\n",
            "is not a chart, although the index lists it",
        ),
    ],
)
async def test_an_index_that_is_none_is_named(index: str, problem: str) -> None:
    async with chart_repository() as repository:
        repository.files["index.yaml"] = index.encode()

        error = await _error(ChartRequest(str(repository.url), "nginx", "1.0.0"))

        assert isinstance(error, InvalidContent)
        assert problem in str(error)


@pytest.mark.parametrize("repo", ["ftp://a.io", "", "https://", "file:///etc"])
async def test_what_is_no_repository_is_refused(repo: str) -> None:
    assert isinstance(await _error(ChartRequest(repo, "a", "1.0.0")), UsageError)


async def test_a_repository_that_is_gone_fails_its_charts_only() -> None:
    async with chart_repository() as repository, chart_repository() as empty:
        repository.add_chart("nginx", "1.0.0")
        repository.index()
        gone = [ChartRequest(str(empty.url), name, "1.0.0") for name in "ab"]

        first, second, third = await _resolve(*gone, ChartRequest(str(repository.url), "nginx", "1.0.0"))

        assert isinstance(first, FailedChart)
        assert isinstance(second, FailedChart)
        assert isinstance(third, ResolvedChart)
        assert empty.requests == ["/index.yaml"]


async def test_what_was_fetched_is_read_in_place_by_name_or_digest() -> None:
    async with chart_repository() as repository:
        archive = repository.add_chart("nginx", "1.0.0")
        repository.index()
        with open_spool() as spool:
            async with _charts(spool) as charts:
                chart = (await charts.resolve(ChartRequest(str(repository.url), "nginx", "1.0.0"))).reference

            manifest = await spool.manifest(chart.tagged("1.0.0"))
            assert isinstance(manifest, Manifest)
            assert await spool.resolve(chart) == manifest.descriptor
            assert chart in spool
            blob = spool.blob(chart, manifest.layers[0])
            assert isinstance(blob, FileBlob)
            buffer = bytearray(len(archive))
            assert blob.read_into(memoryview(buffer), 3) == len(archive) - 3
            assert bytes(buffer[: len(archive) - 3]) == archive[3:]
            with pytest.raises(NotFound):
                await spool.resolve(chart.tagged("9.9.9"))


def test_parts_that_no_repository_can_have_are_spelt_otherwise() -> None:
    assert repository_of("/NetApp/a b/_x_/v1.0..2/") == "netapp/a-b/x/v1.0.2"
    assert tag_of("v1.0.0+build.5") == "v1.0.0_build.5"
    assert tag_of("") == "latest"


@pytest.mark.parametrize("generated", [True, False])
async def test_an_index_that_may_be_cut_off_is_not_taken_for_all_there_is(generated: bool, tmp_path: Path) -> None:
    """Its newest versions would be missing: a text that ends between two entries is an index as well."""
    text = "apiVersion: v1\nentries:\n  app:\n  - version: 1.0.0\n    urls: [app.tgz]\n"
    text += "generated: today\n" if generated else ""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + text.encode())
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        repository = URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with open_transport(TransportSettings()) as transport:
            if generated:
                index = await read_index(transport, repository, tmp_path, authorizer=None, cache=None)
                assert index.find("app", None).version == "1.0.0"
            else:
                with pytest.raises(ListIncomplete, match="not known to be whole"):
                    await read_index(transport, repository, tmp_path, authorizer=None, cache=None)


MIB = 1024 * 1024


def _versions(count: int) -> str:
    return "".join(f"  - {{version: 1.{number}.0, urls: [a.tgz], digest: {number:064}}}\n" for number in range(count))


_LARGE: Mapping[str, tuple[Callable[[], str], str]] = {
    "charts": (lambda: "".join(f"  a{number}: [{{}}, {{a: b}}]\n" for number in range(100_000)), "100,000 charts"),
    "one list": (lambda: f"  b:\n  - [{'a, ' * 4_000_000}]\n", "one of its parts is too large"),
    "one text": (lambda: f"  b:\n  - {'a' * 90 * MIB}\n", "bytes in one piece"),
    "a comment": (lambda: f"# {'a' * 300 * MIB}\n", "bytes in one piece"),
    "anchors": (lambda: f"  b: [{'&a [b], ' * 500_000}]\n", "one of its parts is too large"),
    "aliases": (lambda: f"  b: [&a [{'b, ' * 10_000}], {'*a, ' * 3_000}]\n", "more than 20000000 values"),
    "bytes": (lambda: "  b:\n" + f"  - {'a' * MIB}\n" * 300, "larger than 268435456 bytes"),
}


async def _planned(repository: ChartRepository, text: str, home: Path, *names: str) -> tuple[Ran, int]:
    """What ``syncer plan`` says of some charts of an index with ``app`` and ``text`` in it, and its peak of memory."""
    repository.packs = True
    repository.files["index.yaml"] = f"entries:\n  app:\n  - {{version: 1.0.0, urls: [app.tgz]}}\n{text}".encode()
    repository.files["app.tgz"] = chart_archive("app", "1.0.0")
    sources = [{"chart": {"repository": str(repository.url), "name": name, "version": "1.0.0"}} for name in names]
    file = home / "sync.yaml"
    file.write_text(json.dumps({"sources": sources, "targets": [{"registry": "127.0.0.1:1/m"}]}))
    return await weighed("plan", "--config", file, home=home)


@pytest.mark.parametrize("large", _LARGE)
async def test_what_is_too_large_in_an_index_is_named_before_it_fills_the_memory(large: str, tmp_path: Path) -> None:
    text, problem = _LARGE[large]
    async with chart_repository() as repository:
        ran, peak = await _planned(repository, text(), tmp_path, "app")

    assert peak < 200 * MIB
    assert problem in ran.stdout + ran.stderr


async def test_a_large_index_takes_little_memory(tmp_path: Path) -> None:
    """A small answer, packed by gzip, may hold a hundred times as much."""
    async with chart_repository() as repository:
        ran, peak = await _planned(repository, f"  flood:\n{_versions(120_000)}", tmp_path, "app", "flood")

        assert peak < 200 * MIB
        assert "/app.tgz" in repository.requests
        assert "has more than 100,000 versions of flood" in ran.stdout + ran.stderr
