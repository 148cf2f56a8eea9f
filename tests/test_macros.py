from __future__ import annotations

import contextlib
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.errors import UsageError
from syncer.formats.yaml import parse_documents
from syncer.profiles.palette.macros import MacroValues, parse_overrides

_VALUES = """
options:
  system.uri: "{{ .spectro.pack.edge-native-byoi.options.system.registry }}/os:{{.spectro.system.kubernetes.version}}"
  system.registry: ttl.sh
  system:
    uri.other: nested
  empty:
  list: [a, b]
  loop: "{{.spectro.pack.edge-native-byoi.options.pool}}"
  pool: "{{.spectro.pack.edge-native-byoi.options.loop}}"
"""


def _scope(
    variables: Mapping[str, str | None] | None = None, overrides: Mapping[str, str] | None = None, values: str = _VALUES
) -> MacroValues:
    return MacroValues(
        packs={"edge-native-byoi": parse_documents(values, "values.yaml"), "edge": [{"native": "short"}]},
        variables=variables or {},
        macros={"host": "registry.example.com"},
        system={"kubernetes.version": "1.29.5"},
        overrides=overrides or {},
    )


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        ("nothing to do", "nothing to do"),
        ("{{.spectro.pack.edge-native-byoi.options.system.registry}}/a", "ttl.sh/a"),
        ("{{ .spectro.pack.edge-native-byoi.options.system.uri }}", "ttl.sh/os:1.29.5"),
        ("{{.spectro.pack.edge-native-byoi.options.system.uri.other}}", "nested"),
        ("{{.spectro.pack.edge-native-byoi.options.list.1}}", "b"),
        ("{{.spectro.pack.edge-native-byoi.options.empty}}", ""),
        ("{{.spectro.pack.edge.native}}", "short"),
        ("{{.spectro.macro.host}}/{{- .spectro.macro.host -}}", "registry.example.com/registry.example.com"),
    ],
)
def test_macros_lead_to_values_through_dashes_dots_and_chains(text: str, resolved: str) -> None:
    assert _scope().resolve(text) == resolved


@pytest.mark.parametrize(
    ("pipe", "result"),
    [
        ("| upper", "V1.29.5-RC"),
        ("| lower", "v1.29.5-rc"),
        ("| substr 0 4", "v1.2"),
        ("| substr 1 -1", "1.29.5-rc"),
        ("| trunc 5", "v1.29"),
        ("| trunc -2", "rc"),
        ('| replace "." "-"', "v1-29-5-rc"),
        ("| trimPrefix `v` | trimSuffix '-rc'", "1.29.5"),
        ("| quote", '"v1.29.5-rc"'),
        ("| trim | default `x`", "v1.29.5-rc"),
    ],
)
def test_pipes_do_what_they_do_in_sprig(pipe: str, result: str) -> None:
    assert _scope({"version": "v1.29.5-rc"}).resolve(f"{{{{.spectro.var.version {pipe}}}}}") == result


def test_a_default_stands_in_for_what_is_undefined_or_empty() -> None:
    scope = _scope({"blank": ""})

    assert scope.resolve('{{ .spectro.var.nobody | default "1.19.0" }}') == "1.19.0"
    assert scope.resolve('{{ .spectro.var.blank | upper | default "1.19.0" }}') == "1.19.0"
    assert scope.resolve("{{ .spectro.pack.edge.native.x.y | default .spectro.macro.host }}") == "registry.example.com"
    assert scope.resolve('{{ default "1.19.0" .spectro.var.nobody }}') == "1.19.0"


def test_what_is_given_on_the_command_line_wins() -> None:
    scope = _scope(
        {"tag": "from-profile"},
        {"tag": "mine", "kubernetes.version": "2.0", "spectro.pack.edge-native-byoi.options.system.registry": "r"},
    )

    assert scope.resolve("{{.spectro.var.tag}}") == "mine"
    assert scope.resolve("{{.spectro.pack.edge-native-byoi.options.system.uri}}") == "r/os:2.0"


def test_values_on_the_command_line_may_be_named_as_the_macro_is_written() -> None:
    assert parse_overrides(["tag=v1=2", "{{ .spectro.var.b }}=", ".spectro.system.kubernetes.version=1.29"]) == {
        "tag": "v1=2",
        "spectro.var.b": "",
        "spectro.system.kubernetes.version": "1.29",
    }
    for wrong in ("tag", "=v1", "{{}}=1"):
        with pytest.raises(UsageError, match="is not NAME=VALUE"):
            parse_overrides([wrong])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a{{.spectro.var.nobody}}", "{{.spectro.var.nobody}} cannot be resolved: nothing defines it"),
        ("{{.spectro.var.nobody | upper}}", "nothing defines it"),
        ("{{.spectro.var.secret}}", "a secret"),
        ("{{.spectro.system.cluster.uid}}", "nothing defines it"),
        ("{{.spectro.pack.unknown.a}}", "no such pack"),
        ("{{.spectro.pack.edge-native-byoi.options.list}}", "a list or a mapping"),
        ("{{.spectro.pack.edge-native-byoi.options.loop}}", "leads back to itself"),
        ("{{.spectro.macro.host | sha256sum}}", "the function 'sha256sum' is not one of default, lower,"),
        ("{{.spectro.macro.host | trunc x}}", "'x' is not a value"),
        ("{{.spectro.macro.host | trunc 1.5}}", "whole numbers"),
        ("{{.spectro.macro.host | trunc}}", "takes 2 values, not 1"),
        ("{{.spectro.macro.host | }}", "value followed by pipes"),
        ("{{.spectro.macro.host (1) }}", "is not understood"),
        ("{{.spectro.app.x}}", "none of spectro.pack"),
        ("{{ .Values.image }}", "none of spectro.pack"),
        ("{{}}", "value followed by pipes"),
        ("a{{b", "without a macro that ends"),
    ],
)
def test_a_macro_without_a_value_is_an_error_that_names_it(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        _scope({"secret": None}).resolve(text)

    assert reason in str(caught.value)


def test_chains_that_double_at_each_step_are_refused() -> None:
    steps = [f'a{n}: "{{{{.spectro.pack.p.a{n + 1}}}}}{{{{.spectro.pack.p.a{n + 1}}}}}"' for n in range(40)]
    scope = MacroValues(packs={"p": parse_documents("\n".join([*steps, "a40: xx"]), "values.yaml")})

    with pytest.raises(UsageError, match="longer than"):
        scope.resolve("{{.spectro.pack.p.a0}}")


def test_chains_without_end_are_refused() -> None:
    steps = [f'a{n}: "{{{{.spectro.pack.p.a{n + 1}}}}}"' for n in range(2000)]
    scope = MacroValues(packs={"p": parse_documents("\n".join(steps), "values.yaml")})

    with pytest.raises(UsageError, match="more than 50 others"):
        scope.resolve("{{.spectro.pack.p.a0}}")


@given(st.text(alphabet='{}.|" `spectrovarhost-1', max_size=60))
def test_what_was_resolved_never_has_a_macro_left(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert "{{" not in _scope().resolve(text)
