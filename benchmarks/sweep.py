"""Which --concurrency and --chunk-size suit a registry: the same bundle pushed with each pair of them."""

from __future__ import annotations

import secrets
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.corpus import Corpus
from benchmarks.installed import SYNCER
from benchmarks.jobs import Job
from benchmarks.link import Traffic, run_relay
from benchmarks.resources import Command, measure
from benchmarks.servers import PROGRAMS, Program, ServerFailed, run_server
from benchmarks.tools import Syncer
from benchmarks.works import Sweep
from syncer.api.trials import Rates, Setting, in_turn
from syncer.registry import CHUNK_SIZE

_MIB = 1024 * 1024

FOUND_OUT = 0
"""Stands for no ``--concurrency``: each host finds out how many requests it is good for."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One push, or the medians of several: how they were set, and what they brought."""

    concurrency: int
    chunk_mib: int
    seconds: float
    cpu: float
    megabytes_per_second: float
    rounds: Sequence[float] = ()  # the seconds of each push, where there were several

    @property
    def rates(self) -> Rates:
        """The megabytes a second of each push."""
        size = self.megabytes_per_second * self.seconds
        return Rates(tuple(size / seconds for seconds in self.rounds or (self.seconds,)))

    @property
    def flags(self) -> str:
        """The flags for it; none for the default."""
        chunk = self.chunk_mib * _MIB
        return Setting(self.concurrency or None, chunk if chunk != CHUNK_SIZE else None).flags

    @property
    def is_default(self) -> bool:
        """True when it is what no flag brings."""
        return not self.flags


def sweep(
    corpus: Corpus,
    registry: str,
    *,
    concurrency: Sequence[int],
    chunk_mib: Sequence[int],
    rounds: range = range(1),
    options: Sequence[str],
    directory: Path,
) -> Iterator[Trial]:
    """Push ``corpus`` in each round with each pair of settings, in the order of ``syncer tune``.

    Each push goes below a path of its own, so that nothing is there yet.  ``options`` are passed on to
    ``syncer push``.  What was pushed stays at the registry.  Raises ``CommandFailed`` and ``ServerFailed``.
    """
    bundle = _bundle(corpus, directory)
    pairs = {
        Setting(parallel or None, chunk * _MIB): (parallel, chunk) for chunk in chunk_mib for parallel in concurrency
    }
    for number in rounds:
        for setting in in_turn(list(pairs), number):
            once = secrets.token_hex(4)
            forgetful = ("--state-dir", str(directory / f"state-{once}"))  # else it mounts what it pushed
            place = ("--file", str(bundle), "--registry", f"{registry}/syncer-sweep/{once}")
            command = ("push", *place, *setting.flags.split(), *forgetful, *options)
            cost = measure(Command((*SYNCER, *command)), [], directory / "log")
            yield Trial(*pairs[setting], cost.wall, cost.client_cpu, corpus.size / cost.wall / 1e6)


def joined(trials: Sequence[Trial]) -> list[Trial]:
    """The medians of all rounds of each pair of settings."""
    pairs = dict.fromkeys((trial.chunk_mib, trial.concurrency) for trial in trials)
    return [_median([trial for trial in trials if (trial.chunk_mib, trial.concurrency) == pair]) for pair in pairs]


def _median(same: Sequence[Trial]) -> Trial:
    """The medians of trials with the same settings."""
    first = same[0]
    seconds, cpu = (statistics.median(getattr(trial, name) for trial in same) for name in ("seconds", "cpu"))
    size = first.megabytes_per_second * first.seconds
    rounds = [trial.seconds for trial in same] if len(same) > 1 else []
    return Trial(first.concurrency, first.chunk_mib, seconds, cpu, size / seconds, rounds)


def sweep_here(settings: Sweep, corpus: Corpus, program: Program, directory: Path) -> list[Trial]:
    """The same against a registry that is started for each round, over the link that the settings name."""
    trials: list[Trial] = []
    for number in range(settings.rounds):
        with ExitStack() as stack:
            place = directory / f"round-{number}"
            place.mkdir()
            stack.callback(shutil.rmtree, place)
            address = stack.enter_context(run_server(program, place / "registry")).address
            if settings.link:
                address = stack.enter_context(run_relay(address, Traffic(), settings.link))
            trials += sweep(
                corpus,
                address,
                concurrency=settings.concurrency,
                chunk_mib=settings.chunk_mib,
                rounds=range(number, number + 1),
                options=(),
                directory=place,
            )
    return joined(trials)


def default_to_best(trials: Sequence[Mapping[str, Any]]) -> float | None:
    """The seconds without any flag, divided by those of the quickest setting; None where that was not tried."""
    others = [trial["seconds"] for trial in trials if trial["concurrency"] != FOUND_OUT]
    without = [trial["seconds"] for trial in trials if trial["concurrency"] == FOUND_OUT]
    return min(without) / min(others) if without and others else None


def default(trials: Sequence[Trial]) -> Trial | None:
    """What no flag brings; None where that was not tried."""
    return next((trial for trial in trials if trial.is_default), None)


def best(trials: Sequence[Trial]) -> Trial:
    """The gentlest of those that the quickest does not beat by more than the spread, and by more than 5 %.

    No flag is gentler than any, then fewer connections, then chunks as they are without one.
    """
    quickest = max(trials, key=lambda trial: trial.rates.median)
    good = [trial for trial in trials if not quickest.rates.is_above(trial.rates)]
    return min(
        good, key=lambda trial: (not trial.is_default, trial.concurrency, "--chunk" in trial.flags, -trial.chunk_mib)
    )


def to_json(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    return [asdict(trial) for trial in trials]


def _bundle(corpus: Corpus, directory: Path) -> Path:
    program = next((program for program in PROGRAMS.values() if program.found and program.distribution_store), None)
    if program is None:
        raise ServerFailed("docker-registry or registry must be on PATH, for the bundle to be built from")
    syncer = Syncer()
    with run_server(program, corpus.store.root) as source:
        job = Job(corpus, directory, source.address)
        measure(syncer.build(job), [], directory / "log")
    return syncer.bundled(job)
