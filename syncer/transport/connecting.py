"""Where a host is: its addresses, and a socket to the first of them that answers and that we may go to."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import anyio
from yarl import URL

from syncer.transport.failures import OutOfReach, no_connection
from syncer.transport.guard import Address, Scope, authority

Found: TypeAlias = tuple[int, int, int, str, tuple[Any, ...]]
"""An address as ``getaddrinfo`` gives it."""

_KEPT = 60.0  # seconds


class Addresses:
    """The addresses of hosts, looked up once a minute."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int | None], tuple[float, Sequence[Found]]] = {}

    async def of(self, url: URL) -> Sequence[Found]:
        """Every address of the host in ``url``; raises ``Unreachable``."""
        key = url.raw_host or "", url.port
        until, found = self._known.get(key, (0.0, ()))
        if until < time.monotonic():
            try:
                found = await anyio.getaddrinfo(key[0], key[1], type=socket.SOCK_STREAM)
            except OSError as error:
                raise no_connection(error, authority(url)) from None
            self._known[key] = time.monotonic() + _KEPT, found
        return found


def within_reach(found: Sequence[Found], reach: Scope | None) -> Sequence[Found]:
    """The addresses that are no nearer than ``reach``; raises ``OutOfReach`` when all are.

    What counts is the address that is connected to, which no name gets around.
    """
    allowed = [address for address in found if reach is None or scope_of(str(address[4][0])) <= reach]
    if found and not allowed:
        raise OutOfReach
    return allowed


def scope_of(address: str) -> Scope:
    return Scope.of(_parsed(address))


@lru_cache(maxsize=1024)
def _parsed(address: str) -> Address:
    return ipaddress.ip_address(address.partition("%")[0])
