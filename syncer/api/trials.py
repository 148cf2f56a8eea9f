"""Trials of options in turns, and what they prove.

Each setting is tried in turn, round after round, in an order that changes, so that a link that drifts favours none.
What seems faster than no option at all is then tried beside that once more, turn and turn about; only those trials
decide, since the best of many settings is by chance alone better than it is.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeAlias

from msgspec import Struct, structs

from syncer.errors import Exit, SyncerError
from syncer.registry import RegistrySettings
from syncer.registry.download import SPREAD_FROM
from syncer.registry.upload_session import CHUNK_SIZE
from syncer.report import human_bytes, human_seconds
from syncer.report.figures import instant
from syncer.report.summary import quantity

_MIB = 1024 * 1024
_CONCURRENCY = (4, 8, 16, 32, 64, 128)
_CHUNKS = (4 * _MIB, 64 * _MIB)
_RANGES = (1, 32)
LEAST_LAYER = {"--chunk-size": 2 * _CHUNKS[0], "--ranges": SPREAD_FROM}
"""The bytes of a layer from which on an option makes a difference."""

_SMALL_IMAGE = 16  # layers
_TINY = 2048  # bytes

_ROUNDS = 5  # in which settings are tried, at most
_EXPLORING = 0.6  # of the time, at most
_PAIRS, _LEAST_PAIRS = 8, 4  # of trials that decide; three are by chance alone in order once in 20 times
GAIN = 1.05
"""The ratio of two throughputs from which on the one is a gain."""
_AMPLE = 1.5  # times the time that is needed
_MUCH = 1.5  # times as slow as the default, in a single trial
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_MANY = 7  # results, of which the highest and the lowest are left out


class Throttled(SyncerError):
    """The registry asked for a pause, so that nothing more can be measured."""


class Stopped(SyncerError):
    """Ctrl-C or a signal ended the trials."""

    exit = Exit.INTERRUPTED


class Setting(Struct, frozen=True):
    """Options of a push or a pull; None is what they are without a flag."""

    concurrency: int | None = None
    chunk_size: int | None = None  # bytes of an upload in one request
    ranges: int | None = None  # connections for one large blob

    @property
    def flags(self) -> str:
        """The flags for it; none for the default."""
        given = {
            "--concurrency": self.concurrency,
            "--chunk-size": self.chunk_size and f"{self.chunk_size // _MIB}MiB",
            "--ranges": self.ranges,
        }
        return " ".join(f"{flag} {value}" for flag, value in given.items() if value is not None)

    @property
    def of_push(self) -> Setting:
        """The part of it that makes a difference to a push."""
        return Setting(self.concurrency, self.chunk_size)

    @property
    def of_pull(self) -> Setting:
        """The part of it that makes a difference to a pull."""
        return Setting(self.concurrency, ranges=self.ranges)

    def applied_to(self, settings: RegistrySettings) -> RegistrySettings:
        """``settings`` with these options."""
        given = {"requests_per_host": self.concurrency, "ranges": self.ranges}
        limits = structs.replace(settings.transport.limits, **{k: v for k, v in given.items() if v is not None})
        transport = structs.replace(settings.transport, limits=limits)
        return structs.replace(settings, transport=transport, chunk_size=self.chunk_size or settings.chunk_size)

    def __str__(self) -> str:
        return self.flags or "no flag"


DEFAULT = Setting()
"""No flag."""


class Way(StrEnum):
    """The directions in which content goes."""

    PUSH = "push"
    PULL = "pull"

    def part(self, setting: Setting) -> Setting:
        """The part of ``setting`` that makes a difference to it."""
        return setting.of_push if self is Way.PUSH else setting.of_pull


class Trial(Struct, frozen=True):
    """A push and a pull of the same content, each in bytes a second."""

    push: float
    pull: float
    retries: int = 0  # of requests

    def rate(self, way: Way) -> float:
        """The bytes a second of one of the two."""
        return self.push if way is Way.PUSH else self.pull


class Rates(Struct, frozen=True):
    """The bytes a second of several trials, of which there is one at least."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The one in the middle."""
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest; of many the second lowest and the second highest."""
        ordered, out = sorted(self.values), len(self.values) >= _MANY
        return ordered[out], ordered[-1 - out]

    def is_above(self, other: Rates) -> bool:
        """Tell whether it is faster by more than the spread of both, and by more than a twentieth."""
        return self.spread[0] > other.spread[1] and self.median >= GAIN * other.median

    def to_json(self) -> dict[str, Any]:
        least, most = self.spread
        rounded = {"bytes_per_second": self.median, "least": least, "most": most}
        return {name: round(value) for name, value in rounded.items()} | {"trials": len(self.values)}


def in_turn(settings: Sequence[Setting], number: int) -> list[Setting]:
    """The order of ``settings`` in the round ``number``: every second one is backwards, and each pair begins elsewhere.

    >>> [[setting.concurrency for setting in in_turn([Setting(1), Setting(2), Setting(3)], n)] for n in range(3)]
    [[1, 2, 3], [3, 2, 1], [2, 3, 1]]
    """
    start = number // 2 % len(settings)
    turned = [*settings[start:], *settings[:start]]
    return turned[::-1] if number % 2 else turned


Attempt: TypeAlias = Callable[[Setting, Setting], Awaitable[Trial]]
"""A push by the one setting, and a pull by the other."""


class Search:
    """The trials of some settings beside the default, and what they say.

    ``attempt`` makes one, and ``spent`` tells the part of all that may be spent, of time or of bytes, that is spent.
    """

    def __init__(self, settings: Sequence[Setting], attempt: Attempt, spent: Callable[[], float]) -> None:
        self.settings = (DEFAULT, *settings)
        self.seen: dict[tuple[Way, Setting], list[float]] = defaultdict(list)
        self.retries: dict[Setting, int] = defaultdict(int)
        self.finalists: dict[Way, Setting] = {}  # what seemed faster than the default
        self.decided: dict[Way, tuple[Rates, Rates]] = {}  # of the default, and of the finalist
        self.is_whole = False  # everything was tried as often as it takes
        self._attempt = attempt
        self._spent = spent
        self._last = 0.0  # the part that the last trial took

    async def run(self) -> None:
        """Try all settings, and the best once more; what ``attempt`` raises ends it, and what was found stays."""
        self.is_whole = await self._explore()
        for way in Way:
            if best := self._best(way):
                self.finalists[way] = best
        if self.finalists:
            self.is_whole &= await self._decide()

    def rates(self, way: Way, setting: Setting) -> Rates | None:
        """All results of ``setting``; None without any."""
        found = self.seen.get((way, way.part(setting)))
        return Rates(tuple(found)) if found else None

    def advice(self, way: Way) -> Setting:
        """The setting that is proven to be faster than the default; else the default."""
        if way not in self.decided:
            return DEFAULT
        default, finalist = self.decided[way]
        return self.finalists[way] if finalist.is_above(default) else DEFAULT

    async def _explore(self) -> bool:
        """Whether each setting was tried twice, but for those that were seen to be slow at once."""
        running = list(self.settings)
        for number in range(_ROUNDS):
            for setting in in_turn(running, number):
                if self._spent() + self._last >= (_EXPLORING if number > 1 else 1.0):
                    return number > 1
                await self._try(setting.of_push, setting.of_pull)
            much = GAIN if number else _MUCH
            running = [each for each in running if each == DEFAULT or not self._is_slow(each, much)]
            if len(running) == 1 and number:
                break
        return True

    def _is_slow(self, setting: Setting, much: float) -> bool:
        """Whether each result of ``setting`` is slower than the worst of the default, by so ``much``."""
        pairs = [(self.rates(way, setting), self.rates(way, DEFAULT)) for way in Way if way.part(setting) != DEFAULT]
        return all(own and usual and much * max(own.values) < min(usual.values) for own, usual in pairs)

    def _best(self, way: Way) -> Setting | None:
        """The best value of each option that seems to bring more than the default; None without any."""
        usual = self.rates(way, DEFAULT)
        best: dict[str, tuple[float, int]] = {}
        for setting in self.settings:
            part = way.part(setting)
            rates = self.rates(way, part)
            if part == DEFAULT or usual is None or rates is None or rates.median < GAIN * usual.median:
                continue
            for name, value in structs.asdict(part).items():
                if value is not None and (rates.median, value) > best.get(name, (0.0, 0)):
                    best[name] = rates.median, value
        return Setting(**{name: value for name, (_, value) in best.items()}) if best else None

    async def _decide(self) -> bool:
        """Try the finalists beside the default; whether often enough."""
        of_default: list[Trial] = []
        of_finalists: list[Trial] = []
        push, pull = (self.finalists.get(way, DEFAULT) for way in Way)
        for number in range(_PAIRS):
            if self._spent() + 2 * self._last > 1:
                break
            for is_default in (True, False) if number % 2 else (False, True):
                if is_default:
                    of_default.append(await self._try(DEFAULT, DEFAULT))
                else:
                    of_finalists.append(await self._try(push, pull))
        if len(of_default) < _LEAST_PAIRS:
            return False
        for way in self.finalists:
            both = (Rates(tuple(trial.rate(way) for trial in trials)) for trials in (of_default, of_finalists))
            default, finalist = both
            self.decided[way] = default, finalist
        return True

    async def _try(self, push: Setting, pull: Setting) -> Trial:
        before = self._spent()
        trial = await self._attempt(push, pull)
        self._last = self._spent() - before
        self.seen[Way.PUSH, push].append(trial.push)
        self.seen[Way.PULL, pull].append(trial.pull)
        if trial.retries:
            self.retries[push] += trial.retries
        return trial


class Mix(StrEnum):
    """The kinds of content that may be sent."""

    MIXED = "mixed"  # a large layer, one of some size, and many small ones
    SMALL = "small"  # many layers of some kilobytes
    LARGE = "large"  # a few large layers

    def largest(self, size: int) -> int:
        """The bytes of the largest layer of ``size`` bytes in all."""
        return max(layer for image in self.layers(size) for layer in image)

    def blobs(self, size: int) -> int:
        """The number of blobs in ``size`` bytes: all layers, and the config of each image."""
        return sum(len(image) + 1 for image in self.layers(size))

    def layers(self, size: int) -> list[list[int]]:
        """The sizes of the layers of each image, of about ``size`` bytes in all."""
        match self:
            case Mix.MIXED:
                small = _varied(size * 5 // 16, _number(size, 256 * 1024, 128, 512))
                return [*_cut(small), [max(1, size * 2 // 16), max(1, size * 9 // 16)]]
            case Mix.SMALL:
                return list(_cut(_varied(size, _number(size, 32 * 1024, 256, 1024))))
            case Mix.LARGE:
                return [[max(1, size * 9 // 16)], *([max(1, size // 16)] for _ in range(7))]


def _number(size: int, mean: int, least: int, most: int) -> int:
    """The number of layers of ``mean`` bytes in ``size``, within limits, unless they would be tiny."""
    return max(1, min(max(size // mean, least), most, size // _TINY))


def _varied(size: int, count: int) -> list[int]:
    """Split ``size`` bytes into ``count`` sizes between a quarter of the mean and seven quarters."""
    mean = size / count
    return [max(1, int(mean * (0.25 + 1.5 * (number + 0.5) / count))) for number in range(count)]


def _cut(sizes: Sequence[int]) -> Iterator[list[int]]:
    images = -(-len(sizes) // _SMALL_IMAGE)
    return (list(sizes[number::images]) for number in range(images))


def candidates(largest: int, blobs: int, *, kept: Collection[str] = ()) -> list[Setting]:
    """The settings to try where the ``largest`` layer has so many bytes, and a push so many ``blobs``: one option each.

    Options that are ``kept`` as they were given are not tried, nor more connections than there are blobs.
    """
    numbers = [number for number in _CONCURRENCY if number <= blobs and "--concurrency" not in kept]
    ways = _RANGES if "--ranges" not in kept and largest > LEAST_LAYER["--ranges"] else ()
    chunks = [size for size in _CHUNKS if largest > 2 * min(size, CHUNK_SIZE)]
    return [
        *(Setting(concurrency=number) for number in numbers),
        *(Setting(chunk_size=size) for size in chunks),
        *(Setting(ranges=number) for number in ways),
    ]


class Tuning(Struct, frozen=True, kw_only=True):
    """The findings of all trials at a registry."""

    registry: str
    repository: str  # that the content was sent to
    started: datetime
    seconds: float
    mix: Mix
    kept: tuple[str, ...] = ()  # options that were given, and so not tried
    size: int  # bytes of one push
    sent: int  # bytes, of all
    is_short_of_bytes: bool = False  # whether the bytes that might be sent were spent sooner than the time
    search: Search
    ended: SyncerError | None  # why it ended early
    code: Exit | None = None  # of the signal that ended it
    left: str | None  # what stays at the registry; None: nothing

    @property
    def exit(self) -> Exit:
        """The exit code: that of the signal or the error that ended it; a registry that throttles is no error."""
        if self.code:
            return self.code
        return Exit.OK if self.ended is None or isinstance(self.ended, Throttled) else self.ended.exit

    @property
    def advice(self) -> str:
        """The flags to use, in a sentence."""
        if isinstance(self.ended, Throttled):
            return f"no flag is needed: {self.ended}, and without one syncer keeps to what it takes"
        if self.ended is not None:
            return "the trials ended early, so no flag is advised"
        proven = {way: setting for way in Way if (setting := self.search.advice(way)) != DEFAULT}
        if not proven:
            return self._nothing_proven()
        told = [
            f"{setting.flags} to {way.value}, {self._times(way):.2f} times as fast as without"
            for way, setting in proven.items()
        ]
        others = [f"; to {way.value}, no flag is needed" for way in Way if way not in proven]
        return f"use {' and '.join(told)}{''.join(others)}"

    def _nothing_proven(self) -> str:
        if len(self.search.settings) == 1 and self.search.is_whole:
            return f"no flag is advised, since there was none to try but {self.untried}"
        if not self.search.is_whole:
            if self.is_short_of_bytes:
                return "too few bytes might be sent to tell whether a flag helps; allow more with --max-bytes"
            more = f"give more with --time, such as --time {self._minutes_needed}m"
            return f"there was too little time to tell whether a flag helps; {more}"
        if seemed := [way for way in self.search.decided if self._times(way) >= GAIN]:
            told = " and ".join(f"{self.search.finalists[way].flags} to {way.value}" for way in seemed)
            more = "more --max-bytes" if self.is_short_of_bytes else "a longer --time"
            return f"no flag is proven to help: {told} seemed faster, but within the spread (try {more})"
        return "no flag is needed: the default is as fast as anything tried (within the spread)"

    @property
    def _minutes_needed(self) -> int:
        """The minutes in which each setting can be tried twice, and the best beside the default."""
        made = sum(len(found) for (way, _), found in self.search.seen.items() if way is Way.PUSH) or 1
        wanted = 2 * len(self.search.settings) + 2 * _LEAST_PAIRS
        return math.ceil(_AMPLE * wanted * self.seconds / made / 60)

    def _times(self, way: Way) -> float:
        """The finalist's throughput divided by that of the default, in the trials that decide."""
        default, finalist = self.search.decided[way]
        return finalist.median / default.median

    def to_json(self) -> dict[str, Any]:
        rows = []
        for setting in self.settings:
            rates = {way.value: self.search.rates(way, setting) for way in Way if self.is_of(way, setting)}
            rows.append(
                {"flags": setting.flags, **structs.asdict(setting), "retries": self.search.retries[setting]}
                | {way: found.to_json() for way, found in rates.items() if found}
            )
        return {
            "kind": "tune",
            "registry": self.registry,
            "repository": self.repository,
            "started": instant(self.started),
            "seconds": round(self.seconds, 1),
            "exit_code": int(self.exit),
            "content": {"mix": self.mix.value, "bytes": self.size},
            "bytes_sent": self.sent,
            "settings": rows,
            "flags": {way.value: self.search.advice(way).flags for way in Way},
            "advice": self.advice,
            "untried": self.untried,
            "ended_early": str(self.ended) if self.ended else None,
            "left": self.left,
        }

    @property
    def has_results(self) -> bool:
        """True when something was tried that counts."""
        return self.search.rates(Way.PUSH, DEFAULT) is not None

    @property
    def untried(self) -> str | None:
        """The options that were not tried since a push has too few blobs or too small layers; None without any."""
        largest, blobs = self.mix.largest(self.size), self.mix.blobs(self.size)
        more = [str(number) for number in _CONCURRENCY if number > blobs and "--concurrency" not in self.kept]
        told = [f"--concurrency {more[0]}, for which a push must have as many blobs, and not {blobs}"] if more else []
        if len(more) > 1:
            told[0] = told[0].replace(",", " and more,", 1)
        open_ = {flag: least for flag, least in LEAST_LAYER.items() if flag not in self.kept}
        if lacking := {flag: human_bytes(least) for flag, least in open_.items() if largest <= least}:
            told.append(
                f"{' and '.join(lacking)}, for which a layer must have more than {' and '.join(lacking.values())}"
            )
        return "; ".join(told) or None

    @property
    def settings(self) -> list[Setting]:
        """The settings to try: no flag, one option after the other, and those together that seemed to help."""
        return list(dict.fromkeys((*self.search.settings, *self.search.finalists.values())))

    def is_of(self, way: Way, setting: Setting) -> bool:
        """Tell whether ``setting`` is one of ``way``, and has no option for the other one alone."""
        return way.part(setting) == setting


def lines_of(found: Tuning) -> Iterator[str]:
    """The lines for people: each setting with its results, in a table of 80 columns at most, and the flags to use."""
    layers = [size for image in found.mix.layers(found.size) for size in image]
    yield f"registry:  {found.registry}"
    yield (
        f"content:   {human_bytes(found.size)} in {quantity(len(layers), 'layer')}, the largest of "
        f"{human_bytes(max(layers))}"
    )
    yield f"sent:      {human_bytes(found.sent)} in {human_seconds(found.seconds)}"
    if found.has_results:
        yield from ("", *_table(found), "")
    if told := [f"{count:,} by {setting}" for setting, count in found.search.retries.items() if count]:
        yield f"retries:   {', '.join(told)}"
    if found.untried and found.has_results:
        yield f"not tried: {found.untried}"
    if found.left:
        yield f"left:      {found.left}"
    else:
        yield "removed:   all that was sent; its blobs go with the garbage collection of the registry"
    yield f"advice:    {found.advice}"


def _table(found: Tuning) -> Iterator[str]:
    """The results of each setting, in a column for each way, which has one unit."""
    columns = [
        [found.search.rates(way, each) if found.is_of(way, each) else None for each in found.settings] for way in Way
    ]
    heads, cells = ["median (from-to)"], [[str(each) for each in found.settings]]
    for way, column in zip(Way, columns, strict=True):
        unit = human_bytes(max(rates.spread[1] for rates in column if rates)).rpartition(" ")[2]
        heads.append(f"{way.value}, {unit}/s")
        cells.append([_cell(rates, 1000 ** _UNITS.index(unit)) for rates in column])
    tried = [max((len(rates.values) for rates in both if rates), default=0) for both in zip(*columns, strict=True)]
    rows = [(*heads, "trials"), *(row for row in zip(*cells, map(str, tried), strict=True) if row[-1] != "0")]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _cell(rates: Rates | None, scale: float) -> str:
    if rates is None:
        return "-"
    median, least, most = (_three_digits(rate / scale) for rate in (rates.median, *rates.spread))
    return f"{median} ({least}-{most})" if len(rates.values) > 1 else median


def _three_digits(number: float) -> str:
    return f"{number:.{2 if number < 9.995 else 1 if number < 99.95 else 0}f}"
