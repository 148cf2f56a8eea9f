"""The model of a sync file: sources, targets and settings of registries (docs/sync.md)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace

from syncer.errors import InvalidReference, UsageError
from syncer.formats.models import (
    FLAGS,
    YES_OR_NO,
    Mistake,
    Mistakes,
    Model,
    Place,
    Reader,
    Schema,
    given,
    json_schema,
    not_empty,
    not_empty_but,
    one_of_kinds,
    one_or_many,
    only_with,
    parsed,
    positive,
    reader_of,
    text_schema,
    within,
)
from syncer.formats.units import byte_count
from syncer.naming import MappingRule, NameMapping
from syncer.oci import Platform, Reference
from syncer.oci.docker_hub import canonical_host
from syncer.oci.reference import refuse_login
from syncer.profiles.syncfile.tags import TagPattern, TagRules

_SCHEME = re.compile(r"https?://", re.IGNORECASE)
_IMAGE = re.compile(r"[^@]*/[^@]*@sha\d+:[0-9a-f]+")  # with a digest, in which an @ is no end of a login


def parse_repository(text: str) -> Reference:
    """Parse ``registry/repository``, without tag and digest; raises ``UsageError``."""
    reference = Reference.parse(text)
    if reference.digest or text.endswith(f":{reference.tag}"):
        raise UsageError(
            f"{text!r} names more than a repository",
            hint="put tags into `tags`, or write `image` instead of `repository`",
        )
    return replace(reference, tag=None, digest=None)


class Secret(Struct, frozen=True):
    """A text that ``repr`` does not show."""

    text: str

    def __repr__(self) -> str:
        return "Secret(...)"


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


_NAMES_AN_IMAGE = "names an image: a target is a registry and perhaps a path in it"


def check_registry(text: str) -> str:
    """Check ``[http://|https://]HOST[:PORT][/BASE]``, and return it unchanged; raises ``UsageError``."""
    place = _SCHEME.sub("", text, count=1)
    host, _, base = place.partition("/")
    scheme, of_others, rest = place.partition(":/")
    if of_others and scheme.isalpha() and "@" not in place:  # another tool's, or with a slash too few
        hint = f"write {rest.lstrip('/')}, with http:// or https:// before it, or nothing"
        raise UsageError(f"{text!r} is not a registry", hint=hint)
    if _IMAGE.fullmatch(place):
        raise UsageError(f"{text!r} {_NAMES_AN_IMAGE}")
    name = parse_registry_host(place if "@" in place else host)  # a password may hold a slash
    if place == text and Reference.parse(f"{name}/images").registry != name:
        raise UsageError(f"{text!r} is not a registry", hint="give its port too, or http:// or https:// before it")
    if path := base.strip("/"):
        try:
            reference = Reference.parse(f"{host}/{path}")
        except InvalidReference as error:
            raise UsageError(f"{text!r} is not a registry and a path in it: {error.problem}") from None
        if reference.digest or path.endswith(f":{reference.tag}"):
            raise UsageError(f"{text!r} {_NAMES_AN_IMAGE}")
    return text


def parse_registry_host(text: str) -> str:
    """Parse ``host`` or ``host:port`` into the spelling of references; raises ``UsageError``."""
    refuse_login(text)
    if not text.strip():
        raise UsageError("the name of a registry is empty", hint="write it like registry.example.com:5000")
    if "/" in text or "@" in text:
        shown = text.rpartition("@")[2]
        raise UsageError(f"{shown!r} is not a registry", hint="write it like registry.example.com:5000")
    port = "" if set(text) & set(".:") else ":443"  # without one a reference would take it for a part of a repository
    try:
        Reference.parse(f"{text}{port}/images")
    except InvalidReference as error:
        raise UsageError(f"{text!r} is not a registry: {error.problem}") from None
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


def parse_referrers(text: str) -> bool | Literal["require"]:
    """Parse the choice whether signatures travel along: ``true``, ``false`` or ``require``; raises ``UsageError``."""
    if text == "require":
        return "require"
    if text.lower() not in FLAGS:
        raise UsageError("it must be true, false or require")
    return FLAGS[text.lower()]


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
        text_schema(
            "An image by its full reference: a tag, a digest, or both.",
            pattern=rf"({_REPOSITORY})(:{_TAG})?(@[a-z0-9]+:[0-9a-f]+)?",
        ),
    ),
]
RepositoryName: TypeAlias = Annotated[
    Reference, parsed(parse_repository, text_schema("A repository, without a tag.", pattern=_REPOSITORY))
]
CustomNameField: TypeAlias = Annotated[
    CustomName,
    parsed(CustomName.parse, text_schema("The path below the target's base, and perhaps a tag: `team/app:v2`.")),
]
PlatformName: TypeAlias = Annotated[
    Platform,
    parsed(Platform.parse, text_schema(pattern=r"[\w-]+(/[\w-]+){0,2}", examples=["linux/amd64", "linux/arm64"])),
]
RegistryName: TypeAlias = Annotated[
    str,
    parsed(
        check_registry,
        text_schema(
            "A registry and perhaps a path: `[http://|https://]HOST[:PORT][/BASE]`.",
            pattern=rf"([Hh][Tt][Tt][Pp][Ss]?://)?{_HOST}(/+({_PATH})?/*)?",
        ),
    ),
]
ReferrersChoice: TypeAlias = Annotated[
    bool | Literal["require"],
    parsed(
        parse_referrers,
        one_of_kinds(
            {"type": "boolean"},
            {"enum": [0, 1]},
            pattern=f"{YES_OR_NO}|require",
            description="Whether signatures, attestations and SBOMs travel along; `require`: it is a failure when a "
            "registry does not tell them.",
        ),
    ),
]
RegistryHost: TypeAlias = Annotated[str, parsed(parse_registry_host, text_schema(pattern=_HOST))]
ChartRepository: TypeAlias = Annotated[
    str,
    parsed(
        check_chart_repository,
        text_schema("`https://…` of a classic repository, or `oci://…`.", pattern=r"(https?|oci)://[^/@]+.*"),
    ),
]
FileUrl: TypeAlias = Annotated[
    str, parsed(check_file_url, text_schema("The address of a file: `https://…`.", pattern=r"https?://[^/@]+(/.*)?"))
]
ByteCount: TypeAlias = Annotated[
    int,
    parsed(
        byte_count,
        one_of_kinds(
            {"type": "number", "minimum": 1},
            pattern=_BYTES,
            description="Bytes a second: `50M`, `64MiB`, `200Mbit`.",
        ),
    ),
]
FilePath: TypeAlias = Annotated[Path, parsed(Path, text_schema("A path, relative to the directory of the file."))]
Name: TypeAlias = Annotated[str, not_empty]
SecretField: TypeAlias = Annotated[Secret, parsed(Secret, text_schema("Rather name a variable, or a file."))]


def _name_rules(inner: Reader) -> Reader:
    """The reader of rules for names, each of which is told at its own place what is wrong with it."""

    def read(node: Any, place: Place) -> Any:
        mistakes: list[Mistake] = []
        try:
            given = inner(node, place)
        except Mistakes as wrong_inside:
            mistakes += wrong_inside.found
            given = node if isinstance(node, dict) else {}
        first: dict[str, MappingRule] = {}
        for prefix, replacement in given.items():
            try:
                if isinstance(replacement, str):
                    rule = MappingRule.of(prefix, replacement)
                    NameMapping.of([first.setdefault(rule.prefix, rule), rule])
            except UsageError as error:
                mistakes.append(Mistake((*place, prefix), str(error), error.hint))
        if mistakes:
            raise Mistakes(mistakes)
        return given

    named = text_schema(pattern=r"\s*/*([^/]*[.:\[][^/]*|localhost)(/[^:@]*)?")
    means = "Names at the targets, `PREFIX: REPLACEMENT`; the longest prefix that ends at a `/` wins."
    return Reader(read, inner.schema | {"description": means, "propertyNames": named})


NameRules: TypeAlias = Annotated[dict[str, str], _name_rules]

ExactTag: TypeAlias = Annotated[TagPattern, parsed(TagPattern.name, text_schema(pattern=_TAG))]
GlobTag: TypeAlias = Annotated[TagPattern, parsed(TagPattern.glob)]
RegexTag: TypeAlias = Annotated[TagPattern, parsed(TagPattern.regex, text_schema(format="regex", maxLength=1000))]
VersionTag: TypeAlias = Annotated[TagPattern, parsed(TagPattern.semver, text_schema(pattern=_RANGE))]
RegclientVersionTag: TypeAlias = Annotated[TagPattern, parsed(TagPattern.semver_regclient)]


_SOME_TARGETS = not_empty_but("leave `targets` out for all targets, and the source out for none")
_KINDS = ("image", "repository", "images_file", "profile_file", "profiles", "chart", "file")


class TagChoice(Model, frozen=True, kw_only=True):
    """Rules that select tags; a tag is selected when one of them matches."""

    names: Annotated[tuple[ExactTag, ...], one_or_many] = ()
    glob: Annotated[tuple[GlobTag, ...], one_or_many] = ()
    regex: Annotated[tuple[RegexTag, ...], one_or_many] = ()
    semver: Annotated[tuple[VersionTag, ...], one_or_many] = ()
    semver_regclient: Annotated[tuple[RegclientVersionTag, ...], one_or_many] = ()

    @property
    def patterns(self) -> tuple[TagPattern, ...]:
        return (*self.glob, *self.regex, *self.semver, *self.semver_regclient)


class Tags(TagChoice, frozen=True, kw_only=True):
    """The ``tags`` of a repository: ``all``, a list of names, or a mapping of rules."""

    newest: Annotated[int, within(1)] | None = None
    exclude: TagChoice = field(default_factory=TagChoice)
    all: bool = False

    more: ClassVar[Schema] = {
        "anyOf": [given(rule) for rule in (*TagChoice.__struct_fields__, "newest", "exclude", "all")]
    }

    @classmethod
    def longhand(cls, node: Any) -> Any:
        if node == "all":
            return {"all": "true"}
        return {"names": node} if isinstance(node, (list, str)) else node

    def problems(self) -> Iterator[UsageError]:
        patterns = (self.glob, self.regex, self.semver, self.semver_regclient)
        if not (self.all or self.names or any(patterns) or self.newest or self.exclude != TagChoice()):
            yield UsageError("it selects no tag", hint="write `tags: all` for every tag")

    def rules(self) -> TagRules:
        """The rules of these fields; ``newest`` and ``exclude`` alone apply to all tags."""
        return TagRules(
            names=tuple(name.text for name in self.names),
            patterns=self.patterns,
            every=self.all or not (self.names or self.patterns),
            newest=self.newest,
            excluded=(*self.exclude.names, *self.exclude.patterns),
        )


def _maybe_short(tags: Reader) -> Reader:
    """The reader of tags that need not be a mapping, which ``Tags`` is; only an editor must be told."""
    one, many = reader_of(Annotated[tuple[ExactTag, ...], one_or_many]).schema["anyOf"]
    kinds = [one, many | {"minItems": 1}, tags.schema]
    return Reader(tags.value, {"description": "`all`, a list of names, or rules.", "anyOf": kinds})


class Chart(Model, frozen=True, kw_only=True):
    """A Helm chart: in a classic repository (``https://…``) or below a path of a registry (``oci://…``)."""

    repository: ChartRepository
    name: Name
    version: Name | None = None  # a version or a range; None: the newest release
    scan: bool = False  # the images that its templates name are mirrored too
    values_files: Annotated[tuple[FilePath, ...], one_or_many] = ()  # what its templates are rendered with for that

    more: ClassVar[Schema] = {"allOf": [only_with("values_files", given("scan"))]}

    def problems(self) -> Iterator[UsageError]:
        if self.values_files and not self.scan:
            yield UsageError("`values_files` are for a `scan` of the chart's images")


class File(Model, frozen=True, kw_only=True):
    """A file at a web server, which becomes an artifact; ``name`` replaces the last part of its URL."""

    url: FileUrl
    name: Name | None = None


class Source(Model, frozen=True, kw_only=True):
    """One entry of ``sources``: one of the seven kinds of content, and the settings for it alone."""

    image: ImageName | None = None
    repository: RepositoryName | None = None
    tags: Annotated[Tags, _maybe_short] | None = None  # of the repository
    images_file: FilePath | None = None
    profile_file: FilePath | None = None
    profiles: Annotated[tuple[Name, ...], one_or_many] = ()  # uids at Palette
    project_id: Name | None = None  # of those profiles
    chart: Chart | None = None
    file: File | None = None
    platforms: Annotated[tuple[PlatformName, ...], one_or_many] | None = None  # None: as for the whole file
    referrers: ReferrersChoice | None = None  # likewise
    targets: Annotated[tuple[Name, ...], _SOME_TARGETS, one_or_many] = ()  # names of targets; none: all
    imgpkg: bool = False  # the image may be a bundle of imgpkg's, whose images are mirrored too
    custom_name: CustomNameField | None = field(default=None, name="as")  # of an image or a repository

    more: ClassVar[Schema] = {
        "oneOf": [given(kind) for kind in _KINDS],
        "allOf": [
            only_with("repository", given("tags")),
            only_with("tags", given("repository")),
            only_with("as", {"anyOf": [given("image"), given("repository")]}),
            only_with("project_id", given("profiles")),
            only_with("imgpkg", given("image")),
        ],
    }

    def problems(self) -> Iterator[UsageError]:
        given = [kind for kind in _KINDS if getattr(self, kind)]
        if len(given) != 1:
            said = f"it names {' and '.join(given)}" if given else "it names nothing to mirror"
            yield UsageError(said, hint=f"each source has exactly one of {', '.join(_KINDS)}")
        if self.repository and self.tags is None:
            yield UsageError("a repository needs `tags`", hint="write `tags: all` for every tag")
        if self.tags and not self.repository:
            yield UsageError("`tags` belong to a `repository`", hint="an `image` has its tag in its name")
        if self.imgpkg and not self.image:
            yield UsageError("`imgpkg` belongs to an `image`")
        if self.custom_name and not (self.image or self.repository):
            yield UsageError("`as` belongs to an `image` or a `repository`")
        elif isinstance(self.custom_name, CustomName) and self.custom_name.tag and not self.image:
            yield UsageError("`as` can name a tag for an `image` only")
        if self.project_id and not self.profiles:
            yield UsageError("`project_id` belongs to `profiles`")


class Target(Model, frozen=True, kw_only=True):
    """One entry of ``targets``: a registry to mirror to."""

    registry: RegistryName
    name: Name | None = None  # what sources call it; None: the registry's own
    map: NameRules = field(default_factory=dict)

    @property
    def title(self) -> str:
        return self.name or self.registry


_USERS = ("username", "username_env")
_PASSWORDS = ("password", "password_env", "password_file")


class Credentials(Model, frozen=True, kw_only=True):
    """The places of a registry's credentials: variables, files or a helper; a password itself causes a warning."""

    username: Name | None = None
    username_env: Name | None = None
    password: SecretField | None = None
    password_env: Name | None = None
    password_file: FilePath | None = None
    helper: Name | None = None  # the part after docker-credential-

    more: ClassVar[Schema] = {
        "if": given("helper"),
        "then": {"not": {"anyOf": [given(each) for each in (*_USERS, *_PASSWORDS)]}},
        "else": {
            "allOf": [{"oneOf": [given(each) for each in _USERS]}, {"oneOf": [given(each) for each in _PASSWORDS]}]
        },
    }

    def problems(self) -> Iterator[UsageError]:
        users, passwords = ([getattr(self, name) for name in names] for names in (_USERS, _PASSWORDS))
        if self.helper:
            if any(part is not None for part in (*users, *passwords)):
                yield UsageError("a `helper` knows user and password itself")
        elif [sum(part is not None for part in parts) for parts in (users, passwords)] != [1, 1]:
            yield UsageError(
                "it needs one user and one password",
                hint="`username` or `username_env` with `password_env` or `password_file`, or a `helper` alone",
            )


class Registry(Model, frozen=True, kw_only=True):
    """The settings of one registry: credentials, TLS and limits."""

    credentials: Credentials | None = None
    ca_cert: FilePath | None = None
    client_cert: FilePath | None = None
    client_key: FilePath | None = None
    plain_http: bool | None = None
    insecure: bool = False
    concurrency: Annotated[int, within(1, 256)] | None = None  # requests at a time
    requests_per_second: Annotated[float, positive] | None = None
    bytes_per_second: ByteCount | None = None


class SyncDocument(Model, frozen=True, kw_only=True):
    """The whole sync file."""

    version: Literal["1"] = "1"
    sources: Annotated[tuple[Source, ...], not_empty]
    targets: Annotated[tuple[Target, ...], not_empty]
    platforms: Annotated[tuple[PlatformName, ...], one_or_many] = ()  # none: images keep their form
    referrers: ReferrersChoice = True
    map: NameRules = field(default_factory=dict)  # for all targets; a target's own rules come first
    registries: dict[RegistryHost, Registry] = field(default_factory=dict)


def sync_schema() -> dict[str, Any]:
    """The JSON Schema of a sync file, made of these models."""
    return json_schema(SyncDocument, "A sync file of syncer")
