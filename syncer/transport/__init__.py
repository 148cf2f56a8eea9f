"""The HTTP client: connections, limits, retries, pauses of hosts, redirects, and URLs without their secrets."""

from syncer.transport.client import PROGRESS, Transport, open_transport
from syncer.transport.failures import Budget, Wait, WaitKind
from syncer.transport.hosts import Traffic
from syncer.transport.message import Answer, Authorizer, Body, Challenged, FileBody, Request, Response, Sink
from syncer.transport.settings import HostSettings, Limits, Proxies, TransportSettings

__all__ = [
    "PROGRESS",
    "Answer",
    "Authorizer",
    "Body",
    "Budget",
    "Challenged",
    "FileBody",
    "HostSettings",
    "Limits",
    "Proxies",
    "Request",
    "Response",
    "Sink",
    "Traffic",
    "Transport",
    "TransportSettings",
    "Wait",
    "WaitKind",
    "open_transport",
]
