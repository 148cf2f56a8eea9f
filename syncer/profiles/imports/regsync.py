"""Importing regsync's file (regclient.org/usage/regsync): credentials, defaults, and steps with source and target.

The fields and their rules are those of ``cmd/regsync`` and ``config/host.go`` of regclient 0.11; docs/import.md has the
table.  A step whose choice of what is mirrored cannot be carried over is not in the result at all.
"""

from __future__ import annotations

import platform as machine
import re
import sys
from collections.abc import Callable
from typing import Any

from msgspec import Struct, field

from syncer.errors import UsageError
from syncer.formats.re2 import whole_match
from syncer.formats.yaml import Map, Seq, spell_path
from syncer.naming import rename_reference
from syncer.oci import Platform, Reference
from syncer.oci.docker_hub import canonical_host
from syncer.profiles.imports.draft import (
    REQUIRED,
    SIGNATURE_TAGS,
    VARIABLE,
    Draft,
    Fields,
    Numbers,
    chooses_signatures,
    login_host,
    names_host,
    variable,
)
from syncer.profiles.syncfile.document import parse_registry_host, parse_repository
from syncer.profiles.syncfile.tags import TagPattern

_ACTION = re.compile(r"\{\{-?(.*?)-?\}\}", re.DOTALL)
_ENV = re.compile(r'\s*env\s+(?:"(\w+)"|`(\w+)`)(?:\s*\|\s*default\s+(?:"([^"\\}]*)"|`([^`}]*)`))?\s*')
_SOURCE = re.compile(r"\s*\.Sync\.Source\s*")
_FILE = re.compile(r"\{\{\s*file\s+\"([^\"]+)\"\s*\}\}")
_UNKNOWN_HOST = "registry.invalid"

_WHEN = "Times (interval, schedule) belong to cron or systemd: see docs/examples."
_PACE = "Limits (parallel, ratelimit) need no setting: syncer slows down by itself. Your own go under `registries`."
_HOOKS = "hooks: regsync reads them and never runs them."
_REQUESTS = "blobLimit, cacheCount, cacheTime, userAgent: syncer's requests have no such settings."
_DOCKER_LOGINS = (
    "skipDockerConfig: syncer uses the logins of `docker login` for registries without credentials in the file; name "
    "an empty file with --auth-file against that."
)
_PLATFORMS = (
    "platforms: the index at the target lists only these; regsync keeps the index whole and leaves the content of the "
    "other platforms behind."
)
_NO_BACKUP = "a tag that is overwritten is not kept under another name"
_NO_FILTERS = "either all signatures and referrers of an image are mirrored, or none"
_NO_TEMPLATE = '{{ env "NAME" }}, with a default or not, and {{ .Sync.Source }} are carried over, and no other template'
_SWITCHES = ("fastCheck", "fastCopy", "forceRecursive", "referrerSlow")
_MEDIA_TYPES = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
    }
)
"""regsync's own default (``defaultMediaTypes``); syncer mirrors all of them."""

_ARCHITECTURES = {
    "i386": "386",
    "i686": "386",
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm/v7",
    "armv7l": "arm/v7",
    "armel": "arm/v6",
    "armv6l": "arm/v6",
    "loongarch64": "loong64",
}
_SYSTEMS = {"linux": "linux", "darwin": "darwin", "win32": "windows"}


def is_regsync(tree: Any) -> bool:
    """Tell whether ``tree`` looks like such a file."""
    return isinstance(tree, Map) and (isinstance(tree.get("sync"), Seq) or {"sync", "creds"} <= tree.keys())


def import_regsync(tree: Any, draft: Draft) -> None:
    """Fill ``draft`` from the document ``tree``."""
    whole = Fields(draft, tree)
    if whole.text("version") not in (None, "0", "1"):
        whole.refuse("version", "only version 1 is known")
    places: dict[str, _Place] = {}
    known: dict[str, tuple[str, dict[str, Any]]] = {}
    for registry in whole.each("creds"):
        _registry(draft, registry, places, known)
    defaults = whole.inner("defaults")
    choices = _Choices.of(defaults, None)
    draft.referrers = choices.any_referrers  # regsync does not copy them by default
    _ignored(defaults)
    if defaults.flag("skipDockerConfig"):
        draft.note(_DOCKER_LOGINS)
    defaults.ignore(_REQUESTS, "blobLimit", "cacheCount", "cacheTime", "userAgent")
    defaults.finish()
    for step in whole.each("sync"):
        _Step(draft, step, _Choices.of(step, choices), places).add()
    whole.ignore("", *(name for name in whole.names() if name.startswith("x-")))
    whole.finish()


class _Place(Struct, frozen=True):
    """The server and the path at which regsync finds what names of a registry begin with."""

    host: str
    prefix: str = ""

    def rename(self, reference: Reference) -> Reference:
        path = "/".join(filter(None, (self.prefix, reference.repository)))
        return rename_reference(reference, registry=self.host, repository=path)


_NOWHERE = _Place("")  # of a registry whose server could not be read: nothing is mirrored from or to another one
_OF_A_HOST = ("user", "pass", "token", "credHelper", "tls")


def _registry(
    draft: Draft, registry: Fields, places: dict[str, _Place], known: dict[str, tuple[str, dict[str, Any]]]
) -> None:
    name = _templated(registry, "registry")
    host, plain = (name and registry.parse("registry", _login_host, name)) or (_UNKNOWN_HOST, None)
    host = _place(registry, host, places)
    login = {field: registry.tree.get(field) for field in _OF_A_HOST}
    other, others = known.setdefault(host, (name or "", login))
    if other != name and others != login:
        registry.refuse("registry", f"{other} above is the same host, with other credentials or TLS: it can have one")
        return
    _tls(draft, host, registry, plain=plain)
    _credentials(draft, host, registry)
    if concurrency := registry.parse("reqConcurrent", _number):
        draft.registry(host, concurrency=max(1, min(int(concurrency), 256)))
    if rate := registry.parse("reqPerSec", _number):
        draft.registry(host, requests_per_second=rate)
    registry.unsupported("mirrors are not used: name the registry to read from as the source", "mirrors")
    registry.ignore("", "priority", "repoAuth", "blobChunk", "blobMax", "api", "scheme", "credExpire")
    options = registry.inner("apiOpts")
    options.ignore("apiOpts.disableHead: syncer asks by HEAD, and by GET where that has no answer.", "disableHead")
    options.finish()
    registry.finish()
    draft.registries.pop(_UNKNOWN_HOST, None)


def _place(registry: Fields, host: str, places: dict[str, _Place]) -> str:
    """Take what says where the images of ``host`` really are; gives the host to speak to."""
    hostname = registry.parse("hostname", parse_registry_host)
    prefix = (registry.text("pathPrefix") or "").strip("/")
    if registry.refused & {"hostname", "pathPrefix"}:
        places[host] = _NOWHERE
        return host
    if hostname == canonical_host(host):
        hostname = None
    if hostname or prefix:
        places[host] = _Place(hostname or host, prefix)
    return hostname or host


def _tls(draft: Draft, host: str, registry: Fields, *, plain: bool | None) -> None:
    """Take the settings of TLS; the scheme of the registry's name, ``plain``, counts where ``tls`` does not say."""
    match (registry.text("tls") or "").lower():
        case "":
            if plain:
                draft.registry(host, plain_http=True)
        case "disabled":
            draft.registry(host, plain_http=True)
        case "insecure":
            draft.registry(host, insecure=True)
        case "enabled":
            pass
        case _:
            registry.refuse("tls", "it must be enabled, insecure or disabled")
    for ours, theirs in {"ca_cert": "regcert", "client_cert": "clientCert", "client_key": "clientKey"}.items():
        _certificate(draft, host, registry, ours, theirs)


def _login_host(text: str) -> tuple[str, bool | None]:
    return (text, None) if VARIABLE.search(text) else login_host(text)


def _credentials(draft: Draft, host: str, registry: Fields) -> None:
    user = _templated(registry, "user") if "user" in registry else None
    draft.login(host, user, registry.text("pass"))
    if helper := registry.text("credHelper"):
        program = helper.removeprefix("docker-credential-")
        if program == helper or not re.fullmatch(r"[\w.-]+", program):
            registry.refuse("credHelper", "a helper is a program on the PATH whose name begins with docker-credential-")
        else:
            draft.registry(host, credentials={"helper": program})
    registry.unsupported("a token is not a user and a password: keep it in a credential helper", "token")
    registry.unsupported("a helper is asked for the registry's own name", "credHost")


def _certificate(draft: Draft, host: str, registry: Fields, ours: str, theirs: str) -> None:
    text = registry.text(theirs)
    if text is None:
        return
    if match := _FILE.fullmatch(text.strip()):
        draft.registry(host, **{ours: match[1]})
    else:
        registry.refuse(theirs, f"write the certificate to a file and name it under `registries.{host}.{ours}`")


class _Choices(Struct, frozen=True):
    """What a step, or the defaults of all steps, choose of an image: its referrers, and the media types it may have."""

    referrers: bool = False
    digest_tags: bool = False
    has_filters: bool = False  # of referrers; they were refused
    some_media_types: bool = False  # likewise

    @property
    def any_referrers(self) -> bool:
        return self.referrers or self.digest_tags

    @classmethod
    def of(cls, fields: Fields, defaults: _Choices | None) -> _Choices:
        """Take these fields; those that are absent are as in ``defaults``."""
        default = defaults or cls()
        referrers, digest_tags = fields.flag("referrers"), fields.flag("digestTags")
        made = cls(
            default.referrers if referrers is None else referrers,
            default.digest_tags if digest_tags is None else digest_tags,
        )
        if made.referrers != made.digest_tags:
            fields.draft.note("referrers and digestTags are one switch in syncer: both are mirrored.")
        filters = ("referrerFilters", "referrerSource", "referrerTarget")
        has_filters = any(fields.tree.get(name) for name in filters) or default.has_filters
        if made.referrers or defaults is None:
            fields.unsupported(_NO_FILTERS, *filters)
        else:
            fields.ignore("", *filters)
        wanted = {text for text in fields.texts("mediaTypes", null="") if text}
        some = bool(wanted) and not wanted >= _MEDIA_TYPES
        if some:
            fields.refuse("mediaTypes", "images of all of regsync's media types are mirrored, and not of some alone")
        return cls(
            made.referrers,
            made.digest_tags,
            has_filters,
            some or (default.some_media_types and not wanted) or "mediaTypes" in fields.refused,
        )


class _Step(Struct):
    """One step; ``add`` brings its sources into the draft, unless its choice of them cannot be carried over."""

    draft: Draft
    step: Fields
    choices: _Choices
    places: dict[str, _Place]
    more: dict[str, Any] = field(default_factory=dict)
    is_nowhere: bool = False  # the registry of one of its ends is not known

    def add(self) -> None:
        step = self.step
        source = _templated(step, "source")
        target = _templated(step, "target", source=source)
        kind = _type(step)
        self._platforms()
        _ignored(step)
        sets = _tag_sets(step)
        if self.choices.any_referrers != self.draft.referrers:
            self.more["referrers"] = self.choices.any_referrers
        sources: list[dict[str, Any]] = []
        if source is not None and target is not None:
            match kind:
                case "image":
                    sources = self._image(source, target)
                case "repository":
                    sources = self._repository(source, target, sets)
        step.ignore("", "repos")
        step.finish()
        if self.choices.some_media_types or (self.choices.referrers and self.choices.has_filters):
            return
        if step.refused & {"platform", "platforms", "referrers", "digestTags"} or self.is_nowhere:
            return
        for each in sources:
            self.draft.target(each["targets"][0])
            self.draft.sources.append({**each, **self.more})

    def _platforms(self) -> None:
        single = self.step.parse("platform", _platform)
        texts = self.step.texts("platforms", null="")
        several = [self.step.parse("platforms", _platform, text) for text in texts]
        if "" in texts:
            self.step.refuse("platforms", "content without a platform cannot be chosen")
        if single:
            self.more["platforms"] = [str(single)]
            if self.step.text("platform") == "local":
                self.draft.note(f"platform: local is {single}, the platform of the machine of this import.")
        elif several:
            self.more["platforms"] = [str(each) for each in several if each]
            self.draft.note(_PLATFORMS)

    def _image(self, source: str, target: str) -> list[dict[str, Any]]:
        numbers = Numbers(source, target)
        image = numbers.parse(self.step, "source", source, Reference.parse)
        named = self._target(numbers, target, Reference.parse)
        if image is None or named is None:
            return []
        registry, name = named
        if name.digest:
            self.step.refuse("target", "a digest cannot be chosen at a target")
            return []
        tag = f":{name.tag}" if name.tag and (name.tag != image.tag or VARIABLE.fullmatch(source)) else ""
        spelt = source if names_host(source) else str(self._at_its_place(image))
        return [numbers.restore({"image": spelt, "as": name.repository + tag, "targets": [registry]})]

    def _repository(self, source: str, target: str, sets: list[dict[str, Any]]) -> list[dict[str, Any]]:
        numbers = Numbers(source, target)
        place = numbers.parse(self.step, "source", source, parse_repository)
        named = self._target(numbers, target, parse_repository)
        if place is None or named is None:
            return []
        registry, name = named
        spelt = source if names_host(source) else self._at_its_place(place).name
        made = []
        for tags in sets:
            source_of = {"repository": spelt, "tags": tags or "all", "as": name.repository, "targets": [registry]}
            if chooses_signatures(tags):
                self.draft.note(SIGNATURE_TAGS.format("regsync"))
                self.more["referrers"] = True
            made.append(numbers.restore(source_of))
        return made

    def _target(self, numbers: Numbers, target: str, parse: Callable[[str], Reference]) -> tuple[str, Reference] | None:
        """The registry of ``target``, and its name there."""
        if VARIABLE.fullmatch(target):
            self.step.refuse("target", "the registry must be apart from the name below it: REGISTRY/NAME")
            return None
        name = numbers.parse(self.step, "target", target, parse)
        if name is None:
            return None
        if not names_host(target):
            name = self._at_its_place(name)
            return name.registry, name
        host = target.partition("/")[0]
        self.draft.note(f"{host} is taken for a registry; if it is a name at Docker Hub, write the Hub before it.")
        return host, name

    def _at_its_place(self, reference: Reference) -> Reference:
        place = self.places.get(reference.registry)
        if place is _NOWHERE:
            self.is_nowhere = True
            return reference
        return place.rename(reference) if place else reference


def _type(step: Fields) -> str | None:
    """Take the type of a step; one that is not ``image`` or ``repository`` is refused."""
    kind = step.text("type")
    if kind is None:
        step.refuse("type", REQUIRED)
    elif kind == "registry":
        step.refuse("type", "'registry' cannot be imported: name the repositories one by one")
    elif kind not in ("image", "repository"):
        step.refuse("type", f"regsync has no such type {kind[:80]!r}; known: image, repository, registry")
    return kind


def _templated(fields: Fields, name: str, *, source: str | None = None) -> str | None:
    """Take a text in which regsync expands templates, with variables in their place; None when it is not usable."""
    text = fields.text(name)
    if text is None:
        fields.refuse(name, REQUIRED)
        return None
    known = True

    def put(match: re.Match[str]) -> str:
        nonlocal known
        if env := _ENV.fullmatch(match[1]):
            return variable(env[1] or env[2], env[3] if env[3] is not None else env[4])
        if source is not None and _SOURCE.fullmatch(match[1]):
            return source
        known = False
        return ""

    text = _ACTION.sub(put, text)
    if not known or "{{" in text:
        fields.refuse(name, _NO_TEMPLATE)
    elif text.startswith("ocidir://"):
        fields.refuse(name, "only images in registries are mirrored")
    else:
        return text
    return None


def _tag_sets(step: Fields) -> list[dict[str, Any]]:
    """Rules for ``tags``, one mapping for each set, of which a tag must match one; none at all when a set is refused.

    In a set a tag must match one of ``allow`` and one of ``semverRange``, and none of ``deny``.
    """
    sets = [*step.each("tagSets")]
    tags = step.inner("tags")
    if not tags.is_mapping or any(each not in (None, []) for each in tags.tree.values()):
        # one without any rule does not count, unlike those of tagSets
        sets.append(tags)
    choices = [_tag_set(each) for each in sets]
    if step.refused & {"tags", "tagSets"} or any(each.refused or not each.is_mapping for each in sets):
        return []
    wanted = [choice for choice in choices if choice is not None]
    if choices and not wanted:
        step.draft.note(f"{spell_path(step.path)} allows no tag, and mirrors nothing.")
    return wanted if choices else [{}]


def _tag_set(tags: Fields) -> dict[str, Any] | None:
    """The rules of one set, ``{}`` for all tags; None when it chooses no tag.

    Patterns are ``^``, the text and ``$``, without brackets, so that they hold one end each of ``a|b``
    (``filterRegexAllow``); an empty one matches no tag.  A range of no text is none.
    """
    given = tags.texts("allow", null="")
    allow = _patterns(tags, "allow", given)
    deny = _patterns(tags, "deny", tags.texts("deny", null=""))
    ranges = [text for text in tags.texts("semverRange", null="") if text]
    ranges = [text for text in ranges if tags.parse("semverRange", TagPattern.semver_regclient, text)]
    tags.finish()
    if given and not allow:
        return None
    choice: dict[str, Any] = {}
    if ranges:
        choice["semver_regclient"] = ranges
        if allow:
            others = f"(?!(?:{'|'.join(allow)})$).*"
            deny = [others, *deny] if tags.parse("allow", TagPattern.regex, others) else deny
    elif allow:
        choice["regex"] = allow
    if deny:
        choice["exclude"] = {"regex": deny}
    return choice


def _patterns(tags: Fields, name: str, texts: list[str]) -> list[str]:
    translated = [tags.parse(name, lambda text: whole_match(f"^{text}$"), text) for text in texts if text]
    return [text for text in translated if text and tags.parse(name, TagPattern.regex, text)]


def _platform(text: str) -> Platform:
    """Parse a platform as regclient does: parts that are left out are those of this machine."""
    local_system = _SYSTEMS.get(sys.platform, sys.platform)
    local = machine.machine().lower()
    local = _ARCHITECTURES.get(local, local)
    parts = [part.lower() for part in text.split("/")]
    if text == "local":
        parts = [local_system, local]
    elif len(parts) == 1 and parts[0] in ("linux", "darwin", "macos", "windows"):
        parts.append(local)
    elif len(parts) == 1:
        parts.insert(0, local_system)
    parts[:1] = {"macos": "darwin", "local": local_system}.get(parts[0], parts[0]).split("/")
    if len(parts) == 2:
        parts[1:] = _ARCHITECTURES.get(parts[1], parts[1]).split("/")
    return Platform.parse("/".join(parts))


def _ignored(fields: Fields) -> None:
    fields.ignore(_WHEN, "interval", "schedule")
    fields.ignore(_PACE, "ratelimit", "parallel")
    fields.ignore(_HOOKS, "hooks")
    fields.ignore("", *_SWITCHES)
    fields.unsupported(_NO_BACKUP, "backup")
    fields.unsupported(
        "layers that are kept outside of registries are mirrored with `--include-foreign`", "includeExternal"
    )


def _number(text: str) -> float:
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        raise UsageError(f"{text!r} is not a number")
    return float(text)
