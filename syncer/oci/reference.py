"""References: the names of images, as Docker's rules write them out, and the tags that referrers have.

These are cosign's, and those that replace the referrers API at registries without it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Any, Self

from msgspec import Struct
from msgspec.structs import replace

from syncer.errors import HIDDEN, InvalidContent, InvalidReference, UsageError
from syncer.oci.descriptor import Digest
from syncer.oci.docker_hub import DOCKER_HUB, canonical_host, full_repository

_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*)")
_PORT = re.compile(r"[0-9]{1,5}")
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_NO_SCHEMES = ("docker", "oci")  # words of other tools, which say nothing of how a registry is spoken to
_MAX_REPOSITORY = 255
_DIGEST_LIKE = re.compile(r"(?:sha|md|blake)\w*:[^/]*", re.ASCII)


class Reference(Struct, frozen=True, eq=False):
    """The name of an image, ``registry/repository:tag@digest``, written out by Docker's rules.

    >>> str(Reference.parse("busybox"))
    'docker.io/library/busybox:latest'
    """

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None
    plain_http: bool | None = None
    """Whether its registry is to be asked by HTTP or HTTPS, where that was written; no part of the name."""

    def __eq__(self, other: object) -> bool:
        return self._parts == other._parts if isinstance(other, Reference) else NotImplemented

    def __ne__(self, other: object) -> bool:  # a Struct has its own
        return not self == other

    def __lt__(self, other: Self) -> bool:
        return self._parts < other._parts

    def __hash__(self) -> int:
        return hash((self.registry, self.repository, self.tag, self.digest))  # in one: it is asked for all the time

    @property
    def _parts(self) -> tuple[Any, ...]:
        return self.registry, self.repository, self.tag, self.digest

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``text``; the tag is ``latest`` when it has neither tag nor digest.

        Raises ``InvalidReference``, which says which part is wrong.
        """
        _check_no_login(text)
        name, at, digest_text = text.partition("@")
        digest = _digest(text, digest_text) if at else None
        registry, path = _split_registry(name)
        path, tag = _split_tag(text, path)
        path = full_repository(registry, path)
        _check_registry(text, registry)
        _check_repository(text, path)
        if tag is None and digest is None:
            tag = "latest"
        return cls(registry, path, tag, digest)

    @classmethod
    def parse_address(cls, text: str) -> Self:
        """Parse a text that people type.

        ``http://``, ``https://``, skopeo's ``docker://`` or Helm's ``oci://`` may be before it.

        >>> Reference.parse_address("http://10.0.0.1:5000/app").plain_http
        True
        """
        scheme, found, rest = text.partition("://")
        if not found or scheme.lower() not in ("http", "https", *_NO_SCHEMES):
            return cls.parse(text)
        plain_http = None if scheme.lower() in _NO_SCHEMES else scheme.lower() == "http"
        return replace(cls.parse(rest), plain_http=plain_http)

    def at(self, digest: Digest) -> Self:
        """A reference to ``digest`` in the same repository, without a tag."""
        return replace(self, tag=None, digest=digest)

    def tagged(self, tag: str) -> Self:
        """A reference to ``tag`` in the same repository, without a digest; raises ``InvalidReference``."""
        if not _TAG.fullmatch(tag):
            raise InvalidReference(f"{self.name}:{tag}", _tag_problem(tag))
        return replace(self, tag=tag, digest=None)

    @property
    def name(self) -> str:
        """``registry/repository``."""
        return f"{self.registry}/{self.repository}"

    @property
    def path(self) -> str:
        """``registry/repository`` as the name of a repository at another registry.

        The port follows an underscore, since a repository's name holds no colon (docs/design.md, "Where images land").
        """
        host, port = split_port(self.registry)
        if host.startswith("["):
            host = ipaddress.IPv6Address(host[1:-1]).exploded.replace(":", "-")
        return f"{host.lower()}{'_' + port if port else ''}/{self.repository}"

    def __repr__(self) -> str:
        return f"Reference({str(self)!r})"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"


def split_port(registry: str) -> tuple[str, str | None]:
    """Split ``host[:port]`` into host and port, None without one; an IPv6 address keeps its brackets."""
    host, colon, port = registry.rpartition(":")
    if colon and not port.endswith("]"):
        return host, port
    return registry, None


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if slash and (first == "localhost" or set(first) & set(".:[") or first != first.lower()):
        return canonical_host(first), rest
    return DOCKER_HUB, name


def _split_tag(text: str, path: str) -> tuple[str, str | None]:
    head, colon, tag = path.rpartition(":")
    if not colon:
        return path, None
    if not _TAG.fullmatch(tag):
        raise InvalidReference(text, _tag_problem(tag))
    return head, tag


def _tag_problem(tag: str) -> str:
    if not tag:
        return "the tag after the colon is empty"
    if len(tag) > 128:
        return "the tag is longer than 128 characters"
    return f"the tag {tag[:60]!r} may hold letters, digits, dots, dashes and underscores only"


def refuse_login(place: str) -> None:
    """Raise ``UsageError`` when ``place``, the address of a registry without its scheme, holds a login."""
    before, after = _split_login(place)
    if before:
        host = after.partition("/")[0] or "HOST"
        raise UsageError(
            f"{after!r} is written with a login, and the address of a registry holds none",
            hint=f"leave it out, and log in with syncer login {host}",
        )


def registry_place(text: str) -> tuple[str, str]:
    """The host, as references write it, and the path that ``[http://|https://]HOST[:PORT][/BASE]`` names.

    A host without a dot, behind a scheme, gets its port: a reference would take it for a part of a repository.

    >>> registry_place("http://Harbor.example.com/mirror/"), registry_place("https://harbor")
    (('harbor.example.com', 'mirror'), ('harbor:443', ''))
    """
    scheme, found, rest = text.rpartition("://")
    host, _, base = rest.partition("/")
    host = canonical_host(host.lower())
    if found and not set(host) & set(".:") and host != "localhost":
        host = f"{host}:{80 if scheme.lower() == 'http' else 443}"
    return host, base.strip("/")


def target_key(registry: str) -> str:
    """``HOST[:PORT][/BASE]`` of an address that ``registry_place`` takes: two targets that have it are one place.

    The port that its scheme has anyway is left out.

    >>> target_key("http://Harbor.example.com:80/mirror/"), target_key("harbor:443")
    ('harbor.example.com/mirror', 'harbor')
    """
    host, base = registry_place(registry)
    usual = ":80" if registry[:7].lower() == "http://" else ":443"
    return "/".join(filter(None, (host.removesuffix(usual), base)))


def _split_login(text: str) -> tuple[str, str]:
    """The login that ``text`` may begin with, and the rest without a digest at its end."""
    before, _, after = text.rpartition("@")
    if _DIGEST_LIKE.fullmatch(after):
        before, _, after = before.rpartition("@")
    return before, after


def _check_no_login(text: str) -> None:
    """Refuse ``user:password@`` before any part of it could be shown as the part that is wrong."""
    before, after = _split_login(text)
    if before and ("@" in before or "://" in before or "/" in after):
        raise InvalidReference(f"{HIDDEN}@{after}", "it holds a login, which no name of an image has")


def _digest(text: str, digest: str) -> Digest:
    try:
        return Digest.parse(digest)
    except InvalidContent as error:
        raise InvalidReference(text, f"the digest is wrong, {error}") from None


def _check_registry(text: str, registry: str) -> None:
    host, port = split_port(registry)
    if port == "" and (scheme := re.match(r"[a-z]+://", text, re.IGNORECASE)):
        raise InvalidReference(text, f"it begins with {scheme[0]}, and a name has no scheme")
    if port is not None and not (_PORT.fullmatch(port) and 0 < int(port) < 65536):
        raise InvalidReference(text, f"the port {port[:20]!r} of its registry is not a number from 1 to 65535")
    if host.startswith("[") and host.endswith("]"):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            raise InvalidReference(text, f"its registry {host[:60]!r} is not an IPv6 address") from None
    elif not _HOST.fullmatch(host):
        raise InvalidReference(text, f"its registry {host[:60]!r} is not a host name")


def _check_repository(text: str, path: str) -> None:
    if not path:
        raise InvalidReference(text, "it names no repository")
    if len(path) > _MAX_REPOSITORY:
        raise InvalidReference(text, f"its repository is longer than {_MAX_REPOSITORY} characters")
    for component in path.split("/"):
        if not _COMPONENT.fullmatch(component):
            problem = (
                "has an empty part between slashes"
                if not component
                else f"must be lower case, but has {component[:60]!r}"
                if component != component.lower()
                else f"has a colon in {component[:60]!r}, and one stands before the tag alone"
                if ":" in component
                else f"has {component[:60]!r}, which is not letters and digits joined by dots, dashes or underscores"
            )
            raise InvalidReference(text, f"its repository {problem}")


_LONGEST = 128  # characters of a tag (distribution-spec, "Pulling manifests")
_COSIGN = (".sig", ".att", ".sbom")
_REFERRER_TAG = re.compile(r"(sha256-[0-9a-f]{64})(?:\.[a-z]+)?|(sha512-[0-9a-f]{121})")


def fallback_tag(subject: Digest) -> str:
    """The tag that lists the referrers of ``subject`` at a registry without the API for them.

    Distribution-spec, "Referrers Tag Schema", defines it.

    >>> from syncer.oci import Digest
    >>> fallback_tag(Digest.of(b"hello"))[:20]
    'sha256-2cf24dba5fb0a'
    """
    return f"{subject.algorithm}-{subject.hex}"[:_LONGEST]


def cosign_tags(subject: Digest) -> tuple[str, ...]:
    """The tags under which cosign keeps signatures, attestations and SBOMs of ``subject``."""
    return tuple(f"{subject.algorithm}-{subject.hex}{suffix}" for suffix in _COSIGN)


def subject_tag(tag: str) -> str | None:
    """The fallback tag of the manifest that ``tag`` is about; None when ``tag`` is not one of a referrer.

    ``tag`` may be one of cosign's or a fallback tag itself.

    >>> subject_tag(f"sha256-{'a' * 64}.sig") == f"sha256-{'a' * 64}"
    True
    """
    match = _REFERRER_TAG.fullmatch(tag)
    return match[1] or match[2] if match else None


_NUMBERS = re.compile(r"[0-9]+")
_FEW_EDITS = 2


def nearest_tags(tag: str, tags: Iterable[str], most: int = 3) -> tuple[str, ...]:
    """The ``most`` of ``tags`` that somebody who wrote ``tag`` may have meant, the likeliest first.

    Of tags with numbers these are the nearest versions of the same kind, and else those that differ in few letters.

    >>> nearest_tags("1.38", ["1.36.1", "1.37", "1.37-glibc", "latest", "1.20"])
    ('1.37', '1.36.1', '1.20')
    >>> nearest_tags("lates", ["1.36.1", "1.37", "latest", "stable"])
    ('latest',)
    """
    wanted, kind = _numbers(tag), _kind(tag)
    near: list[tuple[int, tuple[int, ...], str]] = []
    for other in tags:
        edits = _edits(tag, other)
        if edits <= _FEW_EDITS and not (wanted and _kind(other) == kind):
            near.append((edits, (), other))
        elif wanted and _kind(other) == kind:
            near.append((0, _gap(wanted, _numbers(other)), other))
    return tuple(other for _, _, other in sorted(near)[:most])


def _numbers(tag: str) -> tuple[int, ...]:
    return tuple(map(int, _NUMBERS.findall(tag)))


def _kind(tag: str) -> str:
    """``tag`` without its numbers: what is left of ``v1.2-alpine3`` and of ``1.2.3-alpine3`` is the same."""
    return _NUMBERS.sub("", tag).replace(".", "").removeprefix("v")


def _gap(wanted: tuple[int, ...], found: tuple[int, ...]) -> tuple[int, ...]:
    """The differences of two versions, number by number."""
    length = max(len(wanted), len(found))
    pairs = zip(wanted + (0,) * (length - len(wanted)), found + (0,) * (length - len(found)), strict=True)
    return tuple(abs(one - other) for one, other in pairs)


def _edits(one: str, other: str) -> int:
    """The number of letters to add, take away or replace (Levenshtein); more than a few are not counted exactly."""
    if abs(len(one) - len(other)) > _FEW_EDITS:
        return _FEW_EDITS + 1
    row = list(range(len(other) + 1))
    for line, letter in enumerate(one, 1):
        corner, row[0] = row[0], line
        for column, its in enumerate(other, 1):
            corner, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, corner + (letter != its))
        if min(row) > _FEW_EDITS:
            break
    return min(row[-1], _FEW_EDITS + 1)
