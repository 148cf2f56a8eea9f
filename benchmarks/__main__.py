"""``python -m benchmarks``: run, report, compare, sweep."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import compare as comparing
from benchmarks import sweep as sweeping
from benchmarks import works
from benchmarks.generate import prepare
from benchmarks.installed import make_bytecode
from benchmarks.jobs import Step
from benchmarks.peers import TOOLS
from benchmarks.recipes import RECIPES
from benchmarks.resources import CommandFailed
from benchmarks.running import Places, Plan, work_directory, write
from benchmarks.running import run as run_plan
from benchmarks.servers import PROGRAMS, ServerFailed

_CACHE = Path(__file__).parent / ".cache"

app = typer.Typer(
    name="benchmarks", help="What syncer costs, beside its peers.", no_args_is_help=True, add_completion=False
)

Cache = Annotated[Path, typer.Option(help="Where generated corpora are kept.")]
Output = Annotated[Path, typer.Option(help="Where the results are written.")]


@app.command()
def run(
    *,
    full: Annotated[bool, typer.Option("--full/--quick", help="Everything, or what takes a few minutes.")] = False,
    smoke: Annotated[
        bool, typer.Option(help="Only that all of it works: a minute, with numbers that mean nothing.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds; at least 3 for numbers to be used.")] = 3,
    tool: Annotated[list[str] | None, typer.Option(help="Only these tools, of those on PATH.")] = None,
    server: Annotated[list[str] | None, typer.Option(help="Only these registries; the first is the main one.")] = None,
    work: Annotated[str, typer.Option(help="Only works with this in their names, such as a corpus.")] = "",
    step: Annotated[list[Step] | None, typer.Option(help="Only these steps.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep what the results there say of other works.")] = False,
    cache: Cache = _CACHE,
    output: Output = Path("output/benchmarks"),
) -> None:
    """Measure syncer and the peers on PATH, turn and turn about."""
    name = "smoke" if smoke else "full" if full else "quick"
    servers = _chosen(server, {name: program.found for name, program in PROGRAMS.items()})
    names = _chosen(tool, {name: tool.found for name, tool in TOOLS.items()})
    plan = Plan(
        name,
        works.only(works.SETS[name](servers), named=work, steps=step or ()),
        works.SWEEPS if full and not work and not step else (),
        [TOOLS[name] for name in (names if full or smoke or tool else works.quick_tools(names))],
        rounds=1 if smoke else rounds,
    )
    if not plan.works:
        raise typer.BadParameter(f"this set has no work with {work!r} in its name and these steps")
    report = run_plan(plan, Places(cache, output), _read(output / "results.json") if keep else None)
    typer.echo(report.read_text())


@app.command()
def report(results: Annotated[Path, typer.Argument(help="A results.json.")]) -> None:
    """Make the report and the plots of a run again."""
    write(_read(results), results.parent)


@app.command()
def compare(
    old: Annotated[Path, typer.Argument(help="The results.json of the earlier run.")],
    new: Annotated[Path, typer.Argument(help="The results.json of the later run.")],
) -> None:
    """Exit with 1 if syncer's ratios to the others are worse than they were."""
    found = list(comparing.changes(_read(old), _read(new)))
    if not found:
        print("error: the two runs measured nothing in common", file=sys.stderr)
        raise typer.Exit(2)
    for change in found:
        print(change)
    raise typer.Exit(any(change.is_regression for change in found))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def sweep(
    context: typer.Context,
    *,
    registry: Annotated[str, typer.Option(help="HOST[:PORT][/BASE]; what is pushed there stays there.")],
    corpus: Annotated[str, typer.Option(help=f"One of {', '.join(RECIPES)}.")] = "small",
    concurrency: Annotated[str, typer.Option(help="Values to try, with commas.")] = "4,8,16,32,64",
    chunk_mib: Annotated[str, typer.Option(help="Chunk sizes to try, in MiB, with commas.")] = "16",
    cache: Cache = _CACHE,
    output: Output = Path("output/benchmarks"),
) -> None:
    """Find the flags that suit a registry and the link to it; more options go to ``syncer push`` as they are."""
    if corpus not in RECIPES:
        raise typer.BadParameter(f"there is no corpus {corpus}; there are {', '.join(RECIPES)}")
    parallel, chunks = _numbers(concurrency), _numbers(chunk_mib)  # before a corpus is made for nothing
    make_bytecode()
    trials: list[sweeping.Trial] = []
    with work_directory() as directory:
        try:
            for trial in sweeping.sweep(
                prepare(corpus, cache),
                registry,
                concurrency=parallel,
                chunk_mib=chunks,
                options=context.args,
                directory=directory,
            ):
                trials.append(trial)
                print(f"{trial.flags}: {trial.seconds:.2f} s, {trial.megabytes_per_second:.1f} MB/s", flush=True)
        except (CommandFailed, ServerFailed) as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(1) from None
    output.mkdir(parents=True, exist_ok=True)
    (output / "sweep.json").write_text(json.dumps(sweeping.to_json(trials), indent=1) + "\n")
    (output / "sweep.svg").write_text(sweeping.plot(trials, f"Push to {registry}"))
    print(f"use: {sweeping.best(trials).flags}")


def _chosen(wanted: list[str] | None, found: dict[str, bool]) -> list[str]:
    for name in wanted or ():
        if not found.get(name):
            raise typer.BadParameter(
                f"{name} is not here; here are {', '.join(n for n, is_here in found.items() if is_here)}"
            )
    return wanted or [name for name, is_here in found.items() if is_here]


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of numbers") from None
    if min(numbers) < 1:
        raise typer.BadParameter(f"{text!r} has a number below 1")
    return numbers


def _read(results: Path) -> dict[str, Any]:
    """What a run has written; a file that is none ends the command."""
    try:
        document = json.loads(results.read_text())
        if isinstance(document, dict) and "works" in document:
            return document
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{results}: {error}") from None
    raise typer.BadParameter(f"{results} holds no results of a run")


if __name__ == "__main__":
    app()
