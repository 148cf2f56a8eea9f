"""Settings of the transport, built in ``cli``: limits, hosts, and proxies (``HTTPS_PROXY``, ``NO_PROXY``)."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Self

from msgspec import Struct, field, structs
from yarl import URL

from syncer.errors import UsageError
from syncer.files import PEM, show_certificate

IN_KERNEL = getattr(ssl, "OP_ENABLE_KTLS", 1 << 3) if ssl.OPENSSL_VERSION_INFO >= (3,) else 0
"""The option by which OpenSSL lets the kernel encrypt and decrypt, where both can; Python names it from 3.12 on."""


class Proxies(Struct, frozen=True):
    """The proxy for each scheme, and the hosts that are reached without one."""

    http: str | None = None
    https: str | None = None
    direct: tuple[str, ...] = ()

    def __repr__(self) -> str:  # a proxy's URL may hold a password
        return f"Proxies(direct={self.direct})"

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Read ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``; a name in lower case takes precedence.

        Raises ``UsageError`` for a proxy whose address is not ``http://`` or ``https://``.
        """

        def value(name: str) -> str | None:
            return environ.get(name.lower()) or environ.get(name) or None

        every = value("ALL_PROXY")
        direct = tuple(filter(None, (part.strip() for part in (value("NO_PROXY") or "").split(","))))
        return cls(_checked(value("HTTP_PROXY") or every), _checked(value("HTTPS_PROXY") or every), direct)

    def for_url(self, url: URL) -> URL | None:
        """The proxy for ``url``; None means a direct connection, which loopback always gets."""
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
    """Tell whether one part of ``NO_PROXY`` names ``host``: ``*``, a domain, an address or a network."""
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


class Limits(Struct, frozen=True, kw_only=True):
    """The limits of requests, retries and waiting that hold for all hosts.  Times are in seconds."""

    requests_per_host: int | None = None  # at a time; None: as many as its answers show to be of use
    attempts: int = 6  # without progress
    backoff: float = 0.5  # before the second attempt at most; doubles from there
    longest_backoff: float = 30.0
    max_wait: float = 120.0  # what a Retry-After may ask for
    connect: float = 15.0
    outage: float = 120.0  # for which a host that has answered may be away
    idle: float = 60.0  # for the head of an answer, and without a byte of its body
    stall: float = 300.0  # as idle, for a blob: caches and virus scanners hold its first or last bytes back
    commit: float = 900.0  # for the head of the answer to an upload: some registries copy the blob first
    ranges: int = 16  # connections by which one large blob may come; 1: one stream
    slowest: int = 1024  # bytes a second; a body that moves less over the whole window is given up
    window: float = 60.0  # at least as long as a byte of the body is waited for


class Ceiling(Struct, frozen=True, kw_only=True):
    """The requests a second that a host is known to take, where its operator says so; None is no limit."""

    requests: float | None = None  # of all kinds
    writes: float | None = None  # of these, those that write
    manifests: float | None = None  # of these, those that write a manifest

    def each(self) -> Iterator[tuple[str, float]]:
        """The limits that there are, by their names."""
        for name in self.__struct_fields__:
            if (limit := getattr(self, name)) is not None:
                yield name, limit


class HostSettings(Struct, frozen=True, kw_only=True):
    """The settings for one host: its protocol, certificates and limits."""

    plain_http: bool | None = None  # None: for loopback only
    insecure: bool = False  # do not verify its certificate
    is_usual: bool = False  # certificates are those of every run, and say nothing of a host on loopback
    ca_cert: Path | None = None  # PEM, trusted beside the system's
    client_cert: Path | None = None
    client_key: Path | None = None
    concurrency: int | None = None  # requests at a time, where that is not to be found out, or fewer than for all hosts
    requests_per_second: float | None = None
    bytes_per_second: float | None = None  # of bodies, both ways together
    group: str | None = None  # of hosts that share a limit; see TransportSettings


def _no_ceiling(_: str) -> None:
    """Know of no limit that the operator of a host documents."""


class TransportSettings(Struct, frozen=True, kw_only=True):
    """All settings of the transport; hosts are written ``host[:port]``."""

    limits: Limits = field(default_factory=Limits)
    default: HostSettings = field(default_factory=HostSettings)
    hosts: Mapping[str, HostSettings] = field(default_factory=dict)
    proxies: Proxies = field(default_factory=Proxies)
    bytes_per_second: float | None = None  # of the bodies of all hosts together
    groups: Mapping[str, float] = field(default_factory=dict)  # bytes a second of each group
    certificates: tuple[Path, ...] = ()  # directories laid out like /etc/docker/certs.d
    user_agent: str = "syncer"
    ceiling_of: Callable[[str], Ceiling | None] = _no_ceiling  # of a host whose settings do not say how many requests
    one_first: bool = (
        False  # until a host has answered well, one request goes to it at a time, whose failure is its end
    )

    def host(self, name: str) -> HostSettings:
        """The settings for the host ``name``."""
        return self.hosts.get(name, self.default)


def with_certificates(settings: HostSettings, directories: Iterable[Path], host: str) -> HostSettings:
    """``settings`` with the files in ``DIRECTORY/HOST/``: ``*.crt`` is trusted, ``*.cert`` with its ``*.key`` is shown.

    The layout is that of ``/etc/docker/certs.d`` (containers-certs.d(5)).  Settings of the user take precedence.
    """
    for directory in directories:
        files = sorted((directory / host).glob("*")) if (directory / host).is_dir() else []
        for file in files:
            if file.suffix == ".crt" and settings.ca_cert is None:
                settings = structs.replace(settings, ca_cert=file)
            elif file.suffix == ".cert" and settings.client_cert is None:
                settings = structs.replace(settings, client_cert=file, client_key=file.with_suffix(".key"))
    return settings


def tls_context(settings: HostSettings) -> ssl.SSLContext:
    """TLS 1.2 or later with the system's trust (and ``SSL_CERT_FILE``) plus the host's own CA.

    Raises ``UsageError`` for a certificate or key that cannot be used.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= IN_KERNEL
    if settings.ca_cert:
        _trust(context, settings.ca_cert)
    if settings.client_cert:
        show_certificate(context, settings.client_cert, settings.client_key)
    if settings.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _trust(context: ssl.SSLContext, authority: Path) -> None:
    told = f"the certificate authority {authority}"
    try:
        context.load_verify_locations(authority)
    except FileNotFoundError:
        raise UsageError(f"{told} is not there") from None
    except ssl.SSLError:
        raise UsageError(f"{told} cannot be used: it holds no sound certificate", hint=PEM) from None
    except OSError as error:
        raise UsageError(f"{told} cannot be used: {error.strerror or error}", hint=PEM) from None
