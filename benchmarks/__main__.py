"""``python -m benchmarks``: run, report, compare, sweep."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import compare as comparing
from benchmarks import sweep as sweeping
from benchmarks import works
from benchmarks.generate import prepare
from benchmarks.peers import TOOLS
from benchmarks.recipes import RECIPES
from benchmarks.resources import CommandFailed
from benchmarks.running import Places, work_directory, write
from benchmarks.running import run as run_works
from benchmarks.servers import PROGRAMS

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
        bool, typer.Option(help="Only that all of it works: seconds, with numbers that mean nothing.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds; at least 3 for numbers to be used.")] = 3,
    tool: Annotated[list[str] | None, typer.Option(help="Only these tools, of those on PATH.")] = None,
    server: Annotated[list[str] | None, typer.Option(help="Only these registries; the first is the main one.")] = None,
    corpus: Annotated[list[str] | None, typer.Option(help="Only works with these corpora.")] = None,
    cache: Cache = _CACHE,
    output: Output = Path("output/benchmarks"),
) -> None:
    """Measure syncer and the peers on PATH, turn and turn about."""
    name = "smoke" if smoke else "full" if full else "quick"
    servers = _chosen(server, {name: program.found for name, program in PROGRAMS.items()})
    tools = [TOOLS[name] for name in _chosen(tool, {name: tool.found for name, tool in TOOLS.items()})]
    chosen = [work for work in works.SETS[name](servers) if not corpus or work.corpus in corpus]
    report = run_works(name, chosen, tools, Places(cache, output), rounds=1 if smoke else rounds)
    typer.echo(report.read_text())


@app.command()
def report(results: Annotated[Path, typer.Argument(help="A results.json.")]) -> None:
    """Make the report and the plots of a run again."""
    write(json.loads(results.read_text()), results.parent)


@app.command()
def compare(
    old: Annotated[Path, typer.Argument(help="The results.json of the earlier run.")],
    new: Annotated[Path, typer.Argument(help="The results.json of the later run.")],
) -> None:
    """Exit with 1 if syncer's ratios to the others are worse than they were."""
    found = list(comparing.changes(json.loads(old.read_text()), json.loads(new.read_text())))
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
    trials: list[sweeping.Trial] = []
    with work_directory() as directory:
        try:
            for trial in sweeping.sweep(
                prepare(corpus, cache),
                registry,
                concurrency=_numbers(concurrency),
                chunk_mib=_numbers(chunk_mib),
                options=context.args,
                directory=directory,
            ):
                trials.append(trial)
                print(f"{trial.flags}: {trial.seconds:.2f} s, {trial.megabytes_per_second:.1f} MB/s", flush=True)
        except CommandFailed as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(1) from None
    output.mkdir(parents=True, exist_ok=True)
    (output / "sweep.json").write_text(json.dumps(sweeping.to_json(trials), indent=1) + "\n")
    (output / "sweep.svg").write_text(sweeping.plot(trials, registry))
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
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of numbers") from None


if __name__ == "__main__":
    app()
