"""What a sync file mirrors after an import is what the other tool mirrors of its own file.

The tool runs on the same file where it is on PATH; elsewhere what it chose is recorded here: regsync 0.11.7 and skopeo
1.9.3, which knows no ``images-by-semver`` yet.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import syncer
from tests.support.programs import run
from tests.support.registries import Registry

TAGS = [
    *("latest", "nightly-20", "nightly-x", "v1.0", "v1.0-rc.1", "v1.1", "v2", "1", "1.0.5", "1.1", "1.2", "1.2.1"),
    *("1.24.0", "1.24.0-alpine3.18", "1.25.1-rc.2", "1.99", "2.0.0-rc.1", "2.0.0", "10.0.17763.2114"),
]
APP = images.image("app")
OTHER = images.image("other")
SIGNATURE = images.image("signature")
SIGNED = f"{APP.digest.replace(':', '-')}.sig"

DOCKERS = [images.DOCKER_MANIFEST, images.DOCKER_LIST]

REGSYNC = {
    "": [*TAGS, SIGNED],
    "tags: {allow: [~, v1.0]}": ["v1.0"],
    "tags: {allow: ['v[[:digit:]]+']}": ["v2"],
    "tags: {allow: ['latest|v1']}": ["latest"],
    "tags: {allow: ['v1.*|latest', '(?i)NIGHTLY-\\d+']}": ["latest", "nightly-20", "v1.0", "v1.0-rc.1", "v1.1"],
    "tags: {deny: ['nightly-[[:digit:]]+', 'sha256-.*', '[0-9].*']}": [
        *("latest", "nightly-x", "v1.0", "v1.0-rc.1", "v1.1", "v2")
    ],
    "tags: {allow: ['v.*|latest'], deny: ['v.*-rc|latest']}": ["v1.0", "v1.1", "v2"],
    "tags: {semverRange: ['>=1.24.0 <2.0.0']}": ["1.24.0", "1.25.1-rc.2", "1.99", "2.0.0-rc.1"],
    "tags: {semverRange: ['~1']}": ["1", "1.0.5", "v1.0"],
    "tags: {semverRange: ['>1.2 <1.24']}": ["1.2.1", "1.24.0-alpine3.18"],
    "tags: {semverRange: ['<=1.2', '10.0.17763.2114'], deny: ['v.*']}": [
        *("1", "1.0.5", "1.1", "1.2", "10.0.17763.2114")
    ],
    "tags: {semverRange: ['1.2', '>=2'], allow: ['[0-9.]+']}": ["1.2", "10.0.17763.2114", "2.0.0"],
    "tagSets: [{allow: [v1.0]}, {semverRange: ['^0', '=1.1']}], tags: {allow: [], deny: []}": ["1.1", "v1.0", "v1.1"],
}
"""The rules for tags of a step, and the tags that regsync copies."""

SKOPEO = {
    "images: {team/app: [v1.0, '1.2']}": ["1.2", "v1.0"],
    "images: {team/app: []}": [*TAGS, SIGNED],
    "images-by-tag-regex: {team/app: '^v[[:digit:]]+$'}": ["v2"],
    "images-by-tag-regex: {team/app: 'rc\\.\\d\\z'}": ["1.25.1-rc.2", "2.0.0-rc.1", "v1.0-rc.1"],
    "images-by-tag-regex: {team/app: '^v1|latest$'}": ["latest", "v1.0", "v1.0-rc.1", "v1.1"],
}
"""The images of a registry, and the tags that skopeo copies."""


async def _fill(source: Registry) -> None:
    await client.push(source, "team/app", APP, *TAGS)
    await client.push(source, "team/app", SIGNATURE, SIGNED)
    await client.push(source, "team/other", OTHER, "latest", "v1")


async def _synced(text: str, home: Path, *arguments: str) -> None:
    """Import ``text`` and sync what comes of it, as a user does."""
    (home / "theirs.yaml").write_text(text)
    imported = await syncer("import", home / "theirs.yaml", *arguments, home=home)
    assert (imported.code, imported.stderr) == (0, "")
    (home / "sync.yaml").write_text(imported.stdout)
    synced = await syncer("sync", "-c", home / "sync.yaml", home=home)
    assert synced.code == 0, synced.stderr


@pytest.mark.parametrize("tags", REGSYNC)
async def test_regsync_chooses_the_same_tags(debian_registry: OpenRegistry, tmp_path: Path, tags: str) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        await _fill(source)
        text = f"""\
creds:
  - {{registry: '{source.address}', tls: disabled}}
  - {{registry: 'http://{target.address}/anything'}}
sync:
  - {{source: '{source.address}/team/app', target: '{target.address}/%s/app', type: repository, {tags}}}
"""
        await _synced(text % "ours", tmp_path)
        assert await client.tags(target, "ours/app") == sorted(map(str, REGSYNC[tags]))

        if shutil.which("regsync"):
            (tmp_path / "regsync.yml").write_text(text % "theirs")
            ran = await run("regsync", "once", "-c", str(tmp_path / "regsync.yml"), HOME=str(tmp_path))
            assert ran.code == 0, ran.stderr
            assert await client.tags(target, "theirs/app") == sorted(map(str, REGSYNC[tags]))


async def test_regsync_gives_the_same_names(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """Templates, defaults, a host behind a name, a prefix of paths; tags that are left out, and one that is changed."""
    names = ["a/app:v1.0", "b/team/app:v1.1", "c/app:latest", "d/other:v2", "e/app:latest", "f/prefixed:v1.0"]
    async with debian_registry("source") as source, debian_registry("target") as target:
        await _fill(source)
        steps = {
            source.address + '/team/app:{{ env "TAG" }}': 'a/app:{{ env "TAG" }}',
            f"{source.address}/team/app:v1.1": "b/team/app:v1.1",
            f"{source.address}/team/app": "c/app",
            f"{source.address}/team/other:v1": "d/other:v2",
            "named.example.com/team/app": "e/app",
            "below.example.com/app:v1.0": "f/prefixed:v1.0",
        }
        regsync = {
            "creds": [
                {"registry": '{{ env "HOST" }}', "tls": "disabled"},
                {"registry": source.address, "tls": "disabled"},
                {"registry": "named.example.com", "hostname": source.address, "tls": "disabled"},
                {"registry": "below.example.com", "hostname": source.address, "pathPrefix": "team", "tls": "disabled"},
            ],
            "defaults": {"mediaTypes": [images.OCI_INDEX, images.OCI_MANIFEST, *DOCKERS]},
            "sync": [
                {"source": name, "target": '{{ env "TARGET" }}/' + ours, "type": "image"}
                for name, ours in steps.items()
            ],
        }
        text = yaml.safe_dump(regsync)
        variables = {"HOST": target.address, "TAG": "v1.0"}
        (tmp_path / "theirs.yaml").write_text(text)
        imported = await syncer("import", tmp_path / "theirs.yaml", home=tmp_path, **variables)
        assert (imported.code, imported.stderr) == (0, "")
        assert target.address not in imported.stdout
        (tmp_path / "sync.yaml").write_text(imported.stdout)
        ours = variables | {"TARGET": f"{target.address}/ours"}
        synced = await syncer("sync", "-c", tmp_path / "sync.yaml", home=tmp_path, **ours)
        assert synced.code == 0, synced.stderr
        assert await _names(target, "ours/") == names

        if shutil.which("regsync"):
            theirs = variables | {"TARGET": f"{target.address}/theirs", "HOME": str(tmp_path)}
            ran = await run("regsync", "once", "-c", str(tmp_path / "theirs.yaml"), **theirs)
            assert ran.code == 0, ran.stderr
            assert await _names(target, "theirs/") == names


@pytest.mark.parametrize("chosen", SKOPEO)
async def test_skopeo_chooses_the_same_tags(debian_registry: OpenRegistry, tmp_path: Path, chosen: str) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        await _fill(source)
        text = f"{source.address}:\n  {chosen}\n  tls-verify: false\n"
        await _synced(text, tmp_path, "--registry", f"{target.address}/ours", "--names-like", "skopeo")
        assert await client.tags(target, "ours/app") == sorted(map(str, SKOPEO[chosen]))

        if shutil.which("skopeo"):
            copied = ("--src", "yaml", "--dest", "docker", "--all", "--dest-tls-verify=false")
            ran = await run("skopeo", "sync", *copied, str(tmp_path / "theirs.yaml"), f"{target.address}/theirs")
            assert ran.code == 0, ran.stderr
            assert await client.tags(target, "theirs/app") == sorted(map(str, SKOPEO[chosen]))


async def _names(registry: Registry, base: str) -> list[str]:
    """What is below ``base``, without it."""
    below = [name for name in await client.repositories(registry) if name.startswith(base)]
    return [f"{name.removeprefix(base)}:{tag}" for name in below for tag in await client.tags(registry, name)]
