"""Targets files: many sites from few lines, all mistakes at once, and the choice of some of the sites."""

from __future__ import annotations

import pickle
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.api.sources import sync_settings
from syncer.errors import InvalidFile, UsageError
from syncer.fleet import read_targets
from syncer.formats.models import Model, names_of_fields
from syncer.formats.units import Braces, Shard
from syncer.formats.windows import closes_after, opens_after
from syncer.oci import Reference
from syncer.profiles.syncfile import sites as sites_file
from syncer.profiles.syncfile.site import LimitGroup, Site, select_sites
from syncer.profiles.syncfile.sites import SitesDocument, SitesFile, SiteTarget, read_sites
from syncer.registry import RegistrySettings

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "sites.md").read_text()

Read: TypeAlias = Callable[..., SitesFile]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads a targets file of that text, with a table and variables."""

    def read(text: str, table: str = "", **environment: str) -> SitesFile:
        path = tmp_path / "sites.yaml"
        path.write_text(textwrap.dedent(text))
        (tmp_path / "sites.csv").write_text(textwrap.dedent(table))
        return read_sites(path, environment)

    return read


@pytest.fixture
def mistakes(read: Read, tmp_path: Path) -> Callable[..., list[str]]:
    def mistakes(text: str, table: str = "", **environment: str) -> list[str]:
        with pytest.raises(InvalidFile) as raised:
            read(text, table, **environment)
        return [str(each).replace(f"{tmp_path}/", "") for each in raised.value.all]

    return mistakes


def test_a_site_has_all_that_its_target_says(read: Read) -> None:
    file = read("""\
        targets:
          - registry: http://Harbor.example.com:5000/mirror/
            name: paris
            labels: {region: eu, ring: 1}
            enabled: false
            bytes_per_second: 200Mbit
            windows: ["22:00-05:00 Europe/Paris", 12:00-13:00 UTC]
            map: {quay.io/kairos: kairos}
          - registry: ${HOST}/base
        map: {quay.io: q}
        registries:
          ${HOST}: {insecure: true, credentials: {username: robot, password: "${WORD}"}}
    """, HOST="edge.example.com", WORD="unusual-word")  # fmt: skip
    paris, edge = file.sites

    assert (paris.name, paris.key, paris.registry) == (
        "paris", "harbor.example.com:5000/mirror", "http://Harbor.example.com:5000/mirror/",
    )  # fmt: skip
    assert (paris.labels, paris.enabled, paris.bytes_per_second) == ({"region": "eu", "ring": "1"}, False, 25_000_000)
    assert [str(window) for window in paris.windows] == ["22:00-05:00 Europe/Paris", "12:00-13:00 UTC"]
    target = paris.mapping.target(Reference.parse("quay.io/kairos/core:v1"), registry="h", base="b")
    assert str(target) == "h/b/kairos/core:v1"
    assert str(paris.mapping.target(Reference.parse("quay.io/a:v1"), registry="h", base="b")) == "h/b/q/a:v1"
    assert (edge.name, edge.enabled, edge.windows, edge.place.rpartition("/")[2]) == (
        "edge.example.com/base", True, (), "sites.yaml:9",
    )  # fmt: skip
    settings = sync_settings(file, RegistrySettings(), {})
    assert settings.transport.hosts["edge.example.com"].insecure
    assert settings.credentials.logins["edge.example.com"].password == "unusual-word"


def test_a_site_opens_and_closes_with_its_windows(read: Read) -> None:
    always, night = read("""\
        targets:
          - registry: a.example.com
          - {registry: b.example.com, windows: "22:00-05:00 UTC"}
    """).sites
    noon = datetime(2024, 1, 15, 12, tzinfo=UTC)

    assert (opens_after(always.windows, noon), closes_after(always.windows, noon)) == (noon, None)
    assert opens_after(night.windows, noon) == noon + timedelta(hours=10)
    assert closes_after(night.windows, noon) == noon + timedelta(hours=17)


def test_a_range_stands_for_many_sites(read: Read) -> None:
    file = read("""\
        targets:
          - {registry: "10.{1..2}.{7..9}.4:8000/base", labels: {ring: 2}}
          - {registry: "edge-{08..10}.example.com", name: "edge {08..10}"}
    """)

    assert [site.key for site in file.sites] == [
        *(f"10.{a}.{b}.4:8000/base" for a in (1, 2) for b in (7, 8, 9)),
        *(f"edge-{n}.example.com" for n in ("08", "09", "10")),
    ]
    assert [site.name for site in file.sites[-3:]] == ["edge 08", "edge 09", "edge 10"]
    assert {site.labels.get("ring") for site in file.sites[:6]} == {"2"}


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=3))
def test_ranges_count_what_they_stand_for(ranges: list[tuple[int, int]]) -> None:
    braces = Braces.parse("x".join(f"{{{first}..{last}}}" for first, last in ranges))
    texts = list(braces)

    assert braces.count == len(texts) == len(set(texts))
    assert texts[0] == "x".join(str(first) for first, _ in ranges)
    assert texts[-1] == "x".join(str(last) for _, last in ranges)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("{1..3}", "1 2 3"), ("{3..1}", "3 2 1"), ("{01..3}", "01 02 03"), ("{8..010}", "008 009 010"), ("{0..1}", "0 1")],
)
def test_a_range_keeps_its_width(text: str, expected: str) -> None:
    assert " ".join(Braces.parse(text)) == expected


def test_a_table_has_further_sites(read: Read) -> None:
    file = read(
        """\
        targets: [{registry: a.example.com}]
        targets_csv: sites.csv
        """,
        """\
        registry, name, label.region, windows, enabled, limit_group, at_once

        b.example.com/base,"B, ""the"" big one",eu,22:00-05:00 UTC; 12:00-13:00 UTC,,gateway,2
        10.0.0.{1..2}:8000,,us,,no,gateway,
        """,
    )
    _, b, *tens = file.sites

    assert b.name == 'B, "the" big one'
    assert (b.labels, len(b.windows), b.enabled) == ({"region": "eu"}, 2, True)
    assert b.place.endswith("/sites.csv:3")
    assert [(ten.key, ten.enabled) for ten in tens] == [("10.0.0.1:8000", False), ("10.0.0.2:8000", False)]
    assert file.groups == (LimitGroup("gateway", at_once=2),)
    assert tens[0].group is not None


def test_a_group_shares_its_limits(read: Read) -> None:
    """Its limits are said once; the sites have none of their own then."""
    a, b, c = read("""\
        targets:
          - {registry: a.example.com, limit_group: gateway-7}
          - {registry: b.example.com, limit_group: gateway-7, at_once: 3, bytes_per_second: 10M}
          - {registry: c.example.com, bytes_per_second: 5M}
    """).sites

    assert a.group == b.group == LimitGroup("gateway-7", at_once=3, bytes_per_second=10_000_000)
    assert (a.bytes_per_second, b.bytes_per_second) == (None, None)
    assert (c.group, c.bytes_per_second) == (None, 5_000_000)


def test_all_mistakes_are_told_at_once(mistakes: Callable[..., list[str]]) -> None:
    told = mistakes(
        """\
        targets:
          - registry: 10.0.0.{1..3}:8000
          - registry: http://10.0.0.2:8000/
          - registry: a.example.com/base:v1
          - {registry: b.example.com, lables: {region: eu}}
          - {registry: c.example.com, windows: ["22:00-05:00 Europe/Berln", "1:00-1:00 UTC"]}
          - {registry: "d-{1..}.example.com"}
          - {registry: "e-{1..2}.example.com", name: e}
          - {registry: f.example.com, at_once: 3}
          - {registry: g.example.com, name: "10.0.0.3:8000"}
          - {registry: "h-{1..2}.example.com:{65535..65536}"}
          - {registry: i.example.com, limit_group: g, at_once: 1}
          - {registry: j.example.com, limit_group: g, at_once: 2}
          - {registry: "${ABSENT}"}
        targets_csv: sites.csv
        registries: {k.example.com: {insecure: maybe}}
        """,
        """\
        registry,enabled
        10.0.0.1:8000,
        l.example.com,maybe
        l.example.com:v1,
        l.example.com/base@sha256:0123456789abcdef,
        """,
    )

    assert [line.partition(" is not a registry")[0].partition(" names an")[0] for line in told] == [
        "sites.yaml:3: targets[1]: 10.0.0.2:8000 is a target already, at sites.yaml:2",
        "sites.yaml:4: targets[2].registry: 'a.example.com/base:v1'",
        "sites.yaml:5: targets[3].lables: there is no such field; did you mean labels?",
        "sites.yaml:6: targets[4].windows[0]: 'Europe/Berln' is not a zone",
        "sites.yaml:6: targets[4].windows[1]: '1:00-1:00 UTC' never opens",
        "sites.yaml:7: targets[5].registry: 'd-{1..}.example.com' has braces that are no range",
        "sites.yaml:8: targets[6]: its registry stands for 2 sites and its name for 1",
        "sites.yaml:9: targets[7]: `at_once` belongs to a `limit_group`",
        "sites.yaml:10: targets[8]: '10.0.0.3:8000' is the name of another site already, at sites.yaml:2",
        "sites.yaml:11: targets[9]: 'h-1.example.com:65536'",
        "sites.yaml:13: targets[11]: its group g has `at_once: 1` in another target, and 2 here",
        "sites.yaml:14: targets[12].registry: the variable ABSENT is not set, and has no default",
        "sites.yaml:16: registries.k.example.com.insecure: it must be true or false",
        "sites.csv:2: 10.0.0.1:8000 is a target already, at sites.yaml:2",
        "sites.csv:3: enabled: it must be true or false",
        "sites.csv:4: registry: 'l.example.com:v1'",
        "sites.csv:5: registry: 'l.example.com/base@sha256:0123456789abcdef'",
    ]
    assert "names an image" in told[-1]
    assert told[9].endswith("(and 1 more of its sites)")


def test_what_other_targets_contradict_is_told_whatever_else_is_wrong(mistakes: Callable[..., list[str]]) -> None:
    """Registries, names and limits of groups, also of targets with mistakes of their own; and keys that stand twice."""
    told = mistakes(
        """\
        targets:
          - {registry: a.example.com, lables: {}, name: one, limit_group: g, at_once: 2}
          - {registry: http://a.example.com/, windows: []}
          - {registry: "b.example.com:443", enabled: maybe, name: one, limit_group: g, at_once: 3}
          - {registry: https://b.example.com, at_once: 0}
          - {registry: "c-{1..2}.example.com", name: x, bytes_per_second: 5Q}
          - {registry: c-2.example.com, name: y, name: z}
        targets_csv: sites.csv
        map: {}
        map: {a.io: x}
        """,
        """\
        registry,enabled
        A.example.com,maybe
        """,
    )

    assert sorted(told) == sorted(
        [
            "sites.yaml:2: targets[0].lables: there is no such field; did you mean labels?",
            "sites.yaml:3: targets[1]: a.example.com is a target already, at sites.yaml:2",
            "sites.yaml:3: targets[1].windows: it must not be empty",
            "sites.yaml:4: targets[2].enabled: it must be true or false",
            "sites.yaml:4: targets[2]: 'one' is the name of another site already, at sites.yaml:2",
            "sites.yaml:4: targets[2]: its group g has `at_once: 2` in another target, and 3 here",
            "sites.yaml:5: targets[3].at_once: it must be 1 or more",
            "sites.yaml:5: targets[3]: `at_once` belongs to a `limit_group`",
            "sites.yaml:5: targets[3]: b.example.com is a target already, at sites.yaml:4",
            "sites.yaml:6: targets[4].bytes_per_second: '5Q' is not a number of bytes",
            "sites.yaml:6: targets[4]: its registry stands for 2 sites and its name for 1",
            "sites.yaml:7: targets[5].name: the key 'name' stands twice in one mapping",
            "sites.yaml:7: targets[5]: c-2.example.com is a target already, at sites.yaml:6",
            "sites.yaml:10: map: the key 'map' stands twice in one mapping, on line 9 as well",
            "sites.csv:2: enabled: it must be true or false",
            "sites.csv:2: a.example.com is a target already, at sites.yaml:2",
        ]
    )


def test_logins_that_are_not_there_are_told_beside_other_mistakes(tmp_path: Path) -> None:
    """Not where they are those of another machine."""
    (path := tmp_path / "sites.yaml").write_text(
        "targets: [{registry: a.io, lables: {}}]\n"
        "registries: {a.io: {credentials: {username: me, password_env: ABSENT}}}\n"
    )
    with pytest.raises(InvalidFile) as here:
        read_targets(path, RegistrySettings(), {})
    with pytest.raises(InvalidFile) as there:
        read_targets(path, None, {})

    assert [each.field for each in here.value.all] == ["targets[0].lables", "registries.a.io.credentials"]
    assert [each.field for each in there.value.all] == ["targets[0].lables"]


def test_too_many_sites_are_refused_before_they_are_made(
    mistakes: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = mistakes("targets: [{registry: '{0..999}.{0..999}.{0..999}'}]\n")
    monkeypatch.setattr(sites_file, "MAX_SITES", 1000)
    (two,) = mistakes("targets:\n- registry: 10.{1..20}.0.{1..50}\n- registry: 11.0.0.1\n- registry: 12.0.0.1\n")

    assert one.startswith("sites.yaml:1: targets[0].registry: ")
    assert one.endswith("stands for 1,000,000,000 sites, more than 1,000,000")
    assert two == "sites.yaml:3: targets[1]: with this target there are more than 1,000 sites"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "sites.yaml:1: it is empty, and a targets file has `targets` or `targets_csv`"),
        ("[]", "sites.yaml:1: it must be a mapping, and a targets file has `targets` or `targets_csv`"),
        ("registries: {}", "sites.yaml:1: it names no target"),
        ("targets: {a: b}", "sites.yaml:1: targets: it must be a list"),
        ("targets: [a]", "sites.yaml:1: targets[0]: it must be a mapping"),
        ("map: {}\ntargets_csv: lost.csv", "sites.yaml:2: targets_csv: lost.csv is not there"),
        ("targets_csv: .", "sites.yaml:1: targets_csv: "),
        ("targets_csv: sites.csv", "sites.csv:1: it is empty, and a table of targets is expected"),
        ("sources: []\ntargets: [{registry: t.io}]", "sites.yaml:1: sources: no such field; known: version, targets,"),
    ],
)
def test_a_file_of_another_shape_is_told_which_one_is_expected(
    mistakes: Callable[..., list[str]], text: str, problem: str
) -> None:
    (told,) = mistakes(text)
    assert told.startswith(problem)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("registry;name\na;b\n", "sites.csv:1: there is no column 'registry;name'; known: registry, name, "),
        ("name\na\n", "sites.csv:1: it has no column 'registry'"),
        ("registry,registry\na,b\n", "sites.csv:1: the column 'registry' stands there twice"),
        ("registry,region\na,b\n", "sites.csv:1: there is no column 'region'; known: "),
        ("registry,name\na.io\n", "sites.csv:2: it has 1 cells, and the first row 2"),
        ('registry,name\na.io,"b\n', "sites.csv:2: this is not CSV: unexpected end of data"),
        ("registry,name\n,b\n", "sites.csv:2: registry: it is required"),
    ],
)
def test_a_table_that_is_none_is_told_where(mistakes: Callable[..., list[str]], table: str, problem: str) -> None:
    (told,) = mistakes("targets_csv: sites.csv", table)
    assert told.startswith(problem)


def test_a_rule_for_names_must_make_some_at_a_site(read: Read, mistakes: Callable[..., list[str]]) -> None:
    targets = "targets:\n- {registry: '10.0.0.{1..3}:8000', map: {b.io: '10.0.0.2:8000/y', c.io: 'o:1/x'}}\n"
    assert mistakes(f"{targets}- registry: a.io\nmap: {{a.io: a.io:80/x, d.io: '10.0.0.3:8000'}}\n") == [
        "sites.yaml:2: targets[0].map.c.io: c.io is mapped to o:1/x, which is at none of the targets",
        "sites.yaml:4: map.a.io: a.io is mapped to a.io:80/x, which is at none of the targets",
    ]
    assert len(read(targets.replace("o:1/x", "10.0.0.1:8000/x")).sites) == 3


def test_each_row_of_a_table_is_read_whatever_is_wrong_with_others(mistakes: Callable[..., list[str]]) -> None:
    told = mistakes(
        "targets_csv: sites.csv",
        """\
        registry,name,enabled
        a.io,one
        b.io,two,maybe
        B.io,three,true
        c.io,two,true
        d.io,"four,true
        """,
    )
    header = mistakes("targets_csv: sites.csv", "Registry,nmae,region,region\na.io,one\n")

    assert told == [
        "sites.csv:2: it has 2 cells, and the first row 3",
        "sites.csv:3: enabled: it must be true or false",
        "sites.csv:4: b.io is a target already, at sites.csv:3",
        "sites.csv:5: 'two' is the name of another site already, at sites.csv:3",
        "sites.csv:6: this is not CSV: unexpected end of data",
    ]
    assert [line.partition("; known")[0] for line in header] == [
        "sites.csv:1: there is no column 'Registry'; did you mean registry?",
        "sites.csv:1: there is no column 'nmae'; did you mean name?",
        "sites.csv:1: the column 'region' stands there twice",
        "sites.csv:1: there is no column 'region'",
    ]


def test_sites_go_from_process_to_process(read: Read) -> None:
    file = read("""\
        targets:
          - {registry: "{1..2}.example.com", labels: {a: b}, limit_group: g, windows: 1:00-2:00 Europe/Berlin}
        registries: {1.example.com: {insecure: true}}
    """)
    again: SitesFile = pickle.loads(pickle.dumps(file))

    assert (again.sites, again.by_host, again.groups) == (file.sites, file.by_host, file.groups)
    assert len({*again.sites, *file.sites}) == 2


def sites(*names: str, **labels: Mapping[str, str]) -> list[Site]:
    """Sites of those names, by keywords with labels; one whose name ends with a minus is not enabled."""
    plain: dict[str, Mapping[str, str]] = {name: {} for name in names}
    return [
        Site(name.rstrip("-"), f"{name.rstrip('-')}.example.com", "here", labels=each, enabled=not name.endswith("-"))
        for name, each in (plain | labels).items()
    ]


FLEET = sites(
    "lab", "off-",
    paris={"region": "eu", "ring": "1"}, rome={"region": "eu", "ring": "2"}, lima={"region": "sa", "ring": "1"},
)  # fmt: skip


@pytest.mark.parametrize(
    ("only", "excluded", "chosen"),
    [
        ([], [], "lab paris rome lima"),
        (["paris"], [], "paris"),
        (["*.example.com"], ["lab"], "paris rome lima"),
        (["r*", "lima"], [], "rome lima"),
        (["region=eu"], [], "paris rome"),
        (["region=eu", "ring=1"], [], "paris rome lima"),
        (["region=eu,ring=1"], [], "paris"),
        (["ring=[12]"], ["region=sa"], "paris rome"),
        ([], ["ring=*"], "lab"),
        (["off", "lab"], [], "lab"),
    ],
)
def test_sites_are_chosen_by_names_and_labels(only: Sequence[str], excluded: Sequence[str], chosen: str) -> None:
    assert [site.name for site in select_sites(FLEET, only=only, excluded=excluded)] == chosen.split()


@pytest.mark.parametrize(
    ("only", "excluded", "problem"),
    [
        (["rgion=eu"], [], "no site has the label 'rgion'; known: region, ring"),
        ([], ["rgion=eu"], "no site has the label 'rgion'; known: region, ring"),
        (["region=us"], [], "no site has region=us; known: eu, sa"),
        (["pairs"], [], "no site is called 'pairs'"),
        ([], ["pairs"], "no site is called 'pairs'"),
        (["lab,ring=1"], [], "no site is all of 'lab,ring=1'"),
        (["=eu"], [], "'=eu' chooses no sites"),
        (["a,,b"], [], "'a,,b' chooses no sites"),
        (["off"], [], "all sites that are chosen have `enabled: false`"),
        (["lab"], ["*"], "no site is left to choose"),
    ],
)
def test_a_choice_that_fits_nothing_is_a_mistake(only: Sequence[str], excluded: Sequence[str], problem: str) -> None:
    """Above all one that leaves out: a misspelt --except would widen what is pushed."""
    with pytest.raises(UsageError) as raised:
        select_sites(FLEET, only=only, excluded=excluded)
    assert str(raised.value) == problem


def test_each_site_belongs_to_one_shard_for_ever() -> None:
    """The numbers are written down: a shard that moved with a new version would push twice, and leave out."""
    keys = [f"10.{n}.0.4:8000/base" for n in range(1000)]
    shares = {key: [n for n in range(1, 17) if Shard(n, 16).takes(key)] for key in keys}

    assert all(len(numbers) == 1 for numbers in shares.values())
    assert [shares[key][0] for key in keys[:6]] == [12, 6, 9, 9, 4, 16]
    assert max(Counter(numbers[0] for numbers in shares.values()).values()) < 100


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        ("3/16", "", "3/16"),
        ("1/1", "", "1/1"),
        ("auto", "JOB_COMPLETION_INDEX=0 JOB_COMPLETIONS=4", "1/4"),
        ("auto/4", "JOB_COMPLETION_INDEX=3", "4/4"),
        ("auto", "SLURM_ARRAY_TASK_ID=0 SLURM_ARRAY_TASK_COUNT=16 SLURM_ARRAY_TASK_MIN=0", "1/16"),
        ("auto", "SLURM_ARRAY_TASK_ID=16 SLURM_ARRAY_TASK_COUNT=16 SLURM_ARRAY_TASK_MIN=1", "16/16"),
        (
            "auto",
            "SLURM_ARRAY_TASK_ID=6 SLURM_ARRAY_TASK_COUNT=4 SLURM_ARRAY_TASK_MIN=0 SLURM_ARRAY_TASK_STEP=2",
            "4/4",
        ),
        ("auto/16", "SLURM_ARRAY_TASK_ID=3 SLURM_ARRAY_TASK_COUNT=1 SLURM_ARRAY_TASK_MIN=3", "4/16"),
    ],
)
def test_a_shard_is_named_or_found_in_the_environment(text: str, environment: str, expected: str) -> None:
    assert str(Shard.parse(text, variables(environment))) == expected


@pytest.mark.parametrize(
    ("text", "environment", "problem"),
    [
        ("17/16", "", "there is no shard 17/16"),
        ("0/16", "", "there is no shard 0/16"),
        ("1/0", "", "there is no shard 1/0"),
        ("3", "", "'3' is not a shard"),
        ("-1/3", "", "'-1/3' is not a shard"),
        ("auto", "", "JOB_COMPLETION_INDEX and SLURM_ARRAY_TASK_ID are not set"),
        ("auto", "JOB_COMPLETION_INDEX=3", "Kubernetes does not tell a Pod how many completions its Job has"),
        ("auto", "JOB_COMPLETION_INDEX=x JOB_COMPLETIONS=4", "JOB_COMPLETION_INDEX holds 'x', which is no number"),
        ("auto", "JOB_COMPLETION_INDEX=4 JOB_COMPLETIONS=4", "there is no shard 5/4"),
        ("auto", "SLURM_ARRAY_TASK_ID=3", "SLURM_ARRAY_TASK_COUNT and SLURM_ARRAY_TASK_MIN are not set"),
        (
            "auto",
            "SLURM_ARRAY_TASK_ID=5 SLURM_ARRAY_TASK_COUNT=3 SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_MAX=7",
            "not evenly numbered",
        ),
        ("auto/16", "SLURM_ARRAY_TASK_ID=16", "there is no shard 17/16"),
    ],
)
def test_what_is_no_shard_is_refused_with_what_to_do(text: str, environment: str, problem: str) -> None:
    with pytest.raises(UsageError) as raised:
        Shard.parse(text, variables(environment))
    assert problem in str(raised.value)
    assert raised.value.hint


def variables(text: str) -> dict[str, str]:
    return dict(word.split("=") for word in text.split())


def test_the_example_is_a_targets_file_and_the_page_shows_it() -> None:
    file = read_sites(DOCS / "examples/sites.yaml", {})
    shown = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)

    assert len(file.sites) == 254
    assert shown[0] in (DOCS / "examples/sites.yaml").read_text()


@pytest.mark.parametrize("model", [SitesDocument, SiteTarget])
def test_every_field_of_a_targets_file_is_described(model: type[Model]) -> None:
    for name in names_of_fields(model):
        assert f"`{name}`" in PAGE, name
