from __future__ import annotations

import io
import tarfile

from syncer.profiles.palette.packs import parse_values
from syncer.profiles.palette.profile import Pack, PackFile
from syncer.profiles.palette.scan import scan_pack


def _archive(**files: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def _found(values: str = "", manifest: str = "", chart: bytes | None = None) -> list[str]:
    pack = Pack(
        name="a",
        values=values,
        origin="values.yaml",
        manifests=(PackFile("manifests/a.yaml", manifest.encode()),),
        charts=(PackFile("charts/a.tgz", chart),) if chart else (),
    )
    return [f"{image.reference} in {image.where}" for image in scan_pack(pack, parse_values(pack))]


def test_manifests_are_searched_even_where_they_are_templates() -> None:
    manifest = """\
kind: Deployment
spec:
  containers:
    - image: quay.io/a/b:v1
      name: x
    - name: y
      image: "busybox"
    - image: {{ .Values.image }}
    - image: $(IMAGE)
  imagePullPolicy: Always
{{- if broken
"""

    assert _found(manifest=manifest) == [
        "docker.io/library/busybox:latest in manifests/a.yaml",
        "quay.io/a/b:v1 in manifests/a.yaml",
    ]


def test_values_are_searched_for_each_way_to_compose_an_image() -> None:
    values = """\
pack: {content: {images: [{image: listed.example.com/a:1}]}}
charts:
  a:
    image: {repository: quay.io/a/one, tag: v1}
    other: {registry: docker.io, repository: two, tag: "1.10"}
    splunk: {image: {registry: docker.io, name: splunk/three, tag: 1.2.4}}
    nvidia: {repository: nvcr.io/nvidia, image: four, version: v4}
    plain: {image: quay.io/a/five:v5}
    untagged: {image: {repo: ghcr.io/a/six, tag: ""}}
    not: {repository: https://charts.example.com, tag: v1}
    neither: {image: pullPolicy}
    images: {seven: ghcr.io/a/seven:v7}
    text: |
      image: ghcr.io/a/eight:v8
"""

    assert _found(values) == [
        "docker.io/library/two:1.10 in values.yaml",
        "docker.io/splunk/three:1.2.4 in values.yaml",
        "ghcr.io/a/eight:v8 in values.yaml",
        "ghcr.io/a/seven:v7 in values.yaml",
        "nvcr.io/nvidia/four:v4 in values.yaml",
        "quay.io/a/five:v5 in values.yaml",
        "quay.io/a/one:v1 in values.yaml",
    ]


def test_a_chart_is_searched_with_its_own_version_as_the_usual_tag() -> None:
    chart = _archive(
        **{
            "a/Chart.yaml": "name: a\nappVersion: v9\n",
            "a/values.yaml": "image: {repository: quay.io/a/b}\n",
            "a/templates/job.yaml": "image: quay.io/a/job:v2\nimage: {{ .Values.x }}\n",
            "a/charts/sub/values.yaml": "image: {repository: quay.io/a/sub, tag: v3}\n",
            "a/charts/sub/Chart.yaml": "name: [broken\n",
            "a/README.md": "image: quay.io/a/readme:v1\n",
        }
    )

    assert _found(chart=chart) == [
        "quay.io/a/b:v9 in charts/a.tgz:a/values.yaml",
        "quay.io/a/job:v2 in charts/a.tgz:a/templates/job.yaml",
        "quay.io/a/sub:v3 in charts/a.tgz:a/charts/sub/values.yaml",
    ]


def test_a_broken_chart_is_no_obstacle() -> None:
    assert _found(chart=b"not an archive") == []
