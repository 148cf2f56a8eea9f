"""Lists that a registry gives page by page: of tags, of referrers, of repositories.

A list is read to its end, or is an error: what is not known to be whole is never taken for all there is.
https://github.com/opencontainers/distribution-spec/blob/main/spec.md#listing-tags
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from msgspec import Struct, structs
from yarl import URL

from syncer.errors import InvalidContent, ListIncomplete
from syncer.oci.manifest import load_object
from syncer.registry.answers import next_link, refusal, upgraded_location, with_parameters
from syncer.transport import Answer, Request, Transport
from syncer.transport.guard import authority, origin, without_secrets
from syncer.transport.message import resolved

Entry = TypeVar("Entry", bound=Hashable)

PAGE = 1000
"""Entries that are asked for at a time; Amazon's registry refuses more."""

LARGEST_PAGE = 8 * 1024 * 1024
"""Bytes that are read of a page."""

_MOST_PAGES = 10_000
_MOST_ENTRIES = 1_000_000
_MOST_BYTES = 32 * 1024 * 1024  # of all pages of a list

_HINT = "nothing is taken for missing that such a list leaves out; what is wrong is the registry, or a proxy before it"


class Pages(Struct, Generic[Entry], frozen=True):
    """The pages of one list, of which the first was asked for by ``first``.

    ``read`` takes the entries out of an answer of status 200.  ``bare`` is the list's own address, where entries
    after the last one are asked for if a full page has no ``Link``; None where no list can be asked like that.
    """

    transport: Transport
    first: Request
    read: Callable[[Answer], Sequence[Entry]]
    bare: URL | None
    notice: Callable[[str], None]  # hears of what is odd and does no harm
    most: int | None = None  # entries, where less than _MOST_ENTRIES make sense

    async def entries(self, answer: Answer) -> AsyncIterator[list[Entry]]:
        """The entries of each page that no page before it had; ``answer`` is the first page, of status 200.

        Raises ``ListIncomplete`` when the list ends and is not known to be whole, ``InvalidContent`` for what is no
        such list, and a ``NetworkError``.
        """
        asked = {self.first.url}
        seen: set[Entry] = set()
        most = self.most or _MOST_ENTRIES
        size = 0
        for _ in range(_MOST_PAGES):
            page = self.read(answer)
            size += len(answer.content)
            if len(seen) + len(page) > most:
                raise _incomplete(answer, f"it has more than {most:,} entries")
            if size > _MOST_BYTES:
                raise _incomplete(answer, f"it has more than {_MOST_BYTES:,} bytes")
            fresh = [entry for entry in dict.fromkeys(page) if entry not in seen]
            seen.update(fresh)
            yield fresh
            following = self._following(answer, page)
            if following is None:
                return
            if page and not fresh:
                raise _incomplete(answer, "a page repeats what was there already, and says that more follows")
            if following.url in asked:
                raise _incomplete(answer, "its pages lead in a circle")
            asked.add(following.url)
            answer = await self.transport.ask(following, limit=LARGEST_PAGE)
            if answer.status != 200:
                raise ListIncomplete(f"the list is cut off after {len(seen):,} entries: {refusal(answer)}", hint=_HINT)
        raise _incomplete(answer, f"it has more than {_MOST_PAGES:,} pages")

    def _following(self, answer: Answer, page: Sequence[Entry]) -> Request | None:
        """The request for the next page; None at the end."""
        link = next_link(answer.headers.getall("Link", ()))
        if link is not None:
            return self._at(answer, self._linked(answer, link))
        if self.bare is not None and len(page) == PAGE:
            return self._at(answer, with_parameters(self.bare, ("n", str(PAGE)), ("last", str(page[-1]))))
        return None

    def _linked(self, answer: Answer, link: str) -> URL:
        """Where ``link`` leads, at the host that gave it: another one has nothing to do with this list.

        A registry behind a gateway names itself by its inner name (oras-project/artifacts-spec#93), and one behind a
        TLS proxy with ``http:``; it is asked where it was found, if the path is still that of the list.
        """
        try:
            target = resolved(answer.url, upgraded_location(answer.url, answer.url, link))
        except ValueError:
            raise _incomplete(answer, "its next page has no address that can be read") from None
        if origin(target) != origin(answer.url):
            if target.raw_path != answer.url.raw_path:
                raise _incomplete(answer, f"its next page is said to be {without_secrets(target)}, another list")
            self.notice(
                f"{authority(answer.url)} says that the next pages of its lists are at {authority(target)}, and was "
                "asked for them itself"
            )
        return URL(f"{answer.url.origin()}{target.raw_path_qs}", encoded=True)

    def _at(self, answer: Answer, url: URL) -> Request:
        """``first`` for another page; credentials are for the origin that the list was asked for at first."""
        if origin(url) == origin(self.first.url):
            return structs.replace(self.first, url=url)
        return structs.replace(self.first, url=url, authorizer=None, reach=answer.scope)


def names_in(answer: Answer, key: str) -> list[str]:
    """The names under ``key``, ``tags`` or ``repositories``, of a page; raises ``InvalidContent`` for what is no list.

    An empty list may be null, and beside the name of its repository it may be left out.
    """
    if not answer.is_whole:
        raise InvalidContent(f"{answer.request}: a page of the list has more than {LARGEST_PAGE:,} bytes")
    document = load_object(answer.content)
    names = document.get(key)
    if names is None and (key in document or "name" in document):
        return []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InvalidContent(f"{answer.request}: the {key} are no list of names")
    return names


def _incomplete(answer: Answer, problem: str) -> ListIncomplete:
    return ListIncomplete(f"{answer.request}: the list is not whole: {problem}", hint=_HINT)
