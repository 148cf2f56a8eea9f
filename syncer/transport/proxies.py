"""Which proxy a request goes through: the rules behind ``HTTPS_PROXY`` and ``NO_PROXY``."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from yarl import URL

from syncer.errors import UsageError


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxy for each scheme, and the hosts that are reached without one."""

    http: str | None = field(default=None, repr=False)  # a proxy's URL may hold a password
    https: str | None = field(default=None, repr=False)
    direct: tuple[str, ...] = ()

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """What ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` say, lower case first.

        Raises ``UsageError`` for a proxy that is not reached by HTTP.
        """

        def value(name: str) -> str | None:
            return environ.get(name.lower()) or environ.get(name) or None

        every = value("ALL_PROXY")
        direct = tuple(filter(None, (part.strip() for part in (value("NO_PROXY") or "").split(","))))
        return cls(_checked(value("HTTP_PROXY") or every), _checked(value("HTTPS_PROXY") or every), direct)

    def for_url(self, url: URL) -> URL | None:
        """The proxy for ``url``; None means a connection of our own.  Loopback never goes through one."""
        proxy = self.https if url.scheme == "https" else self.http
        host = url.host
        if proxy is None or host is None or _is_loopback(host) or self._is_direct(host, url.port):
            return None
        return URL(proxy)

    def _is_direct(self, host: str, port: int | None) -> bool:
        return any(_covers(rule, host.lower(), port) for rule in self.direct)


def _checked(proxy: str | None) -> str | None:
    if proxy is None:
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    try:
        url = URL(proxy)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise UsageError("the proxy in the environment is no http:// or https:// address")
    return proxy


def _covers(rule: str, host: str, port: int | None) -> bool:
    """Whether one part of ``NO_PROXY`` names ``host``: ``*``, a domain, an address or a network."""
    if rule == "*":
        return True
    try:
        network = ipaddress.ip_network(rule, strict=False)
    except ValueError:
        pass
    else:
        try:
            return ipaddress.ip_address(host) in network
        except ValueError:
            return False
    name, colon, wanted_port = rule.lower().rpartition(":")
    if colon and wanted_port.isdigit():
        if port != int(wanted_port):
            return False
    else:
        name = rule.lower()
    name = name.strip("[]").removeprefix("*").removeprefix(".")
    return host == name or host.endswith(f".{name}")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
