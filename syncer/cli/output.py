"""Output of a command: the display or a log while it runs, and summaries, JSON and reports afterwards."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

import click
import orjson
from msgspec import Struct, field, structs

from syncer import __version__
from syncer.api.result import BuildResult, PushResult, RunOptions, new_run_id, to_all
from syncer.cli.display import Display, LiveDisplay, Mode, NoDisplay, PlainDisplay, Screen, drawing, wait_line
from syncer.cli.job import cause_of, code_of, code_of_signal
from syncer.cli.options import LogForm, OutputOptions
from syncer.errors import Exit, NameMissing, SyncerError, UsageError, without_secrets
from syncer.files import is_stream
from syncer.formats.text import find_lines
from syncer.formats.units import Shard
from syncer.report import Account, Report, human_bytes, human_seconds, printable, summary
from syncer.report.forecast import ForecastReport, plan_summary
from syncer.report.summary import (
    NO_NAMES,
    Failed,
    failure_lines,
    quantity,
    require_writable,
    shown,
    trouble,
    write_report,
    write_trace,
)
from syncer.transfer.events import Emit, Event

_PLACES_SHOWN = 5  # lines of lists


class _Ending(Struct):
    """The account of a run that has not ended yet, for the case that an error ends it."""

    account: Account  # of nothing but the time
    name: str | None = None  # of the job; None: no account is given of an error
    targets: tuple[str, ...] = ()
    report: Report | None = None  # how far it came, where the run has said that
    warned: dict[str, None] = field(default_factory=dict)  # what was said while it ran
    is_written: bool = False


class Reporter(Struct, frozen=True):
    """The output of one run, under the run's id."""

    options: OutputOptions
    command: str
    run_id: str
    emit: Emit
    warn: Callable[[str], None]
    expect: Callable[[int], None]  # how many images more than so far
    ending: _Ending
    names: Mapping[str, str] = NO_NAMES  # of hosts
    targets: tuple[str, ...] = ()  # registries, or the file that is written, in the metrics
    shard: str | None = None  # the share of a sync, in the metrics

    def run_options(self, concurrency: int) -> RunOptions:
        """The options of a job whose events come here."""
        return RunOptions(
            concurrency=concurrency,
            run_id=self.run_id,
            emit=self.emit,
            warn=self.warn,
            on_cut=self.cut,
        )

    def account_for(self, name: str) -> None:
        """Account from now on for an error that ends the job, which is called ``name`` and has these targets."""
        self.ending.name, self.ending.targets = name, self.targets

    def cut(self, report: Report, name: str) -> None:
        """Keep ``report`` of the run ``name`` that is being cut short; after a signal there is time for it only now."""
        self.ending.report = report
        if code_of_signal():
            self.write(report, profile=self.ending.name or name, code=Exit.INTERRUPTED)

    @contextmanager
    def accounting(self) -> Iterator[None]:
        """Write the files that the options name where an error ends the block, unless they are written by then.

        The account of a run that holds the lock, which is why this one ended, is left to that run.
        """
        try:
            yield
        except BaseException as error:
            ending, code = self.ending, code_of(error)
            if ending.name is None or ending.is_written or code is Exit.LOCKED:
                raise
            report = ending.report or ending.account.report()
            if isinstance(cause := cause_of(error), SyncerError):
                report = structs.replace(report, warnings=(*report.warnings, f"the run ended early: {cause}"))
            structs.replace(self, targets=ending.targets).write_all_the_same(report, profile=ending.name, code=code)
            raise

    def summarize(
        self,
        title: str,
        outcome: Sequence[str],
        report: Report,
        *,
        profile: str,
        code: Exit | None = None,
        lists: Sequence[Path] = (),
        may_be_partial: bool = False,
    ) -> None:
        """Print what a transfer did, as a summary or as JSON, and write the files that the options name.

        ``profile`` is the name of the job in reports and metrics; ``code`` is the exit code, if not the report's own.
        Hints name the lines of ``lists`` of images, and the flag for a bundle that ``may_be_partial``.  With JSON on
        standard output, failures are told on standard error.
        """
        report = self.sign(report, profile, code)
        self.write(report, profile=profile)  # first: they are there though nobody may read what is printed
        if self.options.json:
            print_json(report.to_json())
        if self.options.quiet:
            if report.exit_code:
                said = [*outcome, *trouble(self._unsaid(report), self.names)]
                click.echo(without_secrets("\n".join(said)), err=True)
        elif not self.options.json:
            told = summary(title, outcome, self._unsaid(report), self.names)
            click.echo(without_secrets(told), err=self.options.talks_on_stderr)
        if self.options.log is not None:
            return
        if self.options.json and not self.options.quiet:
            for line in failure_lines(report, self.names, least=2 if self.options.shows_progress else 1):
                click.echo(line, err=True)
        for hint in hints_of(report.images, lists, may_be_partial=may_be_partial):
            click.echo(f"hint: {hint}", err=True)

    def sign(self, report: Report, name: str, code: Exit | None = None) -> Report:
        """``report`` with this version and command, the ``name`` of the job, the exit code, and all warnings."""
        if report.version is not None:
            return report
        ended = code_of_signal() or (report.exit if code is None else code)
        warnings = tuple(dict.fromkeys((*self.ending.warned, *report.warnings)))
        origin = {"version": __version__, "command": self.command, "name": name, "exit_code": int(ended)}
        return structs.replace(report, warnings=warnings, targets=report.targets or self.targets, **origin)

    def _unsaid(self, report: Report) -> Report:
        """``report`` without the warnings that were said while the job ran."""
        return structs.replace(
            report, warnings=tuple(text for text in report.warnings if text not in self.ending.warned)
        )

    def write(self, report: Report, *, profile: str, code: Exit | None = None) -> None:
        """Write the files that the options name; raises ``TargetError``."""
        for write in self._writers(self.sign(report, profile, code), profile):
            write()

    def write_all_the_same(self, report: Report, *, profile: str, code: Exit) -> None:
        """Write them after an error that is told; where one cannot be written, that is a warning."""
        for write in self._writers(self.sign(report, profile, code), profile):
            try:
                write()
            except SyncerError as error:
                self.warn(str(error))

    def _writers(self, report: Report, profile: str) -> Iterator[Callable[[], None]]:
        self.ending.is_written = True
        if self.options.report:
            yield partial(write_report, self.options.report, report)
        if self.options.trace and report.timeline:
            yield partial(write_trace, self.options.trace, report.timeline, report.command, report.name)
        if self.options.metrics_file:
            write = metrics_writer()
            job = write.Job(profile=profile, command=self.command, targets=self.targets, shard=self.shard)
            code = Exit(report.exit_code or 0)
            yield partial(write.write_metrics, self.options.metrics_file, report, job, code=code)


def hints_of(images: Sequence[Failed], lists: Sequence[Path] = (), *, may_be_partial: bool = False) -> Iterator[str]:
    """The hints for the failures of a run, each once; of names that are not there, with their lines in ``lists``.

    Those are all files that say what is wanted.
    """
    yield from {image.error.hint: None for image in images if image.error and image.error.hint}
    missing = [image for image in images if isinstance(image.error, NameMissing)]
    wrong, causes = {image.source for image in missing}, {str(image.error) for image in missing}
    if not wrong:
        return
    places = [f"{path}:{line}" for path, line in find_lines(lists, wrong)]
    more = f" and {len(places) - _PLACES_SHOWN:,} more lines" if len(places) > _PLACES_SHOWN else ""
    where = (
        f"{', '.join(places[:_PLACES_SHOWN])}{more}" if places else ("the name" if len(causes) == 1 else "the names")
    )
    rest = (
        ", or publish the rest with --allow-partial"
        if may_be_partial and any(image.error is None for image in images)
        else ""
    )
    yield f"correct {where}{rest}"


def metrics_writer() -> ModuleType:
    """The functions that write metrics."""
    from syncer.report import metrics  # noqa: PLC0415  slow to import, rarely used

    return metrics


def require_outputs(options: OutputOptions) -> None:
    """Raise ``UsageError`` for a file of ``options`` that cannot be written, or that another option names as well."""
    context = click.get_current_context()
    outputs = {"report": options.report, "trace": options.trace, "metrics_file": options.metrics_file}
    for name, path in outputs.items():
        if path is None:
            continue
        require_writable(path)
        if is_stream(path):  # /dev/null, or a pipe
            continue
        for param in context.command.params:
            value = context.params.get(param.name)
            others = value if isinstance(value, tuple) else (value,)
            if param.name != name and any(isinstance(each, Path) and _is_same(each, path) for each in others):
                flags = f"--{name.replace('_', '-')} and by {param.opts[-1]}"
                raise UsageError(f"{path} is given by {flags}", hint="what is written needs a file of its own")


def _is_same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


@contextmanager
def open_reporter(
    options: OutputOptions,
    *,
    name: str | None = None,
    targets: Iterable[object] = (),
    shard: Shard | None = None,
    secrets: Iterable[str] = (),
    log: TextIO | None = None,
    names: Mapping[str, str] = NO_NAMES,
) -> Iterator[Reporter]:
    """Show the display, or a log on standard error, as long as the ``with`` block lasts; ``log`` is a further log.

    An error that ends the block is accounted for in the files that the options name, once the job has a ``name``, as
    reports and metrics call it.  ``targets`` and ``shard`` are labels of the metrics; ``secrets`` are shown in no log;
    ``names`` are what the user calls hosts.

    Raises ``UsageError`` for files that cannot be written, before the work and not after it.
    """
    require_outputs(options)
    run_id, command = new_run_id(), click.get_current_context().info_name or ""
    labels = tuple(map(str, targets))
    ending = _Ending(Account(run_id=run_id, fetches=False, sends=False), name, labels)
    share = str(shard) if shard else None
    make = partial(Reporter, ending=ending, names=names, targets=labels, shard=share)

    def noting(tell: Callable[[str], None]) -> Callable[[str], None]:
        def warn_once(text: str) -> None:
            if text not in ending.warned:
                ending.warned[text] = None
                tell(text)

        return warn_once

    besides = open_event_log(log, LogForm.TEXT, run_id, secrets).emit() if log else None
    if (form := options.log) is not None:
        events = open_event_log(sys.stderr, form, run_id, secrets, is_full=options.verbose > 1)
        reporter = make(options, command, run_id, to_all(events.emit(), besides), noting(events.warn), _ignore)
        with reporter.accounting():
            yield reporter
        return
    with open_display(sys.stderr, mode=Mode.AUTO if options.shows_progress else Mode.OFF) as display:
        display.names = names
        emit = to_all(display, besides)
        reporter = make(options, command, run_id, emit, noting(warn_above(display.screen)), display.expect)
        with reporter.accounting():
            yield reporter


class EventLog(Struct, frozen=True):
    """A log of events."""

    emit: Callable[..., Emit]  # makes who hears of events, whose lines have these fields as well
    tell: Callable[..., None]  # writes a line: its level, its event, and its fields

    def warn(self, text: str) -> None:
        """Write a warning."""
        self.tell("warning", "warning", message=text)


def open_event_log(
    stream: TextIO, form: LogForm, run_id: str, secrets: Iterable[str], *, is_full: bool = False
) -> EventLog:
    """Open a log on ``stream``, each line of which has ``run_id``, and none a secret.

    One that ``is_full`` has a line for each blob as well.
    """
    from syncer.log import LogFormat, log_events, open_log  # noqa: PLC0415  slow to import, rarely used

    level = logging.DEBUG if is_full else logging.INFO
    log = open_log(stream, run_id=run_id, format=LogFormat(form.value), level=level, secrets=secrets)
    return EventLog(
        emit=lambda **fields: log_events(log.bind(**fields)),
        tell=lambda level, event, **fields: getattr(log, level)(event, **fields),
    )


def warn(text: str) -> None:
    """Print a warning on stderr, about input that works and may be a mistake."""
    click.echo(f"warning: {printable(text)}", err=True)


def warn_above(screen: Screen | None) -> Callable[[str], None]:
    """Make a function like ``warn``, which prints above the view on ``screen``."""
    return warn if screen is None else lambda text: screen.say(f"warning: {printable(text)}")


def note(text: str) -> None:
    """Print a note on stderr, about a consequence of the options."""
    click.echo(f"note: {text}", err=True)


def size_line(built: BuildResult) -> str:
    """The line of a summary that tells the size of the file that was published."""
    padding = f", {human_bytes(built.padding)} of it padding" if built.padding else ""
    return f"file:    {human_bytes(built.size)}{padding}"


_SENT = {"push": "pushed", "copy": "copied"}


def sent_line(what: str, verb: str, place: str, report: Report) -> str:
    """Say that ``what`` was brought to ``place``, which is to ``push`` or to ``copy``, or how much of it was not."""
    failed, images = report.totals.images_failed, report.totals.images
    if not report.images:
        return f"{what} holds no image: there was nothing to {verb} to {place}"
    if failed and failed == images:
        every = "its only image" if images == 1 else f"all of its {images:,} images"
        return f"{what} was not {_SENT[verb]} to {place}: {every} failed"
    return f"{what} {_SENT[verb]} to {place}{_but(', but for', report)}"


def saved_line(what: str, place: Path, report: Report) -> str:
    """Say that ``what`` was saved to ``place``, and how much of it was not."""
    return f"{what} saved to {place.absolute()}{_but(', without', report)}"


def _but(word: str, report: Report) -> str:
    totals = report.totals
    failed = [f"{totals.images_failed:,} of its {quantity(totals.images, 'image')}"] if totals.images_failed else []
    if totals.referrers_failed:
        failed.append(quantity(totals.referrers_failed, "signature or referrer", "signatures and referrers"))
    return f"{word} {' and '.join(failed)}, which failed" if failed else ""


def push_outcome(result: PushResult, kind: str = "local") -> list[str]:
    """The lines of a summary about a bundle that was brought to a registry."""
    lines = [sent_line(f"{kind} bundle {result.bundle}", "push", result.registry, result.report)]
    if not result.report.images:
        return lines
    if there := result.assumed:
        lines.append(
            f"{quantity(there.blobs, 'piece')} of content, {human_bytes(there.bytes)}, were there as the delta says; "
            f"to ask took {human_seconds(there.seconds)}"
        )
    if result.definition:
        lines.append(f"definition pushed to {result.definition}")
    elif result.problem:
        lines.append(_definition_problem(result.problem))
    else:
        lines.append("its definition was not pushed, since not everything is there")
    return lines


def summarize_push(
    reporter: Reporter, title: str, result: PushResult, *, kind: str = "local", more: Sequence[str] = ()
) -> None:
    """Print what was brought to a registry; a definition that could not be pushed is told with ``--json`` as well."""
    outcome = [*push_outcome(result, kind), *more]
    reporter.summarize(title, outcome, result.report, profile=result.bundle, code=result.exit)
    if result.problem and reporter.options.json:
        reporter.warn(_definition_problem(result.problem))


def _definition_problem(problem: SyncerError) -> str:
    hint = f" ({problem.hint})" if problem.hint else ""
    return f"its definition could not be pushed: {printable(str(problem))}{hint}"


def _ignore(_: object) -> None:
    """Do nothing: a log shows no number of images."""


def tell_waits(options: OutputOptions, secrets: Iterable[str] = ()) -> Emit | None:
    """Make who says on standard error what holds requests up, of a command without a view; None: nobody is to."""
    if (form := options.log) is not None:
        return open_event_log(sys.stderr, form, new_run_id(), secrets).emit()
    if not options.shows_progress:
        return None

    def tell(event: Event) -> None:
        if line := wait_line(event):
            click.echo(line, err=True)

    return tell


def print_json(document: Any) -> None:
    """Print one document on stdout."""
    click.echo(orjson.dumps(shown(document), option=orjson.OPT_INDENT_2).decode())


@contextmanager
def open_display(stream: TextIO, *, mode: Mode = Mode.AUTO) -> Iterator[Display]:
    """Show a display on ``stream``, standard error as a rule, as long as the ``with`` block lasts."""
    with open_screen(stream, mode) as screen:
        display: Display = NoDisplay() if mode is Mode.OFF else PlainDisplay(stream)
        if screen is not None:
            display = LiveDisplay(screen)
        with drawing(display):
            yield display


@contextmanager
def open_screen(stream: TextIO, mode: Mode = Mode.AUTO) -> Iterator[Screen | None]:
    """Open ``stream`` as a screen as long as the ``with`` block lasts; None where no view is to be drawn on it.

    Colours follow ``NO_COLOR``; a dumb terminal is no screen.
    """
    if mode is Mode.AUTO and stream.isatty() and os.environ.get("TERM") != "dumb":
        mode = Mode.LIVE
    if mode is not Mode.LIVE:
        yield None
        return
    from syncer.cli.live import TerminalScreen  # noqa: PLC0415  rich is slow to import, and few runs are watched

    screen = TerminalScreen(stream)
    try:
        yield screen
    finally:
        screen.clear()


def print_plan(report: ForecastReport, options: OutputOptions, *, exit_code: bool, lists: Sequence[Path] = ()) -> Exit:
    """Print what a transfer would do; with ``exit_code`` the result says whether there is work.

    Hints name the lines of ``lists``.
    """
    if options.report:
        write_report(options.report, report)
    if options.json:
        print_json(report.to_json())
    else:
        click.echo(without_secrets(plan_summary(report)), err=options.talks_on_stderr)
    for hint in hints_of(report.images, lists):
        click.echo(f"hint: {hint}", err=True)
    return report.exit(tell_work=exit_code)
