"""The answers of registries: headers that tell of bytes and of where to go on, errors, and lists given page by page.

A list (of tags, of referrers, of repositories) is read to its end, or is an error: what is not known to be whole is
never taken for all there is.
https://github.com/opencontainers/distribution-spec/blob/main/spec.md#listing-tags
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import orjson
from msgspec import Struct, structs
from yarl import URL

from syncer.errors import Denied, InvalidContent, ListIncomplete, NotFound, RegistryError
from syncer.oci.manifest import load_object
from syncer.transport import Answer, Request, Transport
from syncer.transport.guard import authority, origin, readable, upgraded, without_secrets
from syncer.transport.message import resolved

_UPLOAD_RANGE = re.compile(r"[ \t]*(?:bytes[= \t][ \t]*)?0-([0-9]{1,19})[ \t]*", re.IGNORECASE)
_LINK = re.compile(r"[ \t,]*<([^<>]*)>([^<]*)")
_NEXT = re.compile(r";[ \t]*rel[ \t]*=[ \t]*(?:\"[^\"]*\bnext\b[^\"]*\"|next\b)", re.IGNORECASE)
_LARGEST_CHUNK = 512 * 1024 * 1024

_DIGEST = re.compile(r"sha(?:256:[0-9a-f]{64}|512:[0-9a-f]{128})")
_MOST = 100  # problems and digests that are read of one answer
_AMAZON = re.compile(r"(?P<account>[0-9]+)\.dkr\.ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")
_GZIP = b"\x1f\x8b"
_ERRORS = 400  # the statuses from here on say that something went wrong
_FULL = ("quota", "storage limit", "no space")


def uploaded(text: str | None) -> int:
    """The number of bytes of an upload that a registry has, by the ``Range`` in its answer.

    ``0-N`` means N+1, also as ``bytes=0-N`` (Quay); ``0--1``, nothing at all and nonsense mean none; and so does
    ``0-0``, which distribution answers for none and for one.
    """
    found = _UPLOAD_RANGE.fullmatch(text or "")
    last = int(found[1]) if found else 0
    return last + 1 if last else 0


def least_chunk(text: str | None) -> int:
    """``OCI-Chunk-Min-Length`` in bytes; 0 when there is none that a sane registry would send."""
    text = (text or "").strip()
    if not (text.isascii() and text.isdigit()) or len(text) > 12:
        return 0
    least = int(text)
    return least if least <= _LARGEST_CHUNK else 0


def next_link(values: Iterable[str]) -> str | None:
    """The target of ``Link: <…>; rel="next"`` (RFC 8288), as it is written."""
    for value in values:
        for target, parameters in _LINK.findall(value[: 64 * 1024]):
            if _NEXT.search(parameters):
                return str(target).strip()
    return None


def upgraded_location(base: URL, answered: URL, location: str) -> str:
    """``location``, which ``answered`` gave, as ``guard.upgraded`` has it; raises ``ValueError`` for no address."""
    if base.scheme != "https":
        return location
    target = resolved(answered, location)
    moved = upgraded(base, target)
    return location if moved is target else str(moved)


@lru_cache(maxsize=1024)  # a fleet has the same digests at all its sites
def _quoted(value: str) -> str:
    return quote(value, safe="")


def with_parameters(url: URL, *parameters: tuple[str, str]) -> URL:
    """``url`` with more in its query; what is there stays byte for byte, since it may be signed."""
    added = "&".join([f"{name}={_quoted(value)}" for name, value in parameters])
    text = str(url)
    return URL(f"{text}{'&' if '?' in text else '?'}{added}", encoded=True)


class Problem(Struct, frozen=True):
    """One of the errors in an answer (distribution-spec, "Error Codes")."""

    code: str
    message: str
    digests: tuple[str, ...]  # that its detail names


def problems_of(answer: Answer) -> tuple[Problem, ...]:
    """The errors that the answer's body lists; none when it is not the JSON that the spec asks for."""
    try:
        document = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        return ()
    errors = document.get("errors") if isinstance(document, dict) else None
    if not isinstance(errors, list):
        return ()
    return tuple(_problem(error) for error in errors[:_MOST] if isinstance(error, dict))


def refusal(answer: Answer, *, hint: str | None = None) -> RegistryError:
    """The error for an answer whose status is not the one that was hoped for."""
    problems = problems_of(answer)
    words = tuple(dict.fromkeys(_in_words(problem) for problem in problems)) or _text(answer)
    codes = tuple(problem.code for problem in problems)
    if hint is None and answer.status < _ERRORS:
        hint = f"is {answer.url.host} a registry, or does something on the way want a login?"
    kind = {401: Denied, 403: Denied, 404: NotFound}.get(answer.status, RegistryError)
    return kind(answer.request, answer.status, words, codes=codes, hint=hint)


def _problem(error: dict[str, Any]) -> Problem:
    message = error.get("message")
    detail = error.get("detail")
    if isinstance(detail, str):
        shown = detail
    elif isinstance(detail, dict):  # "reason", "Message" and the like; the rest is for programs
        shown = next((value for key, value in detail.items() if "name" not in key and isinstance(value, str)), "")
    else:
        shown = ""
    words = message if isinstance(message, str) else ""
    if shown and shown not in words and not _DIGEST.fullmatch(shown):
        words = f"{words} ({shown})" if words else shown
    try:
        text = "" if detail is None else orjson.dumps(detail).decode()
    except orjson.JSONEncodeError:
        text = ""
    digests = tuple(dict.fromkeys(_DIGEST.findall(text)))[:_MOST]
    return Problem(readable(str(error.get("code", ""))), readable(words), digests)


def _in_words(problem: Problem) -> str:
    return ": ".join(filter(None, (problem.code, problem.message)))


def is_web_page(answer: Answer) -> bool:
    """Tell whether something that is no registry answered: a page to log in at, say, which comes with status 200."""
    return answer.media_type == "text/html"


COMPRESSED = "the registry sent compressed data that nobody asked for"
COMPRESSED_HINT = "a proxy before the registry may compress what it passes on: it must not do so for a registry"


def is_compressed(answer: Answer) -> bool:
    """Tell whether what came is compressed, though every request says that it must not be."""
    encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
    return encoding not in ("", "identity") or answer.content.startswith(_GZIP)


def _text(answer: Answer) -> tuple[str, ...]:
    """What a server that is no registry says; of a web page no more than that it is one."""
    if is_web_page(answer):
        return ("a web page came, and no answer of a registry",) if answer.status < _ERRORS else ()
    text = readable(answer.content.decode(errors="replace"))
    return (text,) if text else ()


def is_full(error: RegistryError) -> bool:
    """Tell whether the registry has no room for more content."""
    words = " ".join(error.problems).lower()
    return error.status == 507 or any(sign in words for sign in _FULL)


def hint_for(host: str, repository: str, error: RegistryError) -> str | None:
    """One sentence that helps with ``error`` at ``host``; None when there is nothing to add."""
    if is_full(error):
        return "make room at the registry, or have its quota raised, and run again: what is there is not sent again"
    if error.status == 413:
        return "something in front of the registry limits the size of a request: raise that, or lower --chunk-size"
    if error.status == 404:
        return _missing(host, repository)
    if error.status in (409, 412) or "immutable" in " ".join(error.problems).lower():
        return "the tag may not be moved: push under another tag, or delete the old one"
    if error.status == 415 or "MANIFEST_INVALID" in error.codes:
        return "the registry does not take this kind of content; it may have to be allowed in its configuration"
    return None


def _missing(host: str, repository: str) -> str:
    if amazon := _AMAZON.fullmatch(host):
        return f"create it: aws ecr create-repository --region {amazon['region']} --repository-name {repository}"
    return f"does {host} want {repository.partition('/')[0]!r} (a project, group or repository) to be created first?"


Entry = TypeVar("Entry", bound=Hashable)

PAGE = 1000
"""Entries that are asked for at a time; Amazon's registry refuses more."""

LARGEST_PAGE = 8 * 1024 * 1024
"""Bytes that are read of a page."""

_MOST_PAGES = 10_000
_MOST_ENTRIES = 1_000_000
_MOST_BYTES = 32 * 1024 * 1024  # of all pages of a list

_HINT = "the registry, or a proxy before it, is at fault; syncer deletes nothing because of such a list"


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
    if is_compressed(answer):
        raise InvalidContent(f"{answer.request}: {COMPRESSED}", hint=COMPRESSED_HINT)
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
