"""Importing ocync's mappings (``src/cli/config.rs``, ``crates/ocync-sync/src/filter.rs``).

ocync's ranges of versions compare the numbers of a tag whatever follows them, and so become regular expressions.  A
mapping whose choice of tags cannot be carried over is not in the result at all.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from msgspec import Struct

from syncer.errors import UsageError
from syncer.formats.yaml import Map, Seq
from syncer.profiles.imports.draft import REQUIRED, Draft, Fields, login_host, platform_names
from syncer.profiles.syncfile.document import parse_repository
from syncer.profiles.syncfile.tags import TagPattern

Value = TypeVar("Value")

NUMBER = "[0-9]+"
_MOST_CHARACTERS = 1000  # of an expression in a sync file


def _above(number: int) -> str:
    """An expression for the whole numbers above ``number``, which may begin with zeros."""
    digits = str(number)
    more = [f"[1-9][0-9]{{{len(digits)},}}"]
    for place, digit in enumerate(digits):
        if digit != "9":
            rest = len(digits) - place - 1
            more.append(f"{digits[:place]}[{int(digit) + 1}-9]" + (f"[0-9]{{{rest}}}" if rest else ""))
    return f"0*(?:{'|'.join(more)})"


class Numbers(Struct, frozen=True):
    """Regular expressions for the numbers of a version, compared with those of a bound; missing ones are 0."""

    bound: tuple[int, ...]  # without zeros at its end
    separator: str  # an expression

    @property
    def equal(self) -> str:
        zero = f"(?:{self.separator}0+)*"
        return f"{self._joined(self.bound)}{zero}" if self.bound else f"0+{zero}"

    @property
    def above(self) -> str:
        any_more = f"(?:{self.separator}{NUMBER})*"
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


def version_bound(text: str, separator: str) -> Numbers:
    """The numbers of ``text``, such as ``1.2``, with the expression that stands between those of a tag."""
    numbers = [int(part) for part in text.split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return Numbers(tuple(numbers), separator)


def checked_expression(text: str) -> str:
    """Return ``text`` if a sync file may have such an expression; raises ``UsageError``."""
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
        match = re.fullmatch(r"(>=|<=|>|<|=|)\s*v?([0-9]{1,20}(?:\.[0-9]{1,20})*)", part.strip())
        if match is None:
            raise UsageError(f"{part.strip()!r} is no comparison of ocync's: it has >=, <=, >, < and = only")
        numbers = version_bound(match[2], "[._]")
        end = "(?![0-9._])"
        above, equal = f"(?:{numbers.above}){end}", f"(?:{numbers.equal}){end}"
        looks += {
            ">": f"(?={above})",
            "<=": f"(?!{above})",
            ">=": f"(?=(?:{numbers.above}|{numbers.equal}){end})",
            "<": f"(?!(?:{numbers.above}|{numbers.equal}){end})",
        }.get(match[1], f"(?={equal})")
    return checked_expression(f"v?{looks}{NUMBER}(?:[._]{NUMBER})*(?:-.*)?")


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
            registry.refuse("url", REQUIRED)
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


@dataclasses.dataclass(slots=True)
class _Settings:
    """The settings of a mapping, its own before the defaults."""

    mapping: Fields
    defaults: Fields
    tags: _Tags = dataclasses.field(init=False)

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
            mapping.refuse(name, REQUIRED)
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


class _Tags(Struct):
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
            mapping.refuse("tags", REQUIRED)
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
        return parse_text(self._holder(name), name, parse, text)

    def _refuse(self, name: str, why: str) -> None:
        self._holder(name).refuse(name, why)

    def _any(self, name: str, globs: list[str], holder: Fields | None = None) -> str:
        """An expression that matches what one of ``globs`` matches; empty for none."""
        fields = holder or self._holder(name)
        return "|".join(filter(None, (parse_text(fields, name, glob_expression, text) for text in globs)))

    def _is_refused(self, mapping: Fields) -> bool:
        return bool(self.own.refused or self.defaults.refused or "tags" in mapping.refused)


def _is_wild(text: str) -> bool:
    return bool(_WILD & set(text))


def parse_text(fields: Fields, name: str, parse: Callable[[str], Value], text: str) -> Value | None:
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
