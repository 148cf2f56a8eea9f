"""Importing image-syncer's files: rules from a source to one or several targets, and logins.

The rules are those of its ``pkg/utils/url.go``; docs/import.md has the table.  The rules and the logins may be two
files, or one file with ``images`` and ``auth`` (the tool's older form).
"""

from __future__ import annotations

import re
from typing import Any

from syncer.errors import UsageError
from syncer.formats.re2 import whole_match
from syncer.formats.yaml import Map
from syncer.oci import Reference
from syncer.profiles.imports.draft import Draft, Fields, Numbers, image_source, names_host, tagged_source, variable
from syncer.profiles.syncfile.document import parse_registry_host, parse_repository
from syncer.profiles.syncfile.tags import TagPattern

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")  # of Go's os.ExpandEnv, which is about targets and logins
_LOGIN = frozenset({"username", "password", "insecure"})


def is_image_syncer(tree: Any) -> bool:
    """Tell whether ``tree`` looks like such rules, or like rules and logins together."""
    if not isinstance(tree, Map) or not tree:
        return False
    if isinstance(tree.get("images"), Map) and tree.keys() <= {"images", "auth"}:
        return True
    names = all("/" in name for name in tree)
    return names and any(target is None or isinstance(target, (str, list)) for target in tree.values())


def is_logins(tree: Any) -> bool:
    """Tell whether ``tree`` looks like the file of logins."""
    return (
        isinstance(tree, Map)
        and bool(tree)
        and all(isinstance(login, Map) and login.keys() <= _LOGIN for login in tree.values())
    )


def import_image_syncer(tree: Any, draft: Draft) -> None:
    """Fill ``draft`` from the document ``tree``."""
    draft.note("Platforms: all are taken, indexes unchanged; image-syncer has flags for some of them.")
    draft.note(
        "Signatures stay behind where the tags do not name them, as with image-syncer; `referrers: true` brings all."
    )
    draft.referrers = False
    whole = Fields(draft, tree)
    if isinstance(tree.get("images"), Map):
        rules = whole.inner("images")
        import_logins(whole.inner("auth"))
        whole.finish()
    else:
        rules = whole
    for source in rules.names():
        targets = rules.texts(source, null="")
        if source not in rules.refused and (not targets or not all(targets)):
            rules.refuse(source, "it names no target")
        for target in targets:
            if source not in rules.refused:
                _rule(draft, rules, source, _VARIABLE.sub(lambda match: variable(match[1] or match[2]), target))


def import_logins(logins: Fields) -> None:
    """Add the logins of a file to its draft."""
    draft = logins.draft
    for host in logins.names():
        login = logins.inner(host)
        user, password, insecure = login.text("username"), login.text("password"), login.flag("insecure")
        login.finish()
        if "/" in host:
            logins.refuse(host, "credentials are for a whole registry, not for a part of its names")
        elif name := logins.parse(host, parse_registry_host, host):
            draft.login(name, user, password)
            if insecure:
                draft.registry(name, insecure=True)
                draft.note(f"{name}: certificates are not verified; if it speaks plain HTTP, write `plain_http: true`.")


def _rule(draft: Draft, rules: Fields, source: str, target: str) -> None:
    numbers = Numbers(target)
    target_name = numbers.parse(rules, source, target, _target)
    if target_name is None:
        return
    sources = _sources(rules, source, target_name)
    if not sources:
        return
    registry = target.partition("/")[0] if names_host(target) else numbers.restore(target_name.registry)
    draft.target(registry)
    draft.sources += [{**numbers.restore(each), "targets": [registry]} for each in sources]


def _sources(rules: Fields, source: str, target_name: Reference) -> list[dict[str, Any]]:
    """The sources of one rule, whose left side is an image, names of tags, an expression in slashes, or all tags."""
    name, colon, tags = _split_tags(source)
    if colon and tags.startswith("/") and tags.endswith("/") and len(tags) > 2:
        pattern = rules.parse(source, lambda text: TagPattern.regex(whole_match(text)), tags[1:-1])
        return _of_repository(rules, source, name, {"regex": [pattern.text]} if pattern else None, target_name)
    if colon and "," in tags:
        names = [tag for tag in tags.split(",") if rules.parse(source, TagPattern.name, tag or ",")]
        return _of_repository(rules, source, name, names, target_name)
    if not colon and "@" not in source:
        return _of_repository(rules, source, name, "all", target_name)
    image = rules.parse(source, Reference.parse, source)
    if image is None:
        return []
    tag = f":{target_name.tag}" if target_name.tag and target_name.tag != image.tag else ""
    return [image_source(image, **{"as": target_name.repository + tag})]


def _of_repository(rules: Fields, source: str, name: str, tags: Any, target_name: Reference) -> list[dict[str, Any]]:
    place = rules.parse(source, parse_repository, name)
    if target_name.tag:
        rules.refuse(source, f"several tags cannot all become {target_name.tag}")
        return []
    if place is None or not tags:
        return []
    if isinstance(tags, list):
        return [{"repository": place.name, "tags": tags, "as": target_name.repository}]
    chosen = {} if tags == "all" else tags
    return [tagged_source(rules.draft, "image-syncer", place.name, chosen, **{"as": target_name.repository})]


def _split_tags(source: str) -> tuple[str, str, str]:
    """Name, colon and tags; a colon before a slash is a port's, unless an expression follows it."""
    name, slash, last = source.partition(":/")
    if slash:
        return name, ":", f"/{last}"
    head, _, last = source.rpartition("/")
    last, colon, tags = last.partition(":")
    return f"{head}/{last}" if head else last, colon if "@" not in source else "", tags


def _target(text: str) -> Reference:
    """Parse a target; unlike other references it has no tag when none is written."""
    reference = Reference.parse(text)
    if reference.digest:
        raise UsageError(f"{text!r} names a digest, which no target can choose")
    return reference if text.endswith(f":{reference.tag}") else parse_repository(text)
