"""One blob's way into a registry.

POST opens a session; then one PUT brings the whole blob, or PATCHes bring it in chunks.  What became of a
request whose answer is lost is never guessed: the blob is asked whether it is there, and the session where
it stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import anyio

from syncer.errors import Denied, DigestMismatch, Interrupted, RegistryError, SyncerError
from syncer.registry.content import Content
from syncer.registry.headers import uploaded, with_parameters
from syncer.registry.journal import Unfinished, UploadJournal
from syncer.registry.manner import Manner, Way
from syncer.registry.problems import problems_of
from syncer.registry.repository import Repository
from syncer.registry.session import Session, opened
from syncer.transport import Answer, Body, Request
from syncer.transport.retry import TRANSIENT

_RESTARTS = 3
_CANCEL_SECONDS = 1.5
_SMALL = 256 * 1024  # bytes up to which a blob is read at once
_ACCEPTED = (200, 201, 202, 204)  # 202 for a PATCH, 201 for a PUT; Amazon's and Google's answer others


class _StartOver(Exception):
    """The session is of no more use.  ``counts`` is false where the next attempt will be another one."""

    def __init__(self, reason: SyncerError, *, counts: bool = True) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.counts = counts


class Upload:
    """The work of bringing one blob into a repository."""

    def __init__(
        self,
        repository: Repository,
        content: Content,
        manner: Manner,
        *,
        journal: UploadJournal | None = None,
        session: Session | None = None,
    ) -> None:
        self._repository = repository
        self._content = content
        self._descriptor = content.descriptor
        self._size = content.descriptor.size
        self._manner = manner
        self._journal = journal
        self._session = session  # one that is open already, from a mount that was not done
        self._transport = repository.registry.transport
        self._budget = self._transport.budget()
        self._was_refused = False  # its bytes, although they are the right ones

    async def run(self) -> None:
        """Return when the registry has the blob; a session that is left behind is cancelled."""
        try:
            await self._until_done()
        except BaseException:
            await self._cancel()
            raise
        finally:
            await self._content.close()

    async def _until_done(self) -> None:
        restarts = 0
        while True:
            try:
                session = self._session = self._session or await self._begin()
                await self._send(session)
            except _StartOver as turn:
                self._session = None
                if turn.counts:
                    restarts += 1
                    if await self._is_there():
                        return
                    if restarts > _RESTARTS:
                        raise turn.reason from None
            else:
                return

    async def _begin(self) -> Session:
        request = Request(
            method="POST", url=self._repository.url("blobs/uploads/"), authorizer=self._repository.authorizer
        )
        answer = await self._transport.ask(request, budget=self._budget)
        if answer.status != 202:
            raise await self._repository.refusal(answer)
        return opened(self._repository, answer)

    async def _send(self, session: Session) -> None:
        """Bring the rest of the blob by way of ``session``; raises ``_StartOver``."""
        way = Way.PUT if self._was_refused else self._manner.way(self._size)
        if session.offset or way is Way.CHUNKS:
            await self._send_chunks(session)
        elif way is Way.PUT:
            await self._send_whole(session)
        else:
            await self._patch(session, Way.PATCH, self._size)
            while not await self._finish(session, Way.PATCH, 0):
                pass

    async def _send_whole(self, session: Session) -> None:
        """The whole blob in one PUT, where a failure is not recovered from but started over."""
        try:
            answer = await self._put(session, self._size)
        except Interrupted as error:
            self._manner.broke(Way.PUT, self._size)
            await self._settle(error)
            return
        if answer.status == 401:  # the token ran out: the next session comes with a new one
            await self._settle(await self._repository.refusal(answer))
        elif not self._is_committed(answer):
            await self._not_taken(answer, session, Way.PUT, self._size)

    async def _send_chunks(self, session: Session) -> None:
        while True:
            left = self._size - session.offset
            length = min(max(self._manner.chunk_size, session.least), left)
            if length < left:
                await self._patch(session, Way.CHUNKS, length)
            elif await self._finish(session, Way.CHUNKS, length):
                return

    async def _patch(self, session: Session, way: Way, length: int) -> None:
        """Bring ``length`` bytes; afterwards the session's offset says where to go on, as the registry has it."""
        end = session.offset + length
        session.offered = max(session.offered, end)
        request = replace(
            session.at,
            method="PATCH",
            headers=self._stretch(session, length) if way is Way.CHUNKS else _OCTETS,
            body=self._content.part(session.offset, length),
        )
        try:
            answer = await self._transport.ask(request, budget=self._budget)
        except Interrupted as error:
            self._manner.broke(way, self._size)
            await self._recover(session, error)
            return
        if answer.status not in _ACCEPTED:
            if answer.status == 401:
                await self._recover(session, await self._repository.refusal(answer))
            else:
                await self._not_taken(answer, session, way, length)
            return
        session.moved(answer)
        await self._advance(session, answer, end)

    async def _advance(self, session: Session, answer: Answer, end: int) -> None:
        """Believe the registry if it says how much it has, and what was sent if it does not (Amazon's)."""
        taken = uploaded(answer.headers.get("Range"))
        if taken <= session.offset and not self._manner.range_is_stale and end < self._size:
            taken = await self._standing(session)
            self._manner.range_is_stale = taken <= session.offset
        if taken > end:
            raise _StartOver(RegistryError(answer.request, answer.status, [f"it claims to have {taken} bytes"]))
        session.offset = taken if taken > session.offset else end
        self._budget.progressed()
        if self._journal:
            state = Unfinished(str(session.at.url), session.offset)
            await anyio.to_thread.run_sync(self._journal.save, self._repository.name, self._descriptor.digest, state)

    async def _finish(self, session: Session, way: Way, length: int) -> bool:
        """The last ``length`` bytes, and the commit; False when the session has to go on from elsewhere."""
        try:
            answer = await self._put(session, length, self._stretch(session, length) if length else None)
        except Interrupted as error:
            if await self._is_there():
                return True
            await self._recover(session, error)
            return False
        if self._is_committed(answer):
            return True
        if answer.status == 401:
            await self._recover(session, await self._repository.refusal(answer))
        else:
            await self._not_taken(answer, session, way, length)
        return False

    async def _put(self, session: Session, length: int, headers: Mapping[str, str] | None = None) -> Answer:
        session.offered = self._size
        body: bytes | Body | None = None
        if length > _SMALL:
            body = self._content.part(session.offset, length)
        elif length:
            body = b"".join([bytes(piece) async for piece in self._content.read(session.offset, length)])
        request = replace(
            session.at,
            method="PUT",
            url=with_parameters(session.at.url, ("digest", str(self._descriptor.digest))),
            headers=headers or _OCTETS,
            body=body,
        )
        return await self._transport.ask(request, budget=self._budget)

    def _is_committed(self, answer: Answer) -> bool:
        if answer.status not in _ACCEPTED:
            return False
        digest = self._descriptor.digest
        stored = answer.headers.get("Docker-Content-Digest")
        if stored and stored.startswith(f"{digest.algorithm}:") and stored != str(digest):
            raise DigestMismatch(f"{answer.request}: the registry stored {stored[:80]!r} instead")
        return True

    async def _not_taken(self, answer: Answer, session: Session, way: Way, length: int) -> None:
        """Decide what a refused body means: returns if the session can go on, else raises."""
        error = await self._repository.refusal(answer)
        codes = {problem.code for problem in problems_of(answer)}
        if _is_too_large(answer):
            if self._manner.too_large(way, length, session.least):
                raise _StartOver(error, counts=False)
        elif answer.status in (405, 501) or "UNSUPPORTED" in codes or _is_unknown_way(answer, session, way):
            if self._manner.refuse(way):
                raise _StartOver(error, counts=False)
        elif "DIGEST_INVALID" in codes:
            await self._blame(error)
        elif answer.status in TRANSIENT or answer.status == 416:
            if way is Way.PUT:
                await self._pause(error)
                raise _StartOver(error)
            if await self._is_there():
                return
            await self._recover(session, error)
            return
        elif answer.status in (400, 404, 409) and not isinstance(error, Denied):
            raise _StartOver(error)
        raise error

    async def _blame(self, error: RegistryError) -> None:
        """The registry says that the bytes are not the digest's: find out who is wrong, and try once more."""
        if not await self._content.is_intact():
            raise DigestMismatch(f"the content of {self._descriptor} at its source is not what its digest says")
        if not self._was_refused:
            self._was_refused = True
            raise _StartOver(error)

    async def _recover(self, session: Session, error: SyncerError) -> None:
        """Ask the session where it stands; raises ``_StartOver`` when it is lost."""
        await self._pause(error)
        standing = await self._standing(session)
        if standing > max(session.offered, session.offset):
            raise _StartOver(error)
        if standing > session.offset:
            self._budget.progressed()
        session.offset = standing

    async def _standing(self, session: Session) -> int:
        """How many bytes the registry says it has; raises ``_StartOver`` when it does not know the session."""
        answer = await self._transport.ask(replace(session.at, method="GET", repeatable=True), budget=self._budget)
        if answer.status not in _ACCEPTED:
            error = await self._repository.refusal(answer)
            raise error if isinstance(error, Denied) else _StartOver(error)
        session.moved(answer)
        return uploaded(answer.headers.get("Range"))

    async def _settle(self, error: SyncerError) -> None:
        """The commit's fate is unclear: done if the blob is there, else from the start."""
        if await self._is_there():
            return
        await self._pause(error)  # a registry may still be at it
        raise _StartOver(error)

    async def _pause(self, error: SyncerError) -> None:
        if self._budget.is_spent:
            raise error
        self._transport.of(self._repository.registry.base).retries += 1
        await self._budget.sleep()

    async def _is_there(self) -> bool:
        return await self._repository.has_blob(self._descriptor, budget=self._budget)

    async def _cancel(self) -> None:
        """Tell the registry that the session will not go on, if that is quickly done."""
        session = self._session
        if session is None:
            return
        with anyio.CancelScope(shield=True), anyio.move_on_after(_CANCEL_SECONDS):
            try:
                await self._transport.ask(replace(session.at, method="DELETE", body=None))
            except SyncerError:
                return

    def _stretch(self, session: Session, length: int) -> dict[str, str]:
        return {**_OCTETS, "Content-Range": f"{session.offset}-{session.offset + length - 1}"}


_OCTETS = {"Content-Type": "application/octet-stream"}


def _is_too_large(answer: Answer) -> bool:
    """413, or the 416 by which GitHub's registry says the same (ocx-sh/ocx#237)."""
    if answer.status == 413:
        return True
    words = answer.content.lower()
    return answer.status in (400, 416) and (b"too large" in words or b"exceeds" in words)


def _is_unknown_way(answer: Answer, session: Session, way: Way) -> bool:
    """Whether a new session's first chunk met a registry that knows no chunks."""
    return way is Way.CHUNKS and session.offset == 0 and answer.status == 404
