import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.errors import UsageError
from syncer.profiles.syncfile.tags import TagPattern, TagRules, select_tags, unmatched_patterns

TAGS = ["latest", "v1.2.0", "v1.10.0", "v1.9.3", "v2.0.0-rc.1", "2.0.0", "nightly", f"sha256-{'a' * 64}.sig"]


def test_named_tags_come_first_as_written_and_need_no_listing() -> None:
    rules = TagRules(names=("v1.9.3", "gone"))

    assert not rules.needs_listing
    assert select_tags([], rules) == ["v1.9.3", "gone"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (TagPattern.glob("v1.*"), ["v1.10.0", "v1.9.3", "v1.2.0"]),
        (TagPattern.glob("V1.*"), []),
        (TagPattern.glob("?atest"), ["latest"]),
        (TagPattern.regex(r"v\d+\.\d+\.\d+"), ["v1.10.0", "v1.9.3", "v1.2.0"]),
        (TagPattern.regex("1"), []),  # the whole tag must fit
        (TagPattern.semver("^1.2"), ["v1.10.0", "v1.9.3", "v1.2.0"]),
        (TagPattern.semver(">=2.0.0-0"), ["2.0.0", "v2.0.0-rc.1"]),
        (TagPattern.semver("*"), ["2.0.0", "v1.10.0", "v1.9.3", "v1.2.0"]),
    ],
)
def test_patterns_find_tags_newest_first(pattern: TagPattern, expected: list[str]) -> None:
    assert select_tags(TAGS, TagRules(patterns=(pattern,))) == expected


def test_several_patterns_add_up_and_exclusions_take_away() -> None:
    rules = TagRules(
        names=("latest", "nightly"),
        patterns=(TagPattern.glob("v1.*"), TagPattern.semver("2.x")),
        excluded=(TagPattern.regex(r".*\.10\..*"), TagPattern.name("nightly")),
    )
    assert select_tags(TAGS, rules) == ["latest", "2.0.0", "v1.9.3", "v1.2.0"]


def test_newest_counts_versions_as_versions_and_spares_named_tags() -> None:
    rules = TagRules(names=("latest",), patterns=(TagPattern.semver("1.x"),), newest=2)
    assert select_tags(TAGS, rules) == ["latest", "v1.10.0", "v1.9.3"]


def test_newest_goes_by_the_numbers_in_names_that_are_no_versions() -> None:
    rules = TagRules(patterns=(TagPattern.glob("build-*"),), newest=2)
    assert select_tags(["build-9", "build-10", "build-2"], rules) == ["build-10", "build-9"]


def test_versions_are_newer_than_other_names() -> None:
    assert select_tags(["zebra", "latest", "0.1.0"], TagRules(every=True, newest=1)) == ["0.1.0"]


def test_signatures_are_no_tags_of_their_own() -> None:
    """They travel with their image; a listing holds one or more for each."""
    found = select_tags(TAGS, TagRules(every=True))
    assert len(found) == len(TAGS) - 1
    assert not any(tag.startswith("sha256-") for tag in found)


def test_a_pattern_that_fits_nothing_is_named() -> None:
    lost = TagPattern.glob("v7.*")
    rules = TagRules(patterns=(TagPattern.glob("v1.*"), lost), excluded=(TagPattern.glob("v8.*"),))

    assert unmatched_patterns(TAGS, rules) == [lost]
    assert str(lost) == "glob 'v7.*'"


@pytest.mark.parametrize("text", ["(", "[", "*", "(?P<n", "a{2,1}", "[[:alpha:]]+", r"\p{L}", "x" * 1001])
def test_a_regular_expression_that_does_not_compile_is_a_usage_error(text: str) -> None:
    """POSIX classes too: Python reads them as something else."""
    with pytest.raises(UsageError, match="regular expression"):
        TagPattern.regex(text)


@pytest.mark.parametrize("text", ["", "v1.*", "a/b", "-x", "x" * 129])
def test_an_exact_name_must_be_a_tag(text: str) -> None:
    with pytest.raises(UsageError, match="is not a tag"):
        TagPattern.name(text)


def test_a_range_that_is_none_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="is not a range"):
        TagPattern.semver(">>1")


def test_what_a_registry_may_not_call_a_tag_is_never_chosen() -> None:
    assert select_tags(["../../etc", "a b", "x" * 200, "ok"], TagRules(every=True)) == ["ok"]


@given(st.lists(st.text(max_size=12)), st.integers(1, 5))
def test_any_listing_gives_distinct_tags_of_that_listing(tags: list[str], newest: int) -> None:
    found = select_tags(tags, TagRules(every=True, newest=newest))
    assert len(set(found)) == len(found) <= newest
    assert set(found) <= set(tags)
