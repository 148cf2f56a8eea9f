from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from syncer.errors import InvalidContent, InvalidFile
from syncer.oci import Digest, Reference, parse_manifest
from syncer.profiles.definition.artifacts import EMPTY, artifact_manifest, definition_artifact, definition_layer
from syncer.profiles.definition.definition import (
    DefinedArchive,
    DefinedChart,
    DefinedImage,
    DefinedPack,
    DefinedProfile,
    Definition,
    Missing,
    Release,
    render_definition,
)
from syncer.profiles.definition.definition_file import parse_definition, read_definition, write_definition

_DIGEST = Digest.of(b"content")
NAME = Reference.parse("example.com/bundle-definition:mine")


def _definition() -> Definition:
    return Definition(
        name="edge-demo",
        release=Release(name="spring", version="1.10", notes="two\nlines\n"),
        profiles=(DefinedProfile(name="edge", version="1.0.0", packs=(DefinedPack(name="a", version="1.10"),)),),
        images=(
            DefinedImage(
                image=Reference.parse("busybox"),
                packs=("a 1.10",),
                digest=_DIGEST,
                platforms=("linux/amd64",),
                size=1234,
            ),
            DefinedImage(image=Reference.parse("quay.io/a/b:v1")),
        ),
        charts=(DefinedChart(repo="https://charts.example.com", name="c", version="1.10"),),
        archives=(DefinedArchive(name="a", version="1.10", path=Path("packs/a.tar.gz")),),
        missing=(Missing(name="quay.io/a/lost:v1", reason="404 Not Found"),),
    )


def test_a_definition_reads_as_people_would_write_it() -> None:
    text = render_definition(_definition())

    assert (
        text.partition("apiVersion")[2]
        == f"""\
: syncer/v1
kind: BundleDefinition
name: edge-demo
release:
  name: spring
  version: '1.10'
  notes: |
    two
    lines
profiles:
  - name: edge
    version: 1.0.0
    packs:
      - name: a
        version: '1.10'
images:
  - image: docker.io/library/busybox:latest
    packs:
      - a 1.10
    digest: {_DIGEST}
    platforms:
      - linux/amd64
    size: 1234
  - image: quay.io/a/b:v1
charts:
  - repo: https://charts.example.com
    name: c
    version: '1.10'
archives:
  - name: a
    version: '1.10'
    path: packs/a.tar.gz
missing:
  - name: quay.io/a/lost:v1
    reason: 404 Not Found
"""
    )


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "bundle-definition.yaml"
    path.write_text(render_definition(_definition()))

    assert read_definition(path) == _definition()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ("name: edge", "name: 'edge'"),
        ("name: edge", "name: ~"),
        ("name: edge", "name: edge # or not"),
        ("name: edge", "name: 1.10"),
        ("name: edge", "name:"),
        ("name: edge", "name:\n  edge"),
        ("name: edge", "nmae: edge"),
        ("name: edge", "name: edge\nname: other"),
        ("name: edge", "name: edge: core"),
        ("name: edge", "name: |\n  # a\n  b"),
        ("name: edge", "\n  name: edge"),
        ("size: 1234", "size: 01234"),
        ("size: 1234", "size: many"),
        ("    size: 1234", "   size: 1234"),
        ("      - linux/amd64", "    - linux/amd64"),
        ("      - linux/amd64", "      - linux/amd64\n      -"),
        ("      - linux/amd64", "      - [linux/amd64]"),
        ("platforms:", "platforms: &all"),
        ("apiVersion: syncer/v1", "---\napiVersion: syncer/v1"),
        ("apiVersion: syncer/v1", "apiVersion: syncer/v2"),
        ("name: edge", "\n".join(f"{'  ' * depth}a:" for depth in range(3000))),
    ],
)
def test_what_nobody_edited_is_read_as_every_other_text(old: str, new: str) -> None:
    """It is read without PyYAML, which reads what ends with the mark of an end."""

    def told(text: str) -> object:
        try:
            return parse_definition(text, "edge.yaml")
        except InvalidFile as wrong:
            return [(str(each), each.hint) for each in wrong.all]

    text = render_definition(structs.replace(_definition(), release=None, charts=(), archives=(), missing=()))
    assert old in text
    edited = text.replace(old, new, 1)
    assert told(edited) == told(f"{edited}...\n")


def test_a_pipe_gets_a_definition_and_is_not_read_before(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "bundle-definition.yaml")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_definition(_definition(), pipe)
        assert os.read(reader, 100_000).decode() == render_definition(_definition())
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_a_definition_by_hand_needs_little() -> None:
    definition = parse_definition("name: mine\nimages:\n  - image: busybox:1.36\n", "mine.yaml")

    assert str(definition.images[0].reference) == "docker.io/library/busybox:1.36"


def test_a_digest_is_binding() -> None:
    definition = parse_definition(f"name: a\nimages: [{{image: 'b:1', digest: '{_DIGEST}'}}]", "mine.yaml")

    assert definition.images[0].reference == Reference.parse(f"b:1@{_DIGEST}")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "mine.yaml: it is empty"),
        ("- a", "mine.yaml: it must be a mapping"),
        ("images: []", "mine.yaml: name: it is required"),
        ("name: a\nimages:\n  - image: A//b\n", "mine.yaml:3: images[0].image: 'A//b' is not an image reference"),
        ("name: a\nimages:\n  - image: a\n  - imag: b\n", "mine.yaml:4: images[1].imag: there is no such field; did"),
        ("name: a\nimages: a\n", "mine.yaml:2: images: it must be a list"),
        ("name: a\nimages:\n- {image: a, digest: 'sha256:12'}", "images[0].digest: 'sha256:12' is not a digest"),
        ("name: a\nimages:\n- {image: a, size: big}", "mine.yaml:3: images[0].size: it must be a whole number"),
        ("name: a\nimages:\n- {image: a, size: -1}", "mine.yaml:3: images[0].size: it must be 0 or more"),
        ("name: ''\n", "mine.yaml:1: name: it must not be empty"),
        ("name: [a]\n", "mine.yaml:1: name: it must be a text"),
        ("name: a\nprofiles:\n- name: b\n  packs:\n  - c\n", "mine.yaml:5: profiles[0].packs[0]: it must be a mapping"),
        ("name: a\ncharts:\n- {name: c}\n", "mine.yaml:3: charts[0].repo: it is required"),
        ("name: a\nkind: Deployment\n", "mine.yaml:2: kind: it must be 'BundleDefinition'"),
        (f"name: a\nimages:\n- {{image: 'a@{Digest.of(b'x')}', digest: '{_DIGEST}'}}", "is not the one in the image's"),
        (f"name: a\nimages: [{{image: a}}, {{image: a, digest: '{_DIGEST}'}}]", "twice, with different digests"),
    ],
)
def test_nonsense_is_named_by_its_path(text: str, problem: str) -> None:
    with pytest.raises(InvalidFile) as caught:
        parse_definition(text, "mine.yaml")

    assert problem in str(caught.value)


def test_all_mistakes_of_a_definition_are_told_at_once() -> None:
    text = "nmae: a\nimages:\n- {image: A//b, size: big}\n- imag: c\n- []\nprofiles: {}\n"
    with pytest.raises(InvalidFile) as caught:
        parse_definition(text, "mine.yaml")

    assert [str(each).split(": ")[:2] for each in caught.value.all] == [
        ["mine.yaml:1", "nmae"],
        ["mine.yaml:3", "images[0].image"],
        ["mine.yaml:3", "images[0].size"],
        ["mine.yaml:4", "images[1].imag"],
        ["mine.yaml:5", "images[2]"],
        ["mine.yaml:6", "profiles"],
    ]


def test_all_digests_that_contradict_each_other_are_told_at_once() -> None:
    image = f"{{image: 'a@{Digest.of(b'x')}', digest: '{_DIGEST}'}}"
    with pytest.raises(InvalidFile) as caught:
        parse_definition(f"name: a\nimages:\n- {image}\n- image: b\n- {{image: b, digest: '{_DIGEST}'}}", "mine.yaml")

    assert "mine.yaml:3: images[0]: its digest" in str(caught.value)
    assert [str(each) for each in caught.value.more] == [
        "mine.yaml:5: images[2]: docker.io/library/b:latest is in images twice, with different digests"
    ]


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_any_text_survives_being_written_and_read(name: str, version: str, notes: str) -> None:
    definition = Definition(
        name=f"n{name}".replace("\0", ""),
        release=Release(notes=notes),
        profiles=(DefinedProfile(name=name, version=version),),
    )

    assert parse_definition(render_definition(definition), "mine.yaml") == definition


def test_a_definition_goes_through_a_registry_as_an_artifact() -> None:
    content = render_definition(_definition()).encode()

    manifest, blobs = definition_artifact(content)

    assert manifest.artifact_type == "application/vnd.syncer.bundle-definition.v1+yaml"
    assert {child.digest for child in manifest.children()} == set(blobs)
    assert blobs[definition_layer(parse_manifest(manifest.content), NAME).digest] == content
    assert definition_artifact(content)[0] == manifest


def test_another_artifact_is_no_definition() -> None:
    with pytest.raises(InvalidContent, match="not a bundle definition"):
        definition_layer(artifact_manifest(EMPTY, []), NAME)
