"""Importing skopeo's sync file (skopeo-sync(1), "YAML file content"): registries, and the images below each.

The fields are those of ``registrySyncConfig`` in skopeo's ``cmd/skopeo/sync.go``; docs/import.md has the table.
"""

from __future__ import annotations

from typing import Any

from syncer.errors import UsageError
from syncer.formats.re2 import whole_match
from syncer.formats.yaml import Map, Seq
from syncer.oci import Reference
from syncer.profiles.imports.draft import REQUIRED, Draft, Fields, image_source, tagged_source
from syncer.profiles.syncfile.document import parse_repository
from syncer.profiles.syncfile.tags import TagPattern

_LISTS = "images"
_PATTERNS = ("images-by-tag-regex", "images-by-semver")
_SETTINGS = ("credentials", "tls-verify", "cert-dir")


def is_skopeo(tree: Any) -> bool:
    """Tell whether ``tree`` looks like such a file; values of Helm may have ``images`` of another form."""
    return isinstance(tree, Map) and any(_is_registry(name, entry) for name, entry in tree.items())


def _is_registry(name: str, entry: Any) -> bool:
    if not isinstance(entry, Map):
        return False
    lists, *patterns = (entry.get(kind) for kind in (_LISTS, *_PATTERNS))
    if any(isinstance(each, Map) for each in patterns):
        return True
    has_lists = isinstance(lists, Map) and any(each is None or isinstance(each, Seq) for each in lists.values())
    return has_lists or (lists is not None and any(sign in name for sign in ".:"))


def import_skopeo(tree: Any, draft: Draft) -> None:
    """Fill ``draft`` from the document ``tree``."""
    draft.note("Names: the full source name is kept; skopeo keeps the last part of it only, unless told --scoped.")
    draft.note("Platforms: all are taken; skopeo takes this machine's only, unless told --all.")
    draft.note("Signatures stay behind where no tag names them, as with skopeo; `referrers: true` brings all.")
    draft.referrers = False
    whole = Fields(draft, tree)
    settings: dict[str, Any] = {}
    for name in whole.names():
        host = whole.parse(name, _registry_of, name)
        registry = whole.inner(name)
        if host is None:
            continue
        images = registry.inner(_LISTS)
        for image in images.names():
            _add_tags(draft, name, image, images)
        for kind in _PATTERNS:
            rules = registry.inner(kind)
            for image in rules.names():
                _add_pattern(draft, name, image, rules, kind)
        own = {field: registry.tree.get(field) for field in _SETTINGS}
        if settings.setdefault(host, own) != own:
            whole.refuse(name, f"{host} has other credentials or TLS above, and syncer has one of each for a registry")
            registry.ignore("", *_SETTINGS)
        _settings(draft, host, registry)


def _registry_of(name: str) -> str:
    """The host that a key names; a path may follow it."""
    try:
        return parse_repository(f"{name}/images").registry
    except UsageError:
        raise UsageError(f"{name.rpartition('@')[2]!r} is not a registry, with a path or not") from None


def _add_tags(draft: Draft, registry: str, name: str, images: Fields) -> None:
    place = images.parse(name, parse_repository, f"{registry}/{name}")
    given = images.tree.get(name)
    if not isinstance(given, Seq) and given is not None:
        images.refuse(name, "it must be a list of tags and digests")
        return
    wanted = [tag for tag in images.texts(name, null="") if tag]
    if place is None:
        return
    named = [images.parse(name, TagPattern.name, tag) for tag in wanted if ":" not in tag]
    tags = [tag.text for tag in named if tag]
    if tags:
        draft.sources.append({"repository": place.name, "tags": tags})
    elif not given:
        draft.sources.append(tagged_source(draft, "skopeo", place.name, {}))
    for digest in wanted:
        if ":" in digest and (pinned := images.parse(name, Reference.parse, f"{place.name}@{digest}")):
            draft.sources.append(image_source(pinned))


def _add_pattern(draft: Draft, registry: str, name: str, rules: Fields, kind: str) -> None:
    place = rules.parse(name, parse_repository, f"{registry}/{name}")
    text = rules.text(name) or ""
    if name in rules.refused:
        return
    if kind == "images-by-semver":
        rule = rules.parse(name, TagPattern.semver, text)
        if not text:
            rules.refuse(name, REQUIRED)
    else:
        rule = _expression(rules, name, text)
    if place and rule:
        draft.sources.append(tagged_source(draft, "skopeo", place.name, {rule.kind: [rule.text]}))


def _expression(rules: Fields, name: str, text: str) -> TagPattern | None:
    try:
        return TagPattern.regex(whole_match(text))  # one without a text matches all tags
    except UsageError as error:
        rules.refuse(name, str(error))
        return None


def _settings(draft: Draft, host: str, registry: Fields) -> None:
    login = registry.inner("credentials")
    draft.login(host, login.text("username"), login.text("password"))
    login.unsupported("a token is not a user and a password: keep it in a credential helper", "identitytoken")
    login.finish()
    if registry.flag("tls-verify") is False:
        draft.registry(host, insecure=True)
        draft.note(f"{host}: certificates are not verified; if it speaks plain HTTP, write `plain_http: true`.")
    registry.unsupported(f"name the CA under `registries.{host}.ca_cert` instead of a directory", "cert-dir")
    registry.finish()
