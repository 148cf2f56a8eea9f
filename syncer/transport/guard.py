"""Checks of URLs and addresses that servers send, and texts of servers made safe to be shown.

A registry on the internet must not make syncer connect to the machine or the network that it runs in
(CVE-2020-15157 and many after it).  The address of a connection is checked, and not the name in a URL,
which can resolve to any address.
"""

from __future__ import annotations

import ipaddress
import socket
from enum import IntEnum
from functools import lru_cache
from typing import TypeAlias

from yarl import URL

from syncer.errors import Unsafe, printable

SHOWN = 1024
"""The number of characters of a server's text that are shown at most."""


def without_secrets(url: URL) -> str:
    """``url`` without user, password and query: signatures and upload states travel in queries."""
    query = "?…" if url.raw_query_string else ""
    port = f":{url.explicit_port}" if url.explicit_port else ""
    host = url.raw_host or ""
    host = f"[{host}]" if ":" in host else host
    return f"{url.scheme}://{host}{port}{url.raw_path}{query}"


def readable(text: str) -> str:
    """``text`` on one line, without control characters (terminal escapes among them), cut to ``SHOWN``."""
    clean = " ".join(printable(text[: 4 * SHOWN]).split())
    return clean if len(clean) <= SHOWN else clean[: SHOWN - 1] + "…"


Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Scope(IntEnum):
    """The kinds of address, from far to near.  A server may send syncer to addresses at most as near as its own."""

    PUBLIC = 0
    PRIVATE = 1
    LOOPBACK = 2
    NEVER = 3  # link-local (cloud metadata), multicast, unspecified

    @classmethod
    def of(cls, address: Address) -> Scope:
        """The scope of ``address``, or of the IPv4 address that it contains."""
        if isinstance(address, ipaddress.IPv6Address):
            if address in _NAT64:
                return cls.of(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
            inner = address.ipv4_mapped or address.sixtofour
            if inner is not None:
                return cls.of(inner)
        if address.is_loopback:
            return cls.LOOPBACK
        if address.is_link_local or address.is_multicast or address.is_unspecified:
            return cls.NEVER
        return cls.PUBLIC if address.is_global else cls.PRIVATE

    @classmethod
    def of_host(cls, host: str) -> Scope | None:
        """The scope of a host that is written as an address; None for a name, which must be looked up."""
        if host == "localhost" or host.endswith(".localhost"):
            return cls.LOOPBACK
        try:
            return scope_of(host)
        except ValueError:
            pass
        try:  # 127.1 and 0x7f000001 are addresses to the resolver, though not to ipaddress
            return cls.of(ipaddress.IPv4Address(socket.inet_aton(host)))
        except (OSError, UnicodeEncodeError):
            return None


def scope_of(address: str) -> Scope:
    """The scope of an address; raises ``ValueError`` for what is none."""
    return Scope.of(_parsed(address))


@lru_cache(maxsize=1024)
def _parsed(address: str) -> Address:
    return ipaddress.ip_address(address.partition("%")[0])


def origin(url: URL) -> tuple[str, str | None, int | None]:
    """Scheme, host and port; ``https://host`` and ``https://host:443`` are one origin."""
    return url.scheme, url.host, url.port


def authority(url: URL) -> str:
    """``host[:port]`` as a person writes it: without the scheme's usual port."""
    return _authority(url.scheme, url.raw_authority)


@lru_cache(maxsize=1024)
def _authority(scheme: str, raw: str) -> str:
    url = URL(f"{scheme}://{raw}", encoded=True)
    host = url.host or ""
    host = f"[{host}]" if ":" in host else host
    return host if url.is_default_port() or url.port is None else f"{host}:{url.port}"


def upgraded(start: URL, target: URL) -> URL:
    """``target`` by https where an https host, at the origin of ``start``, names itself with http.

    A registry behind a TLS proxy that it knows nothing of does so (distribution/distribution#2225).
    """
    if (start.scheme, target.scheme) != ("https", "http") or target.host != start.host:
        return target
    if target.explicit_port not in (None, 80, start.port):
        return target
    return URL(f"{start.origin()}{target.relative()}", encoded=True)


def check_hop(start: URL, target: URL, reach: Scope | None, what: str) -> None:
    """Raise ``Unsafe`` unless ``start`` may send syncer to ``target``.

    ``reach`` is the nearest scope that is allowed, None for any; ``what`` names the cause in a message, such as
    "a redirect".  A host name passes here, since its addresses are checked when the connection is made.
    """

    def refuse(problem: str) -> Unsafe:
        return Unsafe(f"{what} from {authority(start)} leads to {without_secrets(target)}, {problem}")

    if target.scheme not in ("http", "https") or not target.host:
        raise refuse("which is no HTTP address")
    if target.raw_user is not None or target.raw_password is not None:
        raise refuse("which holds a user name or password")
    if start.scheme == "https" and target.scheme == "http":
        raise refuse("from an encrypted connection to one that is not")
    scope = Scope.of_host(target.host)
    if reach is not None and scope is not None and scope > reach and origin(start) != origin(target):
        raise refuse(f"a {scope.name.lower().replace('never', 'link-local')} address")
