"""The ways to authenticate that a server offers, and the hosts that may be sent a login for another one."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from msgspec import Struct, field

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TOKEN68 = re.compile(r"[ \t]+([A-Za-z0-9._~+/-]+=*)[ \t]*(?=,|$)")
_VALUE = re.compile(r'[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([!#$%&\'*+.^_`|~0-9A-Za-z:/-]+))')
_EQUALS = re.compile(r"[ \t]*=")
_GAP = re.compile(r"[ \t,]*")
_JUNK = re.compile(r'(?:"(?:[^"\\]|\\.)*(?:"|\\?$)|[^,"])*')
_LONGEST = 64 * 1024

_SHARED = (
    "amazonaws.com",
    "amazonaws.com.cn",
    "on.aws",
    "aws.dev",
    "cloudfront.net",
    "elasticbeanstalk.com",
    "azurecr.io",
    "azurecr.cn",
    "azurecr.us",
    "azurewebsites.net",
    "azurestaticapps.net",
    "azure-api.net",
    "azureedge.net",
    "azurefd.net",
    "cloudapp.net",
    "cloudapp.azure.com",
    "windows.net",
    "trafficmanager.net",
    "pkg.dev",
    "gcr.io",
    "run.app",
    "appspot.com",
    "web.app",
    "firebaseapp.com",
    "cloudfunctions.net",
    "googleapis.com",
    "github.io",
    "githubusercontent.com",
    "gitlab.io",
    "bitbucket.io",
    "jfrog.io",
    "cloudsmith.io",
    "sonatype.app",
    "aliyuncs.com",
    "myhuaweicloud.com",
    "myqcloud.com",
    "tencentcloudcr.com",
    "volces.com",
    "scw.cloud",
    "ovh.net",
    "oraclecloud.com",
    "ocir.io",
    "digitaloceanspaces.com",
    "ondigitalocean.app",
    "herokuapp.com",
    "netlify.app",
    "vercel.app",
    "pages.dev",
    "workers.dev",
    "r2.dev",
    "fly.dev",
    "onrender.com",
    "railway.app",
    "ngrok.io",
    "ngrok.app",
    "ngrok.dev",
    "ngrok-free.app",
    "trycloudflare.com",
    "duckdns.org",
    "nip.io",
    "sslip.io",
    "local.gd",
    "lhr.life",
    "loca.lt",
    "dyndns.org",
    "no-ip.org",
    "ddns.net",
)
"""Domains under which strangers have their hosts, as far as registries or those who would pose as one use them."""
_SECOND_LEVEL = frozenset(
    {"ac", "co", "com", "edu", "go", "gob", "gov", "gouv", "mil", "ne", "net", "nom", "or", "org"}
)
_KNOWN = frozenset({("registry.redhat.io", "sso.redhat.com")})  # pairs of one owner that their names do not show


class Challenge(Struct, frozen=True):
    """One way to authenticate that a server offers; scheme and parameter names are lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    token68: str | None = None


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """Every challenge in the headers' values, in order.  What cannot be read is passed over.

    >>> [found.scheme for found in parse_challenges(['Negotiate, Basic realm="a, b"'])]
    ['negotiate', 'basic']
    """
    return tuple(found for header in headers for found in _challenges(header[:_LONGEST]))


def _challenges(header: str) -> Iterator[Challenge]:
    scheme: str | None = None
    parameters: dict[str, str] = {}
    position = _end(_GAP, header, 0)
    while position < len(header):
        name = _TOKEN.match(header, position)
        if name is None:
            position = max(_end(_JUNK, header, position), position + 1)
        elif value := _VALUE.match(header, name.end()):
            quoted, plain = value.groups()
            parameters.setdefault(name[0].lower(), plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
            position = value.end()
        elif _EQUALS.match(header, name.end()):  # a value that cannot be read
            position = _end(_JUNK, header, name.end())
        else:
            if scheme is not None:
                yield Challenge(scheme, MappingProxyType(parameters))
            scheme, parameters = name[0].lower(), {}
            position = name.end()
            if token68 := _TOKEN68.match(header, position):
                yield Challenge(scheme, token68=token68[1])
                scheme, position = None, token68.end()
        position = _end(_GAP, header, position)
    if scheme is not None:
        yield Challenge(scheme, MappingProxyType(parameters))


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    found = pattern.match(text, position)
    return found.end() if found else position


def is_related(host: str, other: str) -> bool:
    """Tell whether two hosts are the same, or lie under one domain that somebody can own.

    >>> is_related("registry-1.docker.io", "auth.docker.io"), is_related("mine.azurecr.io", "yours.azurecr.io")
    (True, False)
    """
    host, other = host.lower().rstrip("."), other.lower().rstrip(".")
    if host == other or (host, other) in _KNOWN:
        return True
    domain = _owned_domain(host)
    return domain is not None and domain == _owned_domain(other)


def _owned_domain(host: str) -> str | None:
    """The shortest domain above ``host`` that has one owner; None for an address, a single name, a shared domain."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return None
    if f".{host}".endswith(tuple(f".{shared}" for shared in _SHARED)):
        return None
    labels = host.split(".")
    if len(labels) < 2:
        return None
    is_second_level = len(labels[-1]) == 2 and labels[-2] in _SECOND_LEVEL  # example.co.uk is owned, co.uk is not
    return ".".join(labels[-3:]) if is_second_level else ".".join(labels[-2:])
