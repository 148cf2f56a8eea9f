from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from syncer.profiles.palette.packs import parse_values
from syncer.profiles.palette.profile import Pack, PackFile
from syncer.profiles.palette.scan import scan_chart, scan_pack


def _archive(**files: str | bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            content = text if isinstance(text, bytes) else text.encode()
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _found(values: str = "", manifest: str = "", chart: bytes | None = None) -> list[str]:
    pack = Pack(
        name="a",
        values=values,
        origin="values.yaml",
        manifests=(PackFile("manifests/a.yaml", manifest.encode()),),
        charts=(PackFile("charts/a.tgz", chart),) if chart else (),
    )
    return [f"{image.reference} in {image.where}" for image in scan_pack(pack, parse_values(pack))[0]]


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


def test_manifests_on_one_line_are_searched_too() -> None:
    manifest = """\
kind: Pod
spec: {containers: [{name: a, image: quay.io/a/b:v1}, {"image":"quay.io/a/c:v1","name":"b"}], x: {image: word}}
---
{"kind": "Pod", "spec": {"containers": [{"name": "a", "image": "quay.io/a/d:v1"}]}}
---
spec: {containers: [{image: "quay.io/a/e{{ .Values.suffix }}:v1"}, {image: '$(IMAGE)/x:v1'}, {image: {a: b/c}}]}
"""

    assert _found(manifest=manifest) == [f"quay.io/a/{name}:v1 in manifests/a.yaml" for name in "bcd"]


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


def test_a_broken_chart_is_told_and_no_obstacle() -> None:
    pack = Pack(name="a", origin="values.yaml", charts=(PackFile("charts/a.tgz", b"not an archive"),))

    images, problems = scan_pack(pack, [])

    assert images == ()
    assert problems[0].startswith("charts/a.tgz: it was not looked into: ")


def test_words_of_schemas_and_of_templates_are_no_images() -> None:
    manifest = """kind: ConfigMap
data:
  template: |
    container: {
        image: parameter.image
    }
    parameter: {
        image: string
        name: string
    }
  language: |
    image: language
  images: |
    base: registry.example.com/sig
    components:
      attacher:
        image: csi-attacher
        tag: v4.9.0
      loader:
        tag: v9.2
        image: drbd9-noble # the usual one
        match:
          - osImage: AlmaLinux 9
            image: drbd9-almalinux9
"""

    assert _found(manifest=manifest) == [
        "registry.example.com/sig/csi-attacher:v4.9.0 in manifests/a.yaml",
        "registry.example.com/sig/drbd9-almalinux9:v9.2 in manifests/a.yaml",
        "registry.example.com/sig/drbd9-noble:v9.2 in manifests/a.yaml",
    ]


def _rendered(templates: dict[str, str], values: str = "", pack: str = "", chart: str = "") -> list[str]:
    """The images of a chart of ``templates`` and ``values``, in a pack whose values are ``pack``."""
    files = {f"a/templates/{name}": text for name, text in templates.items()}
    described = f"apiVersion: v2\nname: a\nversion: 1.0.0\nappVersion: 1.2.3\n{chart}"
    archive = PackFile("charts/a-1.0.0.tgz", _archive(**{"a/Chart.yaml": described, "a/values.yaml": values, **files}))
    own = Pack(name="a", values=pack, origin="values.yaml")
    scan = scan_chart(archive, parse_values(own))
    assert scan.problem == ""
    return [str(image.reference) for image in scan.images]


@pytest.mark.parametrize(
    ("expression", "image"),
    [
        ("{{ .Values.image.repository }}:{{ .Values.image.tag }}", "quay.io/a/b:v9"),
        ('"{{ .Values.image.repository }}:{{ .Values.none | default .Chart.AppVersion }}"', "quay.io/a/b:1.2.3"),
        (
            '{{ .Values.image.repository }}:{{ .Values.none | default (printf "v%s" .Chart.AppVersion) }}',
            "quay.io/a/b:v1.2.3",
        ),
        ("quay.io/a/b:v{{ .Chart.AppVersion }}", "quay.io/a/b:v1.2.3"),
        ('{{ include "a.image" (dict "image" .Values.image "chart" .Chart) }}', "quay.io/a/b:v9"),
        ('{{ include "a.image" (dict "image" (omit .Values.image "tag") "chart" $.Chart) }}', "quay.io/a/b:1.2.3"),
        ("{{ with .Values.image }}{{ .repository }}:{{ .tag }}{{ end }}", "quay.io/a/b:v9"),
        ("{{ if and .Values.image.tag (not .Values.off) }}quay.io/a/b:yes{{ else }}no{{ end }}", "quay.io/a/b:yes"),
        ("{{ $image := .Values.image }}{{ $image.repository }}@sha256:" + "0" * 64, "quay.io/a/b@sha256:" + "0" * 64),
        ('{{ tpl "{{ .Values.image.repository }}:x" . }}', "quay.io/a/b:x"),
        ('{{ join ":" (list .Values.image.repository (.Values.image.tag | trimPrefix "v")) }}', "quay.io/a/b:9"),
        ('{{ (index .Values "image").repository }}:{{ ternary "t" "f" (eq .Values.image.tag "v9") }}', "quay.io/a/b:t"),
        ('{{ .Values.image.repository }}:{{ regexReplaceAll "v(.*)" .Values.image.tag "w$1" }}', "quay.io/a/b:w9"),
        ('{{ .Values.image.repository }}:{{ printf "%s-%d" .Values.image.tag 3 }}', "quay.io/a/b:v9-3"),
    ],
)  # fmt: skip
def test_a_template_composes_an_image_as_helm_does(expression: str, image: str) -> None:
    helpers = """{{- define "a.image" -}}
{{- $tag := .image.tag | default .chart.AppVersion -}}
{{- printf "%s:%s" .image.repository $tag -}}
{{- end -}}
"""
    pod = f"kind: Pod\nspec:\n  containers:\n    - name: a\n      image: {expression}\n"
    values = "image:\n  repository: quay.io/a/b\n  tag: v9\noff: false\n"

    found = _rendered({"_helpers.tpl": helpers, "pod.yaml": pod}, values)

    assert image in found
    assert set(found) <= {image, "quay.io/a/b:v9"}  # the values alone name one as well


def test_what_a_template_has_on_one_line_is_found() -> None:
    pod = "kind: Pod\nspec: {containers: [{image: {{ .Values.image.name | quote }}}]}\n"

    assert _rendered({"pod.yaml": pod}, "image: {name: quay.io/a/b:v1}\n") == ["quay.io/a/b:v1"]


@pytest.mark.parametrize(
    "condition", ['lookup "v1" "Secret" "a" "b"', '(lookup "v1" "Secret" "a" "b").data', 'genCA "a" 3']
)
def test_what_a_cluster_has_may_be_there_or_not(condition: str) -> None:
    one, other = (f"\nimage: {{{{ .Values.{name} }}}}:v1\n" for name in "ab")
    pod = f"{{{{ if {condition} }}}}{one}{{{{ else }}}}{other}{{{{ end }}}}\n"

    assert _rendered({"pod.yaml": pod}, "a: quay.io/a/a\nb: quay.io/a/b\n") == ["quay.io/a/a:v1", "quay.io/a/b:v1"]


def test_the_values_of_a_pack_override_those_of_its_chart() -> None:
    tag = '{{ if hasKey .Values.image "tag" }}{{ .Values.image.tag }}{{ else }}none{{ end }}'
    pod = f'image: "{{{{ .Values.image.repository }}}}:{tag}"\n'
    values = "image: {repository: quay.io/a/old, tag: v1}\nside: {image: quay.io/a/side:v1}\n"

    assert _rendered({"pod.yaml": pod}, values, "charts: {a: {image: {repository: quay.io/a/new, tag: null}}}") == [
        "quay.io/a/new:none",
        "quay.io/a/side:v1",
    ]
    assert _rendered({"pod.yaml": pod}, values, "charts: {a-1.0.0: {image: {tag: v2}}}") == [
        "quay.io/a/old:v2",
        "quay.io/a/side:v1",
    ]


def test_what_is_rendered_in_a_loop_or_in_each_branch_that_nobody_can_know() -> None:
    template = """{{- range $name, $image := .Values.all }}
- name: {{ $name }}
  image: {{ $.Values.registry }}/{{ $image }}:{{ $.Chart.Version }}
{{- end }}
{{- if .Capabilities.APIVersions.Has "security.openshift.io/v1" }}
image: quay.io/a/openshift:v1
{{- else }}
image: quay.io/a/plain:v1
{{- end }}
{{- if .Values.never }}
image: {{ .Values.registry }}/never:v1
{{- end }}
"""
    assert _rendered({"all.yaml": template}, "registry: quay.io/a\nall: {x: one, y: two}\nnever: false\n") == [
        "quay.io/a/one:1.0.0",
        "quay.io/a/openshift:v1",
        "quay.io/a/plain:v1",
        "quay.io/a/two:1.0.0",
    ]


def test_subcharts_have_the_values_of_the_chart_above_and_its_globals() -> None:
    pod = 'image: "{{ .Values.global.registry }}/{{ .Values.path }}:{{ .Chart.AppVersion }}"\n'
    chart = """dependencies:
  - {name: sub, alias: first, condition: first.enabled}
  - {name: sub, alias: second, condition: second.enabled}
"""
    files = {
        "a/Chart.yaml": f"name: a\nversion: 1.0.0\nappVersion: 1.2.3\n{chart}",
        "a/values.yaml": "global: {registry: quay.io}\nfirst: {path: a/first}\nsecond: {enabled: false, path: x}\n",
        "a/charts/sub/Chart.yaml": "name: sub\nversion: 2.0.0\nappVersion: '9'\n",
        "a/charts/sub/values.yaml": "path: a/usual\n",
        "a/charts/sub/templates/pod.yaml": pod,
        "a/charts/sub/templates/_lib.tpl": "{{/* nothing */}}",
    }

    assert [str(image.reference) for image in scan_chart(PackFile("a.tgz", _archive(**files))).images] == [
        "quay.io/a/first:9"
    ]


def test_a_subchart_may_be_an_archive_in_the_archive() -> None:
    inner = {"sub/Chart.yaml": "name: sub\nversion: 1.0.0\n", "sub/values.yaml": "image: quay.io/a/sub:v1\n"}
    files: dict[str, str | bytes] = {
        "a/Chart.yaml": "name: a\nversion: 1.0.0\n",
        "a/charts/sub-1.0.0.tgz": _archive(**inner),
    }

    assert [str(image.reference) for image in scan_chart(PackFile("a.tgz", _archive(**files))).images] == [
        "quay.io/a/sub:v1"
    ]


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{{ if .Values.x }}", "if without an end"),
        ("{{ end }}", "end without a beginning"),
        ("{{ .Values.x | }}", "a pipeline has an empty part"),
        ("{{ (.Values.x }}", "a parenthesis is not closed"),
        ("{{ ~ }}", "'~ }}' is not understood"),
        ("{{ define }}", "define without a name"),
        (
            '{{ define "x" }}{{ include "x" . }}{{ end }}{{ include "x" . }}',
            "more than 60 templates include each other",
        ),
        ("{{ range until 9999 }}{{ range until 9999 }}{{ . }}{{ end }}{{ end }}", "it takes more than"),
        ("image: quay.io/a/b:{{ randAlpha 3 }}", "1 images in it depend on what only a cluster knows"),
        ('a: {image: "quay.io/a/b:{{ randAlpha 3 }}"}', "1 images in it depend on what only a cluster knows"),
        ('image: quay.io/a/b:{{ .Files.Get "tag" }}', "1 images in it depend on what only a cluster knows"),
    ],
)
def test_what_cannot_be_rendered_is_told(template: str, problem: str) -> None:
    files = {"a/Chart.yaml": "name: a\nversion: 1.0.0\n", "a/templates/a.yaml": template}

    scan = scan_chart(PackFile("a.tgz", _archive(**files)))

    assert scan.images == ()
    assert problem in scan.problem


@pytest.mark.parametrize(
    "text",
    [
        "a:\n  - name: other\n  - image: word\n",
        "a:\n  - image: word\n  - name: next\n",
        "a:\n  b:\n    image: word\nname: above\n",
        "name: above\na:\n  image: word\n",
        "a:\n  - name: other\n    b:\n      image: word\n",
        "a:\n  - name: other\n  - x: 1\n    image: word\n",
        "base: quay.io/x\na:\n  image: word\ntag: v1\n",
    ],
)
def test_a_word_is_an_image_only_in_a_mapping_that_has_a_name(text: str) -> None:
    assert _found(manifest=text) == []
    assert _found(manifest=text.replace("image: word", "image: word:v1")) != []


@pytest.mark.parametrize(
    ("values", "template", "found"),
    [
        # a tag that was only supposed gives way to the one that the template makes
        ("image: {repository: quay.io/a/b}", "{{ .Values.image.repository }}:x-{{ .Chart.AppVersion }}", "b:x-1.2.3"),
        # a registry that only the template knows
        ("image: {repository: a/b, tag: v1}", "quay.io/{{ .Values.image.repository }}:{{ .Values.image.tag }}", "b:v1"),
        # a template that is not rendered still says how it writes the version
        (
            "image: {repository: quay.io/a/b}",
            "{{ if .Values.off }}{{ .Values.image.repository }}:v{{ .Chart.AppVersion }}{{ end }}",
            "b:v1.2.3",
        ),
        ("x: 1", 'quay.io/a/b:{{ "v9" -}}   .1', "b:v9.1"),
        ("x: 1", '{{ $t := "1" }}{{ if true }}{{ $t = "2" }}{{ end }}quay.io/a/b:v{{ $t }}', "b:v2"),
        ("x: 1", '{{ $t := "1" }}{{ if true }}{{ $t := "2" }}{{ end }}quay.io/a/b:v{{ $t }}', "b:v1"),
        (
            "x: 1",
            "quay.io/a/b:{{ range $i, $e := list 1 2 3 }}{{ if eq $i 2 }}{{ break }}{{ end }}{{ $e }}{{ end }}",
            "b:12",
        ),
    ],
)
def test_a_template_has_the_last_word(values: str, template: str, found: str) -> None:
    assert _rendered({"pod.yaml": f"image: {template}\n"}, values) == [f"quay.io/a/{found}"]


def test_both_branches_of_what_nobody_knows_are_rendered_and_partials_are_not() -> None:
    template = 'image: quay.io/a/b:{{ if .Capabilities.APIVersions.Has "x" }}{{ "v1" }}{{ else }}{{ "v2" }}{{ end }}\n'
    one, two = (f"image: quay.io/a/{name}:{{{{ .Values.tag }}}}\n" for name in ("one", "two"))
    choice = f'{{{{ if .Capabilities.APIVersions.Has "x" }}}}\n{one}{{{{ else }}}}\n{two}{{{{ end }}}}\n'

    assert _rendered({"a.yaml": choice, "_b.yaml": template}, "tag: v1") == ["quay.io/a/one:v1", "quay.io/a/two:v1"]


def test_tags_of_dependencies_switch_subcharts() -> None:
    files = {
        "a/Chart.yaml": "name: a\nversion: 1.0.0\ndependencies: [{name: sub, tags: [extra]}]\n",
        "a/charts/sub/Chart.yaml": "name: sub\nversion: 2.0.0\n",
        "a/charts/sub/templates/pod.yaml": "image: quay.io/a/sub:{{ .Chart.Version }}\n",
    }

    for tags, images in (("false", []), ("true", ["quay.io/a/sub:2.0.0"])):
        archive = _archive(**files, **{"a/values.yaml": f"tags: {{extra: {tags}}}\n"})
        assert [str(image.reference) for image in scan_chart(PackFile("a.tgz", archive)).images] == images


def test_macros_in_the_values_for_a_chart_are_resolved_and_unknown_where_they_cannot_be() -> None:
    files = {
        "a/Chart.yaml": "name: a\nversion: 1.0.0\n",
        "a/values.yaml": "tag: v1\n",
        "a/templates/pod.yaml": "image: quay.io/a/b:{{ .Values.tag }}\n",
    }
    archive = PackFile("a.tgz", _archive(**files))
    values = parse_values(Pack(name="a", values="charts: {a: {tag: '{{.spectro.var.tag}}'}}\n", origin="values.yaml"))

    known = scan_chart(archive, values, lambda text: text.replace("{{.spectro.var.tag}}", "v2"))
    unknown = scan_chart(archive, values)

    assert [str(image.reference) for image in known.images] == ["quay.io/a/b:v2"]
    assert unknown.images == ()
    assert unknown.problem == "1 images in it depend on what only a cluster knows"


@pytest.mark.skipif(shutil.which("helm") is None, reason="helm is not installed")
def test_helm_itself_prints_the_same_images(tmp_path: Path) -> None:
    pod = """\
apiVersion: v1
kind: Pod
metadata: {name: "{{ .Release.Name }}-{{ .Chart.Name }}"}
spec:
  containers:
    {{- range $name, $image := .Values.images }}
    - name: {{ $name }}
      image: {{ include "image" (dict "image" $image "root" $) | quote }}
    {{- end }}
"""
    helper = """\
{{- define "image" -}}
{{- $registry := .root.Values.global.registry | default "quay.io" -}}
{{- $tag := .image.tag | default (printf "v%s" .root.Chart.AppVersion) | toString -}}
{{- printf "%s/%s:%s" $registry (.image.name | lower | trimSuffix "-x") (ternary $tag "none" (ne $tag "")) -}}
{{- end -}}
"""
    files = {
        "a/Chart.yaml": "apiVersion: v2\nname: a\nversion: 1.0.0\nappVersion: 1.2.3\n",
        "a/values.yaml": "global: {registry: ghcr.io}\nimages: {one: {name: A/One-x}, two: {name: a/two, tag: 1.10}}\n",
        "a/templates/pod.yaml": pod,
        "a/templates/_helpers.tpl": helper,
        "a/charts/b/Chart.yaml": "apiVersion: v2\nname: b\nversion: 2.0.0\nappVersion: 2.0.0\n",
        "a/charts/b/values.yaml": "images: {sub: {name: b/sub}}\n",
        "a/charts/b/templates/pod.yaml": pod,
    }
    archive = _archive(**files)
    (tmp_path / "a.tgz").write_bytes(archive)

    ran = subprocess.run(["helm", "template", tmp_path / "a.tgz"], check=True, capture_output=True, text=True)

    named = {line.split('"')[1] for line in ran.stdout.splitlines() if line.lstrip().startswith("image:")}
    assert {str(image.reference) for image in scan_chart(PackFile("a.tgz", archive)).images} == named
    assert len(named) == 3
