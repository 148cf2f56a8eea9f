"""The model of a sync file: sources, targets and settings of registries (docs/sync.md)."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from msgspec import Struct
from pydantic import AfterValidator, ConfigDict, Field, GetJsonSchemaHandler, SecretStr, WithJsonSchema, model_validator
from pydantic_core import CoreSchema

from syncer.errors import InvalidReference, UsageError
from syncer.formats.models import (
    YES_OR_NO,
    OneOrMany,
    StrictModel,
    given,
    json_schema,
    mistake,
    one_of_kinds,
    only_with,
    parsed,
    text_schema,
)
from syncer.formats.units import byte_count
from syncer.naming import NameMapping
from syncer.oci import Platform, Reference
from syncer.oci.docker_hub import canonical_host
from syncer.oci.reference import refuse_login
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


class CustomName(Struct, frozen=True):
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
    name = parse_registry_host(place if "@" in place else host)  # a password may hold a slash
    if place == text and Reference.parse(f"{name}/images").registry != name:
        raise UsageError(f"{text!r} is not a registry", hint="give its port too, or http:// or https:// before it")
    if path := base.strip("/"):
        reference = Reference.parse(f"{host}/{path}")
        if reference.digest or path.endswith(f":{reference.tag}"):
            raise UsageError(f"{text!r} names an image: a target is a registry and perhaps a path in it")
    return text


def parse_registry_host(text: str) -> str:
    """Parse ``host`` or ``host:port`` into the spelling of references; raises ``UsageError``."""
    refuse_login(text)
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


# Patterns for JSON Schemas.  They take all that the parsers above take, and refuse what is plainly something else.
_HOST = r"[A-Za-z0-9.\[\]:-]+"
_PATH = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*"
_REPOSITORY = rf"{_HOST}/{_PATH}|{_PATH}|{_HOST}"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
_BYTES = r"\s*[0-9]+(\.[0-9]+)?\s*[kKMGT]?i?(B|bit)?\s*"
_RANGE = r"[0-9A-Za-z.*+,<>=!~^|\s-]*"

ImageName: TypeAlias = Annotated[
    Reference,
    parsed(
        Reference.parse,
        schema=text_schema(
            "An image by its full reference: a tag, a digest, or both.",
            pattern=rf"({_REPOSITORY})(:{_TAG})?(@[a-z0-9]+:[0-9a-f]+)?",
        ),
    ),
]
RepositoryName: TypeAlias = Annotated[
    Reference, parsed(parse_repository, schema=text_schema("A repository, without a tag.", pattern=_REPOSITORY))
]
CustomNameField: TypeAlias = Annotated[
    CustomName,
    parsed(CustomName.parse, schema=text_schema("The path below the target's base, and perhaps a tag: `team/app:v2`.")),
]
PlatformName: TypeAlias = Annotated[
    Platform,
    parsed(
        Platform.parse, schema=text_schema(pattern=r"[\w-]+(/[\w-]+){0,2}", examples=["linux/amd64", "linux/arm64"])
    ),
]
RegistryName: TypeAlias = Annotated[
    str,
    parsed(
        check_registry,
        schema=text_schema(
            "A registry and perhaps a path: `[http://|https://]HOST[:PORT][/BASE]`.",
            pattern=rf"([Hh][Tt][Tt][Pp][Ss]?://)?{_HOST}(/+({_PATH})?/*)?",
        ),
    ),
]
ReferrersChoice: TypeAlias = Annotated[
    bool | Literal["require"],
    parsed(
        parse_referrers,
        may_be=bool,
        schema=one_of_kinds(
            {"type": "boolean"},
            {"enum": [0, 1]},
            pattern=f"{YES_OR_NO}|require",
            description="Whether signatures, attestations and SBOMs travel along; `require`: it is a failure when a "
            "registry does not tell them.",
        ),
    ),
]
RegistryHost: TypeAlias = Annotated[str, parsed(parse_registry_host, schema=text_schema(pattern=_HOST))]
ChartRepository: TypeAlias = Annotated[
    str,
    parsed(
        check_chart_repository,
        schema=text_schema("`https://…` of a classic repository, or `oci://…`.", pattern=r"(https?|oci)://[^/@]+.*"),
    ),
]
FileUrl: TypeAlias = Annotated[
    str,
    parsed(check_file_url, schema=text_schema("The address of a file: `https://…`.", pattern=r"https?://[^/@]+(/.*)?")),
]
ByteCount: TypeAlias = Annotated[
    int,
    parsed(
        byte_count,
        schema=one_of_kinds(
            {"type": "number", "minimum": 1},
            pattern=_BYTES,
            description="Bytes a second: `50M`, `64MiB`, `200Mbit`.",
        ),
    ),
]
FilePath: TypeAlias = Annotated[
    Path, Field(strict=False), WithJsonSchema(text_schema("A path, relative to the directory of the file."))
]
Name: TypeAlias = Annotated[str, Field(min_length=1)]
Secret: TypeAlias = Annotated[SecretStr, WithJsonSchema(text_schema("Rather name a variable, or a file."))]

NameRules: TypeAlias = Annotated[
    dict[str, str],
    AfterValidator(_name_rules),
    WithJsonSchema(
        {
            "description": "Names at the targets, `PREFIX: REPLACEMENT`; the longest prefix that ends at a `/` wins.",
            "type": "object",
            "propertyNames": text_schema(pattern=r"\s*/*([^/]*[.:\[][^/]*|localhost)(/[^:@]*)?"),
            "additionalProperties": text_schema(),
        }
    ),
]

ExactTag: TypeAlias = Annotated[TagPattern, parsed(TagPattern.name, schema=text_schema(pattern=_TAG))]
GlobTag: TypeAlias = Annotated[TagPattern, parsed(TagPattern.glob)]
RegexTag: TypeAlias = Annotated[
    TagPattern, parsed(TagPattern.regex, schema=text_schema(format="regex", maxLength=1000))
]
VersionTag: TypeAlias = Annotated[TagPattern, parsed(TagPattern.semver, schema=text_schema(pattern=_RANGE))]
RegclientVersionTag: TypeAlias = Annotated[TagPattern, parsed(TagPattern.semver_regclient)]


_KINDS = ("image", "repository", "images_file", "profile_file", "profiles", "chart", "file")


class TagChoice(StrictModel):
    """Rules that select tags; a tag is selected when one of them matches."""

    names: Annotated[tuple[ExactTag, ...], OneOrMany()] = ()
    glob: Annotated[tuple[GlobTag, ...], OneOrMany()] = ()
    regex: Annotated[tuple[RegexTag, ...], OneOrMany()] = ()
    semver: Annotated[tuple[VersionTag, ...], OneOrMany()] = ()
    semver_regclient: Annotated[tuple[RegclientVersionTag, ...], OneOrMany()] = ()

    @property
    def patterns(self) -> tuple[TagPattern, ...]:
        return (*self.glob, *self.regex, *self.semver, *self.semver_regclient)


class Tags(TagChoice):
    """The ``tags`` of a repository: ``all``, a list of names, or a mapping of rules."""

    newest: Annotated[int, Field(ge=1)] | None = None
    exclude: TagChoice = Field(default_factory=TagChoice)
    all: bool = False

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [given(rule) for rule in (*TagChoice.model_fields, "newest", "exclude", "all")]}
    )

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


class _ShortTags:
    """The mark of tags that need not be a mapping; see ``Tags``."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        names = TagChoice.model_json_schema()["properties"]["names"]["anyOf"]
        return {
            "description": "`all`, a list of names, or rules.",
            "anyOf": [names[0], names[1] | {"minItems": 1}, handler(core)],
        }


class Chart(StrictModel):
    """A Helm chart: in a classic repository (``https://…``) or below a path of a registry (``oci://…``)."""

    repository: ChartRepository
    name: Name
    version: Name | None = None  # a version or a range; None: the newest release
    scan: bool = False  # the images that its templates name are mirrored too
    values_files: Annotated[tuple[FilePath, ...], OneOrMany()] = ()  # what its templates are rendered with for that

    model_config = ConfigDict(json_schema_extra={"allOf": [only_with("values_files", given("scan"))]})

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
    tags: Annotated[Tags, _ShortTags()] | None = None  # of the repository
    images_file: FilePath | None = None
    profile_file: FilePath | None = None
    profiles: Annotated[tuple[Name, ...], OneOrMany()] = ()  # uids at Palette
    project_id: Name | None = None  # of those profiles
    chart: Chart | None = None
    file: File | None = None
    platforms: Annotated[tuple[PlatformName, ...], OneOrMany()] | None = None  # None: as for the whole file
    referrers: ReferrersChoice | None = None  # likewise
    targets: Annotated[tuple[Name, ...], OneOrMany()] = ()  # names of targets; none: all
    imgpkg: bool = False  # the image may be a bundle of imgpkg's, whose images are mirrored too
    custom_name: CustomNameField | None = Field(default=None, alias="as")  # of an image or a repository

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [given(kind) for kind in _KINDS],
            "allOf": [
                only_with("repository", given("tags")),
                only_with("tags", given("repository")),
                only_with("as", {"anyOf": [given("image"), given("repository")]}),
                only_with("project_id", given("profiles")),
                only_with("imgpkg", given("image")),
            ],
        }
    )

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


_USERS = ("username", "username_env")
_PASSWORDS = ("password", "password_env", "password_file")


class Credentials(StrictModel):
    """The places of a registry's credentials: variables, files or a helper; a password itself causes a warning."""

    username: Name | None = None
    username_env: Name | None = None
    password: Secret | None = None
    password_env: Name | None = None
    password_file: FilePath | None = None
    helper: Name | None = None  # the part after docker-credential-

    model_config = ConfigDict(
        json_schema_extra={
            "if": given("helper"),
            "then": {"not": {"anyOf": [given(each) for each in (*_USERS, *_PASSWORDS)]}},
            "else": {
                "allOf": [{"oneOf": [given(each) for each in _USERS]}, {"oneOf": [given(each) for each in _PASSWORDS]}]
            },
        }
    )

    @model_validator(mode="after")
    def _one_way(self) -> Credentials:
        users, passwords = ([getattr(self, name) for name in names] for names in (_USERS, _PASSWORDS))
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
    platforms: Annotated[tuple[PlatformName, ...], OneOrMany()] = ()  # none: images keep their form
    referrers: ReferrersChoice = True
    map: NameRules = Field(default_factory=dict)  # for all targets; a target's own rules come first
    registries: dict[RegistryHost, Registry] = Field(default_factory=dict)


def sync_schema() -> dict[str, Any]:
    """The JSON Schema of a sync file, made of these models."""
    return json_schema(SyncDocument, "A sync file of syncer")
