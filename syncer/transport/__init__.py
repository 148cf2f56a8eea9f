"""HTTP with manners: connections, limits, retries, pauses, redirects, redaction."""

from syncer.transport.message import Answer, Authorizer, Body, Challenged, Request, Sink
from syncer.transport.proxies import Proxies
from syncer.transport.retry import PROGRESS, Budget
from syncer.transport.settings import HostSettings, Limits, TransportSettings
from syncer.transport.traffic import Traffic
from syncer.transport.transport import AnyResponse, Transport, open_transport

__all__ = [
    "PROGRESS",
    "Answer",
    "AnyResponse",
    "Authorizer",
    "Body",
    "Budget",
    "Challenged",
    "HostSettings",
    "Limits",
    "Proxies",
    "Request",
    "Sink",
    "Traffic",
    "Transport",
    "TransportSettings",
    "open_transport",
]
