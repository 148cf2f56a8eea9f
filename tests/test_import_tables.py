"""docs/import.md says of each field of regsync's and skopeo's what the import does with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from syncer.errors import InvalidFile, UsageError
from syncer.profiles.imports.importers import import_file

PAGE = Path(__file__).parent.parent / "docs/import.md"
_ROW = re.compile(r"^\| `([^`]+)` \| (carried|refused|ignored) \|", re.MULTILINE)

REGSYNC = {
    "version": 1,
    "creds[].registry": "b.io",
    "creds[].user": "jane",
    "creds[].pass": '{{ env "PASSWORD" }}',
    "creds[].tls": "insecure",
    "creds[].hostname": "c.io",
    "creds[].pathPrefix": "team",
    "creds[].credHelper": "docker-credential-x",
    "creds[].reqConcurrent": 3,
    "creds[].reqPerSec": 1.5,
    "creds[].regcert": "-----BEGIN CERTIFICATE-----",
    "creds[].clientCert": "-----BEGIN CERTIFICATE-----",
    "creds[].clientKey": "-----BEGIN KEY-----",
    "creds[].token": "t",
    "creds[].credHost": "c.io",
    "creds[].mirrors": ["c.io"],
    "creds[].apiOpts": {"disableHead": "true"},
    "creds[].priority": 1,
    "creds[].repoAuth": True,
    "creds[].credExpire": "1h",
    "creds[].blobChunk": 1,
    "creds[].blobMax": 1,
    "creds[].api": "x",
    "creds[].scheme": "http",
    "defaults.skipDockerConfig": True,
    "defaults.parallel": 2,
    "defaults.blobLimit": 1,
    "defaults.cacheCount": 1,
    "defaults.cacheTime": "5m",
    "defaults.userAgent": "x",
    "sync[].source": "a.io/other",
    "sync[].target": "b.io/other",
    "sync[].type": "image",
    "sync[].tags": {"allow": ["v1"]},
    "sync[].tagSets": [{"allow": ["v1"]}],
    "sync[].repos": {"allow": ["x"]},
    "sync[].platform": "linux/arm64",
    "sync[].platforms": ["linux/arm64"],
    "referrers": True,
    "digestTags": True,
    "referrerFilters": [{"artifactType": "a/b"}],
    "referrerSource": "a.io/x",
    "referrerTarget": "a.io/x",
    "mediaTypes": ["application/vnd.oci.image.index.v1+json"],
    "includeExternal": True,
    "backup": "old",
    "interval": "1h",
    "schedule": "0 1 * * *",
    "ratelimit": {"min": 1},
    "hooks": {"pre": {"type": "exec"}},
    "referrerSlow": True,
    "fastCheck": True,
    "forceRecursive": True,
    "tags.allow": ["v2"],
    "tags.deny": ["v2"],
    "tags.semverRange": [">1"],
}
"""A value for each field of regsync's configuration (regclient 0.11.7)."""

SKOPEO = {
    "images": {"x": ["v1"]},
    "images-by-tag-regex": {"x": "v1"},
    "images-by-semver": {"x": "^1"},
    "credentials.username": "robot",
    "credentials.password": "secret",
    "credentials.identitytoken": "t",
    "tls-verify": False,
    "cert-dir": "/certs",
}


def _rows(tool: str) -> dict[str, str]:
    section = PAGE.read_text().partition(f"## {tool}\n")[2].partition("\n## ")[0]
    return dict(_ROW.findall(section))


def _imported(tmp_path: Path, document: object) -> tuple[str, tuple[str, ...]]:
    """The new file without its comments, and the refusals; both may be empty."""
    path = tmp_path / "theirs.yaml"
    path.write_text(yaml.safe_dump(document))
    try:
        result = import_file(path, registry=None if isinstance(document, dict) and "sync" in document else "t.io")
    except InvalidFile as error:
        return "", tuple(map(str, (error, *error.more)))
    except UsageError as error:
        return "", (str(error),)
    return re.sub("^#.*\n", "", result.text, flags=re.MULTILINE), result.refusals


def _regsync(field: str | None) -> dict[str, object]:
    where, _, name = (field or "").rpartition(".")
    value = REGSYNC.get(field or "")
    step: dict[str, object] = {"source": "a.io/x", "target": "b.io/x", "type": "repository", "tags": {"allow": ["v.*"]}}
    host: dict[str, object] = {"registry": "a.io", "user": "robot", "pass": '{{ env "OTHER" }}'}
    document: dict[str, object] = {"creds": [host], "sync": [step]}
    if where in ("creds[]", "sync[]"):
        (host if where == "creds[]" else step)[name] = value
    elif where == "defaults":
        document["defaults"] = {name: value}
    elif where == "tags":
        step["tags"] = {name: value}
    elif name == "version":
        document["version"] = value
    elif name:
        step |= {"referrers": True} if name in ("referrerFilters", "referrerSource", "referrerTarget") else {}
        step[name] = value
    return document


@pytest.mark.parametrize("field", REGSYNC)
def test_a_field_of_regsyncs_is_what_the_page_says(tmp_path: Path, field: str) -> None:
    said = _rows("regsync")
    plain, _ = _imported(tmp_path, _regsync(None))
    text, refusals = _imported(tmp_path, _regsync(field))
    match said[field]:
        case "refused":
            assert [field.rpartition(".")[2] in refusal for refusal in refusals] == [True]
        case "ignored":
            assert (text, refusals) == (plain, ())
        case _:
            assert refusals == ()
            assert text != plain or field == "version"


@pytest.mark.parametrize("field", REGSYNC)
def test_a_value_of_any_other_kind_is_taken_or_refused(tmp_path: Path, field: str) -> None:
    odd: list[object] = [None, "", "a", "{{", [], {}, [None], [[]], {"a": None}, 1, "http://x/y", "a:b@c.io/x", "${"]
    for value in odd:
        document = _regsync(field)
        _replace(document, REGSYNC[field], value)
        _imported(tmp_path, document)  # anything but an error of syncer's own is a bug


def _replace(node: object, old: object, new: object) -> None:
    """Put ``new`` in the place of each ``old`` in ``node``."""
    entries = list(node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ())
    for key, value in entries:
        if value == old and isinstance(node, dict | list):
            node[key] = new
        else:
            _replace(value, old, new)


def test_the_page_has_every_field_of_regsyncs() -> None:
    assert _rows("regsync").keys() == REGSYNC.keys()


@pytest.mark.parametrize("field", SKOPEO)
def test_a_field_of_skopeos_is_what_the_page_says(tmp_path: Path, field: str) -> None:
    outer, _, inner = field.rpartition(".")
    host: dict[str, object] = {"images": {"y": ["v1"]}}
    plain, _ = _imported(tmp_path, {"a.io": dict(host)})
    host |= {outer: {inner: SKOPEO[field]}} if outer else {inner: SKOPEO[field]}
    text, refusals = _imported(tmp_path, {"a.io": host})
    if _rows("skopeo")[field] == "refused":
        assert [inner in refusal for refusal in refusals] == [True]
    else:
        assert refusals == ()
        assert text != plain


def test_the_page_has_every_field_of_skopeos() -> None:
    assert _rows("skopeo").keys() == SKOPEO.keys()
