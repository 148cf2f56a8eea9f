"""A classic chart repository, which is a directory of files behind HTTP."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from yarl import URL


@dataclass(slots=True)
class ChartRepository:
    """Files by path, and what was asked."""

    url: URL = field(default_factory=URL)
    files: dict[str, bytes] = field(default_factory=dict)
    login: tuple[str, str] | None = None
    packs: bool = False  # whether it answers in gzip
    cuts: int = 0  # this many answers end in the middle
    requests: list[str] = field(default_factory=list)
    logins: list[str | None] = field(default_factory=list)

    def add_chart(self, name: str, version: str, **texts: str) -> bytes:
        """A chart below ``charts/``; the index is made of what was added."""
        content = chart_archive(name, version, **texts)
        self.files[f"charts/{name}-{version}.tgz"] = content
        return content

    def index(self, *, digests: bool = True, absolute: bool = False, **replaced_urls: str) -> None:
        """Write index.yaml for all charts that were added."""
        lines = ["apiVersion: v1", "entries:"]
        names: dict[str, list[str]] = {}
        for path, content in self.files.items():
            name, _, version = path.removeprefix("charts/").removesuffix(".tgz").partition("-")
            place = replaced_urls.get(name, f"{self.url}/{path}" if absolute else path)
            entry = [f"  - name: {name}", f"    version: {version}", f"    urls: [{place}]"]
            if digests:
                entry.append(f"    digest: {hashlib.sha256(content).hexdigest()}")
            names.setdefault(name, []).extend(entry)
        for name, entries in names.items():
            lines += [f"  {name}:", *entries]
        self.files["index.yaml"] = "\n".join([*lines, ""]).encode()


def chart_archive(name: str, version: str, **texts: str) -> bytes:
    """The bytes of a chart, the same for the same arguments."""
    extra = "".join(f"{key}: {text}\n" for key, text in texts.items())
    chart = f"apiVersion: v2\nname: {name}\nversion: {version}\n{extra}"
    return tar_gz({f"{name}/Chart.yaml": chart, f"{name}/values.yaml": "image: {repository: quay.io/a/b, tag: v1}\n"})


def tar_gz(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


@asynccontextmanager
async def chart_repository() -> AsyncIterator[ChartRepository]:
    """A repository on loopback for as long as the block lasts."""
    repository = ChartRepository()

    async def answer(request: web.Request) -> web.StreamResponse:
        repository.requests.append(request.path)
        repository.logins.append(request.headers.get("Authorization"))
        if repository.login and not _is_allowed(repository.login, request):
            return web.Response(status=401, headers={"WWW-Authenticate": "Basic"})
        content = repository.files.get(request.match_info["path"])
        if content is None:
            return web.Response(status=404)
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304)
        if repository.cuts:
            repository.cuts -= 1
            return await _cut_off(request, content)
        headers = {"ETag": etag}
        if repository.packs and "gzip" in request.headers.get("Accept-Encoding", ""):
            content, headers["Content-Encoding"] = gzip.compress(content), "gzip"
        return web.Response(body=content, headers=headers)

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        repository.url = URL(f"http://127.0.0.1:{runner.addresses[0][1]}")
        yield repository
    finally:
        await runner.cleanup()


def _is_allowed(login: tuple[str, str], request: web.Request) -> bool:
    expected = base64.b64encode(":".join(login).encode()).decode()
    return request.headers.get("Authorization") == f"Basic {expected}"


async def _cut_off(request: web.Request, content: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(len(content))})
    await response.prepare(request)
    await response.write(content[: len(content) // 2])
    if request.transport is not None:
        request.transport.abort()
    return response
