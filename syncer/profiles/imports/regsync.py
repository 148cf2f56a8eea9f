"""Importing regsync's file (regclient.org/usage/regsync): credentials, defaults, and steps with source and target."""

from __future__ import annotations

import re
from typing import Any

from syncer.errors import UsageError
from syncer.formats.yaml import Map, Seq
from syncer.oci import Reference
from syncer.profiles.imports.draft import Draft, Fields, image_source, platform_names
from syncer.profiles.syncfile.document import parse_repository
from syncer.profiles.syncfile.tags import TagPattern

_SOURCE = re.compile(r"\{\{\s*\.Sync\.Source\s*\}\}")
_FILE = re.compile(r"\{\{\s*file\s+\"([^\"]+)\"\s*\}\}")

_WHEN = "Times (interval, schedule) belong to cron or systemd: see docs/examples."
_PACE = "Limits (parallel, ratelimit) need no setting: syncer slows down by itself. Your own go under `registries`."
_HOOKS = "hooks: regsync reads them and never runs them."
_NO_BACKUP = "a tag that is overwritten is not kept under another name"
_NO_FILTERS = "either all signatures and referrers of an image are mirrored, or none"
_SWITCHES = ("fastCheck", "fastCopy", "forceRecursive", "referrerSlow")


def is_regsync(tree: Any) -> bool:
    """Tell whether ``tree`` looks like such a file."""
    return isinstance(tree, Map) and isinstance(tree.get("sync"), Seq)


def import_regsync(tree: Any, draft: Draft) -> None:
    """Fill ``draft`` from the document ``tree``."""
    whole = Fields(draft, tree)
    if whole.text("version") not in (None, "1"):
        whole.refuse("version", "only version 1 is known")
    for registry in whole.each("creds"):
        _registry(draft, registry)
    defaults = whole.inner("defaults")
    referrers = _referrers(defaults)
    _refuse_differences(defaults)
    defaults.ignore("", "skipDockerConfig", "blobLimit", "cacheCount", "cacheTime", "userAgent")
    defaults.finish()
    draft.referrers = bool(referrers)  # regsync does not copy them by default
    for step in whole.each("sync"):
        _step(draft, step)
    whole.ignore("", *(name for name in whole.names() if name.startswith("x-")))
    whole.finish()


def _registry(draft: Draft, registry: Fields) -> None:
    host = registry.text("registry") or ""
    if not host:
        registry.refuse("registry", "it is required")
        return
    if registry.text("hostname") not in (None, host):
        registry.refuse("hostname", "syncer connects to a registry by its own name only")
    _credentials(draft, host, registry)
    match registry.text("tls"):
        case "disabled":
            draft.registry(host, plain_http=True)
        case "insecure":
            draft.registry(host, insecure=True)
    for ours, theirs in {"ca_cert": "regcert", "client_cert": "clientCert", "client_key": "clientKey"}.items():
        _certificate(draft, host, registry, ours, theirs)
    if concurrency := registry.parse("reqConcurrent", _number):
        draft.registry(host, concurrency=int(concurrency))
    if rate := registry.parse("reqPerSec", _number):
        draft.registry(host, requests_per_second=rate)
    registry.unsupported("mirrors are not used: name the registry to read from as the source", "mirrors")
    registry.unsupported("a path is written into the image's name", "pathPrefix")
    registry.ignore("", "priority", "repoAuth", "blobChunk", "blobMax", "apiOpts", "api", "scheme", "credExpire")
    registry.finish()


def _credentials(draft: Draft, host: str, registry: Fields) -> None:
    draft.login(host, registry.text("user"), registry.text("pass"))
    if helper := registry.text("credHelper"):
        draft.registry(host, credentials={"helper": helper.removeprefix("docker-credential-")})
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


def _step(draft: Draft, step: Fields) -> None:
    source, target = step.text("source") or "", step.text("target") or ""
    target = _SOURCE.sub(lambda _: source, target)
    kind = step.text("type")
    more: dict[str, Any] = {}
    referrers = _referrers(step)
    if referrers is not None and referrers != draft.referrers:
        more["referrers"] = referrers
    platforms = platform_names(step, "platforms") + platform_names(step, "platform")
    if platforms:
        more["platforms"] = platforms
    _refuse_differences(step)
    choices = _tag_choices(step)
    sources: list[dict[str, Any]] = []
    if any(text.startswith("ocidir://") or "{{" in text for text in (source, target)):
        step.refuse("source", "only images in registries, and no template but {{ .Sync.Source }}, are understood")
    elif kind == "image":
        sources = _image(step, source, target)
    elif kind == "repository":
        sources = _repository(step, source, target, choices)
    else:
        step.refuse("type", f"{kind!r} cannot be imported: name the repositories one by one")
        step.ignore("", "repos")
    for each in sources:
        draft.target(each["targets"][0])
        draft.sources.append({**each, **more})
    step.finish()


def _image(step: Fields, source: str, target: str) -> list[dict[str, Any]]:
    image, target_name = step.parse("source", Reference.parse, source), step.parse("target", Reference.parse, target)
    if image is None or target_name is None:
        return []
    tag = f":{target_name.tag}" if target_name.tag and target_name.tag != image.tag else ""
    return [image_source(image, **{"as": target_name.repository + tag}, targets=[target_name.registry])]


def _repository(step: Fields, source: str, target: str, choices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    place, target_name = step.parse("source", parse_repository, source), step.parse("target", parse_repository, target)
    if place is None or target_name is None:
        return []
    common = {"as": target_name.repository, "targets": [target_name.registry]}
    return [{"repository": place.name, "tags": choice or "all", **common} for choice in choices]


def _tag_choices(step: Fields) -> list[dict[str, Any]]:
    """One mapping of rules for each set: a tag must match one set, and in it both ``allow`` and ``semverRange``."""
    sets = [step.inner("tags"), *step.each("tagSets")]
    choices = [_tag_choice(each) for each in sets]
    return [choice for choice in choices if choice] or [{}]


def _tag_choice(tags: Fields) -> dict[str, Any]:
    allow = [text for text in tags.texts("allow") if tags.parse("allow", TagPattern.regex, text)]
    deny = [text for text in tags.texts("deny") if tags.parse("deny", TagPattern.regex, text)]
    ranges = [text for text in tags.texts("semverRange") if tags.parse("semverRange", TagPattern.semver, text)]
    tags.finish()
    choice: dict[str, Any] = {}
    if ranges:
        choice["semver"] = ranges
        if allow:
            deny = [f"(?!(?:{'|'.join(allow)})$).*", *deny]
    elif allow:
        choice["regex"] = allow
    if deny:
        choice["exclude"] = {"regex": deny}
    return choice


def _referrers(fields: Fields) -> bool | None:
    """The one switch of syncer for the two of regsync: signatures as referrers, and signatures as tags."""
    switches = [fields.flag("referrers"), fields.flag("digestTags")]
    if set(switches) == {True, False}:
        fields.draft.note("referrers and digestTags are one switch in syncer: both are mirrored.")
    return None if switches == [None, None] else any(switches)


def _refuse_differences(fields: Fields) -> None:
    fields.ignore(_WHEN, "interval", "schedule")
    fields.ignore(_PACE, "ratelimit", "parallel")
    fields.ignore(_HOOKS, "hooks")
    fields.ignore("", *_SWITCHES)
    fields.unsupported(_NO_BACKUP, "backup")
    fields.unsupported(_NO_FILTERS, "referrerFilters", "referrerSource", "referrerTarget")
    fields.unsupported("layers that are kept outside of registries are not mirrored", "includeExternal")
    fields.unsupported("manifests of every media type are mirrored", "mediaTypes")


def _number(text: str) -> float:
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        raise UsageError(f"{text!r} is not a number")
    return float(text)
