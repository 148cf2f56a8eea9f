"""One blob's way into a registry.

POST opens a session; then one PUT brings the whole blob, or PATCHes bring it in chunks.  What became of a
request whose answer is lost is never guessed: the blob is asked whether it is there, and the session where
it stands.
"""

from __future__ import annotations

import anyio
from msgspec import structs

from syncer.errors import DamagedAtSource, Denied, Interrupted, RegistryError, SyncerError
from syncer.oci import Descriptor
from syncer.registry.answers import is_web_page, problems_of, uploaded, with_parameters
from syncer.registry.body import Content
from syncer.registry.repository import Repository, is_success, says_stored, unproven
from syncer.registry.upload_session import Manner, Session, UploadJournal, Way, continued, opened
from syncer.transport import PROGRESS, Answer, Body, Budget, Request
from syncer.transport.client import TRANSIENT, TROUBLE
from syncer.transport.message import Kind

_RESTARTS = 3
_PUTS = 2  # with a body that fail, after which the bytes go in a PATCH, and an empty PUT ends the upload
_CANCEL_SECONDS = 1.5
_SMALL = 64 * 1024  # bytes that are sent at once
_ACCEPTED = (200, 201, 202, 204)  # 202 for a PATCH, 204 for a GET; Amazon's and Google's answer others
_OCTETS = {"Content-Type": "application/octet-stream"}


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
        # an upload that ends in one request leaves nothing to remember
        self._journal = journal if self._size > manner.chunk_size else None
        self._session = session  # one that is open already, from a mount that was not done
        self._transport = repository.registry.transport
        self._budget = self._transport.budget()
        self._misread: set[Way] = set()  # ways on which the right bytes were others for the registry
        self._failed_puts = 0  # with a body, without an answer or with one of a server in trouble
        self._failed_ends = 0  # empty PUTs in the same way
        self._restarts = 0
        self._mark = 0  # how far the newest session was when it last counted as progress

    async def run(self) -> None:
        """Return when the registry has the blob; a session that is left behind is cancelled, or remembered."""
        try:
            await self._until_done()
        except BaseException:
            await self._leave()
            raise
        finally:
            await self._content.close()

    async def _until_done(self) -> None:
        if self._session is None and (remembered := await self._remembered()):
            self._session = remembered
            self._content.goes_on_from(remembered.offset)
        while True:
            try:
                session = self._session = self._session or await self._begin()
                while not await self._step(session):
                    pass
            except _StartOver as turn:
                self._session, self._mark = None, 0
                self._content.goes_on_from(0)
                await self._forget()
                if turn.counts:
                    self._restarts += 1
                    if await self._is_there():
                        return
                    if self._restarts > _RESTARTS:
                        raise turn.reason from None
            else:
                await self._forget()
                return

    async def _begin(self) -> Session:
        request = Request(
            method="POST", url=self._repository.url("blobs/uploads/"), authorizer=self._repository.authorizer
        )
        answer = await self._transport.ask(request, budget=self._budget)
        if answer.status != 202:
            raise await self._repository.refusal(answer)
        return opened(self._repository, answer)

    async def _step(self, session: Session) -> bool:
        """The next request of the upload; whether it was the last one.  Raises ``_StartOver``."""
        way = self._way()
        left = self._size - session.offset
        length = min(left, max(self._manner.chunk_size, session.least)) if way is Way.CHUNKS else left
        if length == left and (left == 0 or way is Way.PUT or self._puts_work):
            return await self._finish(session, way, left)
        await self._patch(session, way, length)
        return False

    def _way(self) -> Way:
        """The manner's way, unless this blob has met with too much on it."""
        # where a broken chunk costs the whole session, chunks bring nothing but more chances to break
        is_last = self._restarts == _RESTARTS
        in_one = is_last or self._misread
        way = Way.PUT if in_one and self._manner.takes_whole(self._size) else self._manner.way(self._size)
        if way is not Way.PUT or self._puts_work or not self._manner.takes(Way.PATCH):
            return way
        # Amazon's fails the empty PUT after a PATCH, and its PUTs may have met with bad luck
        return Way.PUT if is_last and not self._misread else Way.PATCH

    @property
    def _puts_work(self) -> bool:
        """Whether a PUT with a body may still be tried."""
        return self._manner.takes(Way.PUT) and Way.PUT not in self._misread and self._failed_puts < _PUTS

    async def _patch(self, session: Session, way: Way, length: int) -> None:
        """Bring ``length`` bytes; afterwards the session's offset says where to go on, as the registry has it."""
        end = session.offset + length
        headers = _stretch(session.offset, length) if way is Way.CHUNKS or session.offset else _OCTETS
        body = self._content.part(session.offset, length)
        request = structs.replace(session.at, method="PATCH", headers=headers, body=body)
        try:
            answer = await self._sent(session, request, end)
        except Interrupted as error:
            self._manner.broke(way)
            await self._recover(session, error)
            return
        if _is_accepted(answer):
            self._manner.worked(way)
            session.moved(answer)
            await self._advance(session, answer, end)
        else:
            await self._refused(answer, session, way, length)

    async def _finish(self, session: Session, way: Way, length: int) -> bool:
        """The last ``length`` bytes, and the commit; False when the session has to go on from elsewhere."""
        headers = _stretch(session.offset, length) if session.offset and length else _OCTETS
        body: bytes | Body | None = None
        if length > _SMALL:
            body = self._content.part(session.offset, length)
        elif length:
            body = await self._content.whole(session.offset, length)
        url = with_parameters(session.at.url, ("digest", str(self._descriptor.digest)))
        try:
            answer = await self._sent(
                session, structs.replace(session.at, method="PUT", url=url, headers=headers, body=body), self._size
            )
        except Interrupted as error:
            self._manner.broke(way)
            self._failed_puts += length > 0
            return await self._settle(session, error)
        if is_success(answer):
            if not says_stored(answer, self._descriptor.digest) and not await self._is_found():
                raise unproven(answer)
            self._manner.worked(way)
            if not length and not self._puts_work:
                self._manner.refuse(Way.PUT)  # the next blobs need not learn it again
            return True
        return await self._refused(answer, session, way, length, is_commit=True)

    async def _sent(self, session: Session, request: Request, end: int) -> Answer:
        if end > session.offset:
            await self._content.turn(session.offset)
        session.offered = max(session.offered, end)
        return await self._transport.ask(request, budget=self._budget)

    async def _advance(self, session: Session, answer: Answer, end: int) -> None:
        """Believe the registry if it says how much it has, and what was sent if it does not (Amazon's)."""
        taken = uploaded(answer.headers.get("Range"))
        if taken <= session.offset and end < self._size and not self._manner.range_is_stale:
            taken = await self._standing(session)
            self._manner.range_is_stale = taken <= session.offset
        if taken > end:
            raise _StartOver(RegistryError(answer.request, answer.status, [f"it claims to have {taken} bytes"]))
        session.offset = taken if taken > session.offset else end
        self._count(session)
        if self._journal:
            await anyio.to_thread.run_sync(
                self._journal.save, self._repository.name, self._descriptor.digest, session.state()
            )

    def _count(self, session: Session) -> None:
        """Fill the budget up if enough of the blob has arrived since that was last done."""
        if session.offset >= self._mark + min(PROGRESS, self._manner.chunk_size):
            self._mark = session.offset
            self._budget.progressed()

    async def _refused(
        self, answer: Answer, session: Session, way: Way, length: int, *, is_commit: bool = False
    ) -> bool:
        """Decide what a refused body means: whether the blob is there after all; raises if there is no way on."""
        error = await self._repository.refusal(answer)
        codes = {problem.code for problem in problems_of(answer)}
        status = answer.status
        if _is_too_large(answer):
            if self._manner.too_large(way, length, session.least):
                raise _StartOver(error, counts=False)
        elif status in (405, 411, 501) or "UNSUPPORTED" in codes or _is_unknown_way(answer, session, codes):
            if self._manner.refuse(way):
                raise _StartOver(error, counts=False)
            if status in (400, 404):
                raise _StartOver(error)
        elif "DIGEST_INVALID" in codes:
            await self._blame(error, way)
        elif status in TRANSIENT and is_commit:
            self._failed_puts += length > 0
            return await self._settle(session, error)
        elif status in TRANSIENT or status in (401, 416):
            await self._recover(session, error)
            return False
        elif status in (400, 404, 409):
            raise _StartOver(error)
        raise error

    async def _blame(self, error: RegistryError, way: Way) -> None:
        """The registry says that the bytes are not the digest's: find out who is wrong, and try each other way."""
        if not await self._content.is_intact():
            raise DamagedAtSource(f"the content of {self._descriptor} at its source is not what its digest says")
        is_first = not self._misread
        self._misread.add(way)
        if is_first or self._way() not in self._misread:
            raise _StartOver(error)

    async def _settle(self, session: Session, error: SyncerError) -> bool:
        """The commit's fate is unclear: it was done if the blob is there; else the session may know more."""
        if await self._is_there():
            return True
        self._failed_ends += session.offset == self._size
        if session.offset == 0 or self._failed_ends == _PUTS:
            await self._pause(error)  # a registry may still be at it: it is asked again before the bytes are sent again
            raise _StartOver(error)
        await self._recover(session, error)
        return False

    async def _recover(self, session: Session, error: SyncerError) -> None:
        """Ask the session where it stands; raises ``_StartOver`` when it is lost."""
        await self._pause(error)
        standing = await self._standing(session)
        if standing > max(session.offered, session.offset):
            raise _StartOver(error)
        session.offset = standing
        self._count(session)

    async def _standing(self, session: Session) -> int:
        return await _standing(session, self._budget)

    async def _pause(self, error: SyncerError) -> None:
        if self._budget.is_spent:
            is_trouble = isinstance(error, RegistryError) and error.status in TROUBLE
            if is_trouble and self._session and await self._transport.outlast(self._session.at, self._budget):
                return
            raise error
        await self._transport.back_off(self._repository.registry.base, self._budget, error, kind=Kind.UPLOADS)

    async def _is_there(self) -> bool:
        """Whether the registry has the blob; False as well when it does not tell, since sending it again tells."""
        try:
            return await self._is_found()
        except RegistryError:
            return False

    async def _is_found(self) -> bool:
        return await self._repository.find_blob(self._descriptor, budget=self._budget)

    async def _remembered(self) -> Session | None:
        """The session of an earlier run; what the journal knows besides is forgotten."""
        if self._journal is None:
            return None
        session = await find_unfinished(self._repository, self._descriptor, self._journal, self._budget)
        if session is None:
            await self._forget()
        return session

    async def _forget(self) -> None:
        if self._journal:
            await anyio.to_thread.run_sync(self._journal.drop, self._repository.name, self._descriptor.digest)

    async def _leave(self) -> None:
        """Tell the registry that the session will not go on, unless a later run can, if that is quickly done."""
        session = self._session
        if session is None or (self._journal and session.offset):
            return
        with anyio.CancelScope(shield=True), anyio.move_on_after(_CANCEL_SECONDS):
            try:
                # distribution wants another scope for this; a token for it is not worth asking for now
                sent = await session.at.authorizer.authorization() if session.at.authorizer else None
                headers = {"Authorization": sent} if sent else {}
                await self._transport.ask(
                    structs.replace(session.at, method="DELETE", headers=headers, authorizer=None)
                )
            except SyncerError:
                return


async def find_unfinished(
    repository: Repository, descriptor: Descriptor, journal: UploadJournal, budget: Budget
) -> Session | None:
    """The session of an earlier run, if the registry knows at least as much of it as the journal does.

    It is where the registry says that it stands.  Raises a ``SyncerError`` when the registry does not tell.
    """
    state = await anyio.to_thread.run_sync(journal.load, repository.name, descriptor.digest)
    session = continued(repository, state, descriptor.size) if state else None
    if state is None or session is None:
        return None
    try:
        session.offset = await _standing(session, budget)
    except _StartOver:
        return None
    return session if state.offset <= session.offset <= descriptor.size else None


async def _standing(session: Session, budget: Budget) -> int:
    """How many bytes the registry says it has; raises ``_StartOver`` when it does not know the session."""
    repository = session.repository
    answer = await repository.registry.transport.ask(
        structs.replace(session.at, method="GET", repeatable=True), budget=budget
    )
    if not _is_accepted(answer):
        error = await repository.refusal(answer)
        raise error if isinstance(error, Denied) else _StartOver(error)
    session.moved(answer)
    return uploaded(answer.headers.get("Range"))


def _stretch(start: int, length: int) -> dict[str, str]:
    return {**_OCTETS, "Content-Range": f"{start}-{start + length - 1}"}


def _is_accepted(answer: Answer) -> bool:
    """Whether a session took note of a request; a page to log in at is no session."""
    return answer.status in _ACCEPTED and not is_web_page(answer)


def _is_too_large(answer: Answer) -> bool:
    """413, or the 416 by which GitHub's registry says the same (ocx-sh/ocx#237)."""
    if answer.status == 413:
        return True
    words = answer.content.lower()
    return answer.status in (400, 416) and (b"too large" in words or b"exceeds" in words)


def _is_unknown_way(answer: Answer, session: Session, codes: set[str]) -> bool:
    """Whether the first body of a session met a registry that does not know what to make of it."""
    if session.offset or "DIGEST_INVALID" in codes:
        return False
    is_lost = codes & {"BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID"}
    return answer.status == 400 or (answer.status == 404 and not is_lost)
