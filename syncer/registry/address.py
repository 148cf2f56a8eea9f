"""The address of a registry: the text that a user writes, and the URL for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from yarl import URL

from syncer.errors import InvalidReference, UsageError
from syncer.oci import Reference
from syncer.oci.docker_hub import api_host, canonical_host
from syncer.transport.guard import Scope

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
        if not host or "://" in rest or "@" in host:
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


def api_url(host: str, *, plain_http: bool | None) -> URL:
    """The root of the registry's API, ``…/v2/``; unless told, loopback speaks plain HTTP and all others TLS."""
    name = api_host(host)
    if plain_http is None:
        plain_http = is_loopback(name)
    return URL(f"{'http' if plain_http else 'https'}://{name}/v2/")


def is_loopback(host: str) -> bool:
    """Tell whether ``host[:port]`` is written as a name or an address of this machine."""
    return Scope.of_host(URL(f"http://{host}").host or "") is Scope.LOOPBACK


def _without_login(text: str) -> str:
    return text.rpartition("@")[2]
