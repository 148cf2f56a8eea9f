"""HTTP with manners: connections, limits, retries, pauses, redirects, redaction."""

from syncer.transport.message import Answer, Authorizer, Body, Challenged, FileBody, Request, Sink
from syncer.transport.proxies import Proxies
from syncer.transport.response import Response
from syncer.transport.retry import PROGRESS, Budget
from syncer.transport.settings import HostSettings, Limits, TransportSettings
from syncer.transport.traffic import Traffic
from syncer.transport.transport import Transport, open_transport

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
    "open_transport",
]
