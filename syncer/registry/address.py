"""The address of a registry: the text that a user writes, and the URL for it."""

from __future__ import annotations

import re
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from yarl import URL

from syncer.errors import InvalidReference, UsageError
from syncer.oci import Reference
from syncer.oci.docker_hub import api_host, canonical_host
from syncer.transport.guard import Scope
from syncer.transport.settings import HostSettings

_USUAL = HostSettings()
_TLS_RECORDS = (b"\x15", b"\x16")  # an alert, a handshake (RFC 8446 §5.1)
_SCHEME = re.compile(r"(https?)://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RegistryAddress:
    """A registry as given on a command line: ``[http://|https://]HOST[:PORT][/BASE]``.

    >>> RegistryAddress.parse("http://10.0.0.1:8000/images")
    RegistryAddress(host='10.0.0.1:8000', base='images', plain_http=True)
    """

    host: str  # as references write it
    base: str = ""  # where in the registry; no slash at either end
    plain_http: bool | None = None  # None: the scheme was not given

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text of a user; raises ``UsageError``, which says what is wrong."""
        found = _SCHEME.match(text)
        rest = text[found.end() :] if found else text
        host, _, base = rest.partition("/")
        base = base.strip("/")
        if not host or "://" in rest or "@" in rest:
            raise UsageError(
                f"{_without_login(text)!r} is not a registry", hint="write it like registry.example.com:5000/images"
            )
        host = canonical_host(host.lower())
        plain_http = found[1].lower() == "http" if found else None
        if found and not set(host) & set(".:") and host != "localhost":
            host = f"{host}:{80 if plain_http else 443}"  # or a reference would take it for a part of a repository
        try:
            parsed = Reference.parse(f"{host}/{base or 'images'}")
        except InvalidReference as error:
            raise UsageError(f"{text!r} is not a registry: {error.problem}") from None
        if parsed.registry != host or (parsed.tag, parsed.digest) != ("latest", None) or base.endswith(":latest"):
            raise UsageError(f"{text!r} is not a registry", hint="give its port too, or http:// or https:// before it")
        return cls(host, base, plain_http)

    def __str__(self) -> str:
        return f"{self.host}/{self.base}" if self.base else self.host


def api_url(host: str, *, plain_http: bool | None, settings: HostSettings = _USUAL) -> URL:
    """The root of the registry's API, ``…/v2/``; ``plain_http`` is what was written, or else ``settings`` say it.

    Unless told, loopback speaks plain HTTP and all others TLS.  A certificate in ``settings`` tells, and where none
    is to be verified loopback is asked.
    """
    name = api_host(host)
    if plain_http is None:
        plain_http = settings.plain_http
    if plain_http is None:
        wants_tls = settings.ca_cert is not None or settings.client_cert is not None
        plain_http = is_loopback(name) and not wants_tls and not (settings.insecure and speaks_tls(name))
    return URL(f"{'http' if plain_http else 'https'}://{name}/v2/")


def is_loopback(host: str) -> bool:
    """Tell whether ``host[:port]`` is written as a name or an address of this machine."""
    return Scope.of_host(URL(f"http://{host}").host or "") is Scope.LOOPBACK


def speaks_tls(host: str) -> bool:
    """Tell whether the server at ``host[:port]``, on this machine, answers TLS in TLS; True when it is silent.

    Blocks, for three seconds at most.
    """
    url = URL(f"https://{host}")
    outgoing = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    try:
        with socket.create_connection((url.host or "", url.port or 443), timeout=1) as connected:
            connected.sendall(outgoing.read())
            try:
                answer = connected.recv(1)
            except TimeoutError:  # a server of HTTP may wait for the end of a line
                connected.sendall(b"\r\n\r\n")
                answer = connected.recv(1)
    except TimeoutError:
        return True
    except OSError:
        return False
    return answer in _TLS_RECORDS


def _without_login(text: str) -> str:
    return text.rpartition("@")[2]
