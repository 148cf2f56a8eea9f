"""What a user may set about connections; built in ``cli``, read here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from syncer.transport.proxies import Proxies


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How hard syncer may lean on the network, and how long it waits for it.  Times are in seconds."""

    requests_per_host: int = 32  # a link of 40 ms needs that many (small blobs, one round trip each)
    connections: int = 256
    attempts: int = 6  # without progress
    backoff: float = 0.5  # before the second attempt at most; doubles from there
    longest_backoff: float = 30.0
    max_wait: float = 120.0  # what a Retry-After may ask for
    connect: float = 15.0
    idle: float = 60.0  # without a byte of an answer
    commit: float = 900.0  # without a byte of the answer to an upload: some registries copy the blob first
    slowest: int = 1024  # bytes a second; a body that moves less over the whole window is given up
    window: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """How one host is to be spoken to."""

    plain_http: bool | None = None  # None: for loopback only
    insecure: bool = False  # do not verify its certificate
    ca_cert: Path | None = None  # PEM, trusted beside the system's
    client_cert: Path | None = None
    client_key: Path | None = None
    concurrency: int | None = None  # requests at a time, where that is to be less than Limits.requests_per_host
    requests_per_second: float | None = None
    bytes_per_second: float | None = None  # of bodies, both ways together


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportSettings:
    """Everything the transport is told; hosts are written ``host[:port]``."""

    limits: Limits = field(default_factory=Limits)
    default: HostSettings = field(default_factory=HostSettings)
    hosts: Mapping[str, HostSettings] = field(default_factory=lambda: MappingProxyType({}))
    proxies: Proxies = field(default_factory=Proxies)
    certificates: tuple[Path, ...] = ()  # directories laid out like /etc/docker/certs.d
    user_agent: str = "syncer"

    def host(self, name: str) -> HostSettings:
        """What holds for the host ``name``."""
        return self.hosts.get(name, self.default)
