"""``python -m benchmarks``: run, report, compare, sweep."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks import compare as comparing
from benchmarks import delta, fleet, judged, works
from benchmarks import sweep as sweeping
from benchmarks.generate import prepare
from benchmarks.heat_map import heat_map
from benchmarks.installed import make_bytecode
from benchmarks.jobs import Step
from benchmarks.peers import TOOLS
from benchmarks.plot import CAN_DRAW
from benchmarks.recipes import RECIPES
from benchmarks.resources import CommandFailed
from benchmarks.running import Places, Plan, work_directory, write
from benchmarks.running import run as run_plan
from benchmarks.servers import PROGRAMS, ServerFailed
from syncer.cli import complain
from syncer.cli.command import argument, flag, make_command, make_group, option, options
from syncer.cli.parser import usage_error
from syncer.errors import Exit, SyncerError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceOptions:
    """Directories of a run."""

    cache: Path = option("Where generated corpora are kept.", default=Path(__file__).parent / ".cache", metavar="DIR")
    output: Path = option("Where the results are written.", default=Path("output/benchmarks"), metavar="DIR")

    def make(self) -> None:
        """Make both; one that cannot be written to ends the command, before anything is measured."""
        for flag_of, path in (("--cache", self.cache), ("--output", self.output)):
            _make_directory(path, f"{flag_of}: ")


def run(
    *,
    full: bool = flag("Everything, or only what takes a few minutes, which is the default.", "--full/--quick"),
    smoke: bool = flag("Only that all of it works: a minute, with numbers that mean nothing."),
    rounds: int = option("Timed rounds; at least 3 for numbers to be used.", default=3, min=1),
    tool: tuple[str, ...] = options("Only these tools, of those on PATH.", metavar="TOOL"),
    server: tuple[str, ...] = options("Only these registries; the first is the main one.", metavar="SERVER"),
    work: str = option("Only works of this name, or else with this in their names, such as a corpus.", default=""),
    step: tuple[Step, ...] = options("Only these steps.", metavar=f"[{'|'.join(Step)}]"),
    keep: bool = flag("Keep what the results there say of other works."),
    places: PlaceOptions,
) -> None:
    """Measure syncer and the peers on PATH, turn and turn about."""
    name = "smoke" if smoke else "full" if full else "quick"
    servers = _chosen(server, {name: program.found for name, program in PROGRAMS.items()})
    names = _chosen(tool, {name: tool.found for name, tool in TOOLS.items()})
    carried = delta.SMOKE if smoke else delta.Scenario(rounds=rounds)
    scenario = fleet.SMOKE if smoke else fleet.Scenario(rounds=rounds)
    plan = Plan(
        name,
        works.only(works.SETS[name](servers), named=work, steps=step),
        [each for each in works.SWEEPS if full and not step and each.name.startswith(work)],
        [TOOLS[name] for name in (names if full or smoke or tool else works.quick_tools(names))],
        rounds=1 if smoke else rounds,
        fleet=scenario if work in fleet.NAME and not step else None,
        delta=carried if work in delta.NAME and not step else None,
        servers=servers,
    )
    if not (plan.works or plan.sweeps or plan.fleet or plan.delta):
        raise UsageError(f"this set has no work with {work!r} in its name and these steps")
    earlier = _read(places.output / "results.json") if keep else None
    places.make()
    report = run_plan(plan, Places(places.cache, places.output), earlier)
    click.echo(report.read_text())
    _show_goals(_read(places.output / "results.json"))


def report(results: Path = argument("A results.json.", metavar="RESULTS")) -> None:
    """Make the report and the plots of a run again, and show which goals were met."""
    document = _read(results)
    _make_directory(results.parent)
    write(document, results.parent)
    _show_goals(document)


def compare(
    old: Path = argument("The results.json of the earlier run.", metavar="OLD"),
    new: Path = argument("The results.json of the later run.", metavar="NEW"),
) -> None:
    """Exit with 1 if syncer's ratios to the others are worse than they were."""
    found = list(comparing.changes(_read(old), _read(new)))
    if not found:
        print("error: the two runs measured nothing in common", file=sys.stderr)
        raise click.exceptions.Exit(2)
    for change in found:
        print(change)
    raise click.exceptions.Exit(any(change.is_regression for change in found))


def sweep(
    *,
    registry: str = option("HOST[:PORT][/BASE]; what is pushed there stays there.", required=True),
    corpus: str = option(f"One of {', '.join(RECIPES)}.", default="small"),
    concurrency: str = option("Values to try beside no flag, with commas.", default="4,8,16,32,64"),
    chunk_mib: str = option("Chunk sizes to try, in MiB, with commas.", default="16"),
    rounds: int = option("Pushes with each pair; at least 3 for a spread.", default=3, min=1),
    places: PlaceOptions,
) -> None:
    """Push one corpus with each pair of settings, and draw what that brings; more options go to syncer push.

    Which flags suit a registry is told by syncer tune, which needs no corpus and leaves nothing behind.
    """
    if corpus not in RECIPES:
        raise UsageError(f"there is no corpus {corpus}; there are {', '.join(RECIPES)}")
    parallel, chunks = _numbers(concurrency), _numbers(chunk_mib)
    places.make()
    make_bytecode()
    trials: list[sweeping.Trial] = []
    with work_directory() as directory:
        try:
            for trial in sweeping.sweep(
                prepare(corpus, places.cache),
                registry,
                concurrency=[sweeping.FOUND_OUT, *parallel],
                chunk_mib=chunks,
                rounds=range(rounds),
                options=click.get_current_context().args,
                directory=directory,
            ):
                trials.append(trial)
                said = trial.flags or "no flag"
                print(f"{said}: {trial.seconds:.2f} s, {trial.megabytes_per_second:.1f} MB/s", flush=True)
        except (CommandFailed, ServerFailed) as error:
            print(f"error: {error}", file=sys.stderr)
            raise click.exceptions.Exit(1) from None
    medians = sweeping.joined(trials)
    (places.output / "sweep.json").write_text(json.dumps(sweeping.to_json(medians), indent=1) + "\n")
    if CAN_DRAW:
        (places.output / "sweep.svg").write_text(heat_map(medians, f"Push of {corpus} to {registry}"))
    print(f"use: {sweeping.best(medians).flags or 'no flag'}")


def _make_directory(path: Path, named: str = "") -> None:
    """Make a directory unless it is there; one that cannot be written to ends the command."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return
    except OSError as error:
        raise UsageError(f"{named}nothing can be written to {path}: {error.strerror}") from None


def _show_goals(document: Mapping[str, Any]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(judged.shown(document))


def _chosen(wanted: Sequence[str], found: dict[str, bool]) -> list[str]:
    for name in wanted:
        if not found.get(name):
            raise UsageError(f"{name} is not here; here are {', '.join(n for n, is_here in found.items() if is_here)}")
    return list(wanted) or [name for name, is_here in found.items() if is_here]


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{text!r} is not a list of numbers") from None
    if min(numbers) < 1:
        raise UsageError(f"{text!r} has a number below 1")
    return numbers


def _read(results: Path) -> dict[str, Any]:
    """What a run has written; a file that is none ends the command."""
    try:
        document = json.loads(results.read_text())
        if isinstance(document, dict) and "works" in document:
            return document
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is not JSON: {error}"
        raise UsageError(f"{results} cannot be read: {reason}") from None
    raise UsageError(f"{results} holds no results of a run")


def benchmarks() -> None:
    """What syncer costs, beside its peers."""


_COMMANDS = {function.__name__: make_command(function, function.__name__) for function in (run, report, compare)}
_COMMANDS["sweep"] = make_command(sweep, "sweep", takes_anything=True)
app = make_group(benchmarks, "benchmarks", _COMMANDS)


def main(words: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit code.  A mistake is told as syncer tells it: in one sentence."""
    try:
        return app.main(words, "python -m benchmarks", standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as bare:
        bare.show()
        return bare.exit_code
    except click.Abort:
        print("stopped", file=sys.stderr)
        return Exit.INTERRUPTED
    except click.ClickException as wrong:
        error: SyncerError = usage_error(wrong)
    except SyncerError as wrong:
        error = wrong
    complain(error)
    return error.exit


if __name__ == "__main__":
    sys.exit(main())
