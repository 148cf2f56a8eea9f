"""Connections to a host: its addresses, a socket to the first that answers and that we may go to, and TLS."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import anyio
from yarl import URL

from syncer.errors import UsageError
from syncer.transport.failures import OutOfReach, no_connection
from syncer.transport.guard import Address, Scope, authority
from syncer.transport.settings import HostSettings

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


def tls_context(settings: HostSettings) -> ssl.SSLContext:
    """TLS 1.2 or later with the system's trust (and ``SSL_CERT_FILE``) plus the host's own CA.

    Raises ``UsageError`` for a certificate or key that cannot be used.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.ca_cert:
        _load(settings.ca_cert, "certificate authority", lambda: context.load_verify_locations(settings.ca_cert))
    if settings.client_cert:
        certificate, key = settings.client_cert, settings.client_key
        _load(certificate, "client certificate", lambda: context.load_cert_chain(certificate, key))
    if settings.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def with_certificates(settings: HostSettings, directories: Iterable[Path], host: str) -> HostSettings:
    """``settings`` and what ``DIRECTORY/HOST/`` holds: ``*.crt`` is trusted, ``*.cert`` with its ``*.key`` is shown.

    The layout is that of ``/etc/docker/certs.d`` (containers-certs.d(5)).  What a user set by hand wins.
    """
    for directory in directories:
        files = sorted((directory / host).glob("*")) if (directory / host).is_dir() else []
        for file in files:
            if file.suffix == ".crt" and settings.ca_cert is None:
                settings = replace(settings, ca_cert=file)
            elif file.suffix == ".cert" and settings.client_cert is None:
                settings = replace(settings, client_cert=file, client_key=file.with_suffix(".key"))
    return settings


def _load(path: Path, what: str, load: object) -> None:
    assert callable(load)
    try:
        load()
    except FileNotFoundError:
        raise UsageError(f"the {what} {path} (or its key) is not there") from None
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"the {what} {path} cannot be used: {error}", hint="it must be a PEM file") from None
