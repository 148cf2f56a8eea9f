"""Logins: those that were given, those that Docker's and Podman's files or credential helpers keep, and those that are
saved for later runs.

Nothing of it is ever shown: the values are left out of ``repr``, and errors name files and hosts only.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import orjson
from msgspec import Struct, field

from syncer.errors import InvalidFile, TargetError
from syncer.files import lock, saving, write_whole
from syncer.oci.docker_hub import canonical_host, login_key, login_place
from syncer.transport.guard import readable

_HELPER_NAME = re.compile(r"[A-Za-z0-9._-]+")
_HELPER_SECONDS = 30
_IDENTITY_TOKEN = "<token>"  # noqa: S105  (what a helper gives as the name, to say that the secret is a token)


class Credential(Struct, frozen=True):
    """One login for a registry; an identity token must be exchanged, a registry token is used as it is."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def __repr__(self) -> str:
        return "Credential()"

    @property
    def basic(self) -> str:
        """The value of ``Authorization`` for Basic."""
        text = f"{self.username}:{self.password or self.identity_token}"
        return f"Basic {base64.b64encode(text.encode()).decode()}"

    @property
    def secrets(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.password, self.identity_token, self.registry_token)))


class AuthFile(Struct, frozen=True):
    """A file of logins; one that a user named must be there."""

    path: Path
    is_required: bool = False


class CredentialSettings(Struct, frozen=True, kw_only=True):
    """The sources of logins: those given for one registry, or one path in it, and then the files in order.

    Hosts are written ``host[:port]``, as in references; a path may follow.
    """

    logins: Mapping[str, Credential] = field(default_factory=dict)
    helpers: Mapping[str, str] = field(default_factory=dict)  # docker-credential-<name>
    files: tuple[AuthFile, ...] = ()


def default_auth_files(environ: Mapping[str, str]) -> tuple[AuthFile, ...]:
    """The files that Podman and Docker read, in their order (containers-auth.json(5))."""
    files = []
    home = Path(environ.get("HOME") or os.path.expanduser("~"))  # noqa: PTH111  pathlib raises for a user without one
    if named := environ.get("REGISTRY_AUTH_FILE"):
        files.append(AuthFile(Path(named), is_required=True))
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        files.append(AuthFile(Path(runtime, "containers/auth.json")))
    files.append(AuthFile(Path(environ.get("XDG_CONFIG_HOME") or home / ".config", "containers/auth.json")))
    files.append(AuthFile(Path(environ.get("DOCKER_CONFIG") or home / ".docker", "config.json")))
    return tuple(files)


class Credentials:
    """Looks logins up, each file and each helper once."""

    def __init__(self, settings: CredentialSettings) -> None:
        self._logins = {login_place(place): login for place, login in settings.logins.items()}
        self._helpers = {canonical_host(host): helper for host, helper in settings.helpers.items()}
        self._given_files = settings.files
        self._files: dict[Path, Logins] = {}
        self._helped: dict[tuple[str, str], Credential | None] = {}
        self._lock = anyio.Lock()
        self.notes: dict[str, str] = {}  # by host: why a login may be missing

    async def find(self, host: str, repository: str = "") -> Credential | None:
        """The login for ``repository`` at ``host``; None means that we go there as nobody.

        Raises ``InvalidFile`` for a file that cannot be read.
        """
        host = canonical_host(host)
        if given := next(filter(None, map(self._logins.get, _narrowing(f"{host}/{repository}"))), None):
            return given
        async with self._lock:
            if named := self._helpers.get(host):
                return await self._ask_helper(named, host)
            for file in self._given_files:
                logins = self._load(file)
                helper = logins.helper(host)
                found = await self._ask_helper(helper, host) if helper else None
                if found or (found := logins.find(host, repository)):
                    return found
        return None

    def _load(self, file: AuthFile) -> Logins:
        logins = self._files.get(file.path)
        if logins is None:
            logins = self._files[file.path] = _read_auth_file(file)
        return logins

    async def _ask_helper(self, helper: str, host: str) -> Credential | None:
        key = helper, host
        if key not in self._helped:
            self._helped[key] = await self._run(helper, host)
        return self._helped[key]

    async def _run(self, helper: str, host: str) -> Credential | None:
        """Run ``docker-credential-HELPER get``; its failure is a note, since the registry may want no login."""
        program = f"docker-credential-{helper}"
        if not _HELPER_NAME.fullmatch(helper):
            self.notes[host] = f"{readable(program)!r} is no name of a credential helper"
            return None
        try:
            with anyio.fail_after(_HELPER_SECONDS), _pipe_with(login_key(host).encode()) as question:
                result = await anyio.run_process(
                    [program, "get"], stdin=question, stderr=subprocess.DEVNULL, check=False
                )
        except FileNotFoundError:
            self.notes[host] = f"{program} is not installed"
            return None
        except TimeoutError:
            self.notes[host] = f"{program} did not answer within {_HELPER_SECONDS} s"
            return None
        except OSError as error:
            self.notes[host] = f"{program} cannot be run: {error.strerror}"
            return None
        if result.returncode != 0:
            if b"credentials not found" not in result.stdout.lower():
                self.notes[host] = f"{program} failed with exit code {result.returncode}"
            return None
        return self._parsed(program, host, result.stdout)

    def _parsed(self, program: str, host: str, output: bytes) -> Credential | None:
        try:
            document = orjson.loads(output)
        except orjson.JSONDecodeError:
            document = None
        if not isinstance(document, dict):
            self.notes[host] = f"{program} answers something that is not JSON"
            return None
        username, secret = document.get("Username"), document.get("Secret")
        if not isinstance(username, str) or not isinstance(secret, str) or not secret:
            return None
        return Credential(identity_token=secret) if username == _IDENTITY_TOKEN else Credential(username, secret)


@contextmanager
def _pipe_with(content: bytes) -> Iterator[int]:
    """A pipe to read ``content`` from, which is short; a helper may end without having read it."""
    reading, writing = os.pipe()
    try:
        os.write(writing, content)
        os.close(writing)
        yield reading
    finally:
        os.close(reading)


class Logins(Struct, frozen=True):
    """One file's content: logins by host or host/path, and the helpers to ask."""

    auths: Mapping[str, Credential] = field(default_factory=dict)
    helpers: Mapping[str, str] = field(default_factory=dict)
    store: str = ""

    def helper(self, host: str) -> str:
        return self.helpers.get(host, self.store)

    def find(self, host: str, repository: str) -> Credential | None:
        """The login under the longest key that ``host/repository`` lies under."""
        return next(filter(None, map(self.auths.get, _narrowing(f"{host}/{repository}"))), None)


def _narrowing(path: str) -> Iterator[str]:
    path = path.rstrip("/")
    while path:
        yield path
        path = path.rpartition("/")[0]


def _read_auth_file(file: AuthFile) -> Logins:
    try:
        content = file.path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if file.is_required:
            raise InvalidFile(file.path, "there is no such file of logins") from None
        return Logins()
    except OSError as error:
        if not file.is_required and not os.access(file.path.parent, os.X_OK):
            return Logins()  # somebody else's home, as in a container whose user is not the image's
        raise InvalidFile(file.path, f"the file of logins cannot be read: {error.strerror}") from None
    try:
        document = orjson.loads(content or b"{}")
    except orjson.JSONDecodeError as error:
        raise InvalidFile(file.path, "the file of logins is not JSON", line=error.lineno) from None
    if not isinstance(document, dict):
        raise InvalidFile(file.path, "the file of logins must be a JSON object")
    auths: dict[str, Credential] = {}
    for key, entry in sorted(_object(document, "auths").items(), key=_weight):
        if login := _login(entry):
            auths[_place_of_key(key)] = login
    named = sorted(_object(document, "credHelpers").items(), key=_weight)
    helpers = {_place_of_key(key): str(helper) for key, helper in named if helper}
    store = document.get("credsStore")
    return Logins(auths, helpers, store if isinstance(store, str) else "")


def _object(document: dict[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _weight(item: tuple[str, Any]) -> tuple[bool, bool]:
    """Of several spellings of one place the last one counts: its own name, then one without a scheme."""
    key = item[0]
    return key == _place_of_key(key), "://" not in key


def _place_of_key(key: str) -> str:
    """``https://host/v1/`` as ``host``: the place, as references write it, whose login a file keeps as ``key``."""
    bare = re.sub(r"^https?://", "", key)
    bare = bare.rstrip("/")
    if bare != key.rstrip("/") or bare.endswith(("/v1", "/v2")):
        bare = re.sub(r"/v[12]$", "", bare)
    return login_place(bare)


def _login(entry: Any) -> Credential | None:
    if not isinstance(entry, dict):
        return None

    def text(key: str) -> str:
        value = entry.get(key)
        return value if isinstance(value, str) else ""

    username, password = text("username"), text("password")
    try:
        decoded = base64.b64decode(text("auth"), validate=False).decode()
    except (binascii.Error, ValueError):
        decoded = ""
    if ":" in decoded:
        username, _, password = decoded.partition(":")
    password = password.rstrip("\0")
    credential = Credential(username, password, text("identitytoken"), text("registrytoken"))
    return credential if credential.secrets else None


class KeptLogins(Struct, frozen=True):
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
        helper = _read_auth_file(AuthFile(self.docker)).helper(canonical_host(host))
        if helper and not _HELPER_NAME.fullmatch(helper):
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
        with anyio.fail_after(_HELPER_SECONDS), _pipe_with(document) as question:
            result = await anyio.run_process([program, action], stdin=question, stderr=subprocess.DEVNULL, check=False)
    except FileNotFoundError:
        raise TargetError(f"{program} is not installed", hint="Docker's config.json names it; install it") from None
    except (OSError, TimeoutError):
        raise TargetError(f"{program} cannot be run, or did not answer") from None
    if result.returncode != 0:
        raise TargetError(f"{program} {action} failed with exit code {result.returncode}")


def _forget(auths: dict[str, Any], host: str) -> bool:
    """Take out every spelling of ``host``; whether there was one."""
    spellings = [key for key in auths if _place_of_key(key) == canonical_host(host)]
    for key in spellings:
        del auths[key]
    return bool(spellings)
