from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import web

COMMON_HEADERS = {
    "Docker-Distribution-Api-Version": "registry/2.0",
    "Server": "syncer",
    "X-Content-Type-Options": "nosniff",
}


class Problem(Exception):
    """A request that is answered with one of the distribution spec's errors.

    With ``details`` the answer lists the error once for each.
    """

    def __init__(
        self,
        status: HTTPStatus,
        code: str,
        message: str,
        *,
        details: Sequence[Any] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.details = details
        self.headers = headers or {}

    def response(self) -> web.Response:
        """The error as the spec's JSON."""
        error = {"code": self.code, "message": str(self)}
        errors = [error | {"detail": detail} for detail in self.details] or [error]
        return json_response({"errors": errors}, status=self.status, headers=self.headers)


def json_response(
    document: Any,
    *,
    status: HTTPStatus = HTTPStatus.OK,
    headers: Mapping[str, str] | None = None,
    content_type: str = "application/json",
) -> web.Response:
    return web.Response(
        body=orjson.dumps(document),
        status=status,
        headers=COMMON_HEADERS | {"Content-Type": content_type} | dict(headers or {}),
    )


def not_modified(headers: Mapping[str, str]) -> web.Response:
    """What a client has is what it would get."""
    return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=dict(headers))


def empty_response(status: HTTPStatus, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(status=status, headers=COMMON_HEADERS | {"Content-Length": "0"} | dict(headers or {}))
