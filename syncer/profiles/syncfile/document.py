"""The model of a sync file: sources, targets and settings of registries (docs/sync.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field, SecretStr, model_validator

from syncer.errors import InvalidReference, UsageError
from syncer.formats.models import StrictModel, mistake, parsed
from syncer.formats.text import byte_count
from syncer.naming import NameMapping
from syncer.oci import Platform, Reference
from syncer.oci.docker_hub import canonical_host
from syncer.profiles.syncfile.tags import TagPattern, TagRules

_SCHEME = re.compile(r"https?://", re.IGNORECASE)


def parse_repository(text: str) -> Reference:
    """Parse ``registry/repository``, without tag and digest; raises ``UsageError``."""
    reference = Reference.parse(text)
    if reference.digest or text.endswith(f":{reference.tag}"):
        raise UsageError(
            f"{text!r} names more than a repository",
            hint="put tags into `tags`, or write `image` instead of `repository`",
        )
    return replace(reference, tag=None, digest=None)


@dataclass(frozen=True, slots=True)
class CustomName:
    """The name that ``as`` gives an image below a target's base path; mapping rules do not apply to it."""

    repository: str
    tag: str | None  # None: as at the source

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``PATH[:TAG]``; raises ``UsageError``."""
        name = text.strip("/")
        try:
            reference = Reference.parse(f"registry.invalid/{name}")
        except InvalidReference as error:
            raise UsageError(f"{text!r} is not a name for an image: {error.problem}") from None
        if reference.digest:
            raise UsageError(f"{text!r} is not a name for an image: a digest cannot be chosen")
        return cls(reference.repository, reference.tag if ":" in name else None)


def check_registry(text: str) -> str:
    """Check ``[http://|https://]HOST[:PORT][/BASE]``, and return it unchanged; raises ``UsageError``."""
    place = _SCHEME.sub("", text, count=1)
    host, _, base = place.partition("/")
    parse_registry_host(place if "@" in place else host)  # a password may hold a slash
    if base.strip("/"):
        Reference.parse(f"{host}/{base.strip('/')}")
    return text


def parse_registry_host(text: str) -> str:
    """Parse ``host`` or ``host:port`` into the spelling of references; raises ``UsageError``."""
    if not text or "/" in text or "@" in text:
        shown = text.rpartition("@")[2]
        raise UsageError(f"{shown!r} is not a registry", hint="write it like registry.example.com:5000")
    Reference.parse(f"{text}/images")
    return canonical_host(text.lower())


def check_chart_repository(text: str) -> str:
    """Check the URL of charts, at a classic repository or at a path of a registry; raises ``UsageError``."""
    if not re.match(r"(https?|oci)://[^/@]+", text):
        raise UsageError(
            "it is not the address of a chart repository",
            hint="write https://charts.example.com or oci://registry.example.com/charts, without user and password",
        )
    return text


def check_file_url(text: str) -> str:
    """Check the URL of a file, and return it unchanged; raises ``UsageError``."""
    if not re.match(r"https?://[^/@]+(/|$)", text):
        raise UsageError(
            "it is not the address of a file", hint="write https://download.example.com/file, without user and password"
        )
    return text


_YES = ("true", "yes", "on", "y", "t", "1")
_NO = ("false", "no", "off", "n", "f", "0")


def parse_referrers(text: str) -> bool | Literal["require"]:
    """Parse the choice whether signatures travel along: ``true``, ``false`` or ``require``; raises ``UsageError``."""
    if text == "require":
        return "require"
    if text.lower() in _YES + _NO:
        return text.lower() in _YES
    raise UsageError("it must be true, false or require")


def _name_rules(rules: dict[str, str]) -> dict[str, str]:
    try:
        NameMapping.from_document(rules)
    except UsageError as error:
        raise mistake(str(error), hint=error.hint) from None
    return rules


ImageName: TypeAlias = Annotated[Reference, parsed(Reference.parse)]
RepositoryName: TypeAlias = Annotated[Reference, parsed(parse_repository)]
CustomNameField: TypeAlias = Annotated[CustomName, parsed(CustomName.parse)]
PlatformName: TypeAlias = Annotated[Platform, parsed(Platform.parse)]
RegistryName: TypeAlias = Annotated[str, parsed(check_registry)]
ReferrersChoice: TypeAlias = Annotated[bool | Literal["require"], parsed(parse_referrers, may_be=bool)]
RegistryHost: TypeAlias = Annotated[str, parsed(parse_registry_host)]
ChartRepository: TypeAlias = Annotated[str, parsed(check_chart_repository)]
FileUrl: TypeAlias = Annotated[str, parsed(check_file_url)]
ByteCount: TypeAlias = Annotated[int, parsed(byte_count)]
FilePath: TypeAlias = Annotated[Path, Field(strict=False)]
Name: TypeAlias = Annotated[str, Field(min_length=1)]

NameRules: TypeAlias = Annotated[dict[str, str], AfterValidator(_name_rules)]

ExactTag: TypeAlias = Annotated[TagPattern, parsed(TagPattern.name)]
GlobTag: TypeAlias = Annotated[TagPattern, parsed(TagPattern.glob)]
RegexTag: TypeAlias = Annotated[TagPattern, parsed(TagPattern.regex)]
VersionTag: TypeAlias = Annotated[TagPattern, parsed(TagPattern.semver)]
RegclientVersionTag: TypeAlias = Annotated[TagPattern, parsed(TagPattern.semver_regclient)]


_KINDS = ("image", "repository", "images_file", "profile_file", "profiles", "chart", "file")


class TagChoice(StrictModel):
    """Rules that select tags; a tag is selected when one of them matches."""

    names: tuple[ExactTag, ...] = ()
    glob: tuple[GlobTag, ...] = ()
    regex: tuple[RegexTag, ...] = ()
    semver: tuple[VersionTag, ...] = ()
    semver_regclient: tuple[RegclientVersionTag, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, tree: Any) -> Any:
        """Turn one text into a list of one."""
        return _one_as_list(tree, ("names", "glob", "regex", "semver", "semver_regclient"))

    @property
    def patterns(self) -> tuple[TagPattern, ...]:
        return (*self.glob, *self.regex, *self.semver, *self.semver_regclient)


class Tags(TagChoice):
    """The ``tags`` of a repository: ``all``, a list of names, or a mapping of rules."""

    newest: Annotated[int, Field(ge=1)] | None = None
    exclude: TagChoice = Field(default_factory=TagChoice)
    all: bool = False

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, tree: Any) -> Any:
        if tree == "all":
            return {"all": True}
        return {"names": tree} if isinstance(tree, (list, str)) else tree

    @model_validator(mode="after")
    def _something(self) -> Tags:
        if not (self.all or self.names or self.patterns or self.newest or self.exclude != TagChoice()):
            raise mistake("it selects no tag", hint="write `tags: all` for every tag")
        return self

    def rules(self) -> TagRules:
        """The rules of these fields; ``newest`` and ``exclude`` alone apply to all tags."""
        return TagRules(
            names=tuple(name.text for name in self.names),
            patterns=self.patterns,
            every=self.all or not (self.names or self.patterns),
            newest=self.newest,
            excluded=(*self.exclude.names, *self.exclude.patterns),
        )


class Chart(StrictModel):
    """A Helm chart: in a classic repository (``https://…``) or below a path of a registry (``oci://…``)."""

    repository: ChartRepository
    name: Name
    version: Name | None = None  # a version or a range; None: the newest release
    scan: bool = False  # the images that its templates name are mirrored too
    values_files: tuple[FilePath, ...] = ()  # the values that its templates are rendered with for that

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, tree: Any) -> Any:
        return _one_as_list(tree, ("values_files",))

    @model_validator(mode="after")
    def _values_for_scan(self) -> Chart:
        if self.values_files and not self.scan:
            raise mistake("`values_files` are for a `scan` of the chart's images")
        return self


class File(StrictModel):
    """A file at a web server, which becomes an artifact; ``name`` replaces the last part of its URL."""

    url: FileUrl
    name: Name | None = None


class Source(StrictModel):
    """One entry of ``sources``: one of the seven kinds of content, and the settings for it alone."""

    image: ImageName | None = None
    repository: RepositoryName | None = None
    tags: Tags | None = None  # of the repository
    images_file: FilePath | None = None
    profile_file: FilePath | None = None
    profiles: tuple[Name, ...] = ()  # uids at Palette
    project_id: Name | None = None  # of those profiles
    chart: Chart | None = None
    file: File | None = None
    platforms: tuple[PlatformName, ...] | None = None  # None: as for the whole file
    referrers: ReferrersChoice | None = None  # likewise
    targets: tuple[Name, ...] = ()  # names of targets; none: all
    imgpkg: bool = False  # the image may be a bundle of imgpkg's, whose images are mirrored too
    custom_name: CustomNameField | None = Field(default=None, alias="as")  # of an image or a repository

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, tree: Any) -> Any:
        return _one_as_list(tree, ("profiles", "targets", "platforms"))

    @model_validator(mode="after")
    def _one_kind(self) -> Source:
        given = [kind for kind in _KINDS if getattr(self, kind)]
        if len(given) != 1:
            said = f"it names {' and '.join(given)}" if given else "it names nothing to mirror"
            raise mistake(said, hint=f"each source has exactly one of {', '.join(_KINDS)}")
        if self.repository and self.tags is None:
            raise mistake("a repository needs `tags`", hint="write `tags: all` for every tag")
        if self.tags and not self.repository:
            raise mistake("`tags` belong to a `repository`", hint="an `image` has its tag in its name")
        if self.imgpkg and not self.image:
            raise mistake("`imgpkg` belongs to an `image`")
        if self.custom_name and not (self.image or self.repository):
            raise mistake("`as` belongs to an `image` or a `repository`")
        if self.custom_name and self.custom_name.tag and not self.image:
            raise mistake("`as` can name a tag for an `image` only")
        if self.project_id and not self.profiles:
            raise mistake("`project_id` belongs to `profiles`")
        return self


class Target(StrictModel):
    """One entry of ``targets``: a registry to mirror to."""

    registry: RegistryName
    name: Name | None = None  # what sources call it; None: the registry's own
    map: NameRules = Field(default_factory=dict)

    @property
    def title(self) -> str:
        return self.name or self.registry


class Credentials(StrictModel):
    """The places of a registry's credentials: variables, files or a helper; a password itself causes a warning."""

    username: Name | None = None
    username_env: Name | None = None
    password: SecretStr | None = None
    password_env: Name | None = None
    password_file: FilePath | None = None
    helper: Name | None = None  # the part after docker-credential-

    @model_validator(mode="after")
    def _one_way(self) -> Credentials:
        users = [self.username, self.username_env]
        passwords = [self.password, self.password_env, self.password_file]
        if self.helper:
            if any(part is not None for part in (*users, *passwords)):
                raise mistake("a `helper` knows user and password itself")
        elif [sum(part is not None for part in parts) for parts in (users, passwords)] != [1, 1]:
            raise mistake(
                "it needs one user and one password",
                hint="`username` or `username_env` with `password_env` or `password_file`, or a `helper` alone",
            )
        return self


class Registry(StrictModel):
    """The settings of one registry: credentials, TLS and limits."""

    credentials: Credentials | None = None
    ca_cert: FilePath | None = None
    client_cert: FilePath | None = None
    client_key: FilePath | None = None
    plain_http: bool | None = None
    insecure: bool = False
    concurrency: Annotated[int, Field(ge=1, le=256)] | None = None  # requests at a time
    requests_per_second: Annotated[float, Field(gt=0)] | None = None
    bytes_per_second: ByteCount | None = None


class SyncDocument(StrictModel):
    """The whole sync file."""

    version: Literal["1"] = "1"
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    targets: Annotated[tuple[Target, ...], Field(min_length=1)]
    platforms: tuple[PlatformName, ...] = ()  # none: images keep their form
    referrers: ReferrersChoice = True
    map: NameRules = Field(default_factory=dict)  # for all targets; a target's own rules come first
    registries: dict[RegistryHost, Registry] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, tree: Any) -> Any:
        return _one_as_list(tree, ("platforms",))


def _one_as_list(tree: Any, names: tuple[str, ...]) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {key: [value] if key in names and isinstance(value, str) else value for key, value in tree.items()}
