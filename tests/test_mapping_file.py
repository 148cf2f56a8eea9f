from pathlib import Path

import pytest

from syncer.errors import InvalidFile, UsageError
from syncer.naming import read_mapping
from syncer.oci import Reference

USER_DATA = """\
#cloud-config
stylus:
  externalRegistries:
    registries:
      - domain: example.registry.com/palette-images
    registryMappingRules:
      "us-docker.pkg.dev/palette-images": "example.registry.com/palette-images"
"""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    return tmp_path / "rules.yaml"


def test_rules_and_files_add_up(rules: Path) -> None:
    rules.write_text("registryMappingRules:\n  quay.io/kairos: kairos\n")
    mapping = read_mapping([str(rules), "ghcr.io=gh"])

    assert str(mapping.target(Reference.parse("quay.io/kairos/core:1"), registry="t.io")) == "t.io/kairos/core:1"
    assert str(mapping.target(Reference.parse("ghcr.io/a/b:1"), registry="t.io")) == "t.io/gh/a/b:1"


def test_an_edge_hosts_user_data_is_read_as_it_is(rules: Path) -> None:
    rules.write_text(USER_DATA)
    image = Reference.parse("us-docker.pkg.dev/palette-images/k8s/pause:3")
    target = read_mapping([str(rules)]).target(image, registry="example.registry.com")

    assert str(target) == "example.registry.com/palette-images/k8s/pause:3"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: b\n", "it has no registryMappingRules"),
        ("registryMappingRules: [a]\n", "it has no registryMappingRules"),
        ("registryMappingRules:\n  quay.io: x\n  ghcr: y\n", "rules.yaml:3: registryMappingRules: the mapping ghcr=y"),
        ("registryMappingRules:\n  quay.io: [x]\n", "rules.yaml:2: registryMappingRules.quay.io: it must be a text"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_line(rules: Path, text: str, problem: str) -> None:
    rules.write_text(text)
    with pytest.raises(InvalidFile) as raised:
        read_mapping([str(rules)])
    assert problem in str(raised.value)


def test_what_is_neither_a_rule_nor_a_file_is_refused() -> None:
    with pytest.raises(UsageError, match="is not a mapping of names"):
        read_mapping(["absent.yaml"])
