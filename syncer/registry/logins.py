"""Logins that a user gives for keeps: checked at the registry first, then stored where builds and pushes look.

They are kept in a file of the form of Docker's ``config.json``, or with the credential helper that the user has set
up for Docker (docs.docker.com, "docker login", "Credential helpers").
"""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import orjson

from syncer.errors import Denied, InvalidFile, TargetError
from syncer.files import lock, saving, write_whole
from syncer.oci.docker_hub import canonical_host, login_key
from syncer.registry.address import RegistryAddress
from syncer.registry.credentials import (
    HELPER_NAME,
    HELPER_SECONDS,
    AuthFile,
    Credential,
    pipe_with,
    place_of_key,
    read_auth_file,
)
from syncer.registry.problems import is_web_page, refusal
from syncer.registry.registries import Registries
from syncer.transport import Request


async def check_login(registries: Registries, address: RegistryAddress) -> bool:
    """Tell whether the registry at ``address`` asked for its login in ``registries``, and accepted it.

    False means that it lets everybody in, so that nothing is known.  Raises ``Denied`` for a wrong login.
    """
    registry = registries.registry(address.host, plain_http=address.plain_http)
    request = Request(method="GET", url=registry.base, authorizer=registry.auth.for_scopes(""))
    answer = await registries.transport.ask(request)
    if answer.status in (401, 403):
        raise refusal(answer, hint=f"check the user name and the password for {address.host}")
    if answer.status != 200 or is_web_page(answer):
        raise refusal(answer, hint=f"is {address.host} a registry?")
    if registry.auth.withholds_login:
        raise Denied(answer.request, 401, ["the login was not shown to the place that the registry names for tokens"])
    return registry.auth.is_asked_for


@dataclass(frozen=True, slots=True)
class KeptLogins:
    """The files of saved logins: ``file`` is syncer's own, ``docker`` the one that may name helpers."""

    file: Path
    docker: Path

    async def keep(self, host: str, credential: Credential) -> str:
        """Keep the login; where, in words.  Raises ``TargetError``, and ``InvalidFile`` for a file that is damaged."""
        if helper := self._helper(host):
            document = {"ServerURL": login_key(host), "Username": credential.username, "Secret": credential.password}
            await _run(helper, "store", orjson.dumps(document))
            self._forget_in_file(host)
            return f"by docker-credential-{helper}"
        text = f"{credential.username}:{credential.password}"
        with self._changed() as auths:
            _forget(auths, host)
            auths[login_key(host)] = {"auth": base64.b64encode(text.encode()).decode()}
        return f"in {self.file}"

    async def forget(self, host: str) -> bool:
        """Forget the login; whether there was one in syncer's own file, or a helper that may have had it."""
        helper = self._helper(host)
        if helper:
            await _run(helper, "erase", login_key(host).encode())
        return self._forget_in_file(host) or bool(helper)

    def _helper(self, host: str) -> str:
        helper = read_auth_file(AuthFile(self.docker)).helper(canonical_host(host))
        if helper and not HELPER_NAME.fullmatch(helper):
            raise InvalidFile(self.docker, f"{helper[:80]!r} is no name of a credential helper")
        return helper

    def _forget_in_file(self, host: str) -> bool:
        if not self.file.exists():
            return False
        with self._changed() as auths:
            return _forget(auths, host)

    @contextmanager
    def _changed(self) -> Iterator[dict[str, Any]]:
        """The logins in the file, written back at the end of the block; one process at a time changes them."""
        with saving(self.file):
            self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = lock(self.file.with_name(f".{self.file.name}.lock"))
            try:
                document = self._read()
                yield document.setdefault("auths", {})
                content = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
                write_whole(self.file, content, mode=0o600)
            finally:
                os.close(file)

    def _read(self) -> dict[str, Any]:
        try:
            document = orjson.loads(self.file.read_bytes())
        except FileNotFoundError:
            return {}
        except orjson.JSONDecodeError:
            document = None
        if not isinstance(document, dict) or not isinstance(document.get("auths", {}), dict):
            raise InvalidFile(self.file, "it holds no logins that were kept", hint="remove it, and log in anew")
        return document


async def _run(helper: str, action: str, document: bytes) -> None:
    """Run ``docker-credential-HELPER ACTION``; raises ``TargetError`` when it fails, without a word of what it said."""
    program = f"docker-credential-{helper}"
    try:
        with anyio.fail_after(HELPER_SECONDS), pipe_with(document) as question:
            result = await anyio.run_process([program, action], stdin=question, stderr=subprocess.DEVNULL, check=False)
    except FileNotFoundError:
        raise TargetError(f"{program} is not installed", hint="Docker's config.json names it; install it") from None
    except (OSError, TimeoutError):
        raise TargetError(f"{program} cannot be run, or did not answer") from None
    if result.returncode != 0:
        raise TargetError(f"{program} {action} failed with exit code {result.returncode}")


def _forget(auths: dict[str, Any], host: str) -> bool:
    """Take out every spelling of ``host``; whether there was one."""
    spellings = [key for key in auths if place_of_key(key) == canonical_host(host)]
    for key in spellings:
        del auths[key]
    return bool(spellings)
