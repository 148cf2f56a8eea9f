"""The errors of the network: each failure that the operating system reports becomes one with a plain message.

Also what makes the system report one, what is told of requests that are held up, and the attempts that work has.
"""

from __future__ import annotations

import errno
import os
import random
import socket
import ssl
import struct
import time
from enum import Enum
from http import HTTPStatus

import anyio
from msgspec import Struct
from yarl import URL

from syncer.errors import Interrupted, NetworkError, OutOfFiles, Unreachable, Unsafe, is_out_of_files
from syncer.transport.guard import Scope, authority
from syncer.transport.http import CutOff, NotHTTP
from syncer.transport.message import Request
from syncer.transport.settings import Limits


class CertificateRefused(Unreachable):
    """TLS failed, and another attempt would fail as well."""


class NoTls(CertificateRefused):
    """The server answers TLS with something else."""


class OtherScheme(Unreachable):
    """The server speaks HTTPS where it was spoken to by HTTP, or the other way round."""


class ProxyRefused(Unreachable):
    """A proxy does not pass a request on, and would refuse another attempt as well."""


class Absent(Unreachable):
    """Nobody takes the connection: it is refused, or nothing answers."""


class Down(Unreachable):
    """The host took no connections for so long that nobody waits for it any more."""


class NameUnknown(Unreachable):
    """The name server says that the name does not exist."""


class NoHttp(Interrupted):
    """The server answers HTTP with something else."""


class Unanswered(Interrupted):
    """The server accepted the connection, and did not answer in time."""


class Silent(TimeoutError):
    """The server takes the connection, and says nothing of TLS."""


class OutOfReach(OSError):
    """A server sent syncer to a name with addresses that it may not send to, such as private ones."""


HOPELESS = (CertificateRefused, OtherScheme, ProxyRefused)
"""What another attempt meets again."""

BROKEN = (OSError, CutOff, NotHTTP)
"""The errors that end an exchange on a connection; ``TimeoutError`` is an ``OSError``."""

MOST_STALLS = 3
"""The times that a blob is waited for in vain; each attempt may begin a virus scan, or a download of a cache, anew."""

_PROBES = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}  # seconds, seconds, and how many
_UNACKNOWLEDGED = 50_000  # milliseconds

_PASSING = (408, 425, 429)  # by which a proxy says that it is busy
_PLAIN_PROXY = "if it speaks plain HTTP, write http:// before its address in HTTPS_PROXY"
_PROXY_LOGIN = "write the login into HTTPS_PROXY (HTTP_PROXY for plain HTTP), as in http://USER:PASSWORD@HOST:PORT"
_NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
_NO_ROUTE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN)

# the reasons of OpenSSL
_NOT_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}
_OLD_TLS = {"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION"}

# the codes of OpenSSL (X509_V_ERR_…)
_NOT_YET_VALID, _EXPIRED, _SELF_SIGNED = 9, 10, 18
_OTHER_NAMES = (62, 64)  # of a host, an address
_UNKNOWN_AUTHORITIES = (2, 19, 20, 21)


def no_connection(  # noqa: PLR0911  (one for each cause)
    cause: OSError, host: str, *, is_proxy: bool = False, server: str = "a registry"
) -> NetworkError:
    """The error for a connection to ``host`` that could not be made because of ``cause``.

    ``server`` says for a hint what should be there.
    """
    if is_out_of_files(cause) or (isinstance(cause, socket.gaierror) and _can_open_nothing()):
        return OutOfFiles()
    name = f"the proxy {host}" if is_proxy else host
    match cause:
        case OutOfReach():
            return Unsafe(f"a server sends us to {host}, which is in a network that it must not send us to")
        case ssl.SSLCertVerificationError():
            return _wrong_certificate(cause, name)
        case ssl.SSLError() | Silent():
            return _no_tls(cause, name, is_proxy=is_proxy)
        case socket.gaierror() if cause.errno in _NO_SUCH_NAME:
            return NameUnknown(
                f"{name} cannot be found: there is no host of that name",
                hint="is the name spelt right, and is this machine in the network that knows it?",
            )
        case socket.gaierror():
            return Unreachable(
                f"the name of {name} cannot be looked up: {cause.strerror}",
                hint="the name server of this machine does not answer: see /etc/resolv.conf, and the network",
            )
        case TimeoutError():
            return Absent(
                f"{name} does not answer: the connection timed out",
                hint="is the address right, and does a firewall let this machine through?",
            )
        case OSError() if cause.errno == errno.ECONNREFUSED:
            expected = "the proxy" if is_proxy else server
            is_usual = not is_proxy and ":" not in name.rpartition("]")[2]
            port = "; without a port, 443 or 80 is meant" if is_usual else ""
            return Absent(f"{name} refused the connection", hint=f"is {expected} running there?{port}")
        case OSError() if cause.errno in _NO_ROUTE:
            return Absent(
                f"there is no route to {name}",
                hint="is the address right, and is the network or the VPN up on this machine?",
            )
        case _:
            # what the event loop says names the address, by which no two hosts would have one cause
            told = os.strerror(cause.errno).lower() if cause.errno else cause
            return Absent(f"{name} cannot be reached: {told}")


def _no_tls(cause: ssl.SSLError | Silent, name: str, *, is_proxy: bool) -> Unreachable:
    """The error for a server called ``name`` with which TLS failed, though not for its certificate."""
    if isinstance(cause, Silent):
        problem = f"{name} takes the connection, and says nothing: TLS timed out"
        return Absent(problem, hint="is the port right, and does the server there work?")
    if cause.reason in _NOT_TLS:
        hint = _PLAIN_PROXY if is_proxy else "if it speaks plain HTTP, say so with http:// or --plain-http"
        return NoTls(f"{name} does not speak TLS", hint=hint)
    return CertificateRefused(
        f"{name} cannot be spoken to by TLS: {cause.reason or cause}",
        hint="syncer needs TLS 1.2 or later" if cause.reason in _OLD_TLS else None,
    )


def _wrong_certificate(cause: ssl.SSLCertVerificationError, name: str) -> CertificateRefused:
    """The error for a certificate of the server ``name`` that was not accepted."""
    code = cause.verify_code
    certificate = f"the TLS certificate of {name}"
    hint = "give the certificate of its authority with --ca-cert, or accept any certificate with --insecure"
    if code == _EXPIRED:
        problem = f"{certificate} has expired"
        hint = "have it renewed there, or accept any certificate with --insecure; is the clock of this machine right?"
    elif code == _NOT_YET_VALID:
        problem = f"{certificate} is not valid yet"
        hint = "is the clock of this machine right?"
    elif code in _OTHER_NAMES:
        problem = f"{certificate} is for another name"
        hint = "write the name that the certificate has, or accept any certificate with --insecure"
    elif code == _SELF_SIGNED:
        problem = f"{certificate} cannot be trusted: it is self-signed"
        hint = "give that certificate with --ca-cert, or accept any certificate with --insecure"
    elif code in _UNKNOWN_AUTHORITIES:
        problem = f"{certificate} cannot be trusted: this machine does not know its authority"
    else:
        problem = f"{certificate} cannot be trusted: {cause.verify_message or cause}"
    return CertificateRefused(problem, hint=hint)


def speaks_http(host: str, port: int | None, *, has_certificates: bool = False) -> OtherScheme:
    """The error for the server at ``host`` that was to be spoken to by HTTPS, and speaks HTTP.

    ``has_certificates`` says that the user gave some, which go together with HTTPS alone.
    """
    rest = " and leave the certificates out" if has_certificates else ", or give --plain-http"
    return OtherScheme(f"{host} speaks plain HTTP, and no HTTPS", hint=f"write http://{_written(host, port, 80)}{rest}")


def speaks_https(url: URL, *, is_told: bool) -> OtherScheme:
    """The error for the server of ``url`` that was to be spoken to by HTTP, and speaks HTTPS.

    ``is_told`` says that an option or a setting asks for plain HTTP, which loopback gets without it.
    """
    host = authority(url)
    hint = f"write https://{_written(host, url.port, 443)}"
    if is_told:
        way = "and" if Scope.of_host(url.host or "") is Scope.LOOPBACK else "or"
        hint = f"leave out --plain-http (plain_http in a sync file), {way} {hint}"
    return OtherScheme(f"{host} speaks HTTPS", hint=hint)


def speaks_neither(host: str) -> NoTls:
    """The error for the server at ``host`` that answers both HTTPS and HTTP with something else."""
    return NoTls(
        f"{host} speaks neither HTTPS nor HTTP", hint="is the port right? something else than a registry listens there"
    )


def _written(host: str, port: int | None, usual: int) -> str:
    """``host`` with its ``port``, where that is not the ``usual`` one of the scheme before it."""
    return host if port in (None, usual) or host.endswith(f":{port}") else f"{host}:{port}"


def no_tunnel(reason: int | Exception, proxy: str, host: str) -> Unreachable:
    """The error for a ``proxy`` that does not pass a request on to ``host``.

    ``reason`` is the status of its answer, or the error that ended the connection to it.  No byte of the request
    was sent to the host.
    """
    refusal = f"the proxy {proxy} will not connect us to {host}"
    match reason:
        case 407:
            return ProxyRefused(f"{refusal}: 407 it wants another login", hint=_PROXY_LOGIN)
        case int() if 400 <= reason < 500 and reason not in _PASSING:
            return ProxyRefused(f"{refusal}: {spelt_status(reason)}")
        case int():
            return Unreachable(f"{refusal}: {spelt_status(reason)}")
        case TimeoutError() | BlockingIOError():
            return Unreachable(f"the proxy {proxy} does not answer: it was to connect us to {host}")
        case NotHTTP():
            return Unreachable(f"{refusal}: its answer is not HTTP")
        case _:
            return Unreachable(f"{refusal}: its answer was cut off")


def spelt_status(number: int) -> str:
    """A status with its phrase, where it has one."""
    try:
        return f"{number} {HTTPStatus(number).phrase}"
    except ValueError:
        return str(number)


def failure_of(error: Exception, request: Request) -> NetworkError:
    """The error for ``request``, of which some bytes may have been sent, after ``error`` on its connection."""
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
            return NoHttp(f"{request}: the answer is not HTTP", hint="is the address right, with its port?")
        case CutOff():
            return Interrupted(f"{request}: the answer was cut off")
        case _:
            return Interrupted(f"{request}: the connection broke")


def ended_early(request: Request, left: int) -> Interrupted:
    """The error for a body to send that is ``left`` bytes shorter than it was said to be."""
    return Interrupted(f"{request}: the content to send ended {left} bytes early")


def find_dead_peer(connected: socket.socket) -> None:
    """Have the system end a connection whose other end is gone, within a minute, however long an answer may take."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in {**_PROBES, "TCP_USER_TIMEOUT": _UNACKNOWLEDGED}.items():
        if (option := getattr(socket, name, None)) is not None:
            connected.setsockopt(socket.IPPROTO_TCP, option, value)


def end_after(seconds: float, connected: socket.socket, *, is_sending: bool) -> None:
    """Have the system end an operation in one direction after ``seconds``, which costs no call for each operation."""
    interval = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))  # a ``struct timeval``
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO if is_sending else socket.SO_RCVTIMEO, interval)


def _can_open_nothing() -> bool:
    """Whether no file can be opened: then the resolver cannot read its own, and says that there is no such name."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return is_out_of_files(error)
    return False


class WaitKind(Enum):
    """The kinds of what holds requests up."""

    PAUSE = "pause"  # the host asks for none, for all requests
    RETRY = "retry"  # one request is sent again
    AWAY = "away"  # the host takes no connections, or says that it does no work
    OVER = "over"  # it is back, or nobody waits for it any more


class Wait(Struct, frozen=True, kw_only=True):
    """Something that holds requests to a host up, told as it begins; ``seconds`` is how long it is at least."""

    host: str
    kind: WaitKind
    seconds: float  # 0 where nobody knows
    reason: str
    retry: int = 0  # the number of a retry, and of how many at most
    retries: int = 0


class Budget:
    """The attempts that one piece of work has left; after progress it has all of them again."""

    def __init__(self, limits: Limits, attempts: int | None = None) -> None:
        self._limits = limits
        self._attempts = attempts or limits.attempts
        self.is_patient = attempts != 1
        self.failures = 0
        self.stalls = 0  # for which a blob was waited in vain
        self.is_last = False  # whether the host was found well after these attempts, so that one more is the last
        self.began = time.monotonic()  # when the first of these attempts could be made

    @property
    def is_spent(self) -> bool:
        return self.failures + 1 >= self._attempts or self.stalls >= MOST_STALLS

    def progressed(self) -> None:
        """Forget the failed attempts, because bytes were transferred."""
        self.failures = self.stalls = 0
        self.is_last = False
        self.began = time.monotonic()

    def jitter(self) -> float:
        """Seconds to wait before the next attempt: full jitter below a ceiling that doubles."""
        ceiling = min(self._limits.longest_backoff, self._limits.backoff * 2**self.failures)
        return random.uniform(0, ceiling)  # noqa: S311  (jitter is no secret)

    def fail(self, *, at_least: float = 0.0) -> float:
        """Count one failed attempt; returns the seconds to wait before the next one, at least ``at_least``."""
        seconds = max(at_least, self.jitter())
        self.failures += 1
        return seconds

    async def sleep(self, *, at_least: float = 0.0) -> None:
        """Count one failed attempt, and wait before the next one, for at least ``at_least`` seconds."""
        await anyio.sleep(self.fail(at_least=at_least))

    @property
    def retries(self) -> int:
        """The number of attempts after the first one, where none makes progress."""
        return self._attempts - 1
