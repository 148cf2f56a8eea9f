"""The values that fields of a sync file hold, parsed where they stand."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Self, TypeAlias

from pydantic import AfterValidator, Field

from syncer.errors import InvalidReference, UsageError
from syncer.oci import Platform, Reference
from syncer.profiles.byte_count import byte_count
from syncer.profiles.checked_document import mistake, parsed
from syncer.profiles.mapping import NameMapping
from syncer.profiles.tag_rules import TagPattern

_SCHEME = re.compile(r"https?://", re.IGNORECASE)


def repository(text: str) -> Reference:
    """``registry/repository``, which names neither tag nor digest; raises ``UsageError``."""
    reference = Reference.parse(text)
    if reference.digest or text.endswith(f":{reference.tag}"):
        raise UsageError(
            f"{text!r} names more than a repository",
            hint="put tags into `tags`, or write `image` instead of `repository`",
        )
    return replace(reference, tag=None, digest=None)


@dataclass(frozen=True, slots=True)
class Landing:
    """What an image is called below a target's base path, whatever the rules for names say."""

    repository: str
    tag: str | None  # None: as at the source

    @classmethod
    def parse(cls, text: str) -> Self:
        """``PATH[:TAG]``; raises ``UsageError``."""
        name = text.strip("/")
        try:
            reference = Reference.parse(f"registry.invalid/{name}")
        except InvalidReference as error:
            raise UsageError(f"{text!r} is no name for an image: {error.problem}") from None
        if reference.digest:
            raise UsageError(f"{text!r} is no name for an image: a digest cannot be chosen")
        return cls(reference.repository, reference.tag if ":" in name else None)


def registry(text: str) -> str:
    """``[http://|https://]HOST[:PORT][/BASE]``, as it was written; raises ``UsageError``."""
    host, _, base = _SCHEME.sub("", text, count=1).partition("/")
    registry_host(host)
    if base.strip("/"):
        Reference.parse(f"{host}/{base.strip('/')}")
    return text


def registry_host(text: str) -> str:
    """``host`` or ``host:port``, as references write it; raises ``UsageError``."""
    if not text or "/" in text or "@" in text:
        raise UsageError(f"{text!r} is not a registry", hint="write it like registry.example.com:5000")
    Reference.parse(f"{text}/images")
    return "docker.io" if text.lower() == "index.docker.io" else text.lower()


def chart_repository(text: str) -> str:
    """Where charts are kept: the URL of a classic repository or of a path in a registry; raises ``UsageError``."""
    if not re.match(r"(https?|oci)://[^/@]+", text):
        raise UsageError(
            "it is not a repository of charts",
            hint="write https://charts.example.com or oci://registry.example.com/charts, without user and password",
        )
    return text


def _name_rules(rules: dict[str, str]) -> dict[str, str]:
    try:
        NameMapping.from_document(rules)
    except UsageError as error:
        raise mistake(str(error), hint=error.hint) from None
    return rules


ImageName: TypeAlias = Annotated[Reference, parsed(Reference.parse)]
RepositoryName: TypeAlias = Annotated[Reference, parsed(repository)]
LandingName: TypeAlias = Annotated[Landing, parsed(Landing.parse)]
PlatformName: TypeAlias = Annotated[Platform, parsed(Platform.parse)]
RegistryName: TypeAlias = Annotated[str, parsed(registry)]
RegistryHost: TypeAlias = Annotated[str, parsed(registry_host)]
ChartRepository: TypeAlias = Annotated[str, parsed(chart_repository)]
ByteCount: TypeAlias = Annotated[int, parsed(byte_count)]
FilePath: TypeAlias = Annotated[Path, Field(strict=False)]
Name: TypeAlias = Annotated[str, Field(min_length=1)]

NameRules: TypeAlias = Annotated[dict[str, str], AfterValidator(_name_rules)]

ExactTag: TypeAlias = Annotated[TagPattern, parsed(TagPattern.name)]
GlobTag: TypeAlias = Annotated[TagPattern, parsed(TagPattern.glob)]
RegexTag: TypeAlias = Annotated[TagPattern, parsed(TagPattern.regex)]
VersionTag: TypeAlias = Annotated[TagPattern, parsed(TagPattern.semver)]
