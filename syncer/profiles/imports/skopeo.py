"""Importing skopeo's sync file (skopeo-sync(1), "YAML file content"): registries, and the images below each."""

from __future__ import annotations

import re
from typing import Any

from syncer.formats.yaml import Map
from syncer.oci import Reference
from syncer.profiles.imports.draft import Draft, Fields, image_source
from syncer.profiles.syncfile.document import parse_repository
from syncer.profiles.syncfile.tags import TagPattern

_KINDS = ("images", "images-by-tag-regex", "images-by-semver")


def is_skopeo(tree: Any) -> bool:
    """Tell whether ``tree`` looks like such a file."""
    return isinstance(tree, Map) and any(isinstance(host, Map) and set(_KINDS) & host.keys() for host in tree.values())


def import_skopeo(tree: Any, draft: Draft) -> None:
    """Fill ``draft`` from the document ``tree``."""
    draft.note("Names: the full source name is kept; skopeo keeps the last part of it only, unless told --scoped.")
    draft.note("Platforms: all are taken; skopeo takes this machine's only, unless told --all.")
    whole = Fields(draft, tree)
    for host in whole.names():
        registry = whole.inner(host)
        images = registry.inner("images")
        for name in images.names():
            _add_tags(draft, host, name, images)
        patterns = registry.inner("images-by-tag-regex")
        for name in patterns.names():
            _add_pattern(draft, host, name, patterns, "regex")
        ranges = registry.inner("images-by-semver")
        for name in ranges.names():
            _add_pattern(draft, host, name, ranges, "semver")
        _settings(draft, host, registry)


def _add_tags(draft: Draft, host: str, name: str, images: Fields) -> None:
    place = images.parse(name, parse_repository, f"{host}/{name}")
    wanted = images.texts(name)
    if place is None:
        return
    named = [images.parse(name, TagPattern.name, tag) for tag in wanted if ":" not in tag]
    tags = [tag.text for tag in named if tag]
    if tags or not wanted:
        draft.sources.append({"repository": place.name, "tags": tags or "all"})
    for digest in wanted:
        if ":" in digest and (pinned := images.parse(name, Reference.parse, f"{place.name}@{digest}")):
            draft.sources.append(image_source(pinned))


def _add_pattern(draft: Draft, host: str, name: str, rules: Fields, kind: str) -> None:
    place = rules.parse(name, parse_repository, f"{host}/{name}")
    text = rules.text(name)
    if kind == "regex" and text:
        text = whole_match(text)
    rule = rules.parse(name, TagPattern.regex if kind == "regex" else TagPattern.semver, text)
    if place and rule:
        draft.sources.append({"repository": place.name, "tags": {kind: [rule.text]}})


def whole_match(text: str) -> str:
    """An expression that matches the whole tag when Go finds its expression ``text`` anywhere in the tag.

    >>> whole_match("^1[.]13$"), whole_match("alpine")
    ('1[.]13', '.*(?:alpine).*')
    """
    flags, rest = "", text
    if match := re.match(r"\(\?([ims]+)\)", text):
        flags, rest = match[1], text[match.end() :]
    anchored = rest.startswith("^") and rest.endswith("$") and not rest.endswith(r"\$") and "|" not in rest
    inner = rest[1:-1] if anchored else rest
    inner = f"(?{flags}:{inner})" if flags else inner if anchored else f"(?:{inner})"
    return inner if anchored else f".*{inner}.*"


def _settings(draft: Draft, host: str, registry: Fields) -> None:
    login = registry.inner("credentials")
    draft.login(host, login.text("username"), login.text("password"))
    login.finish()
    if registry.flag("tls-verify") is False:
        draft.registry(host, insecure=True)
        draft.note(f"{host}: certificates are not verified; if it speaks plain HTTP, write `plain_http: true`.")
    registry.unsupported(f"name the CA under `registries.{host}.ca_cert` instead of a directory", "cert-dir")
    registry.finish()
