import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.errors import UsageError
from syncer.naming import NameMapping
from syncer.oci import Reference

DIGEST = "sha256:" + "a" * 64


def lands(reference: str, *maps: str, registry: str = "target:5000", base: str = "") -> str:
    return str(NameMapping.parse(maps).target(Reference.parse(reference), registry=registry, base=base))


@pytest.mark.parametrize(
    ("reference", "base", "expected"),
    [
        (
            "quay.io/kairos/core:v1",
            "spectro-images",
            "target:5000/spectro-images/quay.io/kairos/core:v1",
        ),
        ("busybox", "", "target:5000/docker.io/library/busybox:latest"),
        ("registry.local:5000/app:1", "/a/b/", "target:5000/a/b/registry.local_5000/app:1"),
        (f"ghcr.io/x/y@{DIGEST}", "", f"target:5000/ghcr.io/x/y@{DIGEST}"),
        (f"ghcr.io/x/y:v1@{DIGEST}", "m", f"target:5000/m/ghcr.io/x/y:v1@{DIGEST}"),
    ],
)
def test_without_a_rule_the_full_source_name_is_kept(reference: str, base: str, expected: str) -> None:
    assert lands(reference, base=base) == expected


@pytest.mark.parametrize(
    ("reference", "maps", "expected"),
    [
        ("quay.io/kairos/core:v1", ["quay.io/kairos=mirror"], "target:5000/mirror/core:v1"),
        ("quay.io/kairos/core:v1", ["quay.io=mirror", "quay.io/kairos=k"], "target:5000/k/core:v1"),
        ("quay.io/kairos/core:v1", ["quay.io/kairos/core=one"], "target:5000/one:v1"),
        ("quay.io/kairos-x/core:v1", ["quay.io/kairos=mirror"], "target:5000/quay.io/kairos-x/core:v1"),
        ("quay.io/kairos/core:v1", ["quay.io="], "target:5000/kairos/core:v1"),
        ("busybox", ["docker.io/library=official"], "target:5000/official/busybox:latest"),
        ("busybox", ["index.docker.io/library/=/official/"], "target:5000/official/busybox:latest"),
        ("r.local:5000/a/b:1", ["r.local:5000=local"], "target:5000/local/a/b:1"),
        ("r.local:5000/a/b:1", ["r.local=local"], "target:5000/r.local_5000/a/b:1"),
        ("QUAY.io/kairos/core:v1", ["quay.IO/kairos=mirror"], "target:5000/mirror/core:v1"),
    ],
)
def test_the_longest_prefix_on_a_path_boundary_is_replaced(reference: str, maps: list[str], expected: str) -> None:
    assert lands(reference, *maps) == expected


def test_a_replacement_that_names_the_target_registry_is_a_full_name() -> None:
    """Palette's registryMappingRules map to `example.registry.com/palette-images`."""
    rule = "us-docker.pkg.dev/palette-images=example.registry.com/palette-images"
    source = "us-docker.pkg.dev/palette-images/k8s/pause:3"

    assert lands(source, rule, registry="example.registry.com") == "example.registry.com/palette-images/k8s/pause:3"
    assert (
        lands(source, rule, registry="10.10.100.45:30003")
        == "10.10.100.45:30003/example.registry.com/palette-images/k8s/pause:3"
    )


def test_the_host_of_a_full_name_may_be_in_capitals() -> None:
    assert lands("quay.io/a:1", "quay.io=Harbor.Example.com/b", registry="harbor.example.com", base="b") == (
        "harbor.example.com/b/a:1"
    )
    assert lands("quay.io/a:1", "quay.io=[::1]:5000/b", registry="[::1]:5000") == "[::1]:5000/b/a:1"


def test_a_full_name_outside_the_base_path_is_refused() -> None:
    with pytest.raises(UsageError, match="not under target:5000/base"):
        lands("quay.io/a/b:1", "quay.io=target:5000/elsewhere", base="base")


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("quay.io", "is not a mapping"),
        ("busybox=x", "must start with a registry"),
        ("=x", "must start with a registry"),
        ("quay.io/a:v1=x", "names a tag or a digest"),
        ("quay.io=team/app:v1", "names a tag or a digest"),
        ("quay.io=http://t.io:5000/app", "has an address in it, and names have no scheme"),
        ("https://quay.io=app", "has an address in it, and names have no scheme"),
        ("quay.io=team:v1", "names a tag or a digest"),
        ("quay.io=t.io:5000/app:v1", "names a tag or a digest"),
        ("quay.io=a//b", "makes names that no registry can have: its repository has an empty part"),
        ("quay.io=t.io:500000/app", "makes names that no registry can have: the port '500000'"),
        ("quay.io=T.io/App", "makes names that no registry can have: its repository must be lower case"),
        ("quay.io=[::g]/app", "makes names that no registry can have"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(rule: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        NameMapping.parse([rule])


def test_one_prefix_cannot_lead_to_two_places() -> None:
    with pytest.raises(UsageError, match=r"quay\.io is mapped twice"):
        NameMapping.parse(["quay.io=a", "quay.io/=b"])


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("quay.io=Upper", "lower case"),
        ("quay.io=other:5000/x", "holds no colon"),
        ("quay.io/a/b=", "names no repository"),
        ("quay.io=" + "x" * 256, "longer than"),
    ],
)
def test_a_name_that_no_registry_could_hold_is_refused(rule: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        lands("quay.io/a/b:1", rule)


def test_two_repositories_may_not_land_on_one_name() -> None:
    mapping = NameMapping.from_document({"docker.io": "", "quay.io": ""})
    images = [Reference.parse(text) for text in ("docker.io/a/x:v1", "quay.io/a/x:v2", "quay.io/a/x:v1")]

    assert len(mapping.targets(images[:2], registry="t.io")) == 2
    with pytest.raises(UsageError, match=r"docker\.io/a/x and quay\.io/a/x are both mapped to t\.io/a/x:v1"):
        mapping.targets(images, registry="t.io")


@given(st.lists(st.from_regex(r"[a-z0-9]{1,5}", fullmatch=True), min_size=1, max_size=5))
def test_what_follows_the_prefix_is_kept_as_it_is(parts: list[str]) -> None:
    path = "/".join(parts)
    assert lands(f"quay.io/{path}:v1", "quay.io=m") == f"target:5000/m/{path}:v1"
