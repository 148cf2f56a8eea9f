"""The JSON Schemas of the files that people write, held against the parsers that read these."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from syncer.cli.app import Kind, schema_of
from syncer.errors import UsageError
from syncer.profiles.definition.definition_file import parse_definition
from syncer.profiles.syncfile.sites import parse_sites
from syncer.profiles.syncfile.sync_file import parse_sync_file
from syncer.transfer.memory import Have, InvalidHave
from tests.support.cli import syncer
from tests.test_sync_file import COMPLETE
from tests.test_sync_variables import TEXT

DOCS = Path(__file__).parent.parent / "docs"
SYNC_PAGE = (DOCS / "sync.md").read_text()
VARIABLES = dict.fromkeys(("REGISTRY", "TARGET", "EDGE_REGISTRY"), "quay.io") | {"RATE": "1M", "VERSION": "1"}
DEFINITION = """\
apiVersion: syncer/v1
kind: BundleDefinition
name: edge
release: {name: spring, version: 1.10, notes: ""}
profiles: [{name: p, version: 1.0, packs: [{name: a, version: 1}]}]
images:
  - image: quay.io/a/b:v1
    packs: [a 1.10]
    digest: DIGEST
    platforms: [linux/amd64]
    size: 12
  - {image: "busybox:1.37@DIGEST", stored: "t.io:5000/a@DIGEST"}
charts: [{repo: "oci://ghcr.io/x", name: y, version: 1.2, artifact: "ghcr.io/x/y:1"}]
archives: [{name: a, version: 1, path: packs/a.tar.gz}]
files: [{artifact: t.io/x:1, path: ~}]
missing: [{name: a, reason: 404}]
""".replace("DIGEST", f"sha256:{'0' * 64}")
SITES = """\
version: 1
targets:
  - registry: ${TARGET}/base
    name: a b
    labels: {region: eu, ring: 1, canary: true}
    enabled: false
    bytes_per_second: 200Mbit
    limit_group: gateway-7
    at_once: 3
    windows: ["22:00-05:00 Europe/Berlin", 6:05 - 7:00 UTC]
    map: {ghcr.io: g}
  - {registry: "10.{1..250}.0.4:8000", windows: 00:00-24:00 UTC}
map: {quay.io/kairos: kairos}
registries: {a.b: {insecure: true}}
"""
HAVE = """\
{"kind": "syncer/have@1", "registry": "t.io:5000", "base": "a/b", "date": "2026-06-01T22:00:00Z", "mapping": "DIGEST",
"complete": false, "problems": ["the catalog is forbidden"], "repositories": ["quay.io/x_y/z", "r_5000/c"],
"manifests": {"DIGEST": ["quay.io/x_y/z"]}, "blobs": {"DIGEST": ["quay.io/x_y/z", "r_5000/c"]},
"tags": {"r_5000/c": ["1"]}}
""".replace("DIGEST", f"sha256:{'0' * 64}")


class Yaml(yaml.SafeLoader):
    """YAML as editors read it: with numbers and booleans, and without dates."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        letter: [(tag, pattern) for tag, pattern in pairs if "timestamp" not in tag]
        for letter, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def document(text: str) -> Any:
    return yaml.load(text, Loader=Yaml)


VALIDATORS = {
    kind: Draft202012Validator(schema_of(kind), format_checker=Draft202012Validator.FORMAT_CHECKER) for kind in Kind
}
PARSERS: dict[Kind, Callable[[str], object]] = {
    Kind.SYNC: lambda text: parse_sync_file(text, Path("sync.yaml"), VARIABLES),
    Kind.DEFINITION: lambda text: parse_definition(text, "definition.yaml"),
    Kind.SITES: lambda text: parse_sites(text, DOCS / "sites.yaml", VARIABLES),
    Kind.HAVE: lambda text: Have.from_json(document(text)),
}


def schema_takes(kind: Kind, text: str) -> bool:
    return VALIDATORS[kind].is_valid(document(text))


def parser_takes(kind: Kind, text: str) -> bool:
    try:
        PARSERS[kind](text)
    except (UsageError, InvalidHave):
        return False
    return True


@pytest.mark.parametrize("kind", Kind)
async def test_the_schema_in_the_docs_is_the_one_that_is_made(kind: Kind, tmp_path: Path) -> None:
    """``syncer schema KIND > docs/KIND.schema.json`` writes it."""
    printed = await syncer("schema", kind.value, home=tmp_path)
    Draft202012Validator.check_schema(printed.json)

    assert printed.json == json.loads((DOCS / f"{kind.value}.schema.json").read_bytes())


def in_a_file(source: str) -> str:
    return f"sources: [{source}]\ntargets: [{{registry: t.io}}]\n"


GOOD = [
    (Kind.SYNC, COMPLETE),
    (Kind.SYNC, (DOCS / "examples/sync.yaml").read_text()),
    *((Kind.SYNC, text) for text in re.findall(r"```yaml\n(sources:.*?)```", SYNC_PAGE, re.DOTALL)),
    (Kind.SYNC, TEXT.replace("v$$1", "v1")),
    *(
        (Kind.SYNC, in_a_file(f"{{repository: ghcr.io/a/b, tags: {tags}}}"))
        for tags in (
            "all", "v1", "1.10", "[1.10, v2]", "{all: true}", "{newest: '2'}", "{newest: 2}", "{exclude: {glob: v*}}",
            "{names: v1, glob: 'l*'}", "{regex: 'v1.*$'}", "{semver: '>=1.2 <2 || ^3.0.0-0, !=3.1'}",
            "{semver: 1.2 - 1.4.5}", "{semver_regclient: '>1.2'}", "{semver_regclient: [~1], newest: 2}",
        )
    ),
    *(
        (Kind.SYNC, in_a_file(source))
        for source in (
            "{image: a, referrers: require}", "{image: a, referrers: 'no', platforms: amd64}", "{image: BusyBox.io/x}",
            "{image: a, as: team/app:v2}", "{images_file: '${RATE}', image: ~}", "{image: '[::1]:5000/a_b/c__d:1.0'}",
            "{profiles: 0123, project_id: 12}", "{chart: {repository: 'https://x.y/z', name: a, version: ^1}}",
        )
    ),
    (Kind.SYNC, "version: 1\n" + in_a_file("{image: a}")),
    *(
        (Kind.SYNC, f"sources: [{{image: a}}]\ntargets: [{{registry: '{registry}'}}]")
        for registry in ("http://harbor", "https://Harbor/base", "localhost", "LocalHost/x", "harbor:443", "docker.io")
    ),
    (Kind.SYNC, in_a_file("{image: a}") + "registries: {a.b: {plain_http: 'on', requests_per_second: 1e2}}\n"),
    (Kind.SYNC, in_a_file("{image: a}") + "registries: {a.b: {credentials: {helper: x}, bytes_per_second: 50000}}\n"),
    (Kind.DEFINITION, DEFINITION),
    (Kind.DEFINITION, "name: 1.10\n"),
    (Kind.SITES, (DOCS / "examples/sites.yaml").read_text()),
    (Kind.SITES, SITES),
    (Kind.HAVE, HAVE),
    (Kind.HAVE, HAVE.replace('"tags"', '"a field of a later version"')),
    (Kind.SITES, "targets: [{registry: '{1..2}.0.0.1/b_{1..2}', enabled: 'no', at_once: '2', limit_group: 7}]"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), GOOD)
def test_what_is_right_is_right_for_both(kind: Kind, text: str) -> None:
    PARSERS[kind](text)
    VALIDATORS[kind].validate(document(text))


BAD = [
    *(
        (Kind.SYNC, text)
        for text in (
            "", "[]", "text", "sources: []\ntargets: [{registry: t.io}]", "sources: [{image: a}]\ntargets: []",
            "sources: [{image: a}]", "targets: [{registry: t.io}]", "sources: {image: a}\ntargets: [{registry: t.io}]",
            "sources: [{image: a}]\ntargets: [t.io]", "sources: [{image: a}]\ntargets: [{name: x}]",
            "sources: [{image: a}]\ntargets: [{registry: 'a b'}]",
            "sources: [{image: a}]\ntargets: [{registry: 'me:word@t.io'}]",
            "sources: [{image: a}]\ntargets: [{registry: t.io/base:v1}]",
            "sources: [{image: a}]\ntargets: [{registry: t.io, name: ''}]",
        )
    ),
    *(
        (Kind.SYNC, in_a_file(source))
        for source in (
            "{}", "{image: a, tag: b}", "{image: A//b}", "{image: 'a b'}", "{image: []}", "{image: a, images_file: b}",
            "{image: a, tags: b}", "{repository: a/b}", "{repository: 'a/b:1@x', tags: all}",
            "{image: a, platforms: linux/}",
            "{image: a, referrers: nope}", "{image: a, project_id: b}", "{images_file: a, as: b}",
            "{image: a, targets: {}}",
            "{chart: {repository: ghcr.io/x, name: y}}", "{chart: {repository: 'oci://ghcr.io/x'}}", "{profiles: [[]]}",
        )
    ),
    *(
        (Kind.SYNC, in_a_file(f"{{repository: a/b, tags: {tags}}}"))
        for tags in (
            "{}", "[]", "{newest: 0}", "{newest: x}", "{newest: 1.5}", "{regex: '('}", "{semver: '1.2 && 3'}", "'v*'",
            "{names: [[]]}", "{all: maybe}", "{globs: a}", "{exclude: [a]}",
        )
    ),
    *(
        (Kind.SYNC, in_a_file("{image: a}") + more)
        for more in (
            "verson: 1", "version: 2", "referrers: nope", "platforms: {}", "map: []", "map: {ghcr: x}",
            "map: {ghcr.io: []}",
            "registries: []", "registries: {a/b: {}}", "registries: {a.b: []}", "registries: {a.b: {insecure: 7}}",
            "registries: {a.b: {concurrency: 0}}", "registries: {a.b: {concurrency: 257}}",
            "registries: {a.b: {requests_per_second: 0}}", "registries: {a.b: {bytes_per_second: 200Q}}",
            "registries: {a.b: {credentials: {}}}", "registries: {a.b: {credentials: {helper: x, username: y}}}",
            "registries: {a.b: {credentials: {username: x}}}",
            "registries: {a.b: {credentials: {username: x, password: y, password_env: z}}}",
        )
    ),
    *(
        (Kind.DEFINITION, text)
        for text in (
            "", "[]", "images: []", "name: ''", "name: []", "name: a\nnmae: b", "name: a\nimages: a",
            "name: a\nkind: Job",
            "name: a\nimages: [{}]", "name: a\nimages: [{image: A//b}]", "name: a\nimages: [{image: a, size: big}]",
            "name: a\nimages: [{image: a, size: -1}]", "name: a\nimages: [{image: a, digest: 'sha256:12'}]",
            "name: a\ncharts: [{name: c}]", "name: a\nprofiles: [{name: b, packs: [c]}]", "name: a\nmissing: [[]]",
        )
    ),
    *(
        (Kind.SITES, text)
        for text in ("", "[]", "targets: []", "registries: {}", "targets: {}", "targets: [a]", "sources: []\nmap: {}")
    ),
    *(
        (Kind.SITES, f"targets: [{{registry: a.b, {more}}}]")
        for more in (
            "lables: {}", "labels: [a]", "labels: {a: []}", "enabled: maybe", "name: ''", "at_once: 3",
            "limit_group: g, at_once: 0", "windows: nights", "windows: [22:00-05:00]", "bytes_per_second: 5Q",
            "map: {a: b}",
        )
    ),
    (Kind.SITES, "targets: [{registry: 'a.b/c:v1'}]"),
    *(
        (Kind.HAVE, HAVE.replace(*change))
        for change in (
            ("have@1", "have@2"), ('"t.io:5000"', '""'), ('"a/b"', "7"), ("2026-06-01T", "2026-06-01 "),
            ('"1"', '"a b"'), ("false", '"no"'), ('["the catalog is forbidden"]', "[7]"), ('"r_5000/c"]', '"../c"]'),
            ('["1"]', "[]"), ('"blobs"', '"blobz"'), (f"{'0' * 64}", f"{'0' * 63}"),
            ('["quay.io/x_y/z"]', '"quay.io/x_y/z"'),
        )
    ),
    (Kind.SITES, "targets: [{registry: a b}]"),
    (Kind.SITES, "targets: [{name: a}]"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), BAD)
def test_what_is_wrong_is_wrong_for_both(kind: Kind, text: str) -> None:
    assert not parser_takes(kind, text)
    assert not schema_takes(kind, text)


ONLY_THE_PARSER = [
    (Kind.SYNC, in_a_file("{image: a, targets: nowhere}")),
    (Kind.SYNC, "sources: [{image: a}]\ntargets: [{registry: t.io}, {registry: t.io}]"),
    (Kind.SYNC, in_a_file("{image: a}") + "registries: {docker.io: {}, index.docker.io: {insecure: true}}"),
    (Kind.SYNC, in_a_file("{image: '${ABSENT}'}")),
    (Kind.SYNC, in_a_file("{repository: a/b, tags: {semver: x.y.z}}")),
    (Kind.DEFINITION, f"name: a\nimages: [{{image: a}}, {{image: a, digest: 'sha256:{'0' * 64}'}}]"),
    (Kind.SYNC, "sources: [{image: a}]\ntargets: [{registry: harbor}]"),
    (Kind.SYNC, "sources: [{image: a}]\ntargets: [{registry: harbor/base}]"),
    (Kind.SITES, "targets: [{registry: 'site-{1..2}'}]"),
    (Kind.SITES, "targets: [{registry: a.b}, {registry: 'http://A.b/'}]"),
    (Kind.SITES, "targets: [{registry: a.b, windows: 1:00-1:00 UTC}]"),
    (Kind.SITES, "targets: [{registry: a.b, windows: 1:00-2:00 Europe/Berln}]"),
    (Kind.SITES, "targets: [{registry: 'a.{1..2}', name: b}]"),
    (Kind.HAVE, HAVE.replace("false", "true")),
]


@pytest.mark.parametrize(("kind", "text"), ONLY_THE_PARSER)
def test_what_no_schema_can_say_is_said_by_the_parser(kind: Kind, text: str) -> None:
    assert not parser_takes(kind, text)
    assert schema_takes(kind, text)


OTHERS: list[Any] = [
    *(None, "", "x", "a b", "1", "0", 7, -1, 1.5, True, "true", "yes", "${ABSENT:-a}"),
    *([], ["x"], [[]], {}, {"x": "y"}),
]


def variants(tree: Any) -> Iterator[Any]:
    """``tree`` with each of its values replaced by another one, or left out."""
    for path in paths(tree):
        for other in OTHERS:
            changed = copy.deepcopy(tree)
            holder(changed, path)[path[-1]] = other
            yield changed
        changed = copy.deepcopy(tree)
        del holder(changed, path)[path[-1]]
        yield changed


def holder(tree: Any, path: tuple[Any, ...]) -> Any:
    for step in path[:-1]:
        tree = tree[step]
    return tree


def paths(tree: Any) -> Iterator[tuple[Any, ...]]:
    for step in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield (step,)
        for below in paths(tree[step]):
            yield (step, *below)


@pytest.mark.parametrize(
    ("kind", "text"),
    [(Kind.SYNC, COMPLETE), (Kind.DEFINITION, DEFINITION), (Kind.SITES, SITES), (Kind.HAVE, HAVE)],
)
def test_no_editor_complains_of_what_the_parser_takes(kind: Kind, text: str) -> None:
    taken = 0
    for changed in variants(document(text)):
        written = json.dumps(changed)
        if parser_takes(kind, written):
            taken += 1
            assert schema_takes(kind, written), written

    assert taken > 40
