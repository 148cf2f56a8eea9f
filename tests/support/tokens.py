"""A token server as the distribution spec's clients know it, which Debian's registry trusts."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

ISSUER = "token server of the tests"


@dataclass(frozen=True, slots=True)
class Login:
    """What a user types."""

    username: str
    password: str = field(repr=False)

    @property
    def header(self) -> str:
        """The value of ``Authorization`` for Basic."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What a client asked the token server for."""

    method: str
    service: str | None
    scopes: tuple[str, ...]
    username: str | None
    grant_type: str | None
    status: int


@dataclass(slots=True)
class TokenServer:
    """A running token server; its settings may be changed while it runs."""

    realm: str
    certificate: Path  # whom a registry must trust
    login: Login | None
    refresh_token: str | None
    _key: ec.EllipticCurvePrivateKey
    service: str = "registry of the tests"
    expires_in: int | None = 300  # seconds, as the answer says; None leaves it out
    lifetime: int = 300  # seconds that the token really lives; Debian's registry allows 60 more
    field_name: str = "token"
    withheld: set[str] = field(default_factory=set)  # repositories for which nobody gets anything
    asked: list[TokenRequest] = field(default_factory=list)

    def token(self, *scopes: str) -> str:
        """A signed token for ``scopes``, such as ``repository:a/b:pull,push``."""
        now = int(time.time())
        der = x509.load_pem_x509_certificate(self.certificate.read_bytes()).public_bytes(serialization.Encoding.DER)
        header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(der).decode()]}
        claims = {
            "iss": ISSUER,
            "sub": self.login.username if self.login else "",
            "aud": self.service,
            "nbf": now - 600,
            "iat": now,
            "exp": now + self.lifetime,
            "jti": uuid.uuid4().hex,
            "access": [access for scope in scopes if (access := self._access(scope))],
        }
        signed = f"{_part(json.dumps(header).encode())}.{_part(json.dumps(claims).encode())}"
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_part(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def _access(self, scope: str) -> dict[str, object] | None:
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        if name in self.withheld:
            return None
        return {"type": kind, "name": name, "actions": actions.split(",")}

    async def _answer(self, request: web.Request) -> web.Response:
        form = await request.post() if request.method == "POST" else {}
        scopes = [*request.query.getall("scope", []), *str(form.get("scope", "")).split()]
        status = self._status(request, form)
        self.asked.append(
            TokenRequest(
                request.method,
                request.query.get("service") or str(form.get("service", "")) or None,
                tuple(scopes),
                _username(request.headers.get("Authorization")),
                str(form["grant_type"]) if "grant_type" in form else None,
                status,
            )
        )
        if status != 200:
            return web.json_response({"errors": [{"code": "UNAUTHORIZED", "message": "no"}]}, status=status)
        answer: dict[str, object] = {self.field_name: self.token(*scopes)}
        if self.expires_in is not None:
            answer["expires_in"] = self.expires_in
        return web.json_response(answer)

    def _status(self, request: web.Request, form: object) -> int:
        if request.method == "POST":
            given = form.get("refresh_token") if hasattr(form, "get") else None
            return 200 if self.refresh_token and given == self.refresh_token else 401
        given = request.headers.get("Authorization")
        if self.login is None:
            return 200
        return 200 if given == self.login.header else 401


@asynccontextmanager
async def token_server(
    directory: Path, *, login: Login | None = None, refresh_token: str | None = None
) -> AsyncIterator[TokenServer]:
    """A token server on loopback, whose certificate lies in ``directory``.

    Without ``login`` it gives a token to everybody.
    """
    directory.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = directory / "tokens.pem"
    certificate.write_bytes(_self_signed(key))
    server = TokenServer("", certificate, login, refresh_token, key)
    app = web.Application()
    app.add_routes([web.get("/token", server._answer), web.post("/token", server._answer)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.realm = f"http://127.0.0.1:{runner.addresses[0][1]}/token"
        yield server
    finally:
        await runner.cleanup()


def _self_signed(key: ec.EllipticCurvePrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def _username(authorization: str | None) -> str | None:
    scheme, _, rest = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    return base64.b64decode(rest).decode().partition(":")[0]


def _part(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def granted(tokens: Iterable[TokenRequest]) -> list[tuple[str, ...]]:
    """The scopes of each request that got a token, in order."""
    return [request.scopes for request in tokens if request.status == 200]
