"""Rounds of work: every tool in its turn, once through relays that count, and then timed without them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import lean
from benchmarks.certificates import Certificates
from benchmarks.checks import WrongResult, check
from benchmarks.corpus import Corpus
from benchmarks.generate import prepare
from benchmarks.jobs import Cannot, Job, Step, make_layouts
from benchmarks.link import Link, Traffic, run_relay
from benchmarks.page_cache import forget
from benchmarks.resources import CommandFailed, Cost, measure
from benchmarks.servers import PROGRAMS, Server, run_server
from benchmarks.throttle import Throttle
from benchmarks.tools import Tool
from benchmarks.works import Work


@dataclass(frozen=True, slots=True)
class Sample:
    """One step of one tool in one round, and what went over the wire where that was counted.

    Round 0 goes through relays: it counts, and its times are not used.  Over a link every round counts.
    """

    work: Work
    step: Step
    tool: str
    round: int
    cost: Cost
    traffic: Traffic | None
    account: Mapping[str, Any] | None = None  # what the tool measured about itself


@dataclass(frozen=True, slots=True)
class Refusal:
    """A step that a tool cannot do, or did not do right."""

    work: Work
    step: Step
    tool: str
    reason: str


@dataclass(frozen=True, slots=True)
class Bench:
    """Where corpora are kept and work is done, and how often."""

    cache: Path
    scratch: Path  # in memory where that is possible
    disk: Path  # for what must not be in memory
    certificates: Certificates
    rounds: int
    tell: Callable[[str], None]

    def run(self, work: Work, tools: Sequence[Tool]) -> Iterator[Sample | Refusal]:
        """What ``tools`` make of ``work``: each round starts with another one, and a tool that fails drops out."""
        corpus = prepare(work.corpus, self.cache)
        active = [tool for tool in tools if work.admits(tool)]
        if any(tool.pushes_layouts for tool in active):
            make_layouts(corpus)
        first = set(active)
        with self._serve(work, corpus) as source:
            for number in range(1 if work.link or work.cold else 0, self.rounds + 1):
                start = number % max(len(active), 1)
                for tool in (*active[start:], *active[:start]):
                    if number == 0 and work.counted and tool.name not in work.counted:
                        continue
                    self.tell(f"{work.name}: round {number} of {self.rounds}, {tool.name}")
                    try:
                        yield from self._visit(work, corpus, source, tool, number, hashed=tool in first)
                    except _Dropped as dropped:
                        active.remove(tool)
                        yield Refusal(work, dropped.step, tool.name, f"failed: {dropped.__cause__}")
                    first.discard(tool)

    def _visit(
        self, work: Work, corpus: Corpus, source: Server, tool: Tool, number: int, *, hashed: bool
    ) -> Iterator[Sample | Refusal]:
        """One tool's turn: all steps, with an empty directory and an empty target to begin with."""
        traffic = Traffic() if number == 0 or work.link else None
        with ExitStack() as stack:
            job, servers = self._set_up(work, corpus, source, traffic, stack)
            for step in _with_needed(work.steps, tool):
                try:
                    command = tool.command(step, job)
                    if traffic:
                        traffic.clear()
                    if work.cold:
                        self._forget(corpus)
                        command = tool.flushed(command, job) if step is Step.BUILD else command
                    log = self.scratch / "log"
                    cost = measure(command, [server.pid for server in servers], log)
                    counted = deepcopy(traffic)
                    check(tool, step, job, servers[-1], hashed=hashed)
                except Cannot as error:
                    if step in work.steps:
                        yield Refusal(work, step, tool.name, str(error))
                except (CommandFailed, WrongResult) as error:
                    raise _Dropped(step) from error
                else:
                    if step in work.steps:
                        account = tool.account(log.read_text(errors="replace"))
                        yield Sample(work, step, tool.name, number, cost, counted, account)

    def _set_up(
        self, work: Work, corpus: Corpus, source: Server, traffic: Traffic | None, stack: ExitStack
    ) -> tuple[Job, list[Server]]:
        directory, storage = self._place("tool", work), self.scratch / "target"
        stack.callback(shutil.rmtree, directory)
        targeted = any(step.needs_target for step in work.steps)

        def reach(server: Server, link: Link | Throttle | None) -> str:
            if traffic is None:
                return server.address
            return stack.enter_context(run_relay(server.address, traffic, link, tap=not work.tls))

        authority = self.certificates.authority if work.tls else None
        job = Job(corpus, directory, reach(source, None if targeted else work.link), authority=authority)
        if not targeted:
            return job, [source]
        stack.callback(shutil.rmtree, storage, ignore_errors=True)
        target = stack.enter_context(run_server(PROGRAMS[work.server], storage, self._tls(work)))
        return replace(job, target=reach(target, work.link)), [source, target]

    def _place(self, name: str, work: Work) -> Path:
        """A new directory, on disk where the work is cold."""
        directory = (self.disk if work.cold else self.scratch) / name
        directory.mkdir()
        return directory

    def _forget(self, corpus: Corpus) -> None:
        for directory in (corpus.store.root, self.disk):
            forget(directory)
        os.sync()  # or a tool that flushes would pay for what others wrote

    @contextmanager
    def _serve(self, work: Work, corpus: Corpus) -> Iterator[Server]:
        """The corpus at a registry: straight from its directory where the registry keeps content that way."""
        program = PROGRAMS[work.server]
        storage = corpus.store.root
        if not program.distribution_store:
            storage = self._place("source", work)
            with run_server(program, storage) as empty:
                lean.push(corpus, empty.address)
        with run_server(program, storage, self._tls(work)) as server:
            yield server
        if not program.distribution_store:
            shutil.rmtree(storage)

    def _tls(self, work: Work) -> Certificates | None:
        return self.certificates if work.tls else None


def _with_needed(steps: Sequence[Step], tool: Tool) -> list[Step]:
    """The ``steps``, each after those that must be done, and are not measured, so that it can be."""
    return list(dict.fromkeys(each for step in steps for each in (*_needed(step, tool), step)))


def _needed(step: Step, tool: Tool) -> tuple[Step, ...]:
    needed = step.needs
    if needed is None or (needed is Step.BUILD and (tool.pushes_layouts or not tool.output)):
        return ()
    return (*_needed(needed, tool), needed)


class _Dropped(Exception):
    """A tool failed at a step, for the reason that is the cause."""

    def __init__(self, step: Step) -> None:
        super().__init__(step)
        self.step = step
