"""The connection of a worker thread.  Its methods block, and the kernel sends a body straight from its file."""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TypeAlias, TypeVar, cast

from msgspec import Struct

from syncer.errors import SyncerError, Unreachable
from syncer.transport.connecting import A_MOMENT, Found, NestedTls, Route, ServerTls, TlsSocket
from syncer.transport.failures import (
    BROKEN,
    CertificateRefused,
    Silent,
    end_after,
    ended_early,
    failure_of,
    find_dead_peer,
    no_connection,
)
from syncer.transport.guard import authority
from syncer.transport.hosts import Meter, Traffic
from syncer.transport.http import AnswerParser, CutOff, Head
from syncer.transport.message import FileBody, Request, Sink
from syncer.transport.settings import Limits

_PIECE = 512 * 1024  # bytes that are received before they are hashed and written, or read before they are sent
_SMALL_PIECE = 128 * 1024  # bytes likewise of short bodies, and where all larger ones are in use: more steps take time
_PIECES = 32  # larger ones at most, which are 16 MiB together

_SMALL = 64 * 1024  # bytes asked for where a head, a chunk or an error may come

_LOOK = 5.0  # seconds after which, at the latest, a wait looks at the clock
CAN_SEND_FILES = hasattr(os, "sendfile")
_EXTENTS = 8  # stretches of a file in one portion; in a bundle they have 128 KiB
_OF_THE_FILE = frozenset({errno.EINVAL, errno.EIO, errno.ENOSYS, errno.EOPNOTSUPP, errno.EOVERFLOW})

T = TypeVar("T")

Socket: TypeAlias = socket.socket | TlsSocket
Portion: TypeAlias = tuple[int, Iterator[int]]
"""The number of bytes of a portion, and an iterator that sends some of them at each step and tells how many."""


class Pieces:
    """Room for the larger pieces, which all connections of a run share, in any thread."""

    def __init__(self) -> None:
        self._free: deque[memoryview | None] = deque([None] * _PIECES)  # the last one to be used is the next

    def take(self) -> memoryview | None:
        """Take one; None when all are in use."""
        with suppress(IndexError):
            return self._free.pop() or memoryview(bytearray(_PIECE))
        return None

    def give(self, piece: memoryview) -> None:
        """Give one back."""
        self._free.append(piece)


class BlockingConnection:
    """A socket that carries one exchange after the other; only ``abort`` may be called from another thread."""

    def __init__(self, route: Route, limits: Limits, addresses: Sequence[Found], pieces: Pieces) -> None:
        self.route = route
        self.peer = ""
        self.idle_since = 0.0
        self._limits = limits
        self._addresses = addresses
        self._socket: Socket | None = None
        self._aborted = threading.Event()
        self._answer: AnswerParser | None = None  # to the request that was sent last
        self._is_sent = True
        self._request: Request | None = None  # that was sent last
        self._meter: Meter | None = None  # of its answer
        self._pieces = pieces
        self._piece: memoryview | None = None  # one of them, during an exchange that needs it
        self._small: memoryview | None = None
        self._poll: select.poll | None = None
        self._waits: float | None = None  # seconds after which the kernel lets us look at the clock
        self._deadline = 0.0  # monotonic: for the head, or for the next byte of the body
        self._body_failure: Exception | None = None  # which came after bytes that were handed out first
        self.answered_in = 0.0  # seconds, the last time
        self.was_poured = False  # somebody had the body as it came
        self.failure: SyncerError | None = None  # of that

    @property
    def is_done(self) -> bool:
        """True when the answer was read to its end."""
        return self._answer is not None and self._answer.is_done and not self._answer.pieces

    @property
    def is_reusable(self) -> bool:
        """True when another exchange may follow."""
        answer = self._answer
        if answer is None or answer.head is None or answer.has_overrun:
            return False
        return answer.head.keeps_connection and self._is_sent and self.is_done

    def exchange(self, request: Request, head: bytes, traffic: Traffic) -> Head:
        """Send ``request``, give the body of its answer to the sink of ``Request.pour``, and return the answer's head.

        An error in the body is kept as ``failure``, since the answer to the request itself has come.
        """
        if self._socket is None:
            began = time.monotonic()
            self._connect()
            traffic.spent.answers += time.monotonic() - began
        self.was_poured, self.failure = False, None
        try:
            answer = self._answered(request, head, traffic)
            if request.pour and (sink := request.pour(request, answer.status, answer.headers)):
                self.was_poured = True
                try:
                    self._pour(sink)
                except SyncerError as error:
                    self.failure = error
        finally:
            if self._piece is not None:
                self._pieces.give(self._piece)
                self._piece = None
        return answer

    def piece(self) -> bytes:
        """The next bytes of the body, none at its end."""
        buffer = bytearray(_SMALL)
        return bytes(buffer[: self._fill(memoryview(buffer))])

    def abort(self) -> None:
        """End the operation that the connection waits for; another thread calls this."""
        self._aborted.set()
        if self._socket is not None:
            with suppress(OSError):  # it may have ended already
                self._socket.shutdown(socket.SHUT_RDWR)

    def keep_session(self) -> None:
        """Keep the TLS sessions for the connections to come."""
        if isinstance(self._socket, TlsSocket):
            self._socket.keep_session()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def _answered(self, request: Request, head: bytes, traffic: Traffic) -> Head:
        try:
            return self._ask(request, head, traffic)
        except BROKEN as error:
            raise failure_of(error, request) from None

    def _ask(self, request: Request, head: bytes, traffic: Traffic) -> Head:
        assert self._socket is not None
        self._answer = self._body_failure = None
        self._request, self._meter = request, Meter(request, traffic)
        self._socket.sendall(head + request.body if isinstance(request.body, bytes) else head)
        failure = None
        if isinstance(request.body, FileBody):
            failure = self._send(request, request.body, request.body.length, Meter(request, traffic, is_upload=True))
        patience, sent = request.head_patience(self._limits), time.monotonic()
        self._deadline = sent + patience
        self._look_up_after(patience)
        answered = self._receive_head(request, failure)
        self.answered_in = time.monotonic() - sent
        traffic.spent.answers += self.answered_in
        return answered

    def _pour(self, sink: Sink) -> None:
        """Give the body to ``sink``, piece by piece; bytes that came before a failure are given first."""
        assert self._answer is not None
        buffer = self._room(self._answer.left)
        while count := self._fill(buffer):
            sink(buffer[:count])

    def _send(self, request: Request, body: FileBody, length: int, meter: Meter) -> OSError | None:
        """Send the body; an answer that comes meanwhile, or an end that is no longer open, stops it.

        Returns the error instead of raising it, because the server may have said why.
        """
        assert self._socket is not None
        self._is_sent = False
        for portion, sends in Sending(request, body, length, self._socket, self._room).portions():
            if wait := meter.due(portion):
                self._aborted.wait(wait)
            if self._is_answered():
                return None
            began = time.monotonic()
            try:
                for count in sends:
                    now = time.monotonic()
                    meter.went(count, now - began)
                    began = now
            except OSError as error:
                return error
        self._is_sent = True
        return None

    def _room(self, length: int | None) -> memoryview:
        """Room for a piece of a body of ``length`` bytes; it is kept, since making it costs as much as filling it."""
        if self._piece is None and (length is None or length > _SMALL_PIECE):
            self._piece = self._pieces.take()
        if self._piece is None and self._small is None:
            self._small = memoryview(bytearray(_SMALL_PIECE))
        return cast("memoryview", self._piece or self._small)

    def _is_answered(self) -> bool:
        if self.route.is_tls:
            return False  # what can be read may be a ticket of TLS
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(cast("socket.socket", self._socket), select.POLLIN)
        return bool(self._poll.poll(0))

    def _receive_head(self, request: Request, failure: OSError | None) -> Head:
        assert self._socket is not None
        answer = self._answer = AnswerParser(request.method)
        while answer.head is None:
            self._check_time()  # whatever else comes
            answer.feed(self._received(failure))
        self._look_up_after(request.body_patience(self._limits))
        return answer.head

    def _received(self, failure: OSError | None) -> bytes:
        try:
            piece = self._waiting_for(self._receive_some)
        except OSError as error:
            raise failure or error from None
        if not piece:
            raise failure or ConnectionResetError()
        return piece

    def _fill(self, buffer: memoryview) -> int:
        """Fill ``buffer`` with the next bytes, and return their number; bytes before a failure are returned first."""
        assert self._request is not None
        assert self._meter is not None
        filled = 0
        patience = self._request.body_patience(self._limits)
        while filled < len(buffer):
            began = time.monotonic()
            self._deadline = began + patience
            try:
                if self._body_failure is not None:
                    raise self._body_failure
                count = self._receive(buffer[filled:])
            except BROKEN as error:
                if filled:
                    self._body_failure = error  # of which the next call tells, without waiting for it again
                    break
                raise failure_of(error, self._request) from None
            if not count:
                break
            filled += count
            if pause := self._meter.came(count, time.monotonic() - began):
                self._aborted.wait(pause)
        return filled

    def _receive(self, buffer: memoryview) -> int:
        """Receive the bytes that are there, and return their number, which is 0 only at the body's end."""
        assert self._socket is not None
        answer = self._answer
        assert answer is not None
        while not answer.pieces and not answer.is_done:
            self._check_time()  # whatever comes that is no body
            if (left := answer.left) is not None:
                count = self._receive_into(buffer[:left])
                if count:
                    answer.took(count)
                    return count
                answer.end()
            elif piece := self._waiting_for(self._receive_some):
                answer.feed(piece)
            else:
                answer.end()
        return answer.take_into(buffer) if answer.pieces else 0

    def _receive_into(self, buffer: memoryview) -> int:
        """Receive as many bytes as fit, or as come within the timeout, and return their number."""
        assert self._socket is not None
        return self._waiting_for(partial(self._socket.recv_into, buffer, len(buffer), socket.MSG_WAITALL))

    def _receive_some(self) -> bytes:
        assert self._socket is not None
        return self._socket.recv(_SMALL)

    def _waiting_for(self, receive: Callable[[], T]) -> T:
        """What ``receive`` gives, though the kernel breaks it off now and then; raises ``TimeoutError``.

        With MSG_WAITALL the kernel counts its time from the first byte on, and says nothing of the last one; and a
        record of TLS may be there in part.
        """
        while True:
            try:
                return receive()
            except (TimeoutError, BlockingIOError):
                self._check_time()

    def _check_time(self) -> None:
        """Raise ``TimeoutError`` when it is time."""
        if time.monotonic() >= self._deadline:
            raise TimeoutError

    def _look_up_after(self, patience: float) -> None:
        """Let the kernel keep the time: a timeout of Python's costs a system call for each call."""
        assert self._socket is not None
        seconds = min(_LOOK, patience / 4)
        if seconds != self._waits:
            self._waits = seconds
            _limit(self._socket, seconds, is_sending=False)

    def _connect(self) -> None:
        """Make the connection; a server that fails to resume a session is tried once more, without one."""
        resumes = self.route.resumes
        try:
            self._reach()
        except Unreachable as error:
            if resumes:
                self.route.forget_sessions()
            if not resumes or not isinstance(error, CertificateRefused):
                raise
            self.close()
            self._reach()

    def _reach(self) -> None:
        route = self.route
        try:
            connected = self._open()
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.peer = str(connected.getpeername()[0])
            if route.first_tls is not None:
                self._encrypt(connected, route.first_tls, route.place.raw_host)
        except OSError as error:
            raise route.failure(error) from None
        if route.is_tunnel:
            self._tunnel()
        assert self._socket is not None
        self._socket.settimeout(None)
        _limit(self._socket, self._limits.idle, is_sending=True)

    def _open(self) -> socket.socket:
        """Connect to the first address that answers and that may be connected to."""
        failure: OSError = OSError("it has no address")
        for family, _, _, _, address in self.route.allowed(self._addresses):
            self._socket = connected = socket.socket(family, socket.SOCK_STREAM)  # known to abort() before it connects
            connected.settimeout(self._limits.connect)
            find_dead_peer(connected)
            try:
                connected.connect(address)
            except OSError as error:
                connected.close()
                failure = error
            else:
                return connected
            if self._aborted.is_set():
                break
        raise failure

    def _encrypt(self, connected: Socket, tls: ServerTls, host: str | None) -> None:
        encrypted: TlsSocket
        if isinstance(connected, TlsSocket):
            encrypted = NestedTls(connected, tls, host)
        else:
            encrypted = TlsSocket(connected, tls, host)
        self._socket = encrypted  # known to abort() before its handshake
        try:
            encrypted.handshake(time.monotonic() + self._limits.connect)
        except TimeoutError:
            raise Silent from None

    def _tunnel(self) -> None:
        """Turn a connection to a proxy into one to the server beyond it; raises ``Unreachable``."""
        route, outer = self.route, self._socket
        assert outer is not None
        assert route.tls is not None
        answer = AnswerParser("CONNECT")
        self._deadline = time.monotonic() + self._limits.connect
        try:
            outer.sendall(route.tunnel_head())
            while answer.head is None:
                outer.settimeout(max(A_MOMENT, self._deadline - time.monotonic()))
                if not (piece := self._waiting_for(self._receive_some)):
                    raise CutOff
                answer.feed(piece)
        except BROKEN as error:
            raise route.tunnel_failure(error) from None
        route.check_tunnel(answer)
        try:
            self._encrypt(outer, route.tls, route.url.raw_host)
        except OSError as error:
            raise no_connection(error, authority(route.url)) from None


def _limit(connected: Socket, seconds: float, *, is_sending: bool) -> None:
    """End an operation in one direction after ``seconds``."""
    if isinstance(connected, TlsSocket):
        connected.limit(seconds, is_sending=is_sending)
    else:
        end_after(seconds, connected, is_sending=is_sending)


class Sending(Struct):
    """A body that is sent in portions."""

    request: Request
    body: FileBody
    length: int  # bytes of the body
    socket: Socket
    room: Callable[[int], memoryview]  # for what has to be read

    def portions(self) -> Iterator[Portion]:
        """The whole body.  Raises ``Interrupted`` when it is shorter than its length, and errors of reading it."""
        position = 0
        if self._can_send_files() and (found := self.body.in_place()):
            file, extents = found
            rest = iter(extents)
            while batch := tuple(islice(rest, _EXTENTS)):
                length = sum(length for _, length in batch)
                yield length, self._from_file(file, batch, position)
                position += length
        while position < self.length:
            piece = self._read(position)
            yield len(piece), self._from_buffer(piece)
            position += len(piece)

    def _can_send_files(self) -> bool:
        return CAN_SEND_FILES and (not isinstance(self.socket, TlsSocket) or self.socket.sends_files)

    def _from_file(self, file: int, extents: Iterable[tuple[int, int]], position: int) -> Iterator[int]:
        """Let the kernel send from ``file``; bytes that it cannot send are read, which raises the error of the file."""
        for offset, length in extents:
            sent = 0
            while sent < length:
                count = _send_file(self.socket.fileno(), file, offset + sent, length - sent)
                if not count:
                    count = self.socket.send(self._read(position + sent)[: length - sent])
                sent += count
                yield count
            position += length

    def _from_buffer(self, piece: memoryview) -> Iterator[int]:
        while piece:
            count = self.socket.send(piece)
            piece = piece[count:]
            yield count

    def _read(self, position: int) -> memoryview:
        left = self.length - position
        room = self.room(self.length)
        count = self.body.read_into(room[:left], position)
        if not count:
            raise ended_early(self.request, left)
        return room[:count]


def _send_file(out: int, file: int, offset: int, length: int) -> int:
    """Let the kernel send from ``file``, and return the number of bytes; 0 when it cannot read them."""
    try:
        return os.sendfile(out, file, offset, length)
    except OSError as error:
        if error.errno in _OF_THE_FILE:
            return 0
        raise
