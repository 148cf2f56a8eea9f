"""Importing the files of two more mirrors of registries: ocync's mappings and dregsy's tasks.

ocync's fields and its filter are those of ``src/cli/config.rs`` and ``crates/ocync-sync/src/filter.rs``, dregsy's
those of ``internal/pkg/sync`` and ``internal/pkg/tags``.  Both have ranges of versions by rules of their own, which
compare the numbers of a tag whatever follows them; such a range becomes a regular expression.  A mapping whose choice
of tags cannot be carried over is not in the result at all.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from syncer.errors import UsageError
from syncer.formats.re2 import whole_match
from syncer.formats.yaml import Map, Seq
from syncer.oci import Reference
from syncer.profiles.imports.draft import Draft, Fields, image_source, login_host, platform_names
from syncer.profiles.syncfile.document import parse_repository
from syncer.profiles.syncfile.tags import TagPattern

Value = TypeVar("Value")

_NUMBER = "[0-9]+"
_MOST_CHARACTERS = 1000  # of an expression in a sync file


# Ranges of versions as expressions


def _above(number: int) -> str:
    """An expression for the whole numbers above ``number``, which may begin with zeros."""
    digits = str(number)
    more = [f"[1-9][0-9]{{{len(digits)},}}"]
    for place, digit in enumerate(digits):
        if digit != "9":
            rest = len(digits) - place - 1
            more.append(f"{digits[:place]}[{int(digit) + 1}-9]" + (f"[0-9]{{{rest}}}" if rest else ""))
    return f"0*(?:{'|'.join(more)})"


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Expressions for the numbers of a version, compared with those of a bound; numbers that are missing are 0."""

    bound: tuple[int, ...]  # without zeros at its end
    separator: str  # an expression

    @property
    def equal(self) -> str:
        zero = f"(?:{self.separator}0+)*"
        return f"{self._joined(self.bound)}{zero}" if self.bound else f"0+{zero}"

    @property
    def above(self) -> str:
        any_more = f"(?:{self.separator}{_NUMBER})*"
        found = []
        for place, number in enumerate(self.bound):
            before = f"{self._joined(self.bound[:place])}{self.separator}" if place else ""
            found.append(f"{before}{_above(number)}{any_more}")
        found.append(f"{self.equal}{self.separator}{_above(0)}{any_more}")
        if not self.bound:
            found.append(f"{_above(0)}{any_more}")
        return "|".join(found)

    def _joined(self, numbers: Sequence[int]) -> str:
        return self.separator.join(f"0*{number}" for number in numbers)


def _bound(text: str, separator: str) -> _Numbers:
    numbers = [int(part) for part in text.split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return _Numbers(tuple(numbers), separator)


def _checked(text: str) -> str:
    if len(text) > _MOST_CHARACTERS:
        raise UsageError("as an expression this range is too long: write one for the tags yourself")
    return TagPattern.regex(text).text


def ocync_range(text: str) -> str:
    """An expression for the tags in ocync's range ``text``: numbers are compared, and what follows a dash is not.

    Raises ``UsageError`` for what is no range of ocync's.

    >>> [bool(re.fullmatch(ocync_range(">=1.18, <2"), tag)) for tag in ("1.18", "v1.20.3-alpine", "2.0-rc1", "latest")]
    [True, True, False, False]
    """
    looks = ""
    for part in text.split(","):
        match = re.fullmatch(r"(>=|<=|>|<|=|)\s*v?([0-9]+(?:\.[0-9]+)*)", part.strip())
        if match is None:
            raise UsageError(f"{part.strip()!r} is no comparison of ocync's: it has >=, <=, >, < and = only")
        numbers = _bound(match[2], "[._]")
        end = "(?![0-9._])"
        above, equal = f"(?:{numbers.above}){end}", f"(?:{numbers.equal}){end}"
        looks += {
            ">": f"(?={above})",
            "<=": f"(?!{above})",
            ">=": f"(?=(?:{numbers.above}|{numbers.equal}){end})",
            "<": f"(?!(?:{numbers.above}|{numbers.equal}){end})",
        }.get(match[1], f"(?={equal})")
    return _checked(f"v?{looks}{_NUMBER}(?:[._]{_NUMBER})*(?:-.*)?")


_IDENTIFIER = r"(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"


def dregsy_range(text: str) -> str:
    """An expression for the tags in dregsy's range ``text``, by the rules of blang/semver.

    A version with a suffix (``1.2.3-alpine``) comes before the one without, and counts.  Raises ``UsageError`` for what
    is no range, or none of those that are understood.

    >>> [bool(re.fullmatch(dregsy_range(">=1.2.0 <2.0.0"), tag)) for tag in ("v1.2", "1.2.0-rc.1", "2.0.0-rc.1")]
    [True, False, True]
    """
    alternatives = []
    for alternative in text.split("||"):
        looks = ""
        comparisons = re.sub(r"(>=|<=|==|!=|[<>=!])\s+", r"\1", alternative).split()
        for part in comparisons:
            match = re.fullmatch(r"(>=|<=|==|!=|[<>=!]|)([0-9]+\.[0-9]+\.[0-9]+)", part)
            if match is None:
                raise UsageError(f"{part!r} is not carried over: write a comparison with three numbers")
            looks += _blang(match[1], _bound(match[2], "[.]"))
        if not comparisons:
            raise UsageError("it is empty")
        alternatives.append(looks)
    looks = alternatives[0] if len(alternatives) == 1 else f"(?:{'|'.join(alternatives)})"
    version = rf"{_NUMBER}(?:[.]{_NUMBER})?|{_NUMBER}[.]{_NUMBER}[.]{_NUMBER}(?:-{_IDENTIFIER}(?:[.]{_IDENTIFIER})*)?"
    return _checked(f"v?{looks}(?:{version})")


def _blang(sign: str, numbers: _Numbers) -> str:
    """A look ahead for one comparison with a version that has no suffix itself."""
    end = "(?![0-9.])"
    above, equal = f"(?:{numbers.above}){end}", f"(?:{numbers.equal}){end}"
    exact = f"{equal}(?!-)"
    match sign:
        case ">":
            return f"(?={above})"
        case ">=":
            return f"(?={above}|{exact})"
        case "<":
            return f"(?!{above}|{exact})"
        case "<=":
            return f"(?!{above})"
        case "!" | "!=":
            return f"(?!{exact})"
        case _:
            return f"(?={exact})"


# ocync


_PRERELEASES = "(?i:.*-(?:rc|alpha|beta|pre|snapshot|nightly).*)"
"""The tags that ocync leaves out unless ``include`` names them (``SYSTEM_EXCLUDE``)."""

_VARIABLE = "ocync fills ${…} from the environment: write the value"
_NEWEST = "latest: the newest tags are those by syncer's order of versions, which knows three numbers (docs/sync.md)."
_WILD = frozenset("*?[")
_EXPRESSION_OF = {"*": ".*", "?": ".", "{": "(?:", ",": "|", "}": ")"}
_GLOB_PARTS = re.compile(r"\\.|\[(?P<not>[!^]?)(?P<set>\]?[^\]]*)\]|[^\[]")


def is_ocync(tree: Any) -> bool:
    """Tell whether ``tree`` looks like a file of ocync's."""
    return isinstance(tree, Map) and isinstance(tree.get("mappings"), Seq)


def import_ocync(tree: Any, draft: Draft) -> None:
    """Fill ``draft`` from the document ``tree``."""
    whole = Fields(draft, tree)
    whole.ignore(
        "global: syncer needs no such settings; --concurrency and --state-dir are like some of them.", "global"
    )
    registries = _Registries(draft, whole.inner("registries"))
    groups = whole.inner("target_groups")
    targets = {name: groups.texts(name) for name in groups.names()}
    defaults = whole.inner("defaults")
    general = [value for name, value in defaults.tree.items()]
    for mapping in whole.each("mappings"):
        if _has_variable(mapping.tree, *general):
            draft.refuse(mapping.path, mapping.line, _VARIABLE)
            continue
        _mapping(draft, mapping, _Settings(mapping, defaults), registries, targets)
    defaults.finish(ignored_by="ocync")
    whole.finish(ignored_by="ocync")


class _Registries:
    """The registries of ocync's file by their names, each of which is read once."""

    def __init__(self, draft: Draft, fields: Fields) -> None:
        self._hosts = {name: self._read(draft, fields.inner(name)) for name in fields.names()}

    def host(self, mapping: Fields, name: str, alias: str) -> str | None:
        """The host that is called ``alias`` in the field ``name``; an unknown one is refused."""
        if alias not in self._hosts:
            mapping.refuse(name, f"no registry is called {alias!r}")
        return self._hosts.get(alias)

    def _read(self, draft: Draft, registry: Fields) -> str | None:
        found = registry.parse("url", _host)
        if "url" not in registry:
            registry.refuse("url", "it is required")
        host = found[0] if found else None
        kind = registry.text("auth_type")
        login = registry.inner("credentials")
        user, password = login.text("username"), login.text("password")
        login.finish(ignored_by="ocync")
        registry.unsupported("a token is not a user and a password: keep it in a credential helper", "token")
        registry.unsupported("no profile of AWS is asked: use docker-credential-ecr-login", "aws_profile")
        registry.ignore("", "head_first")
        concurrency = registry.parse("max_concurrent", _count)
        registry.finish(ignored_by="ocync")
        if host is None or found is None:
            return None
        if found[1]:
            draft.registry(host, plain_http=True)
        if concurrency:
            draft.registry(host, concurrency=min(concurrency, 256))
        if kind in ("ecr", "gar", "gcr", "acr", "ghcr"):
            draft.note(f"{host}: ocync asks the cloud for a login; syncer uses that of `docker login` or of a helper.")
        elif kind in (None, "basic"):
            draft.login(host, user, password)
        return host


def _host(text: str) -> tuple[str, bool | None]:
    if _has_variable(text):
        raise UsageError(_VARIABLE)
    return login_host(text)


def _count(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,5}", text):
        raise UsageError("it must be a number of at least 1")
    return int(text)


@dataclass(slots=True)
class _Settings:
    """The settings of a mapping, its own before the defaults."""

    mapping: Fields
    defaults: Fields
    tags: _Tags = field(init=False)

    def __post_init__(self) -> None:
        self.tags = _Tags(self.mapping.inner("tags"), self.defaults.inner("tags"), has_defaults="tags" in self.defaults)

    def holder(self, name: str) -> Fields:
        """The fields that have ``name``: those of the mapping if it has it, or else the defaults."""
        self.defaults.ignore("", name)
        return self.mapping if name in self.mapping else self.defaults


def _mapping(
    draft: Draft, mapping: Fields, settings: _Settings, registries: _Registries, groups: dict[str, list[str]]
) -> None:
    path = mapping.text("from") or ""
    place = mapping.text("to") or path
    source = settings.holder("source").text("source")
    named = settings.holder("targets").texts("targets")
    one = settings.holder("targets").tree.get("targets")
    wanted = groups.get(one, named) if isinstance(one, str) else named
    platforms = platform_names(settings.holder("platforms"), "platforms")
    referrers = _artifacts(settings.holder("artifacts").inner("artifacts"))
    host = registries.host(mapping, "source", source) if source else None
    hosts = [registries.host(mapping, "targets", name) for name in wanted]
    mapping.ignore("", "source", "targets", "platforms", "artifacts", "tags")
    mapping.finish(ignored_by="ocync")
    for name, value in (("from", path), ("source", source), ("targets", wanted)):
        if not value:
            mapping.refuse(name, "it is required")
    repository = mapping.parse("from", parse_repository, f"{host}/{path}") if host and path else None
    target = mapping.parse("to", _path, place) if place else None
    chosen = list(settings.tags.rules(mapping))
    if repository is None or target is None or not wanted or None in hosts:
        return
    if "platforms" in settings.holder("platforms").refused:
        return
    for registry in hosts:
        draft.target(str(registry))
    for rules in chosen:
        entry: dict[str, Any] = {"repository": repository.name, "tags": rules, "as": target, "targets": hosts}
        if platforms:
            entry["platforms"] = platforms
        if not referrers:
            entry["referrers"] = False
        draft.sources.append(entry)


def _has_variable(*nodes: Any) -> bool:
    """Tell whether ``${…}``, which ocync fills from the environment, stands in one of ``nodes``."""
    return any(
        "${" in node
        if isinstance(node, str)
        else _has_variable(*(node.values() if isinstance(node, Map) else node))
        if isinstance(node, list | dict)
        else False
        for node in nodes
    )


def _path(text: str) -> str:
    return parse_repository(f"registry.invalid/{text}").repository


def _artifacts(artifacts: Fields) -> bool:
    """Tell whether signatures and other artifacts travel along; without all of a filter, none of them does."""
    enabled = artifacts.flag("enabled") is not False
    artifacts.unsupported("that an image has artifacts is not required", "require_artifacts")
    for name in ("include", "exclude"):
        if artifacts.texts(name):
            artifacts.refuse(name, "either all signatures and referrers of an image are mirrored, or none: here none")
            enabled = False
    artifacts.finish(ignored_by="ocync")
    return enabled


@dataclass(slots=True)
class _Tags:
    """ocync's filter of tags (``FilterConfig``): a mapping's fields come before those of the defaults."""

    own: Fields
    defaults: Fields
    has_defaults: bool

    def rules(self, mapping: Fields) -> Iterator[Any]:
        """Yield the ``tags`` of one or two sources that choose the same; nothing when something is refused."""
        globs, includes = self._texts("glob"), self._texts("include")
        hard, soft = self.own.texts("exclude"), self.defaults.texts("exclude")
        semver, sort, latest = self._text("semver"), self._text("sort"), self._text("latest")
        for fields in (self.own, self.defaults):
            fields.unsupported("ocync removed it; see its message for what to write", "semver_prerelease")
            fields.ignore("min_tags: that a filter finds too few tags is no failure here.", "min_tags")
            fields.ignore("immutable_tags: a tag that moves is copied again; ocync skips these.", "immutable_tags")
            fields.finish(ignored_by="ocync")
        if "tags" not in mapping and not self.has_defaults:
            mapping.refuse("tags", "it is required")
        is_plain = not (includes or hard or soft or semver or sort or latest or self.has_defaults)
        if is_plain and globs and not any(map(_is_wild, globs)):
            names = [self._parsed("glob", TagPattern.name, name) for name in globs]
            if not self._is_refused(mapping):
                yield [name.text for name in names if name]
            return
        literals = [text for text in includes if not _is_wild(text)]
        rescued = self._any("include", [text for text in includes if _is_wild(text)])
        denied, left_out = self._any("exclude", hard), self._any("exclude", soft, self.defaults)
        wanted = self._any("glob", globs)
        versions = self._parsed("semver", ocync_range, semver) if semver else None
        newest = self._newest(sort, latest)
        if not self._is_refused(mapping):
            yield self._found(wanted, rescued, versions, newest=newest, denied=denied, left_out=left_out)
        if literals and not self._is_refused(mapping):
            # ocync takes them whatever the other rules say, and only those that are there
            more = {"regex": [re.escape(text) for text in literals]}
            yield {**more, "exclude": {"regex": [denied]}} if denied else more

    def _found(
        self, wanted: str, rescued: str, versions: str | None, *, newest: int | None, denied: str, left_out: str
    ) -> dict[str, Any]:
        """The rules for the tags that go through all stages; each argument is an expression but ``newest``."""
        softly = "|".join(filter(None, (_PRERELEASES, left_out)))
        excluded = [f"(?!(?:{rescued})\\Z)(?:{softly})" if rescued else softly]
        if denied:
            excluded.append(denied)
        chosen: Any = {}
        either = "|".join(filter(None, (wanted, rescued)))
        if versions:
            chosen["regex"] = [versions]
            if wanted:
                excluded.append(f"(?!(?:{either})\\Z).*")
        elif wanted:
            chosen["regex"] = [either]
        if newest:
            chosen["newest"] = newest
            self.own.draft.note(_NEWEST)
        return {**chosen, "exclude": {"regex": excluded}}

    def _newest(self, sort: str | None, latest: str | None) -> int | None:
        if latest is None:
            return None
        if sort == "alpha":
            self._refuse("sort", "the newest tags are chosen by version only")
        elif sort != "semver":
            self._refuse("latest", "it requires sort")
        return self._parsed("latest", _count, latest)

    def _holder(self, name: str) -> Fields:
        return self.own if name in self.own else self.defaults

    def _texts(self, name: str) -> list[str]:
        self.defaults.ignore("", name)
        return self._holder(name).texts(name)

    def _text(self, name: str) -> str | None:
        self.defaults.ignore("", name)
        holder = self._holder(name)
        if holder.tree.get(name) == "":
            holder.refuse(name, "it is empty")
        return holder.text(name)

    def _parsed(self, name: str, parse: Callable[[str], Value], text: str) -> Value | None:
        return _parsed(self._holder(name), name, parse, text)

    def _refuse(self, name: str, why: str) -> None:
        self._holder(name).refuse(name, why)

    def _any(self, name: str, globs: list[str], holder: Fields | None = None) -> str:
        """An expression that matches what one of ``globs`` matches; empty for none."""
        fields = holder or self._holder(name)
        return "|".join(filter(None, (_parsed(fields, name, glob_expression, text) for text in globs)))

    def _is_refused(self, mapping: Fields) -> bool:
        return bool(self.own.refused or self.defaults.refused or "tags" in mapping.refused)


def _is_wild(text: str) -> bool:
    return bool(_WILD & set(text))


def _parsed(fields: Fields, name: str, parse: Callable[[str], Value], text: str) -> Value | None:
    """Parse one of the texts in a field, an empty one as well: what chooses nothing must not come to choose all."""
    return fields.parse(name, lambda _: parse(text), text or "empty")


def glob_expression(text: str) -> str:
    r"""An expression for a pattern of globset (Rust): ``*``, ``?``, ``[…]``, ``{a,b}`` and escapes.

    Raises ``UsageError``.

    >>> glob_expression("v1.*-{a,b}")
    'v1\\..*\\-(?:a|b)'
    """
    if not text:
        raise UsageError("a pattern is empty, and fits no tag")
    found, depth, place = "", 0, 0
    for match in _GLOB_PARTS.finditer(text):
        if match.start() != place:
            break
        part, place = match[0], match.end()
        if part in _EXPRESSION_OF and (depth or part not in "},"):
            depth += {"{": 1, "}": -1}.get(part, 0)
            found += _EXPRESSION_OF[part]
        elif match["set"] is not None:
            inside = re.sub(r"([\\\[&~|^])", r"\\\1", match["set"])
            found += f"[{'^' if match['not'] else ''}{inside}]"
        else:
            found += re.escape(part.removeprefix("\\") if len(part) == 2 else part)
    if depth or place < len(text):
        raise UsageError(f"{text[:160]!r} is not a pattern: a bracket is not closed")
    return TagPattern.regex(found).text


# dregsy


def is_dregsy(tree: Any) -> bool:
    """Tell whether ``tree`` looks like a file of dregsy's."""
    tasks = tree.get("tasks") if isinstance(tree, Map) else None
    return isinstance(tasks, Seq) and any(isinstance(task, Map) and "mappings" in task for task in tasks)


def import_dregsy(tree: Any, draft: Draft) -> None:
    """Fill ``draft`` from the document ``tree``."""
    whole = Fields(draft, tree)
    whole.ignore("", "relay", "docker", "skopeo", "dockerhost", "api-version", "lister", "watch")
    for task in whole.each("tasks"):
        source, target = _location(draft, task, "source"), _location(draft, task, "target")
        task.ignore("Times (interval) belong to cron or systemd: see docs/examples.", "interval")
        task.ignore("", "name", "verbose")
        for mapping in task.each("mappings"):
            _dregsy_mapping(draft, mapping, source, target)
        task.finish(ignored_by="dregsy")
    whole.finish(ignored_by="dregsy")


def _location(draft: Draft, task: Fields, name: str) -> str | None:
    """The registry at one end of a task, as dregsy writes it before the paths."""
    location = task.inner(name)
    registry = (location.text("registry") or "").rpartition("@")[2]
    place = location.parse("registry", lambda text: parse_repository(f"{text}/images"), registry) if registry else None
    auth = location.text("auth")
    insecure = location.flag("skip-tls-verify")
    location.ignore("auth-refresh: log in to ECR by docker-credential-ecr-login.", "auth-refresh")
    location.ignore("", "lister")
    if not registry:
        location.refuse("registry", "it is required")
    if place and auth == "none":
        draft.note(f"{place.registry}: dregsy uses no login here; syncer uses one of `docker login` if there is one.")
    elif place and auth:
        login = location.parse("auth", _login, auth)
        if login:
            draft.login(place.registry, *login)
    if place and insecure:
        draft.registry(place.registry, insecure=True)
    location.finish(ignored_by="dregsy")
    return registry if place else None


def _login(text: str) -> tuple[str, str]:
    """The user and the password in ``auth``; raises ``UsageError``, which shows neither."""
    try:
        login = json.loads(base64.b64decode(text, validate=True))
        return str(login["username"]), str(login["password"])
    except (binascii.Error, ValueError, LookupError, TypeError):
        raise UsageError("it must be a username and a password in JSON, in base64") from None


def _dregsy_mapping(draft: Draft, mapping: Fields, source: str | None, target: str | None) -> None:
    path, place = mapping.text("from") or "", mapping.text("to")
    platform = mapping.text("platform")
    platforms = platform_names(mapping, "platform") if platform not in (None, "all") else []
    if platform is None:
        draft.note("Platforms: all are taken; dregsy takes this machine's only, unless a mapping says platform: all.")
    tags = _DregsyTags(mapping)
    mapping.finish(ignored_by="dregsy")
    if not path:
        mapping.refuse("from", "it is required")
    elif path.startswith("regex:"):
        mapping.refuse("from", "a registry is not searched for repositories: name them one by one")
    elif source and target:
        names = [f"{source}/{path.lstrip('/')}", mapping.parse("to", lambda text: _moved(path, text), place or "/")]
        repository = mapping.parse("from", parse_repository, names[0] or "")
        landing = mapping.parse("to", parse_repository, f"{target}{names[1]}") if names[1] else None
        if repository is None or landing is None or mapping.refused:
            return
        draft.target(landing.registry)
        more: dict[str, Any] = {"as": landing.repository, "targets": [landing.registry]}
        if platforms:
            more["platforms"] = platforms
        draft.sources += tags.sources(repository, more)


def _moved(path: str, to: str) -> str:
    """The path at the target, with its slash (``Mapping.mapPath``); raises ``UsageError``."""
    source = f"/{path.lstrip('/')}"
    if to == "/":
        return source
    if not to.startswith("regex:"):
        return f"/{to.lstrip('/')}"
    pattern, comma, replacement = to.removeprefix("regex:").partition(",")
    if not comma or re.search(r"\$(?!\{?[0-9]\}?(?![0-9A-Za-z_]))|\\", replacement):
        raise UsageError("of replacements only those with $1 to $9 are understood: write the path itself")
    try:
        return re.sub(pattern, re.sub(r"\$\{?([0-9])\}?", r"\\g<\1>", replacement), source)
    except re.error as error:
        raise UsageError(f"{pattern[:160]!r} is not a regular expression: {error}") from None


class _DregsyTags:
    """The ``tags`` of a mapping of dregsy's (``TagSet``): verbatim ones, filters that find more, and what is kept."""

    def __init__(self, mapping: Fields) -> None:
        self.names: list[str] = []
        self.found: list[str] = []
        self.dropped: list[str] = []
        self.newest: int | None = None
        has_regex = False
        for text in map(str.strip, mapping.texts("tags")):
            kind, colon, rest = text.partition(":")
            match kind if colon else "":
                case "semver":
                    self._add(_parsed(mapping, "tags", dregsy_range, rest.strip()))
                case "regex":
                    has_regex = True
                    self._add(_parsed(mapping, "tags", _dregsy_pattern, rest))
                case "keep" if count := re.fullmatch(r"\s+latest\s+([0-9]+)", rest):
                    self.newest = int(count[1])
                case "keep":
                    pattern = _parsed(mapping, "tags", _dregsy_pattern, rest)
                    self.dropped += [] if pattern is None else [f"(?!(?:{pattern})\\Z).*"]
                case _:
                    self.names.append(text)
        if self.newest and (has_regex or not self.found or any(re.match("v?[0-9]", name) for name in self.names)):
            mapping.refuse("tags", "keep: latest counts only what semver: finds, so this mapping is left out")

    def _add(self, expression: str | None) -> None:
        if expression is not None:  # an empty one fits no tag, and so chooses none
            self.found.append(expression)

    def sources(self, repository: Reference, more: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the sources that these tags are."""
        rules: dict[str, Any] = {"regex": self.found} if self.found else {}
        if self.newest:
            rules["newest"] = self.newest
        if self.dropped:
            rules["exclude"] = {"regex": self.dropped}
        if self.found or not self.names:
            yield {"repository": repository.name, "tags": rules or "all", **more}
        plain = [name for name in self.names if "sha256:" not in name]
        if plain:
            yield {"repository": repository.name, "tags": plain, **more}
        for name in self.names:
            tag, _, digest = name.rpartition("@") if "@" in name else ("", "", name)
            if "sha256:" in name:
                pinned = Reference.parse(f"{repository.name}@{digest}")
                landing = f"{more['as']}:{tag}" if tag else more["as"]
                yield image_source(pinned, **{**more, "as": landing})


def _dregsy_pattern(text: str) -> str:
    """A pattern as an expression; ``^`` and ``$`` go around it as it is, and ``!`` before it turns it round."""
    text = text.strip()
    inverted = text.startswith("!")
    text = text[inverted:]
    text = text if text.startswith("^") else f"^{text}"
    expression = whole_match(text if text.endswith("$") else f"{text}$")
    return f"(?!(?:{expression})\\Z).*" if inverted else expression
