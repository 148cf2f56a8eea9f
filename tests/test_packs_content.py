from __future__ import annotations

import contextlib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from syncer.errors import InvalidFile
from syncer.profiles.definition.definition import ChartRequest
from syncer.profiles.palette.macros import MacroValues
from syncer.profiles.palette.packs import PackContent, parse_values, read_content
from syncer.profiles.palette.profile import Pack
from syncer.profiles.palette.scan import scan_pack

_DIGEST = "sha256:" + "5" * 64


def _read(values: str, **overrides: str) -> PackContent:
    pack = Pack(name="byoi", version="1.0", values=values, origin="values.yaml")
    documents = parse_values(pack)
    return read_content(pack, documents, MacroValues(packs={"byoi": documents}, overrides=overrides))


def _images(values: str, **overrides: str) -> list[str]:
    return [str(image.reference) for image in _read(values, **overrides).images]


def _content(lines: str) -> str:
    return "pack:\n  content:\n    images:\n" + "".join(f"      {line}\n" for line in lines.splitlines())


@pytest.mark.parametrize(
    ("entry", "image"),
    [
        ("- image: quay.io/a/b:v1", "quay.io/a/b:v1"),
        ('- image: "quay.io/a/b:v1"   ', "quay.io/a/b:v1"),
        (f"- image: quay.io/a/b@{_DIGEST}", f"quay.io/a/b@{_DIGEST}"),
        (f"- image: quay.io/a/b:v1@{_DIGEST}", f"quay.io/a/b:v1@{_DIGEST}"),
        ("- image: docker.io/curlimages/curl", "docker.io/curlimages/curl:latest"),
        ("- image: container://us-docker.pkg.dev/a/b:v4", "us-docker.pkg.dev/a/b:v4"),
        ("- image: “ghcr.io/a/b:v1”", "ghcr.io/a/b:v1"),
        ("- image: a/b:1.10", "docker.io/a/b:1.10"),
    ],
)
def test_an_image_is_read_in_each_form_that_is_in_use(entry: str, image: str) -> None:
    content = _read(_content(entry))

    assert [str(found.reference) for found in content.images] == [image]
    assert content.warnings == ()


@pytest.mark.parametrize(
    ("entry", "warning"),
    [
        ("- iamge: quay.io/a/b:v1", 'pack.content.images[0]: "iamge" is taken for "image"'),
        ("- quay.io/a/b:v1", 'pack.content.images[0]: bare string instead of "image: …"'),
        ("- image: [quay.io/a/b:v1]", 'pack.content.images[0]: list under "image"'),
        ("- - quay.io/a/b:v1", "pack.content.images[0]: list in the list of images"),
        ("- image: quay.io/a/b:v1\n  arch: amd64", "unknown key pack.content.images[0].arch"),
        ("- image: quay.io/a/b:v1\n- name: c", 'images[1]: it has no "image", so nothing is downloaded for it'),
        ("- image: quay.io/a/b:v1\n-", "images[1]: it is empty"),
    ],
)
def test_what_is_not_as_documented_is_read_with_a_warning(entry: str, warning: str) -> None:
    content = _read(_content(entry))

    assert [str(found.reference) for found in content.images] == ["quay.io/a/b:v1"]
    assert any(warning in each for each in content.warnings)


def test_an_image_listed_twice_is_wanted_once_in_its_first_place() -> None:
    assert _images(_content("- image: a:1\n- image: b:1\n- image: docker.io/library/a:1")) == [
        "docker.io/library/a:1",
        "docker.io/library/b:1",
    ]


@pytest.mark.parametrize("values", ["", "# nothing\n", "pack:\n", "pack:\n  content:\n", "charts: {}\n", "a\n"])
def test_a_pack_may_list_nothing(values: str) -> None:
    assert _read(values).images == ()


def test_content_beside_pack_is_read_with_a_warning() -> None:
    content = _read("pack:\ncontent:\n  images:\n    - image: a:1\n")

    assert [str(image.reference) for image in content.images] == ["docker.io/library/a:1"]
    assert "beside" in content.warnings[0]


def test_values_of_several_documents_are_read_whole() -> None:
    values = _content('- image: "{{.spectro.pack.byoi.options.uri}}"') + "options: {uri: 'b:1'}\n---\nx: {}\n"

    assert _images(values) == ["docker.io/library/b:1"]


def test_charts_are_read_in_each_form_that_is_in_use() -> None:
    content = _read(
        "pack:\n  content:\n    charts:\n"
        "      - {repo: https://charts.example.com/, name: a, version: 1.10}\n"
        "      - {repository: https://charts.example.com, name: b, version: v1.2.0}\n"
        "      - {repo: helm.example.com/v2, name: c, version: '3'}\n"
        "      - {repo: https://example.com/d-1.0.tar.gz}\n"
        "      - {repo: 'oci://ghcr.io/e', name: e, version: 1.0.0, digest: x}\n"
    )

    assert content.charts == (
        ChartRequest("https://charts.example.com/", "a", "1.10"),
        ChartRequest("https://charts.example.com", "b", "v1.2.0"),
        ChartRequest("helm.example.com/v2", "c", "3"),
        ChartRequest("https://example.com/d-1.0.tar.gz", "", None),
        ChartRequest("oci://ghcr.io/e", "e", "1.0.0"),
    )
    assert content.warnings == (
        'pack.content.charts[1]: chart uses "repository" not "repo"',
        "pack.content.charts[3]: chart has no version, so the newest is taken",
        "unknown key pack.content.charts[4].digest",
    )


def test_a_chart_is_called_by_its_own_name_and_not_by_a_users_alias_of_its_repository() -> None:
    content = _read(
        "pack: {content: {charts: ["
        "{repo: https://charts.rook.io/release, name: rook-release/rook-ceph, version: v1.16.3},"
        "{repo: oci://ghcr.io/org, name: charts/app, version: 1.0.0}]}}"
    )

    assert [chart.name for chart in content.charts] == ["rook-ceph", "charts/app"]


def test_charts_in_pack_itself_are_read_with_a_warning() -> None:
    content = _read("pack:\n  charts:\n    - {repo: https://c.example.com, name: a, version: 1.0.0}\n")

    assert content.charts == (ChartRequest("https://c.example.com", "a", "1.0.0"),)
    assert "instead of in its" in content.warnings[0]


def test_macros_without_quotes_do_not_keep_the_values_from_being_read() -> None:
    values = (
        "# {{ .Values.in a comment }}\n"
        + _content("- image: {{.spectro.pack.byoi.options.system.uri}}")
        + 'options:\n  system.uri: ttl.sh/a:{{ .spectro.var.tag | default "1.9" }}\n  {{.spectro.var.key}}: x\n'
    )

    assert _images(values) == ["ttl.sh/a:1.9"]
    assert _images(values, tag="2") == ["ttl.sh/a:2"]


def test_an_image_that_is_not_applicable_is_left_out() -> None:
    values = _content('- image: "{{.spectro.pack.byoi.options.system.uri}}"') + 'options: {system.uri: "NA"}\n'

    assert _images(values) == []
    assert "names no image" in _read(values).warnings[0]


def test_a_macro_without_a_value_names_pack_path_line_and_macro() -> None:
    values = _content('- image: a:1\n- image: "ttl.sh/a:{{.spectro.var.tag}}"')

    with pytest.raises(InvalidFile) as caught:
        _read(values)

    assert str(caught.value) == (
        "values.yaml:5: pack byoi: pack.content.images[1].image: "
        "the macro {{.spectro.var.tag}} cannot be resolved: nothing defines it"
    )
    assert "--set-var" in str(caught.value.hint)


def test_macros_outside_the_content_are_nobodys_business() -> None:
    assert _images(_content("- image: a:1") + "charts: {a: '{{ .Values.nothing | weird }}'}\n") == [
        "docker.io/library/a:1"
    ]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (_content("- image: Not/An/Image"), "pack.content.images[0].image: 'Not/An/Image' is not an image reference"),
        (_content("- image: {a: b}"), "pack.content.images[0].image: it must be the name of an image"),
        ("pack:\n  content:\n    charts: [{repo: [a]}]", "pack.content.charts[0].repo: it must be a text"),
        ("pack:\n  content: [\n", "values.yaml:3: column 1"),
        (_content("- image: {{.spectro.var.x}}\n- image: [broken"), "values.yaml:4: column"),
    ],
)
def test_what_cannot_be_downloaded_is_an_error(values: str, problem: str) -> None:
    with pytest.raises(InvalidFile) as caught:
        _read(values)

    assert problem in str(caught.value)


def test_all_wrong_entries_of_a_pack_are_named_at_once() -> None:
    with pytest.raises(InvalidFile) as raised:
        _read(_content("- image: A\n- image: b\n- image: C"))

    assert [str(each).partition(" is not ")[0] for each in (raised.value, *raised.value.more)] == [
        "values.yaml:4: pack byoi: pack.content.images[0].image: 'A'",
        "values.yaml:6: pack byoi: pack.content.images[2].image: 'C'",
    ]


_WORDS = st.sampled_from(
    ["image", "images", "iamge", "charts", "repo", "name", "version", "content", "pack", "a:1", "A", "{{.x}}", "tag"]
)
_TREES = st.recursive(
    st.none() | _WORDS | st.integers() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=4),
    max_leaves=12,
)


@given(_TREES)
def test_values_of_any_shape_are_read_or_are_an_invalid_file(tree: object) -> None:
    for values in ({"pack": {"content": tree}}, {"pack": None, "content": tree}, {"pack": tree}, tree):
        pack = Pack(name="a", values=yaml.safe_dump(values), origin="values.yaml")
        documents = parse_values(pack)
        scan_pack(pack, documents)
        with contextlib.suppress(InvalidFile):
            for image in read_content(pack, documents, MacroValues()).images:
                assert "{{" not in str(image.reference)
