"""What the operating system says of a failure, as one of our own errors."""

from __future__ import annotations

import os
import socket
import ssl

from syncer.errors import Interrupted, NetworkError, OutOfFiles, Unreachable, Unsafe, is_out_of_files
from syncer.transport.guard import authority
from syncer.transport.http1 import CutOff, NotHTTP
from syncer.transport.request import Request


class CertificateRefused(Unreachable):
    """TLS failed: another attempt would fail as well."""


class NameUnknown(Unreachable):
    """The name does not exist, as far as its name server says."""


class Unanswered(Interrupted):
    """The other end took the connection, and then said nothing for as long as we wait."""


class OutOfReach(OSError):
    """A name resolved to an address that is nearer than a server may send us to."""


BROKEN = (OSError, CutOff, NotHTTP)
"""What ends an exchange of our own connections; ``TimeoutError`` is an ``OSError``."""

_NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


def no_connection(cause: OSError, host: str, via: str = "") -> NetworkError:  # noqa: PLR0911  (one for each cause)
    """Why no connection to ``host`` could be made."""
    if is_out_of_files(cause) or (isinstance(cause, socket.gaierror) and _can_open_nothing()):
        return OutOfFiles()
    match cause:
        case OutOfReach():
            return Unsafe(f"a server sends us to {host}, which is in a network that it must not send us to")
        case ssl.SSLCertVerificationError():
            return CertificateRefused(
                f"the TLS certificate of {host} cannot be trusted: {cause.verify_message or cause}",
                hint="give its authority with --ca-cert, or accept any certificate with --insecure",
            )
        case ssl.SSLError():
            return CertificateRefused(
                f"{host} cannot be spoken to by TLS: {cause.reason or cause}",
                hint="if it speaks plain HTTP, say so with http:// or --plain-http",
            )
        case socket.gaierror() if cause.errno in _NO_SUCH_NAME:
            return NameUnknown(f"there is no host {host}")
        case socket.gaierror():
            return Unreachable(f"the name of {host} cannot be looked up: {cause.strerror}")
        case TimeoutError():
            return Unreachable(f"{host} does not answer: the connection timed out")
        case _:
            return Unreachable(f"{via}{host} cannot be reached: {cause.strerror or cause}")


def failure_of(error: Exception, request: Request) -> NetworkError:
    """What ``error`` means for ``request``, of which something may have been sent."""
    if is_out_of_files(error):
        return OutOfFiles()
    if "CERTIFICATE_REQUIRED" in str(error) or "BAD_CERTIFICATE" in str(error):  # TLS 1.3 says so after its handshake
        host = authority(request.url)
        return CertificateRefused(
            f"{host} refuses our TLS certificate, or the lack of one", hint="give it one with --tls-cert and --tls-key"
        )
    match error:
        case TimeoutError() | BlockingIOError():  # what a blocking socket calls the same
            return Unanswered(f"{request}: no answer came in time")
        case NotHTTP():
            return Interrupted(f"{request}: the answer is not HTTP")
        case CutOff():
            return Interrupted(f"{request}: the answer was cut off")
        case _:
            return Interrupted(f"{request}: the connection broke")


def _can_open_nothing() -> bool:
    """Whether no file can be opened: then the resolver cannot read its own, and says that there is no such name."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return is_out_of_files(error)
    return False
