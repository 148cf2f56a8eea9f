"""A registry's no, in its own words and as one of our errors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import orjson

from syncer.errors import Denied, NotFound, RegistryError
from syncer.transport import Answer
from syncer.transport.redact import readable

_DIGEST = re.compile(r"sha(?:256:[0-9a-f]{64}|512:[0-9a-f]{128})")
_MOST = 100  # problems and digests that are read of one answer


@dataclass(frozen=True, slots=True)
class Problem:
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


def _text(answer: Answer) -> tuple[str, ...]:
    """What a server that is no registry says, unless it is a web page."""
    if answer.media_type == "text/html" or not answer.content:
        return ()
    text = readable(answer.content.decode(errors="replace"))
    return (text,) if text else ()
