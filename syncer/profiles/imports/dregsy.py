"""Importing dregsy's tasks (``internal/pkg/sync``, ``internal/pkg/tags``).

Its ranges of versions are those of blang/semver, and become regular expressions.  A mapping whose choice of tags cannot
be carried over is not in the result at all.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import warnings
from collections.abc import Iterator
from typing import Any

from syncer.errors import UsageError
from syncer.formats.re2 import whole_match
from syncer.formats.yaml import Map, Seq
from syncer.oci import Reference
from syncer.profiles.imports.draft import REQUIRED, Draft, Fields, image_source, platform_names
from syncer.profiles.imports.ocync import NUMBER, Numbers, checked_expression, parse_text, version_bound
from syncer.profiles.syncfile.document import parse_repository

_ONLY_RE2 = re.compile(r"\[:|\\[^\W\dAbBdDsSwWnt]")  # Python takes these for something else, or not at all
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
            match = re.fullmatch(r"(>=|<=|==|!=|[<>=!]|)([0-9]{1,20}\.[0-9]{1,20}\.[0-9]{1,20})", part)
            if match is None:
                raise UsageError(f"{part!r} is not carried over: write a comparison with three numbers")
            looks += _blang(match[1], version_bound(match[2], "[.]"))
        if not comparisons:
            raise UsageError("it is empty")
        alternatives.append(looks)
    looks = alternatives[0] if len(alternatives) == 1 else f"(?:{'|'.join(alternatives)})"
    version = rf"{NUMBER}(?:[.]{NUMBER})?|{NUMBER}[.]{NUMBER}[.]{NUMBER}(?:-{_IDENTIFIER}(?:[.]{_IDENTIFIER})*)?"
    return checked_expression(f"v?{looks}(?:{version})")


def _blang(sign: str, numbers: Numbers) -> str:
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
        location.refuse("registry", REQUIRED)
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
        mapping.refuse("from", REQUIRED)
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
    whole_match(pattern)  # which refuses what RE2 does
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what `re` warns of means something else in RE2
            expression = re.compile(pattern, re.ASCII)
        template = re.sub(r"\$\{?([0-9])\}?", r"\\g<\1>", replacement)
        if _ONLY_RE2.search(pattern):
            raise UsageError(f"{pattern[:160]!r} is not understood: write the path itself")
        return "".join(_replaced(expression, template, source))
    except (re.error, Warning) as error:
        raise UsageError(f"{pattern[:160]!r} is not a regular expression: {error}") from None


def _replaced(expression: re.Pattern[str], template: str, text: str) -> Iterator[str]:
    """Yield the parts of ``text`` with each match replaced; Go passes over an empty one where a match ended."""
    end = 0
    for match in expression.finditer(text):
        if match.end() > end or match.start() == 0:
            yield text[end : match.start()] + match.expand(template)
            end = match.end()
    yield text[end:]


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
                    self._add(parse_text(mapping, "tags", dregsy_range, rest.strip()))
                case "regex":
                    has_regex = True
                    self._add(parse_text(mapping, "tags", _dregsy_pattern, rest))
                case "keep" if count := re.fullmatch(r"\s+latest\s+([0-9]+)", rest):
                    self.newest = int(count[1])
                case "keep":
                    pattern = parse_text(mapping, "tags", _dregsy_pattern, rest)
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
