"""What aiohttp and the operating system say of a failure, as one of our own errors."""

from __future__ import annotations

import socket

import aiohttp

from syncer.errors import Interrupted, NetworkError, Unreachable, Unsafe
from syncer.transport.guard import authority
from syncer.transport.message import Request


class CertificateRefused(Unreachable):
    """TLS failed: another attempt would fail as well."""


class NameUnknown(Unreachable):
    """The name does not exist, as far as its name server says."""


class OutOfReach(OSError):
    """A name resolved to an address that is nearer than a server may send us to."""


_NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


def failure_of(error: Exception, request: Request) -> NetworkError:
    """What ``error`` means for ``request``: an ``Unreachable`` when nothing of it was sent."""
    host = authority(request.url)
    if isinstance(error, aiohttp.ClientConnectorError):
        return _no_connection(error, host)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return Unreachable(f"the proxy will not connect us to {host}: {error.status} {error.message}")
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return Unreachable(f"{host} does not answer: the connection timed out")
    if "CERTIFICATE_REQUIRED" in str(error) or "BAD_CERTIFICATE" in str(error):  # TLS 1.3 says so after its handshake
        return CertificateRefused(
            f"{host} refuses our TLS certificate, or the lack of one", hint="give it one with --tls-cert and --tls-key"
        )
    return Interrupted(f"{request}: {_what_broke(error)}")


def _what_broke(error: Exception) -> str:
    match error:
        case TimeoutError():
            return "no answer came in time"
        case aiohttp.ClientResponseError():
            return "the answer is not HTTP"
        case aiohttp.ClientPayloadError():
            return "the answer was cut off"
        case _:
            return "the connection broke"


def _no_connection(error: aiohttp.ClientConnectorError, host: str) -> NetworkError:
    cause = error.os_error
    if isinstance(cause, OutOfReach):
        return Unsafe(f"a server sends us to {host}, which is in a network that it must not send us to")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = getattr(error.certificate_error, "verify_message", None) or error.certificate_error
        return CertificateRefused(
            f"the TLS certificate of {host} cannot be trusted: {reason}",
            hint="give its authority with --ca-cert, or accept any certificate with --insecure",
        )
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return CertificateRefused(
            f"{host} cannot be spoken to by TLS: {getattr(cause, 'reason', None) or cause}",
            hint="if it speaks plain HTTP, say so with http:// or --plain-http",
        )
    if isinstance(cause, socket.gaierror):
        if cause.errno in _NO_SUCH_NAME:
            return NameUnknown(f"there is no host {host}")
        return Unreachable(f"the name of {host} cannot be looked up: {cause.strerror}")
    via = "the proxy for " if isinstance(error, aiohttp.ClientProxyConnectionError) else ""
    return Unreachable(f"{via}{host} cannot be reached: {cause.strerror or cause}")
