"""Exchanges over connections of our own on the event loop, which are kept for the next exchange."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass, field
from typing import TypeAlias

import aiohappyeyeballs
import anyio.lowlevel

from syncer.transport.connecting import Addresses, scope_of, within_reach
from syncer.transport.failures import BROKEN, failure_of, no_connection
from syncer.transport.flow import Flow
from syncer.transport.guard import Scope, authority, origin
from syncer.transport.http1 import Head
from syncer.transport.message import Request
from syncer.transport.response import Response, count_in
from syncer.transport.settings import Limits
from syncer.transport.streams import Stream
from syncer.transport.traffic import Traffic

IDLE = 15.0
"""Seconds after which a connection may have been closed by the other end."""

_NEXT_ADDRESS = 0.25  # seconds after which another address is tried beside the first (RFC 8305 §5)

Key: TypeAlias = tuple[object, Scope | None, bool]


@dataclass(slots=True)
class _Pool:
    """The connections to one origin."""

    limits: Limits
    room: anyio.Semaphore
    idle: list[Stream] = field(default_factory=list)

    def take(self) -> Stream | None:
        """The connection that was used last, if it can be used again."""
        while self.idle:
            stream = self.idle.pop()
            if stream.is_reusable and time.monotonic() - stream.idle_since < IDLE:
                return stream
            stream.abort()
        return None


class DirectWire:
    """Connections on the event loop."""

    def __init__(self, limits: Limits, addresses: Addresses) -> None:
        self._limits = limits
        self._addresses = addresses
        self._pools: dict[Key, _Pool] = {}

    async def close(self) -> None:
        for pool in self._pools.values():
            while pool.idle:
                pool.idle.pop().abort()
        await anyio.lowlevel.checkpoint()  # the event loop closes the sockets

    async def exchange(
        self, request: Request, head: bytes, context: ssl.SSLContext | None, traffic: Traffic
    ) -> Response:
        """Send ``request`` once; raises ``Unreachable`` when nothing was sent, else ``Interrupted``."""
        pool = self._pool(request)
        await pool.room.acquire()
        try:
            stream = pool.take() or await self._connect(request, context)
            try:
                answer = await stream.ask(request, head, request.body, self._limits, traffic)
            except BaseException:
                stream.abort()
                raise
        except BaseException as error:
            pool.room.release()
            if isinstance(error, BROKEN):
                raise failure_of(error, request) from None
            raise
        if isinstance(request.body, bytes):
            traffic.bytes_out += len(request.body)
        return _DirectResponse(pool, stream, request, answer, traffic)

    def _pool(self, request: Request) -> _Pool:
        """Where an address must not be too near, a connection of another pool may have been made to one that is."""
        key = origin(request.url), request.reach, request.is_relayed
        pool = self._pools.get(key)
        if pool is None:
            room = anyio.Semaphore(self._limits.requests_per_host, fast_acquire=True)
            pool = self._pools[key] = _Pool(self._limits, room)
        return pool

    async def _connect(self, request: Request, context: ssl.SSLContext | None) -> Stream:
        url, limits = request.url, self._limits
        found = await self._addresses.of(url)
        try:
            found = within_reach(found, request.reach)
            async with asyncio.timeout(limits.connect):
                connected = await aiohappyeyeballs.start_connection(found, happy_eyeballs_delay=_NEXT_ADDRESS)
                _, stream = await asyncio.get_running_loop().create_connection(
                    Stream, sock=connected, ssl=context, server_hostname=url.raw_host if context else None
                )
        except OSError as error:
            raise no_connection(error, authority(url)) from None
        return stream


class _DirectResponse(Response):
    """An answer on one of our connections."""

    def __init__(self, pool: _Pool, stream: Stream, request: Request, head: Head, traffic: Traffic) -> None:
        super().__init__(request, head.status, head.headers)
        self._pool: _Pool | None = pool
        self._stream = stream
        self._idle = pool.limits.idle
        self._flow = Flow(request, pool.limits)
        self._traffic = traffic

    @property
    def scope(self) -> Scope:
        return scope_of(self._stream.peer)

    async def piece(self) -> bytes:
        began = time.monotonic()
        try:
            piece = await self._stream.piece(self._idle)
        except BROKEN as error:
            raise failure_of(error, self.request) from None
        await count_in(piece, time.monotonic() - began, self._flow, self._traffic)
        return piece

    def release(self) -> None:
        if self._pool is None:
            return
        pool, self._pool = self._pool, None
        if self._stream.is_reusable:
            self._stream.idle_since = time.monotonic()
            pool.idle.append(self._stream)
        else:
            self._stream.abort()
        pool.room.release()
