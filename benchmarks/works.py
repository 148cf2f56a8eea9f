"""What is measured: which corpus, which steps, over what."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.jobs import Step
from benchmarks.link import Link

WIDE_AREA = Link(round_trip=0.040, bits_per_second=200e6)

_BUNDLE = (Step.BUILD, Step.VERIFY, Step.PUSH, Step.NOOP_PUSH)
_SYNC = (Step.SYNC, Step.NOOP_SYNC)


@dataclass(frozen=True, slots=True)
class Work:
    """Steps that every tool takes one after the other, and then again in the next round."""

    corpus: str
    steps: tuple[Step, ...]
    server: str
    tls: bool = False
    link: Link | None = None
    tools: tuple[str, ...] = ()  # only these; all that are found when empty

    @property
    def name(self) -> str:
        """What tells it from the others in a result."""
        tls = ", TLS" if self.tls else ""
        link = f", {self.link}" if self.link else ""
        return f"{self.corpus}, {self.server}{tls}{link}"


def quick(servers: list[str]) -> list[Work]:
    """A few minutes: the first server, each corpus that says something of its own."""
    server = servers[0]
    return [
        Work("fleet", _BUNDLE, server),
        Work("big", (Step.BUILD, Step.PUSH), server),
        Work("small", _BUNDLE, server),
        Work("small", (Step.PUSH, Step.NOOP_PUSH), server, link=WIDE_AREA, tools=("syncer", "imgpkg")),
    ]


def full(servers: list[str]) -> list[Work]:
    """Everything: every server, TLS, sync, links, and how cost grows."""
    main = servers[0]
    works = [
        *(Work(corpus, _BUNDLE, server) for server in servers for corpus in ("fleet", "big", "small")),
        *(Work(corpus, _SYNC, main) for corpus in ("fleet", "small")),
        Work("big", (Step.BUILD, Step.PUSH), main, tls=True),
        Work("small", (Step.PUSH, Step.NOOP_PUSH), main, link=WIDE_AREA),
        Work("fleet", (Step.PUSH,), main, link=WIDE_AREA, tools=("syncer", "imgpkg")),
    ]
    growth = [Work(corpus, _BUNDLE, main, tools=("syncer",)) for corpus in ("many-1000", "many-3000", "many")]
    return [*works, *growth]


def smoke(servers: list[str]) -> list[Work]:
    """Seconds: that all of it works, with numbers that mean nothing."""
    server = servers[0]
    bundle = Work("tiny", _BUNDLE, server)
    return [bundle, replace(bundle, tls=True), replace(bundle, link=WIDE_AREA), replace(bundle, steps=_SYNC)]


SETS = {"smoke": smoke, "quick": quick, "full": full}
