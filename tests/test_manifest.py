"""Documents that others wrote are kept byte for byte, and read strictly."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.errors import DigestMismatch, InvalidContent, SyncerError
from syncer.oci import Digest, Index, Manifest, parse_manifest
from syncer.oci.descriptor import DOCKER_LIST, OCI_INDEX, OCI_MANIFEST, Descriptor
from syncer.oci.manifest import MAX_DEPTH, MAX_MANIFESTS, Descent, reduce_index, referrer_descriptor
from syncer.oci.reference import cosign_tags, fallback_tag, subject_tag
from tests.support import images
from tests.support.images import Image, digest_of

DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
CONFIG = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": DIGEST, "size": 2}


def manifest(**changes: Any) -> bytes:
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": CONFIG, "layers": [CONFIG]} | changes
    return json.dumps({key: value for key, value in document.items() if value is not None}).encode()


def test_children_are_what_must_be_there_first() -> None:
    foreign = images.foreign_layer("f", "https://vendor.example/layer")
    own = images.layer("own")
    made = images.image("a", layers=[own, foreign, own])

    read = parse_manifest(made.content, made.media_type)

    assert isinstance(read, Manifest)
    assert read.content == made.content
    assert {str(child.digest) for child in read.children()} == set(made.blobs)
    assert len(read.children()) == 2
    assert [str(layer.digest) for layer in read.foreign()] == [digest_of(foreign.content)]
    both = [str(child.digest) for child in read.children(lambda layer: not layer.is_distributable)]
    assert sorted(both) == sorted([*made.blobs, digest_of(foreign.content)])


@pytest.mark.parametrize("docker", [False, True])
def test_an_index_lists_its_manifests(*, docker: bool) -> None:
    made = images.multi_platform("a", docker=docker)

    read = parse_manifest(made.content, made.media_type, expected=Digest.parse(made.digest))

    assert isinstance(read, Index)
    assert [str(child.digest) for child in read.children()] == [child.digest for child in made.children]
    assert read.foreign() == ()
    assert [str(child.platform) for child in read.manifests] == ["linux/amd64", "linux/arm64", "linux/arm/v7"]


def read(image: Image) -> Manifest | Index:
    return parse_manifest(image.content, image.media_type)


def way_down(root: Image) -> list[tuple[str, bool, int]]:
    """What is met below ``root``, each manifest of which is entered once."""
    known = {manifest.digest: manifest for manifest in root.manifests()}
    descent = Descent("example.com/app:1")
    descent.enter(read(root))
    met = []
    for child, is_manifest in descent:
        met.append((str(child.digest), is_manifest, descent.depth))
        if is_manifest and (manifest := known.pop(str(child.digest), None)):
            descent.enter(read(manifest))
    return met


def test_the_way_down_from_an_index_goes_through_each_manifest_before_the_next() -> None:
    inner, outer = images.image("inner"), images.image("outer")
    nested = images.index(inner)

    met = way_down(images.index(nested, outer, inner))

    assert met == [
        (nested.digest, True, 1),
        (inner.digest, True, 2),
        *((digest, False, 3) for digest in inner.blobs),
        (outer.digest, True, 1),
        *((digest, False, 2) for digest in outer.blobs),
        (inner.digest, True, 1),
    ]


def test_indexes_are_nested_so_deep_and_no_deeper() -> None:
    root = images.image("a")
    for _ in range(MAX_DEPTH):
        root = images.index(root)

    assert max(depth for _, _, depth in way_down(root)) == MAX_DEPTH + 1
    with pytest.raises(InvalidContent, match=f"example.com/app:1: its indexes are nested more than {MAX_DEPTH} deep"):
        way_down(images.index(root))


def test_an_image_has_so_many_manifests_and_no_more() -> None:
    entries = [{"mediaType": OCI_MANIFEST, "digest": f"sha256:{n:064x}", "size": 2} for n in range(MAX_MANIFESTS)]
    small = read(images.image("a"))

    def go_down(count: int) -> None:
        root = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries[:count]}
        descent = Descent("example.com/app:1")
        descent.enter(parse_manifest(json.dumps(root).encode()))
        for _, is_manifest in descent:
            if is_manifest:
                descent.enter(small)

    go_down(MAX_MANIFESTS - 1)  # the root is one of them
    with pytest.raises(InvalidContent, match=f"example.com/app:1: it has more than {MAX_MANIFESTS} manifests"):
        go_down(MAX_MANIFESTS)


def test_the_manifests_of_an_image_have_so_many_bytes_together_and_no_more() -> None:
    """A run keeps them in memory: ten thousand of four MiB each would be 40 GB."""
    large = read(images.image("a", annotations={"note": "a" * 3 * 1024 * 1024}))
    entries = [{"mediaType": OCI_MANIFEST, "digest": f"sha256:{n:064x}", "size": 2} for n in range(11)]
    root = {"schemaVersion": 2, "mediaType": OCI_INDEX}

    def go_down(count: int) -> None:
        descent = Descent("example.com/app:1")
        descent.enter(parse_manifest(json.dumps(root | {"manifests": entries[:count]}).encode()))
        for _, is_manifest in descent:
            if is_manifest:
                descent.enter(large)

    go_down(10)
    with pytest.raises(InvalidContent, match=r"app:1: its manifests have more than 33554432 bytes together"):
        go_down(11)


@pytest.mark.parametrize("over", [0, 1])
def test_the_bytes_of_an_images_manifests_are_counted_to_the_last_one(over: int) -> None:
    large, small = (parse_manifest(manifest() + b" " * (size - len(manifest()))) for size in (4 * 1024 * 1024, 1000))
    entries = [{"mediaType": OCI_MANIFEST, "digest": f"sha256:{n:064x}", "size": 2} for n in range(8)]
    root = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    padding = 4 * 1024 * 1024 - 1000 + over - len(root)
    descent = Descent()
    descent.enter(parse_manifest(root + b" " * padding))

    for _ in range(7):
        next(iter(descent))
        descent.enter(large)
    next(iter(descent))

    with pytest.raises(InvalidContent, match=r"^its manifests have") if over else contextlib.nullcontext():
        descent.enter(small)


@pytest.mark.parametrize("own", [None, ""])
def test_an_artifact_without_a_type_is_of_its_configs(own: str | None) -> None:
    """distribution-spec, "Listing Referrers": empty or missing."""
    assert parse_manifest(manifest(artifactType=own)).artifact_type == CONFIG["mediaType"]
    assert parse_manifest(manifest(artifactType="application/x")).artifact_type == "application/x"


def test_a_referrer_is_listed_with_its_type_and_annotations() -> None:
    made = images.referrer(images.image("a"), annotations={"made": "today"})

    listed = referrer_descriptor(read(made)).to_json()

    assert listed == {
        "mediaType": OCI_MANIFEST,
        "digest": made.digest,
        "size": len(made.content),
        "annotations": {"made": "today"},
        "artifactType": made.artifact_type,
    }


def test_a_tag_of_a_referrer_tells_what_it_is_about() -> None:
    """sha512 has more digits than a tag may have: the spec cuts them off."""
    short, long = Digest.of(b"a"), Digest.of(b"a", "sha512")
    assert cosign_tags(short) == tuple(f"sha256-{short.hex}.{kind}" for kind in ("sig", "att", "sbom"))
    assert fallback_tag(long) == f"sha512-{long.hex}"[:128]

    for tag in (fallback_tag(short), *cosign_tags(short)):
        assert subject_tag(tag) == f"sha256-{short.hex}"
    assert subject_tag(fallback_tag(long)) == fallback_tag(long)


@pytest.mark.parametrize(
    "tag", ["latest", "sha256-abc", "sha256-" + "a" * 65, "sha256-" + "g" * 64, "sha512-" + "a" * 64]
)
def test_other_tags_are_about_nothing(tag: str) -> None:
    assert subject_tag(tag) is None


def test_other_bytes_than_asked_for_are_refused() -> None:
    with pytest.raises(DigestMismatch):
        parse_manifest(manifest(), expected=Digest.parse(DIGEST))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "not an object"),
        (b"[" * 100_000, "not JSON"),
        (b'{"schemaVersion": 2, "schemaVersion": 2}', "same key twice"),
        (manifest(schemaVersion=1), "schema 1"),
        (manifest(mediaType="application/vnd.docker.distribution.manifest.v1+prettyjws"), "schema 1"),
        (manifest(schemaVersion=3), "schemaVersion must be 2"),
        (manifest(schemaVersion=None), "schemaVersion must be 2"),
        (manifest(manifests=[]), "CVE-2021-41190"),
        (manifest(mediaType=OCI_INDEX), "another one's fields"),
        (manifest(mediaType="text/html"), "unknown media type"),
        (manifest(layers={}), "layers must be a list"),
        (json.dumps({"schemaVersion": 2, "manifests": "none"}).encode(), "manifests must be a list"),
        (manifest().decode().encode("utf-16"), "not JSON"),
        (manifest().decode().encode("utf-16-le"), "not JSON"),
        (manifest().decode().encode("utf-32"), "not JSON"),
        (b"\xef\xbb\xbf" + manifest(), "not JSON"),
        (manifest(config=None), "must be an object"),
        (manifest(layers=[CONFIG | {"size": -1}]), "whole number of bytes"),
        (manifest(layers=[CONFIG | {"size": 1.5}]), "whole number of bytes"),
        (manifest(layers=[CONFIG | {"size": True}]), "whole number of bytes"),
        (manifest(layers=[CONFIG | {"size": 2**63}]), "whole number of bytes"),
        (manifest(layers=[CONFIG | {"size": "2"}]), "whole number of bytes"),
        (manifest(layers=[CONFIG | {"digest": "sha256:../../etc"}]), "hexadecimal digits"),
        (manifest(layers=[CONFIG | {"digest": DIGEST.upper()}]), "must start with"),
        (manifest(layers=[CONFIG | {"digest": None}]), "lacks its digest"),
        (manifest(layers=[CONFIG | {"mediaType": ""}]), "lacks its mediaType"),
        (manifest(layers=[CONFIG | {"mediaType": 1}]), "lacks its mediaType"),
        (manifest(layers=["sha256"]), "a descriptor must be an object"),
        (manifest(annotations={"a": 1}), "annotations"),
        (manifest(annotations={"a": "b", "c": 1}), "annotations"),
        (manifest(annotations=["a"]), "annotations"),
        (manifest(config=None, manifests=[]), "CVE-2021-41190"),
        (manifest(layers=None, manifests=[]), "CVE-2021-41190"),
        (manifest(mediaType=1), "unknown media type"),
        (b'{"schemaVersion": 2' + b" " * (4 * 1024 * 1024) + b"}", "larger than"),
    ],
)
def test_what_the_spec_forbids_is_refused(content: bytes, problem: str) -> None:
    with pytest.raises(InvalidContent, match=problem):
        parse_manifest(content)


@pytest.mark.parametrize("changes", [{}, {"layers": None, "annotations": None}, {"layers": []}])
def test_layers_that_are_missing_or_null_are_none(changes: dict[str, Any]) -> None:
    """Artifacts without layers; programs in Go write an empty list as null (opencontainers/image-spec#1025)."""
    content = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": CONFIG} | changes).encode()

    read = parse_manifest(content)

    assert isinstance(read, Manifest)
    assert (read.content, read.layers) == (content, ())


@pytest.mark.parametrize("changes", [{}, {"manifests": None}, {"manifests": []}])
def test_manifests_that_are_missing_or_null_are_none(changes: dict[str, Any]) -> None:
    read = parse_manifest(json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX} | changes).encode())

    assert isinstance(read, Index)
    assert read.children() == ()


def test_what_an_index_lists_that_is_no_manifest_is_a_blob() -> None:
    """BuildKit's cache; a manifest of a kind that is not known stays one, for the message that says so."""
    types = [
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.buildkit.cacheconfig.v0",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        OCI_MANIFEST,
    ]
    entries = [{"mediaType": kind, "digest": f"sha256:{n:064x}", "size": 2} for n, kind in enumerate(types)]
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    descent = Descent()
    descent.enter(parse_manifest(json.dumps(document).encode()))

    assert [is_manifest for _, is_manifest in descent] == [False, False, True, True]


def test_what_a_manifest_lists_is_a_blob_whatever_it_is_called() -> None:
    descent = Descent()
    descent.enter(parse_manifest(manifest(layers=[CONFIG | {"mediaType": OCI_MANIFEST, "digest": OTHER}])))

    assert [is_manifest for _, is_manifest in descent] == [False, False]


def test_an_index_is_reduced_to_some_of_its_manifests_and_their_attestations() -> None:
    """BuildKit's are bound by an annotation; another annotation, and none at all, binds nothing."""
    digests = [f"sha256:{n:064x}" for n in range(6)]
    entries: list[dict[str, Any]] = [{"mediaType": OCI_MANIFEST, "digest": each, "size": 2} for each in digests]
    entries[2]["annotations"] = {"vnd.docker.reference.digest": digests[0]}
    entries[3]["annotations"] = {"vnd.docker.reference.digest": digests[1]}
    entries[4]["annotations"] = {"of": digests[0]}
    entries[5]["annotations"] = None
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries, "annotations": {"a": "b"}}
    index = parse_manifest(json.dumps(document, indent=1).encode())
    assert isinstance(index, Index)
    first, second, *_ = index.manifests

    smaller = reduce_index(index, [first])

    assert json.loads(smaller.content) == document | {"manifests": [entries[0], entries[2]]}
    assert smaller.descriptor.media_type == OCI_INDEX
    assert reduce_index(index, [first]).content == smaller.content
    assert reduce_index(index, index.manifests) is index
    some = reduce_index(index, [first, second], lambda digest: str(digest) != digests[2])
    assert [str(child.digest) for child in some.manifests] == [digests[0], digests[1], digests[3]]


def test_an_index_without_a_media_type_keeps_its_own_when_it_is_reduced() -> None:
    entries = [{"mediaType": OCI_MANIFEST, "digest": each, "size": 2} for each in (DIGEST, OTHER)]
    index = parse_manifest(json.dumps({"schemaVersion": 2, "manifests": entries}).encode(), DOCKER_LIST)
    assert isinstance(index, Index)

    assert reduce_index(index, index.manifests[:1]).descriptor.media_type == DOCKER_LIST


def test_a_manifest_may_be_as_large_as_a_registry_must_take() -> None:
    content = manifest() + b" " * (4 * 1024 * 1024 - len(manifest()))

    assert parse_manifest(content).descriptor.size == 4 * 1024 * 1024
    with pytest.raises(InvalidContent, match="larger than"):
        parse_manifest(content + b" ")


def test_a_manifest_may_be_asked_for_by_any_digest() -> None:
    expected = Digest.of(manifest(), "sha512")

    assert parse_manifest(manifest(), expected=expected).descriptor.digest == expected
    assert parse_manifest(manifest()).descriptor.digest == Digest.of(manifest())


@pytest.mark.parametrize("kind", [Manifest, Index])
def test_what_a_document_says_of_itself_is_read(kind: type[Manifest | Index]) -> None:
    more = {"subject": CONFIG, "artifactType": "text/x", "annotations": {"a": "b"}}
    plain: dict[str, Any] = {} if kind is Manifest else {"config": None, "layers": None, "manifests": []}
    plain |= {} if kind is Manifest else {"mediaType": OCI_INDEX}

    told, silent = parse_manifest(manifest(**plain, **more)), parse_manifest(manifest(**plain))
    odd = parse_manifest(manifest(**plain, artifactType=1))

    assert isinstance(told, kind)
    assert (told.subject, told.artifact_type, dict(told.annotations)) == (
        Descriptor.from_json(CONFIG),
        "text/x",
        {"a": "b"},
    )
    usual = CONFIG["mediaType"] if kind is Manifest else None  # image-spec, "Guidelines for Artifact Usage"
    assert (silent.subject, silent.artifact_type, dict(silent.annotations)) == (None, usual, {})
    assert odd.artifact_type == usual
    with pytest.raises(InvalidContent, match="a descriptor must be an object"):
        parse_manifest(manifest(**plain, subject=False))


@pytest.mark.parametrize(("origin", "said"), [("app:1", "app:1: its indexes"), (None, "its indexes")])
def test_what_is_wrong_is_told_of_the_image_where_it_has_a_name(origin: str | None, said: str) -> None:
    descent = Descent(origin)
    index = read(images.index(images.image("a")))

    for _ in range(MAX_DEPTH + 1):
        descent.enter(index)
    with pytest.raises(InvalidContent, match=f"^{said} are nested"):
        descent.enter(index)


def test_a_server_that_calls_it_schema_1_is_believed() -> None:
    """What came may be anything then, and what is to be done about it is known."""
    for media_type in ("v1+json", "v1+prettyjws"):
        with pytest.raises(InvalidContent, match="schema 1 is not supported"):
            parse_manifest(manifest(), f"application/vnd.docker.distribution.manifest.{media_type}")


def test_a_digest_listed_with_two_sizes_is_refused() -> None:
    read = parse_manifest(manifest(layers=[CONFIG | {"size": 3}]))

    with pytest.raises(InvalidContent, match="with the sizes 2 and 3"):
        read.children()


def test_a_server_that_calls_it_something_else_is_not_believed() -> None:
    with pytest.raises(InvalidContent, match="is called"):
        parse_manifest(manifest(), "application/vnd.docker.distribution.manifest.v2+json")
    assert parse_manifest(manifest(), "text/plain").descriptor.media_type == OCI_MANIFEST


def test_an_old_document_without_a_media_type_gets_the_servers() -> None:
    index = json.dumps({"schemaVersion": 2, "manifests": []}).encode()

    assert parse_manifest(index, DOCKER_LIST).descriptor.media_type == DOCKER_LIST
    assert parse_manifest(index).descriptor.media_type == OCI_INDEX
    assert parse_manifest(manifest(mediaType=None)).descriptor.media_type == OCI_MANIFEST
    assert parse_manifest(manifest(mediaType=None), "text/plain").descriptor.media_type == OCI_MANIFEST


@given(st.binary(max_size=200) | st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists).map(str))
def test_any_bytes_are_a_manifest_or_refused(content: bytes | str) -> None:
    with contextlib.suppress(SyncerError):
        parse_manifest(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(DIGEST),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["mediaType", "digest", "size", "platform", "os", "annotations"]), inner)
    ),
    max_leaves=10,
)


def test_a_descriptor_is_written_as_it_was_read() -> None:
    document = {
        "mediaType": OCI_MANIFEST,
        "digest": DIGEST,
        "size": 2**63 - 1,
        "platform": {"os": "linux", "architecture": "arm", "variant": "v7"},
        "annotations": {"a": "b"},
        "artifactType": "text/x",
    }
    least = {"mediaType": "text/plain", "digest": DIGEST, "size": 0}

    read = Descriptor.from_json(document)

    assert (list(read.to_json()), read.to_json()) == (list(document), document)
    assert Descriptor.from_json(least).to_json() == least
    assert Descriptor.from_json(least | {"platform": {"os": "linux", "architecture": "arm"}}).to_json() == least | {
        "platform": {"os": "linux", "architecture": "arm"}
    }
    assert Descriptor.from_json(least | {"artifactType": 1}).artifact_type is None
    assert str(Descriptor.from_json(least)) == "sha256:aaaaaaaaaaaa (0 bytes)"


def test_the_addresses_of_a_foreign_layer_are_read() -> None:
    document = CONFIG | {"urls": ["https://vendor.example/a", 1, None, "https://vendor.example/b"]}

    assert Descriptor.from_json(document).urls == ("https://vendor.example/a", "https://vendor.example/b")
    for nothing in (None, "https://vendor.example/a", {"https://vendor.example/a": 1}):
        assert Descriptor.from_json(CONFIG | {"urls": nothing}).urls == ()


def test_descriptors_that_differ_in_their_annotations_only_are_told_apart_in_a_set() -> None:
    read = [Descriptor.from_json(CONFIG | {"annotations": {"a": value}}) for value in ("b", "c", "c")]

    assert len(set(read)) == 2


@pytest.mark.parametrize(
    ("media_type", "is_manifest", "is_index", "is_distributable"),
    [
        (OCI_MANIFEST, True, False, True),
        (images.DOCKER_MANIFEST, True, False, True),
        (OCI_INDEX, True, True, True),
        (DOCKER_LIST, True, True, True),
        (images.OCI_LAYER, False, False, True),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", False, False, False),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", False, False, False),
    ],
)
def test_a_media_type_says_what_it_is(
    media_type: str, *, is_manifest: bool, is_index: bool, is_distributable: bool
) -> None:
    descriptor = Descriptor(media_type, Digest.parse(DIGEST), 1)

    assert descriptor.is_manifest is is_manifest
    assert descriptor.is_index is is_index
    assert descriptor.is_distributable is is_distributable


@given(JSON)
def test_any_object_is_a_descriptor_or_refused(document: Any) -> None:
    try:
        descriptor = Descriptor.from_json(document)
    except InvalidContent:
        return
    assert Descriptor.from_json(descriptor.to_json()) == descriptor
