"""Requests to chart repositories: logins, errors, and downloads of archives to the disk."""

from __future__ import annotations

import base64
import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO

from yarl import URL

from syncer.errors import Denied, Interrupted, InvalidContent, NotFound, RegistryError, TargetError
from syncer.oci import Digest
from syncer.profiles.palette.edge_credentials import Login
from syncer.transport import Authorizer, Request, Response, Transport
from syncer.transport.guard import without_secrets
from syncer.transport.message import Challenged

MAX_ARCHIVE = 1024 * 1024 * 1024
"""Bytes of one chart or file; charts have some hundred KiB, installers some hundred MiB."""

_NOT_MODIFIED = 304
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class BasicLogin:
    """An authorizer that sends its login with the first request, as Helm does: many repositories never ask for one."""

    login: Login = field(repr=False)

    async def authorization(self) -> str | None:
        text = f"{self.login.username}:{self.login.password}"
        return f"Basic {base64.b64encode(text.encode()).decode()}"

    async def challenged(self, answer: Challenged) -> bool:  # noqa: ARG002 - there is nothing else to say
        return False

    def elsewhere(self, url: URL) -> None:  # noqa: ARG002 - nobody gives out tokens for charts
        return None


@dataclass(frozen=True, slots=True)
class Download:
    """A file that was downloaded whole; the caller removes ``path``."""

    path: Path
    digest: Digest
    size: int  # bytes
    headers: Mapping[str, str] = field(repr=False)  # of the answer


async def fetch(transport: Transport, url: URL, directory: Path, *, authorizer: Authorizer | None = None) -> Download:
    """Download the archive at ``url``, of ``MAX_ARCHIVE`` bytes at most; see ``fetch_changed``."""
    found = await fetch_changed(transport, url, directory, authorizer=authorizer, limit=MAX_ARCHIVE)
    if found is None:
        raise _refusal(url, _NOT_MODIFIED)
    return found


async def fetch_changed(
    transport: Transport,
    url: URL,
    directory: Path,
    *,
    headers: Mapping[str, str] = _NO_HEADERS,
    authorizer: Authorizer | None = None,
    limit: int,
) -> Download | None:
    """Download ``url`` into a new file in ``directory``; a download that is cut off begins again.

    None when the server says that the content is what ``headers`` say that we have.  Raises ``Denied``, ``NotFound``
    or another ``RegistryError``, a ``NetworkError``, ``InvalidContent`` for more than ``limit`` bytes, and
    ``TargetError`` when the disk is full.
    """
    budget = transport.budget()
    request = Request(method="GET", url=url, headers=headers, authorizer=authorizer)
    while True:
        try:
            async with transport.open(request, budget=budget) as response:
                if response.status == _NOT_MODIFIED and headers:
                    return None
                if response.status >= 300:
                    raise _refusal(url, response.status)
                return await _save(response, directory, limit)
        except Interrupted:
            if budget.is_spent:
                raise
            await budget.sleep()
        except OSError as error:
            raise TargetError(f"{directory} cannot be written: {error.strerror or error}") from None


async def _save(response: Response, directory: Path, limit: int) -> Download:
    hasher, size = hashlib.sha256(), 0
    with new_file(directory, "fetching-") as file:
        while piece := await response.piece():
            size += len(piece)
            if size > limit:
                raise InvalidContent(f"{without_secrets(response.request.url)} is larger than {limit} bytes")
            hasher.update(piece)
            file.write(piece)
    return Download(Path(file.name), Digest("sha256", hasher.hexdigest()), size, response.headers)


@contextmanager
def new_file(directory: Path, prefix: str) -> Iterator[IO[bytes]]:
    """Open a new file with a unique name that begins with ``prefix``, which is removed when the block fails."""
    with tempfile.NamedTemporaryFile(dir=directory, prefix=prefix, delete=False) as file:
        try:
            yield file
        except BaseException:
            Path(file.name).unlink()
            raise


def _refusal(url: URL, status: int) -> RegistryError:
    request = f"GET {without_secrets(url)}"
    if status in (401, 403):
        return Denied(request, status, hint="give a login for this host with --cred-file-path or syncer registry-login")
    if status in (404, 410):
        return NotFound(request, status)
    return RegistryError(request, status)
