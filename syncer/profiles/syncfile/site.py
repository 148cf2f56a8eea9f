"""Sites: registries that one bundle goes to, as a targets file or a command line names them, and the choice of some."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

from msgspec import Struct, field

from syncer.errors import UsageError
from syncer.formats.windows import Window
from syncer.naming import NameMapping
from syncer.oci.docker_hub import canonical_host


class Site(Struct, frozen=True):
    """One registry that a bundle goes to, and how it wants to be treated.

    Two sites of a file have neither one name nor one ``key``.
    """

    name: str  # its own, or else its registry as it was written
    registry: str  # [http://|https://]HOST[:PORT][/BASE]
    place: str = ""  # file and line, for messages
    labels: Mapping[str, str] = field(default_factory=dict)
    enabled: bool = True
    mapping: NameMapping = field(default_factory=NameMapping)  # names of images there
    bytes_per_second: int | None = None  # both ways together; None with a group, which has the limit then
    group: LimitGroup | None = None
    windows: tuple[Window, ...] = ()  # none: at any time

    def __hash__(self) -> int:  # labels have none
        return hash((self.name, self.registry))

    @property
    def key(self) -> str:
        """``HOST[:PORT][/BASE]`` in one spelling, by which a site is known from run to run."""
        return registry_key(self.registry)

    @property
    def host(self) -> str:
        """The host and port of its registry: sites of one host follow each other."""
        return self.key.partition("/")[0]


class LimitGroup(Struct, frozen=True):
    """Sites that share a limit, such as those behind one gateway."""

    name: str
    at_once: int | None = None  # sites that run at a time
    bytes_per_second: int | None = None  # of all of them together


def registry_key(registry: str) -> str:
    """``HOST[:PORT][/BASE]`` of a registry that ``check_registry`` took, however it was written.

    >>> registry_key("http://Harbor.example.com:5000/mirror/")
    'harbor.example.com:5000/mirror'
    """
    host, _, base = registry.rpartition("://")[2].partition("/")
    return "/".join(filter(None, (canonical_host(host.lower()), base.strip("/"))))


def select_sites(sites: Iterable[Site], *, only: Sequence[str] = (), excluded: Sequence[str] = ()) -> list[Site]:
    """Choose the sites that ``only`` names, or all, without those that ``excluded`` names and those not enabled.

    Each is a pattern of ``*``, ``?`` and ``[…]`` for names or registries, or ``LABEL=PATTERN``; joined by commas all
    of its conditions must hold.  A site that one of ``only`` fits is chosen.  Raises ``UsageError`` for a condition
    that fits no site at all, since it is a mistake, and when no site is left.
    """
    sites = list(sites)
    wanted, unwanted = ([_Choice.parse(word) for word in words] for words in (only, excluded))
    for choice in (*wanted, *unwanted):
        choice.require_some(sites)
    named = [
        site
        for site in sites
        if (not wanted or any(choice.fits(site) for choice in wanted))
        and not any(choice.fits(site) for choice in unwanted)
    ]
    chosen = [site for site in named if site.enabled]
    if not chosen:
        raise UsageError("all sites that are chosen have `enabled: false`" if named else "no site is left to choose")
    return chosen


class _Choice(Struct, frozen=True):
    """Conditions for a site, each a label or None for its name, and a pattern; all must hold."""

    text: str
    conditions: tuple[tuple[str | None, str], ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``GLOB`` or ``LABEL=GLOB``, or several joined by commas; raises ``UsageError``."""
        conditions = []
        for word in (word.strip() for word in text.split(",")):
            label, equals, pattern = word.partition("=")
            if not word or (equals and not label):
                raise UsageError(f"{text[:80]!r} chooses no sites", hint="write a pattern for names, or LABEL=VALUE")
            conditions.append((label, pattern) if equals else (None, word))
        return cls(text, tuple(conditions))

    def fits(self, site: Site) -> bool:
        return all(_has(site, label, pattern) for label, pattern in self.conditions)

    def require_some(self, sites: Sequence[Site]) -> None:
        """Raise ``UsageError`` for a condition that fits no site."""
        for label, pattern in self.conditions:
            if any(_has(site, label, pattern) for site in sites):
                continue
            if label is None:
                raise UsageError(f"no site is called {pattern[:80]!r}")
            known = sorted({value for site in sites if (value := site.labels.get(label)) is not None})
            if not known:
                labels = ", ".join(sorted({name for site in sites for name in site.labels})) or "none at all"
                raise UsageError(f"no site has the label {label[:80]!r}; known: {labels}")
            raise UsageError(f"no site has {label}={pattern[:80]}; known: {', '.join(known[:10])}")
        if not any(map(self.fits, sites)):
            raise UsageError(f"no site is all of {self.text[:160]!r}")


def _has(site: Site, label: str | None, pattern: str) -> bool:
    if label is None:
        return fnmatch.fnmatchcase(site.name, pattern) or fnmatch.fnmatchcase(site.key, pattern)
    return label in site.labels and fnmatch.fnmatchcase(site.labels[label], pattern)
