"""The hosts that belong together, so that the login for one may be sent to the other."""

from __future__ import annotations

import ipaddress

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
