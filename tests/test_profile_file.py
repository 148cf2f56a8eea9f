from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from syncer.errors import InvalidFile, UsageError
from syncer.formats.archive import read_archive
from syncer.profiles.palette.profile_definition import ProfileDefinition, define_profiles
from syncer.profiles.palette.profile_files import read_packs, read_profile_file

_VALUES = "pack:\n  content:\n    images:\n      - image: quay.io/a/b:v1\n"


def _export(*packs: dict[str, Any], kind: str = "add-on", **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "edge", "uid": "66b1", "annotations": {"projectUid": "6342"}},
        "spec": {"version": "1.0.0", "template": {"type": kind, "packs": list(packs)}, **spec},
    }


def _write(folder: Path, document: Any, name: str = "edge.json") -> Path:
    path = folder / name
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def _pack(folder: Path, name: str = "a", version: str = "1.0.0", values: str = _VALUES) -> Path:
    path = folder / f"{name}-{version}"
    (path / "charts").mkdir(parents=True)
    (path / "manifests").mkdir()
    (path / "pack.json").write_text(json.dumps({"name": name, "version": version, "layer": "addon"}))
    (path / "values.yaml").write_text(values)
    (path / "manifests" / "a.yaml").write_text("image: quay.io/a/hidden:v2\n")
    return path


def _pack_archive(folder: Path, pack: Path, prefix: str) -> Path:
    path = folder / f"{pack.name}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(pack, arcname=prefix)
    return path


def _images(gathered: ProfileDefinition) -> list[str]:
    return [str(image.image) for image in gathered.definition.images]


def test_an_exported_profile_tells_packs_variables_and_what_it_is(tmp_path: Path) -> None:
    export = _export(
        {"name": "kubernetes", "layer": "k8s", "version": "1.29.5", "tag": "1.29.x", "values": ""},
        {
            "name": "byoi",
            "layer": "os",
            "version": "2.1.0",
            "values": (
                'pack: {content: {images: [{image: "{{.spectro.macro.host}}/'
                'os:{{.spectro.system.kubernetes.version}}-{{.spectro.var.tag}}"}]}}'
            ),
            "registry": {"metadata": {"uid": "64ea", "name": "Public", "kind": "oci"}},
        },
        kind="cluster",
        variables=[
            {"name": "tag", "defaultValue": "v1"},
            {"name": "secret", "isSensitive": True, "defaultValue": "**"},
        ],
    )

    profile = read_profile_file(_write(tmp_path, export))
    gathered = define_profiles("bundle", [profile], overrides={"host": "ttl.sh"})

    assert (profile.name, profile.uid, profile.version, profile.type) == ("edge", "66b1", "1.0.0", "cluster")
    assert profile.variables == {"tag": "v1", "secret": None}
    assert profile.packs[1].registry is not None
    assert profile.packs[1].registry.name == "Public"
    assert _images(gathered) == ["ttl.sh/os:1.29.5-v1"]
    assert gathered.definition.images[0].packs == ("byoi 2.1.0",)


def test_a_profile_in_yaml_is_read_like_one_in_json(tmp_path: Path) -> None:
    text = (
        "metadata:\n  name: edge\nspec:\n  version: '1.10'\n  template:\n    type: add-on\n    packs:\n"
        "      - name: a\n        version: 1.10\n        values: |\n"
        "          pack:\n            content:\n              images:\n                - image: a:1\n"
    )

    profile = read_profile_file(_write(tmp_path, text, "edge.yaml"))

    assert profile.packs[0].version == "1.10"
    assert _images(define_profiles("bundle", [profile])) == ["docker.io/library/a:1"]


def test_the_answer_of_the_api_is_read_and_a_draft_only_with_a_warning(tmp_path: Path) -> None:
    document = _export({"name": "a", "version": "1", "values": _VALUES})
    document["spec"]["draft"] = document["spec"].pop("template")
    document["spec"]["published"] = None

    profile = read_profile_file(_write(tmp_path, document))

    assert _images(define_profiles("bundle", [profile])) == ["quay.io/a/b:v1"]
    assert define_profiles("bundle", [profile]).warnings == ("profile edge is not published: its draft is taken",)


def test_a_pack_without_values_in_the_file_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    profile = read_profile_file(_write(tmp_path, _export({"name": "a", "version": "1"})))

    assert define_profiles("bundle", [profile]).warnings == (
        "pack a: its values are unknown, and so is the content that it lists",
    )


def test_manifests_in_a_profile_are_searched(tmp_path: Path) -> None:
    manifest = {"name": "extra", "content": "image: quay.io/a/hidden:v2\n"}
    export = _export({"name": "a", "version": "1", "type": "manifest", "manifests": [manifest]})
    profile = read_profile_file(_write(tmp_path, export))

    assert _images(define_profiles("bundle", [profile])) == []
    assert [str(unlisted) for unlisted in define_profiles("bundle", [profile]).unlisted] == [
        "pack a 1 lists no images, and names 1 elsewhere: quay.io/a/hidden:v2 (extra)"
    ]
    assert _images(define_profiles("bundle", [profile], scan=True)) == ["quay.io/a/hidden:v2"]


def test_a_helm_layer_whose_registry_is_unknown_is_told(tmp_path: Path) -> None:
    registry = {"metadata": {"uid": "1", "name": "Bitnami", "kind": "helm"}}
    export = _export({"name": "nginx", "version": "1", "type": "helm", "values": "", "registry": registry})

    gathered = define_profiles("bundle", [read_profile_file(_write(tmp_path, export))])

    assert "Helm registry Bitnami" in gathered.warnings[0]


@pytest.mark.parametrize("prefix", ["a-1.0.0", ".", "packs/a-1.0.0"])
def test_a_pack_is_the_same_as_directory_and_as_archive(tmp_path: Path, prefix: str) -> None:
    folder = _pack(tmp_path)
    archive = _pack_archive(tmp_path, folder, prefix)

    for path in (folder, archive):
        gathered = define_profiles("bundle", [read_profile_file(path)])
        assert _images(gathered) == ["quay.io/a/b:v1"]
        assert gathered.definition.profiles[0].packs[0].version == "1.0.0"
        assert [str(found.reference) for found in gathered.unlisted[0].images] == ["quay.io/a/hidden:v2"]


def test_values_alone_are_named_after_the_one_pack_that_they_refer_to(tmp_path: Path) -> None:
    text = 'pack: {content: {images: [{image: "{{.spectro.pack.edge-native-byoi.o.uri}}"}]}}\no: {uri: a:1}\n'

    profile = read_profile_file(_write(tmp_path, text, "values.yaml"))

    assert profile.packs[0].name == "edge-native-byoi"
    assert _images(define_profiles("bundle", [profile])) == ["docker.io/library/a:1"]


def test_values_alone_are_else_named_after_their_file(tmp_path: Path) -> None:
    pack = read_profile_file(_write(tmp_path, _VALUES, "hello-universe-1.3.1.yaml")).packs[0]

    assert (pack.name, pack.version) == ("hello-universe", "1.3.1")


def test_local_packs_may_refer_to_each_other_and_come_along_themselves(tmp_path: Path) -> None:
    values = 'pack: {content: {images: [{image: "{{.spectro.pack.b.tag}}"}]}}\n'
    packs = read_packs([_pack(tmp_path, "a", values=values), _pack(tmp_path, "b", values="tag: quay.io/x:1\n")])

    definition = define_profiles("bundle", [packs], with_archives=True).definition

    assert [str(image.image) for image in definition.images] == ["quay.io/x:1"]
    assert [(archive.name, archive.version) for archive in definition.archives] == [("a", "1.0.0"), ("b", "1.0.0")]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("edge.json", '{"spec": {\n "template": }', "edge.json:2: column 14: this is not JSON"),
        ("edge.json", '{"metadata": {}}', "it is no cluster profile"),
        ("edge.json", '{"spec": {"template": {"packs": 3}}}', "packs must be a list"),
        ("edge.json", '{"spec": {"template": {"packs": [{}]}}}', "packs[0]): a pack lacks its name"),
        ("edge.json", '{"spec": {"template": {"packs": [{"name": "a", "values": {}}]}}}', "must be a text"),
        ("edge.json", "[" * 100_000, "is nested"),
        ("edge.yaml", "- image: a\n", "it is a list"),
        ("edge.yaml", "profiles: []\nimages: []\n", "it is a bundle definition"),
        ("edge.yaml", "pack:\n\t- a", "edge.yaml:2: column 1"),
        ("pack.tar.gz", "not an archive", "it is not a whole tar archive"),
        ("absent.yaml", None, "it cannot be read"),
        ("absent.tar.gz", None, "it cannot be read"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, name: str, content: str | None, problem: str) -> None:
    path = tmp_path / name if content is None else _write(tmp_path, content, name)

    with pytest.raises(InvalidFile) as caught:
        read_profile_file(path)

    assert problem in str(caught.value)


def test_a_folder_that_is_no_pack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=r"neither pack.json nor values.yaml"):
        read_profile_file(tmp_path)


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in "abcdefgh":
            member = tarfile.TarInfo(name)
            member.size = 1_000_000
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    buffer.seek(0)

    with pytest.raises(InvalidFile, match="unpacks to more than 3000000 bytes"):
        list(read_archive(buffer, "bomb.tar.gz", lambda _: False, limit=3_000_000))


def test_links_and_devices_in_an_archive_are_never_read() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind in (("link", tarfile.SYMTYPE), ("device", tarfile.CHRTYPE), ("hard", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    buffer.seek(0)

    assert list(read_archive(buffer, "pack.tar", lambda _: True)) == []


def test_what_excluded_profiles_want_is_left_out(tmp_path: Path) -> None:
    content = "pack: {content: {images: [{image: a}, {image: b}], charts: [{repo: r.io, name: c, version: 1.0.0}]}}"
    both = read_profile_file(_write(tmp_path, content, "both.yaml"))
    known = read_profile_file(_write(tmp_path, content.replace("{image: a}, ", ""), "known.yaml"))

    definition = define_profiles("bundle", [both], excluded=[known]).definition

    assert [str(image.image) for image in definition.images] == ["docker.io/library/a:latest"]
    assert definition.charts == ()


def test_a_thing_that_several_packs_want_is_there_once_with_all_of_them(tmp_path: Path) -> None:
    first = read_profile_file(_write(tmp_path, _VALUES, "first-1.0.yaml"))
    second = read_profile_file(_write(tmp_path, _VALUES, "second-2.0.yaml"))

    definition = define_profiles("bundle", [first, second]).definition

    assert [image.packs for image in definition.images] == [("first 1.0", "second 2.0")]


def test_a_cluster_has_only_one_infrastructure(tmp_path: Path) -> None:
    pack = {"name": "a", "version": "1", "values": _VALUES}
    full = read_profile_file(_write(tmp_path, _export(pack, kind="cluster")))
    infrastructure = read_profile_file(_write(tmp_path, _export(pack, kind="infra")))
    add_on = read_profile_file(_write(tmp_path, _export(pack, kind="add-on")))

    define_profiles("bundle", [full, add_on, add_on])
    with pytest.raises(UsageError, match=r"edge 1.0.0 \(full\), edge 1.0.0 \(infrastructure\)"):
        define_profiles("bundle", [full, add_on, infrastructure])


def test_a_profile_without_packs_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"profile edge 1\.0\.0 has no packs"):
        define_profiles("bundle", [read_profile_file(_write(tmp_path, _export()))])


def test_manifests_that_a_pack_names_are_searched_in_its_subfolders_too(tmp_path: Path) -> None:
    folder = _pack(tmp_path)
    (folder / "manifests" / "app" / "more").mkdir(parents=True)
    (folder / "yamls").mkdir()
    (folder / "manifests" / "app" / "a.yaml").write_text("image: quay.io/a/nested:v3\n")
    (folder / "manifests" / "app" / "more" / "b.yaml").write_text("image: quay.io/a/unnamed:v4\n")
    (folder / "yamls" / "c.yml").write_text("image: quay.io/a/elsewhere:v5\n")
    named = ["manifests/app/a.yaml", "yamls", "manifests/gone.yaml"]
    described = {"name": "a", "kubeManifests": named, "charts": ["charts/gone-1.0.tgz"]}
    (folder / "pack.json").write_text(json.dumps(described))
    archive = _pack_archive(tmp_path, folder, "a-1.0.0")

    for path in (folder, archive):
        profile = read_profile_file(path)
        gathered = define_profiles("bundle", [profile])

        assert _images(gathered) == ["quay.io/a/b:v1"]
        assert gathered.warnings == ()
        assert "names 3 elsewhere" in str(gathered.unlisted[0])
        scanned = define_profiles("bundle", [profile], scan=True)
        assert scanned.warnings == tuple(
            f"pack a: its pack.json names {name}, which is not in the pack, and not looked into"
            for name in ("manifests/gone.yaml", "charts/gone-1.0.tgz")
        )
        assert _images(scanned) == [
            "quay.io/a/b:v1",
            "quay.io/a/elsewhere:v5",
            "quay.io/a/hidden:v2",
            "quay.io/a/nested:v3",
        ]


@pytest.mark.parametrize(
    ("named", "problem"),
    [
        (["../other/a.yaml"], "leads out of the pack: '../other/a.yaml'"),
        (["/etc/a.yaml"], "leads out of the pack: '/etc/a.yaml'"),
        ("manifests/a.yaml", "must be a list of paths"),
    ],
)
def test_a_pack_names_manifests_of_its_own_only(tmp_path: Path, named: object, problem: str) -> None:
    folder = _pack(tmp_path)
    (folder / "pack.json").write_text(json.dumps({"name": "a", "kubeManifests": named}))

    for path in (folder, _pack_archive(tmp_path, folder, "a-1.0.0")):
        with pytest.raises(InvalidFile, match=problem):
            read_profile_file(path)


def test_two_versions_of_a_pack_have_values_of_their_own(tmp_path: Path) -> None:
    values = (
        'pack: {content: {images: [{image: "quay.io/a/b:{{.spectro.pack.a.options.tag}}"}]}}\noptions: {tag: VERSION}\n'
    )
    packs = [_pack(tmp_path, version=each, values=values.replace("VERSION", f"v{each}")) for each in ("1.0", "2.0")]

    assert _images(define_profiles("bundle", [read_packs(packs)])) == ["quay.io/a/b:v1.0", "quay.io/a/b:v2.0"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it is empty"),
        ("# nothing\n", "it is empty"),
        ("version: 1\nsync: [{source: a, target: b, type: image}]\n", "it is no file that a build knows"),
        ("kind: ZarfPackageConfig\ncomponents: [{images: ['quay.io/a/b:v1']}]\n", "its kind is 'ZarfPackageConfig'"),
        ("sources: [{image: a}]\ntargets: [{registry: b}]\n", "it is a sync file"),
        ("nginx:1.27\nbusybox\n", "it is no file that a build knows"),
    ],
)
def test_a_file_of_another_kind_is_not_taken_for_values(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(InvalidFile, match=problem):
        read_profile_file(_write(tmp_path, text, "other.yaml"))


def test_values_that_name_images_only_a_scan_finds_are_read(tmp_path: Path) -> None:
    profile = read_profile_file(_write(tmp_path, "image: {repository: quay.io/a/b, tag: v1}\n", "values.yaml"))

    assert _images(define_profiles("bundle", [profile])) == []
    assert _images(define_profiles("bundle", [profile], scan=True)) == ["quay.io/a/b:v1"]


def test_the_mistakes_of_all_packs_are_told_at_once(tmp_path: Path) -> None:
    wrong = "pack:\n  content:\n    images: [{image: A}, {image: '{{.spectro.var.no}}'}]\n"
    packs = [_pack(tmp_path, name, values=text) for name, text in (("a", wrong), ("b", "pack: {"), ("c", _VALUES))]

    with pytest.raises(InvalidFile) as raised:
        define_profiles("bundle", [read_packs(packs)])

    told = [str(each).removeprefix(f"{tmp_path}/") for each in (raised.value, *raised.value.more)]
    assert [line[:50] for line in sorted(told)] == [
        "a-1.0.0/values.yaml:3: pack a: pack.content.images",
        "a-1.0.0/values.yaml:3: pack a: pack.content.images",
        "b-1.0.0/values.yaml:2: column 1: this is not YAML:",
    ]
