import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.errors import UsageError
from syncer.oci import Digest, Reference
from syncer.profiles.syncfile.tags import find_removals

A, B, C, CHILD, SIGNATURE = (Digest.of(text.encode()) for text in ("a", "b", "c", "child", "signature"))


def gone(
    listing: dict[str, dict[str, Digest]],
    *wanted: str,
    base: str = "base",
    needs: dict[Digest, list[Digest]] | None = None,
    incomplete: tuple[str, ...] = (),
) -> list[tuple[str, bool]]:
    """What goes, and whether its digest may."""
    names = [Reference.parse(name) for name in wanted]
    found = find_removals(listing, names, registry="t.io", base=base, needs=needs or {}, incomplete=incomplete)
    return [(f"{removal.name.repository}:{removal.name.tag}", removal.is_free) for removal in found]


def test_tags_that_nobody_names_go() -> None:
    listing = {"base/app": {"v1": A, "v2": B}, "base/old": {"v1": C}}
    assert gone(listing, "t.io/base/app:v2") == [("base/app:v1", True), ("base/old:v1", True)]


def test_nothing_outside_the_base_path_goes() -> None:
    listing = {"base": {"v1": A}, "base2/app": {"v1": A}, "other/base/app": {"v1": A}}
    assert gone(listing) == []


def test_at_the_root_of_a_registry_nothing_is_pruned() -> None:
    with pytest.raises(UsageError, match="nothing is pruned at the root of"):
        gone({"app": {"v1": A}}, base="/")


def test_a_digest_that_a_kept_tag_has_stays() -> None:
    """The registry that deletes by digest only would take the kept tag along."""
    assert gone({"base/app": {"v1": A, "latest": A}}, "t.io/base/app:latest") == [("base/app:v1", False)]


def test_a_digest_below_a_kept_index_stays() -> None:
    listing = {"base/app": {"index": A, "amd64": CHILD}}
    assert gone(listing, "t.io/base/app:index", needs={A: [CHILD]}) == [("base/app:amd64", False)]


def test_a_digest_below_an_index_in_a_kept_index_stays() -> None:
    listing = {"base/app": {"index": A, "amd64": CHILD}}
    assert gone(listing, "t.io/base/app:index", needs={A: [B], B: [CHILD]}) == [("base/app:amd64", False)]


def test_a_digest_that_is_wanted_without_a_tag_stays() -> None:
    assert gone({"base/app": {"v1": A}}, f"t.io/base/app@{A}") == [("base/app:v1", False)]


def test_what_another_repository_keeps_says_nothing_about_this_one() -> None:
    listing = {"base/app": {"v1": A}, "base/other": {"v1": A}}
    assert gone(listing, "t.io/base/other:v1") == [("base/app:v1", True)]


def test_another_registrys_names_keep_nothing_here() -> None:
    assert gone({"base/app": {"v1": A}}, "u.io/base/app:v1") == [("base/app:v1", True)]


def test_signatures_stay_with_what_they_are_about_and_go_with_it() -> None:
    kept, child, lost = (f"sha256-{digest.hex}.sig" for digest in (A, CHILD, B))
    listing = {"base/app": {"v1": A, "v0": B, kept: SIGNATURE, child: C, lost: B, f"sha256-{A.hex}": C}}

    assert gone(listing, "t.io/base/app:v1", needs={A: [CHILD]}) == [(f"base/app:{lost}", True), ("base/app:v0", True)]


def test_the_fallback_of_the_referrers_api_stays_with_what_it_is_about_by_any_algorithm() -> None:
    kept, lost = (Digest.of(text, "sha512") for text in (b"kept", b"lost"))
    listing = {"base/app": {"v1": kept, f"sha512-{kept.hex}"[:128]: A, f"sha512-{lost.hex}"[:128]: B}}

    assert gone(listing, "t.io/base/app:v1") == [(f"base/app:sha512-{lost.hex}"[:137], True)]


def test_what_could_not_be_listed_at_its_source_is_left_alone() -> None:
    listing = {"base/app": {"v1": A}, "base/vanished": {"v1": B}}
    assert gone(listing, incomplete=("base/vanished",)) == [("base/app:v1", True)]


TAGS = st.sampled_from(["v1", "v2", "v3", "latest"])
DIGESTS = st.sampled_from([A, B, C, CHILD])


@given(
    st.dictionaries(TAGS, DIGESTS),
    st.sets(TAGS),
    st.dictionaries(DIGESTS, st.lists(DIGESTS), max_size=3),
)
def test_no_removal_ever_takes_a_kept_tag_or_what_it_needs(
    tags: dict[str, Digest], wanted: set[str], needs: dict[Digest, list[Digest]]
) -> None:
    names = [Reference("t.io", "base/app", tag) for tag in wanted]
    found = find_removals({"base/app": tags}, names, registry="t.io", base="base", needs=needs)

    assert {removal.name.tag for removal in found} == tags.keys() - wanted
    kept = {digest for tag, digest in tags.items() if tag in wanted}
    needed = kept | {below for digest in kept for below in needs.get(digest, [])}
    assert not needed & {removal.digest for removal in found if removal.is_free}
