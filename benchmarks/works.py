"""What is measured: which corpus, which steps, over what."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from benchmarks.jobs import Step
from benchmarks.link import Link
from benchmarks.page_cache import CAN_FORGET
from benchmarks.throttle import Throttle
from benchmarks.tools import Tool

WIDE_AREA = Link(round_trip=0.040, bits_per_second=200e6)
CAPPED = Link(round_trip=0.040, bits_per_second=80e6, for_each=True)
"""An object store far away, which gives each connection 10 MB a second."""

THROTTLED = Throttle(50), Throttle(50, told=True)
"""A registry that takes 50 requests a second, and says so by 429 alone, or in headers as well."""

_BUNDLE = (Step.BUILD, Step.VERIFY, Step.PUSH, Step.NOOP_PUSH)
_SYNC = (Step.SYNC, Step.NOOP_SYNC)
_RIVALS = ("imgpkg", "crane")  # whom the goals name
_MIRRORS = ("ocync", "regsync")  # likewise, of a night's sync
ONE_RANGE = "syncer-one-range"


@dataclass(frozen=True, slots=True)
class Work:
    """Steps that every tool takes one after the other, and then again in the next round."""

    corpus: str
    steps: tuple[Step, ...]
    server: str
    tls: bool = False
    link: Link | Throttle | None = None  # to the target where a step needs one, else to the source
    cold: bool = False  # what a step reads is not in the page cache when it begins
    tools: tuple[str, ...] = ()  # only these; all that are found when empty
    variants: tuple[str, ...] = ()  # of tools, that take part besides
    counted: tuple[str, ...] = ()  # only these go through relays that count; all when empty

    @property
    def name(self) -> str:
        """What tells it from the others in a result."""
        tls = ", TLS" if self.tls else ""
        link = f", {self.link}" if self.link else ""
        cold = ", cold" if self.cold else ""
        return f"{self.corpus}, {self.server}{tls}{link}{cold}"

    def admits(self, tool: Tool) -> bool:
        """Whether ``tool`` takes part."""
        if tool.is_variant:
            return tool.name in self.variants
        return not self.tools or tool.name in self.tools

    @property
    def is_possible(self) -> bool:
        """Whether this system can do it."""
        return CAN_FORGET or not self.cold


@dataclass(frozen=True, slots=True)
class Sweep:
    """Pushes of one corpus by syncer, with each pair of settings."""

    corpus: str
    concurrency: tuple[int, ...]
    chunk_mib: tuple[int, ...]
    link: Link | None = None
    rounds: int = 1

    @property
    def name(self) -> str:
        """What ``--work`` takes, whole or only its beginning: what names a corpus alone asks for no sweep."""
        return ", ".join(map(str, filter(None, ("sweep", self.corpus, self.link))))


SWEEPS = (
    Sweep("fleet", (0, 4, 8, 16, 32, 64), (4, 16, 64)),
    Sweep("small", (0, 8, 16, 32, 64, 96, 128), (16,), WIDE_AREA, rounds=3),
)
"""What a full run tries against its first server; a concurrency of 0 is none that is given."""


def quick(servers: list[str]) -> list[Work]:
    """A few minutes: the first server, each corpus that says something of its own."""
    server = servers[0]
    named = ("syncer", "floor", *_RIVALS)
    works = [
        Work("fleet", _BUNDLE, server),
        Work("big", (Step.BUILD, Step.PUSH), server, tools=named),
        Work("small", (Step.BUILD, Step.PUSH), server, tools=named),
        Work("small", (Step.PUSH,), server, link=WIDE_AREA, tools=("syncer", "floor", "imgpkg")),
    ]
    return [replace(work, counted=("syncer",)) for work in works]


def full(servers: list[str]) -> list[Work]:
    """Everything: every server, TLS, sync, links, cold storage, and how cost grows."""
    main, *others = servers
    return [
        *(Work(corpus, _BUNDLE, main) for corpus in ("fleet", "big", "small")),
        *(Work("fleet", _BUNDLE, server) for server in others),
        *(Work(corpus, _SYNC, main) for corpus in ("fleet", "small")),
        Work("night", _SYNC, main, tls=True, tools=("syncer", "floor", *_MIRRORS)),
        Work("big", (Step.BUILD, Step.PUSH), main, tls=True),
        Work("small", (Step.PUSH, Step.NOOP_PUSH), main, link=WIDE_AREA),
        Work("fleet", (Step.PUSH,), main, link=WIDE_AREA, tools=("syncer", "floor", "imgpkg")),
        *(
            Work("small", (step,), main, link=link, tools=("syncer",))
            for link in THROTTLED
            for step in (Step.BUILD, Step.PUSH)
        ),
        Work("huge", (Step.BUILD,), main, variants=(ONE_RANGE,)),
        Work("huge", (Step.BUILD,), main, link=CAPPED, tools=("syncer", *_RIVALS)),
        Work("fleet", (Step.BUILD, Step.VERIFY, Step.PUSH), main, cold=True),
        *(Work(corpus, _BUNDLE, main, tools=("syncer",)) for corpus in ("many-1000", "many-3000", "many")),
    ]


def smoke(servers: list[str]) -> list[Work]:
    """That all of it works, with numbers that mean nothing."""
    server = servers[0]
    bundle = Work("tiny", _BUNDLE, server)
    return [
        bundle,
        replace(bundle, tls=True),
        replace(bundle, link=WIDE_AREA),
        replace(bundle, cold=True),
        replace(bundle, steps=_SYNC),
        replace(bundle, steps=_SYNC, tls=True),
        replace(bundle, steps=(Step.BUILD,), link=CAPPED, variants=(ONE_RANGE,)),
    ]


SETS = {"smoke": smoke, "quick": quick, "full": full}


def only(works: Iterable[Work], *, named: str, steps: Collection[Step]) -> list[Work]:
    """Of ``works`` those called ``named``, or else with that in their names; of their ``steps`` these, or else all."""
    works = list(works)
    is_whole = any(named == work.name for work in works)
    chosen = [
        replace(work, steps=tuple(step for step in work.steps if not steps or step in steps))
        for work in works
        if (named == work.name if is_whole else named in work.name) and work.is_possible
    ]
    return [work for work in chosen if work.steps]


def quick_tools(found: Collection[str]) -> list[str]:
    """Who takes part in a quick run: only rivals that a goal names, where one of them is among the ``found``."""
    has_rival = any(rival in found for rival in _RIVALS)
    return [name for name in found if not has_rival or name in ("syncer", "floor", *_RIVALS)]
