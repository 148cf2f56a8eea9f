"""Docker Hub's names: references, logins, rules and files use many of them for one registry.

The names are those of Docker and of the libraries that other tools are made of: ``docker.io`` in references
(distribution/reference, ``normalize.go``), ``https://index.docker.io/v1/`` in files of logins (docker/cli,
``IndexServer``), ``registry-1.docker.io`` for the API.  A host's name means the same in upper and in lower case;
with a port it is another registry, and so is every host below or beside these.
"""

from __future__ import annotations

DOCKER_HUB = "docker.io"
"""The name of Docker Hub that syncer stores, shows and compares."""

_API_HOST = "registry-1.docker.io"
_LOGIN_KEY = "https://index.docker.io/v1/"
_NAMES = frozenset({DOCKER_HUB, "index.docker.io", _API_HOST, "registry.hub.docker.com", "hub.docker.com"})
_LIBRARY = "library"
_API_VERSIONS = frozenset({"v1", "v2"})


def canonical_host(host: str) -> str:
    """``docker.io`` for each name of Docker Hub; any other ``host[:port]`` as it is.

    >>> canonical_host("registry-1.docker.io"), canonical_host("docker.io:443")
    ('docker.io', 'docker.io:443')
    """
    return DOCKER_HUB if host.lower() in _NAMES else host


def api_host(host: str) -> str:
    """The ``host[:port]`` of the API of the registry ``host``; at Docker Hub it differs from the name in references."""
    return _API_HOST if canonical_host(host) == DOCKER_HUB else host


def login_key(host: str) -> str:
    """The name under which Docker's files and helpers keep a login for ``host``."""
    return _LOGIN_KEY if canonical_host(host) == DOCKER_HUB else host


def login_place(place: str) -> str:
    """The ``host[/path]`` that a login belongs to, in the spelling of references.

    Docker Hub's key for logins ends in the version of the API, which is no path of a repository.
    """
    host, slash, path = place.partition("/")
    host = canonical_host(host)
    if host == DOCKER_HUB and path.rstrip("/") in _API_VERSIONS:
        return host
    return f"{host}{slash}{path}"


def full_repository(host: str, repository: str) -> str:
    """The full name of ``repository`` at ``host``: a name of one part lies in ``library`` at Docker Hub."""
    return f"{_LIBRARY}/{repository}" if host == DOCKER_HUB and repository and "/" not in repository else repository


def meanings(prefix: str) -> tuple[str, ...]:
    """The prefixes that a rule for ``prefix`` (``host[/path]``) stands for.

    A name of one part at Docker Hub is a user, whose repositories it begins, or is short for a repository in
    ``library``.

    >>> meanings("docker.io/busybox")
    ('docker.io/busybox', 'docker.io/library/busybox')
    """
    host, _, path = prefix.partition("/")
    full = full_repository(host, path)
    return (prefix,) if path in (full, _LIBRARY) else (prefix, f"{host}/{full}")
