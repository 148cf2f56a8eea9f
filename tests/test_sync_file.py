from pathlib import Path

import pytest
from msgspec import structs

from syncer.api.sources import sync_settings
from syncer.content import Item
from syncer.errors import InvalidFile, UsageError
from syncer.formats.models import check
from syncer.oci import Platform, Reference
from syncer.profiles.syncfile.document import Credentials, Source, SyncDocument, Target
from syncer.profiles.syncfile.sync_file import (
    SyncFile,
    merge_items,
    parse_sync_file,
    read_sync_file,
    select_images,
)
from syncer.profiles.syncfile.variables import Helper, Login, find_login
from syncer.registry import RegistrySettings

COMPLETE = """\
platforms: linux/amd64
map:
  quay.io/kairos: kairos
  ghcr.io: gh
sources:
  - image: busybox:1.36
  - repository: quay.io/prometheus/node-exporter
    tags:
      semver: ^1.7
      newest: 3
      exclude: {regex: [".*-rc.*"]}
    platforms: [amd64, arm64]
    referrers: false
    targets: lab
  - repository: ghcr.io/a/b
    tags: [v1, 1.10]
  - images_file: images.txt
  - profile_file: ~/infra.yaml
  - profiles: [0123abc]
    project_id: p1
  - chart: {repository: "oci://ghcr.io/x", name: y, version: 1.20}
targets:
  - registry: harbor.example.com/mirror
  - registry: http://lab:5000
    name: lab
    map: {ghcr.io: github}
registries:
  docker.io:
    credentials: {username: robot, password: hunter2}
    bytes_per_second: 200Mbit
    requests_per_second: 0.5
    concurrency: 4
  lab:5000:
    credentials: {username: lab, password_env: LAB_PASSWORD}
"""


def parse(text: str = COMPLETE) -> SyncFile:
    return parse_sync_file(text, Path("sync.yaml"))


def mistake(old: str, new: str) -> InvalidFile:
    assert COMPLETE.count(old) == 1
    with pytest.raises(InvalidFile) as raised:
        parse(COMPLETE.replace(old, new))
    return raised.value


def test_sources_inherit_what_holds_for_the_whole_file() -> None:
    file = parse()
    busybox, exporter, *_ = file.sources

    assert file.platforms_of(busybox) == (Platform("linux", "amd64"),)
    assert file.platforms_of(exporter) == (Platform("linux", "amd64"), Platform("linux", "arm64"))
    assert (file.referrers_of(busybox), file.referrers_of(exporter)) == (True, False)
    assert [target.title for target in file.targets_of(busybox)] == ["harbor.example.com/mirror", "lab"]
    assert [target.title for target in file.targets_of(exporter)] == ["lab"]


def test_a_targets_own_name_rules_come_before_those_of_the_file() -> None:
    file = parse()
    harbor, lab = file.targets
    image = Reference.parse("ghcr.io/a/b:1")

    assert str(file.mapping_of(harbor).target(image, registry="h", base="")) == "h/gh/a/b:1"
    assert str(file.mapping_of(lab).target(image, registry="h", base="")) == "h/github/a/b:1"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("image: quay.io/a/b:v1", "t.io/base/quay.io/a/b:v1"),
        ("image: quay.io/a/b:v1, as: team/b", "t.io/base/team/b:v1"),
        ("image: quay.io/a/b:v1, as: team/b:v2", "t.io/base/team/b:v2"),
        ("repository: quay.io/a/b, tags: v1, as: team/b", "t.io/base/team/b:v1"),
    ],
)
def test_an_image_may_be_called_otherwise_at_the_target(source: str, expected: str) -> None:
    file = parse(f"sources: [{{{source}}}]\ntargets: [{{registry: t.io/base}}]")
    image = Reference.parse("quay.io/a/b:v1")

    item = file.item(file.sources[0], image, file.targets[0], registry="t.io", base="base")

    assert str(item.target) == expected


@pytest.mark.parametrize(
    "source",
    [
        "repository: quay.io/a/b, tags: v1, as: team/b:v1",
        "images_file: a, as: b",
        "image: a, as: Upper",
        "image: a, as: ''",
    ],
)
def test_a_name_at_the_target_must_make_sense(source: str) -> None:
    with pytest.raises(InvalidFile, match="as"):
        parse(f"sources: [{{{source}}}]\ntargets: [{{registry: t.io/base}}]")


def items(text: str) -> list[Item]:
    """What a file of images asks for."""
    file = parse(text)
    return [
        file.item(source, source.image, target, registry=target.registry, base="")
        for source in file.sources
        for target in file.targets_of(source)
        if source.image
    ]


def test_an_item_says_who_wants_it_and_in_which_form() -> None:
    text = """\
sources:
  - {image: quay.io/a:1, platforms: [amd64], referrers: false}
  - image: quay.io/b:1
  - image: quay.io/b:1
targets: [{registry: t.io}, {registry: u.io}]
"""
    merged = merge_items(items(text))

    assert [str(item.target) for item in merged] == [
        "t.io/quay.io/a:1",
        "u.io/quay.io/a:1",
        "t.io/quay.io/b:1",
        "u.io/quay.io/b:1",
    ]
    assert (merged[0].platforms, merged[0].referrers) == ((Platform("linux", "amd64"),), False)
    assert merged[0].wanted_by == ("sync.yaml:2",)
    assert merged[2].wanted_by == ("sync.yaml:3", "sync.yaml:4")


def test_one_image_in_two_forms_cannot_have_one_name() -> None:
    text = "sources: [{image: quay.io/a:1, platforms: [amd64]}, {image: quay.io/a:1}]\ntargets: [{registry: t.io}]"
    with pytest.raises(UsageError, match="asked for in two forms"):
        merge_items(items(text))


def test_two_images_cannot_have_one_name() -> None:
    text = "sources: [{image: quay.io/a:1, as: x}, {image: quay.io/b:1, as: x}]\ntargets: [{registry: t.io}]"
    with pytest.raises(UsageError, match=r"are both mapped to t\.io/x:1"):
        merge_items(items(text))


def test_all_names_that_contradict_each_other_are_told_with_their_lines() -> None:
    text = """\
sources:
- {image: quay.io/a:1, platforms: [amd64]}
- {image: quay.io/a:1}
- {image: quay.io/b:1, as: x}
- {image: quay.io/c:1, as: x}
- {image: quay.io/d:1, as: x}
targets: [{registry: t.io}]
"""
    with pytest.raises(InvalidFile) as raised:
        merge_items(items(text))

    assert [str(each) for each in raised.value.all] == [
        "sync.yaml:3: quay.io/a:1 is asked for in two forms, here and by sync.yaml:2",
        "sync.yaml:5: quay.io/b, of sync.yaml:4, and quay.io/c are both mapped to t.io/x:1",
        "sync.yaml:6: quay.io/b, of sync.yaml:4, and quay.io/d are both mapped to t.io/x:1",
    ]


def test_each_rule_for_names_is_told_at_its_own_line() -> None:
    """What is wrong with it alone, and that its place is at none of the targets that it is for."""
    text = """\
sources: [{image: A//b}]
targets:
- registry: t.io/base/
  map:
    a.io: [x]
    b.io: other.io:5000/x
    c.io: T.io/elsewhere
    d.io: T.io/base
    e.io: t.io/base/x
- registry: http://lab
map:
  a.io: t.io/base
  b.io: Team/x
  c.io: team/x:v1
  d: x
  e.io: x
  E.io: y
  f.io: lab:80/x
  g.io: lab/x
  h.io: other:80/x
"""
    with pytest.raises(InvalidFile) as raised:
        parse(text)

    assert [str(each).removeprefix("sync.yaml:") for each in raised.value.all][1:] == [
        "5: targets[0].map.a.io: it must be a text",
        "6: targets[0].map.b.io: b.io is mapped to other.io:5000/x, which is at another registry than t.io",
        "7: targets[0].map.c.io: c.io is mapped to T.io/elsewhere, which is not under t.io/base",
        (
            "13: map.b.io: the mapping b.io=Team/x makes names that no registry can have: its repository must be lower "
            "case, but has 'Team'"
        ),
        "14: map.c.io: the mapping c.io=team/x:v1 names a tag or a digest",
        "15: map.d: the mapping d=x must start with a registry",
        "17: map.E.io: e.io is mapped twice, to 'x' and to 'y'",
        "20: map.h.io: h.io is mapped to other:80/x, which is at none of the targets",
    ]
    assert all(each.hint for each in raised.value.all if "is mapped to" in str(each))


def test_a_rule_is_not_held_against_a_target_that_is_to_be_mended() -> None:
    with pytest.raises(InvalidFile) as raised:
        parse("sources: [{image: a}]\ntargets: [{registry: t.io}, {registry: 'u.io:x'}]\nmap: {a.io: u.io:5000/x}\n")

    assert [each.field for each in raised.value.all] == ["targets[1].registry"]


def test_tags_are_chosen_from_a_listing() -> None:
    file = parse()
    exporter, b = file.sources[1:3]

    chosen = select_images(exporter, ["v1.6.0", "v1.7.0", "v1.8.0", "v1.8.1-rc.0", "v1.9.0", "v1.10.0", "v2.0.0"])
    assert [reference.tag for reference in chosen.references] == ["v1.10.0", "v1.9.0", "v1.8.0"]
    assert chosen.unmatched == ()
    assert [str(pattern) for pattern in select_images(exporter, ["v2.0.0"]).unmatched] == ["semver '^1.7'"]
    assert [str(reference) for reference in select_images(b, []).references] == ["ghcr.io/a/b:v1", "ghcr.io/a/b:1.10"]
    assert b.tags is not None
    assert not b.tags.rules().needs_listing


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("all", ["v2", "v1", "latest"]),
        ("{all: true, newest: 1}", ["v2"]),
        ("{newest: 2}", ["v2", "v1"]),
        ("{exclude: {glob: v*}}", ["latest"]),
        ("v1", ["v1"]),
        ("{names: v1, glob: 'l*'}", ["v1", "latest"]),
    ],
)
def test_tags_may_be_written_short(tags: str, expected: list[str]) -> None:
    file = parse(f"sources: [{{repository: ghcr.io/a/b, tags: {tags}}}]\ntargets: [{{registry: t.io}}]")
    chosen = select_images(file.sources[0], ["latest", "v1", "v2"])
    assert [reference.tag for reference in chosen.references] == expected


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "sync.yaml"
    path.write_text(COMPLETE.replace("~/infra.yaml", "infra.yaml"))
    (tmp_path / "images.txt").touch()
    (tmp_path / "infra.yaml").touch()
    file = read_sync_file(path)
    images_file = file.sources[3].images_file

    assert images_file is not None
    assert file.beside(images_file) == tmp_path / "images.txt"
    assert file.place(file.sources[3]) == f"{path}:17"


def test_limits_of_a_registry() -> None:
    docker = parse().document.registries["docker.io"]
    assert (docker.bytes_per_second, docker.requests_per_second, docker.concurrency) == (25_000_000, 0.5, 4)


def test_versions_are_not_mistaken_for_numbers() -> None:
    chart = parse().sources[6].chart
    assert chart is not None
    assert chart.version == "1.20"


def test_a_password_in_the_file_gets_a_warning_and_is_never_shown() -> None:
    file = parse()
    (warning,) = file.warnings

    assert warning.startswith("sync.yaml:29: the password of docker.io stands in the file")
    assert "hunter2" not in warning + repr(file)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("newest: 3", "newst: 3", "sync.yaml:10: sources[1].tags.newst: there is no such field; did you mean newest?"),
        ("newest: 3", "newest: x", "sync.yaml:10: sources[1].tags.newest: it must be a whole number"),
        ("newest: 3", "newest: 0", "sync.yaml:10: sources[1].tags.newest: it must be 1 or more"),
        ("targets:\n  -", "target:\n  -", "sync.yaml:23: target: there is no such field; did you mean targets?"),
        (
            "- registry: harbor",
            "- registy: harbor",
            "sync.yaml:23: targets[0].registy: there is no such field; did you mean registry?",
        ),
        (
            "targets: lab",
            "targets: lob",
            "sync.yaml:14: sources[1].targets[0]: no target is called 'lob'; known: harbor.example.com/mirror, lab",
        ),
        (
            '".*-rc.*"',
            '"("',
            "sync.yaml:11: sources[1].tags.exclude.regex[0]: '(' is not a regular expression: missing ), unterminated",
        ),
        ("    tags: [v1, 1.10]\n", "", "sync.yaml:15: sources[2]: a repository needs `tags`"),
        (
            "{ghcr.io: github}",
            "{ghcr: x}",
            "sync.yaml:26: targets[1].map.ghcr: the mapping ghcr=x must start with a registry",
        ),
        (
            "200Mbit",
            "200Q",
            "sync.yaml:30: registries.docker.io.bytes_per_second: '200Q' is not a number of bytes",
        ),
        (
            "referrers: false",
            "referrers: nope",
            "sync.yaml:13: sources[1].referrers: it must be true, false or require",
        ),
        (
            "images_file: images.txt",
            "{images_file: a, image: b}",
            "sync.yaml:17: sources[3]: it names image and images_file",
        ),
        (
            "  name: lab",
            "  name: harbor.example.com/mirror",
            "sync.yaml:14: sources[1].targets[0]: no target is called",
        ),
        ("password_env: LAB_PASSWORD", "helper: x", "sync.yaml:34: registries.lab:5000.credentials: a `helper` knows"),
        (
            ", password_env: LAB_PASSWORD",
            "",
            "sync.yaml:34: registries.lab:5000.credentials: it needs one user and one",
        ),
        (
            '"oci://ghcr.io/x"',
            "ghcr.io/x",
            "sync.yaml:21: sources[6].chart.repository: it is not the address of a chart repository",
        ),
        ("ghcr.io/a/b", "ghcr.io/a/b:v1", "sync.yaml:15: sources[2].repository: 'ghcr.io/a/b:v1' names more than"),
        ("linux/amd64", "linux/", "sync.yaml:1: platforms[0]: 'linux/' is not a platform"),
        ("linux/amd64", "[linux]", "sync.yaml:1: platforms[0]: 'linux' is not an architecture"),
        ("linux/amd64", "[amd64, 5]", "sync.yaml:1: platforms[1]: '5' is not an architecture"),
        ("  lab:5000:\n", "  '':\n", "sync.yaml:34: registries.'': the name of a registry is empty"),
        ("  lab:5000:\n", "  ' ':\n", "sync.yaml:34: registries.' ': the name of a registry is empty"),
        ("  lab:5000:\n", "  lab!:\n", "sync.yaml:34: registries.lab!: 'lab!' is not a registry: its registry 'lab!'"),
    ],
)
def test_a_mistake_is_named_with_file_line_and_field(old: str, new: str, message: str) -> None:
    assert str(mistake(old, new)).startswith(message)


def test_all_mistakes_of_a_file_are_told_at_once() -> None:
    """Those of single fields, those of names that do not fit each other; and not what follows from them."""
    text = """\
sources:
  - repository: quay.io/a/b
    tags: {newst: 3, semver: x.y.z}
  - image: A//b
    targets: nowhere
  - {repostory: quay.io/a/b}
targets:
  - registry: t.io
  - registry: t.io
registries:
  docker.io: {concurrency: 0}
  index.docker.io: {concurrency: many}
  lab:5000: []
verson: 1
"""
    with pytest.raises(InvalidFile) as raised:
        parse(text)

    assert [
        str(each).partition(": it must")[0].partition(": there")[0].partition(": its")[0] for each in raised.value.all
    ] == [
        "sync.yaml:3: sources[0].tags.semver[0]: 'x.y.z' is not a range of versions: 'x.y.z' is no comparison",
        "sync.yaml:3: sources[0].tags.newst",
        "sync.yaml:4: sources[1].image: 'A//b' is not an image reference",
        "sync.yaml:5: sources[1].targets[0]: no target is called 'nowhere'; known: t.io",
        "sync.yaml:6: sources[2].repostory",
        "sync.yaml:6: sources[2]: a repository needs `tags`",
        "sync.yaml:9: targets[1]: t.io is a target already, at sync.yaml:8",
        "sync.yaml:11: registries.docker.io.concurrency",
        "sync.yaml:12: registries.index.docker.io.concurrency",
        "sync.yaml:12: registries.index.docker.io: docker.io above is the same registry, and has other settings",
        "sync.yaml:13: registries.lab:5000",
        "sync.yaml:14: verson",
    ]


def told(text: str) -> list[str]:
    with pytest.raises(InvalidFile) as raised:
        parse(text)
    return [str(each).removeprefix("sync.yaml:") for each in raised.value.all]


def test_a_key_that_stands_twice_is_told_beside_all_else() -> None:
    """And nothing is said about its value, of which two are there."""
    text = """\
sources:
- image: A//b
  image: B//c
- {image: D//e, targets: [lab]}
targets:
- registry: t.io
targets:
- {registry: u.io, nmae: x}
registries:
  a.io:
    insecure: maybe
    insecure: true
"""
    assert [line.partition(": its")[0] for line in told(text)] == [
        "3: sources[0].image: the key 'image' stands twice in one mapping, on line 2 as well",
        "4: sources[1].image: 'D//e' is not an image reference",
        "7: targets: the key 'targets' stands twice in one mapping, on line 5 as well",
        "8: targets[0].nmae: there is no such field; did you mean name?",
        "12: registries.a.io.insecure: the key 'insecure' stands twice in one mapping, on line 11 as well",
    ]


def test_two_targets_are_neither_one_place_nor_of_one_name() -> None:
    text = """\
sources: [{image: a}, {image: b, tagets: x}]
targets:
- registry: harbor.example.com/dd/
- registry: http://Harbor.example.com/dd
- {registry: "harbor.example.com:443/dd", name: second}
- {registry: harbor.example.com/other, name: third}
- {registry: registry-1.docker.io/a, name: third}
- {registry: docker.io/a}
- {registry: "http://harbor.example.com:443/dd"}
- {registry: "https://harbor"}
- {registry: "harbor:443"}
- {registry: "http://harbor:8080"}
- {registry: "https://harbor:8080", name: other names, map: {a.io: a, b.io: b}}
- {registry: "https://harbor:8080/", name: the same ones, map: {b.io: b, a.io: a}}
"""
    assert told(text)[1:] == [
        "4: targets[1]: harbor.example.com/dd is a target already, at sync.yaml:3",
        "5: targets[2]: harbor.example.com/dd is a target already, at sync.yaml:3",
        "7: targets[4]: 'third' is the second target of that name",
        "8: targets[5]: docker.io/a is a target already, at sync.yaml:7",
        "11: targets[8]: harbor is a target already, at sync.yaml:10",
        "14: targets[11]: harbor:8080 is a target already, at sync.yaml:13",
    ]


@pytest.mark.parametrize(
    ("targets", "is_told"),
    [
        ("[{registry: 't.io:x', name: lab}]", True),
        ("[{registry: t.io}, {registry: t.io/}]", True),
        ("[{registry: u.io, mpa: {a.io: x}}]", True),
        ("[{registry: t.io, nmae: nowhere}]", False),
        ("[{registry: t.io}, nowhere]", False),
        ("[{registry: t.io}, {map: {}}]", False),
        ("[{registry: t.io}, {registry: u.io, name: [nowhere]}]", False),
        ("[{registry: t.io, name: '${ABSENT}'}]", False),
        ("[{registry: t.io, name: a, name: nowhere}]", False),
        ("{registry: nowhere}", False),
    ],
)
def test_a_name_of_no_target_is_told_unless_it_may_be_that_of_one_with_a_mistake(targets: str, is_told: bool) -> None:
    lines = told(f"sources: [{{image: A//b, targets: [nowhere]}}]\ntargets: {targets}\n")

    assert any("no target is called 'nowhere'" in line for line in lines) == is_told
    assert any("A//b" in line for line in lines)


def test_a_source_for_no_target_is_a_mistake() -> None:
    """An empty list would go to all of them."""
    with pytest.raises(InvalidFile) as raised:
        parse("sources: [{image: a, targets: []}]\ntargets: [{registry: t.io}]\n")

    assert str(raised.value) == "sync.yaml:1: sources[0].targets: it must not be empty"
    assert raised.value.hint == "leave `targets` out for all targets, and the source out for none"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("{image: A//b, tags: x}", [".image: 'A//b'", ": `tags` belong to a `repository`"]),
        ("{image: a, images_file: b, as: 'x:1', project_id: p}", [": it names image and", ": `project_id` belongs to"]),
        ("{images_file: [], as: x}", [".images_file: it must be a text", ": `as` belongs to an `image`"]),
        ("{repository: a/b, as: 'A:1'}", [".as: 'A:1' is not", ": a repository needs `tags`"]),
        ("{imgae: a}", [".imgae: there is no such field; did you mean image?"]),
        ("{image: a, tgas: all}", [".tgas: there is no such field; did you mean tags?", ": `tags` belong to a"]),
        ("{zzz: a}", [".zzz: no such field; known: "]),
        (
            "{chart: {name: n, values_files: v}}",
            [".chart.repository: it is required", ".chart: `values_files` are for"],
        ),
        ("{repository: a/b, tags: {names: [], exclude: []}}", [".tags.exclude: it must be a mapping"]),
        ("{repository: a/b, tags: {newest: 0}}", [".tags.newest: it must be 1 or more"]),
    ],
)
def test_fields_that_do_not_fit_are_told_beside_fields_that_are_wrong(source: str, told: list[str]) -> None:
    """A field with a mistake is there all the same, and so is the one that a misspelt name means."""
    with pytest.raises(InvalidFile) as raised:
        parse(f"sources: [{source}]\ntargets: [{{registry: t.io}}]\n")

    for each, start in zip(raised.value.all, told, strict=True):
        assert str(each).startswith(f"sync.yaml:1: sources[0]{start}")


def test_a_login_with_a_wrong_field_is_told_what_else_it_lacks() -> None:
    told = mistake("{username: lab, password_env: LAB_PASSWORD}", "{username: '', helpr: x}").all
    lacking = mistake("{username: lab, password_env: LAB_PASSWORD}", "{username: []}").all

    assert [each.field.rpartition(".")[2] for each in told] == ["username", "helpr", "credentials"]
    assert [str(each).rpartition(": ")[2] for each in lacking] == [
        "it must be a text",
        "it needs one user and one password",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "sync.yaml:1: it is empty, and a sync file has `sources` and `targets`"),
        ("# nothing\n", "sync.yaml:1: it is empty"),
        ("- image: a\n", "sync.yaml:1: it must be a mapping, and a sync file has `sources` and `targets`"),
        ("sources: {image: a}\ntargets: [{registry: t.io}]", "sync.yaml:1: sources: it must be a list"),
        ("sources: [{image: a}]\ntargets:\n- [t.io]\n", "sync.yaml:3: targets[0]: it must be a mapping"),
    ],
)
def test_a_file_of_another_shape_is_told_which_one_is_expected(text: str, problem: str) -> None:
    with pytest.raises(InvalidFile) as raised:
        parse(text)
    assert str(raised.value).startswith(problem)
    assert raised.value.more == ()


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        ("sources: {image: a}", "sources: it must be a list", "each entry of a list begins with a dash and a blank"),
        (
            "sources: [busybox]",
            "sources[0]: it must be a mapping",
            "write it as fields, like `image: …`; they are image,",
        ),
        ("registries: [{a.io: {}}]", "registries: it must be a mapping", "write each entry as NAME: VALUE, without a"),
        (
            "sources: [{image: 'https://a.io/b'}]",
            (
                "sources[0].image: 'https://a.io/b' is not an image reference: it begins "
                "with https://, and a name has no scheme"
            ),
            "",
        ),
        ("registries: {a.io: {username: me}}", "registries.a.io.username: no such field; known: credentials, ", ""),
        (
            "registries: {a.io: {Insecure: true}}",
            "registries.a.io.Insecure: there is no such field; did you mean insecure",
            "",
        ),
        (
            "sources: [{chart: {repo: 'https://a.io', name: b}}]",
            "sources[0].chart.repo: there is no such field; did you mean repository?",
            "",
        ),
    ],
)
def test_a_value_of_another_kind_is_told_how_it_is_written(text: str, problem: str, hint: str) -> None:
    with pytest.raises(InvalidFile) as raised:
        parse(text)

    (error,) = (each for each in raised.value.all if each.field not in ("sources", "targets") or "list" in str(each))
    assert str(error).startswith(f"sync.yaml:1: {problem}")
    assert (error.hint or "").startswith(hint)


def test_a_target_is_refused_as_it_was_written() -> None:
    with pytest.raises(InvalidFile) as raised:
        parse("sources: [{image: busybox}]\ntargets: [{registry: 'lab:99999/x'}]\n")
    told = "targets[0].registry: 'lab:99999' is not a registry: the port '99999' of its registry is not a number from "
    assert str(raised.value).startswith(f"sync.yaml:2: {told}")


@pytest.mark.parametrize(
    ("registry", "problem", "hint"),
    [
        ("oci://lab:5000/x", "is not a registry", "write lab:5000/x, with http:// or https:// before it, or nothing"),
        ("http:/lab:5000", "is not a registry", "write lab:5000, with http:// or https:// before it, or nothing"),
        ("lab:5000/a/../b", "is not a registry and a path in it: its repository has '..'", ""),
        ("ftp://me:hunter2@lab:5000", "lab:5000' is written with a login", "leave it out"),
    ],
)
def test_an_address_that_is_no_registry_is_told_what_to_write(registry: str, problem: str, hint: str) -> None:
    with pytest.raises(InvalidFile) as raised:
        parse(f"sources: [{{image: busybox}}]\ntargets: [{{registry: '{registry}'}}]\n")

    assert str(raised.value).startswith("sync.yaml:2: targets[0].registry: ")
    assert problem in str(raised.value)
    assert (raised.value.hint or "").startswith(hint)
    assert "hunter2" not in f"{raised.value} {raised.value.hint}"


def test_a_mistake_beside_a_password_does_not_show_it() -> None:
    error = mistake("{username: robot, password: hunter2}", "{username: robot, password: hunter2, passwort: hunter2}")
    assert "hunter2" not in f"{error} {error.hint}"


@pytest.mark.parametrize("text", ["", "[]", "sources: []\ntargets: [{registry: t.io}]", "sources: [{}]\ntargets: []"])
def test_a_file_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(InvalidFile):
        parse(text)


def credentials(**fields: str) -> Credentials:
    return check(Credentials, fields, "sync.yaml")


def test_credentials_are_found_where_the_file_says(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    environment = {"WHO": "me", "PASS": "word"}

    def find(**fields: str) -> Login | Helper:
        return find_login(credentials(**fields), host="t.io", environment=environment, directory=tmp_path)

    assert find(username_env="WHO", password_env="PASS") == Login("me", "word")
    assert find(username="you", password_file="secret") == Login("you", "s3cret")
    assert find(username="you", password="inline") == Login("you", "inline")
    assert find(helper="ecr-login") == Helper("ecr-login")
    assert "word" not in repr(find(username_env="WHO", password_env="PASS"))


def test_credentials_that_are_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    for fields, problem in [
        ({"username": "a", "password_env": "ABSENT"}, "the variable ABSENT, which is not set"),
        ({"username": "a", "password_file": "absent"}, "absent: it cannot be read"),
        ({"username": "a", "password_file": "empty"}, "empty, which is empty"),
    ]:
        with pytest.raises(UsageError, match=problem):
            find_login(credentials(**fields), host="t.io", environment={}, directory=tmp_path)


def test_all_logins_and_certificates_that_are_not_there_are_told_at_once(tmp_path: Path) -> None:
    file = parse_sync_file(
        """\
sources: [{image: a}]
targets: [{registry: t.io}]
registries:
  docker.io:
    credentials: {username: a, password_env: ABSENT}
    ca_cert: ca.pem
  quay.io:
    credentials: {username: a, password_file: lost}
    client_key: key.pem
""",
        tmp_path / "sync.yaml",
    )
    with pytest.raises(InvalidFile) as raised:
        sync_settings(file, RegistrySettings(), {})

    told = [str(each).replace(str(tmp_path), ".") for each in raised.value.all]
    assert [each.partition(": it cannot")[0].partition(", which")[0] for each in told] == [
        "./sync.yaml:5: registries.docker.io.credentials: the credentials of docker.io are in the variable ABSENT",
        "./sync.yaml:6: registries.docker.io.ca_cert: ./ca.pem is not there",
        "./sync.yaml:8: registries.quay.io.credentials: ./lost",
        "./sync.yaml:9: registries.quay.io.client_key: ./key.pem is not there",
    ]


def test_the_only_source_that_is_wrong_is_told_what_is_wrong_with_it(tmp_path: Path) -> None:
    """And not that there is no source at all."""
    text = "sources:\n  - image: busybox\n    platfroms: [linux/amd64]\ntargets:\n  - registry: 127.0.0.1:9/x\n"

    with pytest.raises(InvalidFile, match=r"sync.yaml:3: sources\[0\].platfroms: .* did you mean platforms\?"):
        parse_sync_file(text, tmp_path / "sync.yaml")


def test_a_document_that_a_program_makes_is_the_one_that_a_file_says() -> None:
    """Values stand where a file has texts; fields that do not fit each other are refused all the same."""
    image = Reference.parse("quay.io/a/b:1")
    target = Target(registry="registry.local:5000/mirror")
    made = SyncDocument(sources=(Source(image=image),), targets=(target,), platforms=(Platform.parse("arm64"),))
    text = """
        sources: [{image: "quay.io/a/b:1"}]
        targets: [{registry: "registry.local:5000/mirror"}]
        platforms: arm64
    """

    assert made == parse_sync_file(text, Path("sync.yaml")).document
    assert SyncFile.of(made, Path("here")).place(made.sources[0]) == "here"
    with pytest.raises(InvalidFile, match="targets"):
        SyncFile.of(structs.replace(made, targets=(target, target)), Path("here"))
    with pytest.raises(UsageError, match="it names image and images_file"):
        Source(image=image, images_file=Path("images.txt"))


def test_no_password_of_a_file_is_in_the_words_of_its_document() -> None:
    document = parse().document

    assert document.registries["docker.io"].credentials == credentials(username="robot", password="hunter2")
    assert "hunter2" not in f"{document} {document!r}"
